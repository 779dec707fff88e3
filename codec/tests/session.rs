//! The device's session against a small server: first scripted exchanges, one per behaviour, then
//! a server with an inbox and a group log whose connections break at any byte.
//!
//! `Pair` joins a session to whatever the test lets the server say. Its clock moves only when the
//! test moves it, usually to the session's own next deadline.

use hawser_codec::device::{Close, Connect, Downlink, MAJOR, Uplink, Welcome};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::{Framer, put_header, split};
use hawser_codec::ids::{Epoch, Seq, Stream, TopicId};
use hawser_codec::limits::UPLINK_BODY_BYTES_MAX;
use hawser_codec::session::{Backoff, Command, Event, Positions, Profile, Session, Source};
use proptest::prelude::*;

const HEARTBEAT_S: u16 = 180;
const WELCOME: Downlink<'_> = Downlink::Welcome(Welcome {
    epoch: Epoch(77),
    heartbeat_s: HEARTBEAT_S,
    group: Some(Seq(1000)),
});

#[test]
fn connects_and_says_what_it_has() {
    let mut pair = Pair::new(Positions { epoch: Epoch(5), inbox: Seq(41), group: Some(Seq(9)) });
    pair.topics = vec![TopicId(3), TopicId(4)];
    assert_eq!(pair.session.deadline_ms(), 0, "a new session dials at once");
    pair.dial();
    assert_eq!(pair.sent(), "Connect 0x5 41 Some(9) | Subscribe 3 | Subscribe 4");
    assert!(!pair.session.is_online());
    assert_eq!(pair.hears(&[WELCOME]), Ok(Command::Wait));
    assert_eq!(pair.heard(), "Welcomed 77 | Ready");
    assert!(pair.session.is_online() && pair.session.is_ready());
    assert_eq!(pair.session.heartbeat_s(), HEARTBEAT_S);
    // The group log went on meanwhile.
    assert_eq!(pair.sent(), "Pull Group 9");
    assert_eq!(pair.session.positions().epoch, Epoch(77));
}

#[test]
fn a_first_connect_starts_at_the_present() {
    let mut pair = Pair::online();
    assert_eq!(pair.session.positions().group, Some(Seq(1000)));
    assert_eq!(pair.sent(), "", "nothing to pull");

    // The shard may not know where the present is; a caught-up or the first notice tells.
    let mut pair = Pair::new(Positions::default());
    pair.dial();
    let welcome = Welcome { epoch: Epoch(1), heartbeat_s: 60, group: None };
    pair.hears(&[Downlink::Welcome(welcome)]).unwrap();
    assert!(pair.session.is_online() && !pair.session.is_ready());
    let mut other = Pair { session: pair.session.clone(), ..Pair::new(Positions::default()) };
    pair.hears(&[Downlink::CaughtUp { stream: Stream::Group, upto: Seq(7), more: false }]).unwrap();
    assert_eq!(pair.session.positions().group, Some(Seq(7)));
    assert!(pair.heard().ends_with("Ready"));

    other.hears(&[Downlink::Notice { stream: Stream::Group, latest: Seq(7) }]).unwrap();
    assert_eq!(other.sent(), "Pull Group 6", "the entry that was noticed is not missed");
    assert!(other.session.is_ready());
}

#[test]
fn acknowledges_what_it_reports() {
    let mut pair = Pair::online();
    pair.hears(&[push(1), push(2), push(3)]).unwrap();
    assert_eq!(pair.heard(), "Inbox 1 Device | Inbox 2 Device | Inbox 3 Device");
    assert_eq!(pair.sent(), "Ack 3", "one for all that came together");

    let group = [
        Downlink::Broadcast { seq: Seq(1001), payload: b"x" },
        Downlink::TopicPush { seq: Seq(1005), tag: 9, payload: b"y" },
    ];
    pair.hears(&group).unwrap();
    assert_eq!(pair.heard(), "Group 1001 App | Group 1005 Topic { tag: 9 }");
    assert_eq!(pair.sent(), "GroupAck 1001 | GroupAck 1005", "these are counted, so each");
    assert_eq!(pair.session.positions().group, Some(Seq(1005)));
}

