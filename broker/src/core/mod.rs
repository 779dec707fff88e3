//! The sans-IO core of one shard: what is decided, without a socket, a clock or a random number.
//!
//! ```text
//!   Event, Now ──▶ on_event ──┐                              ┌──▶ Actions (and the bytes they name)
//!                             ├─▶ rows, topics, apps, wheel ─┤
//!   Now, Gauges ─▶ on_turn  ──┘                              └──▶ Counters
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | [`event`] | the vocabulary: everything that can happen, everything that can be asked for |
//! | `session` | one connection from accept to close; heartbeats, epochs, takeover |
//! | `delivery` | the inbox: push at once, or notice, pull, entries |
//! | `group` | the app's log: order, gaps, fan-out, group pulls |
//! | `overload` | refusals, the accept delay, the drain |
//! | `links` | announcements, pulls and acknowledgements in batches; walks over all sessions |
//! | `apps`, `ticket` | key sets; who may connect |
//! | `rows`, `topics`, `wheel` | the memory: 96 bytes a session, 20 a topic, no heap object each |
//!
//! A turn costs what happened in it: events are handled one by one, and the rest of the work
//! (fan-out, walks, drain) advances by a budget. Nothing is hashed on the way of a delivery: a
//! route is a slot and a generation.
//!
//! Invariants, asserted where they hold and by [`Core::invariants`]: **one-home** (`session`),
//! **fifo-per-device** (`delivery`, `group`), **accounted-push** (nothing is dropped silently: an
//! entry is sent, or waits under `latest` or `G_LAG`, or is a duplicate), **quiesced-slot**
//! (`session`), **bounded** (each file's limits).

use hawser_codec::cursor::Reader;
use hawser_codec::device::Downlink;
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::ids::{Epoch, Stream};
use hawser_codec::limits::{ADDRESS_BYTES_MAX, REDIRECT_ADDRESSES_MAX, TOPICS_PER_SESSION_MAX};
use hawser_codec::link::{Keys, ToBroker, to_control};

use crate::metrics::{Counter, Counters};

mod apps;
mod delivery;
pub mod event;
mod group;
mod links;
mod overload;
mod rows;
mod session;
mod ticket;
mod topics;
mod wheel;

use apps::Apps;
use event::{Action, Actions, Event, LinkIndex, Now};
use group::Fanout;
use links::Links;
use overload::Drain;
use rows::{Chunks, Flags, Row, State};
use session::Heartbeat;
use topics::Topics;
use wheel::Wheel;

/// What a shard's core must know. Plain values; the configuration file is the shell's.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Slots are numbered `0..slots_max`.
    pub slots_max: u32,
    /// Connections above this are refused. At most `slots_max`.
    pub connections_max: u32,
    /// Links are numbered `0..links`.
    pub links: u8,
    pub handshake_timeout_ms: u64,
    pub heartbeat_min_ms: u64,
    pub heartbeat_max_ms: u64,
    /// A session is idle after one and a half intervals and this margin.
    pub heartbeat_margin_ms: u64,
    pub accept_delay_above: u32,
    pub accept_delay_ms_per_100k: u64,
    pub retry_after_ms: u32,
    pub drain_per_s: u32,
    /// At most `REDIRECT_ADDRESSES_MAX` addresses of at most `ADDRESS_BYTES_MAX` bytes.
    pub redirect: Vec<String>,
    pub topics_max: u32,
    /// Memory for topics above which no session joins another one.
    pub topics_bytes_max: usize,
    /// Sends of group entries in one turn.
    pub fanout_budget: u32,
    /// Sessions announced again in one turn.
    pub announce_budget: u32,
    /// Keys the hash of the topic table, so that devices cannot choose colliding topics.
    pub seed: u64,
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<SeededBug>,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig {
            slots_max: 20_000,
            connections_max: 20_000,
            links: 1,
            handshake_timeout_ms: 10_000,
            heartbeat_min_ms: 180_000,
            heartbeat_max_ms: 600_000,
            heartbeat_margin_ms: 20_000,
            accept_delay_above: 1_000_000,
            accept_delay_ms_per_100k: 50,
            retry_after_ms: 5_000,
            drain_per_s: 1_000,
            redirect: Vec::new(),
            topics_max: 32,
            topics_bytes_max: 64 << 20,
            fanout_budget: 4096,
            announce_budget: 4096,
            seed: 0,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

/// What the shell measures and the core decides upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Free memory is below the watermark: nobody is admitted.
    pub memory_low: bool,
    /// Input waits that came before now: that a connection is silent is not known.
    pub is_behind: bool,
    /// Bytes held for devices that do not read. Only shown.
    pub outbox_bytes: u64,
}

