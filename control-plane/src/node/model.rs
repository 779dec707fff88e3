//! The store in memory: executes every [`StoreOp`] with the meaning it has over RESP.
//!
//! It is the reference: the simulator runs on it, and the differential test compares the real
//! executor and its store with it. Operations are atomic, as the commands of one are on the real
//! store as far as the node can tell.
//!
//! It does not fail: whoever drives it decides which operations fail, and whether before or after
//! they were executed. Keys expire by the time that `execute` is given.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_codec::ids::{AppId, Seq};

use crate::node::event::{
    Count, CountField, CountKey, Expired, NewEntry, Outcome, Removal, StoreOp, StoreResult,
    StreamId, Tail, Trim,
};
use crate::records::{App, KeyHash, NewApp, Pointer};

#[derive(Clone, Debug, Default)]
pub struct Model {
    streams: BTreeMap<StreamId, Stream>,
    records: BTreeMap<(StreamId, KeyHash), Kept<Pointer>>,
    collapses: BTreeMap<(StreamId, KeyHash), Kept<Pointer>>,
    tombstones: BTreeMap<(StreamId, Seq), Kept<Removal>>,
    counts: BTreeMap<CountKey, Kept<BTreeMap<CountField, u64>>>,
    apps: BTreeMap<AppId, Bytes>,
    apps_version: u64,
}

#[derive(Clone, Debug, Default)]
struct Stream {
    last: Seq,
    entries: BTreeMap<Seq, Bytes>,
}

/// A value that goes away at a time.
#[derive(Clone, Debug)]
struct Kept<T> {
    value: T,
    until_unix_ms: u64,
}

impl<T> Kept<T> {
    fn live(&self, unix_ms: u64) -> Option<&T> {
        (unix_ms < self.until_unix_ms).then_some(&self.value)
    }
}

impl Model {
    pub fn execute(&mut self, op: &StoreOp, unix_ms: u64) -> StoreResult {
        match op {
            StoreOp::Append { stream, seq, entry } => self.append(*stream, *seq, entry),
            StoreOp::AppendAll { stream, entries_max, entries } => {
                self.append_all(*stream, *entries_max, entries, unix_ms)
            }
            StoreOp::Tail { stream } => StoreResult::Tail(self.tail(*stream)),
            StoreOp::Read { stream, after, count } => self.read(*stream, *after, *count),
            StoreOp::Find { stream, seq } => self.find(*stream, *seq, unix_ms),
            StoreOp::Trim { trims } => {
                StoreResult::Trimmed(trims.iter().map(|trim| self.trim(trim)).collect())
            }
            StoreOp::Delete { stream, entries } => self.delete(*stream, entries, unix_ms),
            StoreOp::Scan { cursor, count } => self.scan(*cursor, *count),
            StoreOp::Count { counts } => {
                counts.iter().for_each(|count| self.count(count, unix_ms));
                StoreResult::Counted
            }
            StoreOp::ReadCounts { keys } => {
                StoreResult::Counts(keys.iter().map(|key| self.read_counts(key, unix_ms)).collect())
            }
            StoreOp::ReadApps { known } => self.read_apps(*known),
            StoreOp::WriteApp { expected, app, record } => {
                if *expected != self.apps_version {
                    return StoreResult::Conflict;
                }
                self.apps.insert(*app, record.clone());
                self.apps_version += 1;
                StoreResult::AppWritten
            }
        }
    }

