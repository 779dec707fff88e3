//! Broker processes: real shards on simulated rings, which can be killed, drained and started again.
//!
//! A killed process takes its sockets with it. Its peers learn that by a reset, or, when the
//! machine went with it, not at all. What it had on disk, the key set, may survive.

use std::net::SocketAddr;
use std::sync::Arc;

use hawser_broker::core::event::Now;
use hawser_broker::io::sim::{Dialled, Faults, SimConfig, SimIo};
use hawser_broker::metrics::{Counter, Counters};
use hawser_broker::shard::mailbox::{Command, Mailbox, Notice};
use hawser_broker::shard::{Shard, ShardConfig};
use hawser_codec::error::CloseReason;

use super::network::{Delay, Wire};
use super::oracles::{self, Before};
use super::random::Random;
use super::scenario::{Scenario, UNIX_START_MS};
use super::trace::Trace;

/// Turns of one shard at one time before the world goes on without it.
const TURNS_AT_ONCE: usize = 64;

pub struct Brokers {
    pub shards: Vec<ShardProcess>,
    pub shards_per_broker: usize,
    runs: u64,
    config: ShardConfig,
    sim: SimConfig,
    delay: Delay,
}

/// One shard of a broker process. Shards of one process start and end together.
pub struct ShardProcess {
    pub broker: usize,
    pub index: u16,
    /// Never given twice.
    pub run: u64,
    pub shard: Option<Shard<SimIo>>,
    pub mailbox: Arc<Mailbox>,
    pub draining: bool,
    started_ms: u64,
    /// How far the process's wall clock is off.
    pub skew_ms: i64,
    /// What the process keeps on disk.
    keys: Option<Vec<u8>>,
}

/// A link that a shard wants.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    pub shard: usize,
    pub run: u64,
    pub dialled: Dialled,
}

impl Brokers {
    pub fn new(scenario: &Scenario) -> Brokers {
        let control = (0..scenario.nodes).map(node_address).collect();
        let process = |at: usize| ShardProcess {
            broker: at / scenario.shards_per_broker,
            index: (at % scenario.shards_per_broker) as u16,
            run: 0,
            shard: None,
            mailbox: Arc::new(Mailbox::new(None)),
            draining: false,
            started_ms: 0,
            skew_ms: 0,
            keys: None,
        };
        Brokers {
            shards: (0..scenario.brokers * scenario.shards_per_broker).map(process).collect(),
            shards_per_broker: scenario.shards_per_broker,
            runs: 0,
            config: ShardConfig { control, ..scenario.shard.clone() },
            sim: scenario.sim,
            delay: scenario.device_delay,
        }
    }

    #[cfg(feature = "seeded-bugs")]
    pub fn plant(&mut self, bug: Option<hawser_broker::core::SeededBug>) {
        self.config.core.bug = bug;
    }

    /// The places of a broker's shards.
    pub fn of(&self, broker: usize) -> std::ops::Range<usize> {
        broker * self.shards_per_broker..(broker + 1) * self.shards_per_broker
    }

    pub fn start(&mut self, broker: usize, faults: Faults, random: &mut Random, trace: &mut Trace) {
        let keep_keys = random.chance(700);
        self.runs += 1;
        let incarnation = self.runs;
        for at in self.of(broker) {
            self.runs += 1;
            let process = &mut self.shards[at];
            let config = ShardConfig {
                broker: broker as u64 + 1,
                incarnation,
                shard: process.index,
                ..self.config.clone()
            };
            let mut io = SimIo::new(SimConfig { seed: random.draw(), faults, ..self.sim });
            process.started_ms = trace.now_ms;
            process.run = self.runs;
            process.draining = false;
            process.mailbox = Arc::new(Mailbox::new(None));
            io.set_now(process.now(trace.now_ms));
            let mut shard = Shard::new(config, io, process.mailbox.clone());
            if let Some(keys) = process.keys.as_ref().filter(|_| keep_keys) {
                shard.restore_keys(keys).expect("what was saved can be restored");
                trace.reach("broker: keys from disk");
            }
            process.shard = Some(shard);
        }
        trace.note(format_args!("broker {broker} starts"));
    }

    pub fn is_up(&self, broker: usize) -> bool {
        self.shards[self.of(broker).start].shard.is_some()
    }

    /// Ends the process. What its peers see is the caller's.
    pub fn kill(&mut self, broker: usize, trace: &mut Trace) {
        for at in self.of(broker) {
            let process = &mut self.shards[at];
            process.take_notices();
            if let Some(shard) = process.shard.take() {
                shard.invariants();
                report(shard.core().counters(), trace);
            }
        }
        trace.note(format_args!("broker {broker} is gone"));
    }

