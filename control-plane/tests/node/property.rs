//! Two nodes, one store, two shards, four devices, and everything that can go wrong between them.
//!
//! A run is a list of numbers, each a step: a push, a store operation that happens or fails or
//! happens unheard, a frame that arrives, a link lost or made, a device that moves, a node that
//! dies. Shards and devices are models of the contract's rules; the nodes are real. Then everything
//! heals, and the account is drawn up:
//!
//! - what was answered as accepted is in the store's history, under the answered number;
//! - a device gets each entry once, in order, with its payload, never after its expiry;
//! - at the end every entry was delivered, or expired, or was collapsed; the counters say so too;
//! - only what a device has is trimmed;
//! - every node routes a device to its newest session.

use std::collections::{BTreeMap, BTreeSet};

use hawser_codec::ids::{Seq, SessionRef};
use hawser_codec::link::{Entry, EntryFlags, ToBroker};
use hawser_control::node::counters::Counter;
use hawser_control::node::event::{
    Answer, CallId, LinkId, Outcome, PushOutcome, Removal, Request, StoreOp, StoreResult, StreamId,
    To,
};
use hawser_control::node::limits::Limits;
use hawser_control::records::{self, KeyHash, Quota};
use proptest::prelude::*;

use crate::rig::{APP, Fate, Rig, Sent, decode, device, push};

mod fleet;

const NODES: usize = 2;
const SHARDS: usize = 2;
const DEVICES: usize = 4;
const GROUP: StreamId = StreamId::Group { app: APP };

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..Default::default() })]

    #[test]
    fn accepted_messages_are_accounted_for(steps in prop::collection::vec(any::<u32>(), 0..400)) {
        World::run(&steps);
    }
}

#[cfg(feature = "seeded-bugs")]
mod bugs {
    use super::World;
    use hawser_control::node::SeededBug;
    use std::cell::Cell;

    thread_local! {
        pub static BUG: Cell<Option<SeededBug>> = const { Cell::new(None) };
    }

    /// Each deliberate mistake is noticed by some run, and the same runs are right without it.
    #[test]
    fn every_seeded_bug_is_noticed() {
        assert_eq!(failing_seed(None), None, "without a bug");
        std::panic::set_hook(Box::new(|_| {}));
        let unseen: Vec<SeededBug> =
            SeededBug::ALL.into_iter().filter(|&bug| failing_seed(Some(bug)).is_none()).collect();
        let _ = std::panic::take_hook();
        assert!(unseen.is_empty(), "not noticed: {unseen:?}");
    }

    fn failing_seed(bug: Option<SeededBug>) -> Option<u64> {
        BUG.set(bug);
        let seed = (1..200).find(|&seed| {
            let steps = steps(seed);
            std::panic::catch_unwind(|| World::run(&steps)).is_err()
        });
        BUG.set(None);
        seed
    }

    /// Xorshift: the same steps for the same seed.
    fn steps(seed: u64) -> Vec<u32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as u32
        };
        (0..400).map(|_| next()).collect()
    }
}

#[cfg(feature = "seeded-bugs")]
pub fn bug() -> Option<hawser_control::node::SeededBug> {
    bugs::BUG.get()
}

/// A shard by the contract's rules.
#[derive(Default)]
struct Shard {
    links: [Option<u32>; NODES],
    rows: BTreeMap<u32, Row>,
    cursor: Option<Seq>,
    wanted: Seq,
    fetching: Option<u32>,
}

/// A session of a shard. Slots are not used again.
struct Row {
    device: usize,
    epoch: u64,
    sent: Seq,
    latest: Seq,
    acked: Seq,
    /// The link of the pull under way.
    pulling: Option<u32>,
    group_pulling: Option<u32>,
}

#[derive(Default)]
struct Device {
    home: Option<(usize, u32)>,
    epoch: u64,
    position: Seq,
    group: Option<Seq>,
    group_start: Seq,
    got: BTreeMap<Seq, Vec<u8>>,
    group_got: BTreeMap<Seq, Vec<u8>>,
}

/// A message as its sender knows it.
struct Message {
    stream: StreamId,
    request: hawser_control::node::event::Push,
    accepted: Option<Seq>,
}

/// A frame on its way to a node.
struct Up {
    node: usize,
    link: u32,
    bytes: Vec<u8>,
}

