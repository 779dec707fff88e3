//! Random worlds: real device sessions, links that come and go, control nodes on one store, and
//! in the middle the core under test. The judge knows only what the applications got.
//!
//! ```text
//!  Device (codec's Session) ⇄ Wire: bytes in order, cut anywhere, full, closed ⇄ Core
//!  Core ⇄ Line: frames in order, lost when the link goes down ⇄ Node ⇄ Store
//! ```
//!
//! While it runs, after each step: the core's invariants hold; nothing but a pong or a close is
//! written to a full socket; only an older session is taken over. In the end, when all is up and
//! everybody reads: each application got each of its inbox entries and each group entry after its
//! start once and in order, and the store knows that it has them. A node trims what is
//! acknowledged, so that an acknowledgement of what nobody read loses it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hawser_broker::core::event::{Action, Actions, Event, LinkIndex, Now};
use hawser_broker::core::{Core, CoreConfig, Gauges};
use hawser_codec::device::{Downlink, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{DeviceId, Epoch, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, UPLINK_BODY_BYTES_MAX};
use hawser_codec::link::{Entry, EntryFlags, ToBroker, ToControl, to_broker};
use hawser_codec::session::{Backoff, Command, Event as Told, Positions, Profile, Session, Source};
use hawser_codec::ticket::Algorithm;

use crate::stage::{EXPIRES_S, HASH_KEY, SHOP, START_UNIX_MS, frames, keys, ticket};

const DEVICES: usize = 6;
const SLOTS: u32 = 16;
const LINKS: usize = 2;
const TOPICS: u64 = 3;
/// Unread bytes above which a socket is full.
const SOCKET_BYTES: usize = 60;

#[test]
fn applications_get_everything_once_and_in_order() {
    for seed in 0..200 {
        World::new(seed, config()).run();
    }
}

pub fn config() -> CoreConfig {
    CoreConfig {
        slots_max: SLOTS,
        connections_max: 12,
        links: LINKS as u8,
        fanout_budget: 3,
        announce_budget: 4,
        accept_delay_above: 8,
        accept_delay_ms_per_100k: 1_000_000,
        ..CoreConfig::default()
    }
}

pub struct World {
    seed: u64,
    random: u64,
    now: Now,
    core: Core,
    out: Actions,
    devices: Vec<Device>,
    wires: BTreeMap<u32, Wire>,
    /// Slots whose connection is closed but which the shell has not let go of.
    lingering: Vec<u32>,
    lines: Vec<Line>,
    store: Store,
    /// The sessions in the slots, as announced: their devices and epochs.
    sessions: BTreeMap<u32, (DeviceId, Epoch)>,
    /// The newest session that each device has had.
    newest: BTreeMap<DeviceId, Epoch>,
}

struct Device {
    id: DeviceId,
    ticket: Vec<u8>,
    topics: Vec<TopicId>,
    session: Session,
    framer: Framer,
    slot: Option<u32>,
    inbox: Vec<u64>,
    group: Vec<u64>,
    /// Where in the group log the device began.
    group_start: Option<u64>,
}

/// One connection.
struct Wire {
    device: Option<usize>,
    /// Written by the broker, not yet read by the device.
    down: VecDeque<u8>,
    up: Vec<u8>,
    framer: Framer,
    blocked: bool,
    reading: bool,
}

/// One link and the node at its end.
#[derive(Default)]
struct Line {
    up: bool,
    to_node: VecDeque<Vec<u8>>,
    to_broker: VecDeque<Vec<u8>>,
    routes: BTreeMap<DeviceId, (SessionRef, Epoch)>,
}

#[derive(Default)]
struct Store {
    inboxes: BTreeMap<DeviceId, Inbox>,
    log: Vec<Stored>,
}

#[derive(Default)]
struct Inbox {
    entries: Vec<Stored>,
    acked: u64,
}

#[derive(Clone, Debug)]
struct Stored {
    topic: TopicId,
    flags: EntryFlags,
    payload: Vec<u8>,
}

impl Stored {
    fn entry(&self, index: usize) -> Entry<'_> {
        let flags = self.flags;
        Entry { seq: Seq(index as u64 + 1), topic: self.topic, flags, payload: &self.payload }
    }
}

