//! One small frame of every type, written by the codec, and what a frame of either protocol reads
//! as. The golden file, `PROTOCOL.md`, the corpora and several tests begin here.
//!
//! That no type is missing is checked from outside: a type is known if its decoder does not skip
//! it, so [`Side::knows`] can be asked about all 256.

use hawser_codec::device::{self, Close, Connect, Downlink, Uplink, Welcome};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::Frame;
use hawser_codec::ids::{AppId, DeviceId, Epoch, HashKey, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, LINK_BODY_BYTES_MAX, UPLINK_BODY_BYTES_MAX};
use hawser_codec::link::{
    self, Acked, Announced, AppKeys, Entry, EntryFlags, Gone, GroupAcked, Hello, Keys, Pulled,
    ToBroker, ToControl, VerifyKey, to_broker, to_control,
};
use hawser_codec::ticket::{Algorithm, Ticket};

use crate::bytes::{encode_to_broker, encode_to_control};

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A device to its broker.
    Uplink,
    /// A broker to a device.
    Downlink,
    /// A shard to a control node.
    ToControl,
    /// A control node to a shard.
    ToBroker,
}

/// A frame and its type's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub side: Side,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

impl Side {
    pub const ALL: [Side; 4] = [Side::Uplink, Side::Downlink, Side::ToControl, Side::ToBroker];

    pub fn body_bytes_max(self) -> usize {
        match self {
            Side::Uplink => UPLINK_BODY_BYTES_MAX,
            Side::Downlink => DOWNLINK_BODY_BYTES_MAX,
            Side::ToControl | Side::ToBroker => LINK_BODY_BYTES_MAX,
        }
    }

    /// Decodes only; `Ok(false)` for a type that is skipped.
    pub fn decode(self, frame: Frame<'_>) -> Result<bool, DecodeError> {
        Ok(match self {
            Side::Uplink => Uplink::decode(frame)?.is_some(),
            Side::Downlink => Downlink::decode(frame)?.is_some(),
            Side::ToControl => ToControl::decode(frame)?.is_some(),
            Side::ToBroker => ToBroker::decode(frame)?.is_some(),
        })
    }

    /// Whether this side's decoder interprets frames of the type.
    pub fn knows(self, kind: u8) -> bool {
        self.decode(Frame { kind, body: &[] }) != Ok(false)
    }

    /// Decodes and encodes again; `None` for a type that is skipped.
    pub fn repeat(self, frame: Frame<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
        let mut out = Vec::new();
        let known = match self {
            Side::Uplink => Uplink::decode(frame)?.map(|value| value.encode(&mut out)),
            Side::Downlink => Downlink::decode(frame)?.map(|value| value.encode(&mut out)),
            Side::ToControl => {
                ToControl::decode(frame)?.map(|value| encode_to_control(&value, &mut out))
            }
            Side::ToBroker => {
                ToBroker::decode(frame)?.map(|value| encode_to_broker(&value, &mut out))
            }
        };
        Ok(known.map(|()| out))
    }

    /// The decoded value in words; `None` for a type that is skipped.
    pub fn describe(self, frame: Frame<'_>) -> Result<Option<String>, DecodeError> {
        Ok(match self {
            Side::Uplink => Uplink::decode(frame)?.map(|value| format!("{value:?}")),
            Side::Downlink => Downlink::decode(frame)?.map(|value| format!("{value:?}")),
            Side::ToControl => ToControl::decode(frame)?.map(|value| describe_to_control(&value)),
            Side::ToBroker => ToBroker::decode(frame)?.map(|value| describe_to_broker(&value)),
        })
    }
}

/// Lists are decoded record by record, which their `Debug` does not do.
fn describe_to_control(value: &ToControl<'_>) -> String {
    match value {
        ToControl::Announce(list) => format!("Announce {:?}", list.iter().collect::<Vec<_>>()),
        ToControl::Gone(list) => format!("Gone {:?}", list.iter().collect::<Vec<_>>()),
        ToControl::Pull(list) => format!("Pull {:?}", list.iter().collect::<Vec<_>>()),
        ToControl::Ack(list) => format!("Ack {:?}", list.iter().collect::<Vec<_>>()),
        ToControl::GroupAck(list) => format!("GroupAck {:?}", list.iter().collect::<Vec<_>>()),
        ToControl::GroupPull { app, session, from, topics } => {
            let topics = topics.iter().collect::<Vec<_>>();
            format!("GroupPull {{ {app:?}, {session:?}, from: {from:?}, topics: {topics:?} }}")
        }
        other => format!("{other:?}"),
    }
}