/// A mistake that can be switched on where tests must show that they would see it. Only with the
/// feature `seeded-bugs` is there a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// A delivery reaches whoever has the slot now.
    StaleGeneration,
    /// The flag of an outstanding pull is not cleared by its answer.
    PullNeverEnds,
    /// A kick closes the session, even if it is the newer one.
    KickWithoutEpoch,
    /// A body is sent although the socket is full.
    PushesAlthoughBlocked,
    /// A body is sent although entries before it are missing.
    PushesOverGap,
    /// What was asked of a link that was lost is not asked again.
    NoPullAfterLinkLoss,
    /// The cursor of a group log moves past a gap.
    GroupCursorSkipsGap,
    /// A device that reads again is not told what it missed.
    NoticeForgotten,
    /// A when-awake message does not wait for the heartbeat.
    AwakeAtOnce,
    /// A slot is free before the kernel has let go of it.
    SlotFreeBeforeClosed,
    /// An acknowledgement that comes while no link is up is forgotten.
    AckLostWithoutLink,
    /// A pull after a link's loss acknowledges what was only written to the socket.
    PullConfirmsUnread,
    /// An epoch need not be above that of the device's last session.
    EpochIgnoresLast,
}

impl SeededBug {
    pub const ALL: [SeededBug; 13] = [
        SeededBug::StaleGeneration,
        SeededBug::PullNeverEnds,
        SeededBug::KickWithoutEpoch,
        SeededBug::PushesAlthoughBlocked,
        SeededBug::PushesOverGap,
        SeededBug::NoPullAfterLinkLoss,
        SeededBug::GroupCursorSkipsGap,
        SeededBug::NoticeForgotten,
        SeededBug::AwakeAtOnce,
        SeededBug::SlotFreeBeforeClosed,
        SeededBug::AckLostWithoutLink,
        SeededBug::PullConfirmsUnread,
        SeededBug::EpochIgnoresLast,
    ];
}

/// One shard's sessions and everything decided about them.
pub struct Core {
    config: CoreConfig,
    counters: Counters,
    heartbeat: Heartbeat,
    rows: Chunks<Row>,
    wheel: Wheel,
    topics: Topics,
    apps: Apps,
    fanout: Fanout,
    links: Links,
    drain: Option<Drain>,
    /// The shard's hybrid logical clock.
    clock: Epoch,
    /// The last time heard.
    now_ms: u64,
    memory_low: bool,
    /// Slots from here on were never used.
    slots_end: u32,
    /// Slots that are not free.
    slots_in_use: u32,
    /// Connections that are neither free nor closing.
    active: u32,
    /// Sessions.
    online: u32,
    /// Sessions whose socket is full.
    blocked: u32,
}

impl Core {
    /// Panics if the configuration contradicts itself; the shell checks it with its plan.
    pub fn new(config: CoreConfig) -> Core {
        assert!(config.slots_max <= wheel::SLOTS_MAX);
        assert!(config.connections_max <= config.slots_max);
        assert!(config.topics_max as usize <= TOPICS_PER_SESSION_MAX);
        assert!(config.drain_per_s > 0 && config.fanout_budget > 0 && config.announce_budget > 0);
        assert!(config.redirect.len() <= REDIRECT_ADDRESSES_MAX);
        let is_address = |address: &String| (1..=ADDRESS_BYTES_MAX).contains(&address.len());
        assert!(config.redirect.iter().all(is_address));
        Core {
            counters: Counters::default(),
            heartbeat: Heartbeat::new(&config),
            rows: Chunks::new(),
            wheel: Wheel::new(),
            topics: Topics::new(config.seed),
            apps: Apps::new(),
            fanout: Fanout::default(),
            links: Links::new(config.links),
            drain: None,
            clock: Epoch::ZERO,
            now_ms: 0,
            memory_low: false,
            slots_end: 0,
            slots_in_use: 0,
            active: 0,
            online: 0,
            blocked: 0,
            config,
        }
    }

