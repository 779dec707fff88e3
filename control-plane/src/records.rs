//! How what is durable is laid out in the store: names of keys, and bytes of values.
//!
//! ```text
//!   hw:s:{7:0f..e1}              stream  an inbox: app 7, device 0f..e1 (32 hex digits)
//!   hw:s:{7}                     stream  the app's group log
//!   hw:r:{7:0f..e1}:KEY          string  idempotency record (KEY: 32 hex digits)   expires
//!   hw:c:{7:0f..e1}:KEY          string  collapse record                           expires
//!   hw:t:{7:0f..e1}:SEQ          string  tombstone: x expired, c collapsed         expires
//!   hw:n:{7}                     hash    the app's counters
//!   hw:n:{7}:SEQ                 hash    a group entry's counters                  expires
//!   hw:apps                      hash    app number -> app record
//!   hw:apps-version              string  changes with every change of `hw:apps`
//!   hw:hash-key                  string  16 bytes: the key of every DeviceId
//! ```
//!
//! Entries have the ids `SEQ-0`, dense from 1, and one field `m`. Stream keys are never deleted, so
//! numbers never restart. The braces are Redis Cluster's hash tag: what one transaction touches
//! stands in one slot. Every value starts with a version byte; what another version wrote reads
//! as `None` and is left alone.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hawser_codec::cursor::{Reader, Write};
use hawser_codec::error::DecodeError;
use hawser_codec::ids::{AppId, DeviceId, Seq, TopicId};
use hawser_codec::limits::{APP_KEYS_MAX, APP_NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::Algorithm;
use sha2::{Digest, Sha256};

use crate::node::event::{CountField, CountKey, Priority, Removal, StreamId, Wake};

/// The one field of a stream entry.
pub const ENTRY_FIELD: &[u8] = b"m";
/// What a scan for streams matches.
pub const STREAM_PATTERN: &str = "hw:s:*";
pub const APPS_KEY: &str = "hw:apps";
pub const APPS_VERSION_KEY: &str = "hw:apps-version";
pub const HASH_KEY_KEY: &str = "hw:hash-key";

/// Longest time to live of a message: 30 days.
pub const TTL_S_MAX: u32 = 30 * 24 * 3600;
/// How long after its expiry an expired or collapsed message is told from a delivered one.
pub const TOMBSTONE_KEEP_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_KEEP_MS: u64 = 24 * 3600 * 1000;

pub const INBOX_ENTRIES_DEFAULT: u32 = 1_000;
pub const INBOX_ENTRIES_MAX: u32 = 100_000;
pub const GROUP_LOG_ENTRIES_DEFAULT: u32 = 10_000;
pub const GROUP_LOG_ENTRIES_MAX: u32 = 1_000_000;
pub const MESSAGES_PER_S_MAX: u32 = 10_000_000;

const VERSION: u8 = 1;

pub fn stream_key(stream: StreamId) -> String {
    format!("hw:s:{}", tag(stream))
}

/// The reverse of [`stream_key`]; `None` for the key of something else.
pub fn parse_stream_key(key: &str) -> Option<StreamId> {
    let tag = key.strip_prefix("hw:s:{")?.strip_suffix('}')?;
    match tag.split_once(':') {
        None => Some(StreamId::Group { app: AppId(tag.parse().ok()?) }),
        Some((app, device)) if device.len() == 32 => Some(StreamId::Inbox {
            app: AppId(app.parse().ok()?),
            device: DeviceId(u128::from_str_radix(device, 16).ok()?),
        }),
        Some(_) => None,
    }
}

pub fn record_key(stream: StreamId, key: KeyHash) -> String {
    format!("hw:r:{}:{key}", tag(stream))
}

pub fn collapse_key(stream: StreamId, key: KeyHash) -> String {
    format!("hw:c:{}:{key}", tag(stream))
}

pub fn tombstone_key(stream: StreamId, seq: Seq) -> String {
    format!("hw:t:{}:{}", tag(stream), seq.0)
}

pub fn count_key(key: CountKey) -> String {
    match key {
        CountKey::App(app) => format!("hw:n:{{{}}}", app.0),
        CountKey::GroupEntry { app, seq } => format!("hw:n:{{{}}}:{}", app.0, seq.0),
    }
}

fn tag(stream: StreamId) -> String {
    match stream {
        StreamId::Inbox { app, device } => format!("{{{}:{device}}}", app.0),
        StreamId::Group { app } => format!("{{{}}}", app.0),
    }
}

impl Removal {
    /// The value of a tombstone.
    pub fn as_str(self) -> &'static str {
        match self {
            Removal::Expired => "x",
            Removal::Collapsed => "c",
        }
    }

    pub fn parse(value: &[u8]) -> Option<Removal> {
        match value {
            b"x" => Some(Removal::Expired),
            b"c" => Some(Removal::Collapsed),
            _ => None,
        }
    }
}

