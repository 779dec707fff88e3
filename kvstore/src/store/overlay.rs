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
//! record   clears, each [0][from u32][to u32], then per change: [code u8][key bytes u32][key]([value bytes u32][value])
//! ```

use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use rocksdb::ReadOptions;

use super::database::{Database, StoreError};
use super::layout::{self, Family, Malformed};
use super::spaces::{Namespace, Row, Rows, Selected, Slots};
use super::view::{Direction, View, Visit};

/// Versions one group can hand out; also the most changes that make sense in one record.
const VERSION_BITS: u32 = 24;

/// One change of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Drop all spaces from one to before another. Always before the others of its record.
    Clear(u32, u32),
    Put(Family, &'a [u8], &'a [u8]),
    Delete(Family, &'a [u8]),
}

type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The changes of a group that ran, for as long as readers do not see them.
pub struct Layer {
    sequence: u64,
    changes: [Changes; 2],
    /// Spaces that were dropped, each from one to before another.
    cleared: Vec<(u32, u32)>,
    /// Metadata keys that had changed when the group dropped their space.
    changed_before_clear: BTreeSet<Vec<u8>>,
}

impl Layer {
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The metadata keys that it changes, in their spaces.
    pub fn changed_keys(&self) -> impl Iterator<Item = &[u8]> {
        let metadata = self.changes[Family::Metadata as usize].keys();
        metadata.chain(&self.changed_before_clear).map(Vec::as_slice)
    }

    /// The spaces that it drops, each from one to before another.
    pub fn cleared(&self) -> &[(u32, u32)] {
        &self.cleared
    }

    fn has_changed(&self, key: &[u8]) -> bool {
        self.changes[Family::Metadata as usize].contains_key(key)
            || self.changed_before_clear.contains(key)
    }

    fn has_cleared(&self, space: u32) -> bool {
        self.cleared.iter().any(|(from, to)| (*from..*to).contains(&space))
    }
}

/// What a change takes in a record besides its key and value, at most.
const CHANGE_BYTES: usize = 1 + 4 + 4;

/// How to take a change back.
enum Undo {
    /// The key had this change before, or none.
    Change { family: Family, key: Vec<u8>, before: Option<Option<Vec<u8>>> },
    /// These changes were dropped, and these keys were not among those dropped before.
    Clear { changes: [Changes; 2], is_new: bool, dropped: Vec<Vec<u8>> },
    /// What was worked on before.
    Select { selected: Selected, space: u32 },
}

/// A moment to come back to, until the next [`Overlay::start`].
#[derive(Clone, Copy)]
pub struct Savepoint {
    undo: usize,
    bytes: usize,
}

impl Savepoint {
    /// [`Overlay::bytes`] at that moment.
    pub fn bytes(self) -> usize {
        self.bytes
    }
}

pub struct Overlay<'a> {
    database: &'a Database,
    /// Groups that ran before and may not be in the database yet, the oldest first.
    below: Vec<Arc<Layer>>,
    own: Layer,
    versions: u64,
    selected: Selected,
    space: u32,
    /// Whether the system space may have changed.
    has_moved: bool,
    bytes: usize,
    /// Where `bytes` must not go past.
    bytes_end: usize,
    is_overfull: bool,
    undo: Vec<Undo>,
}