    /// Takes over a key set that was kept on disk (`Action::SaveKeys`).
    pub fn restore_keys(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        let keys = Keys::decode(&mut reader)?;
        reader.end()?;
        self.apps.replace(&keys);
        Ok(())
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, event: Event<'_>, now: Now, out: &mut Actions) {
        self.now_ms = now.mono_ms;
        match event {
            Event::Accepted { slot } => self.on_accepted(slot, now, out),
            Event::Frame { slot, frame } => self.on_frame(slot, frame, now, out),
            Event::BadInput { slot, error } => self.on_bad_input(slot, error, out),
            Event::Hangup { slot, reason } => self.close(slot, reason, out),
            Event::Blocked { slot } => self.on_blocked(slot),
            Event::Drained { slot } => self.on_drained(slot, out),
            Event::SlowReader { slot } => {
                self.close(slot, CloseReason::SlowReader, out);
            }
            Event::NoRoom { slot } => self.close(slot, CloseReason::Overload, out),
            Event::Closed { slot } => self.on_closed(slot),
            Event::LinkUp { link } => self.on_link_up(link),
            Event::LinkDown { link } => self.on_link_down(link),
            Event::Link { link, frame } => self.on_link_frame(link, &frame, now, out),
            Event::Drain => self.on_drain(now, out),
        }
    }

    fn on_link_frame(
        &mut self,
        link: LinkIndex,
        frame: &ToBroker<'_>,
        now: Now,
        out: &mut Actions,
    ) {
        match *frame {
            ToBroker::Deliver { session, ref entry } => {
                if let Some(slot) = self.live(session) {
                    self.on_deliver(slot, entry, out);
                }
            }
            ToBroker::Entries { session, upto, more, ref entries } => {
                if let Some(slot) = self.live(session) {
                    self.on_entries(link, slot, upto, more, entries, out);
                }
            }
            ToBroker::Reset { session, stream, seq } => {
                if let Some(slot) = self.live(session) {
                    match stream {
                        Stream::Inbox => self.on_inbox_reset(link, slot, seq, out),
                        Stream::Group => self.on_group_reset(link, slot, seq, out),
                    }
                }
            }
            ToBroker::GroupDeliver { app, ref entry } => self.on_group_deliver(app, entry),
            ToBroker::GroupCursor { app, seq } => self.on_group_cursor(app, seq),
            ToBroker::GroupFetched { app, upto, more, ref entries } => {
                self.on_group_fetched(app, upto, more, entries);
            }
            ToBroker::GroupEntries { session, upto, more, ref entries } => {
                if let Some(slot) = self.live(session) {
                    self.on_group_entries(link, slot, upto, more, entries, out);
                }
            }
            ToBroker::Kick { session, epoch } => self.on_kick(session, epoch, now, out),
            ToBroker::Keys(ref keys) => self.on_keys(keys, out),
            ToBroker::Ping { epoch } => {
                self.hear_epoch(epoch, now);
                let epoch = self.clock();
                self.links.frame(link, |out| to_control::pong(out, epoch));
            }
            ToBroker::Challenge { .. } | ToBroker::Accepted { .. } | ToBroker::Refused { .. } => {
                self.counters.add(Counter::UnexpectedLinkFrames, 1);
            }
        }
    }

    fn on_keys(&mut self, keys: &Keys<'_>, out: &mut Actions) {
        if self.apps.replace(keys) {
            self.counters.add(Counter::KeySets, 1);
            let keys = out.write(|bytes| keys.encode(bytes));
            out.list.push(Action::SaveKeys { keys });
        }
    }

    /// Ends a turn, after its events: timers, fan-out, announce walks, drain, batches to the links.
    pub fn on_turn(&mut self, now: Now, gauges: Gauges, out: &mut Actions) {
        self.now_ms = now.mono_ms;
        self.memory_low = gauges.memory_low;
        if !gauges.is_behind {
            self.expire(now, out);
        }
        self.advance_drain(now, out);
        self.run_fanout(now, out);
        self.walk(now);
        // Last: what the steps above have for the control nodes leaves with this turn.
        self.flush_links(out);
        self.set_gauges(gauges);
    }