    /// The entries of a stream, for oracles.
    pub fn entries(&self, stream: StreamId) -> impl Iterator<Item = (Seq, &Bytes)> {
        self.streams
            .get(&stream)
            .into_iter()
            .flat_map(|stream| stream.entries.iter().map(|(&seq, entry)| (seq, entry)))
    }

    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.keys().copied()
    }

    pub fn tail(&self, stream: StreamId) -> Tail {
        self.streams.get(&stream).map_or_else(Tail::default, Stream::tail)
    }

    fn append(&mut self, stream: StreamId, seq: Seq, entry: &Bytes) -> StoreResult {
        if seq <= self.tail(stream).last {
            return StoreResult::Conflict;
        }
        self.streams.entry(stream).or_default().push(seq, entry);
        StoreResult::Appended
    }

    fn append_all(
        &mut self,
        stream: StreamId,
        entries_max: u64,
        entries: &[NewEntry],
        unix_ms: u64,
    ) -> StoreResult {
        let tail = self.tail(stream);
        let known = |record: &BTreeMap<_, Kept<Pointer>>, key| {
            record.get(&(stream, key)).and_then(|kept| kept.live(unix_ms)).copied()
        };
        let duplicates: Vec<Option<Pointer>> = entries
            .iter()
            .map(|new| new.record.and_then(|record| known(&self.records, record.key)))
            .collect();
        let earlier: Vec<Option<Pointer>> = entries
            .iter()
            .zip(&duplicates)
            .map(|(new, duplicate)| {
                let collapse = new.collapse.filter(|_| duplicate.is_none())?;
                let earlier = known(&self.collapses, collapse.key)?;
                self.streams.get(&stream)?.entries.contains_key(&earlier.seq).then_some(earlier)
            })
            .collect();
        let stored = duplicates.iter().filter(|duplicate| duplicate.is_none()).count() as u64;
        let removed = earlier.iter().flatten().count() as u64;
        if stored > 0 && tail.entries + stored - removed > entries_max {
            return StoreResult::Full(tail);
        }
        let mut outcomes = Vec::with_capacity(entries.len());
        for ((new, duplicate), earlier) in entries.iter().zip(duplicates).zip(earlier) {
            outcomes.push(match duplicate {
                Some(pointer) => Outcome::Duplicate(pointer),
                None => self.append_new(stream, new, earlier, unix_ms),
            });
        }
        StoreResult::AppendedAll { tail: self.tail(stream), outcomes }
    }

    fn append_new(
        &mut self,
        stream: StreamId,
        new: &NewEntry,
        earlier: Option<Pointer>,
        unix_ms: u64,
    ) -> Outcome {
        let inbox = self.streams.entry(stream).or_default();
        let seq = inbox.last.next();
        inbox.push(seq, &new.entry);
        let pointer = Pointer { seq, expires_unix_ms: new.expires_unix_ms };
        if let Some(record) = new.record {
            let until_unix_ms = unix_ms + record.keep_ms;
            self.records.insert((stream, record.key), Kept { value: pointer, until_unix_ms });
        }
        let Some(collapse) = new.collapse else { return Outcome::Stored { seq } };
        let until_unix_ms = unix_ms + collapse.keep_ms;
        self.collapses.insert((stream, collapse.key), Kept { value: pointer, until_unix_ms });
        let Some(earlier) = earlier else { return Outcome::Stored { seq } };
        let inbox = self.streams.get_mut(&stream).expect("an entry was just appended");
        inbox.entries.remove(&earlier.seq);
        let longer_ms = earlier.expires_unix_ms.saturating_sub(new.expires_unix_ms);
        let until_unix_ms = until_unix_ms + longer_ms;
        self.tombstones
            .insert((stream, earlier.seq), Kept { value: Removal::Collapsed, until_unix_ms });
        Outcome::Collapsed { seq, earlier: earlier.seq }
    }

    fn read(&self, stream: StreamId, after: Seq, count: u32) -> StoreResult {
        let from = Seq(after.0 + 1);
        let entries = self
            .streams
            .get(&stream)
            .into_iter()
            .flat_map(|stream| stream.entries.range(from..))
            .take(count as usize)
            .map(|(&seq, entry)| (seq, entry.clone()))
            .collect();
        StoreResult::Entries { tail: self.tail(stream), entries }
    }

    fn find(&self, stream: StreamId, seq: Seq, unix_ms: u64) -> StoreResult {
        let entry = self.streams.get(&stream).and_then(|stream| stream.entries.get(&seq)).cloned();
        let tombstone = self.tombstones.get(&(stream, seq));
        let removal = tombstone.and_then(|kept| kept.live(unix_ms)).copied();
        StoreResult::Found { tail: self.tail(stream), entry, removal }
    }

    fn trim(&mut self, trim: &Trim) -> u64 {
        let Some(stream) = self.streams.get_mut(&trim.stream) else { return 0 };
        let before = stream.entries.len();
        stream.entries = stream.entries.split_off(&Seq(trim.upto.0 + 1));
        (before - stream.entries.len()) as u64
    }

    fn delete(&mut self, stream: StreamId, entries: &[Expired], unix_ms: u64) -> StoreResult {
        let mut deleted = 0;
        for expired in entries {
            let key = (stream, expired.seq);
            if self.tombstones.get(&key).is_none_or(|kept| kept.live(unix_ms).is_none()) {
                let until_unix_ms = unix_ms + expired.keep_ms;
                self.tombstones.insert(key, Kept { value: Removal::Expired, until_unix_ms });
            }
            let inbox = self.streams.get_mut(&stream);
            deleted += u64::from(inbox.is_some_and(|inbox| inbox.entries.remove(&key.1).is_some()));
        }
        StoreResult::Deleted(deleted)
    }

    /// The cursor counts streams in key order; a real store's has another meaning and the same use.
    fn scan(&self, cursor: u64, count: u32) -> StoreResult {
        let streams: Vec<StreamId> =
            self.streams.keys().skip(cursor as usize).take(count as usize).copied().collect();
        let next = cursor + streams.len() as u64;
        let cursor = if next < self.streams.len() as u64 { next } else { 0 };
        StoreResult::Scanned { cursor, streams }
    }

    fn count(&mut self, count: &Count, unix_ms: u64) {
        let kept = self
            .counts
            .entry(count.key)
            .or_insert_with(|| Kept { value: BTreeMap::new(), until_unix_ms: u64::MAX });
        if kept.live(unix_ms).is_none() {
            *kept = Kept { value: BTreeMap::new(), until_unix_ms: u64::MAX };
        }
        *kept.value.entry(count.field).or_default() += count.by;
        if let Some(keep_ms) = count.keep_ms {
            kept.until_unix_ms = unix_ms + keep_ms;
        }
    }

    fn read_counts(&self, key: &CountKey, unix_ms: u64) -> Vec<(CountField, u64)> {
        let kept = self.counts.get(key).and_then(|kept| kept.live(unix_ms));
        kept.into_iter().flatten().map(|(&field, &value)| (field, value)).collect()
    }

    fn read_apps(&self, known: u64) -> StoreResult {
        let apps = (known != self.apps_version).then(|| {
            let app =
                |(&id, record): (&AppId, &Bytes)| NewApp::decode(record).map(|new| App { id, new });
            self.apps.iter().filter_map(app).collect()
        });
        StoreResult::Apps { version: self.apps_version, apps }
    }
}

impl Stream {
    fn push(&mut self, seq: Seq, entry: &Bytes) {
        self.last = seq;
        self.entries.insert(seq, entry.clone());
    }

    fn tail(&self) -> Tail {
        Tail {
            last: self.last,
            entries: self.entries.len() as u64,
            first: self.entries.first_key_value().map(|(&seq, _)| seq),
        }
    }
}
