//! Frames between one shard of a broker and one control node.
//!
//! ```text
//!  shard                                        control node
//!    │── Hello {broker, shard, nonce} ───────────────▶│
//!    │◀──────────── Challenge {node, nonce, proof} ───│ HMAC over both nonces: each end
//!    │── Proof {proof} ──────────────────────────────▶│ shows that it has the link key
//!    │◀─────────────────────────────── Accepted ──────│
//!    │◀─────────────────────────────── Keys {apps} ───│ tickets can be verified from here on
//!    │── Announce [sessions] ────────────────────────▶│ routes are soft state
//!    │── Pull [sessions] ────────────────────────────▶│
//!    │◀──────────── Entries {session, entries} ───────│
//!    │◀──────────── Deliver {session, seq, body} ─────│
//!    │── Ack [device, seq], GroupAck, Gone ──────────▶│
//!    │◀──────────── GroupDeliver {app, seq, body} ────│ once per shard
//!    │◀──────────── Kick {session, epoch} ────────────│ only for a newer session of the device
//! ```
//!
//! List frames repeat fixed-size records to the end of the body. Nothing here is stored, and a
//! lost link loses nothing: the shard announces every session again on the next one.

use crate::cursor::{Reader, Write, varint_bytes};
use crate::error::{CloseReason, DecodeError};
use crate::frame::{Frame, put_frame, put_header};
use crate::ids::{AppId, DeviceId, Epoch, HashKey, Seq, SessionRef, Stream, TopicId, is_app_name};
use crate::limits::{
    APP_KEYS_MAX, APP_NAME_BYTES_MAX, APPS_MAX, LINK_BODY_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PULL_ENTRIES_MAX, TOPICS_PER_SESSION_MAX,
};
use crate::ticket::Algorithm;

pub const MAJOR: u8 = 1;
pub const MINOR: u8 = 0;

/// What the two proofs are computed over, before the hello and the nonces: each side's own, so
/// that one side's proof cannot be reflected as the other's.
pub const CONTROL_PROOF_CONTEXT: &[u8] = b"hawser-link-v1-control\0";
pub const BROKER_PROOF_CONTEXT: &[u8] = b"hawser-link-v1-broker\0";

mod kind {
    pub const HELLO: u8 = 0x40;
    pub const PROOF: u8 = 0x41;
    pub const ANNOUNCE: u8 = 0x42;
    pub const GONE: u8 = 0x43;
    pub const PULL: u8 = 0x44;
    pub const ACK: u8 = 0x45;
    pub const GROUP_ACK: u8 = 0x46;
    pub const GROUP_PULL: u8 = 0x47;
    pub const GROUP_FETCH: u8 = 0x48;
    pub const GROUP_SENT: u8 = 0x49;
    pub const PONG: u8 = 0x4a;

    pub const CHALLENGE: u8 = 0x60;
    pub const ACCEPTED: u8 = 0x61;
    pub const KEYS: u8 = 0x62;
    pub const DELIVER: u8 = 0x63;
    pub const ENTRIES: u8 = 0x64;
    pub const GROUP_DELIVER: u8 = 0x65;
    pub const GROUP_CURSOR: u8 = 0x66;
    pub const GROUP_ENTRIES: u8 = 0x67;
    pub const GROUP_FETCHED: u8 = 0x68;
    pub const KICK: u8 = 0x69;
    pub const PING: u8 = 0x6a;
    pub const RESET: u8 = 0x6b;
    pub const REFUSED: u8 = 0x6c;
}

/// Who is calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub major: u8,
    pub minor: u8,
    pub broker: u64,
    /// Differs between two runs of the same broker.
    pub incarnation: u64,
    pub shard: u16,
    pub nonce: [u8; 32],
}

impl Hello {
    /// The bytes that a proof covers after its context: the identity, then both nonces.
    pub fn transcript(&self, node: u64, node_nonce: &[u8; 32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.put_u8(self.major);
        out.put_u8(self.minor);
        out.put_u64(self.broker);
        out.put_u64(self.incarnation);
        out.put_u16(self.shard);
        out.put(&self.nonce);
        out.put_u64(node);
        out.put(node_nonce);
        out
    }
}

/// A session that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    pub device: DeviceId,
    pub app: AppId,
    pub session: SessionRef,
    pub epoch: Epoch,
    /// The highest inbox entry the device has acknowledged.
    pub acked: Seq,
}

