//! The one thread that decides what changes.
//!
//! ```text
//! take everything that waits ─▶ run it in order over one overlay ─▶ one record in the log ─▶ committer
//! ```
//!
//! A command that waits for a key (BLPOP) is kept until the key changes, its time is over or its client
//! goes. All three come to this thread, in one order.
//!
//! The longer a sync takes, the more waits when it ends, so groups grow with the load by themselves.
//! When the group cannot be made durable, every command of it is answered with why, reads behind
//! writes included, since they saw what did not happen. What a group changed, those after it see through
//! its [`Layer`] until [`Committer`] has applied it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::checkpoint::Wanted;
use super::commit::{Committer, GroupChange, Landing};
use super::group::{Executed, Group, Ran};
use super::log::{AppendError, Log};
use super::overlay::{Layer, Overlay};
use super::seeded::SeededBug;
use super::spaces::Selected;
use super::waiters::Waiters;
use crate::caller::Caller;
use crate::command::catalogue::Facts;
use crate::command::error::OUTCOME_OPEN;
use crate::command::table::Command;
use crate::config::Durability;
use crate::inbox::Post;
use crate::resp::reply::{Protocol, Reply};
use crate::shared::{Alarm, Shared, Stopped};
use crate::watch::WatchSet;

/// A command and its arguments, checked for their number.
#[derive(Clone)]
pub struct Queued {
    pub command: &'static Command,
    pub facts: &'static Facts,
    pub args: Vec<Bytes>,
    pub selected: Selected,
}

pub enum Work {
    /// Commands of one connection, each with its own answer.
    Pipeline(Vec<Queued>),
    /// Commands that run together, if no watched key has changed.
    Transaction { commands: Vec<Queued>, watched: WatchSet },
    /// One command that may wait.
    Waiting { client: u64, command: Queued },
    /// Ends what a client waits for: as if its time were over, or with an error.
    Unblock { client: u64, with_error: bool },
    /// The client is gone, and waits for nothing any more. Nobody reads the answer.
    Forget { client: u64 },
}

impl Work {
    pub fn commands(&self) -> usize {
        match self {
            Work::Pipeline(commands) | Work::Transaction { commands, .. } => commands.len(),
            Work::Waiting { .. } | Work::Unblock { .. } => 1,
            Work::Forget { .. } => 0,
        }
    }

    /// Of its arguments, which are most of what it takes.
    fn bytes(&self) -> u64 {
        let of_one = |queued: &Queued| queued.args.iter().map(Bytes::len).sum::<usize>();
        let bytes = match self {
            Work::Pipeline(commands) | Work::Transaction { commands, .. } => {
                commands.iter().map(of_one).sum()
            }
            Work::Waiting { command, .. } => of_one(command),
            Work::Unblock { .. } | Work::Forget { .. } => 0,
        };
        bytes as u64
    }

    pub fn answers(&self) -> usize {
        match self {
            Work::Pipeline(commands) => commands.len(),
            _ => 1,
        }
    }
}

/// What the writer hears.
pub enum Order {
    Jobs(Vec<Job>),
    /// The committer has nothing to do any more, or a sync of the log has failed.
    Landed,
    /// There will be no more jobs.
    End,
}

/// Where jobs go to the writer. When it is dropped the writer ends.
pub struct Jobs {
    orders: Sender<Order>,
    shared: Arc<Shared>,
}

impl Jobs {
    pub fn new(orders: Sender<Order>, shared: Arc<Shared>) -> Jobs {
        Jobs { orders, shared }
    }

    /// Gives them back when there is no writer any more.
    pub fn send(&self, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let bytes = jobs.iter().map(|job| job.work.bytes()).sum();
        let queue_bytes = &self.shared.metrics.writer_queue_bytes;
        queue_bytes.fetch_add(bytes, Relaxed);
        self.orders.send(Order::Jobs(jobs)).map_err(|refused| {
            queue_bytes.fetch_sub(bytes, Relaxed);
            match refused.0 {
                Order::Jobs(jobs) => jobs,
                Order::Landed | Order::End => Vec::new(),
            }
        })
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // A writer that is gone has ended.
        _ = self.orders.send(Order::End);
    }
}

