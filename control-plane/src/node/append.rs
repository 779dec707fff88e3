//! Appends to streams: optimistic, dense, in order.
//!
//! ```text
//!  push ─▶ queue of its stream ─▶ one operation at a time per stream ─▶ answer, deliver
//!                                 a single entry: XADD (last+1)-0, the id is the compare-and-set
//!                                 several, or with keys: one transaction
//! ```
//!
//! While an operation of a stream is under way, later pushes to the stream wait and go together in
//! the next one: this keeps their order, and a busy stream costs one round trip for up to
//! `append_batch_max` messages. Streams do not wait for each other.
//!
//! Another node may append to the same stream. Its entry takes the number, ours is refused, and
//! the tail is read again. The tail is remembered for the next push; if it is wrong, the store
//! says so. The remembered count of entries is an upper bound (others' trims are not seen), so a
//! stream is read again before it is called full.
//!
//! What the store did not answer is not tried again: it may be there, and a second attempt could
//! store it twice. The caller is told so.

use std::collections::VecDeque;

use hawser_codec::ids::Seq;

use super::counters::Counter;
use super::event::{
    Accepted, Actions, Answer, CallId, Keyed, NewEntry, Now, Outcome, PushOutcome, Refusal,
    StoreFailure, StoreOp, StoreResult, StreamId, Tail,
};
use super::table::Table;
use super::{Node, Purpose, SeededBug};
use crate::records::MessageId;

/// Appends that lose against others this often in a row go one by one: a single entry needs no
/// transaction, which any other change of the stream would break.
const CONFLICTS_BEFORE_SINGLE: u32 = 4;

/// A push that is not stored yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub call: CallId,
    pub new: NewEntry,
}

impl Waiting {
    fn is_plain(&self) -> bool {
        self.new.record.is_none() && self.new.collapse.is_none()
    }
}

/// A stream with pushes under way. Always has exactly one operation at the store.
#[derive(Debug)]
struct Busy {
    queue: VecDeque<Waiting>,
    /// What the operation under way carries; empty while the tail is read.
    in_flight: Vec<Waiting>,
    tail: Option<Known>,
    /// The tail was just read: a full stream is really full.
    is_fresh: bool,
    /// One entry per operation from here on.
    one_by_one: bool,
    conflicts: u32,
}

/// A remembered end of a stream.
#[derive(Clone, Copy, Debug)]
struct Known {
    last: Seq,
    /// At least as many as there are.
    entries: u64,
}

impl From<Tail> for Known {
    fn from(tail: Tail) -> Known {
        Known { last: tail.last, entries: tail.entries }
    }
}

#[derive(Debug, Default)]
pub(super) struct Appends {
    busy: Table<StreamId, Busy>,
    tails: Tails,
    waiting: usize,
    waiting_bytes: usize,
}

/// Remembered tails in two generations: what was not used while one generation filled up is
/// forgotten with the older one.
#[derive(Debug, Default)]
struct Tails {
    young: Table<StreamId, Known>,
    old: Table<StreamId, Known>,
    /// When `old` was young last.
    old_closed_ms: u64,
    /// The latest time at which anything was remembered that is forgotten now.
    forgotten_ms: Option<u64>,
}

impl Tails {
    fn take(&mut self, stream: StreamId) -> Option<Known> {
        self.young.remove(&stream).or_else(|| self.old.remove(&stream))
    }

    fn put(&mut self, stream: StreamId, known: Known, tails_max: usize, now: Now) {
        if self.young.len() >= tails_max / 2 {
            if !self.old.is_empty() {
                self.forgotten_ms = self.forgotten_ms.max(Some(self.old_closed_ms));
            }
            self.old = std::mem::take(&mut self.young);
            self.old_closed_ms = now.mono_ms;
        }
        self.young.insert(stream, known);
    }

    fn forget(&mut self, now: Now) {
        self.forgotten_ms = Some(now.mono_ms);
    }

    fn get_mut(&mut self, stream: StreamId) -> Option<&mut Known> {
        match self.young.get_mut(&stream) {
            Some(known) => Some(known),
            None => self.old.get_mut(&stream),
        }
    }
}

impl Appends {
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub fn waiting_of(&self, stream: StreamId) -> usize {
        self.busy.get(&stream).map_or(0, |busy| busy.queue.len() + busy.in_flight.len())
    }

    /// The last stored entry of a stream, if it is remembered; another node may have added more.
    pub fn known_last(&mut self, stream: StreamId) -> Option<Seq> {
        self.known_mut(stream).map(|known| known.last)
    }

