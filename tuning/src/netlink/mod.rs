//! What only netlink knows: a card's channels, coalescing and queueing, the route's retransmission
//! minimum, and live sockets.
//!
//! One request, its answers, done: the sockets are blocking and live for one call.

pub mod channels;
pub mod coalescing;
mod exchange;
pub mod queueing;
pub mod route;
pub mod sockets;