#[test]
fn reports_nothing_twice() {
    let mut pair = Pair::online();
    pair.hears(&[push(1), push(2), push(2), push(1)]).unwrap();
    assert_eq!(pair.heard(), "Inbox 1 Device | Inbox 2 Device | Repeat Inbox 2 | Repeat Inbox 1");
    assert_eq!(pair.sent(), "Ack 2");
    pair.hears(&[push(1)]).unwrap();
    assert_eq!(pair.sent(), "Ack 2", "acknowledged again, never less");
    let entry = Downlink::Broadcast { seq: Seq(1001), payload: b"x" };
    pair.hears(&[entry.clone(), entry]).unwrap();
    assert_eq!(pair.heard(), "Repeat Inbox 1 | Group 1001 App | Repeat Group 1001");
    assert_eq!(pair.sent(), "GroupAck 1001 | GroupAck 1001");
}

#[test]
fn pulls_on_notice_once_until_answered() {
    let mut pair = Pair::online();
    let notice = |latest| Downlink::Notice { stream: Stream::Inbox, latest: Seq(latest) };
    let caught_up =
        |upto, more| Downlink::CaughtUp { stream: Stream::Inbox, upto: Seq(upto), more };
    pair.hears(&[notice(4), notice(5)]).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 0");
    pair.hears(&[push(2), caught_up(3, true)]).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 3 | Ack 2", "entry 1 and 3 were for nobody");
    pair.hears(&[push(5), caught_up(5, false)]).unwrap();
    assert_eq!(pair.sent(), "Ack 5");
    pair.hears(&[notice(6)]).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 5", "a later notice is heard");
    // The streams are apart.
    pair.hears(&[Downlink::Notice { stream: Stream::Group, latest: Seq(1001) }]).unwrap();
    assert_eq!(pair.sent(), "Pull Group 1000");
}

/// The answer to a pull may be lost with its connection; the next one hears notices again.
#[test]
fn a_pull_ends_with_its_connection() {
    let mut pair = Pair::online();
    let notices = [
        Downlink::Notice { stream: Stream::Inbox, latest: Seq(4) },
        Downlink::Notice { stream: Stream::Group, latest: Seq(1004) },
    ];
    pair.hears(&notices).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 0 | Pull Group 1000");
    pair.session.on_disconnected(Backoff::default(), pair.now_ms);
    pair.dial();
    pair.hears(&[WELCOME]).unwrap();
    assert_eq!(pair.sent(), "Connect 0x4d 0 Some(1000)");
    pair.hears(&notices).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 0 | Pull Group 1000");
}

#[test]
fn keeps_the_heartbeat() {
    let mut pair = Pair::online();
    let due = u64::from(HEARTBEAT_S) * 1000;
    assert_eq!(pair.session.deadline_ms(), due);
    assert_eq!(pair.at(due - 1), Command::Wait);
    assert_eq!(pair.sent(), "", "not early");
    assert_eq!(pair.at(due), Command::Wait);
    assert_eq!(pair.sent(), "Ping");
    assert_eq!(pair.session.deadline_ms(), due + 20_000);
    pair.now_ms += 1_000;
    pair.hears(&[Downlink::Pong]).unwrap();
    assert_eq!(pair.heard(), "Pong");
    assert_eq!(pair.session.deadline_ms(), due + 1_000 + due);

    // Any frame proves the path as well as a pong.
    assert_eq!(pair.at(pair.session.deadline_ms()), Command::Wait);
    pair.hears(&[push(1)]).unwrap();
    assert_eq!(pair.session.deadline_ms(), pair.now_ms + due);

    // Nothing at all: hang up.
    pair.at(pair.session.deadline_ms());
    assert_eq!(pair.at(pair.session.deadline_ms()), Command::HangUp);
    assert!(!pair.session.is_online());
}

#[test]
fn a_wake_up_pings_without_giving_more_time() {
    let mut pair = Pair::online();
    let mut out = Vec::new();
    pair.session.ping(5_000, &mut out);
    assert_eq!(pair.session.deadline_ms(), 25_000);
    pair.session.ping(24_000, &mut out);
    assert_eq!(pair.session.deadline_ms(), 25_000);
    assert_eq!(out, [1, 0, 1, 0]);
}

