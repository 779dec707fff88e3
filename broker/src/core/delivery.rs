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
//! Invariant **bounded**: a session has one pull under way on a link, and none while it does not
//! read, so that small frames of a device cannot make much work elsewhere.
//!
//! A pull acknowledges what it starts from. One that the device did not send therefore starts from
//! what the device has confirmed, not from what was written to it.

use hawser_codec::device::{Downlink, PushKind, put_push_header};
use hawser_codec::ids::{Seq, Stream};
use hawser_codec::limits::INLINE_BYTES_MAX;
use hawser_codec::link::{Acked, Entries, Entry, EntryFlags, Pulled};

use super::event::{Action, Actions, LinkIndex};
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
    pub(super) fn on_inbox_pull(&mut self, slot: u32, from: Seq) {
        let row = &mut self.rows[slot];
        row.sent = from;
        row.latest = row.latest.max(from);
        if self.waits_for_answer(slot) {
            // A session has one pull under way, however often it asks: the answer is good for it.
            self.take_ack(slot, from);
            self.counters.add(Counter::PullsMerged, 1);
        } else {
            // The pull acknowledges what it starts from.
            self.raise_acked(slot, from);
            self.pull_inbox(slot);
        }
        self.rows[slot].flags.set(Flags::ASKED);
    }

    /// Whether a pull is under way on a link that is up, or is to follow when the socket drains.
    pub(super) fn waits_for_answer(&self, slot: u32) -> bool {
        let row = &self.rows[slot];
        let is_asked = row.flags.has(Flags::OWED) || self.links.is_in_use(row.inbox_over);
        row.flags.has(Flags::PULLING) && is_asked
    }

    /// Asks a control node for what the session lacks. Without a link the flag remains, and the
    /// walk of the next link asks.
    pub(super) fn pull_inbox(&mut self, slot: u32) {
        match self.links.preferred() {
            Some(to) => self.pull_inbox_over(to, slot),
            None => self.begin_pull(slot),
        }
    }

    /// Asks over this link, for what is true from now on.
    pub(super) fn pull_inbox_over(&mut self, to: LinkIndex, slot: u32) {
        self.begin_pull(slot);
        let used = self.links.use_of(to);
        let from_sent = self.bug(SeededBug::PullConfirmsUnread);
        let row = &mut self.rows[slot];
        if row.flags.has(Flags::BLOCKED) {
            // The answer could not be sent: ask when it can.
            row.flags.set(Flags::OWED);
            self.pull_is_over(slot);
            return;
        }
        if row.inbox_over == used {
            row.flags.set(Flags::AGAIN);
            return;
        }
        self.pull_is_over(slot);
        let row = &mut self.rows[slot];
        row.inbox_over = used;
        row.flags.clear(Flags::AGAIN);
        let from = if from_sent { row.sent } else { row.pull_from() };
        let app = self.apps[row.app].id;
        self.links.pull(to, Pulled { device: row.device, app, session: row.session(slot), from });
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

    /// No answer is waited for any more, or a later one.
    pub(super) fn pull_is_over(&mut self, slot: u32) {
        let used = std::mem::take(&mut self.rows[slot].inbox_over);
        self.links.pull_is_over(used);
    }

    /// The answer to a pull, or what a node tells by itself in the same form.
    ///
    /// Only the answer that is waited for ends the pull. Another one, of a pull that has moved to
    /// another link, is good for what is new in it; what it lacks may exist.
    pub(super) fn on_entries(
        &mut self,
        link: LinkIndex,
        slot: u32,
        upto: Seq,
        more: bool,
        entries: &Entries<'_>,
        out: &mut Actions,
    ) {
        let row = &mut self.rows[slot];
        let is_late = row.inbox_over != self.links.use_of(link);
        row.latest = row.latest.max(upto);
        if row.flags.has(Flags::BLOCKED) {
            // Nothing is queued for a device that does not read: ask again when it does.
            row.flags.set(Flags::PULLING | Flags::OWED);
            self.pull_is_over(slot);
            return;
        }
        let before = row.sent;
        for entry in entries.iter().filter(|entry| entry.seq > before) {
            push(out, slot, &entry);
            self.counters.add(Counter::PushPulled, 1);
        }
        row.sent = before.max(upto);
        let was_asked = !is_late && row.flags.has(Flags::ASKED);
        if was_asked || more || row.sent > before {
            send(out, slot, &Downlink::CaughtUp { stream: Stream::Inbox, upto: row.sent, more });
        }
        let is_still_pulling = is_late && row.flags.has(Flags::PULLING);
        if more && !is_still_pulling {
            // The device pulls on by itself, at its own pace.
            row.latest = row.latest.max(Seq(upto.0.saturating_add(1).min(Seq::MAX.0)));
            row.flags.clear(Flags::AWAKE);
            row.flags.set(Flags::NOTICED);
        } else if row.latest == row.sent {
            row.flags.clear(Flags::AWAKE | Flags::NOTICED);
        }
        if !is_late {
            if was_asked && upto < before {
                // The device has more than there is, or than there was: let the store say which.
                row.flags.set(Flags::AGAIN);
            }
            self.end_pull(slot, more);
        }
    }

    /// The answer that was waited for has been sent to the device.
    fn end_pull(&mut self, slot: u32, more: bool) {
        self.pull_is_over(slot);
        let row = &mut self.rows[slot];
        let (grew, again) = (row.flags.has(Flags::GREW), row.flags.has(Flags::AGAIN));
        row.flags.clear(Flags::ASKED | Flags::GREW | Flags::AGAIN);
        if !more {
            row.flags.clear(Flags::NOTICED);
        }
        if !self.bug(SeededBug::PullNeverEnds) {
            self.rows[slot].flags.clear(Flags::PULLING);
        }
        let row = &mut self.rows[slot];
        if more {
            // The device's next pull reads what is true then.
        } else if again {
            self.pull_inbox(slot);
        } else if row.latest == row.sent || !grew {
            // The store was read after everything known was stored; what it lacks does not exist.
            row.latest = row.sent;
            row.flags.clear(Flags::AWAKE);
        } else if !row.flags.has(Flags::AWAKE) {
            self.pull_inbox(slot);
        }
    }

    /// The device's position does not exist; the inbox ends at `seq`.
    pub(super) fn on_inbox_reset(
        &mut self,
        link: LinkIndex,
        slot: u32,
        seq: Seq,
        out: &mut Actions,
    ) {
        let row = &mut self.rows[slot];
        if row.inbox_over != self.links.use_of(link) {
            // Another answer is waited for; it will say so too if it is still true.
            self.counters.add(Counter::Duplicates, 1);
            return;
        }
        if row.flags.has(Flags::BLOCKED) {
            row.flags.set(Flags::OWED);
            self.pull_is_over(slot);
            return;
        }
        if seq >= row.sent {
            // The device has moved since.
            self.counters.add(Counter::Duplicates, 1);
            self.end_pull(slot, false);
            return;
        }
        self.pull_is_over(slot);
        let row = &mut self.rows[slot];
        row.flags.clear(
            Flags::PULLING
                | Flags::ASKED
                | Flags::GREW
                | Flags::AGAIN
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
    pub(super) fn inbox_drained(&mut self, slot: u32, out: &mut Actions) {
        let flags = self.rows[slot].flags;
        if flags.has(Flags::OWED) {
            self.pull_inbox(slot);
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
