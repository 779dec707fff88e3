//! MQTT 3.1.1, as far as devices and publishers of a benchmark speak it, so that other brokers can
//! be given the same loads: a clean session, no password, no will, no QoS 2.
//!
//! ```text
//!   packet.rs     bytes and values
//!   client.rs     one device, sans-IO, for the crowd of a fleet
//!   publisher.rs  what sends: a blocking connection, which also finds out what a target is
//! ```

pub mod client;

pub mod packet;

pub mod publisher;

/// The topic that every device is subscribed to.
pub const ALL: &str = "all";

/// The topic of one device.
pub fn topic_of(device: u32) -> String {
    format!("d/{device}")
}
