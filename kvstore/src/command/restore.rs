//! RESTORE: a key from the form that DUMP gives, of this server or of any Redis up to 7.0.
//!
//! The value is read and checked as a whole before anything is written. It may hold no string that a
//! command could not bring, and no more than one command may change.

use std::collections::HashSet;

use bytes::Bytes;

use super::error::CommandError;
use super::members::Members;
use super::stream::group::entries_up_to;
use super::{Write, integer, is_word};
use crate::rdb::stream::{self, EntriesRead};
use crate::rdb::value::Piece;
use crate::rdb::{RdbError, payload};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Consumer, Family, Group, Kind, List, Pending, Stream, StreamId};

type Outcome = Result<(), CommandError>;

/// What a string takes in memory besides its bytes, about.
const STRING_BYTES_AROUND: usize = 48;

#[derive(Default)]
struct Options {
    replace: bool,
    is_absolute: bool,
}

impl Options {
    /// How idle or how frequently used the key was is checked and not kept, since nothing is evicted.
    fn parse(words: &[Bytes]) -> Result<Options, CommandError> {
        let mut found = Options::default();
        let (mut has_idle, mut has_frequency) = (false, false);
        let mut rest = words;
        while let Some((word, tail)) = rest.split_first() {
            rest = match tail {
                _ if is_word(word, "replace") => {
                    found.replace = true;
                    tail
                }
                _ if is_word(word, "absttl") => {
                    found.is_absolute = true;
                    tail
                }
                [value, tail @ ..] if is_word(word, "idletime") && !has_frequency => {
                    if integer(value)? < 0 {
                        return Err(CommandError::RestoreIdle);
                    }
                    has_idle = true;
                    tail
                }
                [value, tail @ ..] if is_word(word, "freq") && !has_idle => {
                    if !(0..=255).contains(&integer(value)?) {
                        return Err(CommandError::RestoreFrequency);
                    }
                    has_frequency = true;
                    tail
                }
                _ => return Err(CommandError::Syntax),
            };
        }
        Ok(found)
    }
}

pub fn restore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let (key, value) = (&args[1], &args[3]);
    let options = Options::parse(&args[4..])?;
    let is_taken = write.find(key)?.is_some();
    if is_taken && !options.replace {
        return Err(CommandError::BusyKey);
    }
    let expires_at_ms = match integer(&args[2])? {
        ..0 => return Err(CommandError::RestoreExpiry),
        0 => 0,
        at_ms if options.is_absolute => at_ms as u64,
        in_ms => (in_ms as u64).saturating_add(write.now_ms),
    };
    let value = payload::open(value).ok_or(CommandError::DumpUnusable)?;
    let restored = read(write, value)?;
    reply.ok();
    if expires_at_ms != 0 && expires_at_ms <= write.now_ms {
        if is_taken {
            write.delete_metadata(key);
        }
        return Ok(());
    }
    restored.put(write, key, expires_at_ms)
}

/// A value as it was read, all of it.
enum Restored {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    Set(Vec<Vec<u8>>),
    SortedSet(Vec<(Vec<u8>, f64)>),
    Stream(RestoredStream),
}

#[derive(Default)]
struct RestoredStream {
    entries: Vec<stream::Entry>,
    facts: stream::Facts,
    groups: Vec<RestoredGroup>,
}

struct RestoredGroup {
    group: stream::Group,
    consumers: Vec<(stream::Consumer, Vec<stream::Pending>)>,
}

/// Why a value cannot be had: Redis says the same of everything that is wrong with its bytes.
enum Refused {
    Bytes,
    Limit(CommandError),
}

impl From<RdbError> for Refused {
    fn from(error: RdbError) -> Refused {
        tracing::debug!(%error, "RESTORE");
        Refused::Bytes
    }
}

fn read(write: &Write<'_, '_>, value: &[u8]) -> Result<Restored, CommandError> {
    let config = &write.shared.config;
    let bytes_max = config.changes_bytes_max();
    let mut reading =
        Reading { bytes_max, bytes: 0, string_bytes_max: config.bulk_bytes_max, found: None };
    let outcome = payload::read(value, bytes_max as u64, |piece| reading.take(piece));
    outcome.map_err(|refused| match refused {
        Refused::Bytes => CommandError::DumpMalformed,
        Refused::Limit(error) => error,
    })?;
    let restored = reading.found.filter(Restored::is_sound);
    restored.ok_or(CommandError::DumpMalformed)
}

