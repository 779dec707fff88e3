//! The inbox of one session: push at once, or notice, pull, entries.
//!
//! ```text
//!               Deliver(sent + 1), nothing waits
//!   ┌─────────┐ ───────────────────────────────▶ Push; sent = latest = seq
//!   │ up to   │
//!   │ date    │ anything else     ┌─────────┐ Pull   ┌─────────┐
//!   │ sent =  │ ─────────────────▶│ waiting │ ──────▶│ PULLING │
//!   │ latest  │ Notice, once;     │ latest  │        │         │
//!   └─────────┘ when-awake: with  │ > sent  │        └────┬────┘
//!        ▲      the next Ping     └─────────┘             │ Entries: pushes, CaughtUp
//!        └────────────────────────────────────────────────┘
//! ```
//!
//! Nothing of a waiting entry is kept but the number `latest`: the inbox has the rest.
//!
//! Invariant **fifo-per-device**: a push is written only if its number is above `sent`, and at
//! once only if it is the next one and nothing waits. Answers to pulls may come twice, late, and
//! from two nodes; each is taken for what it has above `sent`.
//!
//! A pull acknowledges what it starts from. One that the device did not send therefore starts from
//! what the device has confirmed, not from what was written to it.

use hawser_codec::device::{Downlink, PushKind, put_push_header};
use hawser_codec::ids::{Seq, Stream};
use hawser_codec::limits::INLINE_BYTES_MAX;
use hawser_codec::link::{Acked, Entries, Entry, EntryFlags, Pulled};

use super::event::{Action, Actions, LinkIndex, Now};
use super::rows::Flags;
use super::{Core, SeededBug, send};
use crate::metrics::Counter;

impl Core {
    /// A message was stored a moment ago.
    #[inline]
    pub(super) fn on_deliver(&mut self, slot: u32, entry: &Entry<'_>, out: &mut Actions) {
        let mut held = Flags::INBOX_HELD;
        if self.bug(SeededBug::PushesAlthoughBlocked) {
            held.clear(Flags::BLOCKED);
        }
        let gap_passes = self.bug(SeededBug::PushesOverGap);
        let row = &mut self.rows[slot];
        if entry.seq <= row.latest {
            // At or below `sent`, it was sent; above, it is known to wait.
            self.counters.add(Counter::Duplicates, 1);
            return;
        }
        let is_next = entry.seq.0 == row.latest.0 + 1;
        let nothing_waits = row.latest == row.sent;
        let is_awake = entry.flags.contains(EntryFlags::WHEN_AWAKE);
        row.latest = entry.seq;
        if (is_next || gap_passes)
            && nothing_waits
            && !row.flags.has(held)
            && !is_awake
            && travels_inline(entry)
        {
            row.sent = entry.seq;
            push(out, slot, entry);
            self.counters.add(Counter::PushInline, 1);
            return;
        }
        // Before a gap stands an entry of which nothing is known: it may not wait for a heartbeat.
        let sleeps = is_awake && is_next && (nothing_waits || row.flags.has(Flags::AWAKE));
        let was_pulling = row.flags.has(Flags::PULLING);
        let grew = row.flags.has(Flags::GREW);
        if was_pulling {
            // What the answer lacks is when-awake as long as all that came since is.
            row.flags
                .put(Flags::AWAKE, is_awake && is_next && (!grew || row.flags.has(Flags::AWAKE)));
            row.flags.set(Flags::GREW);
        } else {
            row.flags.put(Flags::AWAKE, sleeps);
        }
        if !sleeps || self.bug(SeededBug::AwakeAtOnce) {
            self.notice_inbox(slot, out);
        }
    }

    /// Tells the device that entries wait, unless it knows or an answer is on its way.
    pub(super) fn notice_inbox(&mut self, slot: u32, out: &mut Actions) {
        let row = &mut self.rows[slot];
        if row.latest > row.sent && !row.flags.has(Flags::INBOX_TOLD) {
            row.flags.set(Flags::NOTICED);
            row.flags.clear(Flags::AWAKE);
            let latest = row.latest;
            send(out, slot, &Downlink::Notice { stream: Stream::Inbox, latest });
            self.counters.add(Counter::Notices, 1);
        }
    }

    /// The device asks for what follows `from`, and has everything up to it.
    pub(super) fn on_inbox_pull(&mut self, slot: u32, from: Seq, now: Now) {
        let row = &mut self.rows[slot];
        let is_asked_already = row.flags.has(Flags::PULLING) && row.sent == from;
        row.sent = from;
        row.latest = row.latest.max(from);
        row.flags.set(Flags::ASKED);
        if is_asked_already {
            self.take_ack(slot, from);
            self.counters.add(Counter::PullsMerged, 1);
        } else {
            // The pull acknowledges what it starts from.
            self.raise_acked(slot, from);
            self.pull_inbox(slot, now);
        }
    }

    /// Asks a control node for what the session lacks. Without a link the flag remains, and the
    /// walk of the next link asks.
    pub(super) fn pull_inbox(&mut self, slot: u32, now: Now) {
        match self.links.preferred() {
            Some(to) => self.pull_inbox_over(to, slot, now),
            None => self.begin_pull(slot),
        }
    }

    pub(super) fn pull_inbox_over(&mut self, to: LinkIndex, slot: u32, now: Now) {
        self.begin_pull(slot);
        let from_sent = self.bug(SeededBug::PullConfirmsUnread);
        let row = &self.rows[slot];
        let from = if from_sent { row.sent } else { row.pull_from() };
        let app = self.apps[row.app].id;
        self.links.pull(
            to,
            Pulled { device: row.device, app, session: row.session(slot), from },
            now,
        );
        self.counters.add(Counter::PullsSent, 1);
    }