impl World {
    pub fn new(seed: u64, config: CoreConfig) -> World {
        let mut core = Core::new(config);
        let mut saved = Vec::new();
        keys(1).encode(&mut saved);
        core.restore_keys(&saved).unwrap();
        let now = Now { mono_ms: 0, unix_ms: START_UNIX_MS };
        let devices = (0..DEVICES)
            .map(|index| {
                let name = format!("device-{index}");
                Device {
                    id: DeviceId::new(&HASH_KEY, "shop", &name),
                    ticket: ticket("shop", &name, Algorithm::HmacSha256, EXPIRES_S),
                    topics: (1..=TOPICS)
                        .filter(|t| index as u64 >> (t - 1) & 1 == 1)
                        .map(TopicId)
                        .collect(),
                    session: Session::new(Positions::default(), index as u32, 0),
                    framer: Framer::default(),
                    slot: None,
                    inbox: Vec::new(),
                    group: Vec::new(),
                    group_start: None,
                }
            })
            .collect();
        World {
            seed,
            random: seed,
            now,
            core,
            out: Actions::default(),
            devices,
            wires: BTreeMap::new(),
            lingering: Vec::new(),
            lines: (0..LINKS).map(|_| Line::default()).collect(),
            store: Store::default(),
            sessions: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Panics when the world goes wrong. The seed replays it.
    pub fn run(mut self) {
        let seed = self.seed;
        let replay = Replay { seed };
        for _ in 0..600 {
            self.step();
        }
        self.settle();
        self.judge();
        std::mem::forget(replay);
    }

    fn step(&mut self) {
        match self.below(100) {
            0..=9 => self.publish(),
            10..=16 => self.publish_group(),
            17..=21 => self.toggle_link(),
            22..=24 => self.pass_time(),
            25..=44 => _ = self.node_reads(),
            45..=64 => _ = self.core_hears_node(),
            65..=79 => _ = self.device_reads(),
            80..=89 => _ = self.core_hears_device(),
            90..=92 => self.wake_device(),
            93..=94 => self.break_wire(),
            95 => self.vanish(),
            _ => _ = self.let_go(),
        }
        self.turn();
    }

    /// Everything comes up, everybody reads, until nothing moves any more.
    fn settle(&mut self) {
        for link in 0..LINKS {
            if !self.lines[link].up {
                self.link_up(link);
            }
        }
        self.turn();
        for round in 0.. {
            assert!(round < 300, "the world does not come to rest");
            let before = self.draws_of_progress();
            self.quiet();
            // A heartbeat releases what waits for the device to be awake; time ends what is dead.
            self.advance(if round % 8 == 7 { 60_000 } else { 2_000 });
            for index in 0..DEVICES {
                self.on_device_time(index);
                if self.devices[index].session.is_online() {
                    let mut bytes = Vec::new();
                    self.devices[index].session.ping(self.now.mono_ms, &mut bytes);
                    self.device_writes(index, &bytes);
                }
            }
            self.quiet();
            let all_online = self.devices.iter().all(|device| device.session.is_online());
            if round > 20 && all_online && before == self.draws_of_progress() {
                break;
            }
        }
    }

    /// Moves everything that is on its way.
    fn quiet(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            while self.node_reads() {
                moved = true;
            }
            while self.core_hears_node() {
                moved = true;
            }
            while self.core_hears_device() {
                moved = true;
            }
            while self.device_reads() {
                moved = true;
            }
            while self.let_go() {
                moved = true;
            }
            self.turn();
            let busy = self.core.deadline_ms().is_some_and(|at_ms| at_ms <= self.now.mono_ms);
            if !moved && !busy {
                return;
            }
        }
        panic!("the world does not become quiet");
    }

    fn draws_of_progress(&self) -> (usize, u64) {
        let got = self.devices.iter().map(|device| device.inbox.len() + device.group.len()).sum();
        (got, self.store.inboxes.values().map(|inbox| inbox.acked).sum())
    }

    fn judge(&self) {
        for (index, device) in self.devices.iter().enumerate() {
            let inbox = self.store.inboxes.get(&device.id);
            let stored = inbox.map_or(0, |inbox| inbox.entries.len() as u64);
            assert_eq!(device.inbox, (1..=stored).collect::<Vec<_>>(), "inbox of {index}");
            assert_eq!(inbox.map_or(0, |inbox| inbox.acked), stored, "accounted for {index}");
            let start = device.group_start.expect("it was ready once");
            let concerns = |stored: &Stored| {
                stored.topic == TopicId::ALL || device.topics.contains(&stored.topic)
            };
            let group: Vec<u64> = (1..)
                .zip(&self.store.log)
                .filter(|&(seq, stored)| seq > start && concerns(stored))
                .map(|(seq, _)| seq)
                .collect();
            assert_eq!(device.group, group, "group log of {index}, which began at {start}");
        }
    }

    // ---- the store and its nodes ----

    fn publish(&mut self) {
        let index = self.below(DEVICES as u64) as usize;
        let device = self.devices[index].id;
        let stored = self.message(TopicId::ALL, device.0);
        let inbox = self.store.inboxes.entry(device).or_default();
        inbox.entries.push(stored.clone());
        let entry = stored.entry(inbox.entries.len() - 1);
        // One node took it; a node that crashes between storing and delivering tells nobody.
        let line = self.below(LINKS as u64) as usize;
        if self.below(20) > 0 {
            self.lines[line].deliver(device, &entry);
        } else {
            self.lose_link(line);
        }
    }

    fn publish_group(&mut self) {
        let topic = TopicId(self.below(TOPICS + 1));
        let stored = self.message(topic, u128::from(topic.tag()));
        self.store.log.push(stored.clone());
        let entry = stored.entry(self.store.log.len() - 1);
        let line = self.below(LINKS as u64) as usize;
        if self.below(20) > 0 {
            // A node tells the shards that have sessions of the app.
            let (flags, payload) = body(&stored);
            self.lines[line].deliver_group(&Entry { flags, payload, ..entry });
        } else {
            self.lose_link(line);
        }
    }

    /// The payload says to whom it goes, and has any size.
    fn message(&mut self, topic: TopicId, to: u128) -> Stored {
        let flags = match self.below(4) {
            0 => EntryFlags::WHEN_AWAKE,
            _ => EntryFlags::NONE,
        };
        let bytes = if self.below(10) == 0 { 5000 } else { 16 + self.below(30) as usize };
        let mut payload = to.to_le_bytes().to_vec();
        payload.resize(bytes, b'x');
        Stored { topic, flags, payload }
    }

    /// A node takes one frame in.
    fn node_reads(&mut self) -> bool {
        let line = self.below(LINKS as u64) as usize;
        let line = if self.lines[line].to_node.is_empty() { 1 - line } else { line };
        let Some(bytes) = self.lines[line].to_node.pop_front() else { return false };
        let frame = ToControl::decode(frames(&bytes)[0]).unwrap().unwrap();
        self.lines[line].on_frame(frame, &mut self.store);
        true
    }

    fn core_hears_node(&mut self) -> bool {
        let line = self.below(LINKS as u64) as usize;
        let line = if self.lines[line].to_broker.is_empty() { 1 - line } else { line };
        let Some(bytes) = self.lines[line].to_broker.pop_front() else { return false };
        let frame = ToBroker::decode(frames(&bytes)[0]).unwrap().unwrap();
        self.event(Event::Link { link: LinkIndex(line as u8), frame });
        if self.below(2) == 0 {
            self.turn();
        }
        true
    }

    fn toggle_link(&mut self) {
        let line = self.below(LINKS as u64) as usize;
        if self.lines[line].up { self.lose_link(line) } else { self.link_up(line) }
    }

    fn link_up(&mut self, line: usize) {
        self.lines[line] = Line { up: true, ..Line::default() };
        self.event(Event::LinkUp { link: LinkIndex(line as u8) });
    }

    fn lose_link(&mut self, line: usize) {
        if std::mem::take(&mut self.lines[line]).up {
            self.event(Event::LinkDown { link: LinkIndex(line as u8) });
        }
    }

    // ---- devices and their connections ----

    fn wake_device(&mut self) {
        let index = self.below(DEVICES as u64) as usize;
        self.on_device_time(index);
        if self.devices[index].session.is_online() {
            let mut bytes = Vec::new();
            self.devices[index].session.ping(self.now.mono_ms, &mut bytes);
            self.device_writes(index, &bytes);
        }
    }

    fn on_device_time(&mut self, index: usize) {
        let mut bytes = Vec::new();
        let command = self.devices[index].session.on_time(self.now.mono_ms, &mut bytes);
        self.device_writes(index, &bytes);
        match command {
            Command::Wait => {}
            Command::Dial => self.dial(index),
            Command::HangUp => self.hang_up(index, CloseReason::Bye),
        }
    }

    fn dial(&mut self, index: usize) {
        let free = (0..SLOTS)
            .find(|slot| !self.wires.contains_key(slot) && !self.lingering.contains(slot));
        let Some(slot) = free else {
            return self.devices[index].session.on_disconnected(BACKOFF, self.now.mono_ms);
        };
        let wire = Wire {
            device: Some(index),
            down: VecDeque::new(),
            up: Vec::new(),
            framer: Framer::default(),
            blocked: false,
            reading: false,
        };
        self.wires.insert(slot, wire);
        let device = &mut self.devices[index];
        device.slot = Some(slot);
        device.framer = Framer::default();
        let profile = Profile {
            ticket: &device.ticket,
            topics: &device.topics,
            heartbeat_s: 0,
            network: 0,
            backoff: BACKOFF,
        };
        let mut bytes = Vec::new();
        device.session.on_connected(&profile, self.now.mono_ms, &mut bytes);
        self.device_writes(index, &bytes);
        self.event(Event::Accepted { slot });
    }

    fn device_writes(&mut self, index: usize, bytes: &[u8]) {
        if let Some(slot) = self.devices[index].slot {
            self.wires.get_mut(&slot).expect("it is connected").up.extend_from_slice(bytes);
        }
    }

    /// The device ends its connection.
    fn hang_up(&mut self, index: usize, reason: CloseReason) {
        self.devices[index].session.on_disconnected(BACKOFF, self.now.mono_ms);
        if let Some(slot) = self.devices[index].slot.take() {
            self.wires.get_mut(&slot).expect("it was connected").device = None;
            self.event(Event::Hangup { slot, reason });
        }
    }

    fn break_wire(&mut self) {
        let index = self.below(DEVICES as u64) as usize;
        if self.devices[index].slot.is_some() {
            self.hang_up(index, CloseReason::Reset);
        }
    }

    /// The device's network is gone: the broker hears nothing, not even an end.
    fn vanish(&mut self) {
        let index = self.below(DEVICES as u64) as usize;
        if let Some(slot) = self.devices[index].slot.take() {
            self.wires.get_mut(&slot).expect("it was connected").device = None;
            self.devices[index].session.on_disconnected(BACKOFF, self.now.mono_ms);
        }
    }

    /// The core reads some bytes of a device.
    fn core_hears_device(&mut self) -> bool {
        let readable: Vec<u32> = self
            .wires
            .iter()
            .filter(|(_, w)| w.reading && !w.up.is_empty())
            .map(|(&s, _)| s)
            .collect();
        let Some(slot) = self.pick(&readable) else { return false };
        let count = 1 + self.below(80) as usize;
        let wire = self.wires.get_mut(&slot).unwrap();
        let bytes: Vec<u8> = wire.up.drain(..count.min(wire.up.len())).collect();
        let mut framer = std::mem::take(&mut wire.framer);
        framer
            .feed::<DecodeError>(&bytes, UPLINK_BODY_BYTES_MAX, |frame| {
                let frame = Uplink::decode(frame)?.unwrap();
                self.event(Event::Frame { slot, frame });
                Ok(())
            })
            .unwrap();
        if let Some(wire) = self.wires.get_mut(&slot) {
            wire.framer = framer;
        }
        true
    }

    /// A device reads some bytes of the broker.
    fn device_reads(&mut self) -> bool {
        let readable: Vec<u32> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.device.is_some() && !wire.down.is_empty())
            .map(|(&slot, _)| slot)
            .collect();
        let Some(slot) = self.pick(&readable) else { return false };
        let count = 1 + self.below(100) as usize;
        let wire = self.wires.get_mut(&slot).unwrap();
        let index = wire.device.unwrap();
        let bytes: Vec<u8> = wire.down.drain(..count.min(wire.down.len())).collect();
        if wire.blocked && wire.down.len() < SOCKET_BYTES {
            wire.blocked = false;
            self.event(Event::Drained { slot });
        }
        for byte in bytes {
            if self.device_reads_byte(index, byte) == Command::HangUp {
                self.hang_up(index, CloseReason::Bye);
                break;
            }
        }
        true
    }