struct Reading {
    /// Bytes of memory that were taken, about, and may be.
    bytes: usize,
    bytes_max: usize,
    string_bytes_max: usize,
    found: Option<Restored>,
}

impl Reading {
    fn take(&mut self, piece: Piece) -> Result<(), Refused> {
        match &piece {
            Piece::String(string) => self.count([string])?,
            Piece::Elements(strings) | Piece::Members(strings) => self.count(strings)?,
            Piece::Scored(pairs) => self.count(pairs.iter().map(|(member, _)| member))?,
            Piece::Fields(pairs) => {
                self.count(pairs.iter().flat_map(|(field, value)| [field, value]))?;
            }
            Piece::Entries(entries) => {
                self.count(entries.iter().flat_map(|entry| &entry.fields))?;
            }
            Piece::Group(group) => self.count([&group.name])?,
            Piece::Consumer(consumer) => self.count([&consumer.name])?,
            Piece::Pending(_) | Piece::Facts(_) | Piece::Module(_) => {}
        }
        self.add(piece)
    }

    fn count<'a>(&mut self, strings: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<(), Refused> {
        for string in strings {
            if string.len() > self.string_bytes_max {
                return Err(Refused::Limit(CommandError::StringTooLong));
            }
            self.bytes += string.len() + STRING_BYTES_AROUND;
            if self.bytes > self.bytes_max {
                return Err(Refused::Limit(CommandError::ChangesTooLarge(self.bytes_max)));
            }
        }
        Ok(())
    }

    fn add(&mut self, piece: Piece) -> Result<(), Refused> {
        match (&mut self.found, piece) {
            (None, Piece::String(string)) => self.found = Some(Restored::String(string)),
            (None, Piece::Elements(elements)) => self.found = Some(Restored::List(elements)),
            (None, Piece::Members(members)) => self.found = Some(Restored::Set(members)),
            (None, Piece::Fields(fields)) => self.found = Some(Restored::Hash(fields)),
            (None, Piece::Scored(scored)) => self.found = Some(Restored::SortedSet(scored)),
            (None, Piece::Module(_)) => return Err(Refused::Bytes),
            (None, piece) => {
                let mut stream = RestoredStream::default();
                stream.add(piece)?;
                self.found = Some(Restored::Stream(stream));
            }
            (Some(Restored::List(all)), Piece::Elements(more)) => all.extend(more),
            (Some(Restored::Set(all)), Piece::Members(more)) => all.extend(more),
            (Some(Restored::Hash(all)), Piece::Fields(more)) => all.extend(more),
            (Some(Restored::SortedSet(all)), Piece::Scored(more)) => all.extend(more),
            (Some(Restored::Stream(stream)), piece) => stream.add(piece)?,
            _ => unreachable!("all pieces of a value are of its type"),
        }
        Ok(())
    }
}

impl RestoredStream {
    fn add(&mut self, piece: Piece) -> Result<(), Refused> {
        match piece {
            Piece::Entries(entries) => self.entries.extend(entries),
            Piece::Facts(facts) => self.facts = facts,
            Piece::Group(group) => {
                self.groups.push(RestoredGroup { group, consumers: Vec::new() });
            }
            Piece::Consumer(consumer) => {
                let group = self.groups.last_mut().ok_or(Refused::Bytes)?;
                group.consumers.push((consumer, Vec::new()));
            }
            Piece::Pending(more) => {
                let consumers = self.groups.last_mut().map(|group| &mut group.consumers);
                let last = consumers.and_then(|consumers| consumers.last_mut());
                last.ok_or(Refused::Bytes)?.1.extend(more);
            }
            _ => unreachable!("all pieces of a value are of its type"),
        }
        Ok(())
    }
}

fn all_differ<T: std::hash::Hash + Eq>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

