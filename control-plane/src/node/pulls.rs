//! Reads for devices and shards: inbox pulls, group pulls, group fetches.
//!
//! ```text
//!  Pull, GroupPull, GroupFetch ─▶ one queue per link ─▶ in turn, at most reads_max under way
//!     ─▶ Read ─▶ (Delete what expired) ─▶ Entries | GroupEntries | GroupFetched | Reset
//! ```
//!
//! A reconnect storm is a million pulls: they wait here, 64 bytes each, links take turns, and a
//! later pull of a session replaces its waiting one. Every pull is answered, also when too many
//! wait: then with nothing and "more", and the device asks again.
//!
//! The answer goes up to a place (`upto`): everything that was there up to it is in the answer or
//! is gone. Entries whose time is over are deleted, and counted by what the deletion found,
//! before the answer leaves; otherwise the acknowledgement of what follows them could count them
//! as delivered.
//!
//! A read that fails is read again, later: the session keeps waiting for its answer.

use std::collections::VecDeque;

use bytes::Bytes;
use hawser_codec::ids::{AppId, DeviceId, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::{PULL_BYTES_MAX, PULL_ENTRIES_MAX};
use hawser_codec::link::{self, Pulled, to_broker};

use super::counters::Counter;
use super::delivery::{as_pulled, as_sent_at_once};
use super::event::{Actions, Expired, LinkId, Now, StoreOp, StoreResult, StreamId, Tail};
use super::table::Table;
use super::{Node, Purpose, SeededBug};
use crate::records::{Entry, TOMBSTONE_KEEP_MS};

/// Who asked, and where the answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Inbox { device: DeviceId, app: AppId, session: SessionRef },
    Group { app: AppId, session: SessionRef, topics: Box<[TopicId]> },
    Fetch { app: AppId },
}

/// What identifies a reader on its link: a later request replaces an earlier one. The slot alone
/// would not do: a failed read of its former session would take the present one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ReaderKey {
    Inbox { session: SessionRef },
    Group { session: SessionRef },
    Fetch { app: AppId },
}

/// A read for one answer, between its steps.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    link: LinkId,
    reader: Reader,
    from: Seq,
    /// What the answer has so far.
    found: Vec<(Seq, Entry)>,
    found_bytes: usize,
    upto: Seq,
    reads: u32,
}

/// An answer that waits for the deletion of what expired.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    reading: Reading,
    more: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pulls {
    queues: Table<LinkId, LinkQueue>,
    /// Links with something in their queue, each once, in turn.
    turns: VecDeque<LinkId>,
    waiting: usize,
    reading: usize,
    /// No read starts before this time: the store failed.
    paused_until_ms: u64,
}

#[derive(Debug, Default)]
struct LinkQueue {
    order: VecDeque<ReaderKey>,
    requests: Table<ReaderKey, (Reader, Seq)>,
}

impl Reader {
    fn key(&self) -> ReaderKey {
        match self {
            Reader::Inbox { session, .. } => ReaderKey::Inbox { session: *session },
            Reader::Group { session, .. } => ReaderKey::Group { session: *session },
            Reader::Fetch { app } => ReaderKey::Fetch { app: *app },
        }
    }

    fn stream(&self) -> StreamId {
        match *self {
            Reader::Inbox { device, app, .. } => StreamId::Inbox { app, device },
            Reader::Group { app, .. } | Reader::Fetch { app } => StreamId::Group { app },
        }
    }

    fn wants(&self, topic: TopicId) -> bool {
        match self {
            Reader::Inbox { .. } | Reader::Fetch { .. } => true,
            Reader::Group { topics, .. } => topic == TopicId::ALL || topics.contains(&topic),
        }
    }
}

impl Pulls {
    pub fn waiting(&self) -> usize {
        self.waiting + self.reading
    }

    pub fn link_down(&mut self, link: LinkId) {
        if let Some(queue) = self.queues.remove(&link) {
            self.waiting -= queue.order.len();
            self.turns.retain(|&turn| turn != link);
        }
    }

    /// Returns whether the request replaced a waiting one.
    fn push(&mut self, link: LinkId, reader: Reader, from: Seq) -> bool {
        let queue = self.queues.entry(link).or_default();
        let key = reader.key();
        if queue.requests.insert(key, (reader, from)).is_some() {
            return true;
        }
        if queue.order.is_empty() {
            self.turns.push_back(link);
        }
        queue.order.push_back(key);
        self.waiting += 1;
        false
    }

    fn has_waiting(&self, link: LinkId, reader: &Reader) -> bool {
        self.queues.get(&link).is_some_and(|queue| queue.requests.contains_key(&reader.key()))
    }

