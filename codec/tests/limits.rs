//! Every limit of `limits.rs` that a decoder enforces: at the limit a frame is read, one past it
//! is refused with the error that belongs to it. The bytes are laid out by hand, since the
//! encoders assert the same limits.

use codec_properties::bytes::frame_of;
use codec_properties::samples::Side;
use hawser_codec::cursor::Write;
use hawser_codec::error::DecodeError::{self, BadText, BadValue, FrameTooLarge};
use hawser_codec::frame::{Frame, Framer, split};
use hawser_codec::ids::{is_app_name, is_device_name, is_topic_name};
use hawser_codec::limits::*;

/// The largest body of each direction is taken; one byte more is refused by its header alone,
/// before any of the body has come, and whether the header comes whole or in pieces.
#[test]
fn frames() {
    for body_bytes_max in [
        LINK_HANDSHAKE_BODY_BYTES_MAX,
        UPLINK_BODY_BYTES_MAX,
        DOWNLINK_BODY_BYTES_MAX,
        LINK_BODY_BYTES_MAX,
    ] {
        let at = frame_of(0x7f, &vec![0; body_bytes_max]);
        assert!(split(&at, body_bytes_max).unwrap().is_some());
        assert_eq!(split(&at[..4], body_bytes_max), Ok(None), "only its header has come");

        let past = frame_of(0x7f, &vec![0; body_bytes_max + 1]);
        let header = &past[..past.len() - body_bytes_max - 1];
        assert_eq!(split(header, body_bytes_max), Err(FrameTooLarge));
        let mut framer = Framer::default();
        let each = |_: Frame<'_>| Ok::<(), DecodeError>(());
        let (last, first) = header.split_last().unwrap();
        for byte in first {
            assert_eq!(framer.feed(&[*byte], body_bytes_max, each), Ok(()));
        }
        assert_eq!(framer.feed(&[*last], body_bytes_max, each), Err(FrameTooLarge));
    }
    // A length of more than three bytes is beyond every limit, whatever follows.
    assert_eq!(split(&[0x7f, 0x80, 0x80, 0x80], LINK_BODY_BYTES_MAX), Err(FrameTooLarge));
}

