//! The data plane: holds device connections and gets messages to them.
//!
//! In reading order:
//!
//! | module | what it is |
//! |---|---|
//! | [`core`] | what is decided: sessions, delivery, fan-out; pure, no sockets, no clock |
//! | [`shard`] | the turn: the one page with everything the data plane does |
//! | [`io`] | the edge to the kernel: `trait Io`, the rings, and their simulated twin |
//! | [`metrics`] | the table of counters |
//! | [`config`] | the file, key by key |
//! | [`plan`] | what a configuration comes to on this machine |
//! | [`listeners`] | one per shard and address, with what accepted sockets inherit |
//! | [`steering`] | connections go to the shard whose processor receives them |
//! | [`server`] | threads, signals, the drain |
//! | [`cpus`] | what the kernel does on each CPU beside the shards |
//! | [`admin`] | `/metrics`, `/health`, `/plan` |
//!
//! Shards do not know each other: each has a thread, its own listeners, rings, sessions and links.

pub mod admin;
pub mod config;
pub mod core;
pub mod cpus;
pub mod io;
pub mod listeners;
pub mod metrics;
pub mod plan;
pub mod server;
pub mod shard;
pub mod steering;
