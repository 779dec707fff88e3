//! One shard, some devices, one control node.
//!
//! The control node keeps each device's inbox for ever and answers pulls from it; what it delivers is
//! only the fast way. So whatever is lost on the way, each device must end up with its whole inbox,
//! each entry once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::{Signer, SigningKey};
use hawser_broker::core::CoreConfig;
use hawser_broker::core::event::Now;
use hawser_broker::io::Io as _;
use hawser_broker::io::sim::{Faults, PeerId, PeerState, SimConfig, SimIo};
use hawser_broker::shard::mailbox::{Command, Mailbox, Notice};
use hawser_broker::shard::{Shard, ShardConfig};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{AppId, DeviceId, Epoch, HashKey, Seq, SessionRef, TopicId};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{
    AppKeys, BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Entry, EntryFlags, Hello, Keys,
    ToControl, VerifyKey, to_broker,
};
use hawser_codec::session::{
    Backoff, Command as DeviceCommand, Event, Positions, Profile, Session,
};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

const UNIX_MS: u64 = 1_700_000_000_000;
const HASH_KEY: HashKey = HashKey([1; 16]);
const LINK_KEY: [u8; 32] = [2; 32];
const BACKOFF: Backoff = Backoff { first_ms: 100, max_ms: 2_000 };

/// More turns than this without time passing, and virtual time stands still.
const TURNS_MAX: u32 = 100_000;

pub struct World {
    pub shard: Shard<SimIo>,
    pub mailbox: Arc<Mailbox>,
    pub devices: Vec<Device>,
    control: Control,
    pub now_ms: u64,
}

pub struct Device {
    ticket: Vec<u8>,
    id: DeviceId,
    session: Session,
    framer: Framer,
    pub peer: Option<PeerId>,
    /// Written by the session and not yet taken by the socket.
    output: Vec<u8>,
    /// What the application was told, checked against the inbox.
    pub got: u64,
    pub left: bool,
}

#[derive(Default)]
struct Control {
    peer: Option<PeerId>,
    hello: Option<Hello>,
    input: Framer,
    output: Vec<u8>,
    /// By device: the payload sizes of the entries 1, 2, 3 ...
    inboxes: BTreeMap<DeviceId, Vec<usize>>,
    sessions: BTreeMap<DeviceId, SessionRef>,
    pub acked: BTreeMap<DeviceId, Seq>,
}

/// The payload of an entry tells whose it is and where it stands.
fn payload(device: DeviceId, seq: u64, bytes: usize) -> Vec<u8> {
    let seed = device.0 as u64 ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..bytes as u64)
        .map(|i| (seed.wrapping_add(i.wrapping_mul(0x2545_f491)) >> 13) as u8)
        .collect()
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

pub fn ticket(name: &str) -> Vec<u8> {
    let expires_s = UNIX_MS / 1000 + 1_000_000;
    let mut ticket = Ticket::unsigned(Algorithm::Ed25519, 1, expires_s, "shop", name);
    let signature = signing_key().sign(&[SIGNATURE_CONTEXT, &ticket].concat());
    ticket.extend_from_slice(&signature.to_bytes());
    ticket
}

pub fn keys() -> Vec<u8> {
    let key = signing_key().verifying_key().to_bytes();
    let key = VerifyKey { id: 1, algorithm: Algorithm::Ed25519, key };
    let apps = vec![AppKeys { app: AppId(1), name: "shop", keys: vec![key] }];
    let mut bytes = Vec::new();
    Keys { version: 1, hash_key: HASH_KEY, apps }.encode(&mut bytes);
    bytes
}

/// Small limits, so that they are met.
pub fn shard_config(slots: u32) -> ShardConfig {
    ShardConfig {
        core: CoreConfig {
            slots_max: slots,
            connections_max: slots - 2,
            handshake_timeout_ms: 2_000,
            heartbeat_min_ms: 5_000,
            heartbeat_max_ms: 20_000,
            heartbeat_margin_ms: 2_000,
            retry_after_ms: 300,
            drain_per_s: 100,
            ..CoreConfig::default()
        },
        link_key: LINK_KEY,
        control: vec!["127.0.0.1:1".parse().unwrap()],
        outbox_bytes_max: 4_000,
        partial_bytes_max: 4_000,
        link_queue_bytes_max: 1 << 20,
        link_idle_ms: 5_000,
        accepts_per_turn: 2,
        ..ShardConfig::default()
    }
}

