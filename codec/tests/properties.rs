//! Properties of the framing and of both protocols' frames: what is written is read back, however
//! it is cut on its way, and what cannot have been written is refused.

use codec_properties::bytes;
use codec_properties::samples::{Side, samples};
use hawser_codec::cursor::{Reader, Write, varint_bytes};
use hawser_codec::device::{self, Close, Connect, Downlink, Uplink, Welcome};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::{Frame, Framer, put_frame, put_header, split};
use hawser_codec::ids::{AppId, DeviceId, Epoch, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, LINK_BODY_BYTES_MAX, SEQ_MAX};
use hawser_codec::link::{
    self, Acked, Announced, Entry, EntryFlags, Gone, GroupAcked, Pulled, ToControl, to_broker,
    to_control,
};
use hawser_codec::ticket::Ticket;
use proptest::collection::vec;
use proptest::prelude::*;

/// A frame as it was written, and what it should read as.
#[derive(Clone, Debug)]
struct Written {
    side: Side,
    bytes: Vec<u8>,
    value: String,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_frame_is_read_as_it_was_written(frame in any_frame()) {
        let (split, rest) = split(&frame.bytes, frame.side.body_bytes_max()).unwrap().unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(frame.side.describe(split).unwrap().unwrap(), frame.value);
        prop_assert_eq!(frame.side.repeat(split).unwrap().unwrap(), frame.bytes);
    }

    /// However the stream is cut, the same frames come out, and nothing stays behind.
    #[test]
    fn any_split_gives_the_same_frames(
        frames in vec(any_frame(), 1..8),
        sizes in vec(1usize..40, 1..20),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|one| one.bytes.clone()).collect();
        let mut framer = Framer::default();
        let mut seen = Vec::new();
        let mut rest = stream.as_slice();
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            framer.feed(piece, LINK_BODY_BYTES_MAX, |frame| -> Result<(), DecodeError> {
                let mut bytes = Vec::new();
                put_header(&mut bytes, frame.kind, frame.body.len());
                bytes.put(frame.body);
                seen.push(bytes);
                Ok(())
            }).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(framer.is_empty());
        let written: Vec<Vec<u8>> = frames.into_iter().map(|one| one.bytes).collect();
        prop_assert_eq!(seen, written);
    }

    /// Changed bytes are refused, or read as a value that would have been written that way.
    #[test]
    fn changed_frames_stay_canonical(
        frame in any_frame(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut stream = frame.bytes;
        for (index, value) in changes {
            let at = index.index(stream.len());
            stream[at] = value;
        }
        bytes::device(&stream);
        bytes::link(&stream);
        bytes::ticket(&stream);
        bytes::varints(&stream);
        bytes::framer(&stream);
    }

    #[test]
    fn arbitrary_bytes_never_panic(stream in vec(any::<u8>(), 0..300)) {
        bytes::device(&stream);
        bytes::link(&stream);
        bytes::ticket(&stream);
        bytes::varints(&stream);
        bytes::framer(&stream);
    }

    #[test]
    fn varints_have_one_form(value in 0u64..1 << 63) {
        let mut out = Vec::new();
        out.put_varint(value);
        prop_assert_eq!(out.len(), varint_bytes(value));
        let mut reader = Reader::new(&out);
        prop_assert_eq!(reader.varint(), Ok(value));
        prop_assert!(reader.is_empty());
        // One byte longer for the same value is refused.
        if out.len() < 9 {
            let last = out.len() - 1;
            out[last] |= 0x80;
            out.push(0);
            prop_assert_eq!(Reader::new(&out).varint(), Err(DecodeError::BadVarint));
        }
    }

    #[test]
    fn a_length_known_late_is_written_alike(kind: u8, body in vec(any::<u8>(), 0..400)) {
        let (mut known, mut late) = (vec![1], vec![1]);
        put_header(&mut known, kind, body.len());
        known.put(&body);
        put_frame(&mut late, kind, |out| out.put(&body));
        prop_assert_eq!(known, late);
    }

    /// Of any two stamps of one clock the later is greater, and none is below the time.
    #[test]
    fn epochs_ascend(times in vec(0u64..1 << 48, 1..20), seen in vec(any::<u64>(), 20)) {
        let mut clock = Epoch::ZERO;
        for (time, seen) in times.into_iter().zip(seen) {
            let seen = Epoch(seen);
            let next = clock.tick(time, seen);
            prop_assert!(next > clock || clock.0 == u64::MAX);
            prop_assert!(next > seen || seen.0 == u64::MAX || clock.0 == u64::MAX);
            prop_assert!(next >= Epoch::from_ms(time));
            clock = next;
        }
    }
}