struct World {
    rig: Rig,
    uplink: Vec<Up>,
    shards: [Shard; SHARDS],
    devices: [Device; DEVICES],
    messages: Vec<Message>,
    calls: BTreeMap<CallId, usize>,
    /// Every entry that was ever stored.
    history: BTreeMap<(StreamId, Seq), records::Entry>,
    /// Done at the store while the node that asked did not hear of it.
    unheard_appends: u64,
    unheard_removals: u64,
    /// The counters of nodes that died: accepted, removed.
    retired: (u64, u64),
    next_id: u32,
    frames_checked: usize,
}

impl World {
    fn run(steps: &[u32]) {
        let mut world = World::new();
        for &step in steps {
            world.step(step);
        }
        world.heal();
        world.settle_accounts();
    }

    fn new() -> World {
        let limits = Limits {
            read_entries: 3,
            reads_max: 2,
            append_batch_max: 3,
            tails_max: 4,
            sweep_ms: 100,
            sweep_cycle_ms: 1_000,
            sweep_keys: 2,
            ..Limits::default()
        };
        let rig = Rig::new(NODES, limits, Quota { inbox_entries_max: 6, ..Quota::default() });
        let mut world = World {
            rig,
            uplink: Vec::new(),
            shards: Default::default(),
            devices: Default::default(),
            messages: Vec::new(),
            calls: BTreeMap::new(),
            history: BTreeMap::new(),
            unheard_appends: 0,
            unheard_removals: 0,
            retired: (0, 0),
            next_id: 0,
            frames_checked: 0,
        };
        for shard in 0..SHARDS {
            for node in 0..NODES {
                world.link_up(shard, node);
            }
        }
        world
    }