pub struct Job {
    pub work: Work,
    pub protocol: Protocol,
    pub caller: Caller,
}

pub struct Answer {
    pub bytes: Vec<u8>,
    /// Commands that have not been run, because the answers or the group were getting large.
    pub rest: Vec<Queued>,
    /// Where in `bytes` the answers of a transaction's commands about the connection go, which the
    /// connection runs itself when it knows that the others have been done.
    pub own: Vec<usize>,
    /// The answers were longer than any may be. They are not here, but the commands have been run.
    pub is_overfull: bool,
}

impl Answer {
    pub fn whole(reply: Reply) -> Answer {
        Answer {
            is_overfull: reply.is_overfull(),
            bytes: reply.into_bytes(),
            rest: Vec::new(),
            own: Vec::new(),
        }
    }
}

/// Why a group was refused.
pub enum Refusal {
    /// The log took nothing.
    NotWritten(io::Error),
    /// The log failed in the middle of this group.
    Broken,
    /// The log had failed before.
    LogStopped,
    /// In the log, but not in the database.
    NotApplied,
    /// Not run, because an earlier group is not in the database.
    Behind,
}

impl Refusal {
    pub fn text(&self) -> String {
        match self {
            Refusal::NotWritten(error) if is_disk_full(error) => {
                format!("IOERR disk full: nothing was written, retry when there is space ({error})")
            }
            Refusal::NotWritten(error) => {
                format!("IOERR nothing was written, retry when the disk works ({error})")
            }
            Refusal::Broken => format!(
                "{OUTCOME_OPEN} the write log failed to sync and nobody knows what is on the disk; \
                 check the disk and restart the server"
            ),
            Refusal::LogStopped => "READONLY nothing was written: the write log has failed; check \
                                    the disk and restart the server"
                .to_string(),
            Refusal::NotApplied => format!(
                "{OUTCOME_OPEN} the write is in the log, but the database did not take it (is the \
                 disk full?); its outcome is open until there is space"
            ),
            Refusal::Behind => "IOERR nothing was written: the database does not take an earlier \
                                write (is the disk full?); retry when there is space"
                .to_string(),
        }
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

pub struct Writer {
    pub shared: Arc<Shared>,
    pub log: Log,
    orders: Receiver<Order>,
    /// [`Order::End`] has come.
    has_ended: bool,
    /// Wakes the checkpoint thread. Full means that it is already woken.
    checkpoint: SyncSender<Wanted>,
    committer: Arc<Committer>,
    /// To the committer's thread.
    landings: SyncSender<Landing>,
    /// Jobs that were taken and have not run, the first to come first.
    waiting: VecDeque<Job>,
    /// Of the jobs that this group took.
    taken_bytes: u64,
    pub waiters: Waiters,
    /// Groups that may not be in the database yet, the oldest first.
    layers: VecDeque<Arc<Layer>>,
    /// Commands that waited have been looked at since the log broke.
    knows_of_break: bool,
}

/// Commands of a group that is landed by the writer's own thread, at most: to apply so many takes as long as
/// to wake another.
const LANDED_HERE_MAX: usize = 64;

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        log: Log,
        orders: Receiver<Order>,
        checkpoint: SyncSender<Wanted>,
        (committer, landings): (Arc<Committer>, SyncSender<Landing>),
    ) -> Writer {
        Writer {
            shared,
            log,
            orders,
            has_ended: false,
            checkpoint,
            committer,
            landings,
            waiting: VecDeque::new(),
            taken_bytes: 0,
            waiters: Waiters::default(),
            layers: VecDeque::new(),
            knows_of_break: false,
        }
    }

