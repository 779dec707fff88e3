//! Ports for the processes of a play.
//!
//! They must survive a restart: a killed broker comes back under the same port while thousands of
//! devices dial it. A port from the ephemeral range would not: the kernel could give it to one of
//! those very dials. So ports are taken from below that range: the documented ones when they are
//! free, else others that differ between plays.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Above the ports of common servers and below Linux's usual ephemeral range, 32768-60999.
const FIRST: u16 = 10_240;
const COUNT: u16 = 20_000;

/// Hands out loopback ports, each once.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    given: Vec<u16>,
}

impl Ports {
    /// Plays of different processes start at different places.
    pub fn of_this_process() -> Ports {
        Ports {
            next: (std::process::id().wrapping_mul(61) % u32::from(COUNT)) as u16,
            given: Vec::new(),
        }
    }

    /// This port if it is free, else any.
    pub fn preferably(&mut self, port: u16) -> anyhow::Result<SocketAddr> {
        if self.take(port) { Ok(loopback(port)) } else { self.any() }
    }

    pub fn any(&mut self) -> anyhow::Result<SocketAddr> {
        for _ in 0..COUNT {
            let port = FIRST + self.next;
            self.next = (self.next + 1) % COUNT;
            if self.take(port) {
                return Ok(loopback(port));
            }
        }
        bail!("no free port on 127.0.0.1 between {FIRST} and {}", FIRST + COUNT);
    }

    fn take(&mut self, port: u16) -> bool {
        let free = !self.given.contains(&port) && TcpListener::bind(loopback(port)).is_ok();
        if free {
            self.given.push(port);
        }
        free
    }
}

/// How long the kernel may take to close what a killed process had open.
const FREED_TIMEOUT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until nobody listens there any more. The descriptors of an io_uring are closed by the
/// kernel some time after their process is gone.
pub async fn freed(address: SocketAddr) -> anyhow::Result<()> {
    let start = Instant::now();
    while TcpListener::bind(address).is_err() {
        if start.elapsed() > FREED_TIMEOUT {
            bail!("somebody else listens on {address} now");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
