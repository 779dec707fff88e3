//! The bytes of a turn on their way out, and the remainders of devices that read slowly.
//!
//! ```text
//!   Action::Send ─▶ sends of the turn ──── one send per connection ───▶ Io::send
//!                     range of Actions::bytes, or pieces joined         │ short
//!                                                                       ▼
//!   Event::Drained ◀── written ◀── writable ◀─────────── held remainder (pool)
//!                                                             │ pool is full
//!   Event::SlowReader ◀───────────────────────────────────────┘
//! ```
//!
//! A frame that goes to many members stands in the actions once and is sent from there. Only when
//! a connection gets several frames that do not stand side by side are they joined by copying.
//!
//! Invariants: all frames of a turn for one connection leave in one send, so a short write is
//! never followed by another frame. While a remainder is held, everything for the connection is
//! appended to it. The pool never exceeds `outbox_bytes_max`.

use std::collections::HashMap;
use std::ops::Range;

use hawser_codec::error::CloseReason;

use super::Shard;
use super::conns::{Conns, Flags};
use crate::core::event::{Actions, Event};
use crate::io::{Io, Target, Unsent};

/// Joined bytes per round of sends.
const JOINED_BYTES_MAX: usize = 1024 * 1024;

/// The turn's sends and the remainders of earlier ones.
#[derive(Default)]
pub(super) struct Outbox {
    sends: Vec<Send>,
    pieces: Vec<Piece>,
    held: HashMap<u32, Vec<u8>>,
    held_bytes: usize,
    /// Connections with a remainder and room to write, since the last turn.
    pub writable: Vec<Target>,
    joined: Vec<u8>,
    /// What the last call of `Io::send` left; empty between the calls.
    pub unsent: Vec<Unsent>,
}

/// What one connection gets in this turn: a range, and further pieces.
struct Send {
    target: Target,
    range: Range<u32>,
    /// Indices into the pieces, plus one; zero: none.
    first_piece: u32,
    last_piece: u32,
}

struct Piece {
    range: Range<u32>,
    next: u32,
}

/// Where the bytes of a send stand for the time of the call.
pub(super) enum Place {
    Actions(Range<usize>),
    Joined(Range<usize>),
}

impl Outbox {
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    pub fn drop_held(&mut self, slot: u32) {
        let rest = self.held.remove(&slot).expect("the flag says that it is held");
        self.held_bytes -= rest.len();
    }

    /// Adds a frame to what a connection gets in this turn.
    fn add(&mut self, target: Target, place: &mut u32, range: Range<u32>) {
        if *place == 0 {
            self.sends.push(Send { target, range, first_piece: 0, last_piece: 0 });
            *place = self.sends.len() as u32;
            return;
        }
        let send = &mut self.sends[*place as usize - 1];
        let last = match send.last_piece {
            0 => &mut send.range,
            piece => &mut self.pieces[piece as usize - 1].range,
        };
        if last.end == range.start {
            last.end = range.end;
            return;
        }
        self.pieces.push(Piece { range, next: 0 });
        let piece = self.pieces.len() as u32;
        match send.last_piece {
            0 => send.first_piece = piece,
            last => self.pieces[last as usize - 1].next = piece,
        }
        send.last_piece = piece;
    }

    /// Adds to a remainder. False if the pool is full.
    fn hold_more(&mut self, slot: u32, bytes: &[u8], bytes_max: usize) -> bool {
        if self.held_bytes + bytes.len() > bytes_max {
            return false;
        }
        self.held_bytes += bytes.len();
        self.held.entry(slot).or_default().extend_from_slice(bytes);
        true
    }