    fn pop(&mut self) -> Option<(LinkId, Reader, Seq)> {
        let link = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&link).expect("a link with a turn has a queue");
        let key = queue.order.pop_front().expect("a link with a turn has a request");
        let (reader, from) = queue.requests.remove(&key).expect("what is in order is a request");
        if queue.order.is_empty() {
            self.queues.remove(&link);
        } else {
            self.turns.push_back(link);
        }
        self.waiting -= 1;
        Some((link, reader, from))
    }

    fn can_start(&self, now: Now, reads_max: usize) -> bool {
        !self.turns.is_empty() && self.reading < reads_max && self.paused_until_ms <= now.mono_ms
    }

    pub fn deadline_ms(&self, reads_max: usize) -> Option<u64> {
        (!self.turns.is_empty() && self.reading < reads_max).then_some(self.paused_until_ms)
    }

    pub fn invariants(&self, node: &Node) {
        let limits = &node.config.limits;
        let waiting: usize = self.queues.values().map(|queue| queue.order.len()).sum();
        assert_eq!(waiting, self.waiting);
        // A read that failed waits again, whatever came in the meantime.
        assert!(self.waiting <= limits.pulls_waiting_max + limits.reads_max, "bounded: pulls");
        assert!(self.reading <= limits.reads_max, "bounded: reads");
        assert_eq!(self.turns.len(), self.queues.len(), "every waiting link has one turn");
        for (link, queue) in &self.queues {
            assert!(!queue.order.is_empty() && self.turns.contains(link));
            assert_eq!(queue.order.len(), queue.requests.len());
            assert!(node.routes.link(*link).is_some(), "pulls of lost links are forgotten");
        }
        let reading = node
            .ops
            .purposes()
            .filter(|purpose| matches!(purpose, Purpose::Read(_) | Purpose::DeleteThenSend(_)));
        assert_eq!(reading.count(), self.reading, "bounded: every read is counted");
    }
}

impl Node {
    pub(super) fn on_pull(&mut self, link: LinkId, pulled: Pulled, now: Now, out: &mut Actions) {
        let Pulled { device, app, session, from } = pulled;
        self.request(link, Reader::Inbox { device, app, session }, from, now, out);
    }

    pub(super) fn request(
        &mut self,
        link: LinkId,
        reader: Reader,
        from: Seq,
        now: Now,
        out: &mut Actions,
    ) {
        self.counters.add(Counter::Pulls, 1);
        let is_full = self.pulls.waiting >= self.config.limits.pulls_waiting_max;
        if is_full && !self.pulls.has_waiting(link, &reader) {
            self.counters.add(Counter::PullsPutOff, 1);
            let reading = Reading::new(link, reader, from);
            self.send_answer(&Ready { reading, more: true }, out);
            return;
        }
        if self.pulls.push(link, reader, from) {
            self.counters.add(Counter::PullsMerged, 1);
        }
        self.start_reads(now, out);
    }

    pub(super) fn start_reads(&mut self, now: Now, out: &mut Actions) {
        while self.pulls.can_start(now, self.config.limits.reads_max) {
            let (link, reader, from) = self.pulls.pop().expect("a link has its turn");
            self.pulls.reading += 1;
            self.read(Reading::new(link, reader, from), out);
        }
    }

    fn read(&mut self, mut reading: Reading, out: &mut Actions) {
        reading.reads += 1;
        let stream = reading.reader.stream();
        let (after, count) = (reading.upto, self.config.limits.read_entries);
        let request = StoreOp::Read { stream, after, count };
        self.ops.store(Purpose::Read(Box::new(reading)), request, out);
    }

    pub(super) fn on_read(
        &mut self,
        reading: Reading,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        if self.routes.link(reading.link).is_none() {
            self.pulls.reading -= 1;
        } else {
            match result {
                StoreResult::Entries { tail, entries } => {
                    self.on_read_entries(reading, tail, entries, now, out);
                }
                StoreResult::Failed(_) => self.read_again(reading, now),
                other => unreachable!("a read is not answered with {other:?}"),
            }
        }
        self.start_reads(now, out);
    }

    fn on_read_entries(
        &mut self,
        mut reading: Reading,
        tail: Tail,
        entries: Vec<(Seq, Bytes)>,
        now: Now,
        out: &mut Actions,
    ) {
        let session = match reading.reader {
            Reader::Inbox { session, .. } => Some((session, Stream::Inbox)),
            Reader::Group { session, .. } => Some((session, Stream::Group)),
            Reader::Fetch { .. } => None,
        };
        if let Some((session, stream)) = session.filter(|_| reading.from > tail.last) {
            self.pulls.reading -= 1;
            self.counters.add(Counter::Resets, 1);
            let end = tail.last;
            out.send(reading.link, |bytes| to_broker::reset(bytes, session, stream, end));
            return;
        }
        let is_inbox = matches!(reading.reader, Reader::Inbox { .. });
        if is_inbox && tail.first.is_some_and(|first| first <= reading.from) {
            self.acknowledge(reading.reader.stream(), reading.from);
        }
        let is_end = entries.len() < self.config.limits.read_entries as usize;
        let (expired, is_cut) = self.take_entries(&mut reading, entries, now);
        if is_end && !is_cut {
            // The end was read before the entries: there may be later ones among them.
            reading.upto = reading.upto.max(tail.last);
        }
        let more = is_cut || reading.upto < tail.last;
        let may_go_on = reading.reads < self.config.limits.reads_per_answer_max;
        if !expired.is_empty() && matches!(reading.reader, Reader::Inbox { .. }) {
            let stream = reading.reader.stream();
            let request = StoreOp::Delete { stream, entries: expired };
            let purpose = Purpose::DeleteThenSend(Box::new(Ready { reading, more }));
            self.ops.store(purpose, request, out);
        } else if more && !is_cut && may_go_on && reading.found.is_empty() {
            // Nothing for this reader among many entries: look on before answering "more".
            self.read(reading, out);
        } else {
            self.pulls.reading -= 1;
            self.send_answer(&Ready { reading, more }, out);
        }
    }

