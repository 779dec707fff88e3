//! The shell's share of a device's connection: eight bytes, and the ladder by which it ends.
//!
//! ```text
//!   Accepted ─▶ open ── StartReading ─▶ watched ── readable ─▶ receiving ─▶ frames to the core
//!                 │
//!                 └─ Close ─▶ lingering ─▶ tearing ─────────▶ closed ─▶ free, next generation
//!                             read and     watches cancelled,   the kernel
//!                             discard      receive ended        closes
//! ```
//!
//! A connection lingers because closing a socket with unread input makes the kernel send a reset,
//! which can destroy the last frame on its way. The device hangs up by that frame; whoever does
//! not is closed after [`LINGER_MS`].
//!
//! Invariant **quiesced-slot**: the descriptor is closed when the flags name no operation in the
//! kernel, and the slot is free when the kernel has closed it.
//!
//! Idle connections own nothing else. An unfinished frame is held in a pool that is bounded for
//! all connections together; nearly every frame arrives whole. When the pool is full, whoever has
//! held longest is closed, strangers before sessions: an honest frame is finished within a round
//! trip, so that a peer who never finishes his can hurt only himself.

use std::collections::{HashMap, VecDeque};

use hawser_codec::device::Uplink;
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::Framer;
use hawser_codec::limits::UPLINK_BODY_BYTES_MAX;

use super::Shard;
use crate::core::event::Event;
use crate::io::{Buffer, Io, Pending, Received, Target};

/// How long a closing connection may take to hang up.
const LINGER_MS: u64 = 1_000;

