//! The sans-IO control node: what one control node knows and decides.
//!
//! ```text
//!  calls.rs ─▶ append.rs ─▶ delivery.rs          a push: check, store, answer, send
//!  routes.rs                                     Announce, Gone, Kick; links
//!  pulls.rs  acks.rs                             Pull, GroupPull, GroupFetch; Ack
//!  group.rs                                      ends of group logs, counts of their entries
//!  expiry.rs  accounts.rs  apps.rs               what runs by time
//!  event.rs  limits.rs  counters.rs  table.rs    vocabulary
//!  model.rs                                      the store in memory
//! ```
//!
//! Everything here is soft: a node that starts again reads the apps from the store, the rest comes
//! with the announcements. Nodes that share a store do not talk to each other. What they must agree
//! on, the store decides (numbers of entries, apps, what a trim removed) or the epochs of sessions
//! do.
//!
//! Invariants: every call is answered once; an answer `Accepted` follows the store's; a stream has
//! one append under way; everything that waits is within [`limits::Limits`].

use hawser_codec::ids::{AppId, DeviceId, HashKey};
use hawser_codec::link::{Announced, Gone, ToControl, to_broker};

use crate::records::{App, MessageId};

pub mod event;
pub mod limits;

mod accounts;
mod acks;
mod append;
mod apps;
mod calls;
pub mod counters;
mod delivery;
mod expiry;
mod group;
pub mod model;
mod pulls;
mod routes;
mod table;

use counters::{Counter, Counters};
use event::{
    Action, Actions, CallId, Count, Event, GroupInfo, LinkId, Now, OpId, StoreOp, StoreResult,
    StreamId, Trim,
};
use limits::Limits;
use pulls::Reader;
use routes::{Announcement, Loser};
use table::Table;

/// Parts of the route table that are cleaned of a lost link's routes at a time.
const PURGE_PARTS: usize = 4;

/// What a node must know. Plain values; the configuration file is the shell's.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Differs between the nodes that share a store.
    pub node: u64,
    /// The key of every `DeviceId`, kept in the store (`records::HASH_KEY_KEY`).
    pub hash_key: HashKey,
    pub limits: Limits,
    /// A deliberate mistake, for tests that must notice it.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<SeededBug>,
}

impl NodeConfig {
    pub fn new(node: u64, hash_key: HashKey) -> NodeConfig {
        NodeConfig {
            node,
            hash_key,
            limits: Limits::default(),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }

    #[cfg(feature = "seeded-bugs")]
    fn bug(&self, bug: SeededBug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "seeded-bugs"))]
    fn bug(&self, _bug: SeededBug) -> bool {
        false
    }
}

/// Realistic one-line mistakes. One at a time is switched on by `NodeConfig::bug`, which exists
/// with the feature `seeded-bugs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeededBug {
    /// A push is answered without a look at what the store said.
    AnswerWithoutStore,
    /// A conflict is taken for a success.
    ConflictIsSuccess,
    /// The announcement that came last wins, whatever its epoch.
    RouteIgnoresEpoch,
    /// An acknowledgement trims one entry more.
    TrimsOneTooMany,
    /// A pull does not look at expiry.
    ExpiredDelivered,
    /// The group cursor counts entries that are not stored yet.
    CursorTooEarly,
    /// The idempotency record is left out of the transaction when it is tried again.
    RecordForgottenOnRetry,
    /// A pull whose read fails is dropped.
    PullLostOnFailure,
}

impl SeededBug {
    pub const ALL: [SeededBug; 8] = [
        SeededBug::AnswerWithoutStore,
        SeededBug::ConflictIsSuccess,
        SeededBug::RouteIgnoresEpoch,
        SeededBug::TrimsOneTooMany,
        SeededBug::ExpiredDelivered,
        SeededBug::CursorTooEarly,
        SeededBug::RecordForgottenOnRetry,
        SeededBug::PullLostOnFailure,
    ];
}

/// Store operations under way, and what each is for.
#[derive(Debug, Default)]
struct Ops {
    last: u64,
    under_way: Table<OpId, Purpose>,
}

/// Who continues when the store has answered.
#[derive(Debug)]
enum Purpose {
    Append(StreamId),
    Read(Box<pulls::Reading>),
    DeleteThenSend(Box<pulls::Ready>),
    Trim(Vec<Trim>),
    GroupTail(AppId),
    Scan,
    Sweep(expiry::Sweeping),
    SweepDelete(expiry::Sweeping),
    Counts(Vec<Count>),
    ReadApps,
    WriteApp { creation: Box<apps::Creation>, app: AppId, expected: u64 },
    Find { call: CallId, id: MessageId },
    GroupCounts { call: CallId, info: GroupInfo },
    Device { call: CallId, device: DeviceId },
    Status { call: CallId },
}