#[test]
fn follows_the_interval() {
    let mut pair = Pair::online();
    pair.now_ms = 10_000;
    pair.hears(&[Downlink::Interval { heartbeat_s: 300 }]).unwrap();
    assert_eq!((pair.session.heartbeat_s(), pair.session.deadline_ms()), (300, 310_000));
    pair.hears(&[Downlink::Interval { heartbeat_s: 60 }]).unwrap();
    assert_eq!(pair.session.deadline_ms(), 70_000, "a shorter one does not wait for the longer");
}

#[test]
fn goes_back_on_reset() {
    let mut pair = Pair::online();
    pair.hears(&[push(1), push(2), Downlink::Notice { stream: Stream::Inbox, latest: Seq(3) }])
        .unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 2 | Ack 2");
    pair.heard();
    pair.hears(&[Downlink::Reset { stream: Stream::Inbox, seq: Seq(0) }, push(1)]).unwrap();
    assert_eq!(pair.heard(), "Reset Inbox 0 | Inbox 1 Device", "numbers start over");
    assert_eq!(pair.sent(), "Ack 1");
    // The pull it answered is over.
    pair.hears(&[Downlink::Notice { stream: Stream::Inbox, latest: Seq(3) }]).unwrap();
    assert_eq!(pair.sent(), "Pull Inbox 1");
    pair.hears(&[Downlink::Reset { stream: Stream::Group, seq: Seq(10) }]).unwrap();
    assert_eq!(pair.session.positions().group, Some(Seq(10)));
    // What was received before the reset in the same segment is not acknowledged after it.
    pair.hears(&[push(2), push(3), Downlink::Reset { stream: Stream::Inbox, seq: Seq(1) }])
        .unwrap();
    assert_eq!(pair.sent(), "");
}

/// Every reason: either the session comes back after the delay the server gave, or it stops for
/// good; both while greeting and while online.
#[test]
fn every_close_reason() {
    for &reason in CloseReason::ALL {
        for greeted in [false, true] {
            let mut pair = Pair::new(Positions::default());
            pair.dial();
            if greeted {
                pair.hears(&[WELCOME]).unwrap();
            }
            pair.sent();
            pair.heard();
            let close = Close { reason, retry_after_ms: 30_000, addresses: vec!["b.example:7400"] };
            assert_eq!(pair.hears(&[Downlink::Close(close)]), Ok(Command::HangUp), "{reason:?}");
            let closing = format!("Closing {} 30000 [\"b.example:7400\"]", reason.label());
            assert_eq!(pair.heard(), closing);
            assert!(!pair.session.is_online());
            pair.session.on_disconnected(Backoff::default(), 1_000);
            if reason.may_retry() {
                let wait_ms = pair.session.deadline_ms() - 1_000;
                assert!((30_000..=37_500).contains(&wait_ms), "{reason:?}: {wait_ms}");
                assert_eq!(pair.session.stopped(), None);
                pair.dial();
                assert!(pair.sent().starts_with("Connect"));
            } else {
                assert_eq!(pair.session.stopped(), Some(reason));
                assert_eq!(pair.session.deadline_ms(), u64::MAX);
                assert_eq!(pair.at(u64::MAX), Command::HangUp, "{reason:?}");
                pair.connect();
                assert_eq!(pair.sent(), "", "it does not introduce itself again");
            }
        }
    }
}

/// A server of another major version refuses, and the device stops rather than try for ever.
#[test]
fn another_major_version_is_refused() {
    let mut server = Server { major: MAJOR + 1, ..Server::default() };
    let mut pair = Pair::new(Positions::default());
    pair.dial();
    let mut reply = Vec::new();
    server.on_bytes(&std::mem::take(&mut pair.out), &mut reply);
    assert_eq!(pair.hears_bytes(&reply), Ok(Command::HangUp));
    assert_eq!(pair.session.stopped(), Some(CloseReason::Version));
}

