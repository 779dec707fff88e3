//! One newtype per identifier, and the keyed hashes that turn names into numbers.
//!
//! A device is a 128-bit keyed hash of (app, device id): brokers and routes hold sixteen bytes
//! and no string, and nobody outside can construct two devices that collide. A topic is an
//! unkeyed 64-bit hash of its name, so that a device computes it alone; colliding topics of one
//! app would only share their members.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24Wide};

use crate::error::DecodeError;
use crate::limits::{APP_NAME_BYTES_MAX, DEVICE_NAME_BYTES_MAX, SEQ_MAX, TOPIC_NAME_BYTES_MAX};

/// An app's number, given at registration. Zero is never given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub u32);

/// A device: SipHash-2-4-128 of app name, a zero byte and device id, under the cluster's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u128);

impl DeviceId {
    pub fn new(key: &HashKey, app: &str, device: &str) -> DeviceId {
        let mut hasher = SipHasher24Wide::new_with_key(&key.0);
        hasher.write(app.as_bytes());
        hasher.write(&[0]);
        hasher.write(device.as_bytes());
        DeviceId(hasher.finish128().as_u128())
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The cluster's key for [`DeviceId`]. It is a secret: its value is not printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// A topic: SipHash-2-4 of its name under the zero key. Zero stands for the whole app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u64);

impl TopicId {
    /// Every device of the app.
    pub const ALL: TopicId = TopicId(0);

    pub fn new(topic: &str) -> TopicId {
        let mut hasher = SipHasher24::new();
        hasher.write(topic.as_bytes());
        // A name that hashes to zero must not become the whole app.
        TopicId(hasher.finish().max(1))
    }

    /// The part of the id that a push carries to tell the device which topic it came by.
    pub fn tag(self) -> u32 {
        self.0 as u32
    }
}

/// A place in an ordered stream (an inbox or a group log). The first entry is 1; 0 is the place
/// before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

impl Seq {
    pub const ZERO: Seq = Seq(0);
    pub const MAX: Seq = Seq(SEQ_MAX);

    pub fn new(value: u64) -> Result<Seq, DecodeError> {
        if value <= SEQ_MAX { Ok(Seq(value)) } else { Err(DecodeError::BadValue) }
    }

    /// The number of an entry, which is never zero.
    pub fn of_entry(value: u64) -> Result<Seq, DecodeError> {
        if value == 0 { Err(DecodeError::BadValue) } else { Seq::new(value) }
    }

    /// The place after this one. Streams refuse to grow past [`Seq::MAX`].
    pub fn next(self) -> Seq {
        assert!(self < Seq::MAX, "a stream ends at Seq::MAX");
        Seq(self.0 + 1)
    }
}

/// When a session connected: a hybrid logical clock, milliseconds since 1970 in the upper 48 bits
/// and a counter in the lower 16. Of two sessions of one device the greater epoch wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    pub const ZERO: Epoch = Epoch(0);

    pub fn from_ms(unix_ms: u64) -> Epoch {
        Epoch(unix_ms << 16)
    }

    pub fn unix_ms(self) -> u64 {
        self.0 >> 16
    }

    /// The next stamp of a clock that last gave `self`, at the time `unix_ms`, having heard `seen`.
    /// Kulkarni et al., "Logical Physical Clocks" (2014). The caller bounds what a peer may have
    /// made it hear: a clock at its end stays there.
    pub fn tick(self, unix_ms: u64, seen: Epoch) -> Epoch {
        Epoch(self.0.max(seen.0).saturating_add(1)).max(Epoch::from_ms(unix_ms))
    }
}

/// Where a session lives within one shard. The generation tells apart the sessions that have used
/// the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    pub slot: u32,
    pub generation: u32,
}

/// Which of its two streams a device talks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Messages to this device alone.
    Inbox = 0,
    /// Messages to a topic or to the whole app, in the app's one log.
    Group = 1,
}

impl Stream {
    pub fn from_code(code: u8) -> Result<Stream, DecodeError> {
        match code {
            0 => Ok(Stream::Inbox),
            1 => Ok(Stream::Group),
            _ => Err(DecodeError::BadValue),
        }
    }
}

/// Whether `name` may be an app: `[a-z0-9-]`, 1 to 32 bytes, no hyphen at either end.
pub fn is_app_name(name: &str) -> bool {
    (1..=APP_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `name` may be a device id: 1 to 64 bytes, no control characters.
pub fn is_device_name(name: &str) -> bool {
    (1..=DEVICE_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Whether `name` may be a topic: 1 to 128 bytes, no control characters.
pub fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}
