//! Control node processes: real nodes, and around each what tokio is around it in production: the
//! far ends of the links, the calls of the API, the way to the store.
//!
//! A killed node takes its links and its open calls with it; its store operations go on without
//! anybody who hears the answers.

use std::collections::{BTreeMap, VecDeque};

use hawser_codec::error::DecodeError;
use hawser_codec::frame::{self, Framer};
use hawser_codec::ids::{Epoch, HashKey};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{
    Announced, BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Entry, Hello, ToBroker, ToControl,
    to_broker,
};
use hawser_control::node::event::{Action, Actions, Answer, CallId, Event, LinkId, Now, Request};
use hawser_control::node::limits::Limits;
use hawser_control::node::{Node, NodeConfig};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::brokers::{Brokers, Dial, node_address};
use super::ledger::{Ledger, message_number};
use super::network::{Delay, Far, Wire};
use super::random::Random;
use super::scenario::{LINK_KEY, Scenario, UNIX_START_MS};
use super::store::{Origin, Store};
use super::trace::Trace;

pub const HASH_KEY: HashKey = HashKey([3; 16]);

/// A node says something on each link this often; a link that says nothing for longer is cut.
const PING_MS: u64 = 4_000;
const SILENCE_MS: u64 = 12_000;

/// For stray kicks.
const ANNOUNCED_KEPT: usize = 16;

/// Calls of a node at one time before the world goes on without it.
const STEPS_AT_ONCE: usize = 256;

pub struct Controls {
    pub nodes: Vec<NodeProcess>,
    pub links: Vec<Link>,
    pub store: Store,
    dials: Vec<(u64, Dial)>,
    /// Open calls: by whom they are answered.
    calls: BTreeMap<CallId, usize>,
    answers: Vec<(CallId, Option<Answer>)>,
    runs: u64,
    calls_made: u64,
    links_made: u32,
    limits: Limits,
    link_delay: Delay,
    skew_ms: u64,
    actions: Actions,
    /// The sessions announced last, with the link that said so.
    announced: VecDeque<(LinkId, Announced)>,
    #[cfg(feature = "seeded-bugs")]
    bug: Option<hawser_control::node::SeededBug>,
}

pub struct NodeProcess {
    pub run: u64,
    pub node: Option<Node>,
    started_ms: u64,
    pub skew_ms: i64,
    /// Cut off from every shard until this time; it still reaches the store and its callers.
    partitioned_until_ms: u64,
}

/// The node's end of a link.
pub struct Link {
    pub node: usize,
    node_run: u64,
    pub wire: Wire,
    framer: Framer,
    id: LinkId,
    state: State,
    heard_ms: u64,
    ping_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Proving {
        hello: Hello,
        nonce: [u8; 32],
    },
    Up,
    /// The node cuts it.
    Lost,
}

impl NodeProcess {
    fn now(&self, now_ms: u64) -> Now {
        let unix_ms = (UNIX_START_MS + now_ms).saturating_add_signed(self.skew_ms);
        Now { mono_ms: now_ms - self.started_ms, unix_ms }
    }

