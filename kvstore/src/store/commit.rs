//! What becomes of a group after it ran: on the disk, in the database, answered.
//!
//! ```text
//! writer: run ─▶ write to the log ─▶ run the next …
//!                     └──▶ this thread: sync ─▶ apply to RocksDB ─▶ mark watched keys ─▶ answer
//! ```
//!
//! A thread of its own, so that the writer runs the next group while this one is being synced, and writes it
//! when that is over. Groups are answered in order, so one that wants no sync waits for those before it. When
//! there are none, the writer does this part itself ([`Committer::is_idle`]).
//!
//! What this thread has not applied yet, the writer keeps as [`Layer`](super::overlay::Layer)s over the
//! database; `settled` says up to which group they are there for readers too.
//!
//! A group that is durable but that RocksDB refuses (a full disk: its memtables cannot be flushed) is
//! kept, and those that came after it too. Their clients are told that its outcome is open
//! ([`OUTCOME_OPEN`](crate::command::error::OUTCOME_OPEN)); the writer runs nothing until they are applied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::database::StoreError;
use super::group::Executed;
use super::log::{AppendError, Syncer};
use super::overlay::Layer;
use super::writer::{Order, Refusal};
use crate::config::Durability;
use crate::inbox::Post;
use crate::latency::Event;
use crate::processor::Place;
use crate::shared::{Shared, Stopped};

/// Groups between the writer and the disk, when they are full. A writer that is further ahead waits.
pub const GROUPS_MAX: usize = 2;

/// Up to so many commands at a time, to wake another processor takes longer than to apply them; in between
/// the thread stays where it is.
const TOGETHER_MAX: usize = 32;
const APART_MIN: usize = 128;

/// How often the log is synced for those who do not wait for it.
const EVERY: Duration = Duration::from_secs(1);

/// A group that ran, and is in the log if it changed anything.
pub struct Landing {
    /// The last group that this one is, or saw. It has not happened if that one has not.
    pub saw: u64,
    pub change: Option<GroupChange>,
    pub executed: Vec<Executed>,
    pub commands: usize,
    /// Told when this is over, by being dropped.
    pub landed: Option<SyncSender<()>>,
}

pub struct GroupChange {
    pub sequence: u64,
    pub record: Vec<u8>,
    pub layer: Arc<Layer>,
    pub durability: Durability,
}

/// Says that the thread is gone when a panic has ended it, also to the writer, who may wait for it.
struct Alarm<'c>(&'c Committer);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared.stop_writes(Stopped::WriterPanicked);
            self.0.is_gone.store(true, SeqCst);
            _ = self.0.orders.send(Order::Landed);
        }
    }
}

impl Landing {
    fn refuse(&mut self, shared: &Shared, refusal: &Refusal, post: &mut Post) {
        // The writer may be the one who has to try again.
        self.landed = None;
        let executed = std::mem::take(&mut self.executed);
        if !executed.is_empty() {
            shared.metrics.writes_refused.fetch_add(self.commands as u64, Relaxed);
        }
        let text = refusal.text();
        executed.into_iter().for_each(|job| job.refuse(&text, post));
    }

    fn answer(&mut self, post: &mut Post) {
        std::mem::take(&mut self.executed).into_iter().for_each(|job| job.send(post));
    }
}

pub struct Committer {
    shared: Arc<Shared>,
    syncer: Syncer,
    /// The last group that readers see.
    settled: AtomicU64,
    /// Groups that were given to the thread and are not settled.
    in_flight: AtomicUsize,
    /// The writer wants to hear when nothing is on its way any more.
    is_waited_for: AtomicBool,
    orders: Sender<Order>,
    /// A panic has ended the thread.
    is_gone: AtomicBool,
    /// Something was written that should be synced within a second.
    is_due: AtomicBool,
    /// In the log, and refused by RocksDB so far. Their keys have not been counted as changed, since
    /// readers do not see it.
    unapplied: Mutex<VecDeque<Landing>>,
}

impl Committer {
    /// `orders` lead to the writer.
    pub fn new(shared: Arc<Shared>, syncer: Syncer, orders: Sender<Order>) -> Committer {
        Committer {
            shared,
            syncer,
            settled: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            is_waited_for: AtomicBool::new(false),
            orders,
            is_gone: AtomicBool::new(false),
            is_due: AtomicBool::new(false),
            unapplied: Mutex::default(),
        }
    }

    pub fn settled(&self) -> u64 {
        self.settled.load(SeqCst)
    }

    /// Whether nothing is on its way, so that the writer may land a group itself.
    pub fn is_idle(&self) -> bool {
        self.in_flight.load(SeqCst) == 0
    }

    /// Whether something is on its way; then the writer hears when it has landed, or that it never will.
    pub fn is_busy_and_will_tell(&self) -> bool {
        if self.is_idle() {
            return false;
        }
        self.is_waited_for.store(true, SeqCst);
        !self.is_idle() && !self.is_gone()
    }