#[test]
fn varints_that_are_not_the_shortest_are_refused() {
    use DecodeError::{BadVarint, Truncated};
    for (input, expect) in [
        (&[0x00][..], Ok(0)),
        (&[0x7f], Ok(127)),
        (&[0x80, 0x01], Ok(128)),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Ok(u64::MAX >> 1)),
        (&[0x80, 0x00], Err(BadVarint)),
        (&[0xff, 0x00], Err(BadVarint)),
        (&[0x80, 0x80, 0x00], Err(BadVarint)),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01], Err(BadVarint)),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(BadVarint)),
        (&[], Err(Truncated)),
        (&[0x80], Err(Truncated)),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(Truncated)),
    ] {
        assert_eq!(Reader::new(input).varint(), expect, "{input:02x?}");
    }
    // In a frame's length, and in its body.
    assert_eq!(split(&[0x01, 0x80, 0x00], DOWNLINK_BODY_BYTES_MAX), Err(BadVarint));
    assert_eq!(Uplink::decode(Frame { kind: 0x13, body: &[0xaa, 0x00] }), Err(BadVarint));
}

/// Every prefix of every frame's body: refused, or a shorter value of a frame that ends with a
/// payload or a list. As a stream, a prefix is only unfinished.
#[test]
fn truncations_are_refused() {
    for sample in samples() {
        let side = sample.side;
        let (frame, _) = split(&sample.bytes, side.body_bytes_max()).unwrap().unwrap();
        for count in 0..sample.bytes.len() {
            assert_eq!(split(&sample.bytes[..count], side.body_bytes_max()), Ok(None));
        }
        for count in 0..frame.body.len() {
            let short = Frame { kind: frame.kind, body: &frame.body[..count] };
            match side.repeat(short) {
                Err(error) => assert!(
                    matches!(error, DecodeError::Truncated | DecodeError::BadValue),
                    "{} cut to {count}: {error:?}",
                    sample.name
                ),
                Ok(again) => {
                    assert_eq!(again, Some(bytes::frame_of(short.kind, short.body)));
                    assert!(is_open_ended(sample.name), "{} cut to {count}", sample.name);
                }
            }
        }
    }
}

/// Frames whose last field runs to the end of the body, so that some prefixes are frames too.
fn is_open_ended(name: &str) -> bool {
    let payloads = ["Push", "Broadcast", "TopicPush", "Deliver", "GroupDeliver"];
    let lists = ["Announce", "Gone", "Pull", "Ack", "GroupAck", "GroupPull"];
    let answers = ["Entries", "GroupEntries", "GroupFetched"];
    payloads.contains(&name) || lists.contains(&name) || answers.contains(&name)
}

#[test]
fn a_byte_too_many_is_refused() {
    for sample in samples() {
        let (frame, _) = split(&sample.bytes, sample.side.body_bytes_max()).unwrap().unwrap();
        let body = [frame.body, &[0]].concat();
        let long = Frame { kind: frame.kind, body: &body };
        match sample.side.repeat(long) {
            Err(error) => assert!(
                matches!(
                    error,
                    DecodeError::TrailingBytes | DecodeError::Truncated | DecodeError::BadValue
                ),
                "{}: {error:?}",
                sample.name
            ),
            Ok(again) => {
                assert_eq!(again, Some(bytes::frame_of(long.kind, long.body)));
                assert!(is_open_ended(sample.name), "{}", sample.name);
            }
        }
    }
}

/// Every byte of every frame takes every value.
#[test]
fn every_single_changed_byte_stays_canonical() {
    for sample in samples() {
        for at in 0..sample.bytes.len() {
            let mut stream = sample.bytes.clone();
            for value in 0..=255 {
                stream[at] = value;
                bytes::device(&stream);
                bytes::link(&stream);
            }
        }
    }
}

/// What a newer minor version may send: any type that is not known here, with any body.
#[test]
fn types_of_a_newer_peer_are_skipped() {
    for side in Side::ALL {
        let mut skipped = 0;
        for kind in (0..=255).filter(|&kind| !side.knows(kind)) {
            for body in [&[][..], &[0xff], &[0x80, 0x00, 0x17]] {
                assert_eq!(side.describe(Frame { kind, body }), Ok(None), "{side:?} 0x{kind:02x}");
            }
            skipped += 1;
        }
        assert!(skipped > 200);
    }
}