    /// Runs until nobody can send jobs any more.
    pub fn run(mut self) {
        let _alarm = Alarm::new(&self.shared, Stopped::WriterPanicked);
        loop {
            if self.committer.is_gone() {
                // Whoever waits is told when this is dropped.
                return;
            } else if self.has_work() {
                self.group();
            } else if self.has_ended {
                return;
            } else if !self.hear() {
                self.end_late();
            }
        }
    }

    /// Waits for an order, until the first of the waiting clients has waited long enough. `false` then.
    fn hear(&mut self) -> bool {
        let heard = match self.waiters.next_end() {
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(end) => {
                let left: Duration = end.saturating_duration_since(Instant::now());
                self.orders.recv_timeout(left)
            }
        };
        match heard {
            Ok(order) => self.take(order),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => self.has_ended = true,
        }
        true
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Jobs(jobs) => self.waiting.extend(jobs),
            Order::Landed => {}
            Order::End => self.has_ended = true,
        }
    }

    fn end_late(&mut self) {
        self.waiters.end_late(Instant::now());
        self.count_waiters();
    }

    fn count_taken(&mut self) {
        let taken_bytes = std::mem::take(&mut self.taken_bytes);
        self.shared.metrics.writer_queue_bytes.fetch_sub(taken_bytes, Relaxed);
    }

    fn count_waiters(&self) {
        self.shared.metrics.blocked_clients.store(self.waiters.len() as u64, Relaxed);
    }

    /// Runs what waits: first those whose keys changed when the last group was full, then jobs.
    fn group(&mut self) {
        let shared = self.shared.clone();
        self.waiters.end_late(Instant::now());
        if self.shared.is_behind() && self.committer.retry().is_err() {
            return self.refuse_all(&Refusal::Behind);
        }
        self.drop_layers();
        let committer = self.committer.clone();
        let layers = self.layers.iter().cloned().collect();
        let overlay = Overlay::over(&shared.database, layers, self.log.next());
        // Out of its place while the group has it.
        let mut waiters = std::mem::take(&mut self.waiters);
        let mut group = Group::new((&shared, &committer), overlay, &mut waiters);
        group.serve();
        while !group.is_full() {
            match self.next_job(&committer, group.next_end()) {
                Some(job) => group.run(job),
                None => break,
            }
        }
        let mut ran = group.end();
        self.waiters = waiters;
        if SeededBug::AnswersBeforeLog.is_on() {
            let mut post = Post::default();
            std::mem::take(&mut ran.executed).into_iter().for_each(|job| job.send(&mut post));
        }
        shared.metrics.writer_commands.fetch_add(ran.commands as u64, Relaxed);
        self.count_taken();
        // Who has an answer is no longer counted as waiting.
        self.count_waiters();
        self.commit(ran);
    }

    /// What runs next in this group. While another one is on its way this one would have to wait anyway, so
    /// it grows instead.
    fn next_job(&mut self, committer: &Committer, end: Option<Instant>) -> Option<Job> {
        loop {
            if let Some(job) = self.waiting.pop_front() {
                self.taken_bytes += job.work.bytes();
                return Some(job);
            }
            if let Ok(order) = self.orders.try_recv() {
                self.take(order);
                continue;
            }
            if self.has_ended || !committer.is_busy_and_will_tell() {
                return None;
            }
            let heard = match end {
                None => self.orders.recv().ok(),
                Some(end) => {
                    self.orders.recv_timeout(end.saturating_duration_since(Instant::now())).ok()
                }
            };
            self.take(heard?);
        }
    }

    /// Whether a group would do anything. Of a log that has failed it hears when the database is not behind.
    fn has_work(&self) -> bool {
        let is_news = self.has_broken() && !self.shared.is_behind();
        is_news || self.waiters.has_ready() || !self.waiting.is_empty()
    }

    /// Whether the log has failed since those who wait for keys were looked at.
    fn has_broken(&self) -> bool {
        self.log.is_broken() && !self.knows_of_break
    }

    /// Forgets what readers see by now, and what nobody will ever see.
    fn drop_layers(&mut self) {
        let is_careless = SeededBug::ForgetsLayers.is_on();
        let settled = if is_careless { u64::MAX } else { self.committer.settled() };
        while self.layers.front().is_some_and(|layer| layer.sequence() <= settled) {
            self.layers.pop_front();
        }
        if self.has_broken() {
            self.knows_of_break = true;
            self.shared.stop_writes(Stopped::LogFailed);
            self.layers.clear();
            // What they did not find may be there, since what took it did not happen.
            self.move_waiters();
            self.waiters.everything_changed();
        }
    }

    fn move_waiters(&mut self) {
        let spaces = self.shared.database.spaces();
        self.waiters.move_to(|selected| spaces.space(selected));
    }

    /// Writes a group to the log, and sends it on its way.
    fn commit(&mut self, ran: Ran<'_>) {
        let Ran { overlay, executed, commands, began_to_wait, durability } = ran;
        if overlay.is_empty() {
            let saw = self.layers.back().map_or(0, |layer| layer.sequence());
            let landing = Landing { saw, change: None, executed, commands, landed: None };
            return self.send(landing, durability);
        }
        let record = overlay.encode();
        if SeededBug::AppliesBeforeLog.is_on() {
            _ = self.shared.database.apply(self.log.next(), &record);
        }
        assert!(!SeededBug::PanicsWhileWriting.is_on() || self.log.next() < 2, "seeded");
        let (metrics, started) = (&self.shared.metrics, Instant::now());
        let sequence = match self.log.append(&record) {
            Ok(sequence) => sequence,
            Err(error) => {
                tracing::error!(%error, "cannot write the log");
                let refusal = match error {
                    AppendError::NotWritten(error) => Refusal::NotWritten(error),
                    AppendError::Broken(_) => Refusal::Broken,
                    AppendError::Stopped => Refusal::LogStopped,
                };
                if self.log.is_broken() {
                    self.shared.stop_writes(Stopped::LogFailed);
                }
                metrics.writes_refused.fetch_add(commands as u64, Relaxed);
                refuse(executed, &refusal);
                // What they did not find may be there, since what took it did not happen.
                self.move_waiters();
                return began_to_wait
                    .into_iter()
                    .for_each(|ticket| self.waiters.look_again(ticket));
            }
        };
        metrics.log_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        metrics.log_bytes.fetch_add(record.len() as u64, Relaxed);
        metrics.groups.fetch_add(1, Relaxed);
        metrics.group_bytes.store(record.len() as u64, Relaxed);
        let has_moved = overlay.has_moved();
        let layer = Arc::new(overlay.into_layer());
        self.layers.push_back(layer.clone());
        let change = Some(GroupChange { sequence, record, layer, durability });
        let (landed, is_over) = sync_channel(1);
        let landed = has_moved.then_some(landed);
        self.send(Landing { saw: sequence, change, executed, commands, landed }, durability);
        if has_moved {
            // Where databases are is looked up in one place, so nobody may run before it is known there.
            _ = is_over.recv();
        }
        match self.log.rotate() {
            Ok(false) if self.log.wants_spare() => _ = self.checkpoint.try_send(Wanted::Spare),
            Ok(false) => {}
            Ok(true) => _ = self.checkpoint.try_send(Wanted::Flush),
            Err(error) => tracing::error!(%error, "cannot start a log segment; the last one grows"),
        }
    }

    /// Lands a small group here when it has nothing to wait for. A large one is worth another thread.
    fn send(&self, landing: Landing, durability: Durability) {
        let waits = durability == Durability::Always && landing.change.is_some();
        if self.committer.is_idle() && !waits && landing.commands <= LANDED_HERE_MAX {
            return self.committer.land(vec![landing]);
        }
        self.committer.takes_off();
        // Without that thread nobody is answered any more: those who wait are told when this is dropped.
        _ = self.landings.send(landing);
    }

    /// Refuses all that is not run, and those who should be looked at and cannot be.
    fn refuse_all(&mut self, refusal: &Refusal) {
        let mut refused = Vec::new();
        while let Some(key) = self.waiters.next_ready() {
            while let Some(ticket) = self.waiters.next_at(&key, 0) {
                let waiter = self.waiters.remove(ticket).expect("it waits at the key");
                refused.push(Executed::waiter(waiter, Reply::default()));
            }
        }
        for job in self.waiting.drain(..) {
            let answers = job.work.answers();
            self.taken_bytes += job.work.bytes();
            if let Work::Forget { client } = job.work {
                self.waiters.remove_client(client);
            }
            self.shared.metrics.writes_refused.fetch_add(answers as u64, Relaxed);
            refused.push(Executed::new(job.caller, Reply::new(job.protocol), answers));
        }
        refuse(refused, refusal);
        self.count_taken();
        self.count_waiters();
    }
}