    /// Byte by byte, so that it is known after which frame a device was ready.
    fn device_reads_byte(&mut self, index: usize, byte: u8) -> Command {
        let device = &mut self.devices[index];
        let mut answer = Vec::new();
        let (inbox, group) = (&mut device.inbox, &mut device.group);
        let mut is_ready = false;
        let now_ms = self.now.mono_ms;
        let told = |event: Told<'_>| match event {
            Told::Message { stream, seq, source, payload } => {
                let to = match source {
                    Source::Device => device.id.0,
                    Source::App => u128::from(TopicId::ALL.tag()),
                    Source::Topic { tag } => u128::from(tag),
                };
                assert_eq!(payload[..16], to.to_le_bytes(), "it was meant for somebody else");
                if stream == Stream::Inbox { inbox.push(seq.0) } else { group.push(seq.0) }
            }
            Told::Ready => is_ready = true,
            Told::Reset { .. } => panic!("the store never goes back"),
            _ => {}
        };
        let framer = &mut device.framer;
        let command = device.session.on_bytes(framer, &[byte], now_ms, &mut answer, told).unwrap();
        assert!(device.inbox.is_sorted_by(|a, b| a < b), "fifo-per-device");
        assert!(device.group.is_sorted_by(|a, b| a < b), "fifo-per-device");
        if is_ready && device.group_start.is_none() {
            let position = device.session.positions().group.expect("it is ready");
            device.group_start = Some(device.group.first().map_or(position.0, |first| first - 1));
        }
        self.device_writes(index, &answer);
        command
    }

    /// The shell has ended everything of a closed connection.
    fn let_go(&mut self) -> bool {
        let lingering = self.lingering.clone();
        let Some(slot) = self.pick(&lingering) else { return false };
        self.lingering.retain(|&other| other != slot);
        self.event(Event::Closed { slot });
        true
    }

    // ---- the core ----

    fn pass_time(&mut self) {
        let ms = match self.below(4) {
            0 => {
                // What a device wrote does not take a minute.
                while self.core_hears_device() {
                    self.turn();
                }
                self.below(60_000)
            }
            _ => self.below(3_000),
        };
        self.advance(ms);
        for index in 0..DEVICES {
            self.on_device_time(index);
        }
    }

    /// Lets time pass, with a turn at each deadline.
    fn advance(&mut self, ms: u64) {
        let end_ms = self.now.mono_ms + ms;
        while let Some(at_ms) = self.core.deadline_ms().filter(|&at_ms| at_ms <= end_ms) {
            self.set_time(at_ms.max(self.now.mono_ms));
            self.turn();
        }
        self.set_time(end_ms);
        self.turn();
    }

    fn set_time(&mut self, mono_ms: u64) {
        self.now = Now { mono_ms, unix_ms: START_UNIX_MS + mono_ms };
    }

    fn event(&mut self, event: Event<'_>) {
        self.core.on_event(event, self.now, &mut self.out);
    }

    fn turn(&mut self) {
        self.core.on_turn(self.now, Gauges::default(), &mut self.out);
        self.core.invariants();
        let out = std::mem::take(&mut self.out);
        for action in &out.list {
            self.apply(action, &out);
        }
        // What did not fit blocks its connection, before the next turn.
        let full: Vec<u32> = self
            .wires
            .iter()
            .filter(|(_, wire)| !wire.blocked && wire.down.len() > SOCKET_BYTES)
            .map(|(&slot, _)| slot)
            .collect();
        for slot in full {
            self.wires.get_mut(&slot).unwrap().blocked = true;
            self.event(Event::Blocked { slot });
        }
    }

    fn apply(&mut self, action: &Action, out: &Actions) {
        match action {
            Action::StartReading { slot } => self.wires.get_mut(slot).unwrap().reading = true,
            Action::Send { slot, frame } => self.send(*slot, out.frame(frame)),
            Action::Close { slot, reason } => self.close(*slot, *reason),
            Action::SendLink { link, frame } => {
                let line = &mut self.lines[link.0 as usize];
                for frame in cut(out.frame(frame)) {
                    if let ToControl::Announce(list) =
                        ToControl::decode(frames(frame)[0]).unwrap().unwrap()
                    {
                        for announced in list.iter() {
                            let session = (announced.device, announced.epoch);
                            self.sessions.insert(announced.session.slot, session);
                            let newest = self.newest.entry(announced.device).or_default();
                            *newest = announced.epoch.max(*newest);
                        }
                    }
                    if line.up {
                        line.to_node.push_back(frame.to_vec());
                    }
                }
            }
            Action::SaveKeys { .. } | Action::StopAccepting | Action::Drained => {}
        }
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) {
        let wire = self.wires.get_mut(&slot).expect("a frame for a connection that exists");
        for frame in frames(bytes) {
            let frame = Downlink::decode(frame).unwrap().unwrap();
            let is_small = matches!(frame, Downlink::Pong | Downlink::Close(_));
            assert!(!wire.blocked || is_small, "{frame:?} for a socket that is full");
        }
        wire.down.extend(bytes);
    }

    fn close(&mut self, slot: u32, reason: CloseReason) {
        if reason == CloseReason::TakenOver {
            let (device, epoch) = self.sessions[&slot];
            assert!(self.newest[&device] > epoch, "one-home");
        }
        let wire = self.wires.remove(&slot).expect("a close of a connection that exists");
        self.lingering.push(slot);
        // The device is at its end; whether it read the last words is not the core's affair. A
        // retry is always possible here: the kicked session was one that its device had left.
        if let Some(index) = wire.device {
            self.devices[index].slot = None;
            self.devices[index].session.on_disconnected(BACKOFF, self.now.mono_ms);
        }
    }

    // ---- chance ----

    /// SplitMix64.
    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }

    fn pick(&mut self, slots: &[u32]) -> Option<u32> {
        (!slots.is_empty()).then(|| slots[self.below(slots.len() as u64) as usize])
    }
}

