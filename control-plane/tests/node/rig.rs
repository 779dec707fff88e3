//! Nodes on one model store, driven by hand: every store operation stands in a list until the test
//! lets it happen, fail, or happen without an answer. After every step all invariants are checked,
//! and no call may be answered twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_codec::frame::split;
use hawser_codec::ids::{AppId, DeviceId, Epoch, HashKey, Seq, SessionRef, Stream, TopicId};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{Announced, Entry, EntryFlags, ToBroker, ToControl, to_control};
use hawser_control::node::event::{
    Action, Actions, Answer, CallId, Event, LinkId, Now, OpId, Priority, Push, Refusal, Request,
    StoreFailure, StoreOp, StoreResult, To, Wake,
};
use hawser_control::node::limits::Limits;
use hawser_control::node::model::Model;
use hawser_control::node::{Node, NodeConfig};
use hawser_control::records::{NewApp, Quota};

pub const HASH_KEY: HashKey = HashKey([7; 16]);
pub const APP: AppId = AppId(1);
pub const START_UNIX_MS: u64 = 1_800_000_000_000;

/// A store operation that a node asked for and that has not happened.
#[derive(Debug)]
pub struct Pending {
    pub node: usize,
    pub op: OpId,
    pub request: StoreOp,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// It did not happen, and the node is told so.
    Refused,
    /// It happened; the node is not told.
    DoneUnheard,
    /// It did not happen; the node is not told.
    LostUnheard,
}

/// A frame that a node sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub node: usize,
    pub link: LinkId,
    pub bytes: Vec<u8>,
}

pub struct Rig {
    pub model: Model,
    pub nodes: Vec<Node>,
    pub now: Now,
    pub pending: Vec<Pending>,
    pub sent: Vec<Sent>,
    pub answers: BTreeMap<CallId, Answer>,
    pub apps_changed: usize,
    calls: u64,
    limits: Limits,
}

impl Rig {
    /// Nodes that have read the apps, of which there is one, number 1, with this quota.
    pub fn new(count: usize, limits: Limits, quota: Quota) -> Rig {
        let mut rig = Rig::empty(count, limits);
        rig.settle();
        let call = rig.call(0, Request::AppCreate(new_app("shop", quota)));
        rig.settle();
        assert_eq!(rig.answer(call), Answer::AppCreated { app: APP });
        rig.advance(rig.limits.apps_refresh_ms);
        rig.settle();
        rig
    }

    /// Nodes that have asked for the apps and have not got them.
    pub fn empty(count: usize, limits: Limits) -> Rig {
        let mut rig = Rig {
            model: Model::default(),
            nodes: Vec::new(),
            now: Now { mono_ms: 0, unix_ms: START_UNIX_MS },
            pending: Vec::new(),
            sent: Vec::new(),
            answers: BTreeMap::new(),
            apps_changed: 0,
            calls: 0,
            limits,
        };
        for index in 0..count {
            let node = rig.new_node(index);
            rig.nodes.push(node);
            rig.tick(index);
        }
        rig
    }

    /// The node dies with what it knew; its operations' answers have nowhere to go.
    pub fn restart(&mut self, node: usize) -> Vec<Pending> {
        self.nodes[node] = self.new_node(node);
        let (orphans, pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|op| op.node == node);
        self.pending = pending;
        self.tick(node);
        orphans
    }

    fn new_node(&self, index: usize) -> Node {
        let mut config = NodeConfig::new(index as u64 + 1, HASH_KEY);
        config.limits = self.limits.clone();
        #[cfg(feature = "seeded-bugs")]
        {
            config.bug = crate::property::bug();
        }
        Node::new(config)
    }

    pub fn event(&mut self, node: usize, event: Event<'_>) {
        let mut out = Actions::default();
        self.nodes[node].on_event(event, self.now, &mut out);
        self.take(node, out);
    }

    fn tick(&mut self, node: usize) {
        let mut out = Actions::default();
        self.nodes[node].on_time(self.now, &mut out);
        self.take(node, out);
    }

