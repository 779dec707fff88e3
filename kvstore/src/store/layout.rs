//! How keys and values lie in RocksDB.
//!
//! ```text
//! metadata   [space u32][place u32][key]                        -> [kind u8][expires_at_ms u64][body]
//! member     [space u32][key bytes u32][key][version u64][name] -> what the kind puts there
//! applied    "applied"                                          -> [sequence u64] of the write log
//!
//! body       string   the value itself
//!            hash     [version u64][members u64]               name = [0][place u32][field],  value
//!            set      [version u64][members u64]               name = [0][place u32][member], empty
//!            zset     [version u64][members u64]               name = [0][place u32][member], score
//!                                                              name = [1][sortable score][member]
//!            list     [version u64][head u64][tail u64]        name = index u64,   value = element
//!            stream   [version u64][Stream]                    see below
//! ```
//!
//! `place` is a hash of the key or member. Redis promises no order there, and in this one a walk can go
//! on from a number alone, so that cursors need no memory of the server and hold for ever, and a random
//! place is next to a random key or member, however many there are.
//!
//! ```text
//! a member of a stream                          name                                 value
//! entry                                         [0][id]                              fields
//! group                                         [1][group]                           Group
//! consumer                                      [2][number u64][consumer]            Consumer
//! delivered and not acknowledged                [3][number u64][id]                  Pending
//! the same, by consumer                         [4][number u64][length u32][consumer][id]
//! ```
//!
//! An id is 16 bytes; `number` is the group's own, so that its other rows need not hold its name.
//!
//! All integers are big-endian, so that keys sort as their numbers do. `version` is unique for every
//! life of a key: deleting a collection, or writing another over it, only replaces its metadata, and
//! the members of the old version are garbage that compaction drops (the layout Kvrocks uses).
//!
//! A space is one database ([`spaces`](super::spaces)). Commands do not know in which one they are: the
//! keys made here are of space 0, and a [`View`](super::view::View) moves them into its own, so no
//! command can reach another one by mistake. Above all others is the system space, metadata of the
//! server itself.
//!
//! **Invariant:** a command that changes anything of a key also writes its metadata.

use std::borrow::Cow;

use siphasher::sip::SipHasher13;

/// Bytes of the space at the start of every key.
const SPACE_BYTES: usize = 4;

/// Holds what is no database's. It is never cleared, and nothing in it expires.
const SYSTEM_SPACE: u32 = u32::MAX;

const HEADER_BYTES: usize = 9;

/// What is wrong with bytes that this crate itself wrote earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The two column families that commands read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Metadata = 0,
    Member = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String = 1,
    Hash = 2,
    Stream = 3,
    List = 4,
    Set = 5,
    SortedSet = 6,
}

const KINDS: [Kind; 6] =
    [Kind::String, Kind::Hash, Kind::Stream, Kind::List, Kind::Set, Kind::SortedSet];

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The answer of `TYPE`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
        }
    }
}

/// What every metadata value starts with. `expires_at_ms` is Unix time; 0 means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub expires_at_ms: u64,
}

impl Header {
    pub fn decode(metadata: &[u8]) -> Result<(Header, &[u8]), Malformed> {
        let (head, body) = metadata.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
        let kind = Kind::from_byte(head[0]).ok_or(Malformed)?;
        Ok((Header { kind, expires_at_ms: integer(&head[1..])? }, body))
    }

    fn encode(self, body_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + body_bytes);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.expires_at_ms.to_be_bytes());
        out
    }

    pub fn is_expired(self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }
}

/// Metadata of a string: the value is in it.
pub fn string(value: &[u8], expires_at_ms: u64) -> Vec<u8> {
    let mut out = Header { kind: Kind::String, expires_at_ms }.encode(value.len());
    out.extend_from_slice(value);
    out
}

/// The body of a hash, a set or a sorted set: all of them count their members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub version: u64,
    pub members: u64,
}

impl Counted {
    pub fn decode(body: &[u8]) -> Result<Counted, Malformed> {
        let (body, [version, members]) = integers(body)?;
        if body.is_empty() { Ok(Counted { version, members }) } else { Err(Malformed) }
    }

    pub fn encode(self, header: Header) -> Vec<u8> {
        let mut out = header.encode(16);
        put_integers(&mut out, [self.version, self.members]);
        out
    }
}

/// The id of a stream entry: milliseconds and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    pub ms: u64,
    pub seq: u64,
}

