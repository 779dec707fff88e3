//! hawser's control plane: keeps messages durable and finds the shard that holds a device.
//!
//! ```text
//! records   names and bytes of everything in the store
//! node      what a control node decides: events and the time in, actions out
//! cli       the operator's command line;  play: a whole system on one machine
//! ```

#![forbid(unsafe_code)]

pub mod records;

pub mod node;

pub mod cli;

pub mod play;
