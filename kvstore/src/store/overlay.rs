//! The changes of the group that is being executed, over the database as it stands.
//!
//! Commands of a group run one after the other and see each other's changes through this; nobody
//! else does until the group is durable. The changes are absolute values, last one wins, so the log
//! record made of them can be applied any number of times.
//!
//! A few bytes of a request can change very many (a new expiry rewrites a value of any size), so each
//! transaction, and each command outside of one, has a limit ([`Overlay::start`]). What goes over it is
//! not kept, and whoever runs it takes the rest back ([`Overlay::undo_to`]).
//!
//! ```text
//! record   clear? then per change: [code u8][key bytes u32][key]([value bytes u32][value])
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use rocksdb::ReadOptions;

use super::database::{Database, StoreError};
use super::layout::{self, Family, Malformed};
use super::view::{Direction, View, Visit};

/// Versions one group can hand out; also the most changes that make sense in one record.
const VERSION_BITS: u32 = 24;

/// One change of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Drop everything: `FLUSHALL`. Always the first of its record.
    Clear,
    Put(Family, &'a [u8], &'a [u8]),
    Delete(Family, &'a [u8]),
}

type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a change takes in a record besides its key and value, at most.
const CHANGE_BYTES: usize = 1 + 4 + 4;

/// How to take a change back.
enum Undo {
    /// The key had this change before, or none.
    Change { family: Family, key: Vec<u8>, before: Option<Option<Vec<u8>>> },
    /// Everything was dropped, and these keys were not among those dropped before.
    Clear { changes: [Changes; 2], cleared: bool, dropped: Vec<Vec<u8>> },
}

/// A moment to come back to, until the next [`Overlay::start`].
#[derive(Clone, Copy)]
pub struct Savepoint {
    undo: usize,
    bytes: usize,
}

pub struct Overlay<'a> {
    database: &'a Database,
    sequence: u64,
    versions: u64,
    changes: [Changes; 2],
    cleared: bool,
    /// Metadata keys that had changed when the group dropped everything.
    changed_before_clear: BTreeSet<Vec<u8>>,
    bytes: usize,
    /// Where `bytes` must not go past.
    bytes_end: usize,
    is_overfull: bool,
    undo: Vec<Undo>,
}

impl<'a> Overlay<'a> {
    /// `sequence` is the number this group will have in the log.
    pub fn new(database: &'a Database, sequence: u64) -> Overlay<'a> {
        Overlay {
            database,
            sequence,
            versions: 0,
            changes: Default::default(),
            cleared: false,
            changed_before_clear: BTreeSet::new(),
            bytes: 0,
            bytes_end: usize::MAX,
            is_overfull: false,
            undo: Vec::new(),
        }
    }

    /// A transaction or a command begins, and may change so many bytes. What was changed before can be
    /// undone no more.
    pub fn start(&mut self, bytes_max: usize) -> Savepoint {
        self.undo.clear();
        self.bytes_end = self.bytes.saturating_add(bytes_max);
        self.is_overfull = false;
        self.savepoint()
    }

    /// Whether changes were left out since the start, since they were more than it allowed.
    pub fn is_overfull(&self) -> bool {
        self.is_overfull
    }

    pub fn savepoint(&self) -> Savepoint {
        Savepoint { undo: self.undo.len(), bytes: self.bytes }
    }

    /// The user's keys that were changed after a savepoint, each as often as it was, in that order.
    /// `None` when everything was dropped.
    pub fn changed_since(&self, savepoint: Savepoint) -> Option<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for undo in &self.undo[savepoint.undo..] {
            match undo {
                Undo::Clear { .. } => return None,
                Undo::Change { family: Family::Metadata, key, .. } => {
                    keys.push(layout::user_key(key).to_vec());
                }
                Undo::Change { .. } => {}
            }
        }
        Some(keys)
    }

    /// Takes back what was changed after a savepoint. Versions that were handed out stay used.
    pub fn undo_to(&mut self, savepoint: Savepoint) {
        self.bytes = savepoint.bytes;
        for undo in self.undo.drain(savepoint.undo..).rev() {
            match undo {
                Undo::Change { family, key, before } => match before {
                    Some(before) => _ = self.changes[family as usize].insert(key, before),
                    None => _ = self.changes[family as usize].remove(&key),
                },
                Undo::Clear { changes, cleared, dropped } => {
                    (self.changes, self.cleared) = (changes, cleared);
                    for key in dropped {
                        self.changed_before_clear.remove(&key);
                    }
                }
            }
        }
    }