/// A session that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub device: DeviceId,
    pub session: SessionRef,
    pub reason: CloseReason,
}

/// Asks for the inbox entries after `from`; acknowledges those up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub device: DeviceId,
    pub app: AppId,
    pub session: SessionRef,
    pub from: Seq,
}

/// The device's application has its inbox up to `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    pub device: DeviceId,
    pub app: AppId,
    pub seq: Seq,
}

/// `count` more devices of this shard acknowledged the group entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupAcked {
    pub app: AppId,
    pub seq: Seq,
    pub count: u32,
}

/// A fixed-size record of a list frame.
pub trait Record: Copy {
    const BYTES: usize;
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
    fn put(&self, out: &mut Vec<u8>);
}

/// A list frame's records, decoded one by one. Checked as a whole before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<'a, R> {
    bytes: &'a [u8],
    record: std::marker::PhantomData<R>,
}

impl<'a, R: Record> List<'a, R> {
    fn decode(body: &mut Reader<'a>) -> Result<List<'a, R>, DecodeError> {
        let bytes = body.bytes(body.rest().len())?;
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            R::get(&mut reader)?;
        }
        Ok(List { bytes, record: std::marker::PhantomData })
    }

    pub fn count(&self) -> usize {
        self.bytes.len() / R::BYTES
    }

    pub fn iter(&self) -> impl Iterator<Item = R> + 'a {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || {
            (!reader.is_empty()).then(|| R::get(&mut reader).expect("checked by decode"))
        })
    }
}

/// What a shard sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToControl<'a> {
    Hello(Hello),
    Proof {
        proof: [u8; 32],
    },
    Announce(List<'a, Announced>),
    Gone(List<'a, Gone>),
    Pull(List<'a, Pulled>),
    Ack(List<'a, Acked>),
    GroupAck(List<'a, GroupAcked>),
    /// One device asks for the group entries of its topics after `from`.
    GroupPull {
        app: AppId,
        session: SessionRef,
        from: Seq,
        topics: Topics<'a>,
    },
    /// The shard itself missed group entries after `from`.
    GroupFetch {
        app: AppId,
        from: Seq,
    },
    /// A group entry went to `sent` devices at once; `waiting` more will pull it.
    GroupSent {
        app: AppId,
        seq: Seq,
        sent: u32,
        waiting: u32,
    },
    Pong {
        epoch: Epoch,
    },
}

/// The topics of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topics<'a> {
    bytes: &'a [u8],
}

impl<'a> Topics<'a> {
    pub fn iter(&self) -> impl Iterator<Item = TopicId> + 'a {
        self.bytes.chunks_exact(8).map(|chunk| {
            TopicId(u64::from_le_bytes(chunk.try_into().expect("chunks are eight bytes")))
        })
    }
}

/// Flags of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntryFlags(u8);

impl EntryFlags {
    pub const NONE: EntryFlags = EntryFlags(0);
    /// Release it with the device's next heartbeat, not at once.
    pub const WHEN_AWAKE: EntryFlags = EntryFlags(1);
    /// The payload does not travel with this frame; the device pulls it.
    pub const NO_BODY: EntryFlags = EntryFlags(2);

    pub fn contains(self, other: EntryFlags) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn with(self, other: EntryFlags) -> EntryFlags {
        EntryFlags(self.0 | other.0)
    }

    /// An entry that travels without its payload has none here.
    fn allow(self, payload: &[u8]) -> Result<(), DecodeError> {
        if self.contains(EntryFlags::NO_BODY) && !payload.is_empty() {
            return Err(DecodeError::BadValue);
        }
        Ok(())
    }

    fn get(reader: &mut Reader<'_>) -> Result<EntryFlags, DecodeError> {
        match reader.u8()? {
            bits @ 0..=3 => Ok(EntryFlags(bits)),
            _ => Err(DecodeError::BadValue),
        }
    }
}

/// One stored message as it crosses the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub seq: Seq,
    /// [`TopicId::ALL`] for inbox entries too.
    pub topic: TopicId,
    pub flags: EntryFlags,
    pub payload: &'a [u8],
}

/// The entries of one answer, checked as a whole before this is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    bytes: &'a [u8],
}

/// An app as a broker needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppKeys<'a> {
    pub app: AppId,
    pub name: &'a str,
    pub keys: Vec<VerifyKey>,
}

