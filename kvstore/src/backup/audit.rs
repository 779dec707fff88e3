//! Walks over everything that is live: makes its digest, and holds metadata and members to each other.
//!
//! The digest is SHA-256 over what clients can read, each part with its length before it, in this order: the
//! namespaces by number (name and token's hash), their databases by number, the keys of each in the order of
//! [`layout::place`] and then of their bytes; of a key its name, type and expiry; a string's value, a list's
//! elements in order, fields or members with what belongs to them in the order of places, a stream's
//! counters, entries by id, groups by name with their consumers and pending entries. Nothing in it depends
//! on files, versions, slots or where a list begins.
//!
//! Memory: one row at a time.

use sha2::{Digest, Sha256};

use rocksdb::{DBRawIterator, ReadOptions};

use super::manifest::hex;
use crate::store::database::{Database, StoreError};
use crate::store::layout::{
    self, Consumer, Counted, Family, Group, Header, Kind, List, Malformed, Pending, Stream,
};
use crate::store::spaces::{DATABASES, Selected};

/// Findings that are kept; more are counted.
const FINDINGS_MAX: usize = 100;

/// The walk reads ahead so far, since all of it is needed in order.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// How often the walk says how far it is.
const KEYS_PER_REPORT: u64 = 1024;

/// What does not fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub first: Vec<String>,
    pub count: u64,
}

#[derive(Clone, Debug)]
pub struct Audit {
    pub keys: u64,
    pub digest: String,
    pub findings: Findings,
}

pub fn audit(
    database: &Database,
    as_of_ms: u64,
    report: &mut dyn FnMut(u64),
) -> Result<Audit, StoreError> {
    let mut walk = Walk::new(database, as_of_ms);
    let mut namespaces: Vec<(u32, String, String)> = vec![(0, String::new(), String::new())];
    let rows = database.spaces().rows().clone();
    let named = rows.namespaces.iter();
    namespaces.extend(named.map(|(name, known)| (known.number, name.clone(), known.token.clone())));
    namespaces.sort();
    for (namespace, name, token) in namespaces {
        walk.digest.part(b"namespace");
        walk.digest.part(name.as_bytes());
        walk.digest.part(token.as_bytes());
        for number in 0..DATABASES {
            let selected = Selected { namespace, database: number };
            let place = Place { namespace: &name, database: number };
            walk.database(place, selected.space(&rows.slots(namespace)), report)?;
        }
    }
    report(walk.keys);
    let digest = hex(&walk.digest.0.finalize());
    Ok(Audit { keys: walk.keys, digest, findings: walk.findings })
}

/// Rows that cannot be read, and where they begin.
pub struct Unreadable {
    pub error: StoreError,
    /// The user's key of the last row before them in the same family.
    pub after: Option<Vec<u8>>,
}

/// Reads every row of both families; how many there are.
pub fn read_everything(database: &Database) -> Result<u64, Unreadable> {
    let mut count = 0;
    for family in [Family::Metadata, Family::Member] {
        let (mut rows, mut last) = (rows(database, family), Vec::new());
        rows.seek_to_first();
        while let Some(row) = rows.key() {
            last.clear();
            last.extend_from_slice(row);
            count += 1;
            rows.next();
        }
        rows.status().map_err(|error| {
            let key = match family {
                Family::Metadata => layout::user_key(&last),
                Family::Member => layout::member_owner(&last).map_or(&[][..], |(_, key, _)| key),
            };
            Unreadable { error: error.into(), after: (!last.is_empty()).then(|| key.to_vec()) }
        })?;
    }
    Ok(count)
}

fn rows(database: &Database, family: Family) -> DBRawIterator<'_> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    database.rocks().raw_iterator_cf_opt(database.family(family), options)
}

struct Sum(Sha256);

impl Sum {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        numbers.iter().for_each(|number| self.0.update(number.to_be_bytes()));
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    namespace: &'a str,
    database: u8,
}

struct Walk<'d> {
    database: &'d Database,
    as_of_ms: u64,
    digest: Sum,
    keys: u64,
    findings: Findings,
    members: DBRawIterator<'d>,
    /// Of a group, while `members` stands at it.
    inner: DBRawIterator<'d>,
}

/// The collection that is looked at: what its member rows start with, its space included.
struct Collection<'a> {
    prefix: Vec<u8>,
    key: &'a [u8],
    space: u32,
    version: u64,
}

impl Collection<'_> {
    fn row(&self, name: &[u8]) -> Vec<u8> {
        let mut row = layout::member_key(self.key, self.version, name);
        layout::move_to_space(&mut row, self.space);
        row
    }
}

/// Why a key does not fit together, in words.
enum Wrong {
    Found(String),
    Store(StoreError),
}

impl From<Malformed> for Wrong {
    fn from(_: Malformed) -> Wrong {
        Wrong::Found("a row of it is malformed".to_string())
    }
}

impl From<rocksdb::Error> for Wrong {
    fn from(error: rocksdb::Error) -> Wrong {
        Wrong::Store(error.into())
    }
}

fn found<T>(text: String) -> Result<T, Wrong> {
    Err(Wrong::Found(text))
}

