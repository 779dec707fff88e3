//! Streams: entries in packed nodes, then what is known of the stream, then its groups.
//!
//! ```text
//! stream   [nodes] ([first id 16][listpack])... [length][last id][since 7.0: first id][largest deleted id]
//!          [ever added] [groups] (group)...
//! group    [name][last id][since 7.0: entries read] [pending] ([id 16][delivered ms 8][deliveries])...
//!          [consumers] ([name][seen ms 8][since 7.2: active ms 8] [pending] ([id 16])...)...
//! node     entries, deleted ones, fields n, n names, 0, (entry)...
//! entry    flags, ms and seq since the first id, [fields n], names and values, its elements
//! ```
//!
//! What is pending for a group comes before its consumers, of whom each names the ids that are his; so all
//! of it is kept until they have come.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::packed::{Atom, Form, Malformed, Packed};
use super::source::Source;
use super::value::Piece;
use super::{PIECE_BYTES, PIECE_ITEMS, Problem, RdbError, types};
use crate::store::layout::StreamId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: StreamId,
    /// Names and values in turn.
    pub fields: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub length: u64,
    pub last: StreamId,
    pub max_deleted: StreamId,
    pub added: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: Vec<u8>,
    pub last: StreamId,
    pub entries_read: EntriesRead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntriesRead {
    /// Before Redis 7.0, which estimates it.
    NotSaid,
    Unknown,
    Known(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub name: Vec<u8>,
    pub seen_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: StreamId,
    pub delivered_ms: u64,
    pub deliveries: u64,
}

/// A stream that is being read.
pub struct StreamValue {
    type_code: u8,
    step: Step,
    /// Entries that were given out, and the newest of them.
    entries: u64,
    newest: Option<StreamId>,
    groups_left: u64,
    /// What is pending for the group, until its consumers have come.
    pending: BTreeMap<StreamId, Delivered>,
}

struct Delivered {
    delivered_ms: u64,
    deliveries: u64,
}

enum Step {
    Entries { nodes_left: u64, node: Option<Node> },
    Groups,
    Consumers { left: u64 },
    Pending { left: u64, consumers_left: u64 },
}

impl StreamValue {
    pub fn begin<R: BufRead>(
        source: &mut Source<R>,
        type_code: u8,
    ) -> Result<StreamValue, RdbError> {
        let step = Step::Entries { nodes_left: source.length()?, node: None };
        let pending = BTreeMap::new();
        Ok(StreamValue { type_code, step, entries: 0, newest: None, groups_left: 0, pending })
    }

    pub fn next_piece<R: BufRead>(
        &mut self,
        source: &mut Source<R>,
    ) -> Result<Option<Piece>, RdbError> {
        match self.step {
            Step::Entries { .. } => {
                let entries = self.entries(source)?;
                if entries.is_empty() {
                    return self.facts(source).map(|facts| Some(Piece::Facts(facts)));
                }
                Ok(Some(Piece::Entries(entries)))
            }
            Step::Groups if self.groups_left == 0 => Ok(None),
            Step::Groups => self.group(source).map(|group| Some(Piece::Group(group))),
            Step::Consumers { left: 0 } => {
                if !self.pending.is_empty() {
                    return source.corrupt("an entry is pending for no consumer");
                }
                self.step = Step::Groups;
                self.next_piece(source)
            }
            Step::Consumers { left } => {
                let name = source.string()?;
                let seen_ms = source.milliseconds()?;
                if self.type_code == types::STREAM_3 {
                    source.milliseconds()?;
                }
                self.step = Step::Pending { left: source.length()?, consumers_left: left - 1 };
                Ok(Some(Piece::Consumer(Consumer { name, seen_ms })))
            }
            Step::Pending { left: 0, consumers_left } => {
                self.step = Step::Consumers { left: consumers_left };
                self.next_piece(source)
            }
            Step::Pending { left, consumers_left } => {
                let count = left.min(PIECE_ITEMS as u64);
                let found = (0..count).map(|_| self.owned(source)).collect::<Result<_, _>>()?;
                self.step = Step::Pending { left: left - count, consumers_left };
                Ok(Some(Piece::Pending(found)))
            }
        }
    }

    /// Entries of the nodes that are left, as many as a piece has; none at the end.
    fn entries<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Vec<Entry>, RdbError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let Step::Entries { nodes_left, node } = &mut self.step else { return Ok(found) };
        while bytes < PIECE_BYTES && found.len() < PIECE_ITEMS {
            if node.is_none() {
                if *nodes_left == 0 {
                    break;
                }
                *nodes_left -= 1;
                *node = Some(Node::read(source)?);
            }
            let Some(current) = node.as_mut() else { break };
            let Some(entry) = current.next_entry()? else {
                *node = None;
                continue;
            };
            if self.newest.is_some_and(|newest| entry.id <= newest) {
                return source.corrupt("the entries of a stream are not in order");
            }
            self.newest = Some(entry.id);
            self.entries += 1;
            bytes += entry.fields.iter().map(Vec::len).sum::<usize>() + 16;
            found.push(entry);
        }
        Ok(found)
    }

    fn facts<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Facts, RdbError> {
        let length = source.length()?;
        let last = id(source)?;
        let (mut max_deleted, mut added) = (StreamId::MIN, length);
        if self.type_code != types::STREAM {
            id(source)?;
            max_deleted = id(source)?;
            added = source.length()?;
        }
        if length != self.entries {
            return source.corrupt("a stream does not have as many entries as it claims");
        }
        if self.newest.is_some_and(|newest| newest > last) {
            return source.corrupt("an entry of a stream is newer than its last id");
        }
        self.groups_left = source.length()?;
        self.step = Step::Groups;
        Ok(Facts { length, last, max_deleted, added })
    }

    fn group<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Group, RdbError> {
        self.groups_left -= 1;
        let name = source.string()?;
        let last = id(source)?;
        let entries_read = match self.type_code {
            types::STREAM => EntriesRead::NotSaid,
            _ => match source.length()? {
                u64::MAX => EntriesRead::Unknown,
                read => EntriesRead::Known(read),
            },
        };
        for _ in 0..source.length()? {
            let id = raw_id(source)?;
            let delivered_ms = source.milliseconds()?;
            let delivered = Delivered { delivered_ms, deliveries: source.length()? };
            if self.pending.insert(id, delivered).is_some() {
                return source.corrupt("an entry is pending twice for a group");
            }
        }
        self.step = Step::Consumers { left: source.length()? };
        Ok(Group { name, last, entries_read })
    }

    fn owned<R: BufRead>(&mut self, source: &mut Source<R>) -> Result<Pending, RdbError> {
        let id = raw_id(source)?;
        match self.pending.remove(&id) {
            Some(Delivered { delivered_ms, deliveries }) => {
                Ok(Pending { id, delivered_ms, deliveries })
            }
            None => source.corrupt("a consumer has what is not pending for its group"),
        }
    }
}

