//! One world: everything of one seed, and the time that it shares.
//!
//! ```text
//!   0 s          the world finds itself: keys, links, first connects
//!   faulty       the workload and the disturbances, by their plans
//!   healing      nothing goes wrong any more; whatever was lost must be found again
//!   bereaved     one of two nodes dies for good
//!   calm         messages that nothing can keep from their devices
//!   awake        messages that wait for a heartbeat
//!   quiet        nothing may happen but heartbeats
//! ```
//!
//! Time jumps from one thing that is due to the next. At each time everybody acts until nobody has
//! anything left to do, or, as a busy processor would, is late by a millisecond.

use std::collections::BTreeMap;

use hawser_broker::io::sim::Faults;
use hawser_codec::ids::{DeviceId, Epoch, TopicId};
use hawser_codec::limits::INLINE_BYTES_MAX;
use hawser_control::node::event::{Answer, CallId, Refusal, Request, StoreResult, Wake};

use super::Options;
use super::brokers::Brokers;
use super::control::{Controls, HASH_KEY, Reach};
use super::devices::{Application, Identity, Surroundings};
use super::disturbances::{self, Disturbance};
use super::ledger::{Fate, Ledger, Target};
use super::network::Wire;
use super::oracles;
use super::random::Random;
use super::rogues::{Mischief, Rogue};
use super::scenario::{Scenario, UNIX_START_MS};
use super::tickets::App;
use super::trace::Trace;
use super::workload::{self, Deed};

/// Long enough for every timeout of both ends to pass twice.
const HEALING_MS: u64 = 60_000;
const CALM_MS: u64 = 15_000;
const QUIET_MS: u64 = 8_000;
/// Shorter than a heartbeat, which would find by itself what a lost link has left behind.
const PROMPT_MS: u64 = 1_500;
/// By then every sender of a healed world knows what became of its message.
const ANSWERED_MS: u64 = 120_000;
/// From a heartbeat to what it released.
const AWAKE_SLACK_MS: u64 = 5_000;
/// A question to a healed world is answered within this time.
const ANSWER_MS: u64 = 5_000;

/// Rounds at one time before the clock goes on by a millisecond.
const ROUNDS_AT_ONCE: usize = 50;

/// The structures are checked as a whole every so many rounds.
const ROUNDS_PER_CHECK: u64 = 64;

/// An application that could not be told the reason keeps a copy of what its sender does.
const RETRIES_MAX: u32 = 6;

pub struct World {
    pub scenario: Scenario,
    pub random: Random,
    pub trace: Trace,
    pub brokers: Brokers,
    pub controls: Controls,
    pub apps: Vec<App>,
    pub identities: Vec<Identity>,
    pub applications: Vec<Application>,
    pub topics: Vec<TopicId>,
    pub ledger: Ledger,
    leaving: Vec<Wire>,
    rogues: Vec<Rogue>,
    plan: BTreeMap<(u64, u64), Act>,
    planned: u64,
    calls: BTreeMap<CallId, Purpose>,
    asked: BTreeMap<CallId, Answer>,
    faulty: bool,
    rounds: u64,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Deed(Deed),
    Disturb(Disturbance),
    Rogue(Mischief),
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Push(u32),
    Question,
}

/// Makes a [`Surroundings`] of the fields of a world, so that an application can be borrowed too.
macro_rules! around {
    ($world:expr) => {
        Surroundings {
            brokers: &mut $world.brokers,
            identities: &mut $world.identities,
            ledger: &mut $world.ledger,
            topics: &$world.topics,
            leaving: &mut $world.leaving,
            random: &mut $world.random,
            trace: &mut $world.trace,
        }
    };
}

macro_rules! reach {
    ($world:expr) => {
        &mut Reach {
            ledger: &mut $world.ledger,
            random: &mut $world.random,
            trace: &mut $world.trace,
        }
    };
}