    /// Where the bytes of `send` stand; joins its pieces if it has some.
    fn place(&mut self, index: usize, actions: &Actions) -> Place {
        let send = &self.sends[index];
        if send.first_piece == 0 {
            return Place::Actions(send.range.start as usize..send.range.end as usize);
        }
        let start = self.joined.len();
        self.joined.extend_from_slice(actions.frame(&send.range));
        let mut next = send.first_piece;
        while next != 0 {
            let piece = &self.pieces[next as usize - 1];
            self.joined.extend_from_slice(actions.frame(&piece.range));
            next = piece.next;
        }
        Place::Joined(start..self.joined.len())
    }
}

impl<I: Io> Shard<I> {
    /// `Action::Send`.
    pub(super) fn add_send(&mut self, slot: u32, frame: Range<u32>) {
        let target = self.conns.target(slot);
        let conn = self.conns.get_mut(slot);
        assert!(conn.flags.has(Flags::OPEN), "slot {slot} is sent to while it is free");
        if conn.flags.has(Flags::MUTE) || frame.is_empty() {
            return;
        }
        if conn.flags.has(Flags::HELD) {
            let bytes = self.actions.frame(&frame);
            if !self.outbox.hold_more(slot, bytes, self.config.outbox_bytes_max) {
                self.too_slow(target);
            }
            return;
        }
        self.outbox.add(target, &mut conn.send, frame);
    }

    /// Sends what the turn has collected, to devices and to links. Afterwards nobody needs the
    /// actions' bytes any more.
    pub(super) fn flush(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        let mut from = 0;
        while from < self.outbox.sends.len() {
            places.clear();
            self.outbox.joined.clear();
            while from + places.len() < self.outbox.sends.len()
                && self.outbox.joined.len() < JOINED_BYTES_MAX
            {
                let place = self.outbox.place(from + places.len(), &self.actions);
                places.push(place);
            }
            self.send_round(from, &places);
            from += places.len();
        }
        self.places = places;
        self.outbox.sends.clear();
        self.outbox.pieces.clear();
        self.flush_links();
    }

    /// One call of `Io::send` for the connections from `from` on.
    fn send_round(&mut self, from: usize, places: &[Place]) {
        let mut unsent = std::mem::take(&mut self.outbox.unsent);
        let (outbox, actions) = (&self.outbox, &self.actions);
        let round = outbox.sends[from..].iter().zip(places);
        self.io.send(
            round.map(|(send, place)| (send.target, place.bytes(actions, outbox))),
            &mut unsent,
        );
        for short in unsent.drain(..) {
            let conn = self.conns.of(short.target);
            let index = conn.send as usize - 1 - from;
            if short.failed {
                self.after_flush.push(Trouble::Failed(short.target));
                continue;
            }
            let bytes = places[index].bytes(&self.actions, &self.outbox);
            // Copied twice, which only a socket that is full pays for.
            let rest = bytes[short.written as usize..].to_vec();
            if self.outbox.hold_more(short.target.slot, &rest, self.config.outbox_bytes_max) {
                conn.flags.set(Flags::HELD | Flags::WRITABLE);
                self.io.watch_writable(short.target);
                self.after_flush.push(Trouble::Blocked(short.target));
            } else {
                self.too_slow(short.target);
            }
        }
        self.outbox.unsent = unsent;
        for send in &self.outbox.sends[from..from + places.len()] {
            self.conns.get_mut(send.target.slot).send = 0;
        }
    }

    /// There is no room to hold the rest: the stream is cut here, and the core shall end it.
    fn too_slow(&mut self, target: Target) {
        let flags = &mut self.conns.of(target).flags;
        flags.set(Flags::MUTE);
        if flags.take(Flags::HELD) {
            self.outbox.drop_held(target.slot);
        }
        self.shell.remainders_refused += 1;
        self.after_flush.push(Trouble::TooSlow(target));
    }