impl<'d> Walk<'d> {
    fn new(database: &'d Database, as_of_ms: u64) -> Walk<'d> {
        Walk {
            database,
            as_of_ms,
            digest: Sum(Sha256::new()),
            keys: 0,
            findings: Findings::default(),
            members: rows(database, Family::Member),
            inner: rows(database, Family::Member),
        }
    }

    fn database(
        &mut self,
        place: Place<'_>,
        space: u32,
        report: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        let (lower, upper) = layout::spaces(space, space + 1);
        let mut metadata = rows(self.database, Family::Metadata);
        metadata.seek(&lower);
        let before = self.keys;
        while let Some((row, value)) = metadata.item().filter(|(row, _)| *row < &upper[..]) {
            let header = Header::decode(value).map(|(header, _)| header);
            if header.is_ok_and(|header| header.is_expired(self.as_of_ms)) {
                metadata.next();
                continue;
            }
            if self.keys == before {
                self.digest.part(b"database");
                self.digest.numbers([place.database.into()]);
            }
            self.keys += 1;
            if self.keys.is_multiple_of(KEYS_PER_REPORT) {
                report(self.keys);
            }
            let key = layout::user_key(row);
            let is_in_place = layout::key_place(row) == Ok(layout::place(key));
            let looked = match is_in_place {
                true => self.key(space, key, value),
                false => found("its row is in another key's place".to_string()),
            };
            match looked {
                Ok(()) => {}
                Err(Wrong::Found(what)) => self.note(place, key, &what),
                Err(Wrong::Store(error)) => return Err(error),
            }
            metadata.next();
        }
        Ok(metadata.status()?)
    }

    fn note(&mut self, place: Place<'_>, key: &[u8], what: &str) {
        self.findings.count += 1;
        if self.findings.first.len() < FINDINGS_MAX {
            let Place { namespace, database } = place;
            let of = if namespace.is_empty() { "" } else { " of namespace " };
            let key = key.escape_ascii();
            self.findings
                .first
                .push(format!("key \"{key}\" in database {database}{of}{namespace}: {what}"));
        }
    }

    fn key(&mut self, space: u32, key: &[u8], metadata: &[u8]) -> Result<(), Wrong> {
        let (header, body) = Header::decode(metadata)?;
        self.digest.part(key);
        self.digest.part(header.kind.name().as_bytes());
        self.digest.numbers([header.expires_at_ms]);
        let Some(version) = layout::version_of(metadata)?.1 else {
            self.digest.part(body);
            return Ok(());
        };
        let mut prefix = layout::member_prefix(key, version);
        layout::move_to_space(&mut prefix, space);
        let collection = Collection { prefix, key, space, version };
        match header.kind {
            Kind::String => unreachable!("it has no version"),
            Kind::Hash | Kind::Set => self.fields(&collection, Counted::decode(body)?),
            Kind::SortedSet => self.sorted_set(&collection, Counted::decode(body)?),
            Kind::List => self.list(&collection, List::decode(body)?),
            Kind::Stream => self.stream(&collection, Stream::decode(body)?),
        }
    }

    fn fields(&mut self, collection: &Collection<'_>, counted: Counted) -> Result<(), Wrong> {
        let prefix = &collection.prefix;
        let mut count = 0;
        self.members.seek(prefix);
        while let Some((name, value)) = under(&self.members, prefix) {
            check_place(name)?;
            self.digest.part(layout::placed_member(name));
            self.digest.part(value);
            count += 1;
            self.members.next();
        }
        self.members.status()?;
        check_count("members", counted.members, count)
    }

    fn sorted_set(&mut self, collection: &Collection<'_>, counted: Counted) -> Result<(), Wrong> {
        let prefix = &collection.prefix;
        let (mut count, mut scored) = (0, 0);
        let scores_from = layout::placed_end();
        self.members.seek(prefix);
        while let Some((name, value)) = under(&self.members, prefix) {
            if name.first() >= scores_from.first() {
                layout::scored_member(name)?;
                scored += 1;
                self.members.next();
                continue;
            }
            check_place(name)?;
            let member = layout::placed_member(name);
            let score = f64::from_be_bytes(value.try_into().map_err(|_| Malformed)?);
            let row = collection.row(&layout::scored_name(score, member));
            let family = self.database.family(Family::Member);
            if self.database.rocks().get_pinned_cf(family, row)?.is_none() {
                let member = member.escape_ascii();
                return found(format!("member \"{member}\" is not where its score {score} is"));
            }
            self.digest.part(member);
            self.digest.part(value);
            count += 1;
            self.members.next();
        }
        self.members.status()?;
        check_count("members", counted.members, count)?;
        check_count("members by score", counted.members, scored)
    }

    fn list(&mut self, collection: &Collection<'_>, list: List) -> Result<(), Wrong> {
        let prefix = &collection.prefix;
        self.members.seek(collection.row(&list.head.to_be_bytes()));
        for index in list.head..list.tail {
            match under(&self.members, prefix) {
                Some((name, value)) if name == index.to_be_bytes() => self.digest.part(value),
                _ => {
                    self.members.status()?;
                    let (at, length) = (index - list.head, list.len());
                    return found(format!("element {at} of {length} is missing"));
                }
            }
            self.members.next();
        }
        Ok(self.members.status()?)
    }

    fn stream(&mut self, collection: &Collection<'_>, stream: Stream) -> Result<(), Wrong> {
        let prefix = &collection.prefix;
        for id in [stream.last, stream.max_deleted] {
            self.digest.numbers([id.ms, id.seq]);
        }
        self.digest.numbers([stream.added]);
        let (mut entries, mut groups, mut rows, mut rows_of_groups) = (0, 0, 0, 0);
        let mut first = None;
        self.members.seek(prefix);
        while let Some((name, value)) = under(&self.members, prefix) {
            match name.split_first().ok_or(Malformed)? {
                (0, id) => {
                    let id = layout::StreamId::from_bytes(id)?;
                    if id > stream.last {
                        let (ms, seq) = (id.ms, id.seq);
                        return found(format!("entry {ms}-{seq} is above the stream's last id"));
                    }
                    first.get_or_insert(id);
                    self.digest.numbers([id.ms, id.seq]);
                    self.digest.part(value);
                    entries += 1;
                }
                (1, group) => {
                    let row = Group::decode(value)?;
                    self.digest.part(group);
                    let read = row.entries_read.unwrap_or(u64::MAX);
                    self.digest.numbers([row.last.ms, row.last.seq, read]);
                    groups += 1;
                    // The iterator is in the middle of the stream; the group's rows come later in it.
                    let group = group.to_vec();
                    rows_of_groups += self.group(collection, &group, row)?;
                }
                (2..=4, _) => rows += 1,
                _ => return Err(Malformed.into()),
            }
            self.members.next();
        }
        self.members.status()?;
        check_count("entries", stream.length, entries)?;
        check_count("groups", stream.groups, groups)?;
        check_count("rows of groups", rows_of_groups, rows)?;
        if first.unwrap_or_default() != stream.first {
            return found("its first entry is another one than it says".to_string());
        }
        Ok(())
    }

    /// Returns how many rows the group has beside its own.
    fn group(
        &mut self,
        collection: &Collection<'_>,
        name: &[u8],
        group: Group,
    ) -> Result<u64, Wrong> {
        let [consumers, pending, owned] = layout::group_prefixes(group.number);
        let (mut consumer_count, mut pending_count, mut pending_by_consumer) = (0, 0, 0);
        let prefix = collection.row(&consumers);
        self.inner.seek(&prefix);
        while let Some((name, value)) = under(&self.inner, &prefix) {
            let consumer = Consumer::decode(value)?;
            self.digest.part(name);
            self.digest.numbers([consumer.seen_ms, consumer.pending]);
            consumer_count += 1;
            pending_by_consumer += consumer.pending;
            self.inner.next();
        }
        let prefix = collection.row(&pending);
        self.inner.seek(&prefix);
        while let Some((id, value)) = under(&self.inner, &prefix) {
            let entry = Pending::decode(value)?;
            self.digest.part(id);
            self.digest.numbers([entry.delivered_ms, entry.deliveries]);
            self.digest.part(&entry.consumer);
            let id = layout::StreamId::from_bytes(id)?;
            let row = collection.row(&layout::owned_name(group.number, &entry.consumer, id));
            let family = self.database.family(Family::Member);
            if self.database.rocks().get_pinned_cf(family, row)?.is_none() {
                let (ms, seq, consumer) = (id.ms, id.seq, entry.consumer.escape_ascii());
                return found(format!("{ms}-{seq} is pending, but not at consumer \"{consumer}\""));
            }
            pending_count += 1;
            self.inner.next();
        }
        let prefix = collection.row(&owned);
        let mut owned_count = 0;
        self.inner.seek(&prefix);
        while under(&self.inner, &prefix).is_some() {
            owned_count += 1;
            self.inner.next();
        }
        self.inner.status()?;
        let of = name.escape_ascii();
        check_count(&format!("consumers in group \"{of}\""), group.consumers, consumer_count)?;
        check_count(&format!("pending entries in group \"{of}\""), group.pending, pending_count)?;
        check_count(&format!("entries at consumers of \"{of}\""), group.pending, owned_count)?;
        check_count(
            &format!("entries counted at them in \"{of}\""),
            group.pending,
            pending_by_consumer,
        )?;
        Ok(consumer_count + pending_count + owned_count)
    }
}

/// The name behind the prefix, and the value, where the iterator is, unless it is beyond.
fn under<'a>(rows: &'a DBRawIterator<'_>, prefix: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (row, value) = rows.item()?;
    Some((row.strip_prefix(prefix)?, value))
}

fn check_place(name: &[u8]) -> Result<(), Wrong> {
    let member = layout::placed_member(name);
    if name.first() == Some(&0) && layout::place_in(name)? == layout::place(member) {
        return Ok(());
    }
    let name = name.escape_ascii();
    found(format!("there is a row \"{name}\" that no command finds"))
}

fn check_count(what: &str, says: u64, has: u64) -> Result<(), Wrong> {
    if says == has { Ok(()) } else { found(format!("it says {says} {what}, and has {has}")) }
}
