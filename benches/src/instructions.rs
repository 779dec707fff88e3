//! Instructions of the broker's decisions, counted by callgrind: a number that a noisy machine does
//! not move.
//!
//! ```text
//!   this program ──▶ valgrind --tool=callgrind ──▶ this program, `counted push 2000`   a
//!                                                  this program, `counted push 4000`   b
//!   instructions of one push = (b - a) / 2000
//! ```
//!
//! The difference leaves out the start, the set-up and the teardown, which are the same in both. The
//! processor that valgrind shows is the same on every x86-64 machine with AVX2, so the counts are
//! too, apart from the hash seeds of a few tables.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use ed25519_dalek::{Signer, SigningKey};
use hawser_broker::core::event::{Action, Actions, Event, LinkIndex, Now};
use hawser_broker::core::{Core, CoreConfig, Gauges};
use hawser_codec::device::{Connect, MAJOR, MINOR, Uplink};
use hawser_codec::error::DecodeError;
use hawser_codec::frame::Framer;
use hawser_codec::ids::{AppId, Epoch, HashKey, Seq, SessionRef, TopicId};
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, UPLINK_BODY_BYTES_MAX};
use hawser_codec::link::{AppKeys, Entry, EntryFlags, Keys, ToBroker, VerifyKey, to_broker};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::results::Output;

const METHOD: &str = "\
How it is counted:
  Each step runs twice under callgrind, with different numbers of repetitions; the difference is
  divided by the difference of the repetitions. Counted is what the broker does in user space beside
  its ring: bytes are cut into frames, decoded, decided upon by the shard's core, and the answer is
  encoded. The kernel's work, which is nearly all of a message's cost, is not in it.

  connect_ed25519   a connection accepted, its connect decoded, the ticket verified, the welcome
  connect_hmac      the same with an HMAC ticket
  heartbeat         a ping and its pong
  push              a message of 64 bytes from a link to its device
  acknowledgement   the device's answer to it
  group_member      one member's share of a message of 64 bytes to a topic";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// The binary of valgrind
    #[arg(long, value_name = "FILE", default_value = "valgrind")]
    valgrind: String,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Step {
    ConnectEd25519,
    ConnectHmac,
    Heartbeat,
    Push,
    Acknowledgement,
    GroupMember,
}

#[derive(clap::Args)]
pub struct Counted {
    step: Step,
    times: u32,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let mut counts = Map::new();
    for &step in Step::value_variants() {
        // A signature is verified in 200,000 instructions; the rest takes hundreds.
        let times = if step == Step::ConnectEd25519 { 100 } else { 2_000 };
        let few = collected(arguments, step, times)?;
        let many = collected(arguments, step, 2 * times)?;
        ensure!(many > few, "{step:?}: {few} instructions for {times}, {many} for twice as many");
        let name = step.to_possible_value().expect("no step is hidden").get_name().to_owned();
        let each = ((many - few) as f64 / f64::from(times)).round() as u64;
        if !output.json {
            println!("{each:>10}  {name}");
        }
        counts.insert(name, Value::from(each));
    }
    output.row("instructions", "core and codec", None, Value::Object(counts))
}

/// Instructions of a whole run of this program.
fn collected(arguments: &Arguments, step: Step, times: u32) -> anyhow::Result<u64> {
    let name = step.to_possible_value().expect("no step is hidden");
    let done = Command::new(&arguments.valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["counted", name.get_name(), &times.to_string()])
        .output()
        .with_context(|| {
            format!("cannot run {}; install valgrind or give --valgrind", arguments.valgrind)
        })?;
    let words = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{} ended with {}:\n{words}", arguments.valgrind, done.status);
    let count =
        words.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.with_context(|| format!("callgrind did not say how many instructions:\n{words}"))
}

