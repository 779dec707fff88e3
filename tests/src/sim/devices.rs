//! Applications on devices: the real session of `codec`, its connection, and what it was told.
//!
//! An [`Application`] is one installation of an app: it keeps its positions while it reconnects,
//! moves to another network or is closed and opened again. A device name usually has one; a second
//! one with positions of its own takes the name over, as when a user restores a backup.

use std::collections::BTreeMap;

use hawser_codec::device::Downlink;
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{DeviceId, Epoch, Seq, Stream, TopicId};
use hawser_codec::limits::DOWNLINK_BODY_BYTES_MAX;
use hawser_codec::session::{Backoff, Command, Event, Positions, Profile, Session, Source};

use super::brokers::Brokers;
use hawser_control::node::event::Wake;

use super::ledger::{Ledger, message_number};
use super::network::{Far, Wire};
use super::random::Random;
use super::trace::Trace;

const BACKOFF: Backoff = Backoff { first_ms: 300, max_ms: 4_000 };

/// A device name of an app.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The app's place in the world.
    pub app: usize,
    pub id: DeviceId,
    pub ticket: Vec<u8>,
    /// Connections that have introduced themselves under this name.
    pub connects: u64,
    pub epoch_max: Epoch,
}

/// What an application was told, for the oracles.
#[derive(Debug, Default)]
pub struct Record {
    /// By message number.
    pub seen: BTreeMap<u32, Sighting>,
    pub last: [Seq; 2],
    /// The first time that it had a place in the group log, and that place.
    pub group_from: Option<(Seq, u64)>,
    pub resets: u64,
    pub last_event_ms: u64,
    /// When a heartbeat, or another ping, was answered last.
    pub last_pong_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Sighting {
    pub stream: Stream,
    pub seq: Seq,
    pub at_ms: u64,
    /// When the device had last been answered a ping by then.
    pub pong_ms: u64,
}

/// A topic that the application has joined.
#[derive(Clone, Copy, Debug)]
pub struct Membership {
    pub topic: usize,
    /// Since when the broker is known to know: a pong came for a ping behind the `Subscribe`.
    pub since_ms: Option<u64>,
    /// The number of that ping on this connection.
    ping: u64,
    /// Whether this connection was told of it.
    told: bool,
}

impl Membership {
    fn new(topic: usize) -> Membership {
        Membership { topic, since_ms: None, ping: u64::MAX, told: false }
    }
}

pub struct Application {
    pub label: usize,
    pub identity: usize,
    pub session: Session,
    pub record: Record,
    pub memberships: Vec<Membership>,
    /// Every topic it was ever in.
    pub topics_ever: Vec<usize>,
    framer: Framer,
    wiretap: Wiretap,
    pub wire: Option<Wire>,
    pings: u64,
    pongs: u64,
    /// The device has no network before this time.
    pub unreachable_until_ms: u64,
    greeted: bool,
    reads_from_ms: u64,
}

/// What the applications act upon, besides themselves.
pub struct Surroundings<'a> {
    pub brokers: &'a mut Brokers,
    pub identities: &'a mut [Identity],
    pub ledger: &'a mut Ledger,
    pub topics: &'a [TopicId],
    pub leaving: &'a mut Vec<Wire>,
    pub random: &'a mut Random,
    pub trace: &'a mut Trace,
}

impl Application {
    pub fn new(label: usize, identity: usize, topics: &[usize], now_ms: u64) -> Application {
        Application {
            label,
            identity,
            session: Session::new(Positions::default(), label as u32, now_ms),
            record: Record::default(),
            memberships: topics.iter().map(|&topic| Membership::new(topic)).collect(),
            topics_ever: topics.to_vec(),
            framer: Framer::default(),
            wiretap: Wiretap::default(),
            wire: None,
            pings: 0,
            pongs: 0,
            unreachable_until_ms: 0,
            greeted: false,
            reads_from_ms: 0,
        }
    }

