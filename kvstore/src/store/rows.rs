//! Rows of metadata that were read lately, by their whole keys.
//!
//! RocksDB finds a row in about a microsecond in its memtables and in several in its files; this finds it in
//! a fifth of one. A string is one row, so for GET this is all there is to read.
//!
//! Two generations: what is found in the old one moves to the young one, and when the young one is full it
//! becomes the old one, whose rows go. So memory is bounded by `bytes_max`, and what is in use stays.
//!
//! Invariant: a row that is here is what the database has. Groups are applied between [`Rows::begin`] and
//! [`Rows::end`]; meanwhile readers go to the database, and what they read there they do not leave here. The
//! writer may read all the time: what a group that is being applied changes, it has in that group's layer.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

const SHARDS: usize = 64;

/// Larger rows are read from the database: values of 4 KiB fit, with keys of the usual length.
const ROW_BYTES_MAX: usize = 4096 + 256;

/// What a row takes besides its key and value: about two allocations and a place in a table.
const ROW_BYTES: usize = 96;

pub struct Rows {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    /// Of a generation of a shard.
    bytes_max: usize,
    /// Odd while a group is being applied.
    epoch: AtomicU64,
}

#[derive(Default)]
struct Shard {
    young: Generation,
    old: Generation,
    young_bytes: usize,
    old_bytes: usize,
}

/// By the hash of the key. Of two keys with one hash the later one stays.
type Generation = HashMap<u64, Row, BuildHasherDefault<Identity>>;

/// The key, and then the value.
struct Row {
    both: Bytes,
    key_bytes: usize,
}

impl Row {
    fn new(key: &[u8], value: &[u8]) -> Row {
        Row { both: [key, value].concat().into(), key_bytes: key.len() }
    }

    fn is_of(&self, key: &[u8]) -> bool {
        self.both[..self.key_bytes] == *key
    }

    fn value(&self) -> Bytes {
        self.both.slice(self.key_bytes..)
    }

    fn bytes(&self) -> usize {
        ROW_BYTES + self.both.len()
    }
}

/// The keys are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole hashes are looked up");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A moment at which no group was being applied.
#[derive(Clone, Copy)]
pub struct Moment(u64);

impl Rows {
    /// With 0 bytes there are none.
    pub fn new(bytes_max: usize) -> Rows {
        Rows {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bytes_max: bytes_max / SHARDS / 2,
            epoch: AtomicU64::new(0),
        }
    }

    /// `None` while a group is being applied.
    pub fn now(&self) -> Option<Moment> {
        let epoch = self.epoch.load(SeqCst);
        epoch.is_multiple_of(2).then_some(Moment(epoch))
    }

    /// Whether nothing has been applied since.
    pub fn is_now(&self, moment: Moment) -> bool {
        self.epoch.load(SeqCst) == moment.0
    }

    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        if self.bytes_max == 0 {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        if let Some(row) = shard.young.get(&hash) {
            return row.is_of(key).then(|| row.value());
        }
        let row = shard.take_old(hash)?;
        let value = row.is_of(key).then(|| row.value());
        shard.put(hash, row, self.bytes_max);
        value
    }