impl StreamId {
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    pub const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.ms) << 64 | u128::from(self.seq)).to_be_bytes()
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<StreamId, Malformed> {
        let bits = u128::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?);
        Ok(StreamId { ms: (bits >> 64) as u64, seq: bits as u64 })
    }

    pub fn next(self) -> Option<StreamId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => Some(StreamId { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    pub fn previous(self) -> Option<StreamId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => Some(StreamId { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }
}

/// Everything about a stream but its entries.
///
/// `first` is the id of the oldest entry, 0-0 when there is none. Reads start there, so that they do
/// not walk over the tombstones of what was trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub version: u64,
    pub length: u64,
    pub added: u64,
    pub last: StreamId,
    pub first: StreamId,
    pub max_deleted: StreamId,
    pub groups: u64,
}

impl Stream {
    pub fn decode(body: &[u8]) -> Result<Stream, Malformed> {
        let (body, [version, length, added, groups]) = integers(body)?;
        let (body, [last_ms, last_seq, first_ms, first_seq, deleted_ms, deleted_seq]) =
            integers(body)?;
        if !body.is_empty() {
            return Err(Malformed);
        }
        Ok(Stream {
            version,
            length,
            added,
            last: StreamId { ms: last_ms, seq: last_seq },
            first: StreamId { ms: first_ms, seq: first_seq },
            max_deleted: StreamId { ms: deleted_ms, seq: deleted_seq },
            groups,
        })
    }

    pub fn encode(self, expires_at_ms: u64) -> Vec<u8> {
        let mut out = Header { kind: Kind::Stream, expires_at_ms }.encode(80);
        put_integers(&mut out, [self.version, self.length, self.added, self.groups]);
        put_integers(&mut out, [self.last.ms, self.last.seq]);
        put_integers(&mut out, [self.first.ms, self.first.seq]);
        put_integers(&mut out, [self.max_deleted.ms, self.max_deleted.seq]);
        out
    }
}

/// A list: the elements with `head <= index < tail`, at least one.
///
/// Taking elements from an end only moves `head` or `tail`. What was there stays, is never read, and
/// goes with the next compaction, so trimming costs nothing and a long-used queue leaves no tombstones
/// to walk over. **Invariant:** an index that comes into the range is written by the same command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    pub version: u64,
    pub head: u64,
    pub tail: u64,
}

impl List {
    /// An empty one, with as much room at either end as one could push in a lifetime.
    pub fn new(version: u64) -> List {
        List { version, head: 1 << 63, tail: 1 << 63 }
    }

    pub fn len(self) -> u64 {
        self.tail - self.head
    }

    pub fn is_empty(self) -> bool {
        self.head == self.tail
    }

    pub fn decode(body: &[u8]) -> Result<List, Malformed> {
        let (rest, [version, head, tail]) = integers(body)?;
        if rest.is_empty() && head < tail {
            Ok(List { version, head, tail })
        } else {
            Err(Malformed)
        }
    }

    pub fn encode(self, expires_at_ms: u64) -> Vec<u8> {
        let mut out = Header { kind: Kind::List, expires_at_ms }.encode(24);
        put_integers(&mut out, [self.version, self.head, self.tail]);
        out
    }
}

/// A consumer group. `entries_read` is unknown after its place was set by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub number: u64,
    pub last: StreamId,
    pub entries_read: Option<u64>,
    pub pending: u64,
    pub consumers: u64,
}

impl Group {
    pub fn decode(value: &[u8]) -> Result<Group, Malformed> {
        let (rest, [number, last_ms, last_seq, entries_read, pending, consumers]) =
            integers(value)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        let last = StreamId { ms: last_ms, seq: last_seq };
        let entries_read = Some(entries_read).filter(|read| *read != u64::MAX);
        Ok(Group { number, last, entries_read, pending, consumers })
    }

    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        put_integers(&mut out, [self.number, self.last.ms, self.last.seq]);
        let entries_read = self.entries_read.unwrap_or(u64::MAX);
        put_integers(&mut out, [entries_read, self.pending, self.consumers]);
        out
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    pub seen_ms: u64,
    pub pending: u64,
}

impl Consumer {
    pub fn decode(value: &[u8]) -> Result<Consumer, Malformed> {
        let (rest, [seen_ms, pending]) = integers(value)?;
        if rest.is_empty() { Ok(Consumer { seen_ms, pending }) } else { Err(Malformed) }
    }

    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        put_integers(&mut out, [self.seen_ms, self.pending]);
        out
    }
}