impl CountField {
    pub const ALL: [CountField; 10] = [
        CountField::Accepted,
        CountField::Delivered,
        CountField::Expired,
        CountField::Collapsed,
        CountField::GroupAccepted,
        CountField::GroupExpired,
        CountField::GroupCollapsed,
        CountField::Sent,
        CountField::Waiting,
        CountField::Acknowledged,
    ];

    /// The field's name in the hash.
    pub fn as_str(self) -> &'static str {
        match self {
            CountField::Accepted => "accepted",
            CountField::Delivered => "delivered",
            CountField::Expired => "expired",
            CountField::Collapsed => "collapsed",
            CountField::GroupAccepted => "group_accepted",
            CountField::GroupExpired => "group_expired",
            CountField::GroupCollapsed => "group_collapsed",
            CountField::Sent => "sent",
            CountField::Waiting => "waiting",
            CountField::Acknowledged => "acknowledged",
        }
    }

    pub fn parse(name: &[u8]) -> Option<CountField> {
        CountField::ALL.into_iter().find(|field| field.as_str().as_bytes() == name)
    }
}

/// A collapse or idempotency key as the store knows it: half of its SHA-256. Sixteen bytes are
/// enough that two keys of one stream do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub u128);

impl KeyHash {
    pub fn new(key: &str) -> KeyHash {
        let digest = Sha256::digest(key.as_bytes());
        let (head, _) = digest.split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
        KeyHash(u128::from_be_bytes(*head))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A stored message.
///
/// ```text
///   1  version | 1 flags | 8 expires_unix_ms | 8 topic, if flag 8 | payload
///   flags: 1 when-awake, 6 priority (0..=2), 8 has a topic
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub expires_unix_ms: u64,
    pub priority: Priority,
    pub wake: Wake,
    /// [`TopicId::ALL`] in an inbox and for the whole app.
    pub topic: TopicId,
    /// A part of the stored bytes.
    pub payload: Bytes,
}

impl Entry {
    const WHEN_AWAKE: u8 = 1;
    const PRIORITY_SHIFT: u8 = 1;
    const HAS_TOPIC: u8 = 8;

    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(18 + self.payload.len());
        out.put_u8(VERSION);
        let mut flags = (self.priority as u8) << Entry::PRIORITY_SHIFT;
        if self.wake == Wake::WhenAwake {
            flags |= Entry::WHEN_AWAKE;
        }
        if self.topic != TopicId::ALL {
            flags |= Entry::HAS_TOPIC;
        }
        out.put_u8(flags);
        out.put_u64(self.expires_unix_ms);
        if self.topic != TopicId::ALL {
            out.put_u64(self.topic.0);
        }
        out.put(&self.payload);
        Bytes::from(out)
    }

    pub fn decode(bytes: &Bytes) -> Option<Entry> {
        let mut reader = Reader::new(bytes);
        let (version, flags) = (reader.u8().ok()?, reader.u8().ok()?);
        if version != VERSION || flags > 0b1111 {
            return None;
        }
        let priority = match flags >> Entry::PRIORITY_SHIFT & 3 {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            _ => return None,
        };
        let wake = if flags & Entry::WHEN_AWAKE != 0 { Wake::WhenAwake } else { Wake::Now };
        let expires_unix_ms = reader.u64().ok()?;
        let topic = match flags & Entry::HAS_TOPIC {
            0 => TopicId::ALL,
            _ => TopicId(reader.u64().ok()?),
        };
        let payload = bytes.slice_ref(reader.rest());
        if payload.len() > PAYLOAD_BYTES_MAX {
            return None;
        }
        Some(Entry { expires_unix_ms, priority, wake, topic, payload })
    }
}

/// An idempotency or collapse record: which entry a key stands for.
///
/// ```text
///   1 version | 8 seq | 8 expires_unix_ms
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    pub seq: Seq,
    pub expires_unix_ms: u64,
}

impl Pointer {
    pub fn encode(self) -> [u8; 17] {
        let mut out = [VERSION; 17];
        out[1..9].copy_from_slice(&self.seq.0.to_le_bytes());
        out[9..].copy_from_slice(&self.expires_unix_ms.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Pointer> {
        let mut reader = Reader::new(bytes);
        if reader.u8().ok()? != VERSION {
            return None;
        }
        let seq = Seq::of_entry(reader.u64().ok()?).ok()?;
        let expires_unix_ms = reader.u64().ok()?;
        reader.end().ok()?;
        Some(Pointer { seq, expires_unix_ms })
    }
}

/// A message's id: where it stands, so that no index is needed to find it, and when it expires, so
/// that its state is known as long as tombstones are kept.
///
/// Its text is base64url of `version | app u32 | seq varint | expires_unix_s u32 | device u128?`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    pub stream: StreamId,
    pub seq: Seq,
    /// Rounded up.
    pub expires_unix_s: u32,
}

impl MessageId {
    pub fn new(stream: StreamId, seq: Seq, expires_unix_ms: u64) -> MessageId {
        let expires_unix_s = u32::try_from(expires_unix_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        MessageId { stream, seq, expires_unix_s }
    }

    pub fn expires_unix_ms(self) -> u64 {
        u64::from(self.expires_unix_s) * 1000
    }

    fn decode(bytes: &[u8]) -> Result<MessageId, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(DecodeError::BadValue);
        }
        let app = AppId(reader.u32()?);
        let seq = Seq::of_entry(reader.varint()?)?;
        let expires_unix_s = reader.u32()?;
        let stream = if reader.is_empty() {
            StreamId::Group { app }
        } else {
            StreamId::Inbox { app, device: DeviceId(reader.u128()?) }
        };
        reader.end()?;
        Ok(MessageId { stream, seq, expires_unix_s })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(34);
        out.put_u8(VERSION);
        out.put_u32(self.stream.app().0);
        out.put_varint(self.seq.0);
        out.put_u32(self.expires_unix_s);
        if let StreamId::Inbox { device, .. } = self.stream {
            out.put_u128(device.0);
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(out))
    }
}

