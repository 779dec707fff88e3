//! The links to control nodes: the handshake at both ends, delivery, slow readers, and what a link
//! may cost when it misbehaves.

use std::io::Write;
use std::time::{Duration, Instant};

use hawser_codec::device::{Downlink, Uplink};
use hawser_codec::error::CloseReason;
use hawser_codec::ids::{AppId, Epoch, Seq, SessionRef, Stream};
use hawser_codec::link::{Entry, EntryFlags, ToControl, to_broker};

use crate::support::{APP, Broker, Control, DEADLINE, Device, Folder, LINK_KEY, Link, device_id};

/// A broker of one shard with a link that is up.
pub fn linked(control: &Control, settings: &[&str]) -> (Broker, Link) {
    let setting = control.setting();
    let settings: Vec<&str> = ["shards=1", &setting].iter().chain(settings).copied().collect();
    let broker = Broker::start_in(Folder::new(), &settings);
    let link = control.link();
    broker.wait_for_metric("hawser_broker_link_up", 1);
    broker.wait_for_metric("hawser_broker_keys_version", 2);
    (broker, link)
}

/// The session of a device as the broker announces it.
pub fn announced(link: &mut Link, device: &str) -> SessionRef {
    let id = device_id(device);
    link.expect("the announcement", |frame| match frame {
        ToControl::Announce(list) => {
            list.iter().find(|record| record.device == id).map(|record| record.session)
        }
        _ => None,
    })
}

/// Waits for the pull of a connect and answers that there is nothing.
pub fn answer_pull(link: &mut Link, session: SessionRef) {
    link.expect("the pull of a connect", |frame| match frame {
        ToControl::Pull(list) => list.iter().find(|record| record.session == session).map(drop),
        _ => None,
    });
    link.send(|out| to_broker::entries(out, session, Seq::ZERO, false, &[]));
}

pub fn push(device: &mut Device) -> (u64, Vec<u8>) {
    device.expect("a push", |frame| match frame {
        Downlink::Push { seq, payload } => Some((seq.0, payload.to_vec())),
        _ => None,
    })
}

#[test]
fn a_message_goes_from_the_link_to_the_device_and_its_answer_back() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    assert_eq!(link.hello.shard, 0);
    let mut device = Device::online(broker.address, "d");
    let session = announced(&mut link, "d");
    answer_pull(&mut link, session);
    link.send(|out| to_broker::deliver(out, session, Seq(1), EntryFlags::NONE, b"hello"));
    assert_eq!(push(&mut device), (1, b"hello".to_vec()));
    device.send(&Uplink::Ack { seq: Seq(1) });
    link.expect("the acknowledgement", |frame| match frame {
        ToControl::Ack(list) => list.iter().find(|record| record.seq == Seq(1)).map(drop),
        _ => None,
    });
    drop(device);
    link.expect("that it is gone", |frame| match frame {
        ToControl::Gone(list) => list.iter().find(|record| record.session == session).map(drop),
        _ => None,
    });
    assert_eq!(broker.metric("hawser_broker_push_inline_total"), 1);
    assert_eq!(broker.metric("hawser_broker_acks_total"), 1);
}

#[test]
fn an_answer_larger_than_the_receive_buffers_arrives_whole() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    let mut device = Device::online(broker.address, "d");
    let session = announced(&mut link, "d");
    answer_pull(&mut link, session);
    device.send(&Uplink::Pull { stream: Stream::Inbox, from: Seq::ZERO });
    let payloads: Vec<Vec<u8>> = (1..=8u8).map(|i| vec![i; 16 * 1024]).collect();
    let entries: Vec<Entry<'_>> = payloads
        .iter()
        .zip(1..)
        .map(|(payload, seq)| Entry {
            seq: Seq(seq),
            topic: hawser_codec::ids::TopicId::ALL,
            flags: EntryFlags::NONE,
            payload,
        })
        .collect();
    link.send(|out| to_broker::entries(out, session, Seq(8), false, &entries));
    for (seq, payload) in (1..).zip(&payloads) {
        assert_eq!(push(&mut device), (seq, payload.clone()));
    }
}

#[test]
fn a_broker_with_another_key_is_not_believed_nor_is_a_control_node() {
    // The broker finds out first: it hangs up without giving its own proof.
    let wrong = Control::new([0; 32]);
    let broker = Broker::start_in(Folder::new(), &["shards=1", &wrong.setting()]);
    let mut link = wrong.accept();
    assert_eq!(wrong.challenge(&mut link), None, "an impostor learns no proof");
    broker.wait_for_metric("hawser_broker_link_refusals_total", 1);
    assert_eq!(broker.metric("hawser_broker_link_up"), 0);

    // The control node finds out: it says so.
    let control = Control::new(LINK_KEY);
    let broker = Broker::start_in(Folder::new(), &["shards=1", &control.setting()]);
    let mut link = control.accept();
    assert!(control.challenge(&mut link).is_some());
    link.send(|out| to_broker::refused(out, CloseReason::LinkAuth));
    assert_eq!(link.frames.next(), None);
    broker.wait_for_metric("hawser_broker_link_refusals_total", 1);

    // It tries again later, and both can agree then.
    drop(control.link());
    broker.wait_for_metric("hawser_broker_link_up", 0);
}