fn describe_to_broker(value: &ToBroker<'_>) -> String {
    match value {
        ToBroker::Entries { session, upto, more, entries } => {
            let entries = entries.iter().collect::<Vec<_>>();
            format!("Entries {{ {session:?}, upto: {upto:?}, more: {more}, {entries:?} }}")
        }
        ToBroker::GroupEntries { session, upto, more, entries } => {
            let entries = entries.iter().collect::<Vec<_>>();
            format!("GroupEntries {{ {session:?}, upto: {upto:?}, more: {more}, {entries:?} }}")
        }
        ToBroker::GroupFetched { app, upto, more, entries } => {
            let entries = entries.iter().collect::<Vec<_>>();
            format!("GroupFetched {{ {app:?}, upto: {upto:?}, more: {more}, {entries:?} }}")
        }
        other => format!("{other:?}"),
    }
}

/// One of every type, in the order of `PROTOCOL.md`.
pub fn samples() -> Vec<Sample> {
    let mut all = uplink();
    all.extend(downlink());
    all.extend(shard());
    all.extend(control());
    all
}

/// A close for every reason of the device protocol and the link, in the order of their codes.
pub fn closes() -> Vec<(CloseReason, Vec<u8>)> {
    CloseReason::ALL
        .iter()
        .map(|&reason| {
            let mut bytes = Vec::new();
            Downlink::Close(Close::new(reason, 0)).encode(&mut bytes);
            (reason, bytes)
        })
        .collect()
}

const EPOCH: Epoch = Epoch(0x0190_0000_0000_0001);
const SESSION: SessionRef = SessionRef { slot: 7, generation: 3 };
const OTHER_SESSION: SessionRef = SessionRef { slot: 8, generation: 1 };
const APP: AppId = AppId(5);
const DEVICE: DeviceId = DeviceId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
const OTHER_DEVICE: DeviceId = DeviceId(0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110);

/// A ticket of the HMAC kind, with a signature that nobody made.
pub fn ticket() -> Vec<u8> {
    let mut ticket = Ticket::unsigned(Algorithm::HmacSha256, 1, 1_800_000_000, "shop", "d-1");
    ticket.extend([0x5a; 32]);
    ticket
}

fn uplink() -> Vec<Sample> {
    let ticket = ticket();
    let connect = Connect {
        major: device::MAJOR,
        minor: device::MINOR,
        heartbeat_s: 300,
        network: 2,
        last_epoch: EPOCH,
        inbox: Seq(41),
        group: Some(Seq(1_000)),
        ticket: &ticket,
    };
    let news = TopicId::new("news");
    [
        ("Ping", Uplink::Ping),
        ("Connect", Uplink::Connect(connect)),
        ("Subscribe", Uplink::Subscribe { topic: news }),
        ("Unsubscribe", Uplink::Unsubscribe { topic: news }),
        ("Ack", Uplink::Ack { seq: Seq(42) }),
        ("GroupAck", Uplink::GroupAck { seq: Seq(1_001) }),
        ("Pull", Uplink::Pull { stream: Stream::Inbox, from: Seq(42) }),
        ("Bye", Uplink::Bye),
    ]
    .map(|(name, value)| sample(Side::Uplink, name, |out| value.encode(out)))
    .into()
}

fn downlink() -> Vec<Sample> {
    let payload = b"hello";
    let welcome = Welcome { epoch: EPOCH, heartbeat_s: 180, group: Some(Seq(1_000)) };
    let close = Close {
        reason: CloseReason::Drain,
        retry_after_ms: 500,
        addresses: vec!["a.example:7400", "b.example:7400"],
    };
    [
        ("Pong", Downlink::Pong),
        ("Welcome", Downlink::Welcome(welcome)),
        ("Push", Downlink::Push { seq: Seq(42), payload }),
        ("Broadcast", Downlink::Broadcast { seq: Seq(1_001), payload }),
        (
            "TopicPush",
            Downlink::TopicPush { seq: Seq(1_002), tag: TopicId::new("news").tag(), payload },
        ),
        ("Notice", Downlink::Notice { stream: Stream::Inbox, latest: Seq(44) }),
        ("CaughtUp", Downlink::CaughtUp { stream: Stream::Group, upto: Seq(1_002), more: true }),
        ("Reset", Downlink::Reset { stream: Stream::Inbox, seq: Seq(3) }),
        ("Interval", Downlink::Interval { heartbeat_s: 300 }),
        ("Close", Downlink::Close(close)),
    ]
    .map(|(name, value)| sample(Side::Downlink, name, |out| value.encode(out)))
    .into()
}

