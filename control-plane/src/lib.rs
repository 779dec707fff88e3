//! hawser's control plane: keeps messages durable and finds the shard that holds a device.
//!
//! ```text
//! records   names and bytes of everything in the store
//! node      what a control node decides: events and the time in, actions out
//! ```

#![forbid(unsafe_code)]

pub mod records;

pub mod node;