#[test]
fn backs_off_without_being_told() {
    let backoff = Backoff { first_ms: 3_000, max_ms: 300_000 };
    let mut pair = Pair::new(Positions::default());
    let mut ceiling_ms = 3_000.0;
    for attempt in 0..20 {
        let now_ms = pair.session.deadline_ms();
        assert_eq!(pair.at(now_ms), Command::Dial);
        pair.session.on_disconnected(backoff, now_ms);
        let wait_ms = (pair.session.deadline_ms() - now_ms) as f64;
        assert!(wait_ms <= ceiling_ms + 1.0, "attempt {attempt}: {wait_ms} of {ceiling_ms}");
        assert!(wait_ms >= ceiling_ms / 2.0 - 2.0, "attempt {attempt}: {wait_ms} of {ceiling_ms}");
        // Told twice, it waits once.
        let deadline_ms = pair.session.deadline_ms();
        pair.session.on_disconnected(backoff, now_ms + 1_000_000);
        assert_eq!(pair.session.deadline_ms(), deadline_ms);
        ceiling_ms = (ceiling_ms * 1.8).min(300_000.0);
    }
    // A welcome makes the next delay short again.
    pair.dial();
    pair.hears(&[WELCOME]).unwrap();
    let now_ms = pair.now_ms;
    pair.session.on_disconnected(backoff, now_ms);
    assert!(pair.session.deadline_ms() - now_ms <= 3_000);
}

/// Devices that lose their connection together do not come back together.
#[test]
fn jitter_differs_between_devices() {
    let mut waits: Vec<u64> = (0..1_000)
        .map(|seed| {
            let mut session = Session::new(Positions::default(), seed, 0);
            session.on_time(0, &mut Vec::new());
            session.on_disconnected(Backoff { first_ms: 100_000, max_ms: 100_000 }, 0);
            session.deadline_ms()
        })
        .collect();
    waits.sort_unstable();
    let (first, last) = (waits[0], waits[999]);
    assert!(first >= 50_000 && last <= 100_000);
    assert!(last - first > 45_000, "they use the whole half: {first} to {last}");
    waits.dedup();
    assert!(waits.len() > 900, "{}", waits.len());
}

#[test]
fn an_unanswered_dial_or_greeting_ends() {
    let mut pair = Pair::new(Positions::default());
    assert_eq!(pair.at(0), Command::Dial);
    assert_eq!(pair.at(19_999), Command::Wait);
    assert_eq!(pair.at(20_000), Command::HangUp);
    pair.session.on_disconnected(Backoff::default(), 20_000);
    pair.dial();
    let deadline_ms = pair.session.deadline_ms();
    assert_eq!(pair.at(deadline_ms), Command::HangUp);
}

/// A server that speaks out of turn is left, and a session that was told to close hears no more.
#[test]
fn the_server_must_speak_in_turn() {
    let early = [push(1), Downlink::Pong, Downlink::Interval { heartbeat_s: 60 }];
    for frame in early {
        let mut pair = Pair::new(Positions::default());
        pair.dial();
        assert_eq!(pair.hears(&[frame]), Ok(Command::HangUp));
        assert_eq!(pair.heard(), "");
    }
    let mut pair = Pair::online();
    assert_eq!(pair.hears(&[WELCOME]), Ok(Command::HangUp), "a second welcome");
    let mut pair = Pair::online();
    let close = Downlink::Close(Close::new(CloseReason::Drain, 0));
    assert_eq!(pair.hears(&[close, push(1)]), Ok(Command::HangUp));
    assert_eq!(pair.heard(), "Closing drain 0 []");
}

#[test]
fn unreadable_frames_end_the_connection() {
    for (bytes, error) in [
        (&[0x21, 0x01, 0x00][..], DecodeError::BadValue),
        (&[0x02, 0x01, 0x00], DecodeError::TrailingBytes),
        (&[0x21, 0xff, 0xff, 0x7f], DecodeError::FrameTooLarge),
        (&[0x21, 0x80, 0x00], DecodeError::BadVarint),
    ] {
        let mut pair = Pair::online();
        assert_eq!(pair.hears_bytes(bytes), Err(error));
        assert!(!pair.session.is_online());
        pair.session.on_disconnected(Backoff::default(), 0);
        assert_eq!(pair.session.stopped(), None, "it comes back");
    }
    // A push that came whole before them was reported, so it is acknowledged.
    let mut pair = Pair::online();
    assert_eq!(
        pair.hears_bytes(&[0x21, 0x01, 0x01, 0x02, 0x01, 0x00]),
        Err(DecodeError::TrailingBytes)
    );
    assert_eq!((pair.heard().as_str(), pair.sent().as_str()), ("Inbox 1 Device", "Ack 1"));
}