    pub fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.change(family, key, Some(value));
    }

    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.change(family, key, None);
    }

    fn change(&mut self, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
        let bytes = CHANGE_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
        if self.is_overfull || bytes > self.bytes_end - self.bytes {
            self.is_overfull = true;
            return;
        }
        self.bytes += bytes;
        let before = self.changes[family as usize].insert(key.clone(), value);
        self.undo.push(Undo::Change { family, key, before });
    }

    /// Drops every key, those of this group included.
    pub fn clear(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let mut dropped = Vec::new();
        for key in changes[Family::Metadata as usize].keys() {
            if self.changed_before_clear.insert(key.clone()) {
                dropped.push(key.clone());
            }
        }
        self.undo.push(Undo::Clear { changes, cleared: self.cleared, dropped });
        self.cleared = true;
    }

    /// A version no collection has had before: above those of all earlier groups.
    pub fn next_version(&mut self) -> u64 {
        self.versions += 1;
        assert!(self.versions < 1 << VERSION_BITS, "a group is bounded far below this");
        self.sequence << VERSION_BITS | self.versions
    }

    pub fn is_empty(&self) -> bool {
        !self.cleared && self.changes.iter().all(BTreeMap::is_empty)
    }

    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// At least the bytes of the record: repeats are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether this group has changed the key, by its name.
    pub fn has_changed(&self, key: &[u8]) -> bool {
        let key = layout::metadata_key(key);
        self.changes[Family::Metadata as usize].contains_key(&key)
            || self.changed_before_clear.contains(&key)
    }

    /// The user's keys that this group has changed.
    pub fn changed_keys(&self) -> impl Iterator<Item = &[u8]> {
        let metadata = self.changes[Family::Metadata as usize].keys();
        metadata.chain(&self.changed_before_clear).map(|key| layout::user_key(key))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + 64);
        if self.cleared {
            out.push(CODE_CLEAR);
        }
        for (family, changes) in FAMILIES.into_iter().zip(&self.changes) {
            for (key, value) in changes {
                out.push(code(family, value.is_some()));
                put_bytes(&mut out, key);
                if let Some(value) = value {
                    put_bytes(&mut out, value);
                }
            }
        }
        out
    }
}

const FAMILIES: [Family; 2] = [Family::Metadata, Family::Member];
const CODE_CLEAR: u8 = 0;

fn code(family: Family, is_put: bool) -> u8 {
    match (family, is_put) {
        (Family::Metadata, true) => 1,
        (Family::Metadata, false) => 2,
        (Family::Member, true) => 3,
        (Family::Member, false) => 4,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).expect("requests are bounded").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The changes of a record, in the order they were written.
pub fn decode(mut record: &[u8]) -> Result<Vec<Change<'_>>, Malformed> {
    let mut changes = Vec::new();
    while let Some((&code, rest)) = record.split_first() {
        record = rest;
        changes.push(match code {
            CODE_CLEAR => Change::Clear,
            1 => Change::Put(Family::Metadata, take_bytes(&mut record)?, take_bytes(&mut record)?),
            2 => Change::Delete(Family::Metadata, take_bytes(&mut record)?),
            3 => Change::Put(Family::Member, take_bytes(&mut record)?, take_bytes(&mut record)?),
            4 => Change::Delete(Family::Member, take_bytes(&mut record)?),
            _ => return Err(Malformed),
        });
    }
    Ok(changes)
}

fn take_bytes<'a>(record: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (count, rest) = record.split_first_chunk::<4>().ok_or(Malformed)?;
    let (bytes, rest) =
        rest.split_at_checked(u32::from_be_bytes(*count) as usize).ok_or(Malformed)?;
    *record = rest;
    Ok(bytes)
}

impl View for Overlay<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes[family as usize].get(key) {
            Some(value) => Ok(value.clone()),
            None if self.cleared => Ok(None),
            None => {
                let found =
                    self.database.rocks().get_pinned_cf(self.database.family(family), key)?;
                Ok(found.map(|value| value.to_vec()))
            }
        }
    }

    fn scan(
        &self,
        family: Family,
        lower: &[u8],
        upper: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if lower >= upper {
            return Ok(());
        }
        let range = (Bound::Included(lower), Bound::Excluded(upper));
        let mut changes = self.changes[family as usize].range::<[u8], _>(range);
        let mut next_change = move || match direction {
            Direction::Forward => changes.next(),
            Direction::Backward => changes.next_back(),
        };
        if self.cleared {
            while let Some((key, value)) = next_change() {
                if value.as_ref().is_some_and(|value| visit(key, value).is_break()) {
                    break;
                }
            }
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        let rocks = self.database.rocks();
        let mut rows = rocks.raw_iterator_cf_opt(self.database.family(family), options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        let mut change = next_change();
        loop {
            let row = rows.item();
            // The change hides the row of the same key; otherwise whichever comes first.
            let (take_change, skip_row) = match (&change, row) {
                (None, None) => break,
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, false),
                (Some((changed, _)), Some((stored, _))) => {
                    let order = changed.as_slice().cmp(stored);
                    let order =
                        if direction == Direction::Backward { order.reverse() } else { order };
                    (order.is_le(), order.is_eq())
                }
            };
            let flow = if take_change {
                let (key, value) = change.take().expect("a change was compared");
                let flow =
                    value.as_ref().map_or(ControlFlow::Continue(()), |value| visit(key, value));
                change = next_change();
                flow
            } else {
                let (key, value) = row.expect("a row was compared");
                visit(key, value)
            };
            if flow.is_break() {
                return Ok(());
            }
            if !take_change || skip_row {
                match direction {
                    Direction::Forward => rows.next(),
                    Direction::Backward => rows.prev(),
                }
            }
        }
        Ok(rows.status()?)
    }
}
