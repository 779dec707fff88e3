//! The edge to the kernel: one static seam, `trait Io`, with a real and a simulated side.
//!
//! ```text
//!   shard ──▶ watch, receive, send, cancel, close ──▶ uring.rs   io_uring rings
//!         ◀── Completion ◀────────────────────────── sim.rs     a seed and virtual time
//! ```
//!
//! Everything that is not a function of what came before enters here: bytes, errors, the clock and
//! randomness. The shard above is therefore the same code in production and in the simulator.
//!
//! A connection is a [`Target`]: a slot and the generation of its use. A device's slot is the
//! kernel's own direct descriptor number, `ring * table + index`, so the kernel's table is the
//! free list; the control links have the slots from [`LINK_SLOT_FIRST`] up.
//!
//! Invariant **quiesced-slot**: `close` is called once for a target, after each of its operations
//! has given its last completion; nothing is submitted for it afterwards. The shard keeps this
//! with the ladder of `shard/conns.rs`; `sim.rs` panics when it is broken.
//!
//! Limits: at most one operation of each kind per target at a time, at most one send per target
//! per call. Idle connections own no buffer. All `unsafe` of the crate lives in this folder.
//!
//! There is no shutdown of one side: io_uring runs it on worker threads. The last frame asks the
//! peer to hang up instead, and the shard reads and discards until it does.

pub mod host;
pub mod probe;
pub mod recv_ring;
pub mod retransmission;
pub mod sim;
pub mod socket;
pub mod token;
pub mod uring;

use std::net::SocketAddr;

use crate::core::event::Now;

/// Slots from here on are links: `LINK_SLOT_FIRST + link index`.
pub const LINK_SLOT_FIRST: u32 = 0xffff_ff00;

/// One use of a slot. The generation differs between successive uses, so that a completion that
/// outlived its connection would be seen for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub slot: u32,
    pub generation: u16,
}

impl Target {
    pub fn link(link: u8, generation: u16) -> Target {
        Target { slot: LINK_SLOT_FIRST + u32::from(link), generation }
    }

    /// The link's index, or `None` for a device.
    pub fn as_link(self) -> Option<u8> {
        self.slot.checked_sub(LINK_SLOT_FIRST).map(|link| link as u8)
    }
}

/// What stays in the kernel until it completes. `Io::cancel` names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pending {
    /// `Io::watch`: ends with `Readable { armed: false }` or `WatchFailed`.
    Watch,
    /// `Io::watch_writable`: ends with `Writable`.
    Writable,
    /// `Io::connect`: ends with `Connected`.
    Connect,
}

/// Received bytes, owned by the ring they came from. Give it back with [`Io::give_back`] before
/// the turn's next `receive`, or the ring runs dry.
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to its ring"]
pub struct Buffer {
    pub(in crate::io) ring: u32,
    pub(in crate::io) id: u16,
    pub(in crate::io) bytes: u32,
}

/// How a receive ended.
#[derive(Debug)]
pub enum Received {
    /// Bytes arrived. With `more` the socket holds more, or may: receive again.
    Bytes { buffer: Buffer, more: bool },
    /// Nothing to read now. The watch tells when there is.
    Empty,
    /// The peer has shut its side down.
    End,
    /// No buffer was free: receive again after buffers were given back.
    NoBuffers,
    /// The socket failed.
    Failed,
}

/// What the kernel says. Completions of one target come in the order of their cause.
#[derive(Debug)]
pub enum Completion {
    /// A device connected. Its slot was never used, or its last `Closed` came before this.
    Accepted { slot: u32 },
    /// There is something to read, or (`hangup`) the peer has shut its side down or the socket
    /// failed. With `armed` false the watch has ended, for instance because it was cancelled.
    Readable { target: Target, hangup: bool, armed: bool },
    /// The watch has ended because the kernel could not keep it.
    WatchFailed { target: Target },
    /// A receive ended.
    Received { target: Target, result: Received },
    /// The writable watch ended: there is room to write, the socket failed, or it was cancelled.
    Writable { target: Target },
    /// The connect ended.
    Connected { target: Target, connected: bool },
    /// The descriptor is closed and the slot free.
    Closed { target: Target },
}

/// A send that wrote less than it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    pub target: Target,
    /// What was written.
    pub written: u32,
    /// The socket failed: the rest cannot be written later either.
    pub failed: bool,
}

/// Cells for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    pub slots_in_use: u64,
    pub rings: u64,
    /// Waits and submissions that went to the kernel.
    pub enters: u64,
    /// Accepts that the kernel could not finish.
    pub accept_errors: u64,
    /// Multishot operations that ended early, for want of completion space, and were armed again.
    pub rearmed: u64,
    pub no_buffers: u64,
}

/// The operations of a shard. Nothing blocks except [`Io::wait`]. What is queued goes to the
/// kernel with the next `wait`, `submit` or `send`.
pub trait Io {
    /// The time. The shard reads it once a turn.
    fn now(&mut self) -> Now;

    /// Unpredictable bytes (predictable from the seed in the simulator).
    fn fill_random(&mut self, bytes: &mut [u8]);

    /// Submits what is queued; returns when there is a completion, when the shard is woken from
    /// another thread, or after `timeout_ms` (`None`: no limit of its own). May return early.
    fn wait(&mut self, timeout_ms: Option<u64>);

    /// Submits what is queued. Receives are executed by this, so their completions follow.
    fn submit(&mut self);

    /// The next completion that has arrived, or `None`; does not enter the kernel.
    fn next(&mut self) -> Option<Completion>;

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8];

    fn give_back(&mut self, buffer: Buffer);

    /// Accepts from now on, as `Accepted`; goes on until one of the two below. Idempotent.
    fn accept_start(&mut self);

    /// Accepts no more for now. A few that are under way may still come. Idempotent.
    fn accept_pause(&mut self);

    /// Accepts no more, ever: the listeners are closed, once nothing of theirs is in the kernel.
    fn accept_end(&mut self);

    /// Opens a socket for a link and connects it. Ends with `Connected`; when that says false the
    /// target must still be closed.
    fn connect(&mut self, target: Target, address: SocketAddr);

    /// Watches for bytes and hang-up, edge-triggered, until cancelled or `armed` is false.
    fn watch(&mut self, target: Target);

    /// Watches once for room to write.
    fn watch_writable(&mut self, target: Target);

    /// Reads what is there, at most one buffer. Ends with `Received`.
    fn receive(&mut self, target: Target);

    /// Sends, now: the bytes are the caller's again when this returns, and whatever was not
    /// written is in `unsent`. At most one item per target, so that a short write cannot be
    /// followed by another of the same stream.
    fn send<'a>(
        &mut self,
        sends: impl Iterator<Item = (Target, &'a [u8])>,
        unsent: &mut Vec<Unsent>,
    );

    /// Asks the kernel to end an operation. Its last completion still comes.
    fn cancel(&mut self, target: Target, pending: Pending);

    /// Closes the descriptor. Ends with `Closed`. See **quiesced-slot**.
    fn close(&mut self, target: Target);

    fn counters(&self) -> IoCounters;
}