pub fn counted(counted: &Counted) -> anyhow::Result<()> {
    let Counted { step, times } = *counted;
    let mut stage = Stage::new(times);
    match step {
        Step::ConnectEd25519 | Step::ConnectHmac => {
            let algorithm = match step {
                Step::ConnectEd25519 => Algorithm::Ed25519,
                _ => Algorithm::HmacSha256,
            };
            // The same number of tickets whatever is counted: their making is no part of it.
            let frames: Vec<Vec<u8>> = (0..MADE).map(|slot| connect(slot, algorithm)).collect();
            ensure!(times <= MADE, "at most {MADE} connects");
            (0..times).for_each(|slot| stage.connect(slot, &frames[slot as usize]));
            stage.expect_sessions(times)
        }
        Step::Heartbeat => {
            stage.open_sessions();
            (0..times).for_each(|i| stage.uplink(i % SESSIONS, &Uplink::Ping));
            stage.expect_sends(times)
        }
        Step::Push => {
            stage.open_sessions();
            (0..times).for_each(|i| stage.push(i));
            stage.expect_sends(times)
        }
        Step::Acknowledgement => {
            stage.open_sessions();
            (0..MADE).for_each(|i| stage.push(i));
            let seq = |i: u32| Seq(u64::from(i / SESSIONS) + 1);
            (0..times).for_each(|i| stage.uplink(i % SESSIONS, &Uplink::Ack { seq: seq(i) }));
            stage.expect_sends(MADE)
        }
        Step::GroupMember => {
            stage.open_sessions();
            let messages = times / SESSIONS;
            (0..messages).for_each(|i| stage.group(u64::from(i) + 1));
            stage.expect_sends(messages * SESSIONS)
        }
    }
}

const SESSIONS: u32 = 500;
/// A busy shard takes many inputs in a turn, and pays for the turn once.
const INPUTS_PER_TURN: u32 = 50;
/// What is prepared, which must not depend on how much of it is used.
const MADE: u32 = 4_000;

const APP: AppId = AppId(1);
const APP_NAME: &str = "counted";
const HASH_KEY: HashKey = HashKey([1; 16]);
const HMAC_KEY: [u8; 32] = [2; 32];
const ED25519_SEED: [u8; 32] = [3; 32];
const TOPIC: TopicId = TopicId(77);
const UNIX_MS: u64 = 1_800_000_000_000;
const NOW: Now = Now { mono_ms: 1_000_000, unix_ms: UNIX_MS };
const PAYLOAD: [u8; 64] = [0x70; 64];

/// A shard's core, and the bytes that would come from its ring.
struct Stage {
    core: Core,
    actions: Actions,
    link: Framer,
    devices: Vec<Framer>,
    bytes: Vec<u8>,
    /// Inputs since the last turn ended.
    inputs: u32,
    sends: u32,
}

impl Stage {
    fn new(connections: u32) -> Stage {
        let slots = connections.max(SESSIONS).max(MADE);
        let config =
            CoreConfig { slots_max: slots, connections_max: slots, ..CoreConfig::default() };
        let mut stage = Stage {
            core: Core::new(config),
            actions: Actions::default(),
            link: Framer::default(),
            devices: (0..slots).map(|_| Framer::default()).collect(),
            bytes: Vec::new(),
            inputs: 0,
            sends: 0,
        };
        let signing = SigningKey::from_bytes(&ED25519_SEED);
        let public = signing.verifying_key().to_bytes();
        let keys = vec![
            VerifyKey { id: 1, algorithm: Algorithm::HmacSha256, key: HMAC_KEY },
            VerifyKey { id: 2, algorithm: Algorithm::Ed25519, key: public },
        ];
        let apps = vec![AppKeys { app: APP, name: APP_NAME, keys }];
        stage.core.on_event(Event::LinkUp { link: LinkIndex(0) }, NOW, &mut stage.actions);
        stage.hear_link(|out| {
            to_broker::keys(out, &Keys { version: 1, hash_key: HASH_KEY, apps });
        });
        // The walk that a new link begins finds nobody.
        stage.end_turn();
        stage
    }

    /// The same sessions whatever is counted: caught up, and in the topic.
    fn open_sessions(&mut self) {
        for slot in 0..SESSIONS {
            self.connect(slot, &connect(slot, Algorithm::HmacSha256));
            self.uplink(slot, &Uplink::Subscribe { topic: TOPIC });
            self.hear_link(|out| to_broker::entries(out, session(slot), Seq::ZERO, false, &[]));
        }
        self.hear_link(|out| to_broker::group_cursor(out, APP, Seq::ZERO));
        self.end_turn();
        self.sends = 0;
    }

