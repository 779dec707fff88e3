//! Fleets: many devices in one process.
//!
//! ```text
//!  scenario ──commands──▶ child.rs ──▶ crowd.rs   devices, timers, what is measured
//!           ◀──answers───              ├─ trait Device ─▶ hawser.rs  the session of `hawser_codec`
//!                                      │               ─▶ mqtt/client.rs
//!                                      └─ trait Net ─▶ tun/       TCP of our own over a TUN device
//!                                                   ─▶ sockets.rs the kernel's sockets, io_uring
//! ```
//!
//! A fleet is a child process that takes one command a line and answers with one line; `command.rs`
//! lists them. Both kinds of fleet run the same crowd, so a scenario does not know which it has.

pub mod child;
pub mod command;
pub mod crowd;
pub mod device;
pub mod handle;
pub mod hawser;
pub mod latency;
mod listener;
pub mod sockets;
pub mod timers;
pub mod tun;
mod watch;

use std::io;

/// What happened to a connection. After it, the device either sends or is [`Net::silent`].
#[derive(Debug, PartialEq, Eq)]
pub struct Heard<'b> {
    pub device: u32,
    /// The connection that was asked for is there.
    pub connected: bool,
    pub data: &'b [u8],
    /// It is over, by the other side or because nobody answered; nothing need be closed.
    pub ended: bool,
}

/// The connections of a fleet, one per device. What is sent leaves at [`Net::flush`] at the latest.
pub trait Net {
    /// Makes room for so many devices, exactly.
    fn reserve(&mut self, devices: usize);

    /// Begins to connect; [`Heard`] says how that ends.
    fn connect(&mut self, device: u32, now_ms: u64) -> io::Result<()>;

    /// Ignored when the connection is no more.
    fn send(&mut self, device: u32, bytes: &[u8], now_ms: u64) -> io::Result<()>;

    /// The device has nothing to say to what it heard.
    fn silent(&mut self, device: u32);

    /// Closes in good order. Nothing more is heard of the connection.
    fn finish(&mut self, device: u32, now_ms: u64);

    /// Breaks it off. Nothing more is heard of the connection.
    fn reset(&mut self, device: u32);

    /// Stops reading from it, or begins again.
    fn stall(&mut self, device: u32, stalled: bool);

    /// The next thing that has happened, without waiting.
    fn next<'b>(&mut self, buffer: &'b mut [u8], now_ms: u64) -> io::Result<Option<Heard<'b>>>;

    fn flush(&mut self, now_ms: u64) -> io::Result<()>;

    /// Waits until something may have happened, there is a command to read, or the time is over.
    /// Returns whether there is a command.
    fn wait(&mut self, timeout_ms: i32) -> io::Result<bool>;

    fn memory_bytes(&self) -> usize;

    /// Numbers by name, for the report.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