/// Whatever a newer major version puts behind its version, the version can be read and answered.
#[test]
fn a_newer_major_is_recognised() {
    for rest in [&[][..], &[0xff; 40], b"something else"] {
        let body = [&[device::MAJOR + 1, 7], rest].concat();
        let Ok(Some(Uplink::Connect(connect))) = Uplink::decode(Frame { kind: 0x10, body: &body })
        else {
            panic!("a connect");
        };
        assert_eq!((connect.major, connect.minor), (device::MAJOR + 1, 7));
        assert_eq!(connect.ticket, b"", "nothing of it may be used");

        let body = [&[link::MAJOR + 1, 7], rest].concat();
        let Ok(Some(ToControl::Hello(hello))) =
            ToControl::decode(Frame { kind: 0x40, body: &body })
        else {
            panic!("a hello");
        };
        assert_eq!((hello.major, hello.minor, hello.broker), (link::MAJOR + 1, 7, 0));
    }
    for body in [&[][..], &[2]] {
        let error = Err(DecodeError::Truncated);
        assert_eq!(Uplink::decode(Frame { kind: 0x10, body }).map(|_| ()), error);
        assert_eq!(ToControl::decode(Frame { kind: 0x40, body }).map(|_| ()), error);
    }
}

#[test]
fn damaged_tickets_are_refused() {
    let good = codec_properties::samples::ticket();
    let ticket = Ticket::decode(&good).unwrap();
    assert_eq!((ticket.app, ticket.device, ticket.signature), ("shop", "d-1", &[0x5a; 32][..]));
    for count in 0..good.len() {
        assert_eq!(Ticket::decode(&good[..count]), Err(DecodeError::Truncated), "cut to {count}");
    }
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Ticket::decode(&bytes).map(|_| ())
    };
    assert_eq!(changed(0, 2), Err(DecodeError::BadValue), "version");
    assert_eq!(changed(1, 3), Err(DecodeError::BadValue), "algorithm");
    assert_eq!(changed(1, 1), Err(DecodeError::Truncated), "an Ed25519 signature is longer");
    assert_eq!(changed(15, b'S'), Err(DecodeError::BadText), "app names are lower case");
    assert_eq!(changed(15, b'-'), Err(DecodeError::BadText), "and do not begin with a hyphen");
    assert_eq!(changed(15, 0xff), Err(DecodeError::BadText), "and are UTF-8");
    assert_eq!(changed(20, 0x07), Err(DecodeError::BadText), "no control character in a device");
    let long = [&good[..], &[0]].concat();
    assert_eq!(Ticket::decode(&long), Err(DecodeError::TrailingBytes));
}

fn any_frame() -> impl Strategy<Value = Written> {
    prop_oneof![uplink(), downlink(), lists(), shard_single(), answers(), control_single()]
}

fn uplink() -> impl Strategy<Value = Written> {
    let connect = (
        any::<(u8, u16, u32, u64)>(),
        seq(),
        proptest::option::of(seq()),
        vec(any::<u8>(), 0..=256),
    )
        .prop_map(|((minor, heartbeat_s, network, epoch), inbox, group, ticket)| {
            let last_epoch = Epoch(epoch);
            let (major, ticket) = (device::MAJOR, ticket.as_slice());
            written_uplink(&Uplink::Connect(Connect {
                major,
                minor,
                heartbeat_s,
                network,
                last_epoch,
                inbox,
                group,
                ticket,
            }))
        });
    prop_oneof![
        connect,
        (0u8..7, 1u64.., seq(), stream()).prop_map(|(which, topic, seq, stream)| {
            let topic = TopicId(topic);
            written_uplink(&match which {
                0 => Uplink::Ping,
                1 => Uplink::Bye,
                2 => Uplink::Subscribe { topic },
                3 => Uplink::Unsubscribe { topic },
                4 => Uplink::Ack { seq },
                5 => Uplink::GroupAck { seq },
                _ => Uplink::Pull { stream, from: seq },
            })
        }),
    ]
}