impl World {
    pub fn new(config: ShardConfig, sim: SimConfig, devices: usize) -> World {
        assert_eq!(sim.slots, config.core.slots_max);
        let mailbox = Arc::new(Mailbox::new(None));
        let mut shard = Shard::new(config, SimIo::new(sim), mailbox.clone());
        shard.restore_keys(&keys()).expect("a good key set");
        let devices = (0..devices)
            .map(|index| {
                let name = format!("device {index}");
                Device {
                    ticket: ticket(&name),
                    id: DeviceId::new(&HASH_KEY, "shop", &name),
                    session: Session::new(Positions::default(), index as u32, 0),
                    framer: Framer::default(),
                    peer: None,
                    output: Vec::new(),
                    got: 0,
                    left: false,
                }
            })
            .collect();
        World { shard, mailbox, devices, control: Control::default(), now_ms: 0 }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.shard.io_mut().set_faults(faults);
    }

    /// Stores a message and delivers it if the device is online.
    pub fn push(&mut self, device: usize, bytes: usize) {
        let id = self.devices[device].id;
        let inbox = self.control.inboxes.entry(id).or_default();
        inbox.push(bytes);
        let seq = inbox.len() as u64;
        if let Some(&session) = self.control.sessions.get(&id) {
            let (seq, body) = (Seq(seq), payload(id, seq, bytes));
            to_broker::deliver(&mut self.control.output, session, seq, EntryFlags::NONE, &body);
        }
    }