/// One verification key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey {
    pub id: u32,
    pub algorithm: Algorithm,
    /// An Ed25519 public key, or the shared HMAC key.
    pub key: [u8; 32],
}

impl std::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyKey {{ id: {}, algorithm: {:?} }}", self.id, self.algorithm)
    }
}

/// The whole key set; a newer version replaces an older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    pub version: u64,
    pub hash_key: HashKey,
    pub apps: Vec<AppKeys<'a>>,
}

/// What a control node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBroker<'a> {
    Challenge {
        major: u8,
        minor: u8,
        node: u64,
        nonce: [u8; 32],
        proof: [u8; 32],
    },
    Accepted {
        epoch: Epoch,
    },
    /// The link will not be: wrong version, or the proof failed.
    Refused {
        reason: CloseReason,
    },
    Keys(Keys<'a>),
    /// One inbox entry, right after it was stored.
    Deliver {
        session: SessionRef,
        entry: Entry<'a>,
    },
    /// The answer to a pull: the inbox up to `upto`; with `more`, not to its end.
    Entries {
        session: SessionRef,
        upto: Seq,
        more: bool,
        entries: Entries<'a>,
    },
    /// One group entry, right after it was stored.
    GroupDeliver {
        app: AppId,
        entry: Entry<'a>,
    },
    /// The end of the app's group log.
    GroupCursor {
        app: AppId,
        seq: Seq,
    },
    /// The answer to one device's group pull.
    GroupEntries {
        session: SessionRef,
        upto: Seq,
        more: bool,
        entries: Entries<'a>,
    },
    /// The answer to a shard's fetch.
    GroupFetched {
        app: AppId,
        upto: Seq,
        more: bool,
        entries: Entries<'a>,
    },
    /// A session with `epoch` exists elsewhere; a shard closes `session` only if its own is lower.
    Kick {
        session: SessionRef,
        epoch: Epoch,
    },
    Ping {
        epoch: Epoch,
    },
    /// The device's position is beyond the end of the stream, which is `seq`.
    Reset {
        session: SessionRef,
        stream: Stream,
        seq: Seq,
    },
}

impl<'a> ToControl<'a> {
    /// `Ok(None)` for a type of a newer minor version, which is skipped.
    pub fn decode(frame: Frame<'a>) -> Result<Option<ToControl<'a>>, DecodeError> {
        let mut body = Reader::new(frame.body);
        let value = match frame.kind {
            kind::HELLO => {
                let (major, minor) = (body.u8()?, body.u8()?);
                if major != MAJOR {
                    // Only the version of another major is meaningful.
                    let hello =
                        Hello { major, minor, broker: 0, incarnation: 0, shard: 0, nonce: [0; 32] };
                    return Ok(Some(ToControl::Hello(hello)));
                }
                ToControl::Hello(Hello {
                    major,
                    minor,
                    broker: body.u64()?,
                    incarnation: body.u64()?,
                    shard: body.u16()?,
                    nonce: body.array()?,
                })
            }
            kind::PROOF => ToControl::Proof { proof: body.array()? },
            kind::ANNOUNCE => ToControl::Announce(List::decode(&mut body)?),
            kind::GONE => ToControl::Gone(List::decode(&mut body)?),
            kind::PULL => ToControl::Pull(List::decode(&mut body)?),
            kind::ACK => ToControl::Ack(List::decode(&mut body)?),
            kind::GROUP_ACK => ToControl::GroupAck(List::decode(&mut body)?),
            kind::GROUP_PULL => {
                let app = AppId(body.u32()?);
                let session = session(&mut body)?;
                let from = Seq::get(&mut body)?;
                let bytes = body.bytes(body.rest().len())?;
                if bytes.len() % 8 != 0 {
                    return Err(DecodeError::Truncated);
                }
                if bytes.len() / 8 > TOPICS_PER_SESSION_MAX {
                    return Err(DecodeError::BadValue);
                }
                ToControl::GroupPull { app, session, from, topics: Topics { bytes } }
            }
            kind::GROUP_FETCH => {
                ToControl::GroupFetch { app: AppId(body.u32()?), from: Seq::get(&mut body)? }
            }
            kind::GROUP_SENT => ToControl::GroupSent {
                app: AppId(body.u32()?),
                seq: Seq::get(&mut body)?,
                sent: body.u32()?,
                waiting: body.u32()?,
            },
            kind::PONG => ToControl::Pong { epoch: Epoch(body.u64()?) },
            _ => return Ok(None),
        };
        body.end()?;
        Ok(Some(value))
    }
}

/// Appends a [`ToControl`] frame. List frames take their records as a slice.
pub mod to_control {
    use super::*;