    /// Tells the core what the flush has met. The actions that follow belong to the next turn.
    pub(super) fn tell_troubles(&mut self) {
        let mut troubles = std::mem::take(&mut self.after_flush);
        for trouble in troubles.drain(..) {
            let target = trouble.target();
            let flags = self.conns.of(target).flags;
            match trouble {
                Trouble::Failed(_) if flags.has(Flags::ENDED) => {}
                Trouble::Failed(_) => self.on_ended(target, CloseReason::Reset),
                _ if flags.has(Flags::CLOSING) => {}
                Trouble::Blocked(_) => self.tell(Event::Blocked { slot: target.slot }),
                Trouble::TooSlow(_) => self.tell(Event::SlowReader { slot: target.slot }),
            }
        }
        self.after_flush = troubles;
    }

    pub(super) fn on_writable(&mut self, target: Target) {
        let flags = &mut self.conns.of(target).flags;
        flags.take(Flags::WRITABLE);
        if flags.has(Flags::HELD) {
            self.outbox.writable.push(target);
        }
        self.close_if_quiet(target);
    }

    /// Writes on where there is room again, before the core decides what else to send.
    pub(super) fn drain_held(&mut self) {
        let mut writable = std::mem::take(&mut self.outbox.writable);
        // A connection may have lost its remainder since it became writable.
        writable.retain(|&target| {
            self.conns.of_note(target).is_some_and(|conn| conn.flags.has(Flags::HELD))
        });
        let mut unsent = std::mem::take(&mut self.outbox.unsent);
        let held = &self.outbox.held;
        let sends = writable.iter().map(|&target| (target, held[&target.slot].as_slice()));
        self.io.send(sends, &mut unsent);
        for short in unsent.drain(..) {
            self.keep_rest(short);
        }
        self.outbox.unsent = unsent;
        for target in writable.drain(..) {
            let flags = &mut self.conns.of(target).flags;
            // Those that fell short are watched again, or mute.
            if flags.has(Flags::WRITABLE | Flags::MUTE) || !flags.take(Flags::HELD) {
                continue;
            }
            self.outbox.drop_held(target.slot);
            if !self.conns.get(target.slot).flags.has(Flags::CLOSING) {
                self.tell(Event::Drained { slot: target.slot });
            }
        }
        self.outbox.writable = writable;
    }

    fn keep_rest(&mut self, short: Unsent) {
        let conn = self.conns.of(short.target);
        if short.failed {
            conn.flags.take(Flags::HELD);
            self.outbox.drop_held(short.target.slot);
            if !self.conns.get(short.target.slot).flags.has(Flags::ENDED) {
                self.on_ended(short.target, CloseReason::Reset);
            }
            return;
        }
        conn.flags.set(Flags::WRITABLE);
        let rest = self.outbox.held.get_mut(&short.target.slot).expect("it was just sent from");
        rest.drain(..short.written as usize);
        self.outbox.held_bytes -= short.written as usize;
        self.io.watch_writable(short.target);
    }

    /// Asserts that the flags and the pool agree.
    pub(super) fn check_outbox(conns: &Conns, outbox: &Outbox) {
        let held = conns.iter().filter(|(_, conn)| conn.flags.has(Flags::HELD));
        let slots: Vec<u32> = held.map(|(slot, _)| slot).collect();
        assert_eq!(slots.len(), outbox.held.len());
        let bytes: usize = slots.iter().map(|slot| outbox.held[slot].len()).sum();
        assert_eq!(bytes, outbox.held_bytes);
    }
}

impl Place {
    fn bytes<'a>(&self, actions: &'a Actions, outbox: &'a Outbox) -> &'a [u8] {
        match self {
            Place::Actions(range) => &actions.bytes[range.clone()],
            Place::Joined(range) => &outbox.joined[range.clone()],
        }
    }
}

/// What the flush met.
pub(super) enum Trouble {
    Blocked(Target),
    TooSlow(Target),
    Failed(Target),
}

impl Trouble {
    fn target(&self) -> Target {
        match *self {
            Trouble::Blocked(target) | Trouble::TooSlow(target) | Trouble::Failed(target) => target,
        }
    }
}
