//! The real binary on loopback: start, devices, links, drain.

mod start;
mod support;