impl Restored {
    /// Whether what must differ does.
    fn is_sound(&self) -> bool {
        match self {
            Restored::String(_) | Restored::List(_) => true,
            Restored::Set(members) => all_differ(members),
            Restored::Hash(fields) => all_differ(fields.iter().map(|(field, _)| field)),
            Restored::SortedSet(scored) => all_differ(scored.iter().map(|(member, _)| member)),
            Restored::Stream(stream) => {
                all_differ(stream.groups.iter().map(|group| &group.group.name))
                    && stream.groups.iter().all(|group| {
                        all_differ(group.consumers.iter().map(|(consumer, _)| &consumer.name))
                    })
            }
        }
    }

    fn put(self, write: &mut Write<'_, '_>, key: &[u8], expires_at_ms: u64) -> Outcome {
        match self {
            Restored::String(value) => {
                write.put_metadata(key, layout::string(&value, expires_at_ms));
            }
            Restored::List(elements) => {
                let mut list = List::new(write.overlay.next_version());
                for element in elements {
                    let row = layout::member_key(key, list.version, &list.tail.to_be_bytes());
                    write.overlay.put(Family::Member, row, element);
                    list.tail += 1;
                }
                write.put_metadata(key, list.encode(expires_at_ms));
            }
            Restored::Set(members) => {
                let mut set = begin(write, key, Kind::Set, expires_at_ms);
                members.iter().for_each(|member| set.put(write.overlay, member, b""));
                set.count = members.len() as u64;
                set.save(write.overlay);
            }
            Restored::Hash(fields) => {
                let mut hash = begin(write, key, Kind::Hash, expires_at_ms);
                fields.iter().for_each(|(field, value)| hash.put(write.overlay, field, value));
                hash.count = fields.len() as u64;
                hash.save(write.overlay);
            }
            Restored::SortedSet(scored) => {
                let mut set = begin(write, key, Kind::SortedSet, expires_at_ms);
                for (member, score) in scored {
                    set.put_score(write.overlay, &member, None, score);
                }
                set.save(write.overlay);
            }
            Restored::Stream(stream) => stream.put(write, key, expires_at_ms),
        }
        Ok(())
    }
}

fn begin<'k>(
    write: &mut Write<'_, '_>,
    key: &'k [u8],
    kind: Kind,
    expires_at_ms: u64,
) -> Members<'k> {
    let mut members = Members::begin(write.overlay, key, kind);
    members.expires_at_ms = expires_at_ms;
    members
}

impl RestoredStream {
    fn put(self, write: &mut Write<'_, '_>, key: &[u8], expires_at_ms: u64) {
        let stream::Facts { last, max_deleted, added, .. } = self.facts;
        let stream = Stream {
            version: write.overlay.next_version(),
            length: self.entries.len() as u64,
            added,
            last,
            first: self.entries.first().map_or(StreamId::MIN, |entry| entry.id),
            max_deleted,
            groups: self.groups.len() as u64,
        };
        let put = |write: &mut Write<'_, '_>, name: &[u8], value: Vec<u8>| {
            let row = layout::member_key(key, stream.version, name);
            write.overlay.put(Family::Member, row, value);
        };
        for entry in self.entries {
            let fields = layout::encode_fields(entry.fields.iter().map(Vec::as_slice));
            put(write, &layout::entry_name(entry.id), fields);
        }
        for RestoredGroup { group, consumers } in self.groups {
            let number = write.overlay.next_version();
            let pending = consumers.iter().map(|(_, pending)| pending.len() as u64);
            let row = Group {
                number,
                last: group.last,
                entries_read: match group.entries_read {
                    EntriesRead::Known(read) => Some(read),
                    EntriesRead::Unknown => None,
                    EntriesRead::NotSaid => entries_up_to(&stream, group.last),
                },
                pending: pending.sum(),
                consumers: consumers.len() as u64,
            };
            put(write, &layout::group_name(&group.name), row.encode());
            for (consumer, pending) in consumers {
                let name = &consumer.name;
                let count = pending.len() as u64;
                let row = Consumer { seen_ms: consumer.seen_ms, pending: count };
                put(write, &layout::consumer_name(number, name), row.encode());
                for stream::Pending { id, delivered_ms, deliveries } in pending {
                    let row = Pending { delivered_ms, deliveries, consumer: name.clone() };
                    put(write, &layout::pending_name(number, id), row.encode());
                    put(write, &layout::owned_name(number, name, id), Vec::new());
                }
            }
        }
        write.put_metadata(key, stream.encode(expires_at_ms));
    }
}
