//! Real processes on loopback, and clients that talk to them.
//!
//! ```text
//!   Cluster ── starts ──▶ hawser-control, hawser-broker ...   each a Process, ended when dropped
//!   Sender  ── HTTP ────▶ the API                             Device ── TCP ──▶ a broker
//! ```
//!
//! Ports are the kernel's choice and read from the ready lines. Nothing here sleeps for a time: it
//! waits for a condition, with a deadline that only a failure reaches.

pub mod cluster;
pub mod device;
pub mod http;
pub mod process;
pub mod wait;