    pub fn hello(out: &mut Vec<u8>, hello: &Hello) {
        put_header(out, kind::HELLO, 52);
        out.put_u8(hello.major);
        out.put_u8(hello.minor);
        out.put_u64(hello.broker);
        out.put_u64(hello.incarnation);
        out.put_u16(hello.shard);
        out.put(&hello.nonce);
    }

    pub fn proof(out: &mut Vec<u8>, proof: &[u8; 32]) {
        put_header(out, kind::PROOF, 32);
        out.put(proof);
    }

    pub fn announce(out: &mut Vec<u8>, records: &[Announced]) {
        put_list(out, kind::ANNOUNCE, records);
    }

    pub fn gone(out: &mut Vec<u8>, records: &[Gone]) {
        put_list(out, kind::GONE, records);
    }

    pub fn pull(out: &mut Vec<u8>, records: &[Pulled]) {
        put_list(out, kind::PULL, records);
    }

    pub fn ack(out: &mut Vec<u8>, records: &[Acked]) {
        put_list(out, kind::ACK, records);
    }

    pub fn group_ack(out: &mut Vec<u8>, records: &[GroupAcked]) {
        put_list(out, kind::GROUP_ACK, records);
    }

    pub fn group_pull(
        out: &mut Vec<u8>,
        app: AppId,
        session: SessionRef,
        from: Seq,
        topics: &[TopicId],
    ) {
        assert!(topics.len() <= TOPICS_PER_SESSION_MAX);
        put_header(out, kind::GROUP_PULL, 20 + 8 * topics.len());
        out.put_u32(app.0);
        put_session(out, session);
        Record::put(&from, out);
        for topic in topics {
            out.put_u64(topic.0);
        }
    }

    pub fn group_fetch(out: &mut Vec<u8>, app: AppId, from: Seq) {
        put_header(out, kind::GROUP_FETCH, 12);
        out.put_u32(app.0);
        Record::put(&from, out);
    }

    pub fn group_sent(out: &mut Vec<u8>, app: AppId, seq: Seq, sent: u32, waiting: u32) {
        put_header(out, kind::GROUP_SENT, 20);
        out.put_u32(app.0);
        Record::put(&seq, out);
        out.put_u32(sent);
        out.put_u32(waiting);
    }

    pub fn pong(out: &mut Vec<u8>, epoch: Epoch) {
        put_header(out, kind::PONG, 8);
        out.put_u64(epoch.0);
    }

