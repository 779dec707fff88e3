//! What the crowd needs of a device, whatever it speaks: hawser's protocol (`hawser.rs`) or MQTT
//! (`mqtt/client.rs`).
//!
//! A device is a state machine without socket, clock and buffer. It writes what it has to say to
//! `out`, and tells the crowd what it heard. The crowd keeps the bytes of an unfinished frame, and
//! only while it is unfinished.

use hawser_codec::session::Backoff;

pub trait Device {
    /// What all devices of a fleet have in common.
    type Script;

    /// An unfinished frame of a connection.
    type Partial: Default;

    /// One that dials at once. `place` is its number within the process.
    fn new(place: u32, now_ms: u64) -> Self;

    /// Whether there is no unfinished frame.
    fn is_whole(partial: &Self::Partial) -> bool;

    fn standing(&self) -> Standing;

    /// When [`Device::on_time`] must be called next; `u64::MAX`: never.
    fn deadline_ms(&self) -> u64;

    /// Whether it will not come back.
    fn has_stopped(&self) -> bool;

    /// The connection is open: it introduces itself.
    fn on_connected(
        &mut self,
        script: &mut Self::Script,
        place: u32,
        now_ms: u64,
        out: &mut Vec<u8>,
    );

    /// Bytes arrived. `None`: they are not of this protocol.
    fn on_bytes(
        &mut self,
        script: &mut Self::Script,
        partial: &mut Self::Partial,
        bytes: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
        hear: impl FnMut(Event<'_>),
    ) -> Option<Next>;

    /// The connection is gone, or could not be made: it dials again after the back-off.
    fn on_disconnected(&mut self, backoff: Backoff, now_ms: u64);

    /// Acts on a deadline that has come; earlier calls do nothing.
    fn on_time(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Next;

    /// Asks; [`Event::Answered`] follows. Only of one that is online.
    fn ask(&mut self, what: Question, now_ms: u64, out: &mut Vec<u8>) -> Result<(), Unasked>;
}

/// What a device tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The server accepted it.
    Welcomed,
    /// A message, for the first time.
    Message {
        payload: &'a [u8],
    },
    /// A message that it had before.
    Repeat,
    Answered(Question),
    /// The server ends the connection, with its reason.
    Closing(&'static str),
}

/// What must be done with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Wait,
    Dial,
    HangUp,
}

/// What a device may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Ping,
    Pull,
}

/// A question that this protocol does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unasked(pub &'static str);

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Dialled and not yet welcomed.
    pub connecting: bool,
    /// Accepted by the server.
    pub online: bool,
    /// Messages from now on reach it.
    pub ready: bool,
}
