//! Devices at the door: each way to be turned away has its reason and its counter, and costs nobody
//! else anything.

use std::io::Write;
use std::net::TcpStream;

use hawser_codec::device::{Downlink, MAJOR, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::ids::{Seq, Stream, TopicId};
use hawser_codec::limits::TOPICS_PER_SESSION_MAX;

use crate::support::{
    Broker, Device, Folder, connect_frame, connect_frame_of, signed, ticket, unix_s,
};

/// Sends `bytes` on a new connection and expects the broker to end it for `reason`, while another
/// session goes on.
fn turned_away(broker: &Broker, bytes: &[u8], reason: CloseReason) {
    let before = broker.closed(reason);
    let mut other = Device::online(broker.address, "bystander");
    let mut device = Device::dial(broker.address);
    device.frames.write(bytes);
    let closed = device.closed();
    assert_eq!(closed.reason, reason, "for {bytes:02x?}");
    broker.wait_for_closed(reason, before + 1);
    other.ping();
}

#[test]
fn each_refusal_has_its_reason_and_its_counter() {
    let broker = Broker::start(&["shards=1"]);
    let check = |bytes: &[u8], reason| turned_away(&broker, bytes, reason);

    let mut tampered = ticket("d");
    *tampered.last_mut().unwrap() ^= 1;
    check(&connect_frame(&tampered), CloseReason::TicketForged);
    check(&connect_frame(&signed("shop", "d", unix_s() - 60)), CloseReason::TicketExpired);
    check(&connect_frame(&signed("nobody", "d", unix_s() + 60)), CloseReason::UnknownApp);
    check(&connect_frame(b"not a ticket"), CloseReason::TicketMalformed);
    check(&connect_frame_of(MAJOR + 1, &ticket("d")), CloseReason::Version);

    // A frame of a session before there is one.
    check(&[0x01, 0x00], CloseReason::Unexpected);
    // A length beyond the limit, refused before its bytes are there.
    check(&[0x10, 0xff, 0x7f], CloseReason::FrameTooLarge);
    // A length that is not in its shortest form.
    check(&[0x10, 0x80, 0x00], CloseReason::BadFrame);
    // A connect that ends in its middle.
    check(&[0x10, 0x03, MAJOR, 0, 0], CloseReason::BadFrame);
    for error in [DecodeError::FrameTooLarge, DecodeError::BadVarint, DecodeError::Truncated] {
        let line = format!("hawser_broker_decode_errors_total error=\"{}\"", error.label());
        assert_eq!(broker.metric(&line), 1, "{line}");
    }
    assert_eq!(broker.metric("hawser_broker_partials"), 0);
}

#[test]
fn a_session_that_breaks_the_rules_ends() {
    let broker = Broker::start(&["shards=1"]);
    let check = |break_rules: &dyn Fn(&mut Device), reason| {
        let before = broker.closed(reason);
        let mut other = Device::online(broker.address, "bystander");
        let mut device = Device::online(broker.address, "rebel");
        break_rules(&mut device);
        assert_eq!(device.closed().reason, reason);
        broker.wait_for_closed(reason, before + 1);
        other.ping();
    };
    check(&|device| device.frames.write(&connect_frame(&ticket("rebel"))), CloseReason::Unexpected);
    check(&|device| device.frames.write(&[0x13, 0x00]), CloseReason::BadFrame);
    let too_many = |device: &mut Device| {
        for topic in 1..=TOPICS_PER_SESSION_MAX as u64 + 1 {
            device.send(&Uplink::Subscribe { topic: TopicId(topic) });
        }
    };
    check(&too_many, CloseReason::TooManyTopics);
}

#[test]
fn frames_may_come_in_any_pieces() {
    let broker = Broker::start(&["shards=1"]);
    let mut device = Device::dial(broker.address);
    for byte in connect_frame(&ticket("slow")) {
        device.frames.write(&[byte]);
    }
    device.expect("a welcome", |frame| matches!(frame, Downlink::Welcome(_)).then_some(()));
    // Several frames at once, the last one unfinished.
    device.frames.write(&[0x01, 0x00, 0x01, 0x00, 0x01]);
    for _ in 0..2 {
        device.expect("a pong", |frame| matches!(frame, Downlink::Pong).then_some(()));
    }
    broker.wait_for_metric("hawser_broker_partials", 1);
    device.frames.write(&[0x00]);
    device.expect("a pong", |frame| matches!(frame, Downlink::Pong).then_some(()));
    // A type of a newer minor version is skipped.
    device.frames.write(&[0x7f, 0x03, 1, 2, 3]);
    device.ping();
    broker.wait_for_metric("hawser_broker_partials", 0);
}

#[test]
fn whoever_does_not_finish_the_connect_has_a_deadline() {
    let broker = Broker::start(&["shards=1", "handshake_timeout_ms=200"]);
    let silent = Device::dial(broker.address);
    let mut half = Device::dial(broker.address);
    half.frames.write(&connect_frame(&ticket("half"))[..20]);
    for device in [silent, half] {
        assert_eq!(device.closed().reason, CloseReason::HandshakeTimeout);
    }
    broker.wait_for_closed(CloseReason::HandshakeTimeout, 2);
    broker.wait_for_metric("hawser_broker_slots_in_use", 0);
    assert_eq!(broker.metric("hawser_broker_partial_bytes"), 0);
}

/// The head of a frame of 1,023 bytes and 1,000 of them; five of it fit into the pool of these tests.
fn unfinished(kind: u8) -> Vec<u8> {
    let mut bytes = vec![kind, 0xff, 0x07];
    bytes.resize(3 + 1000, 0);
    bytes
}

const CONNECT: u8 = 0x10;
const OF_A_NEWER_VERSION: u8 = 0x7f;

#[test]
fn strangers_with_unfinished_frames_keep_nobody_out() {
    let broker = Broker::start(&["shards=1", "partial_bytes_max=5200", "retry_after_ms=1234"]);
    let mut online = Device::online(broker.address, "online");
    let mut slow: Vec<Device> = Vec::new();
    for count in 1..=5 {
        slow.push(Device::dial(broker.address));
        slow.last_mut().unwrap().frames.write(&unfinished(CONNECT));
        broker.wait_for_metric("hawser_broker_partials", count);
    }
    // One past the limit: who has held longest makes room.
    slow.push(Device::dial(broker.address));
    slow.last_mut().unwrap().frames.write(&unfinished(CONNECT));
    let close = slow.remove(0).closed();
    assert_eq!((close.reason, close.retry_after_ms), (CloseReason::Overload, 1234));
    broker.wait_for_metric("hawser_broker_partials", 5);

    // A session's frame in two pieces, and a connect in two pieces.
    online.frames.write(&unfinished(OF_A_NEWER_VERSION));
    broker.wait_for_closed(CloseReason::Overload, 2);
    online.frames.write(&[0; 23]);
    online.ping();
    let connect = connect_frame(&ticket("split"));
    let mut split = Device::dial(broker.address);
    split.frames.write(&connect[..100]);
    broker.wait_for_metric("hawser_broker_partials", 5);
    split.frames.write(&connect[100..]);
    split.expect("a welcome", |frame| matches!(frame, Downlink::Welcome(_)).then_some(()));
    assert_eq!(broker.metric("hawser_broker_partials"), 4);
    assert!(broker.metric("hawser_broker_partial_bytes") <= 5200);
}

#[test]
fn a_stranger_takes_no_room_from_sessions() {
    let broker = Broker::start(&["shards=1", "partial_bytes_max=5200"]);
    let mut sessions: Vec<Device> =
        (0..5).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    for device in &mut sessions {
        device.frames.write(&unfinished(OF_A_NEWER_VERSION));
    }
    broker.wait_for_metric("hawser_broker_partials", 5);
    let mut stranger = Device::dial(broker.address);
    stranger.frames.write(&unfinished(CONNECT));
    assert_eq!(stranger.closed().reason, CloseReason::Overload);
    // Of sessions alone the one that began first makes room.
    let mut late = Device::online(broker.address, "late");
    late.frames.write(&unfinished(OF_A_NEWER_VERSION));
    assert_eq!(sessions.remove(0).closed().reason, CloseReason::Overload);
    for device in sessions.iter_mut().chain([&mut late]) {
        device.frames.write(&[0; 23]);
        device.ping();
    }
    broker.wait_for_metric("hawser_broker_partials", 0);
}

#[test]
fn sessions_without_heartbeats_end() {
    let broker =
        Broker::start(&["heartbeat_min_s=1", "heartbeat_max_s=1", "heartbeat_margin_ms=100"]);
    let quiet = Device::online(broker.address, "quiet");
    let mut half = Device::online(broker.address, "half a frame");
    half.frames.write(&unfinished(OF_A_NEWER_VERSION));
    assert_eq!(quiet.closed().reason, CloseReason::Idle);
    assert_eq!(half.closed().reason, CloseReason::Idle);
    broker.wait_for_closed(CloseReason::Idle, 2);
    broker.wait_for_metric("hawser_broker_partials", 0);
}

#[test]
fn a_goodbye_and_a_hang_up_are_noticed() {
    let broker = Broker::start(&["shards=1"]);
    let mut polite = Device::online(broker.address, "polite");
    polite.send(&Uplink::Bye);
    drop(polite);
    drop(Device::online(broker.address, "rude"));
    broker.wait_for_closed(CloseReason::Bye, 2);
    let reset = Device::online(broker.address, "reset");
    let socket = socket2::SockRef::from(&reset.frames.stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(reset);
    broker.wait_for_closed(CloseReason::Reset, 1);
    broker.wait_for_metric("hawser_broker_slots_in_use", 0);
    assert_eq!(broker.metric("hawser_broker_sessions"), 0);
}

#[test]
fn above_the_limit_devices_are_told_when_to_return() {
    let broker = Broker::start(&["shards=1", "connections_max=10", "retry_after_ms=1234"]);
    let mut inside: Vec<Device> =
        (0..10).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    for refused in 1..=5 {
        let mut device = Device::dial(broker.address);
        // It may be told before it has said anything.
        let _reset = device.frames.stream.write_all(&connect_frame(&ticket("late")));
        let closed = device.closed();
        assert_eq!((closed.reason, closed.retry_after_ms), (CloseReason::Overload, 1234));
        broker.wait_for_metric("hawser_broker_refused_total reason=\"overload\"", refused);
    }
    for device in &mut inside {
        device.ping();
    }
    drop(inside.pop());
    broker.wait_for_metric("hawser_broker_slots_in_use", 9);
    Device::online(broker.address, "there is room again").ping();
}

#[test]
fn without_keys_devices_are_told_to_come_back() {
    let broker = Broker::start_in(Folder::new(), &["retry_after_ms=77"]);
    let mut device = Device::dial(broker.address);
    device.frames.write(&connect_frame(&ticket("early")));
    let closed = device.closed();
    assert_eq!((closed.reason, closed.retry_after_ms), (CloseReason::NotReady, 77));
}

#[test]
fn the_kernel_spreads_connections_over_shards_and_addresses() {
    let broker = Broker::start(&["shards=2", "listen=127.0.0.1:0,[::1]:0"]);
    assert_eq!(broker.addresses.len(), 2);
    let mut devices = Vec::new();
    for address in &broker.addresses {
        devices.extend((0..100).map(|i| Device::online(*address, &format!("{address} {i}"))));
    }
    for device in &mut devices {
        device.ping();
    }
    let accepted = broker.metric_of_shards("hawser_broker_accepted_total");
    assert_eq!(accepted.iter().sum::<u64>(), 200);
    // A fair coin falls below 60 of 200 once in ten million.
    assert!(accepted.iter().all(|&count| count >= 60), "{accepted:?}");
}

#[test]
fn one_shard_fills_several_small_rings() {
    let broker = Broker::start(&["shards=1", "table_max=64", "connections_max=150"]);
    for round in 0..2 {
        let mut devices: Vec<Device> =
            (0..150).map(|i| Device::online(broker.address, &format!("{round} {i}"))).collect();
        for device in &mut devices {
            device.ping();
        }
        assert!(broker.metric("hawser_broker_rings") >= 4);
        drop(devices);
        broker.wait_for_metric("hawser_broker_slots_in_use", 0);
    }
}

#[test]
fn a_storm_of_garbage_costs_the_others_nothing() {
    let broker = Broker::start(&["shards=1", "accept_budget_per_turn=8"]);
    let mut other = Device::online(broker.address, "bystander");
    for round in 0u32..300 {
        let mut stream = TcpStream::connect(broker.address).unwrap();
        let bytes: Vec<u8> = (0..round % 97).map(|i| (i * round) as u8).collect();
        let _refused = stream.write_all(&bytes);
        if round % 50 == 0 {
            other.send(&Uplink::Pull { stream: Stream::Inbox, from: Seq::ZERO });
            other.ping();
        }
    }
    broker.wait_for_metric("hawser_broker_slots_in_use", 1);
    other.ping();
    assert_eq!(broker.metric("hawser_broker_accepted_total"), 301);
}
