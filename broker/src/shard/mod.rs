//! A shard: the shell that joins the core's decisions and the kernel, generic over [`Io`].
//!
//! ```text
//!            ┌───────────────────────────── Shard ─────────────────────────────┐
//!   kernel ──┤ conns.rs   completions, frames ──▶ Event ──▶ core ──▶ Actions ──┤
//!   or sim ◀─┤ outbox.rs  one send per connection ◀────────────────────────────┤
//!            │ links.rs   the control nodes          mailbox.rs  the process   │
//!            └─────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`Shard::turn`] is the whole data plane. One thread calls it for ever; the simulator calls it
//! with virtual time. Each step is bounded: completions by the kernel's queues, receives by
//! [`RECEIVE_ROUNDS`], the core's walks by its budgets.
//!
//! It decides nothing about sessions, and the core touches no socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use hawser_codec::error::{CloseReason, DecodeError};

use crate::core::event::{Action, Actions, Event, Now};
use crate::core::{Core, CoreConfig, Gauges};
use crate::io::{Completion, Io, Target};
use crate::metrics::{Kind, Sample};

mod conns;
mod links;
pub mod mailbox;
mod outbox;

use conns::{Conns, Flags, Partials};
use links::Link;
use mailbox::{Command, Mailbox, Notice, Snapshot};
use outbox::{Outbox, Place, Trouble};

/// Receives submitted together: half of a ring's buffers, so that a batch finds one each.
const RECEIVES_PER_SUBMIT: usize = 512;

/// Submissions of receives in one turn. A peer that sends without end waits for its next turn like
/// the others.
const RECEIVE_ROUNDS: usize = 8;

/// A turn that comes so late after its deadline was kept from running. Until all input is read,
/// nobody is taken for silent,
const BEHIND_MS: u64 = 1_000;
/// but a load that never lets all input be read must not keep timers from running.
const BEHIND_MAX_MS: u64 = 10_000;

/// What a shard must know. Plain values; the configuration file is `config.rs`.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its `links` is set from `control`.
    pub core: CoreConfig,
    pub broker: u64,
    /// Differs between two runs of the same broker.
    pub incarnation: u64,
    pub shard: u16,
    pub link_key: [u8; 32],
    /// Link `i` dials `control[i]`.
    pub control: Vec<SocketAddr>,
    /// Unsent remainders of devices that read slowly, all together.
    pub outbox_bytes_max: usize,
    /// Unfinished frames of devices, all together.
    pub partial_bytes_max: usize,
    /// What one link may have queued; more, and it starts over.
    pub link_queue_bytes_max: usize,
    /// A link that says nothing for this long is cut. Control nodes ping more often.
    pub link_idle_ms: u64,
    /// After this many accepts in a turn the others wait for the turn after the next.
    pub accepts_per_turn: u32,
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            core: CoreConfig::default(),
            broker: 1,
            incarnation: 1,
            shard: 0,
            link_key: [0; 32],
            control: Vec::new(),
            outbox_bytes_max: 64 * 1024 * 1024,
            partial_bytes_max: 16 * 1024 * 1024,
            link_queue_bytes_max: 64 * 1024 * 1024,
            link_idle_ms: 30_000,
            accepts_per_turn: 4096,
        }
    }
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Go,
    /// `Command::Stop` has come; the turn was finished.
    Stopped,
}

pub struct Shard<I: Io> {
    config: ShardConfig,
    io: I,
    core: Core,
    mailbox: Arc<Mailbox>,
    now: Now,
    actions: Actions,

    conns: Conns,
    partials: Partials,
    /// Connections with something to read.
    to_receive: VecDeque<Target>,
    /// Closed by the core in this turn.
    closing: Vec<Target>,
    /// With the time when each is given up. All wait equally long, so they are in order.
    lingering: VecDeque<(u64, Target)>,

    outbox: Outbox,
    places: Vec<Place>,
    after_flush: Vec<Trouble>,

    links: Vec<Link>,
    links_to_cut: Vec<(u8, CloseReason)>,
    receives_queued: bool,

    /// The thread was stopped for a while; what came meanwhile is read until this time or until
    /// nothing is left.
    behind_until_ms: u64,
    accepts: u32,
    accept: Accept,
    drain: Drain,
    stop: bool,
    shell: ShellCounters,
}

/// The accept budget: a turn that exceeded it is followed by one without accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    Stopped,
    On,
    Pausing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// No session is left; the last connections are being closed.
    Closing,
    Told,
}