impl Ops {
    fn store(&mut self, purpose: Purpose, request: StoreOp, out: &mut Actions) {
        self.last += 1;
        let op = OpId(self.last);
        self.under_way.insert(op, purpose);
        out.list.push(Action::Store { op, request });
    }

    fn purposes(&self) -> impl Iterator<Item = &Purpose> {
        self.under_way.values()
    }
}

/// One control node's soft state and everything decided upon it.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    counters: Counters,
    ops: Ops,
    apps: apps::Apps,
    accounts: accounts::Accounts,
    routes: routes::Routes,
    appends: append::Appends,
    pulls: pulls::Pulls,
    acks: acks::Acks,
    groups: group::Groups,
    sweep: expiry::Sweep,
    /// API calls other than pushes that are not answered yet.
    calls_waiting: usize,
    is_store_up: bool,
    /// Failures of the store since its last answer, for the pause between attempts.
    failures: u32,
    /// Of the last call.
    mono_ms: u64,
}

impl Node {
    /// Asks for nothing yet: the first [`Node::on_time`] reads the apps.
    pub fn new(config: NodeConfig) -> Node {
        Node {
            config,
            counters: Counters::default(),
            ops: Ops::default(),
            apps: apps::Apps::default(),
            accounts: accounts::Accounts::default(),
            routes: routes::Routes::new(),
            appends: append::Appends::default(),
            pulls: pulls::Pulls::default(),
            acks: acks::Acks::default(),
            groups: group::Groups::default(),
            sweep: expiry::Sweep::default(),
            calls_waiting: 0,
            is_store_up: true,
            failures: 0,
            mono_ms: 0,
        }
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, event: Event<'_>, now: Now, out: &mut Actions) {
        self.mono_ms = now.mono_ms;
        match event {
            Event::LinkUp { link, broker, incarnation, shard } => {
                self.on_link_up(link, broker, incarnation, shard, out);
            }
            Event::LinkDown { link } => {
                if self.routes.link_down(link) {
                    self.pulls.link_down(link);
                }
            }
            Event::Frame { link, frame } if self.routes.link(link).is_some() => {
                self.on_frame(link, frame, now, out);
            }
            Event::Frame { .. } => self.counters.add(Counter::Unexpected, 1),
            Event::Call { call, request } => self.on_call(call, request, now, out),
            Event::Stored { op, result } => self.on_stored(op, result, now, out),
        }
    }

    fn on_link_up(
        &mut self,
        link: LinkId,
        broker: u64,
        incarnation: u64,
        shard: u16,
        out: &mut Actions,
    ) {
        if let Some(replaced) = self.routes.link_up(link, broker, incarnation, shard) {
            self.pulls.link_down(replaced);
        }
        self.send_keys(&[link], out);
    }

    /// A frame of a link that is up.
    fn on_frame(&mut self, link: LinkId, frame: ToControl<'_>, now: Now, out: &mut Actions) {
        match frame {
            ToControl::Announce(list) => {
                list.iter().for_each(|announced| self.on_announced(link, announced, now, out));
            }
            ToControl::Gone(list) => list.iter().for_each(|gone| self.on_gone(link, gone)),
            ToControl::Pull(list) => {
                list.iter().for_each(|pulled| self.on_pull(link, pulled, now, out));
            }
            ToControl::Ack(list) => list.iter().for_each(|acked| self.on_ack(acked)),
            ToControl::GroupAck(list) => list.iter().for_each(|acked| self.on_group_ack(acked)),
            ToControl::GroupPull { app, session, from, topics } => {
                let topics = topics.iter().collect();
                self.request(link, Reader::Group { app, session, topics }, from, now, out);
            }
            ToControl::GroupFetch { app, from } => {
                self.counters.add(Counter::Fetches, 1);
                self.request(link, Reader::Fetch { app }, from, now, out);
            }
            ToControl::GroupSent { app, seq, sent, waiting } => {
                self.on_group_sent(app, seq, sent, waiting);
            }
            ToControl::Hello(_) | ToControl::Proof { .. } | ToControl::Pong { .. } => {
                self.counters.add(Counter::Unexpected, 1);
            }
        }
    }

    fn on_announced(&mut self, link: LinkId, announced: Announced, now: Now, out: &mut Actions) {
        self.counters.add(Counter::Announced, 1);
        let compares_epochs = !self.bug(SeededBug::RouteIgnoresEpoch);
        let routes_max = self.config.limits.routes_max;
        let Announced { device, app, acked, .. } = announced;
        // A shard without any link keeps acknowledgements for the next announcement.
        self.acknowledge(StreamId::Inbox { app, device }, acked);
        match self.routes.announce(link, &announced, routes_max, compares_epochs) {
            Announcement::Routed { first_of_app, loser } => {
                if first_of_app {
                    self.ask_cursor(link, app, out);
                }
                if let Some(loser) = loser {
                    self.counters.add(Counter::Moved, 1);
                    self.kick(loser, out);
                }
                self.remind_of_end(link, &announced, now, out);
            }
            Announcement::Stale { loser } => {
                self.counters.add(Counter::AnnouncedStale, 1);
                self.kick(loser, out);
            }
            Announcement::NoRoom => self.counters.add(Counter::RoutesRefused, 1),
        }
    }

