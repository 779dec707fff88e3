//! The one thread that changes anything.
//!
//! ```text
//! take everything that waits ─▶ run it in order over one overlay ─▶ one record, one sync
//!                              ─▶ apply to RocksDB ─▶ mark watched keys ─▶ answer
//! ```
//!
//! A command that waits for a key (BLPOP) is kept until the key changes, its time is over or its client
//! goes. All three come to this thread, in one order.
//!
//! The sync is for those who are promised that a write survives a power cut before it is answered
//! ([`Durability`]); what others wrote is synced once a second by a thread of its own, or with time.
//!
//! The longer a sync takes, the more waits when it ends, so groups grow with the load by themselves.
//! When the group cannot be made durable, every command of it is answered with why, reads behind
//! writes included, since they saw what did not happen.
//!
//! A group that is durable but that RocksDB refuses (a full disk: its memtables cannot be flushed) is
//! kept and applied before anything else runs. Its clients are told that its outcome is open
//! ([`OUTCOME_OPEN`]); those who come while it waits are told that nothing was done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::database::StoreError;
use super::group::{Executed, Group, Ran};
use super::log::{AppendError, Log};
use super::overlay::Overlay;
use super::seeded::SeededBug;
use super::spaces::Selected;
use super::waiters::Waiters;
use crate::command::catalogue::Facts;
use crate::command::error::OUTCOME_OPEN;
use crate::command::table::Command;
use crate::config::Durability;
use crate::latency::Event;
use crate::resp::reply::{Protocol, Reply};
use crate::shared::{Shared, Stopped};
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

    pub fn answers(&self) -> usize {
        match self {
            Work::Pipeline(commands) => commands.len(),
            _ => 1,
        }
    }
}

pub struct Job {
    pub work: Work,
    pub protocol: Protocol,
    pub answer: oneshot::Sender<Answer>,
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
enum Refusal {
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
    fn text(&self) -> String {
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
    pub jobs: mpsc::Receiver<Job>,
    /// Wakes the checkpoint thread. Full means that it is already woken.
    pub checkpoint: SyncSender<()>,
    pub unapplied: Option<Unapplied>,
    pub waiters: Waiters,
}

/// A group that is in the log, and that RocksDB has refused so far. Its keys have not been counted
/// as changed, since readers do not see it: that is done when it is applied.
pub struct Unapplied {
    sequence: u64,
    record: Vec<u8>,
    changed: Vec<Vec<u8>>,
    cleared: Vec<(u32, u32)>,
}

/// Says that the writer is gone when a panic has ended it.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop_writes(Stopped::WriterPanicked);
        }
    }
}

impl Writer {
    /// Runs until every connection and the server have dropped their end of the queue.
    pub fn run(mut self) {
        let _alarm = Alarm(self.shared.clone());
        loop {
            if self.waiters.has_ready() {
                self.group(None);
                continue;
            }
            match receive(&mut self.jobs, self.waiters.next_end()) {
                Received::Job(job) => self.group(Some(job)),
                Received::TimeIsUp => self.end_late(),
                Received::Closed => break,
            }
        }
        // What nobody was promised should survive a graceful stop all the same.
        if let Err(error) = self.log.sync() {
            tracing::error!(%error, "cannot sync the log");
        }
    }

    fn end_late(&mut self) {
        self.waiters.end_late(Instant::now());
        self.count_waiters();
    }

    fn count_waiters(&self) {
        self.shared.metrics.blocked_clients.store(self.waiters.len() as u64, Relaxed);
    }

    /// Runs what waits: first those whose keys changed when the last group was full, then jobs.
    fn group(&mut self, first: Option<Job>) {
        let shared = self.shared.clone();
        self.waiters.end_late(Instant::now());
        if self.apply_unapplied().is_err() {
            return self.refuse(first, &Refusal::Behind);
        }
        let mut group = Group::new(&shared, self.log.next(), &mut self.waiters);
        group.serve();
        let mut next = first;
        while let Some(job) = next {
            group.run(job);
            next = if group.is_full() { None } else { self.jobs.try_recv().ok() };
        }
        let Ran { overlay, mut executed, commands, began_to_wait } = group.end();
        if SeededBug::AnswersBeforeLog.is_on() {
            std::mem::take(&mut executed).into_iter().for_each(Executed::send);
        }
        let access_changes = shared.access_changes();
        let outcome = self.commit(&overlay);
        if self.log.is_broken() {
            shared.stop_writes(Stopped::LogFailed);
        }
        shared.metrics.writer_commands.fetch_add(commands as u64, Relaxed);
        if shared.access_changes() != access_changes {
            shared.clients.wake_all();
        }
        // Who has an answer is no longer counted as waiting.
        self.count_waiters();
        match outcome {
            Ok(()) => executed.into_iter().for_each(Executed::send),
            Err(refusal) => {
                shared.metrics.writes_refused.fetch_add(commands as u64, Relaxed);
                let text = refusal.text();
                executed.into_iter().for_each(|job| job.refuse(&text));
                // What they did not find may be there, since what took it did not happen.
                let spaces = shared.database.spaces();
                self.waiters.move_to(|selected| spaces.space(selected));
                began_to_wait.into_iter().for_each(|ticket| self.waiters.look_again(ticket));
            }
        }
    }