    /// Moves what was read into the answer. Returns the expired entries that it met, and whether
    /// the answer is full before the end of `entries`.
    fn take_entries(
        &mut self,
        reading: &mut Reading,
        entries: Vec<(Seq, Bytes)>,
        now: Now,
    ) -> (Vec<Expired>, bool) {
        let mut expired = Vec::new();
        for (seq, stored) in entries {
            match Entry::decode(&stored) {
                None => self.counters.add(Counter::BadRecords, 1),
                Some(entry)
                    if entry.expires_unix_ms <= now.unix_ms
                        && !self.bug(SeededBug::ExpiredDelivered) =>
                {
                    expired.push(Expired { seq, keep_ms: TOMBSTONE_KEEP_MS });
                }
                Some(entry) if reading.reader.wants(entry.topic) => {
                    if !reading.has_room(&entry) {
                        return (expired, true);
                    }
                    reading.found_bytes += entry.payload.len();
                    reading.found.push((seq, entry));
                }
                Some(_) => {}
            }
            reading.upto = seq;
        }
        (expired, false)
    }

    pub(super) fn on_deleted_then_send(
        &mut self,
        ready: Ready,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        match result {
            StoreResult::Deleted(count) => {
                let stream = ready.reading.reader.stream();
                self.count_expired(stream, count);
                if ready.reading.has_expired(now) && !self.bug(SeededBug::ExpiredDelivered) {
                    // The deletion took its time: another entry is over now.
                    let Reading { link, reader, from, .. } = ready.reading;
                    self.read(Reading::new(link, reader, from), out);
                    return;
                }
                self.pulls.reading -= 1;
                self.send_answer(&ready, out);
            }
            StoreResult::Failed(_) => self.read_again(ready.reading, now),
            other => unreachable!("a deletion is not answered with {other:?}"),
        }
        self.start_reads(now, out);
    }

    /// The store failed: from the beginning, after a pause.
    fn read_again(&mut self, reading: Reading, now: Now) {
        self.pulls.reading -= 1;
        self.pulls.paused_until_ms = now.mono_ms + u64::from(self.retry_after_ms());
        let Reading { link, reader, from, .. } = reading;
        if self.bug(SeededBug::PullLostOnFailure) || self.routes.link(link).is_none() {
            return;
        }
        self.counters.add(Counter::PullsRetried, 1);
        // A later request of the same reader is waiting: it answers this one as well.
        if !self.pulls.has_waiting(link, &reader) {
            self.pulls.push(link, reader, from);
        }
    }

    fn send_answer(&mut self, ready: &Ready, out: &mut Actions) {
        let Ready { reading: Reading { link, reader, found, upto, .. }, more } = ready;
        if self.routes.link(*link).is_none() {
            return;
        }
        self.counters.add(Counter::PulledEntries, found.len() as u64);
        let pulled = || -> Vec<link::Entry<'_>> {
            found.iter().map(|(seq, entry)| as_pulled(*seq, entry)).collect()
        };
        out.send(*link, |bytes| match reader {
            Reader::Inbox { session, .. } => {
                to_broker::entries(bytes, *session, *upto, *more, &pulled());
            }
            Reader::Group { session, .. } => {
                to_broker::group_entries(bytes, *session, *upto, *more, &pulled());
            }
            Reader::Fetch { app } => {
                let entries: Vec<link::Entry<'_>> =
                    found.iter().map(|(seq, entry)| as_sent_at_once(*seq, entry)).collect();
                to_broker::group_fetched(bytes, *app, *upto, *more, &entries);
            }
        });
    }
}

impl Reading {
    fn new(link: LinkId, reader: Reader, from: Seq) -> Reading {
        Reading { link, reader, from, found: Vec::new(), found_bytes: 0, upto: from, reads: 0 }
    }

    fn has_expired(&self, now: Now) -> bool {
        self.found.iter().any(|(_, entry)| entry.expires_unix_ms <= now.unix_ms)
    }

    /// One entry always fits, however large.
    fn has_room(&self, entry: &Entry) -> bool {
        self.found.is_empty()
            || (self.found.len() < PULL_ENTRIES_MAX
                && self.found_bytes + entry.payload.len() <= PULL_BYTES_MAX)
    }
}