    fn take(&mut self, node: usize, out: Actions) {
        for action in &out.list {
            match action {
                Action::Send { link, frame } => {
                    let bytes = out.frame(frame).to_vec();
                    self.sent.push(Sent { node, link: *link, bytes });
                }
                Action::Store { op, request } => {
                    self.pending.push(Pending { node, op: *op, request: request.clone() });
                }
                Action::Answer { call, answer } => {
                    let earlier = self.answers.insert(*call, answer.clone());
                    assert_eq!(earlier, None, "a call is answered once");
                }
                Action::AppsChanged => self.apps_changed += 1,
            }
        }
        self.nodes[node].invariants();
    }

    pub fn call(&mut self, node: usize, request: Request) -> CallId {
        self.calls += 1;
        let call = CallId(self.calls);
        self.event(node, Event::Call { call, request });
        call
    }

    pub fn answer(&mut self, call: CallId) -> Answer {
        self.answers.remove(&call).expect("the call is answered")
    }

    /// Calls, lets everything happen, and returns the answer.
    pub fn ask(&mut self, node: usize, request: Request) -> Answer {
        let call = self.call(node, request);
        self.settle();
        self.answer(call)
    }

    pub fn refusal(&mut self, node: usize, request: Request) -> Refusal {
        match self.ask(node, request) {
            Answer::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub fn finish(&mut self, index: usize, fate: Fate) -> StoreResult {
        let Pending { node, op, request } = self.pending.remove(index);
        let real = match fate {
            Fate::Done | Fate::DoneUnheard => self.model.execute(&request, self.now.unix_ms),
            Fate::Refused | Fate::LostUnheard => StoreResult::Failed(StoreFailure::NotDone),
        };
        let result = match fate {
            Fate::Done | Fate::Refused => real.clone(),
            Fate::DoneUnheard | Fate::LostUnheard => StoreResult::Failed(StoreFailure::Unknown),
        };
        self.event(node, Event::Stored { op, result });
        real
    }

    /// Lets all operations happen, also those that follow from them.
    pub fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.finish(0, Fate::Done);
        }
    }

    /// Lets time pass; nodes act where they asked to.
    pub fn advance(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        for node in 0..self.nodes.len() {
            if self.nodes[node].deadline_ms().is_some_and(|at_ms| at_ms <= self.now.mono_ms) {
                self.tick(node);
            }
        }
    }

    /// Time passes and the store answers, until nothing but the regular work is left.
    pub fn quiesce(&mut self, ms: u64) {
        for _ in 0..4 {
            self.advance(ms / 4);
            self.settle();
        }
    }

    /// A link comes up; the keys it is sent are taken off the list.
    pub fn link_up(&mut self, node: usize, link: u32, broker: u64, shard: u16) {
        let link = LinkId(link);
        self.event(node, Event::LinkUp { link, broker, incarnation: 1, shard });
        self.sent.retain(|sent| !matches!(decode(&sent.bytes), ToBroker::Keys(_)));
    }

    pub fn frame(&mut self, node: usize, link: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        let (frame, rest) = split(&bytes, LINK_BODY_BYTES_MAX).unwrap().expect("a whole frame");
        assert!(rest.is_empty());
        let frame = ToControl::decode(frame).unwrap().expect("a known frame");
        self.event(node, Event::Frame { link: LinkId(link), frame });
    }

    /// A session of the app appears.
    pub fn announce(&mut self, node: usize, link: u32, name: &str, slot: u32, epoch: u64) {
        let announced = Announced {
            device: device(name),
            app: APP,
            session: session(slot),
            epoch: Epoch(epoch),
            acked: Seq::ZERO,
        };
        self.frame(node, link, |out| to_control::announce(out, &[announced]));
    }

    /// What was sent since the last call, in words.
    pub fn frames(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
            .iter()
            .map(|sent| format!("{}: {}", sent.link.0, words(&decode(&sent.bytes))))
            .collect()
    }
}