    fn connect(&mut self, slot: u32, frame: &[u8]) {
        self.core.on_event(Event::Accepted { slot }, NOW, &mut self.actions);
        self.hear_device(slot, frame);
    }

    fn uplink(&mut self, slot: u32, frame: &Uplink<'_>) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        frame.encode(&mut bytes);
        self.hear_device(slot, &bytes);
        self.bytes = bytes;
    }

    fn push(&mut self, number: u32) {
        let (slot, seq) = (number % SESSIONS, Seq(u64::from(number / SESSIONS) + 1));
        self.hear_link(|out| {
            to_broker::deliver(out, session(slot), seq, EntryFlags::NONE, &PAYLOAD);
        });
    }

    fn group(&mut self, seq: u64) {
        let entry =
            Entry { seq: Seq(seq), topic: TOPIC, flags: EntryFlags::NONE, payload: &PAYLOAD };
        self.hear_link(|out| to_broker::group_deliver(out, APP, &entry));
        self.end_turn();
    }

    fn hear_device(&mut self, slot: u32, bytes: &[u8]) {
        let Stage { core, actions, devices, .. } = self;
        let result = devices[slot as usize].feed(bytes, UPLINK_BODY_BYTES_MAX, |frame| {
            if let Some(frame) = Uplink::decode(frame)? {
                core.on_event(Event::Frame { slot, frame }, NOW, actions);
            }
            Ok::<(), DecodeError>(())
        });
        result.expect("it was encoded here");
        self.end_of_input();
    }

    fn hear_link(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        encode(&mut bytes);
        let Stage { core, actions, link, .. } = self;
        let result = link.feed(&bytes, LINK_BODY_BYTES_MAX, |frame| {
            if let Some(frame) = ToBroker::decode(frame)? {
                core.on_event(Event::Link { link: LinkIndex(0), frame }, NOW, actions);
            }
            Ok::<(), DecodeError>(())
        });
        result.expect("it was encoded here");
        self.bytes = bytes;
        self.end_of_input();
    }

    fn end_of_input(&mut self) {
        self.inputs += 1;
        if self.inputs == INPUTS_PER_TURN {
            self.end_turn();
        }
    }

    fn end_turn(&mut self) {
        self.inputs = 0;
        self.core.on_turn(NOW, Gauges::default(), &mut self.actions);
        let is_send = |action: &&Action| matches!(action, Action::Send { .. });
        self.sends += self.actions.list.iter().filter(is_send).count() as u32;
        self.actions.clear();
    }

    /// A count of something that did not happen is worth nothing.
    fn expect_sends(&mut self, count: u32) -> anyhow::Result<()> {
        self.end_turn();
        if self.sends != count {
            bail!("{} frames were sent to devices, not {count}", self.sends);
        }
        Ok(())
    }

    fn expect_sessions(&self, count: u32) -> anyhow::Result<()> {
        let online = (0..count).filter(|&slot| self.core.is_online(slot)).count();
        ensure!(online == count as usize, "{online} of {count} connects were accepted");
        Ok(())
    }
}

fn session(slot: u32) -> SessionRef {
    SessionRef { slot, generation: 1 }
}

fn connect(slot: u32, algorithm: Algorithm) -> Vec<u8> {
    let id = if algorithm == Algorithm::HmacSha256 { 1 } else { 2 };
    let expires_s = UNIX_MS / 1000 + 3_600;
    let mut ticket =
        Ticket::unsigned(algorithm, id, expires_s, APP_NAME, &format!("device-{slot}"));
    match algorithm {
        Algorithm::HmacSha256 => {
            let mut mac = Hmac::<Sha256>::new_from_slice(&HMAC_KEY).expect("any length will do");
            mac.update(SIGNATURE_CONTEXT);
            mac.update(&ticket);
            ticket.extend(mac.finalize().into_bytes());
        }
        Algorithm::Ed25519 => {
            let message = [SIGNATURE_CONTEXT, ticket.as_slice()].concat();
            ticket.extend(SigningKey::from_bytes(&ED25519_SEED).sign(&message).to_bytes());
        }
    }
    let connect = Connect {
        major: MAJOR,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: Some(Seq::ZERO),
        ticket: &ticket,
    };
    let mut bytes = Vec::new();
    Uplink::Connect(connect).encode(&mut bytes);
    bytes
}