#[test]
fn payloads() {
    for (side, kind, header) in [
        (Side::Downlink, 0x21, &[1][..]),
        (Side::Downlink, 0x22, &[1]),
        (Side::Downlink, 0x23, &[1, 0, 0, 0, 0]),
        (Side::ToBroker, 0x63, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        (Side::ToBroker, 0x65, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        check(side, kind, FrameTooLarge, |past| {
            [header, &vec![0x5a; PAYLOAD_BYTES_MAX + past]].concat()
        });
    }
    check(Side::ToBroker, 0x64, BadValue, |past| {
        let mut body = answer_header(1);
        put_entry(&mut body, 1, PAYLOAD_BYTES_MAX + past);
        body
    });
}

#[test]
fn tickets() {
    check(Side::Uplink, 0x10, BadValue, |past| {
        let mut body = vec![1, 0, 0];
        body.put(&[0; 2 + 4 + 8]);
        body.put_varint(0);
        body.put_prefixed(&vec![0x5a; TICKET_BYTES_MAX + past]);
        body
    });
}

#[test]
fn entries() {
    for kind in [0x64, 0x67] {
        check(Side::ToBroker, kind, BadValue, |past| {
            let count = PULL_ENTRIES_MAX + past;
            let mut body = answer_header(count as u64);
            (1..=count as u64).for_each(|seq| put_entry(&mut body, seq, 3));
            body
        });
    }
    check(Side::ToBroker, 0x68, BadValue, |past| {
        let count = PULL_ENTRIES_MAX + past;
        let mut body = Vec::new();
        body.put_u32(1);
        body.put_u64(count as u64);
        body.put_u8(0);
        (1..=count as u64).for_each(|seq| put_entry(&mut body, seq, 3));
        body
    });
    // In ascending order, and none beyond what the answer claims to reach.
    for (numbers, upto, good) in
        [(&[1, 2][..], 2, true), (&[2, 1], 2, false), (&[1, 1], 2, false), (&[1, 3], 2, false)]
    {
        let mut body = answer_header(upto);
        numbers.iter().for_each(|&seq| put_entry(&mut body, seq, 0));
        assert_eq!(decode(Side::ToBroker, 0x64, &body).is_ok(), good, "{numbers:?}");
    }
}

#[test]
fn topics() {
    check(Side::ToControl, 0x47, BadValue, |past| {
        vec![1; 20 + 8 * (TOPICS_PER_SESSION_MAX + past)]
            .into_iter()
            .enumerate()
            // The position's upper byte is above the largest sequence number otherwise.
            .map(|(at, byte)| if at == 19 { 0 } else { byte })
            .collect()
    });
    // The whole app is not a topic that one could leave or join.
    for kind in [0x11, 0x12] {
        assert_eq!(decode(Side::Uplink, kind, &[0; 8]), Err(BadValue));
    }
}

#[test]
fn addresses() {
    let close = |addresses: &[Vec<u8>]| {
        let mut body = vec![1, 0, 0, 0, 0, addresses.len() as u8];
        addresses.iter().for_each(|address| body.put_prefixed(address));
        body
    };
    check(Side::Downlink, 0x28, BadValue, |past| {
        close(&vec![b"a:1".to_vec(); REDIRECT_ADDRESSES_MAX + past])
    });
    check(Side::Downlink, 0x28, BadValue, |past| close(&[vec![b'a'; ADDRESS_BYTES_MAX + past]]));
    assert_eq!(decode(Side::Downlink, 0x28, &close(&[vec![]])), Err(BadText));
    assert_eq!(decode(Side::Downlink, 0x28, &close(&[vec![0xff]])), Err(BadText));
}

#[test]
fn key_sets() {
    let set = |apps: usize, name_bytes: usize, keys: usize| {
        let mut body = vec![0; 8 + 16];
        body.put_u16(apps as u16);
        for _ in 0..apps {
            body.put_u32(1);
            body.put_prefixed(&vec![b'a'; name_bytes]);
            body.put_u8(keys as u8);
            for _ in 0..keys {
                body.put_u32(1);
                body.put_u8(1);
                body.put(&[7; 32]);
            }
        }
        body
    };
    check(Side::ToBroker, 0x62, BadValue, |past| set(APPS_MAX + past, 1, 1));
    check(Side::ToBroker, 0x62, BadValue, |past| set(1, APP_NAME_BYTES_MAX + past, 1));
    check(Side::ToBroker, 0x62, BadValue, |past| set(1, 1, APP_KEYS_MAX + past));
    // The fullest set of all still fits one frame.
    let fullest = set(APPS_MAX, APP_NAME_BYTES_MAX, APP_KEYS_MAX);
    assert!(fullest.len() <= LINK_BODY_BYTES_MAX);
    assert_eq!(decode(Side::ToBroker, 0x62, &fullest), Ok(true));
    // A count that the bytes cannot hold reserves nothing.
    let mut body = vec![0; 8 + 16];
    body.put_u16(APPS_MAX as u16);
    assert_eq!(decode(Side::ToBroker, 0x62, &body), Err(DecodeError::Truncated));
}

#[test]
fn heartbeats() {
    for (heartbeat_s, expect) in [
        (0, Err(BadValue)),
        (1, Ok(true)),
        (HEARTBEAT_S_MAX, Ok(true)),
        (HEARTBEAT_S_MAX + 1, Err(BadValue)),
    ] {
        let body = heartbeat_s.to_le_bytes();
        assert_eq!(decode(Side::Downlink, 0x27, &body), expect, "{heartbeat_s} s");
        let welcome = [&[0; 9][..], &body].concat();
        assert_eq!(decode(Side::Downlink, 0x20, &welcome), expect, "{heartbeat_s} s");
    }
}

#[test]
fn sequence_numbers() {
    let varint = |value: u64| {
        let mut body = Vec::new();
        body.put_varint(value);
        body
    };
    for (side, kind) in [(Side::Uplink, 0x13), (Side::Uplink, 0x14), (Side::Downlink, 0x21)] {
        check(side, kind, BadValue, |past| varint(SEQ_MAX + past as u64));
    }
    // Fixed-size numbers have the same range.
    check(Side::ToBroker, 0x66, BadValue, |past| {
        [&[0; 4][..], &(SEQ_MAX + past as u64).to_le_bytes()].concat()
    });
    check(Side::ToControl, 0x45, BadValue, |past| {
        [&[0; 20][..], &(SEQ_MAX + past as u64).to_le_bytes()].concat()
    });
    // No entry has the number 0.
    for (side, kind) in [(Side::Downlink, 0x21), (Side::Downlink, 0x22)] {
        assert_eq!(decode(side, kind, &varint(0)), Err(BadValue));
    }
    assert_eq!(decode(Side::ToBroker, 0x63, &[0; 10]), Err(BadValue));
}

/// Values of small fields that are not defined are errors, not extensions.
#[test]
fn flags() {
    for (side, kind, at, body, defined_max) in [
        (Side::Uplink, 0x15, 0, &[0, 1][..], 1),
        (Side::Downlink, 0x24, 0, &[0, 1], 1),
        (Side::Downlink, 0x25, 0, &[0, 1], 3),
        (Side::Downlink, 0x26, 0, &[0, 1], 1),
        (Side::ToBroker, 0x63, 9, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 3),
        (Side::ToBroker, 0x64, 16, &[0; 17], 1),
        (Side::ToBroker, 0x68, 12, &[0; 13], 1),
    ] {
        for value in 0..=255 {
            let mut body = body.to_vec();
            body[at] = value;
            let expect = if value <= defined_max { Ok(true) } else { Err(BadValue) };
            assert_eq!(decode(side, kind, &body), expect, "{side:?} 0x{kind:02x} flag {value}");
        }
    }
    // An entry without its body has no body.
    let bodiless = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2];
    assert_eq!(decode(Side::ToBroker, 0x63, &bodiless), Ok(true));
    assert_eq!(decode(Side::ToBroker, 0x63, &[&bodiless[..], b"x"].concat()), Err(BadValue));
}

#[test]
fn names() {
    for (is_name, bytes_max) in [
        (is_app_name as fn(&str) -> bool, APP_NAME_BYTES_MAX),
        (is_device_name, DEVICE_NAME_BYTES_MAX),
        (is_topic_name, TOPIC_NAME_BYTES_MAX),
    ] {
        assert!(is_name("a"));
        assert!(is_name(&"a".repeat(bytes_max)));
        assert!(!is_name(&"a".repeat(bytes_max + 1)));
        assert!(!is_name(""));
        assert!(!is_name("a\nb"));
    }
    for (name, good) in
        [("shop-2", true), ("-shop", false), ("shop-", false), ("Shop", false), ("shöp", false)]
    {
        assert_eq!(is_app_name(name), good, "{name}");
    }
    assert!(is_device_name("Gerät 7") && is_topic_name("Neuigkeiten/Köln"));
}

/// `body(0)` is at a limit and read; `body(1)` is one past it and refused with `error`.
fn check(side: Side, kind: u8, error: DecodeError, body: impl Fn(usize) -> Vec<u8>) {
    assert_eq!(decode(side, kind, &body(0)), Ok(true), "{side:?} 0x{kind:02x} at the limit");
    assert_eq!(decode(side, kind, &body(1)), Err(error), "{side:?} 0x{kind:02x} one past");
}

fn decode(side: Side, kind: u8, body: &[u8]) -> Result<bool, DecodeError> {
    let bytes = frame_of(kind, body);
    let (frame, _) = split(&bytes, side.body_bytes_max())?.expect("a whole frame");
    side.decode(frame)
}

fn answer_header(upto: u64) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.put_u64(upto);
    body.put_u8(0);
    body
}

fn put_entry(body: &mut Vec<u8>, seq: u64, payload_bytes: usize) {
    body.put_varint(seq);
    body.put_u8(0);
    body.put_u64(0);
    body.put_prefixed(&vec![0x5a; payload_bytes]);
}
