//! The real binary on loopback: start, devices, links, drain.

mod devices;
mod drain;
mod links;
mod metrics;
mod retransmission;
mod start;
mod steering;
mod support;