/// What is known about a connection, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// The slot is taken.
    pub const OPEN: Flags = Flags(1);
    /// The read watch is in the kernel.
    pub const WATCHED: Flags = Flags(1 << 1);
    /// The writable watch is in the kernel.
    pub const WRITABLE: Flags = Flags(1 << 2);
    /// A receive is in the kernel.
    pub const RECEIVING: Flags = Flags(1 << 3);
    /// It stands in the list of those to receive from.
    pub const QUEUED: Flags = Flags(1 << 4);
    /// More became readable during the receive.
    pub const AGAIN: Flags = Flags(1 << 5);
    /// There is nothing more to read: the peer has shut its side down, or the socket failed.
    pub const ENDED: Flags = Flags(1 << 6);
    /// Nothing more can be written.
    pub const MUTE: Flags = Flags(1 << 7);
    /// Input is discarded.
    pub const DEAF: Flags = Flags(1 << 8);
    /// The start of an unfinished frame is in the pool.
    pub const PARTIAL: Flags = Flags(1 << 9);
    /// The outbox holds a remainder.
    pub const HELD: Flags = Flags(1 << 10);
    /// The core has closed it: it lingers.
    pub const CLOSING: Flags = Flags(1 << 11);
    /// Its operations are being ended.
    pub const TEARING: Flags = Flags(1 << 12);
    /// The close is in the kernel.
    pub const CLOSED: Flags = Flags(1 << 13);

    const IN_KERNEL: Flags = Flags(Self::WATCHED.0 | Self::WRITABLE.0 | Self::RECEIVING.0);

    pub fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    pub fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    /// Clears the flags; whether one of them was set.
    pub fn take(&mut self, flags: Flags) -> bool {
        let had = self.has(flags);
        self.0 &= !flags.0;
        had
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conn {
    pub generation: u16,
    pub flags: Flags,
    /// Its place among the turn's sends, plus one; zero between the turns.
    pub send: u32,
}

const _: () = assert!(size_of::<Conn>() == 8);

/// Chunks, so that growing never moves megabytes within a turn.
const CHUNK: usize = 4096;

/// All connections, by slot.
#[derive(Default)]
pub(super) struct Conns {
    chunks: Vec<Box<[Conn; CHUNK]>>,
}

impl Conns {
    /// Makes room for a slot. Slots are dense: the kernel gives the lowest free one of a ring.
    pub fn reach(&mut self, slot: u32) {
        while self.chunks.len() <= slot as usize / CHUNK {
            self.chunks.push(Box::new([Conn::default(); CHUNK]));
        }
    }

    pub fn get(&self, slot: u32) -> &Conn {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Conn {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// The connection that an operation was submitted for, which exists while the operation does.
    pub fn of(&mut self, target: Target) -> &mut Conn {
        let conn = self.get_mut(target.slot);
        assert!(
            conn.flags.has(Flags::OPEN) && conn.generation == target.generation,
            "quiesced-slot: slot {} completed an operation of its former use",
            target.slot
        );
        conn
    }

    /// The same for a note of ours, which the connection may not have outlived.
    pub fn of_note(&mut self, target: Target) -> Option<&mut Conn> {
        let conn = self.get_mut(target.slot);
        (conn.flags.has(Flags::OPEN) && conn.generation == target.generation).then_some(conn)
    }

    pub fn target(&self, slot: u32) -> Target {
        Target { slot, generation: self.get(slot).generation }
    }

    pub fn memory_bytes(&self) -> usize {
        self.chunks.len() * size_of::<[Conn; CHUNK]>()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Conn)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).zip(0..).map(|(conn, slot)| (slot, conn))
    }
}

/// The unfinished frames of all devices.
#[derive(Default)]
pub(super) struct Partials {
    framers: HashMap<u32, Partial>,
    bytes: usize,
    /// Who began when, the oldest first: those who have not introduced themselves, and sessions.
    /// Some have finished since.
    strangers: VecDeque<(u32, u64)>,
    sessions: VecDeque<(u32, u64)>,
    begun: u64,
}

struct Partial {
    framer: Framer,
    /// Which of all that ever began.
    began: u64,
}

impl Partials {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn count(&self) -> usize {
        self.framers.len()
    }

    /// Takes a framer out of the pool.
    fn take(&mut self, slot: u32) -> Partial {
        let partial = self.framers.remove(&slot).expect("the flag says that it is there");
        self.bytes -= partial.framer.partial_bytes();
        partial
    }

    /// `began` is of a frame that was there before.
    fn put(&mut self, slot: u32, framer: Framer, began: Option<u64>, is_session: bool) {
        self.bytes += framer.partial_bytes();
        let began = began.unwrap_or_else(|| {
            self.begun += 1;
            let order = if is_session { &mut self.sessions } else { &mut self.strangers };
            order.push_back((slot, self.begun));
            if order.len() > 2 * self.framers.len() + 64 {
                order.retain(|&(slot, began)| is_of(&self.framers, slot, began));
                order.push_back((slot, self.begun));
            }
            self.begun
        });
        let before = self.framers.insert(slot, Partial { framer, began });
        assert!(before.is_none(), "a connection has one unfinished frame");
    }

    /// Who is to make room for `own`, which is not in the pool now: whoever has held an unfinished
    /// frame for longest, `own` included. A stranger takes nothing from a session.
    fn oldest(&mut self, own: (u32, Option<u64>), is_session: bool) -> Option<u32> {
        let sessions = is_session.then_some(&mut self.sessions);
        for order in std::iter::once(&mut self.strangers).chain(sessions) {
            while let Some((slot, began)) = order.pop_front() {
                if own == (slot, Some(began)) || is_of(&self.framers, slot, began) {
                    return Some(slot);
                }
            }
        }
        None
    }
}

fn is_of(framers: &HashMap<u32, Partial>, slot: u32, began: u64) -> bool {
    framers.get(&slot).is_some_and(|partial| partial.began == began)
}

impl<I: Io> Shard<I> {
    pub(super) fn on_accepted(&mut self, slot: u32) {
        self.conns.reach(slot);
        let conn = self.conns.get_mut(slot);
        assert!(!conn.flags.has(Flags::OPEN), "quiesced-slot: slot {slot} was accepted twice");
        conn.flags = Flags::OPEN;
        self.accepts += 1;
        self.tell(Event::Accepted { slot });
    }

    /// Watches for input from now on. Reports what is there already.
    pub(super) fn start_reading(&mut self, slot: u32) {
        let target = self.conns.target(slot);
        let flags = &mut self.conns.get_mut(slot).flags;
        if flags.has(Flags::OPEN) && !flags.has(Flags::WATCHED | Flags::ENDED | Flags::TEARING) {
            flags.set(Flags::WATCHED);
            self.io.watch(target);
        }
    }

    pub(super) fn on_readable(&mut self, target: Target, armed: bool) {
        let conn = self.conns.of(target);
        if !armed {
            conn.flags.take(Flags::WATCHED);
            self.start_reading(target.slot);
        }
        self.queue_receive(target);
        self.close_if_quiet(target);
    }

    pub(super) fn on_watch_failed(&mut self, target: Target) {
        self.conns.of(target).flags.take(Flags::WATCHED);
        self.on_ended(target, CloseReason::Reset);
        self.close_if_quiet(target);
    }

    fn queue_receive(&mut self, target: Target) {
        let conn = self.conns.get_mut(target.slot);
        if conn.flags.has(Flags::QUEUED | Flags::ENDED | Flags::TEARING) {
            return;
        }
        if conn.flags.has(Flags::RECEIVING) {
            conn.flags.set(Flags::AGAIN);
        } else {
            conn.flags.set(Flags::QUEUED);
            self.to_receive.push_back(target);
        }
    }

    /// Submits a receive for a connection from the list, unless it has ended since.
    pub(super) fn receive(&mut self, target: Target) {
        let Some(conn) = self.conns.of_note(target) else { return };
        conn.flags.take(Flags::QUEUED);
        if !conn.flags.has(Flags::ENDED | Flags::TEARING) {
            conn.flags.set(Flags::RECEIVING);
            self.io.receive(target);
            // What is received will want it, and many are asked for before the first is.
            self.core.touch(target.slot);
        }
    }

    pub(super) fn on_received(&mut self, target: Target, result: Received) {
        let conn = self.conns.of(target);
        conn.flags.take(Flags::RECEIVING);
        let again = conn.flags.take(Flags::AGAIN);
        match result {
            Received::Bytes { buffer, more } => {
                if !conn.flags.has(Flags::DEAF) {
                    self.on_bytes(target.slot, &buffer);
                }
                self.io.give_back(buffer);
                if more || again {
                    self.queue_receive(target);
                }
            }
            Received::Empty if again => self.queue_receive(target),
            Received::Empty => {}
            Received::NoBuffers => self.queue_receive(target),
            Received::End => self.on_ended(target, CloseReason::Bye),
            Received::Failed => self.on_ended(target, CloseReason::Reset),
        }
        self.close_if_quiet(target);
    }

    /// Cuts bytes into frames and gives them to the core, until one is not the protocol.
    fn on_bytes(&mut self, slot: u32, buffer: &Buffer) {
        let flags = &mut self.conns.get_mut(slot).flags;
        let held = flags.take(Flags::PARTIAL).then(|| self.partials.take(slot));
        let (mut framer, mut began) = match held {
            Some(Partial { framer, began }) => (framer, Some(began)),
            None => (Framer::default(), None),
        };
        let (core, actions, now) = (&mut self.core, &mut self.actions, self.now);
        let result = framer.feed(self.io.bytes(buffer), UPLINK_BODY_BYTES_MAX, |frame| {
            // What is left after a whole frame is another one.
            began = None;
            // A type of a newer minor version is skipped.
            if let Some(frame) = Uplink::decode(frame)? {
                core.on_event(Event::Frame { slot, frame }, now, actions);
            }
            Ok::<(), DecodeError>(())
        });
        if let Err(error) = result {
            self.conns.get_mut(slot).flags.set(Flags::DEAF);
            self.tell(Event::BadInput { slot, error });
        } else if !framer.is_empty() {
            let is_session = self.core.is_online(slot);
            while self.partials.bytes() + framer.partial_bytes() > self.config.partial_bytes_max {
                let oldest = self.partials.oldest((slot, began), is_session);
                let Some(oldest) = oldest.filter(|&oldest| oldest != slot) else {
                    return self.give_up(slot);
                };
                self.conns.get_mut(oldest).flags.take(Flags::PARTIAL);
                drop(self.partials.take(oldest));
                self.give_up(oldest);
            }
            self.conns.get_mut(slot).flags.set(Flags::PARTIAL);
            self.partials.put(slot, framer, began, is_session);
        }
    }

    /// There is no room for the connection's unfinished frame.
    fn give_up(&mut self, slot: u32) {
        self.conns.get_mut(slot).flags.set(Flags::DEAF);
        self.shell.partials_refused += 1;
        self.tell(Event::NoRoom { slot });
    }

    /// Nothing more will come from the peer, or nothing more can be done with the socket.
    pub(super) fn on_ended(&mut self, target: Target, reason: CloseReason) {
        let flags = &mut self.conns.of(target).flags;
        flags.set(Flags::ENDED | Flags::DEAF);
        if reason == CloseReason::Reset {
            flags.set(Flags::MUTE);
        }
        if flags.has(Flags::CLOSING) {
            self.tear_down(target);
        } else {
            self.tell(Event::Hangup { slot: target.slot, reason });
        }
    }

    /// The core has ended the session. The ladder begins when the turn's sends are out.
    pub(super) fn begin_close(&mut self, slot: u32) {
        let target = self.conns.target(slot);
        let flags = &mut self.conns.get_mut(slot).flags;
        assert!(flags.has(Flags::OPEN) && !flags.has(Flags::CLOSING), "slot {slot} closes twice");
        flags.set(Flags::CLOSING | Flags::DEAF);
        if flags.take(Flags::PARTIAL) {
            drop(self.partials.take(slot));
        }
        self.closing.push(target);
    }

    /// The end of a turn for those that close: the first step of the ladder for the new ones, the
    /// last for those whose time is over.
    pub(super) fn reap(&mut self) {
        let mut closing = std::mem::take(&mut self.closing);
        for target in closing.drain(..) {
            if self.conns.of(target).flags.has(Flags::ENDED) {
                self.tear_down(target);
            } else {
                self.start_reading(target.slot);
                self.lingering.push_back((self.now.mono_ms + LINGER_MS, target));
            }
        }
        self.closing = closing;
        while let Some(&(deadline_ms, target)) = self.lingering.front()
            && deadline_ms <= self.now.mono_ms
        {
            self.lingering.pop_front();
            if self.conns.of_note(target).is_some() {
                self.tear_down(target);
            }
        }
    }

    /// Ends whatever is in the kernel; each of these operations still gives its last completion.
    fn tear_down(&mut self, target: Target) {
        let flags = &mut self.conns.of(target).flags;
        if flags.has(Flags::TEARING) {
            return;
        }
        flags.set(Flags::TEARING | Flags::MUTE);
        if flags.take(Flags::HELD) {
            self.outbox.drop_held(target.slot);
        }
        if flags.has(Flags::WATCHED) {
            self.io.cancel(target, Pending::Watch);
        }
        if flags.has(Flags::WRITABLE) {
            self.io.cancel(target, Pending::Writable);
        }
        self.close_if_quiet(target);
    }

    pub(super) fn close_if_quiet(&mut self, target: Target) {
        let flags = &mut self.conns.of(target).flags;
        if flags.has(Flags::TEARING) && !flags.has(Flags::IN_KERNEL | Flags::CLOSED) {
            flags.set(Flags::CLOSED);
            self.io.close(target);
        }
    }

    pub(super) fn on_closed(&mut self, target: Target) {
        let conn = self.conns.of(target);
        assert!(conn.flags.has(Flags::CLOSED) && !conn.flags.has(Flags::HELD | Flags::PARTIAL));
        *conn = Conn { generation: target.generation.wrapping_add(1), ..Conn::default() };
        self.tell(Event::Closed { slot: target.slot });
    }
}
