//! The real binary on loopback: start, devices, links, drain.

mod devices;
mod drain;
mod links;
mod retransmission;
mod start;
mod support;