    fn commit(&mut self, overlay: &Overlay<'_>) -> Result<(), Refusal> {
        if overlay.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let metrics = &shared.metrics;
        let record = overlay.encode();
        if SeededBug::AppliesBeforeLog.is_on() {
            _ = self.apply(self.log.next(), &record);
        }
        let started = Instant::now();
        let sequence = self.write(&record).map_err(|error| {
            tracing::error!(%error, "cannot write the log");
            match error {
                AppendError::NotWritten(error) => Refusal::NotWritten(error),
                AppendError::Broken(_) => Refusal::Broken,
                AppendError::Stopped => Refusal::LogStopped,
            }
        })?;
        self.shared.latencies.took(&self.shared.live, Event::LogSync, started.elapsed());
        metrics.log_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        metrics.log_bytes.fetch_add(record.len() as u64, Relaxed);
        metrics.groups.fetch_add(1, Relaxed);
        if self.apply(sequence, &record).is_err() {
            let changed = overlay.changed_keys().map(<[u8]>::to_vec).collect();
            let cleared = overlay.cleared().to_vec();
            self.unapplied = Some(Unapplied { sequence, record, changed, cleared });
            self.shared.set_behind(true);
            return Err(Refusal::NotApplied);
        }
        self.shared.watches.mark(overlay.changed_keys(), overlay.cleared());
        match self.log.rotate() {
            Ok(false) => {}
            Ok(true) => _ = self.checkpoint.try_send(()),
            Err(error) => tracing::error!(%error, "cannot start a log segment; the last one grows"),
        }
        Ok(())
    }

    /// Writes a record as durably as was promised.
    fn write(&mut self, record: &[u8]) -> Result<u64, AppendError> {
        let sequence = self.log.append(record)?;
        if self.shared.config.durability == Durability::Always {
            self.log.sync()?;
        }
        Ok(sequence)
    }

    fn apply_unapplied(&mut self) -> Result<(), StoreError> {
        let Some(late) = &self.unapplied else { return Ok(()) };
        self.apply(late.sequence, &late.record)?;
        self.shared.watches.mark(late.changed.iter().map(Vec::as_slice), &late.cleared);
        self.unapplied = None;
        self.shared.set_behind(false);
        Ok(())
    }

    fn apply(&self, sequence: u64, record: &[u8]) -> Result<(), StoreError> {
        let started = Instant::now();
        self.shared.database.apply(sequence, record).inspect_err(|error| {
            tracing::error!(%error, sequence, "cannot apply a group to the database");
        })?;
        self.shared.latencies.took(&self.shared.live, Event::DbApply, started.elapsed());
        let micros = started.elapsed().as_micros() as u64;
        self.shared.metrics.apply_micros.fetch_add(micros, Relaxed);
        Ok(())
    }

    /// Refuses a job that is not run, and those who should be looked at and cannot be.
    fn refuse(&mut self, job: Option<Job>, refusal: &Refusal) {
        let text = refusal.text();
        while let Some(key) = self.waiters.next_ready() {
            while let Some(ticket) = self.waiters.next_at(&key, 0) {
                let waiter = self.waiters.remove(ticket).expect("it waits at the key");
                Executed::waiter(waiter, Reply::default()).refuse(&text);
            }
        }
        if let Some(job) = job {
            let answers = job.work.answers();
            if let Work::Forget { client } = job.work {
                self.waiters.remove_client(client);
            }
            self.shared.metrics.writes_refused.fetch_add(answers as u64, Relaxed);
            Executed::new(job.answer, Reply::new(job.protocol), answers).refuse(&text);
        }
        self.count_waiters();
    }
}

enum Received {
    Job(Job),
    TimeIsUp,
    Closed,
}