    fn put_list<R: Record>(out: &mut Vec<u8>, kind: u8, records: &[R]) {
        let body_bytes = records.len() * R::BYTES;
        assert!(body_bytes <= LINK_BODY_BYTES_MAX, "the other end refuses a larger frame");
        put_header(out, kind, body_bytes);
        for record in records {
            record.put(out);
        }
    }
}

impl<'a> ToBroker<'a> {
    /// `Ok(None)` for a type of a newer minor version, which is skipped.
    pub fn decode(frame: Frame<'a>) -> Result<Option<ToBroker<'a>>, DecodeError> {
        let mut body = Reader::new(frame.body);
        let value = match frame.kind {
            kind::CHALLENGE => ToBroker::Challenge {
                major: body.u8()?,
                minor: body.u8()?,
                node: body.u64()?,
                nonce: body.array()?,
                proof: body.array()?,
            },
            kind::ACCEPTED => ToBroker::Accepted { epoch: Epoch(body.u64()?) },
            kind::REFUSED => ToBroker::Refused { reason: CloseReason::from_code(body.u8()?) },
            kind::KEYS => ToBroker::Keys(Keys::decode(&mut body)?),
            kind::DELIVER => {
                let session = session(&mut body)?;
                let (seq, flags) = (Seq::of_entry(body.varint()?)?, EntryFlags::get(&mut body)?);
                let payload = payload(&mut body, flags)?;
                ToBroker::Deliver {
                    session,
                    entry: Entry { seq, topic: TopicId::ALL, flags, payload },
                }
            }
            kind::ENTRIES => {
                let (session, upto, more, entries) = answer(&mut body)?;
                ToBroker::Entries { session, upto, more, entries }
            }
            kind::GROUP_DELIVER => {
                let app = AppId(body.u32()?);
                let (seq, flags) = (Seq::of_entry(body.varint()?)?, EntryFlags::get(&mut body)?);
                let topic = TopicId(body.u64()?);
                let payload = payload(&mut body, flags)?;
                ToBroker::GroupDeliver { app, entry: Entry { seq, topic, flags, payload } }
            }
            kind::GROUP_CURSOR => {
                ToBroker::GroupCursor { app: AppId(body.u32()?), seq: Seq::get(&mut body)? }
            }
            kind::GROUP_ENTRIES => {
                let (session, upto, more, entries) = answer(&mut body)?;
                ToBroker::GroupEntries { session, upto, more, entries }
            }
            kind::GROUP_FETCHED => {
                let app = AppId(body.u32()?);
                let (upto, more) = (Seq::get(&mut body)?, more(&mut body)?);
                let entries = Entries::decode(&mut body, upto)?;
                ToBroker::GroupFetched { app, upto, more, entries }
            }
            kind::KICK => {
                ToBroker::Kick { session: session(&mut body)?, epoch: Epoch(body.u64()?) }
            }
            kind::PING => ToBroker::Ping { epoch: Epoch(body.u64()?) },
            kind::RESET => ToBroker::Reset {
                session: session(&mut body)?,
                stream: Stream::from_code(body.u8()?)?,
                seq: Seq::get(&mut body)?,
            },
            _ => return Ok(None),
        };
        body.end()?;
        Ok(Some(value))
    }
}

/// Appends a [`ToBroker`] frame.
pub mod to_broker {
    use super::*;

    pub fn challenge(out: &mut Vec<u8>, node: u64, nonce: &[u8; 32], proof: &[u8; 32]) {
        put_header(out, kind::CHALLENGE, 74);
        out.put_u8(MAJOR);
        out.put_u8(MINOR);
        out.put_u64(node);
        out.put(nonce);
        out.put(proof);
    }

    pub fn accepted(out: &mut Vec<u8>, epoch: Epoch) {
        put_header(out, kind::ACCEPTED, 8);
        out.put_u64(epoch.0);
    }

    pub fn refused(out: &mut Vec<u8>, reason: CloseReason) {
        put_header(out, kind::REFUSED, 1);
        out.put_u8(reason as u8);
    }

    pub fn keys(out: &mut Vec<u8>, keys: &Keys<'_>) {
        put_frame(out, kind::KEYS, |out| keys.encode(out));
    }

    pub fn deliver(
        out: &mut Vec<u8>,
        session: SessionRef,
        seq: Seq,
        flags: EntryFlags,
        payload: &[u8],
    ) {
        put_header(out, kind::DELIVER, 9 + varint_bytes(seq.0) + payload.len());
        put_session(out, session);
        out.put_varint(seq.0);
        out.put_u8(flags.0);
        out.put(payload);
    }