const BACKOFF: Backoff = Backoff { first_ms: 500, max_ms: 2_000 };

/// Says which seed went wrong.
struct Replay {
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!("the world of seed {} went wrong", self.seed);
    }
}

impl Line {
    fn on_frame(&mut self, frame: ToControl<'_>, store: &mut Store) {
        match frame {
            ToControl::Announce(list) => {
                let was_empty = self.routes.is_empty();
                list.iter().for_each(|announced| {
                    store.ack(announced.device, announced.acked);
                    let inbox = store.inboxes.entry(announced.device).or_default();
                    let (session, epoch) = (announced.session, announced.epoch);
                    let mut bytes = Vec::new();
                    match self.routes.get(&announced.device) {
                        Some(&(_, its)) if its > epoch => {
                            to_broker::kick(&mut bytes, session, its);
                        }
                        Some(&(loser, its)) if its < epoch => {
                            to_broker::kick(&mut bytes, loser, epoch);
                            self.routes.insert(announced.device, (session, epoch));
                        }
                        _ => drop(self.routes.insert(announced.device, (session, epoch))),
                    }
                    if !bytes.is_empty() {
                        self.to_broker.push_back(bytes);
                    }
                    // What another node's pull may have read too early to contain.
                    let last = inbox.entries.len();
                    if last as u64 > announced.acked.0 {
                        let entry =
                            Entry { payload: &[], ..inbox.entries[last - 1].entry(last - 1) };
                        let flags = entry.flags.with(EntryFlags::NO_BODY);
                        self.deliver(announced.device, &Entry { flags, ..entry });
                    }
                });
                if was_empty {
                    let mut bytes = Vec::new();
                    to_broker::group_cursor(&mut bytes, SHOP, Seq(store.log.len() as u64));
                    self.to_broker.push_back(bytes);
                }
            }
            ToControl::Gone(list) => list.iter().for_each(|gone| {
                if self.routes.get(&gone.device).is_some_and(|route| route.0 == gone.session) {
                    self.routes.remove(&gone.device);
                }
            }),
            ToControl::Ack(list) => {
                list.iter().for_each(|acked| store.ack(acked.device, acked.seq))
            }
            ToControl::Pull(list) => list.iter().for_each(|pulled| {
                store.ack(pulled.device, pulled.from);
                let inbox = store.inboxes.entry(pulled.device).or_default();
                // Trimmed entries are gone.
                let first = (pulled.from.0.max(inbox.acked)) as usize;
                let entries = inbox.entries.iter().enumerate().skip(first);
                self.answer(entries, inbox.entries.len(), pulled.session, to_broker::entries);
            }),
            ToControl::GroupPull { session, from, topics, .. } => {
                let topics: BTreeSet<u64> = topics.iter().map(|topic| topic.0).chain([0]).collect();
                let entries = store.log.iter().enumerate().skip(from.0 as usize);
                let mine = entries.filter(|(_, stored)| topics.contains(&stored.topic.0));
                self.answer(mine, store.log.len(), session, to_broker::group_entries);
            }
            ToControl::GroupFetch { app, from } => {
                let entries: Vec<Entry<'_>> = store
                    .log
                    .iter()
                    .enumerate()
                    .skip(from.0 as usize)
                    .take(3)
                    .map(|(index, stored)| {
                        let (flags, payload) = body(stored);
                        Entry { flags, payload, ..stored.entry(index) }
                    })
                    .collect();
                let upto = entries.last().map_or(from, |entry| entry.seq);
                let more = upto.0 < store.log.len() as u64;
                let mut bytes = Vec::new();
                to_broker::group_fetched(&mut bytes, app, upto, more, &entries);
                self.to_broker.push_back(bytes);
            }
            ToControl::GroupAck(_) | ToControl::GroupSent { .. } | ToControl::Pong { .. } => {}
            ToControl::Hello(_) | ToControl::Proof { .. } => unreachable!("the shell's"),
        }
    }