/// Waits for a job, until `end`.
fn receive(jobs: &mut mpsc::Receiver<Job>, end: Option<Instant>) -> Received {
    let Some(end) = end else {
        return jobs.blocking_recv().map_or(Received::Closed, Received::Job);
    };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(job) = jobs.poll_recv(&mut context) {
            return job.map_or(Received::Closed, Received::Job);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Received::TimeIsUp;
        }
        std::thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::health;
    use crate::command::table::Access;
    use crate::command::{catalogue, table};
    use crate::config::Config;
    use crate::store::database::Database;
    use crate::users::Users;
    use std::path::{Path, PathBuf};

    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> TempDir {
            let name = format!("hkv-writer-{}-{name}", std::process::id());
            TempDir(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A writer over an empty directory, and the queue it takes jobs from.
    fn writer(dir: &Path) -> (Writer, mpsc::Sender<Job>) {
        std::fs::create_dir_all(dir).expect("a directory");
        let database = Database::open(&dir.join("rocksdb"), 1 << 20, 1 << 20).expect("a database");
        let log =
            Log::open::<super::super::log::OpenError>(&dir.join("log"), 0, 1 << 20, |_, _| Ok(()));
        let (queue, jobs) = mpsc::channel(16);
        let (checkpoint, _) = std::sync::mpsc::sync_channel(1);
        let users = Users::new("", &[], Path::new("")).expect("no users");
        let shared = Arc::new(Shared::new(Config::default(), database, users));
        let log = log.expect("a log").0;
        (
            Writer { shared, log, jobs, checkpoint, unapplied: None, waiters: Waiters::default() },
            queue,
        )
    }

    fn queued(words: &[&str]) -> Queued {
        let args: Vec<Bytes> =
            words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        let (command, facts) = table::resolve(&args).expect("a command");
        Queued { command, facts, args, selected: Selected::default() }
    }

    fn job(commands: Vec<Queued>) -> (Job, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Job { work: Work::Pipeline(commands), protocol: Protocol::Resp2, answer }, answered)
    }

    fn run(writer: &mut Writer, words: &[&str]) -> String {
        let (job, answered) = job(vec![queued(words)]);
        writer.group(Some(job));
        let answer = answered.blocking_recv().expect("every job is answered");
        String::from_utf8(answer.bytes).expect("text")
    }

    #[test]
    fn a_failed_sync_stops_all_writes_and_shows() {
        let dir = TempDir::new("sync");
        let (mut writer, _queue) = writer(&dir.0);
        let shared = writer.shared.clone();
        assert_eq!(run(&mut writer, &["SET", "a", "1"]), "+OK\r\n");
        assert_eq!(health(&shared), ("200 OK", "ok\n".into()));
        writer.log.fail_syncs();
        // Only the group that was being written is open; those after it are not run at all.
        let open = run(&mut writer, &["SET", "a", "2"]);
        assert!(open.starts_with(&format!("-{OUTCOME_OPEN} the write log failed")), "{open}");
        for _ in 0..2 {
            let refused = run(&mut writer, &["SET", "a", "3"]);
            assert!(refused.starts_with("-READONLY nothing was written"), "{refused}");
        }
        assert_eq!(run(&mut writer, &["GET", "a"]), "$1\r\n1\r\n");
        let (status, why) = health(&shared);
        assert_eq!(status, "503 Service Unavailable");
        assert!(why.contains("failed to sync"), "{why}");
    }

    /// Whoever found nothing in a group that did not happen is looked at again, and not left waiting for
    /// what is there.
    #[test]
    fn a_failed_group_leaves_nobody_waiting() {
        let dir = TempDir::new("wait");
        let (mut writer, queue) = writer(&dir.0);
        assert_eq!(run(&mut writer, &["RPUSH", "k", "1"]), ":1\r\n");
        writer.log.fail_syncs();
        let (taking, taken) = job(vec![queued(&["LPOP", "k"])]);
        let (answer, mut answered) = oneshot::channel();
        let command = queued(&["BLPOP", "k", "0"]);
        let work = Work::Waiting { client: 1, command };
        let waiting = Job { work, protocol: Protocol::Resp2, answer };
        queue.blocking_send(waiting).map_err(|_| "full").expect("the queue is open");
        writer.group(Some(taking));
        let open = taken.blocking_recv().expect("every job is answered").bytes;
        assert!(open.starts_with(format!("-{OUTCOME_OPEN}").as_bytes()));
        assert!(answered.try_recv().is_err() && writer.waiters.has_ready());
        writer.group(None);
        let refused = answered.try_recv().expect("it is answered").bytes;
        assert!(refused.starts_with(b"-READONLY nothing was written"));
        assert!(writer.waiters.is_empty() && !writer.waiters.has_ready());
        assert_eq!(run(&mut writer, &["LRANGE", "k", "0", "-1"]), "*1\r\n$1\r\n1\r\n");
    }

    /// What one pipeline may change together is bounded by the group, whatever its commands amount to.
    #[test]
    fn a_pipeline_that_fills_its_group_goes_on_in_the_next() {
        let dir = TempDir::new("group");
        let (mut writer, _queue) = writer(&dir.0);
        let value = "v".repeat(512 * 1024);
        assert_eq!(run(&mut writer, &["SET", "a", &value]), "+OK\r\n");
        let mut commands: Vec<Queued> = (0..40).map(|_| queued(&["EXPIRE", "a", "100"])).collect();
        let mut ran = Vec::new();
        while !commands.is_empty() {
            let (job, answered) = job(commands);
            writer.group(Some(job));
            let answer = answered.blocking_recv().expect("every job is answered");
            ran.push(answer.bytes.len() / ":1\r\n".len());
            commands = answer.rest;
        }
        assert_eq!(ran, [32, 8]);
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
        let (writer, queue) = writer(&dir.0);
        let shared = writer.shared.clone();
        let (job, answered) = job(vec![Queued {
            command: &PANIC,
            facts: &catalogue::all()[0],
            args: vec![],
            selected: Selected::default(),
        }]);
        queue.blocking_send(job).map_err(|_| "full").expect("the queue is open");
        let thread = std::thread::spawn(move || writer.run());
        thread.join().expect_err("it panicked");
        assert!(answered.blocking_recv().is_err(), "nobody knows");
        let (status, why) = health(&shared);
        assert_eq!(status, "503 Service Unavailable");
        assert!(why.contains("panicked"), "{why}");
    }
}