    /// Whether nobody lands groups any more.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(SeqCst)
    }

    /// The writer is about to give the thread a group.
    pub fn takes_off(&self) {
        self.in_flight.fetch_add(1, SeqCst);
    }

    /// Runs until the writer is gone, and syncs what nobody was promised.
    /// Large groups are worth another processor than the `place` that the thread shares with the writer.
    pub fn run(&self, landings: &Receiver<Landing>, mut place: Place) {
        let _alarm = Alarm(self);
        while let Ok(first) = landings.recv() {
            let landings: Vec<Landing> =
                std::iter::once(first).chain(landings.try_iter()).collect();
            let count = landings.len();
            match landings.iter().map(|landing| landing.commands).sum() {
                ..=TOGETHER_MAX => place.share(),
                APART_MIN.. => place.leave(),
                _ => {}
            }
            self.land(landings);
            let is_last = self.in_flight.fetch_sub(count, SeqCst) == count;
            if is_last && self.is_waited_for.swap(false, SeqCst) {
                // A writer that is gone waits for nothing.
                _ = self.orders.send(Order::Landed);
            }
        }
        if let Err(error) = self.syncer.sync() {
            tracing::error!(%error, "cannot sync the log");
        }
    }

    /// Syncs what nobody waits for, whatever keeps a group from being applied, until the other end of `ended`
    /// is gone.
    pub fn sync_regularly(&self, ended: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
            if self.is_due.swap(false, SeqCst) {
                // Whoever writes next is told.
                _ = self.sync();
            }
        }
    }

    /// Makes groups durable as they want it, applies them and answers.
    pub fn land(&self, mut landings: Vec<Landing>) {
        let mut post = Post::default();
        let changes = landings.iter().filter_map(|landing| landing.change.as_ref());
        let wanted = changes.map(|change| change.durability).min();
        match wanted {
            // What it fails is refused below.
            Some(Durability::Always) => _ = self.sync(),
            Some(Durability::EverySec) => self.is_due.store(true, SeqCst),
            Some(Durability::None) | None => {}
        }
        // A group that wants no sync is refused with those before it that do: it was run over what they did.
        if self.syncer.is_broken() {
            let settled = self.settled();
            for landing in landings.iter_mut().filter(|landing| landing.saw > settled) {
                landing.refuse(&self.shared, &Refusal::Broken, &mut post);
            }
            landings.retain(|landing| landing.saw <= settled);
        }
        let mut unapplied = self.unapplied.lock().expect("a panic here ends the process' writes");
        unapplied.extend(landings);
        _ = self.apply(&mut unapplied, &mut post);
    }

    /// Tries again to apply what RocksDB has refused.
    pub fn retry(&self) -> Result<(), StoreError> {
        let mut unapplied = self.unapplied.lock().expect("a panic here ends the process' writes");
        self.apply(&mut unapplied, &mut Post::default())
    }

    /// Keeps everything from being applied.
    #[cfg(test)]
    pub fn hold(&self) -> impl Drop {
        self.unapplied.lock().expect("a panic here ends the process' writes")
    }

    /// Keeps everything from being synced.
    #[cfg(test)]
    pub fn hold_syncs(&self) -> impl Drop {
        self.syncer.hold()
    }

    fn sync(&self) -> Result<(), AppendError> {
        let (shared, started) = (&self.shared, Instant::now());
        self.syncer.sync().inspect_err(|error| {
            tracing::error!(%error, "cannot sync the write log");
            shared.stop_writes(Stopped::LogFailed);
            // Some wait for what a group took that has not happened.
            _ = self.orders.send(Order::Landed);
        })?;
        shared.latencies.took(&shared.live, Event::LogSync, started.elapsed());
        shared.metrics.syncs.fetch_add(1, Relaxed);
        shared.metrics.log_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        Ok(())
    }

    fn apply(&self, landings: &mut VecDeque<Landing>, post: &mut Post) -> Result<(), StoreError> {
        let shared = &self.shared;
        while let Some(landing) = landings.front_mut() {
            if let Some(change) = &landing.change
                && let Err(error) = self.apply_one(change)
            {
                tracing::error!(%error, change.sequence, "cannot apply a group to the database");
                shared.set_behind(true);
                for landing in landings.iter_mut() {
                    landing.refuse(shared, &Refusal::NotApplied, post);
                }
                landings.retain(|landing| landing.change.is_some());
                return Err(error);
            }
            landing.answer(post);
            // Clients go on while the next group is applied.
            post.send();
            landings.pop_front();
        }
        shared.set_behind(false);
        Ok(())
    }

    fn apply_one(&self, change: &GroupChange) -> Result<(), StoreError> {
        let (shared, started) = (&self.shared, Instant::now());
        let access_changes = shared.access_changes();
        shared.database.apply(change.sequence, &change.record)?;
        shared.watches.mark(change.layer.changed_keys(), change.layer.cleared());
        self.settled.store(change.sequence, SeqCst);
        if shared.access_changes() != access_changes {
            shared.clients.wake_all();
        }
        shared.latencies.took(&shared.live, Event::DbApply, started.elapsed());
        shared.metrics.apply_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        Ok(())
    }
}