#[test]
fn frames_of_a_newer_minor_version_are_skipped() {
    let mut pair = Pair::online();
    let mut bytes = Vec::new();
    put_header(&mut bytes, 0x3f, 4);
    bytes.extend([1, 2, 3, 4]);
    push(1).encode(&mut bytes);
    assert_eq!(pair.hears_bytes(&bytes), Ok(Command::Wait));
    assert_eq!(pair.heard(), "Inbox 1 Device");
}

#[test]
fn leaves_for_good() {
    let mut pair = Pair::online();
    pair.session.leave(&mut pair.out);
    assert_eq!(pair.sent(), "Bye");
    assert_eq!(pair.session.stopped(), Some(CloseReason::Bye));
    pair.session.on_disconnected(Backoff::default(), 0);
    assert_eq!(pair.session.deadline_ms(), u64::MAX);
    // It may leave while the caller dials.
    let mut pair = Pair::new(Positions::default());
    pair.at(0);
    pair.session.leave(&mut pair.out);
    pair.connect();
    assert_eq!(pair.sent(), "");
}

#[test]
fn joins_and_leaves_topics() {
    let mut pair = Pair::online();
    pair.session.subscribe(TopicId(5), &mut pair.out);
    pair.session.unsubscribe(TopicId(6), &mut pair.out);
    assert_eq!(pair.sent(), "Subscribe 5 | Unsubscribe 6");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is stored while the device is there, slow, or away: its application hears all of
    /// it, once, in order, after connections that break at any byte.
    #[test]
    fn everything_arrives_once_in_order(
        steps in proptest::collection::vec((0u8..10, any::<u16>()), 1..60),
    ) {
        let mut server = Server::default();
        let mut pair = Pair::new(Positions { group: Some(Seq::ZERO), ..Positions::default() });
        let mut to_device: Vec<u8> = Vec::new();
        for (step, argument) in steps {
            match step {
                0..=2 => server.store(Stream::Inbox, &mut to_device),
                3..=4 => server.store(Stream::Group, &mut to_device),
                5 => {
                    // The connection breaks with bytes under way in both directions.
                    to_device.clear();
                    pair.out.clear();
                    server.on_disconnected();
                    pair.session.on_disconnected(Backoff::default(), pair.now_ms);
                }
                6 if !server.connected => {
                    pair.dial();
                    server.connected = true;
                }
                7 => {
                    let sent = std::mem::take(&mut pair.out);
                    server.on_bytes(&sent, &mut to_device);
                }
                _ => {
                    // Some of what is under way arrives.
                    let count = usize::from(argument).min(to_device.len());
                    let bytes: Vec<u8> = to_device.drain(..count).collect();
                    pair.hears_bytes(&bytes).expect("the server's frames are good");
                }
            }
        }
        if !server.connected {
            pair.dial();
            server.connected = true;
        }
        // Let everything that is under way arrive. Each turn ends a pull, and a pull has a bound.
        for _ in 0..200 {
            let sent = std::mem::take(&mut pair.out);
            server.on_bytes(&sent, &mut to_device);
            let bytes = std::mem::take(&mut to_device);
            pair.hears_bytes(&bytes).expect("the server's frames are good");
            if pair.out.is_empty() {
                break;
            }
        }
        prop_assert!(pair.out.is_empty(), "the exchange ends");
        let messages = |stream: Stream| -> Vec<u64> {
            pair.messages.iter().filter(|(of, _)| *of == stream).map(|(_, seq)| seq.0).collect()
        };
        let inbox: Vec<u64> = (1..=server.inbox).collect();
        let group: Vec<u64> = (1..=server.group).collect();
        prop_assert_eq!(messages(Stream::Inbox), inbox);
        prop_assert_eq!(messages(Stream::Group), group);
        prop_assert_eq!(server.acked, server.inbox, "and the server knows");
    }
}