/// An entry that was delivered to a consumer and is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub delivered_ms: u64,
    pub deliveries: u64,
    pub consumer: Vec<u8>,
}

impl Pending {
    pub fn decode(value: &[u8]) -> Result<Pending, Malformed> {
        let (consumer, [delivered_ms, deliveries]) = integers(value)?;
        Ok(Pending { delivered_ms, deliveries, consumer: consumer.to_vec() })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.consumer.len());
        put_integers(&mut out, [self.delivered_ms, self.deliveries]);
        out.extend_from_slice(&self.consumer);
        out
    }
}

pub fn entry_name(id: StreamId) -> [u8; 17] {
    let mut out = [0; 17];
    out[1..].copy_from_slice(&id.to_bytes());
    out
}

/// What the names of all groups start with.
pub const GROUPS: &[u8] = &[1];

pub fn group_name(name: &[u8]) -> Vec<u8> {
    [GROUPS, name].concat()
}

fn of_group(tag: u8, number: u64) -> Vec<u8> {
    [&[tag][..], &number.to_be_bytes()].concat()
}

/// What the names of all other rows of a group start with.
pub fn group_prefixes(number: u64) -> [Vec<u8>; 3] {
    [2, 3, 4].map(|tag| of_group(tag, number))
}

pub fn consumers_prefix(number: u64) -> Vec<u8> {
    of_group(2, number)
}

pub fn consumer_name(number: u64, name: &[u8]) -> Vec<u8> {
    [&consumers_prefix(number), name].concat()
}

pub fn pending_prefix(number: u64) -> Vec<u8> {
    of_group(3, number)
}

pub fn pending_name(number: u64, id: StreamId) -> Vec<u8> {
    [&pending_prefix(number)[..], &id.to_bytes()].concat()
}

pub fn owned_prefix(number: u64, consumer: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(consumer.len()).expect("names are bounded");
    [&of_group(4, number)[..], &bytes.to_be_bytes(), consumer].concat()
}

pub fn owned_name(number: u64, consumer: &[u8], id: StreamId) -> Vec<u8> {
    [&owned_prefix(number, consumer)[..], &id.to_bytes()].concat()
}

/// The first key and the one after the last.
pub type Bounds = (Vec<u8>, Vec<u8>);

/// Where the members of a collection lie: all that are there, or for a list those in its range. `None`
/// for a string.
pub fn member_bounds(key: &[u8], metadata: &[u8]) -> Result<Option<Bounds>, Malformed> {
    let (header, body) = Header::decode(metadata)?;
    if header.kind == Kind::List {
        let list = List::decode(body)?;
        let at = |index: u64| member_key(key, list.version, &index.to_be_bytes());
        return Ok(Some((at(list.head), at(list.tail))));
    }
    let Some(version) = version_of(metadata)?.1 else { return Ok(None) };
    let prefix = member_prefix(key, version);
    let upper = after_prefix(&prefix);
    Ok(Some((prefix, upper)))
}

/// The version of a collection, for the compaction filter; `None` for a string.
pub fn version_of(metadata: &[u8]) -> Result<(Header, Option<u64>), Malformed> {
    let (header, body) = Header::decode(metadata)?;
    match header.kind {
        Kind::String => Ok((header, None)),
        Kind::Hash | Kind::Set | Kind::SortedSet | Kind::List | Kind::Stream => {
            Ok((header, Some(integers::<1>(body)?.1[0])))
        }
    }
}

/// The same metadata with another expiry.
pub fn with_expiry(metadata: &[u8], expires_at_ms: u64) -> Result<Vec<u8>, Malformed> {
    let (header, body) = Header::decode(metadata)?;
    let mut out = Header { expires_at_ms, ..header }.encode(body.len());
    out.extend_from_slice(body);
    Ok(out)
}

/// The same collection in its next life, for `RENAME`.
pub fn with_version(metadata: &[u8], version: u64) -> Result<Vec<u8>, Malformed> {
    let mut out = metadata.to_vec();
    out.get_mut(HEADER_BYTES..HEADER_BYTES + 8)
        .ok_or(Malformed)?
        .copy_from_slice(&version.to_be_bytes());
    Ok(out)
}

/// Where a key or a member stands among the others: SipHash-1-3, so that nobody can put many in one
/// place. On disk, so never to be changed.
pub fn place(name: &[u8]) -> u32 {
    let hasher = SipHasher13::new_with_keys(0x6861_7773_6572_2d6b, 0x7620_706c_6163_6573);
    hasher.hash(name) as u32
}