impl World {
    pub fn new(seed: u64, options: &Options) -> World {
        let scenario = Scenario::new(seed);
        let mut random = Random::new(seed.rotate_left(32) ^ 0xa5a5);
        let apps: Vec<App> = (0..scenario.apps).map(App::new).collect();
        let identities: Vec<Identity> =
            (0..scenario.identities).map(|place| identity(place, &apps, &mut random)).collect();
        let topics = (0..scenario.topics).map(|topic| TopicId::new(&format!("t{topic}"))).collect();
        let applications: Vec<Application> = (0..identities.len())
            .map(|place| {
                let chosen: Vec<usize> =
                    (0..scenario.topics).filter(|_| random.chance(400)).collect();
                Application::new(place, place, &chosen, random.between(0, 2_000))
            })
            .collect();
        let mut world = World {
            brokers: Brokers::new(&scenario),
            controls: Controls::new(&scenario),
            scenario,
            random,
            trace: Trace::new(options.verbose),
            apps,
            identities,
            applications,
            topics,
            ledger: Ledger::default(),
            leaving: Vec::new(),
            rogues: Vec::new(),
            plan: BTreeMap::new(),
            planned: 0,
            calls: BTreeMap::new(),
            asked: BTreeMap::new(),
            faulty: true,
            rounds: 0,
        };
        #[cfg(feature = "seeded-bugs")]
        {
            world.brokers.plant(options.broker_bug);
            world.controls.plant(options.node_bug);
        }
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.trace.note(format_args!("{:?}", self.scenario));
        for (version, app) in self.apps.iter().enumerate() {
            let registered =
                self.controls.store.model.execute(&app.registration(version as u64), UNIX_START_MS);
            assert_eq!(registered, StoreResult::AppWritten);
        }
        self.controls.store.failures = self.scenario.store_failures;
        for node in 0..self.scenario.nodes {
            self.controls.start(node, &mut self.trace);
        }
        for broker in 0..self.scenario.brokers {
            let faults = self.scenario.io_faults;
            self.brokers.start(broker, faults, &mut self.random, &mut self.trace);
        }
        let deeds = workload::plan(
            &self.scenario,
            &self.identities,
            &self.applications,
            &mut self.ledger,
            &mut self.random,
        );
        for (at_ms, deed) in deeds {
            self.at(at_ms, Act::Deed(deed));
        }
        for (at_ms, disturbance) in disturbances::plan(&self.scenario, &mut self.random) {
            self.at(at_ms, Act::Disturb(disturbance));
        }
        for _ in 0..self.scenario.rogues {
            let mischief = self.random.pick(&Mischief::ALL);
            let at_ms = self.random.between(1_000, self.scenario.faulty_until_ms);
            self.at(at_ms, Act::Rogue(mischief));
        }
    }

    /// Runs to the end of the quiet phase, ready to be judged.
    pub fn run(&mut self) {
        self.run_until(self.scenario.faulty_until_ms);
        self.heal();
        self.run_until(self.trace.now_ms + HEALING_MS);
        oracles::judge_healed(self);
        self.bereave();
        self.calm();
        self.run_until(self.trace.now_ms + CALM_MS);
        self.awake();
        self.quiet();
        self.invariants();
    }

    fn heal(&mut self) {
        self.trace.note(format_args!("the world heals"));
        self.faulty = false;
        self.controls.heal();
        self.brokers.set_faults(Faults::default());
        for node in 0..self.scenario.nodes {
            if !self.controls.nodes[node].is_up() {
                self.controls.start(node, &mut self.trace);
            }
        }
        for process in &mut self.brokers.shards {
            process.skew_ms = 0;
        }
        for broker in 0..self.scenario.brokers {
            self.brokers.set_memory_low(broker, false);
            let draining = self.brokers.shards[self.brokers.of(broker).start].draining;
            if draining || !self.brokers.is_up(broker) {
                self.disturb(Disturbance::StartBroker(broker));
            }
        }
        for app in &mut self.applications {
            app.unreachable_until_ms = 0;
            if let Some(wire) = &mut app.wire {
                wire.release();
            }
        }
    }

    /// Of two nodes one dies for good while devices wait for what they pulled.
    fn bereave(&mut self) {
        if self.scenario.nodes < 2 {
            return;
        }
        let first = self.ledger.messages.len();
        for place in 0..self.identities.len() {
            let bytes = INLINE_BYTES_MAX + 1;
            let app = self.identities[place].app;
            self.push_calm(app, Target::Device(place), Wake::Now, bytes);
        }
        let victim = self.random.below(self.scenario.nodes);
        let soon_ms = self.trace.now_ms + self.random.between(5, 80);
        self.run_until(soon_ms);
        self.controls.kill(victim, &mut self.brokers, false, &mut self.trace);
        self.run_until(soon_ms + PROMPT_MS);
        oracles::heard_promptly(self, first, soon_ms);
    }