    /// Whether this node may have stored something in the last `within_ms` of which `known_last`
    /// does not tell.
    pub fn may_have_forgotten(&self, stream: StreamId, within_ms: u64, now: Now) -> bool {
        let unsure = self.busy.get(&stream).is_some_and(|busy| busy.tail.is_none());
        unsure || self.tails.forgotten_ms.is_some_and(|at_ms| now.mono_ms < at_ms + within_ms)
    }

    /// Our own trims make room at once.
    pub fn removed(&mut self, stream: StreamId, count: u64) {
        if let Some(known) = self.known_mut(stream) {
            known.entries = known.entries.saturating_sub(count);
        }
    }

    fn known_mut(&mut self, stream: StreamId) -> Option<&mut Known> {
        let busy = self.busy.get_mut(&stream).and_then(|busy| busy.tail.as_mut());
        busy.or_else(|| self.tails.get_mut(stream))
    }

    /// Entries that an operation under way may have added to the stream.
    pub fn unstored(&self, stream: StreamId) -> u64 {
        self.busy.get(&stream).map_or(0, |busy| busy.in_flight.len() as u64)
    }

    fn finished(&mut self, waiting: &Waiting) {
        self.waiting -= 1;
        self.waiting_bytes -= waiting.new.entry.len();
    }

    pub fn invariants(&self, node: &Node) {
        let limits = &node.config.limits;
        let entries =
            || self.busy.values().flat_map(|busy| busy.queue.iter().chain(&busy.in_flight));
        assert_eq!(entries().count(), self.waiting, "accounted-push: every push waits once");
        assert_eq!(entries().map(|w| w.new.entry.len()).sum::<usize>(), self.waiting_bytes);
        assert!(self.waiting <= limits.pushes_waiting_max, "bounded: pushes");
        assert!(self.tails.young.len() + self.tails.old.len() <= limits.tails_max.max(2));
        for (stream, busy) in &self.busy {
            assert!(busy.queue.len() + busy.in_flight.len() <= limits.stream_waiting_max);
            let ops = node
                .ops
                .purposes()
                .filter(|purpose| matches!(purpose, Purpose::Append(of) if of == stream));
            assert_eq!(ops.count(), 1, "fifo-per-device: one append per stream at a time");
        }
    }
}

impl Node {
    /// Takes in a push that passed all checks.
    pub(super) fn append(&mut self, stream: StreamId, push: Waiting, now: Now, out: &mut Actions) {
        self.appends.waiting += 1;
        self.appends.waiting_bytes += push.new.entry.len();
        if let Some(busy) = self.appends.busy.get_mut(&stream) {
            busy.queue.push_back(push);
            return;
        }
        let busy = Busy {
            queue: VecDeque::from([push]),
            in_flight: Vec::new(),
            tail: self.appends.tails.take(stream),
            is_fresh: false,
            one_by_one: false,
            conflicts: 0,
        };
        self.appends.busy.insert(stream, busy);
        self.append_next(stream, now, out);
    }

    /// Starts the stream's next operation, or lets the stream rest.
    fn append_next(&mut self, stream: StreamId, now: Now, out: &mut Actions) {
        let entries_max = self.entries_max(stream);
        loop {
            let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
            assert!(busy.in_flight.is_empty(), "one operation at a time");
            let Some(front) = busy.queue.front() else {
                let busy = self.appends.busy.remove(&stream).expect("it was just there");
                if let Some(known) = busy.tail {
                    self.appends.tails.put(stream, known, self.config.limits.tails_max, now);
                }
                return;
            };
            let is_single = front.is_plain() && (busy.queue.len() == 1 || busy.one_by_one);
            if !is_single {
                self.append_all(stream, entries_max, out);
                return;
            }
            match busy.tail {
                Some(known) if known.entries < entries_max && known.last < Seq::MAX => {
                    self.append_single(stream, known, out);
                    return;
                }
                Some(_) if busy.is_fresh => {
                    let push = busy.queue.pop_front().expect("it has a front");
                    self.refuse_push(&push, self.full(stream), out);
                }
                _ => {
                    self.counters.add(Counter::TailReads, 1);
                    self.ops.store(Purpose::Append(stream), StoreOp::Tail { stream }, out);
                    return;
                }
            }
        }
    }

    fn append_single(&mut self, stream: StreamId, known: Known, out: &mut Actions) {
        let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
        let push = busy.queue.pop_front().expect("the caller saw its front");
        busy.is_fresh = false;
        let (seq, entry) = (known.last.next(), push.new.entry.clone());
        busy.in_flight.push(push);
        self.ops.store(Purpose::Append(stream), StoreOp::Append { stream, seq, entry }, out);
    }

