//! How many files and sockets the process may have open, and how many a configuration can need.
//!
//! The soft limit a shell or a supervisor gives is often 1024, and there for programs that use
//! `select`. Too few descriptors are worse than a refused start: at the limit RocksDB cannot open the
//! file of a flush, and may then take no more writes until a restart.

use std::io;

use rlimit::Resource;
use thiserror::Error;

use crate::config::Config;
use crate::store::settings::OPEN_FILES_MAX;

/// For what is neither a client nor a table of RocksDB: log segments, listeners, standard streams, and
/// RocksDB's own few and those it writes in the background.
const RESERVE: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "connections_max = {connections_max} needs {needed} open files, but the limit is {limit}; set \
     connections_max to at most {fit}, or raise the limit (ulimit -Hn, LimitNOFILE=)"
)]
pub struct TooFewDescriptors {
    pub connections_max: u64,
    /// With those of the database and a reserve.
    pub needed: u64,
    pub limit: u64,
    /// Connections that fit; 0 when not even the rest does.
    pub fit: u64,
}

/// Raises this process's soft limit of open files to the hard one, and returns it.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = Resource::NOFILE.get()?;
    if soft < hard {
        Resource::NOFILE.set(hard, hard)?;
    }
    Ok(hard)
}

/// Descriptors a server needs besides those of its clients.
pub const fn needed_without_clients() -> u64 {
    OPEN_FILES_MAX as u64 + RESERVE
}

/// Whether a server with this configuration fits under a limit, alone in its process.
pub fn check(config: &Config, limit: u64) -> Result<(), TooFewDescriptors> {
    let connections_max = config.connections_max as u64;
    let needed = connections_max + needed_without_clients();
    if needed <= limit {
        return Ok(());
    }
    let fit = limit.saturating_sub(needed_without_clients());
    Err(TooFewDescriptors { connections_max, needed, limit, fit })
}
