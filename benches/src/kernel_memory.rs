//! What the kernel holds, by cache of its slab allocator. A cache's bytes are its objects in use,
//! each with its share of what the slabs waste, so that they do not depend on how full the slabs
//! happen to be.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};

const SETTLE_EVERY: Duration = Duration::from_millis(200);
const SETTLE_LOOKS: u32 = 600;

/// Bytes and objects by cache.
#[derive(Clone, Debug, Default)]
pub struct Slabs {
    caches: BTreeMap<String, Cache>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cache {
    pub objects: f64,
    pub bytes: f64,
}

impl Slabs {
    pub fn read() -> anyhow::Result<Slabs> {
        let text = std::fs::read_to_string("/proc/slabinfo")
            .context("/proc/slabinfo is for root only; it is where kernel memory is read")?;
        let page_bytes = 4096.0;
        let mut caches = BTreeMap::new();
        for line in text.lines().skip(2) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| -> anyhow::Result<f64> {
                Ok(words.get(at).context("a column of /proc/slabinfo")?.parse()?)
            };
            let (objects, per_slab, pages) = (number(1)?, number(4)?, number(5)?);
            let bytes = objects * pages * page_bytes / per_slab;
            caches.insert(words[0].to_owned(), Cache { objects, bytes });
        }
        Ok(Slabs { caches })
    }

    /// TCP sockets of all namespaces.
    pub fn sockets(&self) -> f64 {
        self.caches.get("TCP").map_or(0.0, |tcp| tcp.objects)
    }

    /// The same once the number of sockets stands still: those of a process that has ended go one by
    /// one, a minute for five millions.
    pub fn settled() -> anyhow::Result<Slabs> {
        let mut before = Slabs::read()?;
        for _ in 0..SETTLE_LOOKS {
            std::thread::sleep(SETTLE_EVERY);
            let now = Slabs::read()?;
            if (now.sockets() - before.sockets()).abs() < 20.0 {
                return Ok(now);
            }
            before = now;
        }
        bail!(
            "sockets come and go on this machine, so that none can be counted: what else runs here?"
        )
    }

    /// What was added since `before`, per connection, in the caches that connections can be in:
    /// those of files on disk and of `/proc` come and go with other processes. A cache that grew by
    /// less than an object for every two connections is left out as well.
    pub fn per_connection(&self, before: &Slabs, connections: u32) -> BTreeMap<String, Cache> {
        let connections = f64::from(connections);
        let mut grown: BTreeMap<String, Cache> = self
            .caches
            .iter()
            .map(|(name, after)| {
                let before = before.caches.get(name).copied().unwrap_or_default();
                let objects = (after.objects - before.objects) / connections;
                let bytes = (after.bytes - before.bytes) / connections;
                (name.clone(), Cache { objects, bytes })
            })
            .filter(|(name, cache)| is_of_connections(name) && cache.objects > 0.5)
            .collect();
        // A socket has one of each. What is above is of whoever lists /proc/PID/fd meanwhile.
        let sockets = grown.get("sock_inode_cache").map_or(0.0, |cache| cache.objects);
        for name in ["dentry", "lsm_inode_cache"] {
            if let Some(cache) = grown.get_mut(name).filter(|cache| cache.objects > sockets) {
                cache.bytes *= sockets / cache.objects;
                cache.objects = sockets;
            }
        }
        grown
    }
}

fn is_of_connections(cache: &str) -> bool {
    const NAMES: [&str; 8] =
        ["TCP", "sock", "filp", "dentry", "lsm_", "io_kiocb", "request_sock", "tcp_bind"];
    const SHARED: [&str; 4] = ["kmalloc-", "skbuff_", "eventpoll_", "ep_head"];
    NAMES.iter().chain(&SHARED).any(|prefix| cache.starts_with(prefix))
}