    /// When something must be done for it.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let deadline = Some(self.session.deadline_ms()).filter(|&at| at != u64::MAX);
        let wire = self.wire.as_ref().and_then(|wire| wire.next_ms(now_ms));
        [deadline, wire].into_iter().flatten().min()
    }

    /// Takes what has arrived, then acts on the time.
    pub fn step(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        let mut arrived = Vec::new();
        let far = self.wire.as_mut().map(|wire| wire.take(now_ms, &mut arrived));
        if !arrived.is_empty() {
            self.on_bytes(&arrived, around);
        }
        if self.wire.is_some() && far != Some(Far::Open) {
            around.trace.note(format_args!("app {} lost its connection: {far:?}", self.label));
            self.wire = None;
            self.session.on_disconnected(BACKOFF, now_ms);
        }
        let mut out = Vec::new();
        if self.session.is_online() && self.session.deadline_ms() <= now_ms {
            // The session will ping, unless it does already.
            self.pings += 1;
        }
        let command = self.session.on_time(now_ms, &mut out);
        self.send(out, around);
        self.obey(command, around);
    }

    fn obey(&mut self, command: Command, around: &mut Surroundings<'_>) {
        match command {
            Command::Wait => {}
            Command::Dial => self.dial(around),
            Command::HangUp => self.hang_up(around),
        }
    }

    fn dial(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        let reachable = self.unreachable_until_ms <= now_ms;
        let wire = if reachable { around.brokers.connect(around.random) } else { None };
        let Some(wire) = wire else {
            around.trace.note(format_args!("app {} reaches nobody", self.label));
            self.session.on_disconnected(BACKOFF, now_ms);
            return;
        };
        around.trace.note(format_args!("app {} dials shard {}", self.label, wire.shard));
        let identity = &mut around.identities[self.identity];
        identity.connects += 1;
        self.memberships.iter_mut().for_each(|member| member.told = true);
        let topics: Vec<TopicId> =
            self.memberships.iter().map(|member| around.topics[member.topic]).collect();
        let profile = Profile {
            ticket: &identity.ticket,
            topics: &topics,
            heartbeat_s: 0,
            network: wire.shard as u32 + 1,
            backoff: BACKOFF,
        };
        let mut out = Vec::new();
        self.framer = Framer::default();
        self.wiretap = Wiretap::default();
        let wire = self.wire.insert(wire);
        wire.stop_reading(self.reads_from_ms);
        (self.pings, self.pongs, self.greeted) = (0, 0, false);
        self.session.on_connected(&profile, now_ms, &mut out);
        self.send(out, around);
    }

    fn on_bytes(&mut self, bytes: &[u8], around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        let mut out = Vec::new();
        self.wiretap.listen(bytes, around.ledger);
        let mut hearing = Hearing {
            label: self.label,
            epoch: self.session.positions().epoch,
            record: &mut self.record,
            topics_ever: &self.topics_ever,
            identity: &mut around.identities[self.identity],
            ledger: around.ledger,
            topics: around.topics,
            trace: around.trace,
            pongs: &mut self.pongs,
        };
        let session = &mut self.session;
        let on_event = |event: Event<'_>| hearing.on_event(event);
        let result = session.on_bytes(&mut self.framer, bytes, now_ms, &mut out, on_event);
        let command = result.unwrap_or_else(|error| {
            panic!("app {}: the broker sent what is not the protocol: {error}", self.label)
        });
        if let Some(group) = self.session.positions().group
            && self.session.is_ready()
        {
            self.record.group_from.get_or_insert((group, now_ms));
        }
        self.send(out, around);
        self.confirm_memberships(around);
        self.obey(command, around);
    }

    /// A pong for a ping that stands behind a `Subscribe` shows that the broker has taken it.
    fn confirm_memberships(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        for member in &mut self.memberships {
            if member.since_ms.is_none() && self.pongs >= member.ping {
                member.since_ms = Some(now_ms);
            }
        }
        if self.session.is_online() && !self.greeted {
            self.greeted = true;
            // Topics that were joined between the dial and the welcome.
            let untold = self.memberships.iter_mut().filter(|member| !member.told);
            let mut out = Vec::new();
            for member in untold {
                member.told = true;
                self.session.subscribe(around.topics[member.topic], &mut out);
            }
            self.send(out, around);
            if self.memberships.iter().any(|member| member.since_ms.is_none()) {
                self.ping(around);
                for member in &mut self.memberships {
                    member.ping = self.pings;
                }
            }
        }
    }

    fn hang_up(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        if let Some(mut wire) = self.wire.take() {
            around.trace.note(format_args!("app {} hangs up", self.label));
            if wire.is_held(now_ms) {
                around.brokers.vanish(&wire);
            } else {
                wire.finish(now_ms, around.random);
                around.leaving.push(wire);
            }
        }
        self.session.on_disconnected(BACKOFF, now_ms);
    }

    fn send(&mut self, out: Vec<u8>, around: &mut Surroundings<'_>) {
        if let Some(wire) = &mut self.wire {
            wire.send(out, around.trace.now_ms, around.random);
        }
    }
}