    pub fn drain(&mut self, broker: usize, trace: &mut Trace) {
        for at in self.of(broker) {
            let process = &mut self.shards[at];
            process.draining = true;
            process.mailbox.post(Command::Drain).expect("an empty mailbox has room");
        }
        trace.note(format_args!("broker {broker} drains"));
    }

    /// Whether a draining process has finished.
    pub fn is_drained(&mut self, broker: usize) -> bool {
        let range = self.of(broker);
        self.shards[range].iter_mut().all(ShardProcess::take_notices)
    }

    pub fn set_memory_low(&mut self, broker: usize, low: bool) {
        for at in self.of(broker) {
            self.shards[at].mailbox.set_memory_low(low);
        }
    }

    pub fn set_faults(&mut self, faults: Faults) {
        for process in &mut self.shards {
            if let Some(shard) = &mut process.shard {
                shard.io_mut().set_faults(faults);
            }
        }
    }

    /// A new connection to some shard, if its process runs.
    pub fn connect(&mut self, random: &mut Random) -> Option<Wire> {
        let at = random.below(self.shards.len());
        let process = &mut self.shards[at];
        let peer = process.shard.as_mut()?.io_mut().connect();
        Some(Wire::new(at, process.run, peer, self.delay))
    }

    /// The rings that hold the near end of a wire, if its process still runs.
    pub fn io(&mut self, wire: &Wire) -> Option<&mut SimIo> {
        let process = &mut self.shards[wire.shard];
        let alive = process.run == wire.run;
        process.shard.as_mut().filter(|_| alive).map(Shard::io_mut)
    }

    /// The far end is gone without a word.
    pub fn vanish(&mut self, wire: &Wire) {
        if let Some(io) = self.io(wire) {
            io.vanish(wire.peer());
        }
    }

    pub fn reset(&mut self, wire: &Wire) {
        if let Some(io) = self.io(wire) {
            io.reset(wire.peer());
        }
    }

    /// Runs every shard that has something to do now. Returns the links they want.
    pub fn turn(&mut self, now_ms: u64) -> Vec<Dial> {
        let mut dials = Vec::new();
        for (at, process) in self.shards.iter_mut().enumerate() {
            for _ in 0..TURNS_AT_ONCE {
                if process.next_ms().is_none_or(|next_ms| next_ms > now_ms) {
                    break;
                }
                let now = process.now(now_ms);
                let Some(shard) = &mut process.shard else { break };
                shard.io_mut().set_now(now);
                let before = Before::of(shard);
                shard.turn();
                oracles::bounded(shard, &self.config);
                oracles::holds_no_body_for_the_blocked(before, shard);
            }
            let run = process.run;
            if let Some(shard) = &mut process.shard {
                let dialled = shard.io_mut().dialled();
                dials.extend(dialled.into_iter().map(|dialled| Dial { shard: at, run, dialled }));
            }
        }
        dials
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.shards.iter().filter_map(ShardProcess::next_ms).min()
    }

    /// Sessions whose connect was accepted, over all shards.
    pub fn sessions(&self) -> u64 {
        let up = self.shards.iter().filter_map(|process| process.shard.as_ref());
        up.map(|shard| shard.core().counters().get(Counter::Sessions)).sum()
    }

    pub fn report(&self, trace: &mut Trace) {
        for shard in self.shards.iter().filter_map(|process| process.shard.as_ref()) {
            report(shard.core().counters(), trace);
        }
    }
}

impl ShardProcess {
    fn now(&self, now_ms: u64) -> Now {
        let unix_ms = (UNIX_START_MS + now_ms).saturating_add_signed(self.skew_ms);
        Now { mono_ms: now_ms - self.started_ms, unix_ms }
    }

    /// When the shard has something to do next, in the world's time.
    fn next_ms(&self) -> Option<u64> {
        let shard = self.shard.as_ref()?;
        let next = [shard.deadline_ms(), shard.io().due_ms()].into_iter().flatten().min()?;
        Some(self.started_ms + next)
    }

    /// Keeps the keys; tells whether the drain is over.
    fn take_notices(&mut self) -> bool {
        let mut drained = self.shard.is_none();
        while let Some(notice) = self.mailbox.notice() {
            match notice {
                Notice::Keys(keys) => self.keys = Some(keys),
                Notice::Drained => drained = true,
                Notice::LinkUp { .. } | Notice::LinkDown { .. } => {}
            }
        }
        drained
    }
}

/// Where a control node listens.
pub fn node_address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 7410))
}

/// What a shard's counters say was reached.
fn report(counters: &Counters, trace: &mut Trace) {
    for &counter in Counter::ALL {
        trace.reach_by(counter.name(), counters.get(counter));
    }
    for &reason in CloseReason::ALL {
        trace.reach_by(reason.label(), counters.closed(reason) + counters.refused(reason));
    }
}