#[test]
fn a_control_node_of_another_major_version_is_refused() {
    let control = Control::new(LINK_KEY);
    let broker = Broker::start_in(Folder::new(), &["shards=1", &control.setting()]);
    let mut link = control.accept();
    let mut challenge = Vec::new();
    to_broker::challenge(&mut challenge, 11, &[4; 32], &[0; 32]);
    // Type and a length of one byte stand before the major version.
    assert_eq!(challenge[2], 1);
    challenge[2] = 2;
    link.frames.write(&challenge);
    assert_eq!(link.frames.next(), None);
    broker.wait_for_metric("hawser_broker_link_refusals_total", 1);
    assert_eq!(broker.metric("hawser_broker_link_up"), 0);
}

#[test]
fn before_the_proof_nothing_but_the_handshake_is_taken() {
    let control = Control::new(LINK_KEY);
    let broker = Broker::start_in(Folder::new(), &["shards=1", &control.setting()]);
    let check = |what: &str, bytes: &[u8]| {
        let mut link = control.accept();
        link.frames.write(bytes);
        assert_eq!(link.frames.next(), None, "{what}");
    };
    let mut accepted = Vec::new();
    to_broker::accepted(&mut accepted, Epoch::ZERO);
    check("an acceptance without a challenge", &accepted);
    let mut kick = Vec::new();
    to_broker::kick(&mut kick, SessionRef { slot: 0, generation: 0 }, Epoch(u64::MAX));
    check("a kick", &kick);
    check("a frame above the handshake's limit", &[0x61, 0x81, 0x02]);
    check("garbage", &[0xff; 64]);
    assert_eq!(broker.metric("hawser_broker_link_up"), 0);
    assert_eq!(broker.metric("hawser_broker_kicks_total"), 0);
}

#[test]
fn a_silent_link_is_cut_and_dialled_again_and_no_session_ends() {
    let control = Control::new(LINK_KEY);
    let (broker, first) = linked(&control, &["link_idle_ms=1000"]);
    let mut device = Device::online(broker.address, "d");
    // Nothing is said on the first link; the broker gives it up and comes again.
    let mut second = control.link();
    let mut session = announced(&mut second, "d");
    drop(first);
    device.ping();
    // What is said keeps a link. Where the machine stood still, nothing was said, and it begins again.
    while !is_kept(&mut second) {
        second = control.link();
        session = announced(&mut second, "d");
    }
    second.send(|out| to_broker::deliver(out, session, Seq(1), EntryFlags::NONE, b"still up"));
    device.send(&Uplink::Pull { stream: Stream::Inbox, from: Seq::ZERO });
    device.ping();
    assert_eq!(broker.metric("hawser_broker_sessions"), 1);
}

/// Pings in each tenth of the limit of a second, until more than the limit has gone by. False: the link
/// was cut, and for as long as the limit this had nothing to say.
fn is_kept(link: &mut Link) -> bool {
    let mut ping = Vec::new();
    to_broker::ping(&mut ping, Epoch::ZERO);
    let mut said = Instant::now();
    for _ in 0..12 {
        // One that is cut shows with the next read.
        let _written = link.frames.stream.write_all(&ping);
        if link.frames.next().is_none() {
            assert!(said.elapsed() >= Duration::from_secs(1), "it was cut although it spoke");
            return false;
        }
        said = Instant::now();
        link.frames.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let _waited = link.frames.stream.peek(&mut [0]);
        link.frames.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    true
}

#[test]
fn a_control_node_that_breaks_the_protocol_loses_its_link_only() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    let mut device = Device::online(broker.address, "d");
    link.frames.write(&[0x63, 0x01, 0x00]);
    while link.frames.next().is_some() {}
    device.ping();
    let mut link = control.link();
    announced(&mut link, "d");
    device.ping();
}

#[test]
fn a_kick_for_a_newer_session_ends_the_older_one() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    let device = Device::online(broker.address, "d");
    let session = announced(&mut link, "d");
    link.send(|out| to_broker::kick(out, session, Epoch(u64::MAX >> 1)));
    assert_eq!(device.closed().reason, CloseReason::TakenOver);
    broker.wait_for_closed(CloseReason::TakenOver, 1);
}

/// Delivers to a device that does not read until its session is blocked; returns the last number.
fn block(broker: &Broker, link: &mut Link, session: SessionRef, blocked: u64) -> u64 {
    let payload = vec![1; 4096];
    let mut seq = 0;
    while broker.metric("hawser_broker_blocked") < blocked {
        for _ in 0..8 {
            seq += 1;
            link.send(|out| {
                to_broker::deliver(out, session, Seq(seq), EntryFlags::NONE, &payload);
            });
        }
        assert!(seq < 20_000, "the device's socket does not fill");
    }
    seq
}