/// What the workload makes applications do.
impl Application {
    /// A heartbeat out of turn, as when the user wakes the device.
    pub fn ping(&mut self, around: &mut Surroundings<'_>) {
        if self.session.is_online() {
            let mut out = Vec::new();
            self.pings += 1;
            self.session.ping(around.trace.now_ms, &mut out);
            self.send(out, around);
        }
    }

    pub fn subscribe(&mut self, topic: usize, around: &mut Surroundings<'_>) {
        if self.memberships.iter().any(|member| member.topic == topic) {
            return;
        }
        around.trace.note(format_args!("app {} joins topic {topic}", self.label));
        let mut member = Membership::new(topic);
        if self.session.is_online() {
            let mut out = Vec::new();
            self.session.subscribe(around.topics[topic], &mut out);
            self.send(out, around);
            self.ping(around);
            member.ping = self.pings;
            member.told = true;
        }
        self.memberships.push(member);
        if !self.topics_ever.contains(&topic) {
            self.topics_ever.push(topic);
        }
    }

    pub fn unsubscribe(&mut self, topic: usize, around: &mut Surroundings<'_>) {
        let Some(at) = self.memberships.iter().position(|member| member.topic == topic) else {
            return;
        };
        around.trace.note(format_args!("app {} leaves topic {topic}", self.label));
        self.memberships.remove(at);
        if self.session.is_online() {
            let mut out = Vec::new();
            self.session.unsubscribe(around.topics[topic], &mut out);
            self.send(out, around);
        }
    }

    /// The device does not read, now and after its next dial, so that the socket fills up.
    pub fn read_nothing_until(&mut self, until_ms: u64) {
        self.reads_from_ms = until_ms;
        if let Some(wire) = &mut self.wire {
            wire.stop_reading(until_ms);
        }
    }

    /// The user closes the app.
    pub fn leave(&mut self, around: &mut Surroundings<'_>) {
        around.trace.note(format_args!("app {} is closed", self.label));
        let mut out = Vec::new();
        self.session.leave(&mut out);
        self.send(out, around);
        self.hang_up(around);
    }

    /// The user opens the app again; it has kept its positions.
    pub fn open(&mut self, trace: &mut Trace) {
        if self.session.stopped().is_some() {
            trace.note(format_args!("app {} is opened", self.label));
            let seed = self.label as u32 ^ trace.now_ms as u32;
            self.session = Session::new(self.session.positions(), seed, trace.now_ms);
        }
    }

    /// The device changes its network: the old connection stays behind, half open, and the new one
    /// takes over.
    pub fn move_network(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = around.trace.now_ms;
        let Some(wire) = self.wire.take() else { return };
        around.trace.note(format_args!("app {} moves to another network", self.label));
        around.brokers.vanish(&wire);
        self.session.on_disconnected(BACKOFF, now_ms);
    }

    /// The network resets the connection.
    pub fn cut(&mut self, around: &mut Surroundings<'_>) {
        if let Some(wire) = self.wire.take() {
            around.trace.note(format_args!("app {} is cut off", self.label));
            around.brokers.reset(&wire);
            self.session.on_disconnected(BACKOFF, around.trace.now_ms);
        }
    }

    /// Whether the application wants to be connected.
    pub fn is_open(&self) -> bool {
        self.session.stopped().is_none()
    }
}

/// Looks at the frames themselves: a when-awake message must come in the answer to a pull, which
/// ends with `CaughtUp`; alone it would have woken the device.
#[derive(Default)]
struct Wiretap {
    framer: Framer,
    soft: Option<u32>,
}