    /// When `on_turn` must run next, in `Now::mono_ms`. A time that has passed means at once.
    pub fn deadline_ms(&self) -> Option<u64> {
        let fanout = self.fanout.has_work().then_some(self.now_ms);
        let links = self.links.deadline_ms(self.config.announce_budget, self.now_ms);
        let deadlines = [fanout, links, self.wheel.next_ms(), self.drain_deadline_ms()];
        deadlines.into_iter().flatten().min()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections that are neither free nor closing.
    pub fn sessions(&self) -> u32 {
        self.active
    }

    /// Whether the connection has introduced itself.
    pub fn is_online(&self, slot: u32) -> bool {
        self.rows.get(slot).is_some_and(|row| row.state == State::Online)
    }

    /// Reads a word of the slot's row and throws it away, so that it is in the cache when it is needed:
    /// among millions of rows it otherwise never is, and a read that nothing waits for costs little.
    #[inline]
    pub fn touch(&self, slot: u32) {
        std::hint::black_box(self.rows.get(slot).map(|row| row.state));
    }

    fn set_gauges(&mut self, gauges: Gauges) {
        let row_bytes = self.rows.bytes() + self.wheel.bytes();
        for (counter, value) in [
            (Counter::Sessions, u64::from(self.online)),
            (Counter::SlotsInUse, u64::from(self.slots_in_use)),
            (Counter::Blocked, u64::from(self.blocked)),
            (Counter::LinksUp, self.links.up() as u64),
            (Counter::RowBytes, row_bytes as u64),
            (Counter::Subscriptions, self.topics.memberships() + u64::from(self.online)),
            (Counter::Topics, self.topics.topics() as u64),
            (Counter::TopicBytes, self.topics.bytes() as u64),
            (Counter::FanoutJobs, self.fanout.jobs() as u64),
            (Counter::FanoutBytes, self.fanout.bytes()),
            (Counter::OutboxBytes, gauges.outbox_bytes),
            (Counter::WalkLeft, self.links.walk_left(self.slots_end)),
            (Counter::KeysVersion, self.apps.version()),
        ] {
            self.counters.set(counter, value);
        }
    }

    /// Whether the code is to make this mistake. Without the feature it never is.
    #[inline]
    fn bug(&self, bug: SeededBug) -> bool {
        #[cfg(feature = "seeded-bugs")]
        return self.config.bug == Some(bug);
        #[cfg(not(feature = "seeded-bugs"))]
        {
            let _ = bug;
            false
        }
    }

    /// Asserts the whole structure; slow, for tests.
    pub fn invariants(&self) {
        let rows = || (0..self.slots_end).filter_map(|slot| Some((slot, self.rows.get(slot)?)));
        let count =
            |wanted: fn(&Row) -> bool| rows().filter(|&(_, row)| wanted(row)).count() as u32;
        assert_eq!(self.slots_in_use, count(|row| row.state != State::Free));
        assert_eq!(self.active, count(Row::is_active));
        assert_eq!(self.online, count(|row| row.state == State::Online));
        assert_eq!(self.blocked, count(|row| row.flags.has(Flags::BLOCKED)));
        assert!(self.active <= self.config.connections_max, "bounded");
        assert_eq!(self.wheel.invariants(), self.active, "each connection has one timer");
        assert_eq!(self.apps.invariants(&self.rows), self.online);
        self.topics.invariants(rows().map(|(slot, row)| (slot, row.app, row.topics)));
        let online = rows().filter(|(_, row)| row.state == State::Online);
        self.links.invariants(online.map(|(_, row)| row.inbox_over));
        for (slot, row) in rows() {
            assert_eq!(self.wheel.is_armed(slot), row.is_active(), "slot {slot}");
            if row.state == State::Online {
                row.invariants();
                assert!(self.topics.of(row.topics).count() <= self.config.topics_max as usize);
            }
        }
    }
}

/// Encodes one frame for one device.
fn send(out: &mut Actions, slot: u32, frame: &Downlink<'_>) {
    let frame = out.write(|bytes| frame.encode(bytes));
    out.list.push(Action::Send { slot, frame });
}