    /// Sends what waits as one transaction. No key may appear in it twice: a repeat goes in the
    /// next one, which then finds the first.
    fn append_all(&mut self, stream: StreamId, entries_max: u64, out: &mut Actions) {
        let limits = &self.config.limits;
        let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
        busy.is_fresh = false;
        let count_max = if busy.one_by_one { 1 } else { limits.append_batch_max };
        let mut entries: Vec<NewEntry> = Vec::with_capacity(count_max.min(busy.queue.len()));
        let mut bytes = 0;
        while let Some(front) = busy.queue.front() {
            let repeats_key = |earlier: &NewEntry| shares_key(earlier, &front.new);
            bytes += front.new.entry.len();
            let is_over = bytes > limits.append_batch_bytes_max && !entries.is_empty();
            if entries.len() == count_max || is_over || entries.iter().any(repeats_key) {
                break;
            }
            entries.push(front.new.clone());
            busy.in_flight.push(busy.queue.pop_front().expect("it has a front"));
        }
        if busy.conflicts > 0 && self.config.bug(SeededBug::RecordForgottenOnRetry) {
            entries.iter_mut().for_each(|new| new.record = None);
        }
        let request = StoreOp::AppendAll { stream, entries_max, entries };
        self.ops.store(Purpose::Append(stream), request, out);
    }

    /// The store answered the stream's operation.
    pub(super) fn on_append(
        &mut self,
        stream: StreamId,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        let takes_conflict = self.bug(SeededBug::ConflictIsSuccess);
        let busy = self.appends.busy.get_mut(&stream).expect("an operation keeps it busy");
        let in_flight = std::mem::take(&mut busy.in_flight);
        match result {
            StoreResult::Tail(tail) => {
                busy.tail = Some(tail.into());
                busy.is_fresh = true;
            }
            StoreResult::Appended => {
                let known = busy.tail.as_mut().expect("a single append knows the tail");
                known.last = known.last.next();
                known.entries += 1;
                busy.conflicts = 0;
                let seq = known.last;
                for push in &in_flight {
                    self.finish_stored(stream, push, seq, now, out);
                }
            }
            StoreResult::AppendedAll { tail, outcomes } => {
                busy.tail = Some(tail.into());
                busy.conflicts = 0;
                assert_eq!(outcomes.len(), in_flight.len(), "one outcome per entry");
                for (push, outcome) in in_flight.iter().zip(outcomes) {
                    self.finish(stream, push, outcome, now, out);
                }
            }
            StoreResult::Conflict if takes_conflict => {
                let seq = busy.tail.map_or(Seq::ZERO, |known| known.last).next();
                busy.tail = None;
                for push in &in_flight {
                    self.finish_stored(stream, push, seq, now, out);
                }
            }
            StoreResult::Conflict => self.on_conflict(stream, in_flight, now, out),
            StoreResult::Full(tail) => self.on_full(stream, tail, in_flight, out),
            StoreResult::Failed(_) if self.bug(SeededBug::AnswerWithoutStore) => {
                for push in &in_flight {
                    self.finish_stored(stream, push, Seq(1), now, out);
                }
            }
            StoreResult::Failed(failure) => {
                self.on_append_failed(stream, failure, in_flight, now, out);
            }
            other => unreachable!("an append is not answered with {other:?}"),
        }
        self.append_next(stream, now, out);
    }

    /// Another writer was first: everything stays in order and is tried again, behind it.
    fn on_conflict(
        &mut self,
        stream: StreamId,
        in_flight: Vec<Waiting>,
        now: Now,
        out: &mut Actions,
    ) {
        self.counters.add(Counter::Conflicts, 1);
        let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
        busy.tail = None;
        busy.conflicts += 1;
        busy.one_by_one |= busy.conflicts >= CONFLICTS_BEFORE_SINGLE;
        if busy.conflicts <= self.config.limits.append_retries_max {
            put_back(&mut busy.queue, in_flight);
            return;
        }
        busy.conflicts = 0;
        self.appends.tails.forget(now);
        let refusal = Refusal::StoreUnavailable { retry_after_ms: self.retry_after_ms() };
        for push in &in_flight {
            self.refuse_push(push, refusal, out);
        }
    }