fn downlink() -> impl Strategy<Value = Written> {
    let welcome = (any::<u64>(), 1u16..=3600, proptest::option::of(seq())).prop_map(
        |(epoch, heartbeat_s, group)| {
            let epoch = Epoch(epoch);
            written_downlink(&Downlink::Welcome(Welcome { epoch, heartbeat_s, group }))
        },
    );
    let close = (reason(), any::<u32>(), vec("[a-z0-9.:-]{1,260}", 0..=8)).prop_map(
        |(reason, retry_after_ms, addresses)| {
            let addresses = addresses.iter().map(String::as_str).collect();
            written_downlink(&Downlink::Close(Close { reason, retry_after_ms, addresses }))
        },
    );
    let pushes =
        (0u8..3, entry_seq(), any::<u32>(), payload()).prop_map(|(which, seq, tag, payload)| {
            let payload = payload.as_slice();
            written_downlink(&match which {
                0 => Downlink::Push { seq, payload },
                1 => Downlink::Broadcast { seq, payload },
                _ => Downlink::TopicPush { seq, tag, payload },
            })
        });
    let small = (0u8..5, stream(), seq(), any::<bool>(), 1u16..=3600).prop_map(
        |(which, stream, seq, more, heartbeat_s)| {
            written_downlink(&match which {
                0 => Downlink::Pong,
                1 => Downlink::Notice { stream, latest: seq },
                2 => Downlink::CaughtUp { stream, upto: seq, more },
                3 => Downlink::Reset { stream, seq },
                _ => Downlink::Interval { heartbeat_s },
            })
        },
    );
    prop_oneof![welcome, close, pushes, small]
}

fn lists() -> impl Strategy<Value = Written> {
    let record = (any::<(u128, u32, u64, u32)>(), session(), seq(), reason());
    (0u8..5, vec(record, 0..20)).prop_map(|(which, records)| {
        let side = Side::ToControl;
        macro_rules! list {
            ($name:literal, $write:path, $record:expr) => {{
                let list: Vec<_> = records.iter().copied().map($record).collect();
                written(side, format!(concat!($name, " {:?}"), list), |out| $write(out, &list))
            }};
        }
        match which {
            0 => list!("Announce", to_control::announce, |((d, a, e, _), session, acked, _)| {
                Announced { device: DeviceId(d), app: AppId(a), session, epoch: Epoch(e), acked }
            }),
            1 => list!("Gone", to_control::gone, |((d, ..), session, _, reason)| {
                Gone { device: DeviceId(d), session, reason }
            }),
            2 => list!("Pull", to_control::pull, |((d, a, ..), session, from, _)| {
                Pulled { device: DeviceId(d), app: AppId(a), session, from }
            }),
            3 => list!("Ack", to_control::ack, |((d, a, ..), _, seq, _)| {
                Acked { device: DeviceId(d), app: AppId(a), seq }
            }),
            _ => list!("GroupAck", to_control::group_ack, |((_, a, _, count), _, seq, _)| {
                GroupAcked { app: AppId(a), seq, count }
            }),
        }
    })
}

fn shard_single() -> impl Strategy<Value = Written> {
    let side = Side::ToControl;
    (0u8..4, any::<(u32, u32, u32, u64)>(), session(), seq(), vec(any::<u64>(), 0..=32)).prop_map(
        move |(which, (app, sent, waiting, epoch), session, seq, topics)| {
            let app = AppId(app);
            let topics: Vec<TopicId> = topics.into_iter().map(TopicId).collect();
            match which {
                0 => written(
                    side,
                    format!("GroupPull {{ {app:?}, {session:?}, from: {seq:?}, topics: {topics:?} }}"),
                    |out| to_control::group_pull(out, app, session, seq, &topics),
                ),
                1 => written(side, format!("GroupFetch {{ app: {app:?}, from: {seq:?} }}"), |out| {
                    to_control::group_fetch(out, app, seq);
                }),
                2 => written(
                    side,
                    format!(
                        "GroupSent {{ app: {app:?}, seq: {seq:?}, sent: {sent}, waiting: {waiting} }}"
                    ),
                    |out| to_control::group_sent(out, app, seq, sent, waiting),
                ),
                _ => written(side, format!("Pong {{ epoch: Epoch({epoch}) }}"), |out| {
                    to_control::pong(out, Epoch(epoch));
                }),
            }
        },
    )
}