/// The turn.
impl<I: Io> Shard<I> {
    /// One round of everything. Sleeps in its first line only.
    pub fn turn(&mut self) -> Turn {
        let due_ms = self.deadline_ms();
        self.io.wait(self.sleep_ms());
        self.now = self.io.now();
        if due_ms.is_some_and(|due_ms| self.now.mono_ms > due_ms + BEHIND_MS) {
            self.behind_until_ms = self.now.mono_ms + BEHIND_MAX_MS;
        }

        // Input. The core hears everything before it acts on anything.
        if self.take_completions() {
            self.behind_until_ms = 0;
        }
        self.drain_held();
        self.take_commands();
        self.links_on_time();
        self.core.on_turn(self.now, self.gauges(), &mut self.actions);

        // Output. The actions' bytes are needed until the flush is over and no longer; what the
        // core asks for after that belongs to the next turn, which then does not sleep.
        self.apply();
        self.flush();
        self.actions.clear();
        self.tell_troubles();
        self.cut_links();

        // Connections close after their last bytes were sent.
        self.reap();
        self.steer_accept();
        self.finish_drain();
        self.mailbox.set_connections(self.core.sessions());
        if self.stop { Turn::Stopped } else { Turn::Go }
    }

    /// Takes completions and receives what became readable, until nothing is left or the turn has
    /// had its rounds. What is left then comes first in the next turn. Returns whether nothing is.
    fn take_completions(&mut self) -> bool {
        for _ in 0..RECEIVE_ROUNDS {
            while let Some(completion) = self.io.next() {
                self.on_completion(completion);
            }
            if self.to_receive.is_empty() && !self.receives_queued {
                return true;
            }
            self.receives_queued = false;
            for _ in 0..self.to_receive.len().min(RECEIVES_PER_SUBMIT) {
                let target = self.to_receive.pop_front().expect("counted");
                self.receive(target);
            }
            self.io.submit();
        }
        false
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { slot } => self.on_accepted(slot),
            Completion::Readable { target, armed, .. } => match target.as_link() {
                None => self.on_readable(target, armed),
                Some(_) => self.on_link_readable(target, armed),
            },
            Completion::WatchFailed { target } => match target.as_link() {
                None => self.on_watch_failed(target),
                Some(_) => self.on_link_watch_failed(target),
            },
            Completion::Received { target, result } => match target.as_link() {
                None => self.on_received(target, result),
                Some(_) => self.on_link_received(target, result),
            },
            Completion::Writable { target } => match target.as_link() {
                None => self.on_writable(target),
                Some(_) => self.on_link_writable(target),
            },
            Completion::Connected { target, connected } => {
                self.on_link_connected(target, connected);
            }
            Completion::Closed { target } => match target.as_link() {
                None => self.on_closed(target),
                Some(_) => self.on_link_closed(target),
            },
        }
    }

    fn take_commands(&mut self) {
        while let Some(command) = self.mailbox.command() {
            match command {
                Command::Drain => self.tell(Event::Drain),
                Command::Stop => self.stop = true,
                // Whoever asked may have given up by now.
                Command::Snapshot(reply) => drop(reply.try_send(self.snapshot())),
            }
        }
    }

    /// Carries out what the core asks for, in its order; sends are collected.
    fn apply(&mut self) {
        let list = std::mem::take(&mut self.actions.list);
        for action in &list {
            match *action {
                Action::StartReading { slot } => self.start_reading(slot),
                Action::Send { slot, ref frame } => self.add_send(slot, frame.clone()),
                Action::Close { slot, .. } => self.begin_close(slot),
                Action::SendLink { link, ref frame } => self.add_link_send(link, frame.clone()),
                Action::SaveKeys { ref keys } => {
                    let keys = self.actions.frame(keys).to_vec();
                    self.mailbox.notify(Notice::Keys(keys));
                }
                Action::StopAccepting => {
                    self.accept = Accept::Stopped;
                    self.io.accept_end();
                }
                Action::Drained => self.drain = Drain::Closing,
            }
        }
        self.actions.list = list;
    }

    fn tell(&mut self, event: Event<'_>) {
        self.core.on_event(event, self.now, &mut self.actions);
    }

    fn steer_accept(&mut self) {
        let accepts = std::mem::take(&mut self.accepts);
        match self.accept {
            Accept::Stopped => {}
            Accept::On if accepts > self.config.accepts_per_turn => {
                self.shell.accept_pauses += 1;
                self.accept = Accept::Pausing;
                self.io.accept_pause();
            }
            Accept::On => {}
            Accept::Pausing => {
                self.accept = Accept::On;
                self.io.accept_start();
            }
        }
    }

    fn finish_drain(&mut self) {
        if self.drain == Drain::Closing && self.io.counters().slots_in_use == 0 {
            self.drain = Drain::Told;
            self.mailbox.notify(Notice::Drained);
        }
    }

    /// How long the turn may sleep; `None` for as long as nothing happens.
    fn sleep_ms(&self) -> Option<u64> {
        self.deadline_ms().map(|deadline_ms| deadline_ms.saturating_sub(self.now.mono_ms))
    }
}

