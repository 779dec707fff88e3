//! The store of the simulated control nodes: the reference model behind a slow and faulty path.
//!
//! ```text
//!   Store op ─▶ on its way ─▶ executed by the model ─▶ answer on its way ─▶ Stored
//!                   │                   ▲    │
//!                   └── fails, not done │    └── fails, done: nobody knows
//!                       or done later ──┘
//! ```
//!
//! An operation outlives the node that sent it: it is executed although nobody hears the answer.

use std::collections::BTreeMap;

use hawser_control::node::event::{OpId, StoreFailure, StoreOp, StoreResult};
use hawser_control::node::model::Model;

use super::network::Delay;
use super::random::Random;
use super::scenario::UNIX_START_MS;
use super::trace::Trace;

/// A client gives up on an operation after this long.
const TIMEOUT_MS: u64 = 3_000;

pub struct Store {
    pub model: Model,
    events: BTreeMap<(u64, u64), Step>,
    order: u64,
    delay: Delay,
    /// Operations that fail, in thousandths.
    pub failures: u64,
    /// Nothing is executed before this time.
    stalled_until_ms: u64,
    /// Every second operation fails before this time.
    flaky_until_ms: u64,
}

enum Step {
    Execute { from: Option<Origin>, request: StoreOp },
    Answer { from: Origin, result: StoreResult },
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub node: usize,
    /// The node's run; an answer to an earlier one is lost.
    pub run: u64,
    pub op: OpId,
}

impl Store {
    pub fn new(delay: Delay) -> Store {
        Store {
            model: Model::default(),
            events: BTreeMap::new(),
            order: 0,
            delay,
            failures: 0,
            stalled_until_ms: 0,
            flaky_until_ms: 0,
        }
    }

    pub fn stall(&mut self, until_ms: u64) {
        self.stalled_until_ms = self.stalled_until_ms.max(until_ms);
    }

    pub fn be_flaky(&mut self, until_ms: u64) {
        self.flaky_until_ms = self.flaky_until_ms.max(until_ms);
    }

    pub fn heal(&mut self) {
        self.flaky_until_ms = 0;
        self.failures = 0;
        self.stalled_until_ms = 0;
    }

    pub fn submit(
        &mut self,
        from: Origin,
        request: StoreOp,
        random: &mut Random,
        trace: &mut Trace,
    ) {
        let now_ms = trace.now_ms;
        let starts_ms = (now_ms + self.travel(random)).max(self.stalled_until_ms);
        let failures = if now_ms < self.flaky_until_ms { 500 } else { self.failures };
        if random.chance(failures) {
            return self.submit_failing(from, request, random, trace);
        }
        if starts_ms > now_ms + TIMEOUT_MS {
            trace.reach("store: timed out");
            let result = StoreResult::Failed(StoreFailure::Unknown);
            self.at(now_ms + TIMEOUT_MS, Step::Answer { from, result });
            self.at(starts_ms, Step::Execute { from: None, request });
        } else {
            self.at(starts_ms, Step::Execute { from: Some(from), request });
        }
    }

    fn submit_failing(
        &mut self,
        from: Origin,
        request: StoreOp,
        random: &mut Random,
        trace: &mut Trace,
    ) {
        let ends_ms = trace.now_ms + self.travel(random) * 2;
        let failure = match random.below(4) {
            0 => StoreFailure::NotDone,
            1 => StoreFailure::Unknown,
            done => {
                // Executed, before or well after the node hears that it cannot know.
                let late = if done == 2 { 0 } else { random.between(0, TIMEOUT_MS) };
                self.at(ends_ms + late, Step::Execute { from: None, request });
                StoreFailure::Unknown
            }
        };
        trace.reach(match failure {
            StoreFailure::NotDone => "store: failed",
            StoreFailure::Unknown => "store: unknown outcome",
        });
        self.at(ends_ms, Step::Answer { from, result: StoreResult::Failed(failure) });
    }

    fn travel(&self, random: &mut Random) -> u64 {
        random.between(self.delay.least_ms, self.delay.most_ms)
    }

    fn at(&mut self, at_ms: u64, step: Step) {
        self.order += 1;
        self.events.insert((at_ms, self.order), step);
    }

    /// Executes what is due. Returns one answer that has arrived.
    pub fn next(&mut self, random: &mut Random, now_ms: u64) -> Option<(Origin, StoreResult)> {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= now_ms
        {
            match entry.remove() {
                Step::Answer { from, result } => return Some((from, result)),
                Step::Execute { from, request } => {
                    let result = self.model.execute(&request, UNIX_START_MS + now_ms);
                    if let Some(from) = from {
                        let at_ms = now_ms + self.travel(random);
                        self.at(at_ms, Step::Answer { from, result });
                    }
                }
            }
        }
        None
    }

    pub fn next_ms(&self) -> Option<u64> {
        self.events.first_key_value().map(|(key, _)| key.0)
    }
}