fn answers() -> impl Strategy<Value = Written> {
    let entry = (1u64..1000, any::<u64>(), flags(), payload());
    (0u8..3, any::<u32>(), session(), any::<bool>(), vec(entry, 0..=64)).prop_map(
        |(which, app, session, more, entries)| {
            let (app, side) = (AppId(app), Side::ToBroker);
            let mut last = 0;
            let entries: Vec<Entry<'_>> = entries
                .iter()
                .map(|(step, topic, flags, payload)| {
                    last += step;
                    let bodiless = flags.contains(EntryFlags::NO_BODY);
                    let payload = if bodiless { &[][..] } else { payload };
                    Entry { seq: Seq(last), topic: TopicId(*topic), flags: *flags, payload }
                })
                .collect();
            let upto = Seq(last);
            let tail = format!("upto: {upto:?}, more: {more}, {entries:?} }}");
            match which {
                0 => written(side, format!("Entries {{ {session:?}, {tail}"), |out| {
                    to_broker::entries(out, session, upto, more, &entries);
                }),
                1 => written(side, format!("GroupEntries {{ {session:?}, {tail}"), |out| {
                    to_broker::group_entries(out, session, upto, more, &entries);
                }),
                _ => written(side, format!("GroupFetched {{ {app:?}, {tail}"), |out| {
                    to_broker::group_fetched(out, app, upto, more, &entries);
                }),
            }
        },
    )
}

fn control_single() -> impl Strategy<Value = Written> {
    let side = Side::ToBroker;
    (0u8..6, any::<(u32, u64, u64)>(), session(), entry_seq(), flags(), payload()).prop_map(
        move |(which, (app, topic, epoch), session, seq, flags, payload)| {
            let (app, epoch) = (AppId(app), Epoch(epoch));
            let bodiless = flags.contains(EntryFlags::NO_BODY);
            let payload = if bodiless { &[][..] } else { &payload };
            let entry = |topic| Entry { seq, topic: TopicId(topic), flags, payload };
            match which {
                0 => written(
                    side,
                    format!("Deliver {{ session: {session:?}, entry: {:?} }}", entry(0)),
                    |out| to_broker::deliver(out, session, seq, flags, payload),
                ),
                1 => written(
                    side,
                    format!("GroupDeliver {{ app: {app:?}, entry: {:?} }}", entry(topic)),
                    |out| to_broker::group_deliver(out, app, &entry(topic)),
                ),
                2 => {
                    written(side, format!("GroupCursor {{ app: {app:?}, seq: {seq:?} }}"), |out| {
                        to_broker::group_cursor(out, app, seq);
                    })
                }
                3 => written(
                    side,
                    format!("Kick {{ session: {session:?}, epoch: {epoch:?} }}"),
                    |out| to_broker::kick(out, session, epoch),
                ),
                4 => written(side, format!("Ping {{ epoch: {epoch:?} }}"), |out| {
                    to_broker::ping(out, epoch);
                }),
                _ => written(
                    side,
                    format!("Reset {{ session: {session:?}, stream: Group, seq: {seq:?} }}"),
                    |out| to_broker::reset(out, session, Stream::Group, seq),
                ),
            }
        },
    )
}

fn written_uplink(value: &Uplink<'_>) -> Written {
    written(Side::Uplink, format!("{value:?}"), |out| value.encode(out))
}

fn written_downlink(value: &Downlink<'_>) -> Written {
    written(Side::Downlink, format!("{value:?}"), |out| value.encode(out))
}

fn written(side: Side, value: String, encode: impl FnOnce(&mut Vec<u8>)) -> Written {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    Written { side, bytes, value }
}

/// Small numbers, large ones, and those around each length of a varint.
fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![
        0u64..300,
        (0u32..8, 0u64..3).prop_map(|(length, near)| ((1 << (7 * length)) + near) - 1),
        0..=SEQ_MAX,
        Just(SEQ_MAX),
    ]
    .prop_map(Seq)
}

fn entry_seq() -> impl Strategy<Value = Seq> {
    seq().prop_map(|seq| seq.max(Seq(1)))
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Inbox), Just(Stream::Group)]
}

fn session() -> impl Strategy<Value = SessionRef> {
    any::<(u32, u32)>().prop_map(|(slot, generation)| SessionRef { slot, generation })
}

fn reason() -> impl Strategy<Value = CloseReason> {
    any::<u8>().prop_map(CloseReason::from_code)
}

fn flags() -> impl Strategy<Value = EntryFlags> {
    let (awake, bodiless) = (EntryFlags::WHEN_AWAKE, EntryFlags::NO_BODY);
    prop_oneof![Just(EntryFlags::NONE), Just(awake), Just(bodiless), Just(awake.with(bodiless))]
}

/// Around one, two and no length bytes.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..40), vec(any::<u8>(), 100..300)]
}