impl<'a> Overlay<'a> {
    /// `sequence` is the number this group will have in the log.
    pub fn new(database: &'a Database, sequence: u64) -> Overlay<'a> {
        Overlay::over(database, Vec::new(), sequence)
    }

    /// `below` is what is not in the database yet, the oldest first.
    pub fn over(database: &'a Database, below: Vec<Arc<Layer>>, sequence: u64) -> Overlay<'a> {
        Overlay {
            database,
            below,
            own: Layer {
                sequence,
                changes: Default::default(),
                cleared: Vec::new(),
                changed_before_clear: BTreeSet::new(),
            },
            versions: 0,
            selected: Selected::default(),
            space: database.spaces().space(Selected::default()),
            has_moved: false,
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

    /// The metadata keys that were changed after a savepoint, in their spaces, each as often as it was, in
    /// that order. `None` when databases were dropped or swapped.
    pub fn changed_since(&self, savepoint: Savepoint) -> Option<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        for undo in &self.undo[savepoint.undo..] {
            match undo {
                Undo::Clear { .. } => return None,
                Undo::Change { family: Family::Metadata, key, .. } => {
                    if layout::system_name(key).is_some() {
                        return None;
                    }
                    keys.push(key.clone());
                }
                Undo::Change { .. } | Undo::Select { .. } => {}
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
                    Some(before) => _ = self.own.changes[family as usize].insert(key, before),
                    None => _ = self.own.changes[family as usize].remove(&key),
                },
                Undo::Clear { changes, is_new, dropped } => {
                    for (now, before) in self.own.changes.iter_mut().zip(changes) {
                        now.extend(before);
                    }
                    if is_new {
                        self.own.cleared.pop();
                    }
                    for key in dropped {
                        self.own.changed_before_clear.remove(&key);
                    }
                }
                Undo::Select { selected, space } => {
                    (self.selected, self.space) = (selected, space);
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

    /// What comes after works on this database.
    pub fn select(&mut self, selected: Selected) {
        let space = self.space_of(selected);
        if space != self.space || selected != self.selected {
            self.undo.push(Undo::Select { selected: self.selected, space: self.space });
            (self.selected, self.space) = (selected, space);
        }
    }

    /// Where a database is, as this group sees it.
    pub fn space_of(&self, selected: Selected) -> u32 {
        selected.space(&self.slots(selected.namespace))
    }

    fn slots(&self, namespace: u32) -> Slots {
        let changed = self.has_moved.then(|| self.system_rows().ok()).flatten();
        let slots = changed.map(|rows| rows.slots(namespace));
        slots.unwrap_or_else(|| self.database.spaces().slots(namespace))
    }

    /// The rows of the system space as this group sees them.
    fn system_rows(&self) -> Result<Rows, Malformed> {
        let mut rows = self.database.spaces().rows().clone();
        let (lower, upper) = layout::system_space();
        for (key, value) in self.own.changes[Family::Metadata as usize].range(lower..upper) {
            rows.set(layout::system_name(key).ok_or(Malformed)?, value.as_deref())?;
        }
        Ok(rows)
    }

    fn change_system(&mut self, row: &Row, value: Option<Vec<u8>>) {
        self.has_moved = true;
        self.change_row(Family::Metadata, layout::system_key(&row.name()), value);
    }

    pub fn namespaces(&self) -> Result<BTreeMap<String, Namespace>, StoreError> {
        Ok(self.system_rows()?.namespaces)
    }

    pub fn last_namespace(&self) -> Result<u32, StoreError> {
        Ok(self.system_rows()?.last_namespace)
    }

    pub fn put_last_namespace(&mut self, number: u32) {
        self.change_system(&Row::LastNamespace, Some(number.to_be_bytes().to_vec()));
    }

    pub fn put_namespace(&mut self, name: &str, namespace: &Namespace) {
        self.change_system(&Row::Namespace(name.to_string()), Some(namespace.encode()));
    }

    /// Drops the namespace with all its databases.
    pub fn delete_namespace(&mut self, name: &str, namespace: u32) {
        let (from, to) = Selected { namespace, database: 0 }.namespace_spaces();
        self.clear(from, to);
        self.change_system(&Row::Namespace(name.to_string()), None);
        self.change_system(&Row::Slots(namespace), None);
    }

    /// Exchanges two databases of the namespace that is worked on.
    pub fn swap(&mut self, a: u8, b: u8) {
        let namespace = self.selected.namespace;
        let mut slots = self.slots(namespace);
        slots.swap(a.into(), b.into());
        self.change_system(&Row::Slots(namespace), Some(slots.to_vec()));
        self.select(self.selected);
    }

    fn change(&mut self, family: Family, mut key: Vec<u8>, value: Option<Vec<u8>>) {
        layout::move_to_space(&mut key, self.space);
        self.change_row(family, key, value);
    }

    fn change_row(&mut self, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
        let bytes = CHANGE_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
        if self.is_overfull || bytes > self.bytes_end - self.bytes {
            self.is_overfull = true;
            return;
        }
        self.bytes += bytes;
        let before = self.own.changes[family as usize].insert(key.clone(), value);
        self.undo.push(Undo::Change { family, key, before });
    }

    /// Drops every key of the database, those of this group included.
    pub fn clear_database(&mut self) {
        self.clear(self.space, self.space + 1);
    }

    /// Drops every key of the namespace, those of this group included.
    pub fn clear_namespace(&mut self) {
        let (from, to) = self.selected.namespace_spaces();
        self.clear(from, to);
    }

    fn clear(&mut self, from: u32, to: u32) {
        let is_new = !self.own.cleared.contains(&(from, to));
        if is_new && (self.is_overfull || CHANGE_BYTES > self.bytes_end - self.bytes) {
            self.is_overfull = true;
            return;
        }
        let (lower, upper) = layout::spaces(from, to);
        let mut changes: [Changes; 2] = Default::default();
        for (now, before) in self.own.changes.iter_mut().zip(&mut changes) {
            *before = now.split_off(&lower);
            now.append(&mut before.split_off(&upper));
        }
        let mut dropped = Vec::new();
        for key in changes[Family::Metadata as usize].keys() {
            if self.own.changed_before_clear.insert(key.clone()) {
                dropped.push(key.clone());
            }
        }
        self.undo.push(Undo::Clear { changes, is_new, dropped });
        if is_new {
            self.bytes += CHANGE_BYTES;
            self.own.cleared.push((from, to));
        }
    }

    /// A version no collection has had before: above those of all earlier groups.
    pub fn next_version(&mut self) -> u64 {
        self.versions += 1;
        assert!(self.versions < 1 << VERSION_BITS, "a group is bounded far below this");
        self.own.sequence << VERSION_BITS | self.versions
    }

    pub fn is_empty(&self) -> bool {
        self.own.cleared.is_empty() && self.own.changes.iter().all(BTreeMap::is_empty)
    }

    fn is_cleared(&self) -> bool {
        self.own.has_cleared(self.space)
    }

    /// Whether a space was dropped and readers do not see that yet.
    pub fn has_cleared(&self, space: u32, settled: u64) -> bool {
        let mut unsettled = self.unsettled(settled);
        self.own.has_cleared(space) || unsettled.any(|layer| layer.has_cleared(space))
    }

    fn unsettled(&self, settled: u64) -> impl Iterator<Item = &Arc<Layer>> {
        self.below.iter().filter(move |layer| layer.sequence > settled)
    }

    /// At least the bytes of the record: repeats are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether what a stored key stands for has changed, and readers do not see that yet.
    pub fn has_changed(&self, key: &[u8], settled: u64) -> bool {
        self.own.has_changed(key) || self.unsettled(settled).any(|layer| layer.has_changed(key))
    }

    /// Whether where databases are, or who may open them, was changed.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// What this group changes.
    pub fn own(&self) -> &Layer {
        &self.own
    }

    /// What is left when the group is over.
    pub fn into_layer(self) -> Layer {
        self.own
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + 64);
        for (from, to) in &self.own.cleared {
            out.push(CODE_CLEAR);
            out.extend_from_slice(&from.to_be_bytes());
            out.extend_from_slice(&to.to_be_bytes());
        }
        for (family, changes) in FAMILIES.into_iter().zip(&self.own.changes) {
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
            CODE_CLEAR => Change::Clear(take_u32(&mut record)?, take_u32(&mut record)?),
            1 => Change::Put(Family::Metadata, take_bytes(&mut record)?, take_bytes(&mut record)?),
            2 => Change::Delete(Family::Metadata, take_bytes(&mut record)?),
            3 => Change::Put(Family::Member, take_bytes(&mut record)?, take_bytes(&mut record)?),
            4 => Change::Delete(Family::Member, take_bytes(&mut record)?),
            _ => return Err(Malformed),
        });
    }
    Ok(changes)
}

fn take_u32(record: &mut &[u8]) -> Result<u32, Malformed> {
    let (number, rest) = record.split_first_chunk::<4>().ok_or(Malformed)?;
    *record = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_bytes<'a>(record: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let count = take_u32(record)? as usize;
    let (bytes, rest) = record.split_at_checked(count).ok_or(Malformed)?;
    *record = rest;
    Ok(bytes)
}

impl View for Overlay<'_> {
    fn selected(&self) -> Selected {
        self.selected
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = &*layout::in_space(key, self.space);
        if let Some(value) = self.own.changes[family as usize].get(key) {
            return Ok(value.clone());
        }
        if self.is_cleared() {
            return Ok(None);
        }
        for layer in self.below.iter().rev() {
            if let Some(value) = layer.changes[family as usize].get(key) {
                return Ok(value.clone());
            }
            if layer.has_cleared(self.space) {
                return Ok(None);
            }
        }
        // What a group that is being applied changes is in its layer, so the rest is what it was before.
        if family == Family::Metadata
            && let Some(value) = self.database.rows().get(key)
        {
            return Ok(Some(value.to_vec()));
        }
        let found = self.database.rocks().get_pinned_cf(self.database.family(family), key)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        family: Family,
        lower: &[u8],
        upper: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let lower = &*layout::in_space(lower, self.space);
        let upper = &*layout::end_in_space(upper, self.space);
        if lower >= upper {
            return Ok(());
        }
        let (mut layers, is_cleared) = self.layers_of(family, lower, upper, direction);
        let mut rows = None;
        if !is_cleared {
            let mut options = ReadOptions::default();
            options.set_iterate_lower_bound(lower);
            options.set_iterate_upper_bound(upper);
            let rocks = self.database.rocks();
            let rows =
                rows.insert(rocks.raw_iterator_cf_opt(self.database.family(family), options));
            match direction {
                Direction::Forward => rows.seek_to_first(),
                Direction::Backward => rows.seek_to_last(),
            }
        }
        loop {
            let row = rows.as_ref().and_then(|rows| rows.item());
            // The newest layer of those that have the next key; it hides the others and the row.
            let mut next: Option<(&[u8], Option<&[u8]>)> = None;
            for layer in &layers {
                if let Some((key, value)) = layer.head
                    && next.is_none_or(|(first, _)| direction.is_before(key, first))
                {
                    next = Some((key, value));
                }
            }
            let row_is_next = match (next, row) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some((key, _)), Some((stored, _))) => direction.is_before(stored, key),
            };
            let flow = match (next, row) {
                (_, Some((key, value))) if row_is_next => visit(key, value),
                (Some((key, Some(value))), _) => visit(key, value),
                (Some((_, None)), _) => ControlFlow::Continue(()),
                (None, _) => break,
            };
            if flow.is_break() {
                return Ok(());
            }
            let skips_row = row_is_next
                || row.is_some_and(|(stored, _)| next.is_some_and(|(key, _)| key == stored));
            if !row_is_next && let Some((key, _)) = next {
                layers.iter_mut().for_each(|layer| layer.skip(key));
            }
            if skips_row && let Some(rows) = &mut rows {
                match direction {
                    Direction::Forward => rows.next(),
                    Direction::Backward => rows.prev(),
                }
            }
        }
        if let Some(rows) = rows {
            rows.status()?;
        }
        Ok(())
    }
}

impl Overlay<'_> {
    /// The changes of a range, the newest layer first, and whether they hide everything below.
    fn layers_of<'k>(
        &self,
        family: Family,
        lower: &'k [u8],
        upper: &'k [u8],
        direction: Direction,
    ) -> (Vec<Cursor<'_>>, bool) {
        let range = (Bound::Included(lower), Bound::Excluded(upper));
        let own = self.own.changes[family as usize].range::<[u8], _>(range);
        let mut cursors = vec![Cursor::new(own, direction)];
        if self.is_cleared() {
            return (cursors, true);
        }
        for layer in self.below.iter().rev() {
            let changes = layer.changes[family as usize].range::<[u8], _>(range);
            cursors.push(Cursor::new(changes, direction));
            if layer.has_cleared(self.space) {
                return (cursors, true);
            }
        }
        (cursors, false)
    }
}

/// Where a scan is in the changes of one group.
struct Cursor<'c> {
    changes: btree_map::Range<'c, Vec<u8>, Option<Vec<u8>>>,
    direction: Direction,
    /// The next key, and its value if it was not deleted.
    head: Option<(&'c [u8], Option<&'c [u8]>)>,
}

impl<'c> Cursor<'c> {
    fn new(
        changes: btree_map::Range<'c, Vec<u8>, Option<Vec<u8>>>,
        direction: Direction,
    ) -> Cursor<'c> {
        let mut cursor = Cursor { changes, direction, head: None };
        cursor.advance();
        cursor
    }

    fn advance(&mut self) {
        let next = match self.direction {
            Direction::Forward => self.changes.next(),
            Direction::Backward => self.changes.next_back(),
        };
        self.head = next.map(|(key, value)| (key.as_slice(), value.as_deref()));
    }

    /// Goes past a key.
    fn skip(&mut self, key: &[u8]) {
        if self.head.is_some_and(|(head, _)| head == key) {
            self.advance();
        }
    }
}