impl FromStr for MessageId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<MessageId, DecodeError> {
        // Longer than any id: not worth decoding.
        if text.len() > 64 {
            return Err(DecodeError::BadText);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| DecodeError::BadText)?;
        MessageId::decode(&bytes)
    }
}

/// What an app may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Per control node. 0: no limit.
    pub messages_per_s: u32,
    pub inbox_entries_max: u32,
    pub group_log_entries_max: u32,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota {
            messages_per_s: 0,
            inbox_entries_max: INBOX_ENTRIES_DEFAULT,
            group_log_entries_max: GROUP_LOG_ENTRIES_DEFAULT,
        }
    }
}

impl Quota {
    pub fn is_valid(self) -> bool {
        self.messages_per_s <= MESSAGES_PER_S_MAX
            && (1..=INBOX_ENTRIES_MAX).contains(&self.inbox_entries_max)
            && (1..=GROUP_LOG_ENTRIES_MAX).contains(&self.group_log_entries_max)
    }
}

/// A registered app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub id: AppId,
    pub new: NewApp,
}

/// Everything of an app but its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApp {
    pub name: String,
    pub quota: Quota,
    /// SHA-256 of the API key; the key itself is not kept.
    pub api_key_hash: [u8; 32],
    /// At most `APP_KEYS_MAX`.
    pub keys: Vec<AppKey>,
    pub created_unix_ms: u64,
}

/// A ticket key of an app.
#[derive(Clone, PartialEq, Eq)]
pub struct AppKey {
    pub verify: VerifyKey,
    /// The signing half, if the app left it here so that the API can sign tickets.
    pub seed: Option<[u8; 32]>,
}

impl fmt::Debug for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppKey {{ verify: {:?}, seed: .. }}", self.verify)
    }
}

impl NewApp {
    /// ```text
    ///   1 version | name (prefixed) | 4 messages_per_s | 4 inbox_entries_max
    ///   | 4 group_log_entries_max | 32 api_key_hash | 8 created_unix_ms | 1 keys
    ///   | per key: 4 id, 1 algorithm, 32 key, 1 has seed, 32 seed if it has
    /// ```
    pub fn encode(&self) -> Bytes {
        assert!(self.keys.len() <= APP_KEYS_MAX);
        let mut out = Vec::with_capacity(160);
        out.put_u8(VERSION);
        out.put_prefixed(self.name.as_bytes());
        out.put_u32(self.quota.messages_per_s);
        out.put_u32(self.quota.inbox_entries_max);
        out.put_u32(self.quota.group_log_entries_max);
        out.put(&self.api_key_hash);
        out.put_u64(self.created_unix_ms);
        out.put_u8(self.keys.len() as u8);
        for key in &self.keys {
            out.put_u32(key.verify.id);
            out.put_u8(key.verify.algorithm as u8);
            out.put(&key.verify.key);
            out.put_u8(u8::from(key.seed.is_some()));
            if let Some(seed) = &key.seed {
                out.put(seed);
            }
        }
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Option<NewApp> {
        NewApp::read(&mut Reader::new(bytes)).ok().flatten()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<NewApp>, DecodeError> {
        if reader.u8()? != VERSION {
            return Ok(None);
        }
        let name = reader.text(APP_NAME_BYTES_MAX)?.to_owned();
        let quota = Quota {
            messages_per_s: reader.u32()?,
            inbox_entries_max: reader.u32()?,
            group_log_entries_max: reader.u32()?,
        };
        let api_key_hash = reader.array()?;
        let created_unix_ms = reader.u64()?;
        let count = usize::from(reader.u8()?);
        if count > APP_KEYS_MAX || !quota.is_valid() {
            return Err(DecodeError::BadValue);
        }
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let (id, algorithm) = (reader.u32()?, Algorithm::from_code(reader.u8()?)?);
            let verify = VerifyKey { id, algorithm, key: reader.array()? };
            let seed = match reader.u8()? {
                0 => None,
                1 => Some(reader.array()?),
                _ => return Err(DecodeError::BadValue),
            };
            keys.push(AppKey { verify, seed });
        }
        reader.end()?;
        Ok(Some(NewApp { name, quota, api_key_hash, keys, created_unix_ms }))
    }
}