    /// One message to every device, every topic and every app.
    fn calm(&mut self) {
        self.trace.note(format_args!("calm"));
        let mut targets: Vec<(usize, Target)> = (0..self.identities.len())
            .map(|place| (self.identities[place].app, Target::Device(place)))
            .collect();
        for app in 0..self.apps.len() {
            targets.extend((0..self.topics.len()).map(|topic| (app, Target::Topic(topic))));
            targets.push((app, Target::All));
        }
        for (app, target) in targets {
            self.push_calm(app, target, Wake::Now, 40);
        }
    }

    /// One message to every device that nobody may be woken for.
    fn awake(&mut self) {
        let since_ms = self.trace.now_ms;
        self.trace.note(format_args!("awake"));
        let first = self.ledger.messages.len() as u32;
        for place in 0..self.identities.len() {
            let app = self.identities[place].app;
            self.push_calm(app, Target::Device(place), Wake::WhenAwake, 40);
        }
        // A node that is no more costs the senders some attempts.
        while self.ledger.messages.iter().any(|message| message.fate == Fate::Open) {
            self.run_until(self.trace.now_ms + 100);
            assert!(self.trace.now_ms < since_ms + ANSWERED_MS, "accounted-push: no answer");
        }
        let beat_ms = self.scenario.shard.core.heartbeat_max_ms;
        self.run_until(self.trace.now_ms + beat_ms + AWAKE_SLACK_MS);
        oracles::released_by_heartbeats(self, first, since_ms);
    }

    fn push_calm(&mut self, app: usize, target: Target, wake: Wake, payload_bytes: usize) {
        let number = self.ledger.messages.len() as u32;
        let message =
            workload::calm_message(number, app, target, wake, payload_bytes, &self.identities);
        self.ledger.messages.push(message);
        self.act(Act::Deed(Deed::Push(number)));
    }

    fn quiet(&mut self) {
        let since_ms = self.trace.now_ms;
        self.trace.note(format_args!("quiet"));
        self.run_until(since_ms + QUIET_MS);
        for app in &self.applications {
            let last_ms = app.record.last_event_ms;
            assert!(last_ms <= since_ms, "the world is not quiet: app {} at {last_ms}", app.label);
        }
        assert_eq!(self.controls.open_calls(), 0, "accounted-push: a call was never answered");
    }

    /// Asks a node of the healed world.
    pub fn ask(&mut self, node: usize, request: Request) -> Answer {
        let call = self.controls.call(node, request, reach!(self)).expect("the node is up");
        self.calls.insert(call, Purpose::Question);
        let until_ms = self.trace.now_ms + ANSWER_MS;
        while self.trace.now_ms < until_ms {
            self.take_answers();
            if let Some(answer) = self.asked.remove(&call) {
                return answer;
            }
            self.run_until(self.trace.now_ms + 1);
        }
        panic!("accounted-push: a question was never answered");
    }

    pub fn invariants(&self) {
        for shard in self.brokers.shards.iter().filter_map(|process| process.shard.as_ref()) {
            shard.invariants();
        }
        self.controls.invariants();
    }
}

/// Time.
impl World {
    pub fn run_until(&mut self, until_ms: u64) {
        while self.trace.now_ms < until_ms {
            self.act_at_once();
            let next_ms = self.next_ms().max(self.trace.now_ms + 1);
            self.trace.now_ms = next_ms.min(until_ms);
        }
    }

    /// Lets everybody act until nothing is due.
    fn act_at_once(&mut self) {
        for _ in 0..ROUNDS_AT_ONCE {
            self.rounds += 1;
            while let Some(entry) = self.plan.first_entry()
                && entry.key().0 <= self.trace.now_ms
            {
                let act = entry.remove();
                self.act(act);
            }
            self.round();
            if self.rounds.is_multiple_of(ROUNDS_PER_CHECK) {
                self.invariants();
            }
            if self.next_ms() > self.trace.now_ms {
                return;
            }
        }
    }