#[test]
fn a_slow_reader_gets_a_notice_when_it_reads_again() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &["send_buffer_bytes=4096"]);
    let mut device = Device::online(broker.address, "slow");
    let mut other = Device::online(broker.address, "bystander");
    let session = announced(&mut link, "slow");
    answer_pull(&mut link, session);
    let latest = block(&broker, &mut link, session, 1);
    assert!(broker.metric("hawser_broker_outbox_bytes") > 0);
    other.ping();

    // It reads on: whole frames, in order, up to where the broker stopped; then the notice.
    let mut next = 1;
    let noticed = device.expect("the notice", |frame| match frame {
        Downlink::Push { seq, payload } => {
            assert_eq!((seq.0, payload.len()), (next, 4096));
            next += 1;
            None
        }
        Downlink::Notice { stream: Stream::Inbox, latest } => Some(latest.0),
        _ => None,
    });
    assert!(next <= noticed && noticed <= latest, "{next} {noticed} {latest}");
    broker.wait_for_metric("hawser_broker_blocked", 0);
    broker.wait_for_metric("hawser_broker_outbox_bytes", 0);

    device.send(&Uplink::Pull { stream: Stream::Inbox, from: Seq(next - 1) });
    link.expect("the pull", |frame| match frame {
        ToControl::Pull(list) => list.iter().find(|record| record.from == Seq(next - 1)).map(drop),
        _ => None,
    });
    device.ping();
}

#[test]
fn when_the_pool_is_full_the_next_slow_reader_is_closed() {
    let control = Control::new(LINK_KEY);
    // Room for the rest of one device's frame, not of two.
    let settings = ["send_buffer_bytes=4096", "outbox_bytes_max=5000"];
    let (broker, mut link) = linked(&control, &settings);
    let mut other = Device::online(broker.address, "bystander");
    let mut slow = Vec::new();
    let mut count = 0;
    while broker.closed(CloseReason::SlowReader) == 0 {
        count += 1;
        assert!(count < 40, "the pool does not fill");
        let name = format!("slow {count}");
        slow.push(Device::online(broker.address, &name));
        let session = announced(&mut link, &name);
        answer_pull(&mut link, session);
        let payload = vec![1; 4096];
        let blocked = broker.metric("hawser_broker_blocked");
        for seq in 1.. {
            link.send(|out| {
                to_broker::deliver(out, session, Seq(seq), EntryFlags::NONE, &payload);
            });
            if seq % 16 == 0
                && (broker.metric("hawser_broker_blocked") > blocked
                    || broker.closed(CloseReason::SlowReader) > 0)
            {
                break;
            }
        }
    }
    assert!(broker.metric("hawser_broker_outbox_bytes") <= 5000);
    assert_eq!(broker.metric("hawser_broker_remainders_refused_total"), 1);
    other.ping();
}

#[test]
fn unknown_sessions_and_apps_on_a_link_are_dropped() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    let stale = SessionRef { slot: 3, generation: 9 };
    let beyond = SessionRef { slot: u32::MAX, generation: 0 };
    for session in [stale, beyond] {
        link.send(|out| to_broker::deliver(out, session, Seq(1), EntryFlags::NONE, b"x"));
        link.send(|out| to_broker::kick(out, session, Epoch(1)));
        link.send(|out| to_broker::reset(out, session, Stream::Inbox, Seq(1)));
    }
    link.send(|out| to_broker::group_cursor(out, AppId(99), Seq(1)));
    link.send(|out| to_broker::ping(out, Epoch::ZERO));
    link.expect("a pong", |frame| matches!(frame, ToControl::Pong { .. }).then_some(()));
    assert!(broker.metric("hawser_broker_stale_dropped_total") >= 2);
}

#[test]
fn a_group_message_reaches_every_session_of_the_app() {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, &[]);
    let mut devices: Vec<Device> =
        (0..50).map(|i| Device::online(broker.address, &format!("d{i}"))).collect();
    for device in &mut devices {
        device.ping();
    }
    link.send(|out| to_broker::group_cursor(out, APP, Seq(4)));
    let entry = Entry {
        seq: Seq(5),
        topic: hawser_codec::ids::TopicId::ALL,
        flags: EntryFlags::NONE,
        payload: b"to all",
    };
    link.send(|out| to_broker::group_deliver(out, APP, &entry));
    for device in &mut devices {
        let seq = device.expect("the broadcast", |frame| match frame {
            Downlink::Broadcast { seq, payload: b"to all" } => Some(seq.0),
            _ => None,
        });
        assert_eq!(seq, 5);
    }
    let sent = link.expect("the report", |frame| match frame {
        ToControl::GroupSent { seq: Seq(5), sent, waiting, .. } => Some((*sent, *waiting)),
        _ => None,
    });
    assert_eq!(sent, (50, 0));
}