fn shard() -> Vec<Sample> {
    let side = Side::ToControl;
    let hello = Hello {
        major: link::MAJOR,
        minor: link::MINOR,
        broker: 9,
        incarnation: 1_700_000_000_000,
        shard: 1,
        nonce: [0xa1; 32],
    };
    let announced =
        Announced { device: DEVICE, app: APP, session: SESSION, epoch: EPOCH, acked: Seq(41) };
    let other = Announced { device: OTHER_DEVICE, session: OTHER_SESSION, ..announced };
    let gone = Gone { device: DEVICE, session: SESSION, reason: CloseReason::Idle };
    let pulled = Pulled { device: DEVICE, app: APP, session: SESSION, from: Seq(41) };
    let acked = Acked { device: DEVICE, app: APP, seq: Seq(42) };
    let group_acked = GroupAcked { app: APP, seq: Seq(1_001), count: 200 };
    let topics = [TopicId::new("news")];
    vec![
        sample(side, "Hello", |out| to_control::hello(out, &hello)),
        sample(side, "Proof", |out| to_control::proof(out, &[0xc3; 32])),
        sample(side, "Announce", |out| to_control::announce(out, &[announced, other])),
        sample(side, "Gone", |out| to_control::gone(out, &[gone])),
        sample(side, "Pull", |out| to_control::pull(out, &[pulled])),
        sample(side, "Ack", |out| to_control::ack(out, &[acked])),
        sample(side, "GroupAck", |out| to_control::group_ack(out, &[group_acked])),
        sample(side, "GroupPull", |out| {
            to_control::group_pull(out, APP, SESSION, Seq(1_000), &topics);
        }),
        sample(side, "GroupFetch", |out| to_control::group_fetch(out, APP, Seq(1_000))),
        sample(side, "GroupSent", |out| to_control::group_sent(out, APP, Seq(1_001), 950, 50)),
        sample(side, "Pong", |out| to_control::pong(out, EPOCH)),
    ]
}

fn control() -> Vec<Sample> {
    let side = Side::ToBroker;
    let keys = Keys {
        version: 4,
        hash_key: HashKey([0x11; 16]),
        apps: vec![AppKeys {
            app: APP,
            name: "shop",
            keys: vec![VerifyKey { id: 1, algorithm: Algorithm::HmacSha256, key: [0x22; 32] }],
        }],
    };
    let when_awake = EntryFlags::WHEN_AWAKE;
    let inbox = [
        Entry { seq: Seq(42), topic: TopicId::ALL, flags: EntryFlags::NONE, payload: b"hello" },
        Entry { seq: Seq(44), topic: TopicId::ALL, flags: when_awake, payload: b"later" },
    ];
    let news = Entry {
        seq: Seq(1_001),
        topic: TopicId::new("news"),
        flags: EntryFlags::NONE,
        payload: b"hello",
    };
    vec![
        sample(side, "Challenge", |out| to_broker::challenge(out, 2, &[0xb2; 32], &[0xd4; 32])),
        sample(side, "Accepted", |out| to_broker::accepted(out, EPOCH)),
        sample(side, "Keys", |out| to_broker::keys(out, &keys)),
        sample(side, "Deliver", |out| {
            to_broker::deliver(out, SESSION, Seq(42), EntryFlags::NONE, b"hello");
        }),
        sample(side, "Entries", |out| to_broker::entries(out, SESSION, Seq(44), false, &inbox)),
        sample(side, "GroupDeliver", |out| to_broker::group_deliver(out, APP, &news)),
        sample(side, "GroupCursor", |out| to_broker::group_cursor(out, APP, Seq(1_000))),
        sample(side, "GroupEntries", |out| {
            to_broker::group_entries(out, SESSION, Seq(1_001), true, &[news]);
        }),
        sample(side, "GroupFetched", |out| {
            to_broker::group_fetched(out, APP, Seq(1_001), false, &[news]);
        }),
        sample(side, "Kick", |out| to_broker::kick(out, SESSION, EPOCH)),
        sample(side, "Ping", |out| to_broker::ping(out, EPOCH)),
        sample(side, "Reset", |out| to_broker::reset(out, SESSION, Stream::Inbox, Seq(3))),
        sample(side, "Refused", |out| to_broker::refused(out, CloseReason::LinkAuth)),
    ]
}

fn sample(side: Side, name: &'static str, encode: impl FnOnce(&mut Vec<u8>)) -> Sample {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    Sample { side, name, bytes }
}