pub fn metadata_key(key: &[u8]) -> Vec<u8> {
    let mut out = metadata_from(place(key));
    out.extend_from_slice(key);
    out
}

/// Where the metadata of the keys begins that stand at this place or after it.
pub fn metadata_from(place: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(METADATA_PREFIX_BYTES + 32);
    out.extend_from_slice(&[0; SPACE_BYTES]);
    out.extend_from_slice(&place.to_be_bytes());
    out
}

const METADATA_PREFIX_BYTES: usize = SPACE_BYTES + PLACE_BYTES;
const PLACE_BYTES: usize = 4;

/// The user's key in a metadata key.
pub fn user_key(metadata_key: &[u8]) -> &[u8] {
    metadata_key.get(METADATA_PREFIX_BYTES..).unwrap_or_default()
}

/// The space of a stored key.
pub fn space_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(SYSTEM_SPACE, |space| u32::from_be_bytes(*space))
}

/// The same key in that space, whatever space it was in.
pub fn move_to_space(key: &mut [u8], space: u32) {
    key[..SPACE_BYTES].copy_from_slice(&space.to_be_bytes());
}

/// The same for a key that is borrowed; keys of space 0 stay where they are.
pub fn in_space(key: &[u8], space: u32) -> Cow<'_, [u8]> {
    if space_of(key) == space {
        return Cow::Borrowed(key);
    }
    let mut key = key.to_vec();
    move_to_space(&mut key, space);
    Cow::Owned(key)
}

/// The same for the upper end of a range, which may be the end of the space.
pub fn end_in_space(upper: &[u8], space: u32) -> Cow<'_, [u8]> {
    match upper.len() {
        SPACE_BYTES => Cow::Owned((space + 1).to_be_bytes().to_vec()),
        _ => in_space(upper, space),
    }
}

/// The metadata key of a row of the system space.
pub fn system_key(name: &[u8]) -> Vec<u8> {
    [&SYSTEM_SPACE.to_be_bytes(), name].concat()
}

/// The name of a row of the system space, if this is the metadata key of one.
pub fn system_name(metadata_key: &[u8]) -> Option<&[u8]> {
    metadata_key.strip_prefix(&SYSTEM_SPACE.to_be_bytes())
}

/// The place in a metadata key.
pub fn key_place(metadata_key: &[u8]) -> Result<u32, Malformed> {
    place_at(SPACE_BYTES, metadata_key)
}

/// The place in the name of a member of a hash, a set or a sorted set.
pub fn place_in(name: &[u8]) -> Result<u32, Malformed> {
    place_at(1, name)
}

