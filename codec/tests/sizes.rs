//! What the protocol costs on the wire, header included, at its worst: with the largest sequence
//! numbers, the largest payload and every optional field.

use hawser_codec::device::{
    Connect, Downlink, MAJOR, MINOR, PushKind, Uplink, Welcome, push_frame_bytes, put_push_header,
};
use hawser_codec::ids::{Epoch, Seq, Stream, TopicId};
use hawser_codec::limits::{HEARTBEAT_S_MAX, PAYLOAD_BYTES_MAX, TICKET_BYTES_MAX};

#[test]
fn a_heartbeat_is_two_bytes_each_way() {
    assert_eq!(up(&Uplink::Ping), 2);
    assert_eq!(down(&Downlink::Pong), 2);
}

#[test]
fn a_push_costs_at_most_twelve_bytes() {
    for (payload_bytes, overhead_max) in
        [(0, 10), (1, 10), (119, 10), (120, 11), (4096, 11), (16_376, 12), (PAYLOAD_BYTES_MAX, 12)]
    {
        let payload = vec![0x5a; payload_bytes];
        let (seq, payload) = (Seq::MAX, payload.as_slice());
        assert_eq!(down(&Downlink::Push { seq, payload }) - payload_bytes, overhead_max);
        assert_eq!(down(&Downlink::Broadcast { seq, payload }) - payload_bytes, overhead_max);
    }
}

/// The tag takes four more; the numbers of a long life still fit in twelve.
#[test]
fn a_topic_push_costs_at_most_twelve_bytes_for_a_long_time() {
    for (seq, payload_bytes, overhead) in [
        ((1 << 28) - 1, PAYLOAD_BYTES_MAX, 12),
        ((1 << 35) - 1, 16_374, 12),
        ((1 << 35) - 1, 16_375, 13),
        (1 << 28, PAYLOAD_BYTES_MAX, 13),
        (Seq::MAX.0, PAYLOAD_BYTES_MAX, 16),
    ] {
        let payload = vec![0x5a; payload_bytes];
        let push = Downlink::TopicPush { seq: Seq(seq), tag: u32::MAX, payload: &payload };
        assert_eq!(down(&push) - payload_bytes, overhead, "number {seq}");
    }
}

#[test]
fn an_acknowledgement_is_at_most_twelve_bytes() {
    assert_eq!(up(&Uplink::Ack { seq: Seq(1) }), 3);
    assert_eq!(up(&Uplink::Ack { seq: Seq::MAX }), 10);
    assert_eq!(up(&Uplink::GroupAck { seq: Seq::MAX }), 10);
}

#[test]
fn a_connect_is_at_most_48_bytes_over_its_ticket() {
    let ticket = [0x5a; TICKET_BYTES_MAX];
    let connect = Connect {
        major: MAJOR,
        minor: MINOR,
        heartbeat_s: HEARTBEAT_S_MAX,
        network: u32::MAX,
        last_epoch: Epoch(u64::MAX),
        inbox: Seq::MAX,
        group: Some(Seq::MAX),
        ticket: &ticket,
    };
    let bytes = up(&Uplink::Connect(connect)) - ticket.len();
    assert_eq!(bytes, 38, "the module's top says so");
    assert!(bytes <= 48);
}

#[test]
fn the_rest_is_small() {
    let stream = Stream::Group;
    let welcome = Welcome { epoch: Epoch(u64::MAX), heartbeat_s: 1, group: Some(Seq::MAX) };
    for (bytes, bytes_max) in [
        (up(&Uplink::Subscribe { topic: TopicId(u64::MAX) }), 10),
        (up(&Uplink::Pull { stream, from: Seq::MAX }), 11),
        (up(&Uplink::Bye), 2),
        (down(&Downlink::Welcome(welcome)), 21),
        (down(&Downlink::Notice { stream, latest: Seq::MAX }), 11),
        (down(&Downlink::CaughtUp { stream, upto: Seq::MAX, more: true }), 11),
        (down(&Downlink::Reset { stream, seq: Seq::MAX }), 11),
        (down(&Downlink::Interval { heartbeat_s: 1 }), 4),
    ] {
        assert_eq!(bytes, bytes_max);
    }
}

/// A sender that writes only the header counts the same bytes as the encoder.
#[test]
fn headers_and_sizes_agree_with_the_encoder() {
    for payload_bytes in [0, 1, 118, 119, 120, 127, 128, 4096, 16_375, 16_376, PAYLOAD_BYTES_MAX] {
        for seq in [1, 127, 128, 1 << 28, Seq::MAX.0].map(Seq) {
            let payload = vec![0x5a; payload_bytes];
            let payload = payload.as_slice();
            for (kind, push) in [
                (PushKind::Inbox, Downlink::Push { seq, payload }),
                (PushKind::Broadcast, Downlink::Broadcast { seq, payload }),
                (PushKind::Topic { tag: 9 }, Downlink::TopicPush { seq, tag: 9, payload }),
            ] {
                let (mut whole, mut header) = (Vec::new(), Vec::new());
                push.encode(&mut whole);
                put_push_header(&mut header, kind, seq, payload_bytes);
                header.extend(payload);
                assert_eq!(header, whole);
                assert_eq!(push_frame_bytes(kind, seq, payload_bytes), whole.len());
            }
        }
    }
}

fn up(frame: &Uplink<'_>) -> usize {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out.len()
}

fn down(frame: &Downlink<'_>) -> usize {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out.len()
}