    fn next_ms(&self) -> Option<u64> {
        Some(self.started_ms + self.node.as_ref()?.deadline_ms()?)
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    pub fn is_partitioned(&self, now_ms: u64) -> bool {
        self.partitioned_until_ms > now_ms
    }
}

impl Controls {
    pub fn new(scenario: &Scenario) -> Controls {
        let process = |_| NodeProcess {
            run: 0,
            node: None,
            started_ms: 0,
            skew_ms: 0,
            partitioned_until_ms: 0,
        };
        Controls {
            nodes: (0..scenario.nodes).map(process).collect(),
            links: Vec::new(),
            store: Store::new(scenario.store_delay),
            dials: Vec::new(),
            calls: BTreeMap::new(),
            answers: Vec::new(),
            runs: 0,
            calls_made: 0,
            links_made: 0,
            limits: scenario.limits.clone(),
            link_delay: scenario.link_delay,
            skew_ms: scenario.skew_ms,
            actions: Actions::default(),
            announced: VecDeque::new(),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }

    #[cfg(feature = "seeded-bugs")]
    pub fn plant(&mut self, bug: Option<hawser_control::node::SeededBug>) {
        self.bug = bug;
    }

    pub fn start(&mut self, node: usize, trace: &mut Trace) {
        self.runs += 1;
        let process = &mut self.nodes[node];
        assert!(process.node.is_none(), "the node runs already");
        let mut config = NodeConfig::new(node as u64 + 1, HASH_KEY);
        config.limits = self.limits.clone();
        #[cfg(feature = "seeded-bugs")]
        {
            config.bug = self.bug;
        }
        process.run = self.runs;
        process.started_ms = trace.now_ms;
        process.node = Some(Node::new(config));
        trace.note(format_args!("node {node} starts"));
    }

    /// Ends the process: links break, callers are left without an answer.
    pub fn kill(&mut self, node: usize, brokers: &mut Brokers, silent: bool, trace: &mut Trace) {
        trace.note(format_args!("node {node} is gone, silently: {silent}"));
        self.nodes[node].node = None;
        for link in self.links.extract_if(.., |link| link.node == node) {
            if silent {
                brokers.vanish(&link.wire);
            } else {
                brokers.reset(&link.wire);
            }
        }
        let orphans: Vec<CallId> =
            self.calls.iter().filter(|(_, at)| **at == node).map(|(&call, _)| call).collect();
        for call in orphans {
            self.calls.remove(&call);
            self.answers.push((call, None));
        }
    }

    pub fn partition(&mut self, node: usize, until_ms: u64) {
        self.nodes[node].partitioned_until_ms = until_ms;
        for link in self.links.iter_mut().filter(|link| link.node == node) {
            link.wire.hold(until_ms);
        }
    }

    /// Asks for the end of a session that is newer than the reason given.
    pub fn stray_kick(&mut self, random: &mut Random, now_ms: u64) {
        if self.announced.is_empty() {
            return;
        }
        let (link, session) = self.announced[random.below(self.announced.len())];
        let Some(link) = self.links.iter_mut().find(|up| up.id == link) else { return };
        let mut out = Vec::new();
        to_broker::kick(&mut out, session.session, Epoch(session.epoch.0 - 1));
        link.wire.send(out, now_ms, random);
    }

    pub fn heal(&mut self) {
        self.store.heal();
        for process in &mut self.nodes {
            process.partitioned_until_ms = 0;
            process.skew_ms = 0;
        }
        for link in &mut self.links {
            link.wire.release();
        }
    }

    /// Sends a request to a node; the answer comes with [`Controls::take_answers`]. `None`: nobody
    /// listens there.
    pub fn call(
        &mut self,
        node: usize,
        request: Request,
        around: &mut Reach<'_>,
    ) -> Option<CallId> {
        if !self.nodes[node].is_up() {
            return None;
        }
        self.calls_made += 1;
        let call = CallId(self.calls_made);
        self.calls.insert(call, node);
        self.tell(node, Event::Call { call, request }, around);
        Some(call)
    }

    /// Answers since the last time; `None` for calls whose node died.
    pub fn take_answers(&mut self) -> Vec<(CallId, Option<Answer>)> {
        std::mem::take(&mut self.answers)
    }

    /// The nodes that run.
    pub fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].is_up()).collect()
    }

    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// A shard dials: it is answered after a while.
    pub fn dialled(&mut self, dial: Dial, random: &mut Random, now_ms: u64) {
        let travel = random.between(self.link_delay.least_ms, self.link_delay.most_ms);
        self.dials.push((now_ms + travel, dial));
    }

    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let dials = self.dials.iter().map(|dial| dial.0).filter(|&at_ms| at_ms > now_ms);
        let nodes = self.nodes.iter().filter_map(NodeProcess::next_ms);
        let links = self.links.iter().filter_map(|link| {
            let wire = link.wire.next_ms(now_ms);
            [wire, Some(link.ping_ms), Some(link.heard_ms + SILENCE_MS)].into_iter().flatten().min()
        });
        dials.chain(nodes).chain(links).chain(self.store.next_ms()).min()
    }

    /// Does everything that is due.
    pub fn step(&mut self, brokers: &mut Brokers, around: &mut Reach<'_>) {
        let now_ms = around.trace.now_ms;
        self.answer_dials(brokers, now_ms);
        for at in 0..self.links.len() {
            self.step_link(at, brokers, around);
        }
        self.links.retain(|link| link.state != State::Lost);
        while let Some((from, result)) = self.store.next(around.random, now_ms) {
            if self.nodes[from.node].run == from.run && self.nodes[from.node].is_up() {
                self.tell(from.node, Event::Stored { op: from.op, result }, around);
            } else {
                around.trace.reach("store: answer to a dead node");
            }
        }
        for node in 0..self.nodes.len() {
            for _ in 0..STEPS_AT_ONCE {
                if self.nodes[node].next_ms().is_none_or(|at_ms| at_ms > now_ms) {
                    break;
                }
                let now = self.nodes[node].now(now_ms);
                let Some(running) = &mut self.nodes[node].node else { break };
                running.on_time(now, &mut self.actions);
                self.apply(node, around);
            }
        }
    }

    fn answer_dials(&mut self, brokers: &mut Brokers, now_ms: u64) {
        let nodes = &self.nodes;
        let due: Vec<(u64, Dial)> = self
            .dials
            .extract_if(.., |(at_ms, dial)| {
                let node = node_of(dial);
                *at_ms <= now_ms && !nodes[node].is_partitioned(now_ms)
            })
            .collect();
        for (_, dial) in due {
            let node = node_of(&dial);
            let wire = Wire::new(dial.shard, dial.run, dial.dialled.peer, self.link_delay);
            let Some(io) = brokers.io(&wire) else { continue };
            if !self.nodes[node].is_up() {
                io.refuse(dial.dialled.peer);
                continue;
            }
            io.admit(dial.dialled.peer);
            self.links_made += 1;
            self.links.push(Link {
                node,
                node_run: self.nodes[node].run,
                wire,
                framer: Framer::default(),
                id: LinkId(self.links_made),
                state: State::Greeting,
                heard_ms: now_ms,
                ping_ms: now_ms + PING_MS,
            });
        }
    }

    fn step_link(&mut self, at: usize, brokers: &mut Brokers, around: &mut Reach<'_>) {
        let now_ms = around.trace.now_ms;
        let link = &mut self.links[at];
        assert_eq!(link.node_run, self.nodes[link.node].run, "links end with their node");
        let mut arrived = Vec::new();
        let far = link.wire.take(now_ms, &mut arrived);
        if !arrived.is_empty() {
            link.heard_ms = now_ms;
            self.on_link_bytes(at, &arrived, around);
        }
        let link = &mut self.links[at];
        if far != Far::Open || link.heard_ms + SILENCE_MS <= now_ms {
            if far == Far::Open {
                around.trace.reach("link: cut for silence");
                brokers.reset(&link.wire);
            }
            let was_up = link.state == State::Up;
            link.state = State::Lost;
            let (node, link) = (link.node, link.id);
            around.trace.note(format_args!("node {node} loses {link:?}"));
            if was_up {
                self.tell(node, Event::LinkDown { link }, around);
            }
        } else if link.ping_ms <= now_ms {
            link.ping_ms = now_ms + PING_MS;
            if link.state == State::Up {
                let mut out = Vec::new();
                let unix_ms = self.nodes[link.node].now(now_ms).unix_ms;
                to_broker::ping(&mut out, Epoch::from_ms(unix_ms));
                link.wire.send(out, now_ms, around.random);
            }
        }
    }

    fn on_link_bytes(&mut self, at: usize, bytes: &[u8], around: &mut Reach<'_>) {
        let link = &mut self.links[at];
        let (node, id) = (link.node, link.id);
        let now = self.nodes[node].now(around.trace.now_ms);
        let mut framer = std::mem::take(&mut link.framer);
        let actions = &mut self.actions;
        let announced = &mut self.announced;
        let process = &mut self.nodes[node];
        let result = framer.feed(bytes, LINK_BODY_BYTES_MAX, |frame| {
            let Some(frame) = ToControl::decode(frame)? else { return Ok(()) };
            match (&link.state, frame) {
                (State::Up, ToControl::Pong { .. }) => {}
                (State::Up, frame) => {
                    around.trace.reach(up_label(&frame));
                    if let ToControl::Announce(list) = &frame {
                        announced.extend(list.iter().map(|session| (id, session)));
                        announced.drain(..announced.len().saturating_sub(ANNOUNCED_KEPT));
                    }
                    let Some(running) = &mut process.node else { return Ok(()) };
                    running.on_event(Event::Frame { link: id, frame }, now, actions);
                }
                (State::Greeting, ToControl::Hello(hello)) => {
                    let nonce = around.random.bytes();
                    let transcript = hello.transcript(node as u64 + 1, &nonce);
                    let proof = prove(CONTROL_PROOF_CONTEXT, &transcript);
                    let mut out = Vec::new();
                    to_broker::challenge(&mut out, node as u64 + 1, &nonce, &proof);
                    link.wire.send(out, around.trace.now_ms, around.random);
                    link.state = State::Proving { hello, nonce };
                }
                (State::Proving { hello, nonce }, ToControl::Proof { proof }) => {
                    let transcript = hello.transcript(node as u64 + 1, nonce);
                    assert_eq!(proof, prove(BROKER_PROOF_CONTEXT, &transcript));
                    let mut out = Vec::new();
                    to_broker::accepted(&mut out, Epoch::from_ms(now.unix_ms));
                    link.wire.send(out, around.trace.now_ms, around.random);
                    let Hello { broker, incarnation, shard, .. } = *hello;
                    around.trace.note(format_args!(
                        "node {node} has {id:?} to broker {broker} shard {shard}"
                    ));
                    let up = Event::LinkUp { link: id, broker, incarnation, shard };
                    link.state = State::Up;
                    let Some(running) = &mut process.node else { return Ok(()) };
                    running.on_event(up, now, actions);
                }
                (state, frame) => panic!("a shard sent {frame:?} while {state:?}"),
            }
            Ok::<(), DecodeError>(())
        });
        result.expect("a shard's frames are the protocol");
        link.framer = framer;
        self.apply(node, around);
    }

    fn tell(&mut self, node: usize, event: Event<'_>, around: &mut Reach<'_>) {
        let now = self.nodes[node].now(around.trace.now_ms);
        let Some(running) = &mut self.nodes[node].node else { return };
        running.on_event(event, now, &mut self.actions);
        self.apply(node, around);
    }

    /// Carries out what the node asks for.
    fn apply(&mut self, node: usize, around: &mut Reach<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        let list = std::mem::take(&mut actions.list);
        let now_ms = around.trace.now_ms;
        let process = &self.nodes[node];
        for action in list {
            match action {
                Action::Send { link, frame } => {
                    let bytes = actions.frame(&frame);
                    self.check_sent(bytes, process.now(now_ms).unix_ms, around);
                    let to = self.links.iter_mut().find(|end| end.id == link);
                    if let Some(end) = to.filter(|end| end.state != State::Lost) {
                        end.wire.send(bytes.to_vec(), now_ms, around.random);
                    }
                }
                Action::Store { op, request } => {
                    around.trace.note(format_args!("node {node} asks the store: {request:?}"));
                    let from = Origin { node, run: process.run, op };
                    self.store.submit(from, request, around.random, around.trace);
                }
                Action::Answer { call, answer } => {
                    let asked = self.calls.remove(&call);
                    assert_eq!(asked, Some(node), "accounted-push: {call:?} was answered twice");
                    self.answers.push((call, Some(answer)));
                }
                Action::AppsChanged => {}
            }
        }
        actions.clear();
        self.actions = actions;
    }

    /// What a node sends is a frame, and an answer to a pull holds nothing that has expired.
    fn check_sent(&self, bytes: &[u8], unix_ms: u64, around: &mut Reach<'_>) {
        let split = frame::split(bytes, LINK_BODY_BYTES_MAX).expect("a node's frames fit");
        let (frame, rest) = split.expect("a node sends whole frames");
        assert!(rest.is_empty(), "a node sends one frame at a time");
        let frame = ToBroker::decode(frame).expect("a node's frames decode").expect("known frame");
        around.trace.reach(down_label(&frame));
        let check = |entry: Entry<'_>| {
            let number = message_number(entry.payload).expect("entries are the workload's");
            let message = &around.ledger.messages[number as usize];
            let expires_ms = UNIX_START_MS + message.sent_ms + u64::from(message.ttl_s) * 1000;
            assert!(
                unix_ms <= expires_ms + 2 * self.skew_ms,
                "accounted-push: message {number} was sent after its expiry"
            );
        };
        match frame {
            ToBroker::Entries { entries, .. }
            | ToBroker::GroupEntries { entries, .. }
            | ToBroker::GroupFetched { entries, .. } => {
                entries.iter().filter(|entry| !entry.payload.is_empty()).for_each(check);
            }
            _ => {}
        }
    }

    pub fn invariants(&self) {
        for node in self.nodes.iter().filter_map(|process| process.node.as_ref()) {
            node.invariants();
        }
    }
}

