//! The broker's vocabulary: everything that can happen to a shard's core, and everything the core
//! can ask for. Both enums are closed: whoever reads this file has seen all of it.
//!
//! The core is given time and never reads it. Bytes that leave are encoded into
//! [`Actions::bytes`]; an action names them by range, so a frame that goes to a million members
//! stands there once.

use std::ops::Range;

use hawser_codec::device::Uplink;
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::link::ToBroker;

/// The time of a turn, read once at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of the monotonic clock since the shard started. Timers use this one.
    pub mono_ms: u64,
    /// Milliseconds since 1970. Tickets and epochs use this one; it may jump.
    pub unix_ms: u64,
}

/// The index of a link to one control node, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkIndex(pub u8);

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A connection was accepted into `slot`, which is free.
    Accepted { slot: u32 },
    /// A device's frame arrived whole and decoded.
    Frame { slot: u32, frame: Uplink<'a> },
    /// A device's bytes are not the protocol.
    BadInput { slot: u32, error: DecodeError },
    /// The device's side is closed or the socket failed: `Bye` or `Reset`.
    Hangup { slot: u32, reason: CloseReason },
    /// The socket took less than it was given; the shell holds the rest.
    Blocked { slot: u32 },
    /// The shell has written the rest: the session may send again.
    Drained { slot: u32 },
    /// The shell has no room to hold the rest for yet another slow device.
    SlowReader { slot: u32 },
    /// There is no room for its unfinished frame.
    NoRoom { slot: u32 },
    /// The close ladder of `slot` is finished: nothing of it is in the kernel, and the slot is free.
    Closed { slot: u32 },
    /// Both ends of the link are authenticated.
    LinkUp { link: LinkIndex },
    /// The link is lost; whatever was sent on it may be lost too.
    LinkDown { link: LinkIndex },
    /// A frame of an authenticated control node.
    Link { link: LinkIndex, frame: ToBroker<'a> },
    /// Begin the drain: accept nobody, send everybody elsewhere at the configured pace.
    Drain,
}

/// What the core wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin to read from a connection. Comes after `Accepted`, later when accepts are delayed.
    StartReading { slot: u32 },
    /// Send these bytes of [`Actions::bytes`] to the device, after everything sent before.
    Send { slot: u32, frame: Range<u32> },
    /// Flush what was sent in this turn, then end the connection. The core forgets the session
    /// now; the slot stays taken until `Event::Closed`.
    Close { slot: u32, reason: CloseReason },
    /// Send these bytes on a link. Dropped by the shell if the link is gone.
    SendLink { link: LinkIndex, frame: Range<u32> },
    /// The key set changed; keep these bytes (`Keys::encode`) on disk.
    SaveKeys { keys: Range<u32> },
    /// Stop accepting: the drain began.
    StopAccepting,
    /// The last session of a drain is gone.
    Drained,
}

/// The actions of one turn and the bytes that they name. Cleared by the shell after its flush.
#[derive(Debug, Default)]
pub struct Actions {
    pub list: Vec<Action>,
    pub bytes: Vec<u8>,
}

impl Actions {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }

    /// Appends whatever `encode` writes and returns where it stands.
    pub fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Range<u32> {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        let end = u32::try_from(self.bytes.len()).expect("a turn writes less than 4 GiB");
        start as u32..end
    }

    /// The bytes that an action names.
    pub fn frame(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }
}