/// A server with one device: dense streams of one-byte messages, and no more protocol than that.
/// It pulls the inbox itself after a connect, as a broker does.
struct Server {
    major: u8,
    connected: bool,
    welcomed: bool,
    inbox: u64,
    group: u64,
    /// What the device was sent or has said it has.
    inbox_sent: u64,
    group_sent: u64,
    acked: u64,
    framed: Vec<u8>,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            major: MAJOR,
            connected: false,
            welcomed: false,
            inbox: 0,
            group: 0,
            inbox_sent: 0,
            group_sent: 0,
            acked: 0,
            framed: Vec::new(),
        }
    }
}

/// Entries in one answer, small so that `more` happens.
const ANSWER_ENTRIES: u64 = 3;

impl Server {
    /// Sends the body of every other entry at once if it is the next one, and a notice otherwise.
    fn store(&mut self, stream: Stream, out: &mut Vec<u8>) {
        let (last, sent) = match stream {
            Stream::Inbox => (&mut self.inbox, &mut self.inbox_sent),
            Stream::Group => (&mut self.group, &mut self.group_sent),
        };
        *last += 1;
        if !self.welcomed {
            return;
        }
        if *sent + 1 == *last && last.is_multiple_of(2) {
            *sent = *last;
            message(stream, *last).encode(out);
        } else {
            Downlink::Notice { stream, latest: Seq(*last) }.encode(out);
        }
    }

    fn on_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.framed.extend_from_slice(bytes);
        let framed = std::mem::take(&mut self.framed);
        let mut rest = framed.as_slice();
        while let Some((frame, after)) = split(rest, UPLINK_BODY_BYTES_MAX).expect("good frames") {
            self.on_frame(Uplink::decode(frame).expect("good").expect("known"), out);
            rest = after;
        }
        self.framed = rest.to_vec();
    }

    fn on_frame(&mut self, frame: Uplink<'_>, out: &mut Vec<u8>) {
        match frame {
            Uplink::Connect(Connect { major, .. }) if major != self.major => {
                Downlink::Close(Close::new(CloseReason::Version, 0)).encode(out);
            }
            Uplink::Connect(connect) => {
                self.welcomed = true;
                let group = Some(Seq(self.group));
                let welcome = Welcome { epoch: Epoch(1), heartbeat_s: HEARTBEAT_S, group };
                Downlink::Welcome(welcome).encode(out);
                self.acked = self.acked.max(connect.inbox.0);
                self.group_sent = connect.group.map_or(self.group, |group| group.0);
                self.answer(Stream::Inbox, connect.inbox.0, out);
            }
            Uplink::Pull { stream, from } => self.answer(stream, from.0, out),
            Uplink::Ack { seq } => self.acked = self.acked.max(seq.0),
            Uplink::Ping => Downlink::Pong.encode(out),
            Uplink::GroupAck { .. }
            | Uplink::Subscribe { .. }
            | Uplink::Unsubscribe { .. }
            | Uplink::Bye => {}
        }
    }

    fn answer(&mut self, stream: Stream, from: u64, out: &mut Vec<u8>) {
        let (last, sent) = match stream {
            Stream::Inbox => (self.inbox, &mut self.inbox_sent),
            Stream::Group => (self.group, &mut self.group_sent),
        };
        let upto = last.min(from + ANSWER_ENTRIES);
        for seq in from + 1..=upto {
            message(stream, seq).encode(out);
        }
        *sent = upto;
        if upto > from || stream == Stream::Group {
            // A pull of the inbox that finds nothing may be the server's own, which nobody awaits.
            Downlink::CaughtUp { stream, upto: Seq(upto), more: upto < last }.encode(out);
        }
    }

    fn on_disconnected(&mut self) {
        self.connected = false;
        self.welcomed = false;
        self.framed.clear();
    }
}

fn message(stream: Stream, seq: u64) -> Downlink<'static> {
    let (seq, payload) = (Seq(seq), &b"m"[..]);
    match stream {
        Stream::Inbox => Downlink::Push { seq, payload },
        Stream::Group => Downlink::Broadcast { seq, payload },
    }
}

fn push(seq: u64) -> Downlink<'static> {
    message(Stream::Inbox, seq)
}

/// A session, the bytes it wrote, and what its application heard.
struct Pair {
    session: Session,
    framer: Framer,
    topics: Vec<TopicId>,
    now_ms: u64,
    out: Vec<u8>,
    heard: Vec<String>,
    messages: Vec<(Stream, Seq)>,
}