    pub fn cut_link(&mut self) {
        if let Some(peer) = self.control.peer {
            self.shard.io_mut().reset(peer);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration_ms: u64) {
        let end_ms = self.now_ms + duration_ms;
        let mut turns = 0;
        // What was written since the last step is on its way now.
        self.step();
        loop {
            let deadlines = self.devices.iter().map(|device| device.session.deadline_ms());
            let next_ms = deadlines
                .chain(self.shard.deadline_ms())
                .chain(self.shard.io().due_ms())
                .min()
                .unwrap_or(end_ms)
                .max(self.now_ms);
            turns = if next_ms == self.now_ms { turns + 1 } else { 0 };
            assert!(turns < TURNS_MAX, "time stands still at {next_ms} ms");
            if next_ms > end_ms {
                self.now_ms = end_ms;
                return;
            }
            self.now_ms = next_ms;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = Now { mono_ms: self.now_ms, unix_ms: UNIX_MS + self.now_ms };
        self.shard.io_mut().set_now(now);
        self.shard.turn();
        self.shard.invariants();
        let io = self.shard.io_mut();
        for device in &mut self.devices {
            device.step(io, &self.control.inboxes, self.now_ms);
        }
        self.control.step(io);
    }

    /// Faults end; everybody reads again.
    pub fn heal(&mut self) {
        self.set_faults(Faults::default());
        for device in &self.devices {
            if let Some(peer) = device.peer {
                self.shard.io_mut().resume_reading(peer);
            }
        }
    }

    /// Whether the device has its whole inbox.
    pub fn has_all(&self, device: usize) -> bool {
        let device = &self.devices[device];
        device.got == self.control.inboxes.get(&device.id).map_or(0, |inbox| inbox.len() as u64)
    }

    pub fn acked(&self, device: usize) -> u64 {
        self.control.acked.get(&self.devices[device].id).map_or(0, |seq| seq.0)
    }

    /// Drains the shard; afterwards nothing of a device is anywhere.
    pub fn drain(&mut self) {
        for device in &mut self.devices {
            device.left = true;
        }
        self.mailbox.post(Command::Drain).expect("the mailbox has room");
        self.run(30_000);
        let notices: Vec<Notice> = std::iter::from_fn(|| self.mailbox.notice()).collect();
        assert!(notices.contains(&Notice::Drained), "{notices:?}");
        assert_eq!(self.shard.io().counters().slots_in_use, 0);
        assert_eq!(self.shard.core().sessions(), 0);
        let shell = self.shard.shell_counters();
        assert_eq!((shell.partials, shell.partial_bytes, shell.remainders), (0, 0, 0));
    }
}

impl Device {
    fn step(&mut self, io: &mut SimIo, inboxes: &BTreeMap<DeviceId, Vec<usize>>, now_ms: u64) {
        if let Some(peer) = self.peer {
            self.exchange(io, peer, inboxes, now_ms);
        }
        if self.session.on_time(now_ms, &mut self.output) == DeviceCommand::Dial {
            if self.left {
                self.session.on_disconnected(BACKOFF, now_ms);
                return;
            }
            let peer = io.connect();
            self.peer = Some(peer);
            self.framer = Framer::default();
            self.output.clear();
            let profile = Profile {
                ticket: &self.ticket,
                topics: &[TopicId(5), TopicId(6)],
                heartbeat_s: 0,
                network: 0,
                backoff: BACKOFF,
            };
            self.session.on_connected(&profile, now_ms, &mut self.output);
        }
        if let Some(peer) = self.peer {
            let written = io.write(peer, &self.output);
            self.output.drain(..written);
        }
    }

    fn exchange(
        &mut self,
        io: &mut SimIo,
        peer: PeerId,
        inboxes: &BTreeMap<DeviceId, Vec<usize>>,
        now_ms: u64,
    ) {
        let mut input = Vec::new();
        let state = io.read(peer, &mut input);
        let (id, got) = (self.id, &mut self.got);
        let command = self
            .session
            .on_bytes(&mut self.framer, &input, now_ms, &mut self.output, |event| {
                if let Event::Message { seq, payload: body, .. } = event {
                    assert_eq!(seq.0, *got + 1, "each entry once and in order");
                    let bytes = inboxes[&id][*got as usize];
                    assert!(body == payload(id, seq.0, bytes), "entry {seq:?} of {id} is damaged");
                    *got += 1;
                }
            })
            .expect("the broker speaks the protocol");
        if command == DeviceCommand::HangUp || matches!(state, PeerState::Closed | PeerState::Reset)
        {
            io.close(peer);
            self.peer = None;
            self.session.on_disconnected(BACKOFF, now_ms);
        }
    }
}

impl Control {
    fn step(&mut self, io: &mut SimIo) {
        for dialled in io.dialled() {
            io.admit(dialled.peer);
            let kept = (std::mem::take(&mut self.inboxes), std::mem::take(&mut self.acked));
            *self = Control { peer: Some(dialled.peer), ..Control::default() };
            (self.inboxes, self.acked) = kept;
        }
        let Some(peer) = self.peer else { return };
        let mut input = Vec::new();
        let state = io.read(peer, &mut input);
        let mut framer = std::mem::take(&mut self.input);
        framer
            .feed(&input, LINK_BODY_BYTES_MAX, |frame| {
                let frame = ToControl::decode(frame)?.expect("the broker is not newer");
                self.take(frame);
                Ok::<(), hawser_codec::error::DecodeError>(())
            })
            .expect("the broker speaks the protocol");
        self.input = framer;
        let written = io.write(peer, &self.output);
        self.output.drain(..written);
        if matches!(state, PeerState::Closed | PeerState::Reset) {
            io.close(peer);
            self.peer = None;
            self.sessions.clear();
        }
    }

    fn take(&mut self, frame: ToControl<'_>) {
        let nonce = [4; 32];
        match frame {
            ToControl::Hello(hello) => {
                let transcript = hello.transcript(1, &nonce);
                let proof = prove(CONTROL_PROOF_CONTEXT, &transcript);
                to_broker::challenge(&mut self.output, 1, &nonce, &proof);
                self.hello = Some(hello);
            }
            ToControl::Proof { proof } => {
                let transcript = self.hello.expect("hello first").transcript(1, &nonce);
                assert_eq!(proof, prove(BROKER_PROOF_CONTEXT, &transcript));
                to_broker::accepted(&mut self.output, Epoch::ZERO);
            }
            ToControl::Announce(list) => {
                for record in list.iter() {
                    self.sessions.insert(record.device, record.session);
                    self.hear_ack(record.device, record.acked);
                }
            }
            ToControl::Gone(list) => {
                for record in list.iter() {
                    if self.sessions.get(&record.device) == Some(&record.session) {
                        self.sessions.remove(&record.device);
                    }
                }
            }
            ToControl::Pull(list) => {
                for record in list.iter() {
                    self.hear_ack(record.device, Seq::ZERO);
                    self.answer(record.device, record.session, record.from);
                }
            }
            ToControl::Ack(list) => {
                for record in list.iter() {
                    self.hear_ack(record.device, record.seq);
                }
            }
            _ => {}
        }
    }

    fn hear_ack(&mut self, device: DeviceId, seq: Seq) {
        let acked = self.acked.entry(device).or_default();
        *acked = (*acked).max(seq);
    }

    fn answer(&mut self, device: DeviceId, session: SessionRef, from: Seq) {
        let empty = Vec::new();
        let inbox = self.inboxes.get(&device).unwrap_or(&empty);
        assert!(from.0 <= inbox.len() as u64, "no device is ahead of its inbox");
        let last = inbox.len().min(from.0 as usize + 8);
        let bodies: Vec<(u64, Vec<u8>)> = (from.0 as usize..last)
            .map(|index| (index as u64 + 1, payload(device, index as u64 + 1, inbox[index])))
            .collect();
        let entries: Vec<Entry<'_>> = bodies
            .iter()
            .map(|(seq, body)| Entry {
                seq: Seq(*seq),
                topic: TopicId::ALL,
                flags: EntryFlags::NONE,
                payload: body,
            })
            .collect();
        let more = last < inbox.len();
        to_broker::entries(&mut self.output, session, Seq(last as u64), more, &entries);
    }
}

fn prove(context: &[u8], transcript: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&LINK_KEY).unwrap();
    mac.update(context);
    mac.update(transcript);
    mac.finalize().into_bytes().into()
}