/// From outside.
impl<I: Io> Shard<I> {
    /// A shard that accepts and dials with its first turn.
    pub fn new(mut config: ShardConfig, mut io: I, mailbox: Arc<Mailbox>) -> Shard<I> {
        config.core.links = u8::try_from(config.control.len()).expect("checked by the plan");
        let now = io.now();
        io.accept_start();
        Shard {
            core: Core::new(config.core.clone()),
            links: config.control.iter().map(|&address| Link::new(address)).collect(),
            config,
            io,
            mailbox,
            now,
            actions: Actions::default(),
            conns: Conns::default(),
            partials: Partials::default(),
            to_receive: VecDeque::new(),
            closing: Vec::new(),
            lingering: VecDeque::new(),
            outbox: Outbox::default(),
            places: Vec::new(),
            after_flush: Vec::new(),
            links_to_cut: Vec::new(),
            receives_queued: false,
            behind_until_ms: 0,
            accepts: 0,
            accept: Accept::On,
            drain: Drain::No,
            stop: false,
            shell: ShellCounters::default(),
        }
    }

    /// Takes over the key set of an earlier run, so that devices are admitted before a control
    /// node is reached.
    pub fn restore_keys(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.core.restore_keys(bytes)
    }

    /// When the next turn is needed even if nothing happens, in `Now::mono_ms`. A time that has
    /// passed means at once.
    pub fn deadline_ms(&self) -> Option<u64> {
        let at_once = !self.actions.is_empty()
            || !self.to_receive.is_empty()
            || self.receives_queued
            || self.accept == Accept::Pausing;
        if at_once {
            return Some(self.now.mono_ms);
        }
        let lingering = self.lingering.front().map(|&(deadline_ms, _)| deadline_ms);
        let links = self.links.iter().filter_map(Link::deadline_ms);
        links.chain(lingering).chain(self.core.deadline_ms()).min()
    }

    pub fn io(&self) -> &I {
        &self.io
    }

    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    pub fn shell_counters(&self) -> ShellCounters {
        ShellCounters {
            partials: self.partials.count() as u64,
            partial_bytes: self.partials.bytes() as u64,
            remainders: self.outbox.held_count() as u64,
            conn_bytes: self.conns.memory_bytes() as u64,
            link_queue_bytes: self.links.iter().map(|link| link.queued_bytes() as u64).sum(),
            lingering: self.lingering.len() as u64,
            ..self.shell
        }
    }

    fn gauges(&self) -> Gauges {
        Gauges {
            memory_low: self.mailbox.memory_low(),
            is_behind: self.now.mono_ms < self.behind_until_ms,
            outbox_bytes: self.outbox.held_bytes() as u64,
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            shard: self.config.shard,
            core: self.core.counters().clone(),
            shell: self.shell_counters(),
            io: self.io.counters(),
        }
    }

    /// Asserts the whole structure; slow, for tests and the simulator.
    pub fn invariants(&self) {
        self.core.invariants();
        Shard::<I>::check_outbox(&self.conns, &self.outbox);
        assert!(self.outbox.held_bytes() <= self.config.outbox_bytes_max);
        assert!(self.partials.bytes() <= self.config.partial_bytes_max);
        let partial = self.conns.iter().filter(|(_, conn)| conn.flags.has(Flags::PARTIAL));
        assert_eq!(partial.count(), self.partials.count());
        for (slot, conn) in self.conns.iter() {
            assert!(conn.send == 0, "slot {slot} has a send between the turns");
            let open = conn.flags.has(Flags::OPEN);
            assert!(open || conn.flags == Flags::default(), "slot {slot} is free with {conn:?}");
        }
        for link in &self.links {
            assert!(link.queued_bytes() <= self.config.link_queue_bytes_max);
        }
    }
}

macro_rules! shell_counters {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// The shell's own numbers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ShellCounters { $(#[doc = $help] pub $field: u64,)* }

        impl ShellCounters {
            pub fn samples(&self) -> impl Iterator<Item = Sample> {
                [$(Sample {
                    name: concat!("hawser_broker_", $name),
                    help: $help,
                    kind: Kind::$kind,
                    label: None,
                    value: self.$field,
                },)*].into_iter()
            }
        }
    };
}

shell_counters! {
    conn_bytes, Gauge, "conn_bytes", "Memory of the shell's share of connections";
    partials, Gauge, "partials", "Devices whose last frame is unfinished";
    partial_bytes, Gauge, "partial_bytes", "Bytes of unfinished frames";
    remainders, Gauge, "remainders", "Devices for which bytes are held";
    lingering, Gauge, "lingering", "Connections that were closed within the last second";
    link_queue_bytes, Gauge, "link_queue_bytes", "Bytes queued for control nodes";
    partials_refused, Counter, "partials_refused_total", "Unfinished frames for which the pool had no room";
    remainders_refused, Counter, "remainders_refused_total", "Unsent bytes for which the pool had no room";
    accept_pauses, Counter, "accept_pauses_total", "Turns that used up their accept budget";
    link_dials, Counter, "link_dials_total", "Dials to control nodes";
    link_refusals, Counter, "link_refusals_total", "Links that failed to prove the link key or speak another version";
    link_overflows, Counter, "link_overflows_total", "Links cut because their queue was full";
}