    fn round(&mut self) {
        let now_ms = self.trace.now_ms;
        self.exchange();
        for dial in self.brokers.turn(now_ms) {
            self.controls.dialled(dial, &mut self.random, now_ms);
        }
        self.exchange();
        self.controls.step(&mut self.brokers, reach!(self));
        self.take_answers();
        for at in 0..self.applications.len() {
            self.applications[at].step(&mut around!(self));
        }
        for rogue in &mut self.rogues {
            rogue.step(&mut self.trace);
        }
        for rogue in self.rogues.extract_if(.., |rogue| rogue.done) {
            let mut wire = rogue.into_wire();
            wire.finish(now_ms, &mut self.random);
            self.leaving.push(wire);
        }
        self.leaving.retain(|wire| !wire.has_ended());
    }

    /// Moves bytes between all wires and the shards' sockets.
    fn exchange(&mut self) {
        let now_ms = self.trace.now_ms;
        let devices = self.applications.iter_mut().filter_map(|app| app.wire.as_mut());
        let links = self.controls.links.iter_mut().map(|link| &mut link.wire);
        let rogues = self.rogues.iter_mut().map(Rogue::wire);
        for wire in devices.chain(links).chain(rogues).chain(&mut self.leaving) {
            if let Some(io) = self.brokers.io(wire) {
                wire.exchange(io, now_ms, &mut self.random);
            }
        }
    }

    fn next_ms(&self) -> u64 {
        let now_ms = self.trace.now_ms;
        let apps = self.applications.iter().filter_map(|app| app.next_ms(now_ms));
        let rogues = self.rogues.iter().filter_map(|rogue| rogue.next_ms(now_ms));
        let leaving = self.leaving.iter().filter_map(|wire| wire.next_ms(now_ms));
        let plan = self.plan.first_key_value().map(|(key, _)| key.0);
        let processes = [self.brokers.next_ms(), self.controls.next_ms(now_ms), plan];
        apps.chain(rogues)
            .chain(leaving)
            .chain(processes.into_iter().flatten())
            .min()
            .unwrap_or(u64::MAX)
    }

    fn at(&mut self, at_ms: u64, act: Act) {
        self.planned += 1;
        self.plan.insert((at_ms, self.planned), act);
    }
}

/// What the plans say.
impl World {
    fn act(&mut self, act: Act) {
        match act {
            Act::Deed(deed) => self.do_deed(deed),
            Act::Disturb(disturbance) if self.faulty => self.disturb(disturbance),
            // What was to be undone after the end of the faulty phase was undone by healing.
            Act::Disturb(_) => {}
            Act::Rogue(mischief) => {
                if let Some(wire) = self.brokers.connect(&mut self.random) {
                    let app = &self.apps[0];
                    let rogue = Rogue::new(mischief, wire, app, &mut self.random, &mut self.trace);
                    self.rogues.push(rogue);
                }
            }
        }
    }