/// What a control process needs from the world beside itself.
pub struct Reach<'a> {
    pub ledger: &'a mut Ledger,
    pub random: &'a mut Random,
    pub trace: &'a mut Trace,
}

fn node_of(dial: &Dial) -> usize {
    let mut nodes = 0..usize::from(u8::MAX);
    nodes.find(|&node| node_address(node) == dial.dialled.address).expect("an address of ours")
}

fn prove(context: &[u8], transcript: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&LINK_KEY).expect("any length is a key");
    mac.update(context);
    mac.update(transcript);
    mac.finalize().into_bytes().into()
}

fn up_label(frame: &ToControl<'_>) -> &'static str {
    match frame {
        ToControl::Hello(_) | ToControl::Proof { .. } | ToControl::Pong { .. } => "link: shell",
        ToControl::Announce(_) => "link: announce",
        ToControl::Gone(_) => "link: gone",
        ToControl::Pull(_) => "link: pull",
        ToControl::Ack(_) => "link: ack",
        ToControl::GroupAck(_) => "link: group ack",
        ToControl::GroupPull { .. } => "link: group pull",
        ToControl::GroupFetch { .. } => "link: group fetch",
        ToControl::GroupSent { .. } => "link: group sent",
    }
}

fn down_label(frame: &ToBroker<'_>) -> &'static str {
    match frame {
        ToBroker::Challenge { .. }
        | ToBroker::Accepted { .. }
        | ToBroker::Refused { .. }
        | ToBroker::Ping { .. } => "link: shell",
        ToBroker::Keys(_) => "link: keys",
        ToBroker::Deliver { .. } => "link: deliver",
        ToBroker::Entries { .. } => "link: entries",
        ToBroker::GroupDeliver { .. } => "link: group deliver",
        ToBroker::GroupCursor { .. } => "link: group cursor",
        ToBroker::GroupEntries { .. } => "link: group entries",
        ToBroker::GroupFetched { .. } => "link: group fetched",
        ToBroker::Kick { .. } => "link: kick",
        ToBroker::Reset { .. } => "link: reset",
    }
}
