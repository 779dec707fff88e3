//! hawser's wire formats: bytes to values and back, and the device's half of the protocol. No IO.
//!
//! Read in this order:
//!
//! ```text
//! limits   every wire maximum, with its reason
//! error    what a peer can do wrong, and why a connection ends
//! cursor   the only index arithmetic: a reader that is consumed, a writer that appends
//! frame    [type u8][length varint][body], and the resumable framer
//! ids      one newtype per identifier; the keyed hashes that make devices and topics numbers
//! ticket   the signed permission to connect
//! device   frames between a device and a broker
//! link     frames between a broker's shard and a control node
//! session  the device's side as a state machine: connect, pull, acknowledge, reconnect
//! ```
//!
//! The bytes are specified in `PROTOCOL.md`; golden tests hold that page and this code together.
//!
//! Invariants: decoding never panics and does not allocate (but for a `Close` with addresses and a
//! key set), decoded values borrow from the input, every integer has one encoding only, and
//! `decode(encode(x)) == x`.

#![forbid(unsafe_code)]

pub mod limits;

pub mod error;

pub mod cursor;

pub mod frame;

pub mod ids;

pub mod ticket;

pub mod device;

pub mod link;

pub mod session;