    fn do_deed(&mut self, deed: Deed) {
        let now_ms = self.trace.now_ms;
        match deed {
            Deed::Push(number) => self.push(number),
            Deed::Subscribe { app, topic } => {
                self.applications[app].subscribe(topic, &mut around!(self));
            }
            Deed::Unsubscribe { app, topic } => {
                self.applications[app].unsubscribe(topic, &mut around!(self));
            }
            Deed::Leave(app) => self.applications[app].leave(&mut around!(self)),
            Deed::Open(app) => self.applications[app].open(&mut self.trace),
            Deed::Move(app) => self.applications[app].move_network(&mut around!(self)),
            Deed::Cut(app) => self.applications[app].cut(&mut around!(self)),
            Deed::Wake(app) => self.applications[app].ping(&mut around!(self)),
            Deed::Unreachable { app, for_ms } => {
                self.trace.note(format_args!("app {app} has no network for {for_ms} ms"));
                let app = &mut self.applications[app];
                app.unreachable_until_ms = now_ms + for_ms;
                if let Some(wire) = &mut app.wire {
                    wire.hold(now_ms + for_ms);
                }
            }
            Deed::Slow { app, for_ms } => {
                self.trace.note(format_args!("app {app} does not read for {for_ms} ms"));
                self.applications[app].read_nothing_until(now_ms + for_ms);
            }
            Deed::Restore { identity } => {
                let label = self.applications.len();
                self.trace.note(format_args!("app {label} is device {identity} restored"));
                let topics = self.applications[identity].topics_ever.clone();
                self.applications.push(Application::new(label, identity, &topics, now_ms));
            }
        }
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        let now_ms = self.trace.now_ms;
        self.trace.note(format_args!("disturbance: {disturbance:?}"));
        self.trace.reach(label(disturbance));
        match disturbance {
            Disturbance::KillNode { node, silent } => {
                self.controls.kill(node, &mut self.brokers, silent, &mut self.trace);
            }
            Disturbance::StartNode(node) => {
                if !self.controls.nodes[node].is_up() {
                    self.controls.start(node, &mut self.trace);
                }
            }
            Disturbance::PartitionNode { node, for_ms } => {
                self.controls.partition(node, now_ms + for_ms);
            }
            Disturbance::CutLink => {
                if !self.controls.links.is_empty() {
                    let at = self.random.below(self.controls.links.len());
                    self.brokers.reset(&self.controls.links[at].wire);
                }
            }
            Disturbance::KillBroker { broker, silent } => self.end_broker(broker, silent),
            Disturbance::DrainBroker(broker) => {
                if self.brokers.is_up(broker) {
                    self.brokers.drain(broker, &mut self.trace);
                }
            }
            Disturbance::StartBroker(broker) => {
                if self.brokers.shards[self.brokers.of(broker).start].draining {
                    let drained = self.brokers.is_drained(broker);
                    self.trace.reach(if drained { "drain: done" } else { "drain: cut short" });
                    self.end_broker(broker, false);
                }
                if !self.brokers.is_up(broker) {
                    let faults =
                        if self.faulty { self.scenario.io_faults } else { Faults::default() };
                    self.brokers.start(broker, faults, &mut self.random, &mut self.trace);
                }
            }
            Disturbance::MemoryLow { broker, low } => self.brokers.set_memory_low(broker, low),
            Disturbance::StallStore { for_ms } => self.controls.store.stall(now_ms + for_ms),
            Disturbance::FlakyStore { for_ms } => self.controls.store.be_flaky(now_ms + for_ms),
            Disturbance::StrayKick => self.controls.stray_kick(&mut self.random, now_ms),
            Disturbance::SkewNode { node, by_ms } => self.controls.nodes[node].skew_ms = by_ms,
            Disturbance::SkewBroker { broker, by_ms } => {
                for at in self.brokers.of(broker) {
                    self.brokers.shards[at].skew_ms = by_ms;
                }
            }
        }
    }

    /// The process is gone; what its peers had open breaks, or goes silent with the machine.
    fn end_broker(&mut self, broker: usize, silent: bool) {
        let range = self.brokers.of(broker);
        let runs: Vec<u64> = self.brokers.shards[range].iter().map(|process| process.run).collect();
        self.brokers.kill(broker, &mut self.trace);
        let devices = self.applications.iter_mut().filter_map(|app| app.wire.as_mut());
        let links = self.controls.links.iter_mut().map(|link| &mut link.wire);
        let rogues = self.rogues.iter_mut().map(Rogue::wire);
        for wire in devices.chain(links).chain(rogues).chain(&mut self.leaving) {
            if runs.contains(&wire.run) {
                if silent {
                    wire.fall_silent();
                } else {
                    wire.break_off();
                }
            }
        }
    }
}

/// The senders.
impl World {
    fn push(&mut self, number: u32) {
        let now_ms = self.trace.now_ms;
        let node = self.random.below(self.scenario.nodes);
        let message = &mut self.ledger.messages[number as usize];
        if !self.controls.nodes[node].is_up() {
            let at_ms = now_ms + self.random.between(100, 1_500);
            self.at(at_ms, Act::Deed(Deed::Push(number)));
            return;
        }
        if message.attempts == 0 {
            message.first_sent_ms = now_ms;
        }
        message.attempts += 1;
        message.sent_ms = now_ms;
        let request = message.push(self.apps[message.app].id, &self.topics);
        self.trace.note(format_args!("message {number} goes to node {node}: {message:?}"));
        let call = self.controls.call(node, Request::Push(request), reach!(self));
        self.calls.insert(call.expect("the node is up"), Purpose::Push(number));
    }