fn place_at(start: usize, row: &[u8]) -> Result<u32, Malformed> {
    let bytes = row.get(start..start + PLACE_BYTES).ok_or(Malformed)?;
    Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

/// What the name of a field or member starts with, as opposed to a score.
const BY_PLACE: u8 = 0;
const BY_SCORE: u8 = 1;

/// The name of a field or member in the order of places.
pub fn placed_name(member: &[u8]) -> Vec<u8> {
    let mut out = placed_from(place(member)).to_vec();
    out.extend_from_slice(member);
    out
}

/// Where the names begin that stand at this place or after it.
pub fn placed_from(place: u32) -> [u8; 1 + PLACE_BYTES] {
    let mut out = [BY_PLACE; 1 + PLACE_BYTES];
    out[1..].copy_from_slice(&place.to_be_bytes());
    out
}

/// After every place.
pub fn placed_end() -> [u8; 1] {
    [BY_PLACE + 1]
}

/// The field or member in a [`placed_name`].
pub fn placed_member(name: &[u8]) -> &[u8] {
    name.get(1 + PLACE_BYTES..).unwrap_or_default()
}

/// The name of a member of a sorted set in the order of scores, which numbers have as bytes too once
/// negative ones are turned around. The two zeros are equal; the value tells them apart.
pub fn scored_name(score: f64, member: &[u8]) -> Vec<u8> {
    let mut out = scored_from(score).to_vec();
    out.extend_from_slice(member);
    out
}

/// Where the names begin that have this score or a higher one.
pub fn scored_from(score: f64) -> [u8; 9] {
    let bits = if score == 0.0 { 0 } else { score.to_bits() };
    let sortable = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    let mut out = [BY_SCORE; 9];
    out[1..].copy_from_slice(&sortable.to_be_bytes());
    out
}

/// Where the names begin that have a higher score.
pub fn scored_after(score: f64) -> [u8; 9] {
    let mut out = scored_from(score);
    let sortable = u64::from_be_bytes(out[1..].try_into().expect("eight bytes"));
    // Above the highest score lie only numbers that are none.
    out[1..].copy_from_slice(&(sortable + 1).to_be_bytes());
    out
}

/// After every score.
pub fn scored_end() -> [u8; 1] {
    [BY_SCORE + 1]
}

/// Score and member in a [`scored_name`].
pub fn scored_member(name: &[u8]) -> Result<(f64, &[u8]), Malformed> {
    let (head, member) = name.split_first_chunk::<9>().ok_or(Malformed)?;
    let sortable = integer(&head[1..])?;
    let bits = if sortable >> 63 == 1 { sortable & !(1 << 63) } else { !sortable };
    Ok((f64::from_bits(bits), member))
}

/// What all member keys of one collection start with.
pub fn member_prefix(key: &[u8], version: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(SPACE_BYTES + 4 + key.len() + 8 + 32);
    out.extend_from_slice(&[0; SPACE_BYTES]);
    out.extend_from_slice(&u32::try_from(key.len()).expect("keys are bounded").to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&version.to_be_bytes());
    out
}

pub fn member_key(key: &[u8], version: u64, name: &[u8]) -> Vec<u8> {
    let mut out = member_prefix(key, version);
    out.extend_from_slice(name);
    out
}

/// The owner of a member: its space, the user's key and the version it belongs to.
pub fn member_owner(member_key: &[u8]) -> Result<(u32, &[u8], u64), Malformed> {
    let rest = member_key.get(SPACE_BYTES..).ok_or(Malformed)?;
    let (key_bytes, rest) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
    let key_bytes = u32::from_be_bytes(*key_bytes) as usize;
    let (key, rest) = rest.split_at_checked(key_bytes).ok_or(Malformed)?;
    Ok((space_of(member_key), key, integers::<1>(rest)?.1[0]))
}

/// The smallest key above every key that starts with `prefix`; the prefixes above start with
/// space 0, so there always is one.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut out = prefix.to_vec();
    while out.pop_if(|byte| *byte == u8::MAX).is_some() {}
    *out.last_mut().expect("a prefix starts with its space") += 1;
    out
}

/// Bounds of everything of the space, in either family.
pub fn whole_space() -> (Vec<u8>, Vec<u8>) {
    spaces(0, 1)
}

/// Bounds of all spaces from one to before another.
pub fn spaces(from: u32, to: u32) -> (Vec<u8>, Vec<u8>) {
    (from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec())
}

/// Bounds of the system space.
pub fn system_space() -> (Vec<u8>, Vec<u8>) {
    (SYSTEM_SPACE.to_be_bytes().to_vec(), vec![u8::MAX; SPACE_BYTES + 1])
}

/// A stream entry's fields: count, then each with its length before it.
pub fn encode_fields<'a>(fields: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&(fields.len() as u32).to_be_bytes());
    for field in fields {
        out.extend_from_slice(&(field.len() as u32).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// Calls `each` with every field and value of an entry, after telling how many there are.
pub fn decode_fields(entry: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let (count, mut rest) = entry.split_first_chunk::<4>().ok_or(Malformed)?;
    let mut fields = Vec::with_capacity((u32::from_be_bytes(*count) as usize).min(1024));
    for _ in 0..u32::from_be_bytes(*count) {
        let (bytes, tail) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
        let (field, tail) =
            tail.split_at_checked(u32::from_be_bytes(*bytes) as usize).ok_or(Malformed)?;
        fields.push(field);
        rest = tail;
    }
    if rest.is_empty() { Ok(fields) } else { Err(Malformed) }
}

fn integer(bytes: &[u8]) -> Result<u64, Malformed> {
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

fn integers<const N: usize>(mut bytes: &[u8]) -> Result<(&[u8], [u64; N]), Malformed> {
    let mut out = [0; N];
    for value in &mut out {
        let (head, tail) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
        *value = u64::from_be_bytes(*head);
        bytes = tail;
    }
    Ok((bytes, out))
}

fn put_integers<const N: usize>(out: &mut Vec<u8>, values: [u64; N]) {
    for value in values {
        out.extend_from_slice(&value.to_be_bytes());
    }
}
