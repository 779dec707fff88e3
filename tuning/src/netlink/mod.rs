//! What only netlink knows: a card's channels, the route's retransmission minimum, and live sockets.
//!
//! One request, its answers, done: the sockets are blocking and live for one call.

pub mod channels;
mod exchange;
pub mod route;
pub mod sockets;