    fn take_answers(&mut self) {
        for (call, answer) in self.controls.take_answers() {
            match (self.calls.remove(&call).expect("every call has a purpose"), answer) {
                (Purpose::Push(number), answer) => self.on_push_answer(number, answer),
                (Purpose::Question, Some(answer)) => {
                    self.asked.insert(call, answer);
                }
                (Purpose::Question, None) => panic!("nodes do not die in a healed world"),
            }
        }
    }

    fn on_push_answer(&mut self, number: u32, answer: Option<Answer>) {
        let now_ms = self.trace.now_ms;
        self.trace.note(format_args!("message {number}: {answer:?}"));
        let message = &mut self.ledger.messages[number as usize];
        match answer {
            Some(Answer::Accepted(accepted)) => {
                let before = *message.lost_answer.get_or_insert(accepted.seq);
                assert_eq!(
                    before, accepted.seq,
                    "accounted-push: the repeated message {number} was stored twice"
                );
                if message.idempotent && message.attempts == 1 && self.random.chance(250) {
                    // The answer is lost on its way: the sender repeats the message.
                    message.doubtful = true;
                    let at_ms = now_ms + self.random.between(1, 2_000);
                    self.at(at_ms, Act::Deed(Deed::Push(number)));
                    return;
                }
                message.fate = Fate::Accepted { id: accepted.id, seq: accepted.seq };
                message.accepted_ms = now_ms;
                oracles::accepted_as_heard(message, &self.applications);
                self.trace.reach(outcome_label(accepted.outcome, accepted.online));
                return;
            }
            None | Some(Answer::Refused(Refusal::OutcomeUnknown { .. })) => message.doubtful = true,
            Some(Answer::Refused(refusal)) => {
                assert!(refusal.retry_after_ms().is_some(), "{number} was refused: {refusal}");
            }
            Some(other) => panic!("a push was answered with {other:?}"),
        }
        let must_know = message.idempotent && message.doubtful;
        let may_repeat = message.idempotent || !message.doubtful;
        if must_know || (may_repeat && message.attempts < RETRIES_MAX) {
            let at_ms = now_ms + self.random.between(50, 2_000);
            self.at(at_ms, Act::Deed(Deed::Push(number)));
        } else {
            message.fate = if message.doubtful { Fate::Doubtful } else { Fate::Refused };
        }
    }
}

fn identity(place: usize, apps: &[App], random: &mut Random) -> Identity {
    let app = random.below(apps.len());
    let name = format!("device-{place}");
    Identity {
        app,
        id: DeviceId::new(&HASH_KEY, &apps[app].name, &name),
        ticket: apps[app].ticket(&name, UNIX_START_MS / 1000 + 86_400),
        connects: 0,
        epoch_max: Epoch::ZERO,
    }
}

fn label(disturbance: Disturbance) -> &'static str {
    match disturbance {
        Disturbance::KillNode { silent: false, .. } => "disturbance: node killed",
        Disturbance::KillNode { silent: true, .. } => "disturbance: node's machine lost",
        Disturbance::StartNode(_) => "disturbance: node started",
        Disturbance::PartitionNode { .. } => "disturbance: node partitioned",
        Disturbance::CutLink => "disturbance: link cut",
        Disturbance::KillBroker { silent: false, .. } => "disturbance: broker killed",
        Disturbance::KillBroker { silent: true, .. } => "disturbance: broker's machine lost",
        Disturbance::DrainBroker(_) => "disturbance: broker drained",
        Disturbance::StartBroker(_) => "disturbance: broker started",
        Disturbance::MemoryLow { .. } => "disturbance: memory low",
        Disturbance::StallStore { .. } => "disturbance: store stalled",
        Disturbance::FlakyStore { .. } => "disturbance: store flaky",
        Disturbance::StrayKick => "disturbance: stray kick",
        Disturbance::SkewNode { .. } => "disturbance: node's clock jumped",
        Disturbance::SkewBroker { .. } => "disturbance: broker's clock jumped",
    }
}

fn outcome_label(outcome: hawser_control::node::event::PushOutcome, online: bool) -> &'static str {
    use hawser_control::node::event::PushOutcome;
    match (outcome, online) {
        (PushOutcome::Stored, true) => "push: stored, online",
        (PushOutcome::Stored, false) => "push: stored, offline",
        (PushOutcome::Duplicate, _) => "push: duplicate",
    }
}
