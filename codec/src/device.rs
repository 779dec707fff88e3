//! Frames between a device and a broker.
//!
//! ```text
//!  device                                broker
//!    │── Connect {positions, ticket} ──────▶│ verifies the ticket alone
//!    │── Subscribe {topic} ... ────────────▶│
//!    │◀───────────── Welcome {epoch, ...} ──│
//!    │◀──── Push | Broadcast | TopicPush ───│ body at once: small, and nothing is waiting
//!    │── Ack | GroupAck ───────────────────▶│
//!    │◀───────────────── Notice {stream} ───│ otherwise
//!    │── Pull {stream, from} ──────────────▶│
//!    │◀── pushes ..., CaughtUp {upto} ──────│
//!    │── Ping ─────────────────────────────▶│ two bytes each way
//!    │◀─────────────────────────── Pong ────│
//!    │◀── Close {reason, delay, addresses} ─│
//! ```
//!
//! Sizes, header included: heartbeat 2, a push at most 12 over its payload, an acknowledgement at
//! most 10, a connect at most 38 over its ticket. `TopicPush` adds four bytes of topic tag; it
//! stays within 12 below sequence number 2^28, and below 2^35 for payloads up to 16,374 bytes.
//!
//! Versions: `Connect` carries major and minor. A broker refuses another major with
//! [`CloseReason::Version`]. A minor adds frame types, which the older side skips, and nothing
//! else: bodies of known types never change.

use crate::cursor::{Reader, Write, varint_bytes};
use crate::error::{CloseReason, DecodeError};
use crate::frame::{Frame, frame_bytes, put_frame, put_header};
use crate::ids::{Epoch, Seq, Stream, TopicId};
use crate::limits::{
    ADDRESS_BYTES_MAX, HEARTBEAT_S_MAX, PAYLOAD_BYTES_MAX, REDIRECT_ADDRESSES_MAX, TICKET_BYTES_MAX,
};

pub const MAJOR: u8 = 1;
pub const MINOR: u8 = 0;

mod kind {
    pub const PING: u8 = 0x01;
    pub const PONG: u8 = 0x02;

    pub const CONNECT: u8 = 0x10;
    pub const SUBSCRIBE: u8 = 0x11;
    pub const UNSUBSCRIBE: u8 = 0x12;
    pub const ACK: u8 = 0x13;
    pub const GROUP_ACK: u8 = 0x14;
    pub const PULL: u8 = 0x15;
    pub const BYE: u8 = 0x16;

    pub const WELCOME: u8 = 0x20;
    pub const PUSH: u8 = 0x21;
    pub const BROADCAST: u8 = 0x22;
    pub const TOPIC_PUSH: u8 = 0x23;
    pub const NOTICE: u8 = 0x24;
    pub const CAUGHT_UP: u8 = 0x25;
    pub const RESET: u8 = 0x26;
    pub const INTERVAL: u8 = 0x27;
    pub const CLOSE: u8 = 0x28;
}

/// The first frame of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    pub major: u8,
    pub minor: u8,
    /// The heartbeat interval the device would like; 0 leaves it to the server.
    pub heartbeat_s: u16,
    /// The device's own number for the network it is on, 0 if unknown. For brokers that learn
    /// intervals per network; the present one does not, so the device proposes in `heartbeat_s`
    /// what held on this network last.
    pub network: u32,
    /// The epoch of the device's last session, or zero. The new one will be greater.
    pub last_epoch: Epoch,
    /// The highest inbox entry the application has; this acknowledges it.
    pub inbox: Seq,
    /// The device's place in its app's group log, or `None` on its first connect ever: then it
    /// starts at the present.
    pub group: Option<Seq>,
    pub ticket: &'a [u8],
}

/// What a device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink<'a> {
    Ping,
    Connect(Connect<'a>),
    Subscribe {
        topic: TopicId,
    },
    Unsubscribe {
        topic: TopicId,
    },
    /// The application has every inbox entry up to `seq`.
    Ack {
        seq: Seq,
    },
    /// The application has this group entry.
    GroupAck {
        seq: Seq,
    },
    /// Asks for what follows `from`. For the inbox this also acknowledges up to `from`.
    Pull {
        stream: Stream,
        from: Seq,
    },
    /// The device leaves on purpose.
    Bye,
}

/// The answer to a good `Connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub epoch: Epoch,
    pub heartbeat_s: u16,
    /// The head of the group log as this shard knows it. `None` while it does not; a `CaughtUp`
    /// follows when it does.
    pub group: Option<Seq>,
}