impl Pair {
    fn new(positions: Positions) -> Pair {
        Pair {
            session: Session::new(positions, 1, 0),
            framer: Framer::default(),
            topics: Vec::new(),
            now_ms: 0,
            out: Vec::new(),
            heard: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// A session that was welcomed at time zero, with nothing said since.
    fn online() -> Pair {
        let mut pair = Pair::new(Positions::default());
        pair.dial();
        pair.hears(&[WELCOME]).unwrap();
        pair.sent();
        pair.heard();
        pair
    }

    /// Waits for the session to dial, and connects it.
    fn dial(&mut self) {
        self.now_ms = self.now_ms.max(self.session.deadline_ms());
        assert_eq!(self.session.on_time(self.now_ms, &mut self.out), Command::Dial);
        self.connect();
    }

    fn connect(&mut self) {
        self.framer = Framer::default();
        let profile = Profile {
            ticket: b"ticket",
            topics: &self.topics,
            heartbeat_s: 0,
            network: 0,
            backoff: Backoff::default(),
        };
        self.session.on_connected(&profile, self.now_ms, &mut self.out);
    }

    fn at(&mut self, now_ms: u64) -> Command {
        self.now_ms = now_ms;
        self.session.on_time(now_ms, &mut self.out)
    }

    fn hears(&mut self, frames: &[Downlink<'_>]) -> Result<Command, DecodeError> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        self.hears_bytes(&bytes)
    }

    fn hears_bytes(&mut self, bytes: &[u8]) -> Result<Command, DecodeError> {
        let (heard, messages) = (&mut self.heard, &mut self.messages);
        self.session.on_bytes(&mut self.framer, bytes, self.now_ms, &mut self.out, |event| {
            if let Event::Message { stream, seq, .. } = event {
                messages.push((stream, seq));
            }
            heard.push(said(&event));
        })
    }

    /// What the device wrote since it was last asked.
    fn sent(&mut self) -> String {
        let out = std::mem::take(&mut self.out);
        let mut all = Vec::new();
        let mut rest = out.as_slice();
        while let Some((frame, after)) = split(rest, UPLINK_BODY_BYTES_MAX).unwrap() {
            all.push(match Uplink::decode(frame).unwrap().unwrap() {
                Uplink::Connect(connect) => {
                    let group = connect.group.map(|seq| seq.0);
                    format!("Connect 0x{:x} {} {group:?}", connect.last_epoch.0, connect.inbox.0)
                }
                Uplink::Subscribe { topic } => format!("Subscribe {}", topic.0),
                Uplink::Unsubscribe { topic } => format!("Unsubscribe {}", topic.0),
                Uplink::Ack { seq } => format!("Ack {}", seq.0),
                Uplink::GroupAck { seq } => format!("GroupAck {}", seq.0),
                Uplink::Pull { stream, from } => format!("Pull {stream:?} {}", from.0),
                Uplink::Ping => "Ping".to_owned(),
                Uplink::Bye => "Bye".to_owned(),
            });
            rest = after;
        }
        assert!(rest.is_empty(), "whole frames only");
        all.join(" | ")
    }

    /// What the application heard since it was last asked.
    fn heard(&mut self) -> String {
        std::mem::take(&mut self.heard).join(" | ")
    }
}

fn said(event: &Event<'_>) -> String {
    match event {
        Event::Welcomed { epoch } => format!("Welcomed {}", epoch.0),
        Event::Ready => "Ready".to_owned(),
        Event::Message { stream, seq, source: Source::Topic { tag }, .. } => {
            format!("{stream:?} {} Topic {{ tag: {tag} }}", seq.0)
        }
        Event::Message { stream, seq, source, .. } => format!("{stream:?} {} {source:?}", seq.0),
        Event::Repeat { stream, seq } => format!("Repeat {stream:?} {}", seq.0),
        Event::Pong => "Pong".to_owned(),
        Event::CaughtUp { stream } => format!("CaughtUp {stream:?}"),
        Event::Reset { stream, seq } => format!("Reset {stream:?} {}", seq.0),
        Event::Closing(close) => {
            format!(
                "Closing {} {} {:?}",
                close.reason.label(),
                close.retry_after_ms,
                close.addresses
            )
        }
    }
}
