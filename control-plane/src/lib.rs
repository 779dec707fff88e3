//! hawser's control plane: keeps messages durable and finds the shard that holds a device.
//!
//! ```text
//! records   names and bytes of everything in the store
//! node      what a control node decides: events and the time in, actions out
//! store     executes the node's operations over RESP;  embedded: the store inside the process
//! link      the brokers' side: handshake, frames
//! app       the task that owns the node and joins all of these
//! api       the apps' and the operator's side: HTTP
//! server    starts and stops the process;  config, secrets: what it is started with
//! cli       the operator's command line;  play: a whole system on one machine
//! ```
//!
//! apps, clock, metrics and nearest are small and named for what they are.

#![forbid(unsafe_code)]

pub mod records;

pub mod node;

pub mod embedded;
pub mod store;

pub mod link;

pub mod app;
pub mod apps;

pub mod api;

pub mod config;
pub mod secrets;
pub mod server;

pub mod clock;
pub mod metrics;
pub mod nearest;

pub mod cli;

pub mod play;