/// What a broker sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downlink<'a> {
    Pong,
    Welcome(Welcome),
    /// An inbox entry.
    Push {
        seq: Seq,
        payload: &'a [u8],
    },
    /// A group entry for the whole app.
    Broadcast {
        seq: Seq,
        payload: &'a [u8],
    },
    /// A group entry for a topic.
    TopicPush {
        seq: Seq,
        tag: u32,
        payload: &'a [u8],
    },
    /// The stream has more than was sent, up to at least `latest`.
    Notice {
        stream: Stream,
        latest: Seq,
    },
    /// Ends an answer to a pull: the device now has everything for it up to `upto`. With `more`,
    /// it should pull again from there.
    CaughtUp {
        stream: Stream,
        upto: Seq,
        more: bool,
    },
    /// The device's place does not exist (the store was restored to an older state): go on from
    /// `seq`, which may be lower.
    Reset {
        stream: Stream,
        seq: Seq,
    },
    /// The heartbeat interval from now on.
    Interval {
        heartbeat_s: u16,
    },
    Close(Close<'a>),
}

/// Why the broker ends the connection, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    pub reason: CloseReason,
    /// Wait this long before the next attempt; the device adds jitter.
    pub retry_after_ms: u32,
    /// Where to go, best first; empty: where the device came from.
    pub addresses: Vec<&'a str>,
}

impl<'a> Uplink<'a> {
    /// `Ok(None)` for a type of a newer minor version, which is skipped.
    pub fn decode(frame: Frame<'a>) -> Result<Option<Uplink<'a>>, DecodeError> {
        let mut body = Reader::new(frame.body);
        let value = match frame.kind {
            kind::PING => Uplink::Ping,
            kind::CONNECT => Uplink::Connect(Connect::decode(&mut body)?),
            kind::SUBSCRIBE => Uplink::Subscribe { topic: topic(&mut body)? },
            kind::UNSUBSCRIBE => Uplink::Unsubscribe { topic: topic(&mut body)? },
            kind::ACK => Uplink::Ack { seq: seq(&mut body)? },
            kind::GROUP_ACK => Uplink::GroupAck { seq: seq(&mut body)? },
            kind::PULL => {
                Uplink::Pull { stream: Stream::from_code(body.u8()?)?, from: seq(&mut body)? }
            }
            kind::BYE => Uplink::Bye,
            _ => return Ok(None),
        };
        body.end()?;
        Ok(Some(value))
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Uplink::Ping => put_header(out, kind::PING, 0),
            Uplink::Connect(ref connect) => connect.encode(out),
            Uplink::Subscribe { topic } => {
                put_header(out, kind::SUBSCRIBE, 8);
                out.put_u64(topic.0);
            }
            Uplink::Unsubscribe { topic } => {
                put_header(out, kind::UNSUBSCRIBE, 8);
                out.put_u64(topic.0);
            }
            Uplink::Ack { seq } => put_seq_frame(out, kind::ACK, seq),
            Uplink::GroupAck { seq } => put_seq_frame(out, kind::GROUP_ACK, seq),
            Uplink::Pull { stream, from } => {
                put_header(out, kind::PULL, 1 + varint_bytes(from.0));
                out.put_u8(stream as u8);
                out.put_varint(from.0);
            }
            Uplink::Bye => put_header(out, kind::BYE, 0),
        }
    }
}

impl<'a> Connect<'a> {
    /// Set in the flags byte when the group position is given.
    const HAS_GROUP: u8 = 1;