    /// Keeps what was read from the database at a moment, if it still is what the database has.
    pub fn keep(&self, moment: Moment, key: &[u8], value: &[u8]) {
        if self.bytes_max == 0 || !is_kept(key, value) {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        // Under the lock, so that whoever applies a group comes after this with what it has.
        if self.is_now(moment) {
            shard.put(hash, Row::new(key, value), self.bytes_max);
        }
    }

    /// A group is about to be applied.
    pub fn begin(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    /// It is in the database.
    pub fn end(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    /// What a group has put there, or taken away. A row that nobody has read is not kept: most writes are not
    /// read soon.
    pub fn set(&self, key: &[u8], value: Option<&[u8]>) {
        if self.bytes_max == 0 {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        match value.filter(|value| is_kept(key, value)) {
            Some(value) if shard.has(hash) => {
                shard.take_old(hash);
                shard.put(hash, Row::new(key, value), self.bytes_max);
            }
            _ => shard.remove(hash),
        }
    }

    /// Whole spaces are gone, or a group may have been applied in part.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().expect("not poisoned: nothing panics under it") = Shard::default();
        }
    }

    /// What the rows take, about.
    pub fn bytes(&self) -> u64 {
        let rows = |shard: &Mutex<Shard>| {
            let shard = shard.lock().expect("not poisoned: nothing panics under it");
            shard.young_bytes + shard.old_bytes
        };
        self.shards.iter().map(rows).sum::<usize>() as u64
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the other end of the hash.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        shard.lock().expect("not poisoned: nothing panics under it")
    }
}

fn is_kept(key: &[u8], value: &[u8]) -> bool {
    key.len() + value.len() <= ROW_BYTES_MAX
}

impl Shard {
    fn has(&self, hash: u64) -> bool {
        self.young.contains_key(&hash) || self.old.contains_key(&hash)
    }

    fn put(&mut self, hash: u64, row: Row, bytes_max: usize) {
        self.young_bytes += row.bytes();
        if let Some(before) = self.young.insert(hash, row) {
            self.young_bytes -= before.bytes();
        }
        if self.young_bytes > bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
    }

    fn take_old(&mut self, hash: u64) -> Option<Row> {
        let row = self.old.remove(&hash)?;
        self.old_bytes -= row.bytes();
        Some(row)
    }

    fn remove(&mut self, hash: u64) {
        self.take_old(hash);
        if let Some(row) = self.young.remove(&hash) {
            self.young_bytes -= row.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Vec<u8> {
        format!("key:{number}").into_bytes()
    }

    #[test]
    fn what_is_in_use_stays_and_memory_is_bounded() {
        let rows = Rows::new(1 << 20);
        let now = rows.now().expect("nothing is applied");
        for number in 0..100_000 {
            rows.keep(now, &key(number), b"value");
            assert!(rows.get(b"key:0").is_some(), "it is asked for all the time");
        }
        let kept = (0..100_000).filter(|number| rows.get(&key(*number)).is_some()).count();
        let row_bytes = ROW_BYTES + "key:99999value".len();
        assert!(kept * row_bytes <= 1 << 20 && kept * row_bytes > 1 << 18, "{kept}");
    }

    #[test]
    fn what_was_read_before_a_group_is_not_kept_after_it() {
        let rows = Rows::new(1 << 20);
        let before = rows.now().expect("nothing is applied");
        rows.set(b"k", Some(b"older"));
        assert_eq!(rows.get(b"k"), None, "nobody has read it");
        rows.keep(before, b"k", b"old");
        rows.begin();
        assert!(rows.now().is_none());
        rows.set(b"k", Some(b"new"));
        rows.end();
        rows.keep(before, b"k", b"old");
        assert_eq!(rows.get(b"k").as_deref(), Some(&b"new"[..]));
        rows.set(b"k", None);
        rows.keep(before, b"k", b"old");
        assert_eq!(rows.get(b"k"), None);
        rows.keep(rows.now().expect("nothing is applied"), b"k", b"new");
        assert_eq!(rows.get(b"k").as_deref(), Some(&b"new"[..]));
        rows.set(b"k", Some(&[0; ROW_BYTES_MAX]));
        assert_eq!(rows.get(b"k"), None, "it is too large now, and the small one is gone");
    }

    /// Keys count as values do: a client chooses both.
    #[test]
    fn large_rows_are_not_kept() {
        let rows = Rows::new(64 << 20);
        let now = rows.now().expect("nothing is applied");
        for (key_bytes, value_bytes) in [(1, ROW_BYTES_MAX - 1), (ROW_BYTES_MAX - 1, 1)] {
            let (key, value) = (vec![b'k'; key_bytes], vec![b'v'; value_bytes]);
            rows.keep(now, &key, &value);
            assert_eq!(rows.get(&key).as_deref(), Some(&value[..]));
            let larger = vec![b'K'; key_bytes + 1];
            rows.keep(now, &larger, &value);
            assert_eq!(rows.get(&larger), None);
        }
    }

    /// What is said of the memory is what there is, whatever becomes of rows.
    #[test]
    fn bytes_are_those_of_the_rows() {
        let rows = Rows::new(256 << 10);
        let mut random = 0x5eed_u64;
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            let key = key((random >> 33) as usize % 1000);
            let value = vec![b'v'; (random >> 50) as usize % 5000];
            match random >> 61 {
                0..4 => rows.keep(rows.now().expect("nothing is applied"), &key, &value),
                4..6 => _ = rows.get(&key),
                6 => rows.set(&key, Some(&value)),
                _ => rows.set(&key, None),
            }
            if round % 1000 == 999 {
                let of = |generation: &Generation| {
                    generation.values().map(Row::bytes).sum::<usize>() as u64
                };
                let walked = rows.shards.iter().map(|shard| {
                    let shard = shard.lock().expect("nothing panics under it");
                    of(&shard.young) + of(&shard.old)
                });
                assert_eq!(rows.bytes(), walked.sum::<u64>());
            }
        }
        assert!(rows.bytes() > 0);
        rows.clear();
        assert_eq!(rows.bytes(), 0);
    }
}