    fn step(&mut self, step: u32) {
        let (kind, a, b, c) =
            (step & 31, (step >> 5 & 31) as usize, (step >> 10 & 31) as usize, step >> 15);
        match kind {
            0..=3 => self.push(a, b, c),
            4..=5 => self.push_group(a),
            6 => self.push_again(a, b),
            7..=13 => self.finish(a, c),
            14..=17 => self.receive(a),
            18..=21 => self.hear(a),
            22..=23 => self.advance(if c % 8 == 0 { 1500 } else { 20 }),
            24..=25 => self.acknowledge(a % DEVICES, b),
            26..=28 => self.connect(a % DEVICES, b % SHARDS),
            29 => self.disconnect(a % DEVICES),
            30 => self.toggle_link(a % SHARDS, b % NODES),
            _ if c % 4 == 0 => self.restart(a % NODES, c),
            _ => {}
        }
        self.after();
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    // Senders.

    fn push(&mut self, a: usize, b: usize, c: u32) {
        let name = a % DEVICES;
        let index = self.messages.len();
        let mut request = push(To::Device(device(&name.to_string())), &format!("p{index}"));
        if b.is_multiple_of(4) {
            request.ttl_s = 1 + (b / 4) as u32 % 2;
        }
        if c.is_multiple_of(4) {
            request.collapse = Some(KeyHash(u128::from(c / 4 % 2)));
        }
        if (c / 8).is_multiple_of(3) {
            request.idempotency = Some(KeyHash(index as u128));
        }
        let stream = StreamId::Inbox { app: APP, device: device(&name.to_string()) };
        self.messages.push(Message { stream, request, accepted: None });
        self.call(index, a / DEVICES % NODES);
    }

    fn push_group(&mut self, a: usize) {
        let index = self.messages.len();
        let request = push(To::All, &format!("p{index}"));
        self.messages.push(Message { stream: GROUP, request, accepted: None });
        self.call(index, a % NODES);
    }

    /// A sender tries again with the same idempotency key, on whichever node.
    fn push_again(&mut self, a: usize, b: usize) {
        let repeatable: Vec<usize> = (0..self.messages.len())
            .filter(|&index| self.messages[index].request.idempotency.is_some())
            .collect();
        if let Some(&index) = repeatable.get(a % repeatable.len().max(1)) {
            self.call(index, b % NODES);
        }
    }

    fn call(&mut self, index: usize, node: usize) {
        let request = Request::Push(self.messages[index].request.clone());
        let call = self.rig.call(node, request);
        self.calls.insert(call, index);
    }

    /// What was answered is true now.
    fn check_answers(&mut self) {
        for (call, answer) in std::mem::take(&mut self.rig.answers) {
            let Some(index) = self.calls.remove(&call) else { panic!("nobody asked {call:?}") };
            let Answer::Accepted(accepted) = answer else { continue };
            let message = &mut self.messages[index];
            let stored = self.history.get(&(message.stream, accepted.seq));
            let stored = stored.expect("an accepted message is stored");
            assert_eq!(stored.payload, message.request.payload, "under the answered number");
            assert_eq!(accepted.id.seq, accepted.seq);
            match accepted.outcome {
                PushOutcome::Stored => {
                    assert_eq!(message.accepted, None, "one message is stored once");
                }
                PushOutcome::Duplicate => assert!(message.request.idempotency.is_some()),
            }
            message.accepted = Some(accepted.seq);
        }
    }

    // The store.

    fn finish(&mut self, a: usize, c: u32) {
        if self.rig.pending.is_empty() {
            return;
        }
        let fate = match c % 32 {
            0 => Fate::Refused,
            1 => Fate::DoneUnheard,
            2 => Fate::LostUnheard,
            _ => Fate::Done,
        };
        self.finish_as(a % self.rig.pending.len(), fate);
    }

    fn finish_as(&mut self, index: usize, fate: Fate) {
        let request = self.rig.pending[index].request.clone();
        if matches!(fate, Fate::Done | Fate::DoneUnheard) {
            self.check_trims(&request);
        }
        // The node acts on the result within `finish`: what is stored must be known before.
        let result = self.rig.model.clone().execute(&request, self.rig.now.unix_ms);
        if matches!(fate, Fate::Done | Fate::DoneUnheard) {
            self.record(&request, &result, fate == Fate::DoneUnheard);
        }
        self.rig.finish(index, fate);
    }

    fn record(&mut self, request: &StoreOp, result: &StoreResult, is_unheard: bool) {
        let (mut appended, mut removed) = (0, 0);
        match (request, result) {
            (StoreOp::Append { stream, seq, entry }, StoreResult::Appended) => {
                appended += 1;
                self.note(*stream, *seq, entry);
            }
            (
                StoreOp::AppendAll { stream, entries, .. },
                StoreResult::AppendedAll { outcomes, .. },
            ) => {
                for (new, outcome) in entries.iter().zip(outcomes) {
                    let seq = match outcome {
                        Outcome::Duplicate(_) => continue,
                        Outcome::Stored { seq } => seq,
                        Outcome::Collapsed { seq, .. } => {
                            removed += 1;
                            seq
                        }
                    };
                    appended += 1;
                    self.note(*stream, *seq, &new.entry);
                }
            }
            (StoreOp::Trim { .. }, StoreResult::Trimmed(counts)) => {
                removed += counts.iter().sum::<u64>();
            }
            (StoreOp::Delete { .. }, StoreResult::Deleted(count)) => removed += count,
            _ => {}
        }
        if is_unheard {
            self.unheard_appends += appended;
            self.unheard_removals += removed;
        }
    }

    fn note(&mut self, stream: StreamId, seq: Seq, stored: &bytes::Bytes) {
        let entry = records::Entry::decode(stored).expect("nodes store what they can read");
        let tail = self.rig.model.tail(stream).last;
        assert!(seq > tail, "numbers only grow");
        let dense = self.history.range((stream, Seq::ZERO)..=(stream, Seq::MAX)).count() as u64;
        assert_eq!(seq.0, dense + 1, "numbers are dense");
        let index = message_index(&entry.payload);
        if self.messages[index].request.idempotency.is_some() {
            let twice = self.history.values().any(|other| other.payload == entry.payload);
            assert!(!twice, "an idempotency key stores one message");
        }
        self.history.insert((stream, seq), entry);
    }

    /// An acknowledgement removes only what the device has.
    fn check_trims(&self, request: &StoreOp) {
        let StoreOp::Trim { trims } = request else { return };
        for trim in trims {
            let owner = (0..DEVICES).find(|index| stream_of(*index) == trim.stream);
            let owner = &self.devices[owner.expect("only inboxes are trimmed")];
            for (seq, _) in self.rig.model.entries(trim.stream) {
                let has = seq > trim.upto || owner.got.contains_key(&seq);
                assert!(has, "entry {seq:?} is trimmed and was never delivered");
            }
        }
    }

    fn restart(&mut self, node: usize, c: u32) {
        for shard in 0..SHARDS {
            if self.shards[shard].links[node].is_some() {
                self.link_down(shard, node);
            }
        }
        self.retire(node);
        self.rig.sent.retain(|sent| sent.node != node);
        self.frames_checked = self.rig.sent.len();
        for (index, orphan) in self.rig.restart(node).into_iter().enumerate() {
            // It may have been on its way already.
            if c >> (index % 8) & 4 != 0 {
                self.check_trims(&orphan.request);
                let result = self.rig.model.clone().execute(&orphan.request, self.rig.now.unix_ms);
                self.record(&orphan.request, &result, true);
                self.rig.model.execute(&orphan.request, self.rig.now.unix_ms);
            }
        }
        // Its callers hear nothing.
        for shard in 0..SHARDS {
            self.link_up(shard, node);
        }
    }

    fn retire(&mut self, node: usize) {
        let (accepted, removed) = self.counted(node);
        self.retired.0 += accepted;
        self.retired.1 += removed;
    }

    fn counted(&self, node: usize) -> (u64, u64) {
        let sum = |all: &[Counter]| -> u64 {
            all.iter().map(|&counter| self.rig.nodes[node].counters().get(counter)).sum()
        };
        let accepted = sum(&[Counter::Accepted, Counter::GroupAccepted]);
        let removed = [
            Counter::Delivered,
            Counter::Expired,
            Counter::Collapsed,
            Counter::GroupExpired,
            Counter::GroupCollapsed,
        ];
        (accepted, sum(&removed))
    }

    fn advance(&mut self, ms: u64) {
        self.rig.advance(ms);
    }

    /// After each step: answers are true, and what nodes sent may be sent.
    fn after(&mut self) {
        self.check_answers();
        for index in self.frames_checked..self.rig.sent.len() {
            let sent = self.rig.sent[index].clone();
            self.check_sent(&sent);
        }
        self.frames_checked = self.rig.sent.len();
    }

    fn check_sent(&self, sent: &Sent) {
        match decode(&sent.bytes) {
            ToBroker::Deliver { entry, .. } if entry.flags.contains(EntryFlags::NO_BODY) => {}
            ToBroker::Deliver { session, entry } => {
                self.check_entry(self.stream_at(sent.link, session), &entry);
            }
            ToBroker::Entries { session, entries, .. } => {
                let stream = self.stream_at(sent.link, session);
                entries.iter().for_each(|entry| self.check_entry(stream, &entry));
            }
            ToBroker::GroupDeliver { entry, .. } => self.check_entry(Some(GROUP), &entry),
            ToBroker::GroupEntries { entries, .. } | ToBroker::GroupFetched { entries, .. } => {
                entries.iter().for_each(|entry| self.check_entry(Some(GROUP), &entry));
            }
            _ => {}
        }
    }

    fn check_entry(&self, stream: Option<StreamId>, entry: &Entry<'_>) {
        // A session that has ended gets nothing, whatever is sent to it.
        let Some(stream) = stream else { return };
        let stored = &self.history[&(stream, entry.seq)];
        assert_eq!(stored.payload, entry.payload, "the payload of its number");
        assert!(stored.expires_unix_ms > self.rig.now.unix_ms, "never sent after its expiry");
    }

    fn stream_at(&self, link: LinkId, session: SessionRef) -> Option<StreamId> {
        let shard = self.shards.iter().find(|shard| shard.links.contains(&Some(link.0)))?;
        Some(stream_of(shard.rows.get(&session.slot)?.device))
    }

    // The end.

    fn heal(&mut self) {
        for shard in 0..SHARDS {
            for node in 0..NODES {
                if self.shards[shard].links[node].is_none() {
                    self.link_up(shard, node);
                }
            }
        }
        self.drain();
        for index in 0..DEVICES {
            // Some stay as they are: nothing but the rules may set them right.
            if index % 2 == 1 || self.devices[index].home.is_none() {
                self.connect(index, index % SHARDS);
            }
        }
        while !self.uplink.is_empty() {
            self.hear(0);
            self.after();
        }
        self.fail_reads();
        for _ in 0..40 {
            self.drain();
            for index in 0..DEVICES {
                self.acknowledge(index, index);
            }
            self.advance(500);
        }
        self.drain();
    }

    /// The store is away for a moment, while everybody reads.
    fn fail_reads(&mut self) {
        let is_read = |request: &StoreOp| matches!(request, StoreOp::Read { .. });
        while let Some(index) = self.rig.pending.iter().position(|op| is_read(&op.request)) {
            self.finish_as(index, Fate::Refused);
            self.after();
        }
    }

    fn drain(&mut self) {
        let mut rounds = 0;
        while !self.rig.pending.is_empty() || !self.rig.sent.is_empty() || !self.uplink.is_empty() {
            rounds += 1;
            assert!(rounds < 10_000, "it comes to rest");
            while !self.uplink.is_empty() {
                self.hear(0);
                self.after();
            }
            while !self.rig.pending.is_empty() {
                self.finish_as(0, Fate::Done);
                self.after();
            }
            while !self.rig.sent.is_empty() {
                self.receive(0);
                self.after();
            }
        }
    }

    fn settle_accounts(&mut self) {
        self.check_entries();
        self.check_counters();
        for index in 0..DEVICES {
            self.check_home(index);
        }
    }

    /// Every entry ended in one way.
    fn check_entries(&mut self) {
        let history: Vec<(StreamId, Seq)> = self.history.keys().copied().collect();
        let top = history.iter().filter(|(stream, _)| *stream == GROUP).count() as u64;
        for (stream, seq) in history {
            if stream == GROUP {
                self.check_group_entry(seq);
                continue;
            }
            let find = StoreOp::Find { stream, seq };
            let StoreResult::Found { entry, removal, .. } =
                self.rig.model.execute(&find, self.rig.now.unix_ms)
            else {
                panic!("the model finds");
            };
            if entry.is_some() {
                // Stored, but the sender was told that this is not certain, and did not ask again.
                let index = message_index(&self.history[&(stream, seq)].payload);
                let accepted = self.messages[index].accepted;
                assert_eq!(accepted, None, "everybody was online and acknowledged: nothing waits");
                continue;
            }
            let owner = (0..DEVICES).find(|index| stream_of(*index) == stream);
            let got = self.devices[owner.expect("inboxes have owners")].got.get(&seq);
            let stored = &self.history[&(stream, seq)];
            match removal {
                None => assert_eq!(got.expect("delivered"), &stored.payload),
                Some(Removal::Expired) => {
                    assert!(stored.expires_unix_ms <= self.rig.now.unix_ms);
                }
                Some(Removal::Collapsed) => {}
            }
        }
        for owner in &self.devices {
            assert_eq!(owner.group, Some(Seq(top)), "everybody is at the log's end");
        }
    }

    fn check_group_entry(&self, seq: Seq) {
        let payload = &self.history[&(GROUP, seq)].payload;
        for owner in &self.devices {
            let got = owner.group_got.get(&seq);
            assert_eq!(got.is_some(), seq > owner.group_start, "group entry {seq:?}");
            assert!(got.is_none_or(|got| got == payload));
        }
    }

    fn check_counters(&mut self) {
        let counted: Vec<(u64, u64)> = (0..NODES).map(|node| self.counted(node)).collect();
        let accepted = self.retired.0 + counted.iter().map(|of| of.0).sum::<u64>();
        let removed = self.retired.1 + counted.iter().map(|of| of.1).sum::<u64>();
        let streams: BTreeSet<StreamId> = self.rig.model.streams().collect();
        let tails = streams.iter().map(|&stream| self.rig.model.tail(stream));
        let (last, left) =
            tails.fold((0, 0), |(last, left), tail| (last + tail.last.0, left + tail.entries));
        assert_eq!(accepted + self.unheard_appends, last, "accounted-push: accepted");
        assert_eq!(removed + self.unheard_removals, last - left, "accounted-push: ended");
    }

    /// Both nodes know the newest session.
    fn check_home(&mut self, index: usize) {
        let (shard, _) = self.devices[index].home.expect("everybody is online");
        for node in 0..NODES {
            let request = Request::DeviceShow { app: APP, device: device(&index.to_string()) };
            let Answer::Device(info) = self.rig.ask(node, request) else { panic!("not shown") };
            let session = info.session.expect("the device is online");
            assert_eq!(session.broker, shard as u64 + 1, "one-home");
            assert_eq!(session.since_unix_ms, self.devices[index].epoch >> 16, "one-home");
        }
    }
}

fn stream_of(index: usize) -> StreamId {
    StreamId::Inbox { app: APP, device: device(&index.to_string()) }
}

fn message_index(payload: &[u8]) -> usize {
    std::str::from_utf8(&payload[1..]).unwrap().parse().unwrap()
}