impl Wiretap {
    fn listen(&mut self, bytes: &[u8], ledger: &Ledger) {
        let Wiretap { framer, soft } = self;
        let result = framer.feed(bytes, DOWNLINK_BODY_BYTES_MAX, |frame| {
            match Downlink::decode(frame)? {
                Some(Downlink::Push { payload, .. }) => {
                    let number = message_number(payload).unwrap_or_default();
                    let message = ledger.messages.get(number as usize);
                    if message.is_some_and(|message| message.wake == Wake::WhenAwake) {
                        *soft = Some(number);
                    }
                }
                Some(Downlink::CaughtUp { stream: Stream::Inbox, .. }) => *soft = None,
                other => {
                    let number = *soft;
                    assert_eq!(number, None, "a when-awake message woke the device ({other:?})");
                }
            }
            Ok::<(), DecodeError>(())
        });
        result.expect("the broker speaks the protocol");
    }
}

/// Takes down what the session reports.
struct Hearing<'a> {
    label: usize,
    /// Of the session before this one.
    epoch: Epoch,
    record: &'a mut Record,
    topics_ever: &'a [usize],
    identity: &'a mut Identity,
    ledger: &'a mut Ledger,
    topics: &'a [TopicId],
    trace: &'a mut Trace,
    pongs: &'a mut u64,
}

impl Hearing<'_> {
    fn on_event(&mut self, event: Event<'_>) {
        if !matches!(event, Event::Pong | Event::CaughtUp { .. }) {
            self.record.last_event_ms = self.trace.now_ms;
        }
        match event {
            Event::Pong => {
                *self.pongs += 1;
                self.record.last_pong_ms = self.trace.now_ms;
            }
            Event::Welcomed { epoch } => {
                self.trace.note(format_args!("app {} is welcome at {epoch:?}", self.label));
                assert!(
                    epoch > self.epoch,
                    "one-home: app {} is welcome at {epoch:?} after {:?}",
                    self.label,
                    self.epoch
                );
                self.identity.epoch_max = self.identity.epoch_max.max(epoch);
            }
            Event::Ready => self.trace.note(format_args!("app {} is ready", self.label)),
            Event::Message { stream, seq, source, payload } => {
                self.on_message(stream, seq, source, payload);
            }
            Event::Repeat { stream, seq } => {
                self.trace
                    .note(format_args!("app {} hears again {stream:?} {}", self.label, seq.0));
                self.trace.reach("device: repeat recognised");
            }
            Event::CaughtUp { stream } => {
                self.trace.note(format_args!("app {} has caught up with {stream:?}", self.label));
            }
            Event::Reset { stream, seq } => {
                self.trace.note(format_args!("app {} is reset to {seq:?}", self.label));
                self.trace.reach("device: reset");
                self.record.resets += 1;
                self.record.last[stream as usize] = seq;
            }
            Event::Closing(close) => {
                self.trace.note(format_args!("app {} is closed: {}", self.label, close.reason));
                let alone = self.identity.connects < 2;
                assert!(
                    !(alone && close.reason == CloseReason::TakenOver),
                    "one-home: app {} was taken over by nobody",
                    self.label
                );
            }
        }
    }

    fn on_message(&mut self, stream: Stream, seq: Seq, source: Source, payload: &[u8]) {
        let label = self.label;
        let number = message_number(payload)
            .unwrap_or_else(|| panic!("accounted-push: app {label} got what nobody sent"));
        self.trace.note(format_args!("app {label} hears message {number} as {stream:?} {}", seq.0));
        let last = &mut self.record.last[stream as usize];
        assert!(
            seq > *last,
            "fifo-per-device: app {label} got {seq:?} after {last:?} ({stream:?})"
        );
        *last = seq;
        let pong_ms = self.record.last_pong_ms;
        let sighting = Sighting { stream, seq, at_ms: self.trace.now_ms, pong_ms };
        if let Some(before) = self.record.seen.insert(number, sighting) {
            panic!(
                "fifo-per-device: app {label} got message {number} twice: {before:?}, {sighting:?}"
            );
        }
        let message = self.ledger.heard(number, self.identity.id, seq, payload.len());
        let member = |topic: usize| self.topics_ever.contains(&topic);
        let expected = match (source, message) {
            (Source::Device, None) => stream == Stream::Inbox,
            (Source::App, Some(None)) => stream == Stream::Group,
            (Source::Topic { tag }, Some(Some(topic))) => {
                stream == Stream::Group && self.topics[topic].tag() == tag && member(topic)
            }
            _ => false,
        };
        assert!(expected, "accounted-push: app {label} got message {number} as {source:?}");
    }
}