    /// The version stands first and alone decides: a `Connect` of another major version is
    /// returned with only its version filled in, so that the refusal can say so.
    fn decode(body: &mut Reader<'a>) -> Result<Connect<'a>, DecodeError> {
        let (major, minor) = (body.u8()?, body.u8()?);
        if major != MAJOR {
            body.bytes(body.rest().len())?;
            return Ok(Connect {
                major,
                minor,
                heartbeat_s: 0,
                network: 0,
                last_epoch: Epoch::ZERO,
                inbox: Seq::ZERO,
                group: None,
                ticket: &[],
            });
        }
        let flags = body.u8()?;
        let heartbeat_s = body.u16()?;
        let network = body.u32()?;
        let last_epoch = Epoch(body.u64()?);
        let inbox = seq(body)?;
        let group = match flags {
            0 => None,
            Connect::HAS_GROUP => Some(seq(body)?),
            _ => return Err(DecodeError::BadValue),
        };
        let ticket = body.prefixed(TICKET_BYTES_MAX)?;
        Ok(Connect { major, minor, heartbeat_s, network, last_epoch, inbox, group, ticket })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_frame(out, kind::CONNECT, |out| {
            out.put_u8(self.major);
            out.put_u8(self.minor);
            out.put_u8(if self.group.is_some() { Connect::HAS_GROUP } else { 0 });
            out.put_u16(self.heartbeat_s);
            out.put_u32(self.network);
            out.put_u64(self.last_epoch.0);
            out.put_varint(self.inbox.0);
            if let Some(group) = self.group {
                out.put_varint(group.0);
            }
            out.put_prefixed(self.ticket);
        });
    }
}

impl<'a> Downlink<'a> {
    /// `Ok(None)` for a type of a newer minor version, which is skipped.
    pub fn decode(frame: Frame<'a>) -> Result<Option<Downlink<'a>>, DecodeError> {
        let mut body = Reader::new(frame.body);
        let value = match frame.kind {
            kind::PONG => Downlink::Pong,
            kind::WELCOME => Downlink::Welcome(Welcome::decode(&mut body)?),
            kind::PUSH => {
                Downlink::Push { seq: entry_seq(&mut body)?, payload: payload(&mut body)? }
            }
            kind::BROADCAST => {
                Downlink::Broadcast { seq: entry_seq(&mut body)?, payload: payload(&mut body)? }
            }
            kind::TOPIC_PUSH => Downlink::TopicPush {
                seq: entry_seq(&mut body)?,
                tag: body.u32()?,
                payload: payload(&mut body)?,
            },
            kind::NOTICE => {
                Downlink::Notice { stream: Stream::from_code(body.u8()?)?, latest: seq(&mut body)? }
            }
            kind::CAUGHT_UP => {
                let flags = body.u8()?;
                if flags > 3 {
                    return Err(DecodeError::BadValue);
                }
                let stream = Stream::from_code(flags & 1)?;
                Downlink::CaughtUp { stream, upto: seq(&mut body)?, more: flags & 2 != 0 }
            }
            kind::RESET => {
                Downlink::Reset { stream: Stream::from_code(body.u8()?)?, seq: seq(&mut body)? }
            }
            kind::INTERVAL => Downlink::Interval { heartbeat_s: heartbeat(&mut body)? },
            kind::CLOSE => Downlink::Close(Close::decode(&mut body)?),
            _ => return Ok(None),
        };
        body.end()?;
        Ok(Some(value))
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Downlink::Pong => put_header(out, kind::PONG, 0),
            Downlink::Welcome(ref welcome) => welcome.encode(out),
            Downlink::Push { seq, payload } => {
                put_push_header(out, PushKind::Inbox, seq, payload.len());
                out.put(payload);
            }
            Downlink::Broadcast { seq, payload } => {
                put_push_header(out, PushKind::Broadcast, seq, payload.len());
                out.put(payload);
            }
            Downlink::TopicPush { seq, tag, payload } => {
                put_push_header(out, PushKind::Topic { tag }, seq, payload.len());
                out.put(payload);
            }
            Downlink::Notice { stream, latest } => {
                put_header(out, kind::NOTICE, 1 + varint_bytes(latest.0));
                out.put_u8(stream as u8);
                out.put_varint(latest.0);
            }
            Downlink::CaughtUp { stream, upto, more } => {
                put_header(out, kind::CAUGHT_UP, 1 + varint_bytes(upto.0));
                out.put_u8(stream as u8 | u8::from(more) << 1);
                out.put_varint(upto.0);
            }
            Downlink::Reset { stream, seq } => {
                put_header(out, kind::RESET, 1 + varint_bytes(seq.0));
                out.put_u8(stream as u8);
                out.put_varint(seq.0);
            }
            Downlink::Interval { heartbeat_s } => {
                put_header(out, kind::INTERVAL, 2);
                out.put_u16(heartbeat_s);
            }
            Downlink::Close(ref close) => close.encode(out),
        }
    }
}

/// The three frames that carry a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushKind {
    Inbox,
    Broadcast,
    Topic { tag: u32 },
}

impl PushKind {
    /// How a group entry of `topic` travels.
    pub fn of_group(topic: TopicId) -> PushKind {
        if topic == TopicId::ALL {
            PushKind::Broadcast
        } else {
            PushKind::Topic { tag: topic.tag() }
        }
    }
}