fn refuse(executed: Vec<Executed>, refusal: &Refusal) {
    let (text, mut post) = (refusal.text(), Post::default());
    executed.into_iter().for_each(|job| job.refuse(&text, &mut post));
}

#[cfg(test)]
mod faults;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::health;
    use crate::clients::{Addresses, Client};
    use crate::command::table::Access;
    use crate::command::{catalogue, table};
    use crate::config::Config;
    use crate::inbox::{Inbox, Letter};
    use crate::processor::Place;
    use crate::session::Outcome;
    use crate::store::commit::GROUPS_MAX;
    use crate::store::database::Database;
    use crate::store::group::GROUP_COMMANDS_MAX;
    use crate::users::Users;
    use mio::{Events, Poll};
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::channel;

    pub(super) struct TempDir(pub(super) PathBuf);

    impl TempDir {
        pub(super) fn new(name: &str) -> TempDir {
            let name = format!("hkv-writer-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            // What a process of the same id left when it was killed.
            _ = std::fs::remove_dir_all(&path);
            TempDir(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A writer over an empty directory, with the committer's thread, and a connection that asks it.
    pub(super) struct Rig {
        pub(super) writer: Writer,
        pub(super) jobs: Jobs,
        pub(super) poll: Poll,
        pub(super) inbox: Arc<Inbox>,
    }

    pub(super) fn rig(dir: &Path) -> Rig {
        rig_with(dir, Config::default())
    }

    pub(super) fn rig_with(dir: &Path, config: Config) -> Rig {
        std::fs::create_dir_all(dir).expect("a directory");
        let database = Database::open(&dir.join("rocksdb"), 1 << 20, 1 << 20).expect("a database");
        let log =
            Log::open::<super::super::log::OpenError>(&dir.join("log"), 0, 1 << 20, |_, _| Ok(()));
        let log = log.expect("a log").0;
        let (orders, heard) = channel();
        let (checkpoint, _) = sync_channel(1);
        let (landings, landing) = sync_channel(GROUPS_MAX);
        let users = Users::new("", &[], Path::new("")).expect("no users");
        let shared = Arc::new(Shared::new(config, database, users));
        let committer = Arc::new(Committer::new(shared.clone(), log.syncer(), orders.clone()));
        let run = committer.clone();
        std::thread::spawn(move || run.run(&landing, Place::anywhere()));
        let jobs = Jobs::new(orders, shared.clone());
        let writer = Writer::new(shared, log, heard, checkpoint, (committer, landings));
        let poll = Poll::new().expect("a poll");
        let inbox = Arc::new(Inbox::new(&poll).expect("an inbox"));
        Rig { writer, jobs, poll, inbox }
    }

    impl Rig {
        fn client(&self) -> Arc<Client> {
            self.writer.shared.connect(Addresses::default(), self.inbox.clone())
        }

        pub(super) fn job(&self, work: Work) -> Job {
            Job { work, protocol: Protocol::Resp2, caller: Caller::new(self.client()) }
        }

        /// Lets the writer run these together.
        pub(super) fn group(&mut self, jobs: Vec<Job>) {
            assert!(self.jobs.send(jobs).is_ok(), "the writer is there");
            assert!(self.writer.hear(), "somebody asked");
            self.writer.group();
        }

        fn answer(&mut self) -> Answer {
            match outcome(&mut self.poll, &self.inbox) {
                Outcome::Answered(answer) => answer,
                _ => panic!("every job is answered"),
            }
        }

        pub(super) fn run(&mut self, words: &[&str]) -> String {
            let job = self.job(Work::Pipeline(vec![queued(words)]));
            self.group(vec![job]);
            String::from_utf8(self.answer().bytes).expect("text")
        }
    }

    /// What the next one who is answered is told.
    fn outcome(poll: &mut Poll, inbox: &Inbox) -> Outcome {
        let mut letters = Vec::new();
        let mut events = Events::with_capacity(1);
        while letters.is_empty() {
            if inbox.may_sleep() {
                poll.poll(&mut events, None).expect("it waits");
            }
            inbox.woke();
            inbox.take(&mut letters);
        }
        assert_eq!(letters.len(), 1, "one was asked");
        match letters.remove(0) {
            Letter::Answered(_, outcome) => outcome,
            _ => panic!("no answer"),
        }
    }

    pub(super) fn queued(words: &[&str]) -> Queued {
        let args: Vec<Bytes> =
            words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let (command, facts) = table::resolve(&args).expect("a command");
        Queued { command, facts, args, selected: Selected::default() }
    }

    #[test]
    fn a_failed_sync_stops_all_writes_and_shows() {
        let dir = TempDir::new("sync");
        let mut rig = rig(&dir.0);
        let shared = rig.writer.shared.clone();
        assert_eq!(rig.run(&["SET", "a", "1"]), "+OK\r\n");
        assert_eq!(health(&shared), ("200 OK", "ok\n".into()));
        rig.writer.log.fail_syncs();
        // Only the group that was being written is open; those after it are not run at all.
        let open = rig.run(&["SET", "a", "2"]);
        assert!(open.starts_with(&format!("-{OUTCOME_OPEN} the write log failed")), "{open}");
        for _ in 0..2 {
            let refused = rig.run(&["SET", "a", "3"]);
            assert!(refused.starts_with("-READONLY nothing was written"), "{refused}");
        }
        assert_eq!(rig.run(&["GET", "a"]), "$1\r\n1\r\n");
        let (status, why) = health(&shared);
        assert_eq!(status, "503 Service Unavailable");
        assert!(why.contains("failed to sync"), "{why}");
    }

    /// Whoever found nothing in a group that did not happen is looked at again, and not left waiting for
    /// what is there.
    #[test]
    fn a_failed_group_leaves_nobody_waiting() {
        let dir = TempDir::new("wait");
        let mut rig = rig(&dir.0);
        assert_eq!(rig.run(&["RPUSH", "k", "1"]), ":1\r\n");
        rig.writer.log.fail_syncs();
        let taking = rig.job(Work::Pipeline(vec![queued(&["LPOP", "k"])]));
        let waiting = rig.job(Work::Waiting { client: 1, command: queued(&["BLPOP", "k", "0"]) });
        rig.group(vec![taking, waiting]);
        let open = rig.answer().bytes;
        assert!(open.starts_with(format!("-{OUTCOME_OPEN}").as_bytes()));
        assert_eq!(rig.writer.waiters.len(), 1);
        rig.writer.group();
        let refused = rig.answer().bytes;
        assert!(refused.starts_with(b"-READONLY nothing was written"));
        assert!(rig.writer.waiters.is_empty() && !rig.writer.waiters.has_ready());
        assert_eq!(rig.run(&["LRANGE", "k", "0", "-1"]), "*1\r\n$1\r\n1\r\n");
    }

    /// Groups see those before them that are not in the database yet, whatever they did there.
    #[test]
    fn a_group_sees_what_is_on_its_way() {
        let dir = TempDir::new("layers");
        let mut rig = rig(&dir.0);
        assert_eq!(rig.run(&["RPUSH", "l", "1", "2", "3", "4"]), ":4\r\n");
        assert_eq!(rig.run(&["HSET", "h", "a", "1", "c", "3"]), ":2\r\n");
        let steps: [&[&[&str]]; 3] = [
            &[&["LPOP", "l"], &["HSET", "h", "b", "2", "d", "4"], &["SET", "s", "1"]],
            &[
                &["LPOP", "l"],
                &["HDEL", "h", "c"],
                &["INCR", "s"],
                &["RPUSH", "l", "5"],
                &["LRANGE", "l", "0", "-1"],
                &["HKEYS", "h"],
            ],
            &[&["FLUSHALL"], &["SET", "new", "1"], &["KEYS", "*"], &["EXISTS", "l", "h", "s"]],
        ];
        // Groups do not wait for those before them to land, as full ones would not either.
        rig.writer.has_ended = true;
        // The committer can apply nothing meanwhile.
        let committer = rig.writer.committer.clone();
        let held = committer.hold();
        for step in steps {
            let commands = step.iter().map(|words| queued(words)).collect();
            let job = rig.job(Work::Pipeline(commands));
            rig.group(vec![job]);
        }
        assert_eq!(rig.writer.layers.len(), 3, "none is in the database");
        drop(held);
        let mut answers = Vec::new();
        while answers.len() < steps.len() {
            let mut letters = Vec::new();
            rig.inbox.take(&mut letters);
            for letter in letters {
                match letter {
                    Letter::Answered(_, Outcome::Answered(answer)) => answers.push(answer.bytes),
                    _ => panic!("no answer"),
                }
            }
            std::thread::yield_now();
        }
        let text = |at: usize| String::from_utf8_lossy(&answers[at]).replace("\r\n", " ");
        assert_eq!(text(0), "$1 1 :2 +OK ");
        assert_eq!(text(1), "$1 2 :1 :2 :3 *3 $1 3 $1 4 $1 5 *3 $1 d $1 a $1 b ");
        assert_eq!(text(2), "+OK +OK *1 $3 new :0 ");
        assert_eq!(rig.run(&["GET", "new"]), "$1\r\n1\r\n");
        assert!(rig.writer.layers.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_is_synced_while_nothing_can_be_applied() {
        let dir = TempDir::new("everysec");
        let config = Config { durability: Durability::EverySec, ..Config::default() };
        let rig = rig_with(&dir.0, config);
        let job = rig.job(Work::Pipeline(vec![queued(&["SET", "a", "1"])]));
        let Rig { mut writer, jobs, mut poll, inbox } = rig;
        let (committer, log) = (writer.committer.clone(), writer.log.source());
        let held = committer.hold();
        assert!(jobs.send(vec![job]).is_ok(), "the writer is there");
        let writing = std::thread::spawn(move || {
            assert!(writer.hear(), "somebody asked");
            writer.group();
            writer
        });
        let (running, ended) = channel();
        let syncer = committer.clone();
        let syncing = std::thread::spawn(move || syncer.sync_regularly(&ended));
        let started = Instant::now();
        while log.synced() < 1 {
            assert!(started.elapsed() < Duration::from_secs(60), "not synced in time");
            std::thread::yield_now();
        }
        assert_eq!(committer.settled(), 0, "it was applied");
        drop((running, held));
        syncing.join().expect("it ends");
        writing.join().expect("it ends");
        match outcome(&mut poll, &inbox) {
            Outcome::Answered(answer) => assert_eq!(answer.bytes, b"+OK\r\n"[..]),
            _ => panic!("it was applied"),
        }
    }

    /// So that the first of many are answered while the last ones run.
    #[test]
    fn a_group_ends_when_it_has_enough_commands() {
        let dir = TempDir::new("commands");
        let mut rig = rig(&dir.0);
        let pipeline = |rig: &Rig, commands| {
            rig.job(Work::Pipeline((0..commands).map(|_| queued(&["GET", "a"])).collect()))
        };
        for (first, left) in [(GROUP_COMMANDS_MAX, 2), (GROUP_COMMANDS_MAX - 1, 1)] {
            let jobs = [first, 1, 1].map(|commands| pipeline(&rig, commands));
            rig.group(jobs.into());
            assert_eq!(rig.writer.waiting.len(), left, "{first} commands and then one at a time");
            rig.writer.group();
            assert!(rig.writer.waiting.is_empty());
        }
    }

    /// What one pipeline may change together is bounded by the group, whatever its commands amount to.
    #[test]
    fn a_pipeline_that_fills_its_group_goes_on_in_the_next() {
        let dir = TempDir::new("group");
        let mut rig = rig(&dir.0);
        let value = "v".repeat(512 * 1024);
        assert_eq!(rig.run(&["SET", "a", &value]), "+OK\r\n");
        let mut commands: Vec<Queued> = (0..40).map(|_| queued(&["EXPIRE", "a", "100"])).collect();
        let mut ran = Vec::new();
        while !commands.is_empty() {
            let job = rig.job(Work::Pipeline(commands));
            rig.group(vec![job]);
            let answer = rig.answer();
            ran.push(answer.bytes.len() / ":1\r\n".len());
            commands = answer.rest;
        }
        assert_eq!(ran, [32, 8]);
    }

    #[test]
    fn what_waits_for_the_writer_is_counted() {
        let dir = TempDir::new("queue");
        let mut rig = rig(&dir.0);
        let shared = rig.writer.shared.clone();
        let waiting_bytes = || shared.metrics.writer_queue_bytes.load(Relaxed);
        let job = || Work::Pipeline(vec![queued(&["SET", "a", "12345"])]);
        let jobs = vec![rig.job(job()), rig.job(job())];
        assert!(rig.jobs.send(jobs).is_ok(), "the writer is there");
        assert_eq!(waiting_bytes(), 2 * 9);
        assert!(rig.writer.hear(), "somebody asked");
        rig.writer.group();
        assert_eq!(waiting_bytes(), 0);
        let late = rig.job(job());
        drop(rig.writer);
        assert!(rig.jobs.send(vec![late]).is_err(), "the writer is gone");
        assert_eq!(waiting_bytes(), 0);
    }

    #[test]
    fn a_writer_that_panics_shows() {
        static PANIC: table::Command = table::Command {
            name: "panic",
            arity: 1,
            keys: (0, 0, 0),
            access: Access::Write(|_, _| panic!("this test wants it")),
        };
        let dir = TempDir::new("panic");
        let rig = rig(&dir.0);
        let shared = rig.writer.shared.clone();
        let job = rig.job(Work::Pipeline(vec![Queued {
            command: &PANIC,
            facts: &catalogue::all()[0],
            args: vec![],
            selected: Selected::default(),
        }]));
        let Rig { writer, jobs, mut poll, inbox } = rig;
        assert!(jobs.send(vec![job]).is_ok(), "the writer is there");
        let thread = std::thread::spawn(move || writer.run());
        thread.join().expect_err("it panicked");
        assert!(matches!(outcome(&mut poll, &inbox), Outcome::Lost), "nobody knows");
        let (status, why) = health(&shared);
        assert_eq!(status, "503 Service Unavailable");
        assert!(why.contains("panicked"), "{why}");
    }
}