    /// There is no room for all of them. There may be for some, so they go one by one.
    fn on_full(
        &mut self,
        stream: StreamId,
        tail: Tail,
        in_flight: Vec<Waiting>,
        out: &mut Actions,
    ) {
        let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
        busy.tail = Some(tail.into());
        busy.is_fresh = true;
        busy.one_by_one = true;
        if in_flight.len() > 1 {
            put_back(&mut busy.queue, in_flight);
            return;
        }
        for push in &in_flight {
            self.refuse_push(push, self.full(stream), out);
        }
    }

    /// Everything of the stream is refused at once: what waits behind would only wait longer.
    fn on_append_failed(
        &mut self,
        stream: StreamId,
        failure: StoreFailure,
        in_flight: Vec<Waiting>,
        now: Now,
        out: &mut Actions,
    ) {
        self.appends.tails.forget(now);
        let busy = self.appends.busy.get_mut(&stream).expect("the caller knows it is busy");
        busy.tail = None;
        let queue = std::mem::take(&mut busy.queue);
        let retry_after_ms = self.retry_after_ms();
        let not_stored = Refusal::StoreUnavailable { retry_after_ms };
        let refusal = match failure {
            StoreFailure::NotDone => not_stored,
            StoreFailure::Unknown => Refusal::OutcomeUnknown { retry_after_ms },
        };
        if failure == StoreFailure::Unknown {
            self.counters.add(Counter::Uncertain, in_flight.len() as u64);
        }
        for push in &in_flight {
            self.refuse_push(push, refusal, out);
        }
        for push in &queue {
            self.refuse_push(push, not_stored, out);
        }
    }

    fn finish(
        &mut self,
        stream: StreamId,
        push: &Waiting,
        outcome: Outcome,
        now: Now,
        out: &mut Actions,
    ) {
        match outcome {
            Outcome::Stored { seq } => self.finish_stored(stream, push, seq, now, out),
            Outcome::Collapsed { seq, .. } => {
                self.accounts.collapsed(stream, &mut self.counters);
                self.finish_stored(stream, push, seq, now, out);
            }
            Outcome::Duplicate(first) => {
                self.appends.finished(push);
                self.counters.add(Counter::Duplicates, 1);
                self.remind(stream, first.seq, out);
                let accepted = Accepted {
                    id: MessageId::new(stream, first.seq, first.expires_unix_ms),
                    seq: first.seq,
                    online: self.is_online(stream),
                    outcome: PushOutcome::Duplicate,
                };
                out.answer(push.call, Answer::Accepted(accepted));
            }
        }
    }

    /// The message is durable: say so, and send it where the device is.
    fn finish_stored(
        &mut self,
        stream: StreamId,
        push: &Waiting,
        seq: Seq,
        now: Now,
        out: &mut Actions,
    ) {
        self.appends.finished(push);
        self.accounts.accepted(stream, &mut self.counters);
        let online = self.deliver(stream, seq, &push.new.entry, now, out);
        let accepted = Accepted {
            id: MessageId::new(stream, seq, push.new.expires_unix_ms),
            seq,
            online,
            outcome: PushOutcome::Stored,
        };
        out.answer(push.call, Answer::Accepted(accepted));
    }

    fn refuse_push(&mut self, push: &Waiting, refusal: Refusal, out: &mut Actions) {
        self.appends.finished(push);
        self.refuse(push.call, refusal, out);
    }

    fn entries_max(&self, stream: StreamId) -> u64 {
        // An app that was removed while its push waited gets no more than that push.
        let quota = self.accounts.quota(stream.app()).unwrap_or_default();
        u64::from(match stream {
            StreamId::Inbox { .. } => quota.inbox_entries_max,
            StreamId::Group { .. } => quota.group_log_entries_max,
        })
    }

    fn full(&self, stream: StreamId) -> Refusal {
        let retry_after_ms = self.retry_after_ms();
        match stream {
            StreamId::Inbox { .. } => Refusal::InboxFull { retry_after_ms },
            StreamId::Group { .. } => Refusal::GroupLogFull { retry_after_ms },
        }
    }

    fn is_online(&self, stream: StreamId) -> bool {
        match stream {
            StreamId::Inbox { device, .. } => self.routes.get(device).is_some(),
            StreamId::Group { app } => self.routes.is_app_online(app),
        }
    }
}

fn shares_key(a: &NewEntry, b: &NewEntry) -> bool {
    let same = |a: Option<Keyed>, b: Option<Keyed>| a.zip(b).is_some_and(|(a, b)| a.key == b.key);
    same(a.record, b.record) || same(a.collapse, b.collapse)
}

fn put_back(queue: &mut VecDeque<Waiting>, in_flight: Vec<Waiting>) {
    for push in in_flight.into_iter().rev() {
        queue.push_front(push);
    }
}