/// Appends everything of a push but its payload, so that the payload need not be copied behind it.
#[inline]
pub fn put_push_header(out: &mut Vec<u8>, kind: PushKind, seq: Seq, payload_bytes: usize) {
    let body_bytes = varint_bytes(seq.0) + payload_bytes;
    match kind {
        PushKind::Inbox => {
            put_header(out, kind::PUSH, body_bytes);
            out.put_varint(seq.0);
        }
        PushKind::Broadcast => {
            put_header(out, kind::BROADCAST, body_bytes);
            out.put_varint(seq.0);
        }
        PushKind::Topic { tag } => {
            put_header(out, kind::TOPIC_PUSH, body_bytes + 4);
            out.put_varint(seq.0);
            out.put_u32(tag);
        }
    }
}

/// Bytes of a whole push frame.
pub fn push_frame_bytes(kind: PushKind, seq: Seq, payload_bytes: usize) -> usize {
    let tag_bytes = if matches!(kind, PushKind::Topic { .. }) { 4 } else { 0 };
    frame_bytes(varint_bytes(seq.0) + tag_bytes + payload_bytes)
}

impl Welcome {
    const HAS_GROUP: u8 = 1;

    fn decode(body: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
        let flags = body.u8()?;
        let epoch = Epoch(body.u64()?);
        let heartbeat_s = heartbeat(body)?;
        let group = match flags {
            0 => None,
            Welcome::HAS_GROUP => Some(seq(body)?),
            _ => return Err(DecodeError::BadValue),
        };
        Ok(Welcome { epoch, heartbeat_s, group })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let group_bytes = self.group.map_or(0, |group| varint_bytes(group.0));
        put_header(out, kind::WELCOME, 11 + group_bytes);
        out.put_u8(if self.group.is_some() { Welcome::HAS_GROUP } else { 0 });
        out.put_u64(self.epoch.0);
        out.put_u16(self.heartbeat_s);
        if let Some(group) = self.group {
            out.put_varint(group.0);
        }
    }
}

impl<'a> Close<'a> {
    /// A close with no address.
    pub fn new(reason: CloseReason, retry_after_ms: u32) -> Close<'static> {
        Close { reason, retry_after_ms, addresses: Vec::new() }
    }

    fn decode(body: &mut Reader<'a>) -> Result<Close<'a>, DecodeError> {
        let reason = CloseReason::from_code(body.u8()?);
        let retry_after_ms = body.u32()?;
        let count = usize::from(body.u8()?);
        if count > REDIRECT_ADDRESSES_MAX {
            return Err(DecodeError::BadValue);
        }
        // The one decode that allocates: a close comes once per connection.
        let addresses = (0..count).map(|_| address(body)).collect::<Result<_, _>>()?;
        Ok(Close { reason, retry_after_ms, addresses })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.addresses.len() <= REDIRECT_ADDRESSES_MAX);
        put_frame(out, kind::CLOSE, |out| {
            out.put_u8(self.reason as u8);
            out.put_u32(self.retry_after_ms);
            out.put_u8(self.addresses.len() as u8);
            for address in &self.addresses {
                assert!((1..=ADDRESS_BYTES_MAX).contains(&address.len()));
                out.put_prefixed(address.as_bytes());
            }
        });
    }
}

fn seq(body: &mut Reader<'_>) -> Result<Seq, DecodeError> {
    Seq::new(body.varint()?)
}

fn entry_seq(body: &mut Reader<'_>) -> Result<Seq, DecodeError> {
    Seq::of_entry(body.varint()?)
}

fn topic(body: &mut Reader<'_>) -> Result<TopicId, DecodeError> {
    match body.u64()? {
        // The whole app is not a topic that one could leave or join.
        0 => Err(DecodeError::BadValue),
        value => Ok(TopicId(value)),
    }
}

fn address<'a>(body: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match body.text(ADDRESS_BYTES_MAX)? {
        "" => Err(DecodeError::BadText),
        address => Ok(address),
    }
}

fn heartbeat(body: &mut Reader<'_>) -> Result<u16, DecodeError> {
    match body.u16()? {
        value @ 1..=HEARTBEAT_S_MAX => Ok(value),
        _ => Err(DecodeError::BadValue),
    }
}

fn payload<'a>(body: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let payload = body.rest();
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::FrameTooLarge);
    }
    body.bytes(payload.len())
}

fn put_seq_frame(out: &mut Vec<u8>, kind: u8, seq: Seq) {
    put_header(out, kind, varint_bytes(seq.0));
    out.put_varint(seq.0);
}