    fn begin_pull(&mut self, slot: u32) {
        let flags = &mut self.rows[slot].flags;
        flags.clear(Flags::OWED);
        if !flags.has(Flags::PULLING) {
            // This pull is answered with all that is known now. An earlier one might not be.
            flags.clear(Flags::GREW | Flags::AWAKE);
            flags.set(Flags::PULLING);
        }
    }

    /// The answer to a pull.
    pub(super) fn on_entries(
        &mut self,
        slot: u32,
        upto: Seq,
        more: bool,
        entries: &Entries<'_>,
        now: Now,
        out: &mut Actions,
    ) {
        let row = &mut self.rows[slot];
        row.latest = row.latest.max(upto);
        if row.flags.has(Flags::BLOCKED) {
            // Nothing is queued for a device that does not read: ask again when it does.
            row.flags.set(Flags::PULLING | Flags::OWED);
            return;
        }
        let before = row.sent;
        for entry in entries.iter().filter(|entry| entry.seq > before) {
            push(out, slot, &entry);
            self.counters.add(Counter::PushPulled, 1);
        }
        row.sent = before.max(upto);
        let was_asked = row.flags.has(Flags::ASKED);
        // Of two pulls on their way the first answer ended both; the second one may be the older
        // and proves nothing about what was stored since.
        let is_late = !row.flags.has(Flags::PULLING);
        let grew = row.flags.has(Flags::GREW);
        row.flags.clear(Flags::ASKED | Flags::OWED);
        if !is_late || row.sent >= row.latest {
            row.flags.clear(Flags::NOTICED);
        }
        if was_asked || more || row.sent > before {
            send(out, slot, &Downlink::CaughtUp { stream: Stream::Inbox, upto: row.sent, more });
        }
        if !self.bug(SeededBug::PullNeverEnds) {
            self.rows[slot].flags.clear(Flags::PULLING | Flags::GREW);
        }
        let row = &mut self.rows[slot];
        if more {
            // The device pulls on by itself, at its own pace.
            row.latest = row.latest.max(Seq(upto.0.saturating_add(1).min(Seq::MAX.0)));
            row.flags.clear(Flags::AWAKE);
            row.flags.set(Flags::NOTICED);
        } else if row.latest == row.sent || !(grew || is_late) {
            // The store was read after everything known was stored; what it lacks does not exist.
            row.latest = row.sent;
            row.flags.clear(Flags::AWAKE);
        } else if !row.flags.has(Flags::AWAKE) && !is_late {
            self.pull_inbox(slot, now);
        }
    }

    /// The device's position does not exist; the inbox ends at `seq`.
    pub(super) fn on_reset(&mut self, slot: u32, seq: Seq, out: &mut Actions) {
        let row = &mut self.rows[slot];
        if !row.flags.has(Flags::PULLING) || seq >= row.sent {
            // An earlier answer said so, or the device has moved since.
            self.counters.add(Counter::Duplicates, 1);
            return;
        }
        if row.flags.has(Flags::BLOCKED) {
            row.flags.set(Flags::OWED);
            return;
        }
        row.flags.clear(
            Flags::PULLING
                | Flags::ASKED
                | Flags::GREW
                | Flags::NOTICED
                | Flags::AWAKE
                | Flags::OWED,
        );
        (row.sent, row.acked, row.latest) = (seq, seq, seq);
        send(out, slot, &Downlink::Reset { stream: Stream::Inbox, seq });
        self.counters.add(Counter::Resets, 1);
    }

    /// The application has everything up to `seq`.
    pub(super) fn take_ack(&mut self, slot: u32, seq: Seq) {
        let loses = self.bug(SeededBug::AckLostWithoutLink) && self.links.preferred().is_none();
        if !loses && self.raise_acked(slot, seq) {
            // Without a link the row keeps it, and the next announcement carries it.
            let row = &self.rows[slot];
            self.links.ack(Acked { device: row.device, app: self.apps[row.app].id, seq });
        }
    }

    fn raise_acked(&mut self, slot: u32, seq: Seq) -> bool {
        let row = &mut self.rows[slot];
        // Above `latest` it speaks of what does not exist, or no longer: a reset is on its way.
        let is_news = seq > row.acked && seq <= row.latest;
        if is_news {
            row.acked = seq;
            self.counters.add(Counter::Acks, 1);
        }
        is_news
    }

    /// The session can write again: what was held back meanwhile is made good.
    pub(super) fn inbox_drained(&mut self, slot: u32, now: Now, out: &mut Actions) {
        let flags = self.rows[slot].flags;
        if flags.has(Flags::OWED) {
            self.pull_inbox(slot, now);
        } else if !flags.has(Flags::AWAKE) && !self.bug(SeededBug::NoticeForgotten) {
            self.notice_inbox(slot, out);
        }
    }
}

/// Whether an entry's payload is there and small enough to be sent unasked.
#[inline]
pub(super) fn travels_inline(entry: &Entry<'_>) -> bool {
    !entry.flags.contains(EntryFlags::NO_BODY) && entry.payload.len() <= INLINE_BYTES_MAX
}

#[inline]
fn push(out: &mut Actions, slot: u32, entry: &Entry<'_>) {
    let frame = out.write(|bytes| {
        put_push_header(bytes, PushKind::Inbox, entry.seq, entry.payload.len());
        bytes.extend_from_slice(entry.payload);
    });
    out.list.push(Action::Send { slot, frame });
}