pub fn decode(bytes: &[u8]) -> ToBroker<'_> {
    let (frame, rest) = split(bytes, LINK_BODY_BYTES_MAX).unwrap().expect("a whole frame");
    assert!(rest.is_empty(), "one frame per action");
    ToBroker::decode(frame).unwrap().expect("a known frame")
}

/// A frame as a test writes it down.
fn words(frame: &ToBroker<'_>) -> String {
    let at = |session: &SessionRef| format!("{}.{}", session.slot, session.generation);
    let list = |entries: &mut dyn Iterator<Item = Entry<'_>>| {
        entries.map(|entry| entry_words(&entry)).collect::<Vec<_>>().join(" ")
    };
    let more = |more: &bool| if *more { " more" } else { "" };
    match frame {
        ToBroker::Keys(keys) => {
            let names: Vec<&str> = keys.apps.iter().map(|app| app.name).collect();
            format!("keys v{} {}", keys.version, names.join(","))
        }
        ToBroker::Deliver { session, entry } => {
            format!("deliver {} {}", at(session), entry_words(entry))
        }
        ToBroker::Entries { session, upto, more: has_more, entries } => {
            let list = list(&mut entries.iter());
            format!("entries {} upto {}{} [{list}]", at(session), upto.0, more(has_more))
        }
        ToBroker::GroupDeliver { app, entry } => {
            format!("group {} {}", app.0, entry_words(entry))
        }
        ToBroker::GroupCursor { app, seq } => format!("cursor {} {}", app.0, seq.0),
        ToBroker::GroupEntries { session, upto, more: has_more, entries } => {
            let list = list(&mut entries.iter());
            format!("group-entries {} upto {}{} [{list}]", at(session), upto.0, more(has_more))
        }
        ToBroker::GroupFetched { app, upto, more: has_more, entries } => {
            let list = list(&mut entries.iter());
            format!("fetched {} upto {}{} [{list}]", app.0, upto.0, more(has_more))
        }
        ToBroker::Kick { session, epoch } => format!("kick {} {}", at(session), epoch.0),
        ToBroker::Reset { session, stream: Stream::Inbox, seq } => {
            format!("reset {} {}", at(session), seq.0)
        }
        ToBroker::Reset { session, stream: Stream::Group, seq } => {
            format!("group-reset {} {}", at(session), seq.0)
        }
        other => panic!("a node does not send {other:?}"),
    }
}

fn entry_words(entry: &Entry<'_>) -> String {
    let topic = if entry.topic == TopicId::ALL { "" } else { "/topic" };
    let wake = if entry.flags.contains(EntryFlags::WHEN_AWAKE) { "/awake" } else { "" };
    let body = if entry.flags.contains(EntryFlags::NO_BODY) {
        "/no-body".to_owned()
    } else if entry.payload.len() > 16 {
        format!("={}B", entry.payload.len())
    } else {
        format!("={}", String::from_utf8_lossy(entry.payload))
    };
    format!("{}{topic}{wake}{body}", entry.seq.0)
}

pub fn device(name: &str) -> DeviceId {
    DeviceId::new(&HASH_KEY, "shop", name)
}

/// The slot's first session, by convention generation 1.
pub fn session(slot: u32) -> SessionRef {
    SessionRef { slot, generation: 1 }
}

pub fn new_app(name: &str, quota: Quota) -> NewApp {
    NewApp {
        name: name.to_owned(),
        quota,
        api_key_hash: [3; 32],
        keys: Vec::new(),
        created_unix_ms: START_UNIX_MS,
    }
}

/// An ordinary message; tests change what they are about.
pub fn push(to: To, payload: &str) -> Push {
    Push {
        app: APP,
        to,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ttl_s: 3600,
        priority: Priority::Normal,
        wake: Wake::Now,
        collapse: None,
        idempotency: None,
    }
}

pub fn to(name: &str) -> To {
    To::Device(device(name))
}
