//! The control node as it runs: the real process, its store and its links. One binary, because each
//! one that is linked with the store's engine costs seconds and a hundred megabytes.

mod client;
mod control;
mod raw;
mod redis;
mod running;
mod shard;

mod api;
mod api_bounds;
mod links;
mod start_stop;
mod store;