fn id<R: BufRead>(source: &mut Source<R>) -> Result<StreamId, RdbError> {
    Ok(StreamId { ms: source.length()?, seq: source.length()? })
}

/// An id as sixteen bytes, big-endian.
fn raw_id<R: BufRead>(source: &mut Source<R>) -> Result<StreamId, RdbError> {
    let ms = u64::from_be_bytes(source.array()?);
    Ok(StreamId { ms, seq: u64::from_be_bytes(source.array()?) })
}

pub const ENTRY_DELETED: i64 = 1;
pub const ENTRY_SAME_FIELDS: i64 = 2;

/// Entries that lie in one listpack.
struct Node {
    packed: Packed,
    offset: u64,
    first: StreamId,
    names: Vec<Vec<u8>>,
}

impl Node {
    fn read<R: BufRead>(source: &mut Source<R>) -> Result<Node, RdbError> {
        let key = source.string()?;
        let Ok(first) = StreamId::from_bytes(&key) else {
            return source.corrupt("the id of a node of a stream is not sixteen bytes");
        };
        let offset = source.offset();
        let failed = |why| RdbError { offset, problem: Problem::Corrupt(why) };
        let packed = Packed::open(Form::Listpack, source.string()?).map_err(failed)?;
        let mut node = Node { packed, offset, first, names: Vec::new() };
        node.head().map_err(failed)?;
        Ok(node)
    }

    fn head(&mut self) -> Result<(), Malformed> {
        let (_entries, _deleted) = (self.integer()?, self.integer()?);
        for _ in 0..self.integer()? {
            let name = self.text()?;
            self.names.push(name);
        }
        match self.integer()? {
            0 => Ok(()),
            _ => Err("the head of a node of a stream does not end with 0"),
        }
    }

    /// The next entry that is not deleted.
    fn next_entry(&mut self) -> Result<Option<Entry>, RdbError> {
        let offset = self.offset;
        let failed = |why| RdbError { offset, problem: Problem::Corrupt(why) };
        loop {
            let Some(flags) = self.packed.element().map_err(failed)? else { return Ok(None) };
            let Some(flags) = flags.to_integer() else { return Err(failed(NO_INTEGER)) };
            let entry = self.entry(flags).map_err(failed)?;
            if flags & ENTRY_DELETED == 0 {
                return Ok(Some(entry));
            }
        }
    }

    fn entry(&mut self, flags: i64) -> Result<Entry, Malformed> {
        // Differences are kept as integers of 64 bits, whatever their sign.
        let ms = self.first.ms.wrapping_add(self.integer()? as u64);
        let seq = self.first.seq.wrapping_add(self.integer()? as u64);
        let is_same = flags & ENTRY_SAME_FIELDS != 0;
        let count = if is_same { self.names.len() as i64 } else { self.integer()? };
        let mut fields = Vec::new();
        for at in 0..count {
            let name = if is_same { self.names[at as usize].clone() } else { self.text()? };
            fields.push(name);
            fields.push(self.text()?);
        }
        let elements = 3 + if is_same { count } else { 2 * count + 1 };
        if self.integer()? != elements {
            return Err("an entry of a stream does not end with how many elements it has");
        }
        if fields.is_empty() {
            return Err("an entry of a stream has no fields");
        }
        Ok(Entry { id: StreamId { ms, seq }, fields })
    }

    fn atom(&mut self) -> Result<Atom<'_>, Malformed> {
        self.packed.element()?.ok_or("a node of a stream ends within an entry")
    }

    fn integer(&mut self) -> Result<i64, Malformed> {
        self.atom()?.to_integer().ok_or(NO_INTEGER)
    }

    fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        self.atom().map(Atom::to_text)
    }
}

const NO_INTEGER: Malformed = "a node of a stream has a text where an integer is wanted";