    fn kick(&mut self, loser: Loser, out: &mut Actions) {
        self.counters.add(Counter::Kicks, 1);
        out.send(loser.link, |bytes| to_broker::kick(bytes, loser.session, loser.epoch));
    }

    fn on_gone(&mut self, link: LinkId, gone: Gone) {
        if self.routes.gone(link, gone.device, gone.session) {
            self.counters.add(Counter::Gone, 1);
        }
    }

    fn on_stored(&mut self, op: OpId, result: StoreResult, now: Now, out: &mut Actions) {
        self.note_store_health(&result);
        let purpose = self.ops.under_way.remove(&op).expect("each operation is reported once");
        match purpose {
            Purpose::Append(stream) => self.on_append(stream, result, now, out),
            Purpose::Read(reading) => self.on_read(*reading, result, now, out),
            Purpose::DeleteThenSend(ready) => self.on_deleted_then_send(*ready, result, now, out),
            Purpose::Trim(trims) => self.on_trimmed(trims, result, now, out),
            Purpose::GroupTail(app) => self.on_group_tail(app, result, now, out),
            Purpose::Scan => self.on_scanned(result, now, out),
            Purpose::Sweep(sweeping) => self.on_swept(sweeping, result, now, out),
            Purpose::SweepDelete(sweeping) => self.on_sweep_deleted(sweeping, result, out),
            Purpose::Counts(counts) => self.on_counted(counts, result, now, out),
            Purpose::ReadApps => self.on_apps(result, now, out),
            Purpose::WriteApp { creation, app, expected } => {
                self.on_app_written(*creation, (app, expected), result, now, out);
            }
            Purpose::Find { call, id } => self.on_found(call, id, result, now, out),
            Purpose::GroupCounts { call, info } => self.on_group_counts(call, info, result, out),
            Purpose::Device { call, device } => self.on_device(call, device, result, out),
            Purpose::Status { call } => self.on_status(call, result, out),
        }
    }

    fn note_store_health(&mut self, result: &StoreResult) {
        self.is_store_up = !matches!(result, StoreResult::Failed(_));
        if self.is_store_up {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.counters.add(Counter::StoreFailures, 1);
        }
    }

    /// The pause before something is tried again, here and by callers: it doubles with every
    /// failure of the store in a row.
    fn retry_after_ms(&self) -> u32 {
        let limits = &self.config.limits;
        let doubled = limits.store_retry_ms << self.failures.min(16);
        doubled.min(limits.store_retry_max_ms) as u32
    }

    /// Does what is due. Early calls do nothing.
    pub fn on_time(&mut self, now: Now, out: &mut Actions) {
        self.mono_ms = now.mono_ms;
        let is_due = |deadline: Option<u64>| deadline.is_some_and(|at_ms| at_ms <= now.mono_ms);
        if is_due(self.apps.deadline_ms()) {
            self.read_apps(now, out);
        }
        self.flush_acks(now, out);
        self.start_reads(now, out);
        if is_due(self.counts_deadline_ms()) {
            self.flush_counts(now, out);
        }
        if is_due(self.sweep.deadline_ms()) {
            self.start_sweep(out);
        }
        if is_due(Some(self.groups.check_due_ms())) {
            self.check_groups(now, out);
        }
        for _ in 0..PURGE_PARTS {
            self.routes.purge_part();
        }
    }

    /// When `on_time` must be called next, in `Now::mono_ms`. A time that has passed means at once.
    pub fn deadline_ms(&self) -> Option<u64> {
        let limits = &self.config.limits;
        [
            self.apps.deadline_ms(),
            self.acks.deadline_ms(limits),
            self.pulls.deadline_ms(limits.reads_max),
            self.counts_deadline_ms(),
            self.sweep.deadline_ms(),
            Some(self.groups.check_due_ms()),
            self.routes.has_dead_routes().then_some(self.mono_ms),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The registered apps, in ascending order of id, as of the last read.
    pub fn apps(&self) -> &[App] {
        self.apps.list()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn bug(&self, bug: SeededBug) -> bool {
        self.config.bug(bug)
    }

    /// Asserts the whole structure; slow, for tests.
    pub fn invariants(&self) {
        let limits = &self.config.limits;
        self.apps.invariants();
        self.routes.invariants(limits.routes_max);
        self.appends.invariants(self);
        self.pulls.invariants(self);
        self.acks.invariants(self);
        self.groups.invariants(self);
        self.sweep.invariants(self);
        assert!(self.calls_waiting <= limits.calls_waiting_max, "bounded: calls");
    }
}
