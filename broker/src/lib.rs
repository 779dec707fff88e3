//! The data plane: holds device connections and gets messages to them.
//!
//! In reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`core`] | what is decided: sessions, delivery, fan-out; pure, no sockets, no clock |
//! | [`metrics`] | the table of counters |
//! | [`io`] | the edge to the kernel: `trait Io`, the rings, and their simulated twin |
//! | [`shard`] | the shell that joins them, and its turn |
//!
//! Shards do not know each other: each has a thread, its own listeners, rings, sessions and links.

pub mod core;
pub mod io;
pub mod metrics;
pub mod shard;