    pub fn entries(
        out: &mut Vec<u8>,
        session: SessionRef,
        upto: Seq,
        more: bool,
        entries: &[Entry<'_>],
    ) {
        put_frame(out, kind::ENTRIES, |out| put_answer(out, session, upto, more, entries));
    }

    pub fn group_deliver(out: &mut Vec<u8>, app: AppId, entry: &Entry<'_>) {
        put_header(out, kind::GROUP_DELIVER, 13 + varint_bytes(entry.seq.0) + entry.payload.len());
        out.put_u32(app.0);
        out.put_varint(entry.seq.0);
        out.put_u8(entry.flags.0);
        out.put_u64(entry.topic.0);
        out.put(entry.payload);
    }

    pub fn group_cursor(out: &mut Vec<u8>, app: AppId, seq: Seq) {
        put_header(out, kind::GROUP_CURSOR, 12);
        out.put_u32(app.0);
        Record::put(&seq, out);
    }

    pub fn group_entries(
        out: &mut Vec<u8>,
        session: SessionRef,
        upto: Seq,
        more: bool,
        entries: &[Entry<'_>],
    ) {
        put_frame(out, kind::GROUP_ENTRIES, |out| put_answer(out, session, upto, more, entries));
    }

    pub fn group_fetched(
        out: &mut Vec<u8>,
        app: AppId,
        upto: Seq,
        more: bool,
        entries: &[Entry<'_>],
    ) {
        put_frame(out, kind::GROUP_FETCHED, |out| {
            out.put_u32(app.0);
            Record::put(&upto, out);
            out.put_u8(u8::from(more));
            put_entries(out, entries);
        });
    }

    pub fn kick(out: &mut Vec<u8>, session: SessionRef, epoch: Epoch) {
        put_header(out, kind::KICK, 16);
        put_session(out, session);
        out.put_u64(epoch.0);
    }

    pub fn ping(out: &mut Vec<u8>, epoch: Epoch) {
        put_header(out, kind::PING, 8);
        out.put_u64(epoch.0);
    }

    pub fn reset(out: &mut Vec<u8>, session: SessionRef, stream: Stream, seq: Seq) {
        put_header(out, kind::RESET, 17);
        put_session(out, session);
        out.put_u8(stream as u8);
        Record::put(&seq, out);
    }

    fn put_answer(
        out: &mut Vec<u8>,
        session: SessionRef,
        upto: Seq,
        more: bool,
        entries: &[Entry<'_>],
    ) {
        put_session(out, session);
        Record::put(&upto, out);
        out.put_u8(u8::from(more));
        put_entries(out, entries);
    }

    fn put_entries(out: &mut Vec<u8>, entries: &[Entry<'_>]) {
        assert!(entries.len() <= PULL_ENTRIES_MAX);
        for entry in entries {
            out.put_varint(entry.seq.0);
            out.put_u8(entry.flags.0);
            out.put_u64(entry.topic.0);
            out.put_prefixed(entry.payload);
        }
    }
}

impl<'a> Entries<'a> {
    pub const EMPTY: Entries<'static> = Entries { bytes: &[] };

    /// Ascending, and none beyond `upto`, which the answer claims to reach.
    fn decode(body: &mut Reader<'a>, upto: Seq) -> Result<Entries<'a>, DecodeError> {
        let bytes = body.bytes(body.rest().len())?;
        let mut reader = Reader::new(bytes);
        let mut last = Seq::ZERO;
        let mut count = 0;
        while !reader.is_empty() {
            let entry = Entry::get(&mut reader)?;
            count += 1;
            if entry.seq <= last || entry.seq > upto || count > PULL_ENTRIES_MAX {
                return Err(DecodeError::BadValue);
            }
            last = entry.seq;
        }
        Ok(Entries { bytes })
    }

    /// In ascending order of sequence number.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || {
            (!reader.is_empty()).then(|| Entry::get(&mut reader).expect("checked by decode"))
        })
    }
}

impl<'a> Entry<'a> {
    fn get(reader: &mut Reader<'a>) -> Result<Entry<'a>, DecodeError> {
        let seq = Seq::of_entry(reader.varint()?)?;
        let flags = EntryFlags::get(reader)?;
        let topic = TopicId(reader.u64()?);
        let payload = reader.prefixed(PAYLOAD_BYTES_MAX)?;
        flags.allow(payload)?;
        Ok(Entry { seq, topic, flags, payload })
    }
}

impl AppKeys<'_> {
    /// Number, a name of one letter, and no key.
    const BYTES_MIN: usize = 4 + 2 + 1;
}

impl<'a> Keys<'a> {
    /// Also the format of the file in which a broker keeps the last set.
    pub fn decode(body: &mut Reader<'a>) -> Result<Keys<'a>, DecodeError> {
        let version = body.u64()?;
        let hash_key = HashKey(body.array()?);
        let count = usize::from(body.u16()?);
        if count > APPS_MAX {
            return Err(DecodeError::BadValue);
        }
        if count * AppKeys::BYTES_MIN > body.rest().len() {
            return Err(DecodeError::Truncated);
        }
        // Allocates: key sets are rare, and the bytes for what is reserved here have arrived.
        let mut apps = Vec::with_capacity(count);
        for _ in 0..count {
            let app = AppId(body.u32()?);
            let name = body.text(APP_NAME_BYTES_MAX)?;
            let key_count = usize::from(body.u8()?);
            if app.0 == 0 || key_count > APP_KEYS_MAX {
                return Err(DecodeError::BadValue);
            }
            if !is_app_name(name) {
                return Err(DecodeError::BadText);
            }
            let mut keys = Vec::with_capacity(key_count);
            for _ in 0..key_count {
                let (id, algorithm) = (body.u32()?, Algorithm::from_code(body.u8()?)?);
                keys.push(VerifyKey { id, algorithm, key: body.array()? });
            }
            apps.push(AppKeys { app, name, keys });
        }
        Ok(Keys { version, hash_key, apps })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.apps.len() <= APPS_MAX);
        out.put_u64(self.version);
        out.put(&self.hash_key.0);
        out.put_u16(self.apps.len() as u16);
        for app in &self.apps {
            assert!(app.keys.len() <= APP_KEYS_MAX);
            out.put_u32(app.app.0);
            out.put_prefixed(app.name.as_bytes());
            out.put_u8(app.keys.len() as u8);
            for key in &app.keys {
                out.put_u32(key.id);
                out.put_u8(key.algorithm as u8);
                out.put(&key.key);
            }
        }
    }
}

/// Sequence numbers in list records are eight bytes, so that records have one size.
impl Record for Seq {
    const BYTES: usize = 8;

    fn get(reader: &mut Reader<'_>) -> Result<Seq, DecodeError> {
        Seq::new(reader.u64()?)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0);
    }
}

impl Record for Announced {
    const BYTES: usize = 44;

    fn get(reader: &mut Reader<'_>) -> Result<Announced, DecodeError> {
        Ok(Announced {
            device: DeviceId(reader.u128()?),
            app: AppId(reader.u32()?),
            session: session(reader)?,
            epoch: Epoch(reader.u64()?),
            acked: Seq::get(reader)?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u128(self.device.0);
        out.put_u32(self.app.0);
        put_session(out, self.session);
        out.put_u64(self.epoch.0);
        self.acked.put(out);
    }
}

impl Record for Gone {
    const BYTES: usize = 25;

    fn get(reader: &mut Reader<'_>) -> Result<Gone, DecodeError> {
        Ok(Gone {
            device: DeviceId(reader.u128()?),
            session: session(reader)?,
            reason: CloseReason::from_code(reader.u8()?),
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u128(self.device.0);
        put_session(out, self.session);
        out.put_u8(self.reason as u8);
    }
}

impl Record for Pulled {
    const BYTES: usize = 36;

    fn get(reader: &mut Reader<'_>) -> Result<Pulled, DecodeError> {
        Ok(Pulled {
            device: DeviceId(reader.u128()?),
            app: AppId(reader.u32()?),
            session: session(reader)?,
            from: Seq::get(reader)?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u128(self.device.0);
        out.put_u32(self.app.0);
        put_session(out, self.session);
        self.from.put(out);
    }
}

impl Record for Acked {
    const BYTES: usize = 28;

    fn get(reader: &mut Reader<'_>) -> Result<Acked, DecodeError> {
        Ok(Acked {
            device: DeviceId(reader.u128()?),
            app: AppId(reader.u32()?),
            seq: Seq::get(reader)?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u128(self.device.0);
        out.put_u32(self.app.0);
        self.seq.put(out);
    }
}

impl Record for GroupAcked {
    const BYTES: usize = 16;

    fn get(reader: &mut Reader<'_>) -> Result<GroupAcked, DecodeError> {
        Ok(GroupAcked { app: AppId(reader.u32()?), seq: Seq::get(reader)?, count: reader.u32()? })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.app.0);
        self.seq.put(out);
        out.put_u32(self.count);
    }
}

fn answer<'a>(body: &mut Reader<'a>) -> Result<(SessionRef, Seq, bool, Entries<'a>), DecodeError> {
    let (session, upto, more) = (session(body)?, Seq::get(body)?, more(body)?);
    Ok((session, upto, more, Entries::decode(body, upto)?))
}

fn more(body: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match body.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::BadValue),
    }
}

fn session(body: &mut Reader<'_>) -> Result<SessionRef, DecodeError> {
    Ok(SessionRef { slot: body.u32()?, generation: body.u32()? })
}

fn put_session(out: &mut Vec<u8>, session: SessionRef) {
    out.put_u32(session.slot);
    out.put_u32(session.generation);
}

fn payload<'a>(body: &mut Reader<'a>, flags: EntryFlags) -> Result<&'a [u8], DecodeError> {
    let payload = body.rest();
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::FrameTooLarge);
    }
    flags.allow(payload)?;
    body.bytes(payload.len())
}