    /// At most three entries an answer.
    fn answer<'a>(
        &mut self,
        entries: impl Iterator<Item = (usize, &'a Stored)>,
        end: usize,
        session: SessionRef,
        encode: fn(&mut Vec<u8>, SessionRef, Seq, bool, &[Entry<'_>]),
    ) {
        let entries: Vec<Entry<'_>> =
            entries.take(4).map(|(at, stored)| stored.entry(at)).collect();
        let more = entries.len() == 4;
        let entries = &entries[..entries.len().min(3)];
        let upto = if more { entries[2].seq } else { Seq(end as u64) };
        let mut bytes = Vec::new();
        encode(&mut bytes, session, upto, more, entries);
        assert!(bytes.len() <= LINK_BODY_BYTES_MAX);
        self.to_broker.push_back(bytes);
    }

    /// Right after it was stored, if the device has a route here.
    fn deliver(&mut self, device: DeviceId, entry: &Entry<'_>) {
        if let (true, Some(&(session, _))) = (self.up, self.routes.get(&device)) {
            let mut bytes = Vec::new();
            to_broker::deliver(&mut bytes, session, entry.seq, entry.flags, entry.payload);
            self.to_broker.push_back(bytes);
        }
    }
}

impl Line {
    fn deliver_group(&mut self, entry: &Entry<'_>) {
        if self.up && !self.routes.is_empty() {
            let mut bytes = Vec::new();
            to_broker::group_deliver(&mut bytes, SHOP, entry);
            self.to_broker.push_back(bytes);
        }
    }
}

impl Store {
    fn ack(&mut self, device: DeviceId, seq: Seq) {
        let inbox = self.inboxes.entry(device).or_default();
        assert!(seq.0 <= inbox.entries.len() as u64, "nobody has what was not written");
        inbox.acked = inbox.acked.max(seq.0);
    }
}

/// What travels with a group entry: nothing, if it is large.
fn body(stored: &Stored) -> (EntryFlags, &[u8]) {
    match stored.payload.len() {
        0..=4096 => (stored.flags, &stored.payload),
        _ => (stored.flags.with(EntryFlags::NO_BODY), &[]),
    }
}

/// A range of bytes, frame by frame.
fn cut(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (_, rest) = hawser_codec::frame::split(bytes, LINK_BODY_BYTES_MAX).unwrap().unwrap();
        all.push(&bytes[..bytes.len() - rest.len()]);
        bytes = rest;
    }
    all
}
