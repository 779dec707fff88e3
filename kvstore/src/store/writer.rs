//! The one thread that changes anything.
//!
//! ```text
//! take everything that waits ─▶ run it in order over one overlay ─▶ one record, one sync
//!                              ─▶ apply to RocksDB ─▶ mark watched keys ─▶ answer
//! ```
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
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::database::{StoreError, unix_ms};
use super::log::{AppendError, Log};
use super::overlay::Overlay;
use crate::command::error::{CommandError, OUTCOME_OPEN};
use crate::command::table::{Access, Command};
use crate::command::{Read, Write};
use crate::resp::reply::{Protocol, Reply};
use crate::shared::{Shared, Stopped};
use crate::watch::WatchSet;

/// A group ends when it holds so much; both are soft, the first by at most one job and the second by
/// what one transaction or one command may change. So a record has a limit, which the log asserts.
const GROUP_COMMANDS_MAX: usize = 32 * 1024;
const GROUP_BYTES_MAX: usize = 16 << 20;

/// A pipeline whose answers grow larger goes back to its connection, which sends the rest again; so
/// does one that fills its group.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// A command and its arguments, checked for their number.
pub struct Queued {
    pub command: &'static Command,
    pub args: Vec<Bytes>,
}

pub enum Work {
    /// Commands of one connection, each with its own answer.
    Pipeline(Vec<Queued>),
    /// Commands that run together, if no watched key has changed.
    Transaction { commands: Vec<Queued>, watched: WatchSet },
}

impl Work {
    fn commands(&self) -> usize {
        match self {
            Work::Pipeline(commands) | Work::Transaction { commands, .. } => commands.len(),
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
}

/// A group that is in the log, and that RocksDB has refused so far. Its keys have not been counted
/// as changed, since readers do not see it: that is done when it is applied.
pub struct Unapplied {
    sequence: u64,
    record: Vec<u8>,
    changed: Vec<Vec<u8>>,
    is_cleared: bool,
}

/// A job that was run and waits for its group to be durable.
struct Executed {
    answer: oneshot::Sender<Answer>,
    reply: Reply,
    rest: Vec<Queued>,
    /// How many answers `reply` holds.
    answers: usize,
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
        while let Some(first) = self.jobs.blocking_recv() {
            self.group(first);
        }
    }

    fn group(&mut self, first: Job) {
        let shared = self.shared.clone();
        if self.apply_unapplied().is_err() {
            return self.refuse(first, &Refusal::Behind);
        }
        let mut overlay = Overlay::new(&shared.database, self.log.next());
        let mut executed = Vec::new();
        let mut commands = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            commands += job.work.commands();
            executed.push(execute(&shared, &mut overlay, job));
            let full = commands >= GROUP_COMMANDS_MAX || overlay.bytes() >= GROUP_BYTES_MAX;
            next = if full { None } else { self.jobs.try_recv().ok() };
        }
        let outcome = self.commit(&overlay);
        if self.log.is_broken() {
            shared.stop_writes(Stopped::LogFailed);
        }
        shared.metrics.writer_commands.fetch_add(commands as u64, Relaxed);
        match outcome {
            Ok(()) => executed.into_iter().for_each(Executed::send),
            Err(refusal) => {
                shared.metrics.writes_refused.fetch_add(commands as u64, Relaxed);
                let text = refusal.text();
                executed.into_iter().for_each(|job| job.refuse(&text));
            }
        }
    }

    fn commit(&mut self, overlay: &Overlay<'_>) -> Result<(), Refusal> {
        if overlay.is_empty() {
            return Ok(());
        }
        let metrics = &self.shared.metrics;
        let record = overlay.encode();
        let started = Instant::now();
        let sequence = self.log.append(&record).map_err(|error| {
            tracing::error!(%error, "cannot write the log");
            match error {
                AppendError::NotWritten(error) => Refusal::NotWritten(error),
                AppendError::Broken(_) => Refusal::Broken,
                AppendError::Stopped => Refusal::LogStopped,
            }
        })?;
        metrics.log_micros.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        metrics.log_bytes.fetch_add(record.len() as u64, Relaxed);
        metrics.groups.fetch_add(1, Relaxed);
        if self.apply(sequence, &record).is_err() {
            let changed = overlay.changed_keys().map(<[u8]>::to_vec).collect();
            let is_cleared = overlay.is_cleared();
            self.unapplied = Some(Unapplied { sequence, record, changed, is_cleared });
            self.shared.set_behind(true);
            return Err(Refusal::NotApplied);
        }
        self.shared.watches.mark(overlay.changed_keys(), overlay.is_cleared());
        match self.log.rotate() {
            Ok(false) => {}
            Ok(true) => _ = self.checkpoint.try_send(()),
            Err(error) => tracing::error!(%error, "cannot start a log segment; the last one grows"),
        }
        Ok(())
    }

    fn apply_unapplied(&mut self) -> Result<(), StoreError> {
        let Some(late) = &self.unapplied else { return Ok(()) };
        self.apply(late.sequence, &late.record)?;
        self.shared.watches.mark(late.changed.iter().map(Vec::as_slice), late.is_cleared);
        self.unapplied = None;
        self.shared.set_behind(false);
        Ok(())
    }

    fn apply(&self, sequence: u64, record: &[u8]) -> Result<(), StoreError> {
        let started = Instant::now();
        self.shared.database.apply(sequence, record).inspect_err(|error| {
            tracing::error!(%error, sequence, "cannot apply a group to the database");
        })?;
        let micros = started.elapsed().as_micros() as u64;
        self.shared.metrics.apply_micros.fetch_add(micros, Relaxed);
        Ok(())
    }

    fn refuse(&self, job: Job, refusal: &Refusal) {
        let (answers, rest) = (job.work.answers(), Vec::new());
        self.shared.metrics.writes_refused.fetch_add(answers as u64, Relaxed);
        let reply = Reply::new(job.protocol);
        Executed { answer: job.answer, reply, rest, answers }.refuse(&refusal.text());
    }
}

impl Work {
    fn answers(&self) -> usize {
        match self {
            Work::Pipeline(commands) => commands.len(),
            Work::Transaction { .. } => 1,
        }
    }
}

impl Executed {
    /// The connection may be gone; its commands have happened all the same.
    fn send(self) {
        _ = self.answer.send(Answer { bytes: self.reply.into_bytes(), rest: self.rest });
    }

    fn refuse(mut self, text: &str) {
        self.reply.clear();
        for _ in 0..self.answers {
            self.reply.error(text);
        }
        self.send();
    }
}

fn execute(shared: &Shared, overlay: &mut Overlay<'_>, job: Job) -> Executed {
    let mut reply = Reply::new(job.protocol);
    let now_ms = unix_ms();
    let bytes_max = shared.config.changes_bytes_max();
    let (answers, rest) = match job.work {
        Work::Pipeline(mut commands) => {
            let mut run = 0;
            while run < commands.len()
                && reply.len() < ANSWER_BYTES_MAX
                && overlay.bytes() < GROUP_BYTES_MAX
            {
                overlay.start(bytes_max);
                execute_one(shared, overlay, now_ms, &commands[run], &mut reply);
                run += 1;
            }
            (run, commands.split_off(run))
        }
        Work::Transaction { commands, watched } => {
            if watched.is_unchanged(overlay, now_ms) {
                let start = overlay.start(bytes_max);
                reply.array(commands.len());
                for queued in &commands {
                    execute_one(shared, overlay, now_ms, queued, &mut reply);
                    if overlay.is_overfull() {
                        overlay.undo_to(start);
                        reply.clear();
                        reply.error(&format!(
                            "EXECABORT Transaction discarded because it would change more than \
                             {bytes_max} bytes at once; do it in parts"
                        ));
                        break;
                    }
                }
            } else {
                reply.null_array();
            }
            (1, Vec::new())
        }
    };
    Executed { answer: job.answer, reply, rest, answers }
}

fn execute_one(
    shared: &Shared,
    overlay: &mut Overlay<'_>,
    now_ms: u64,
    queued: &Queued,
    reply: &mut Reply,
) {
    let (start, before) = (reply.len(), overlay.savepoint());
    let args = &queued.args[..];
    let outcome = match queued.command.access {
        Access::Write(run) => run(&mut Write { overlay, now_ms, shared, args }, reply),
        Access::Point(run) | Access::Scan(run) => {
            run(&Read { view: overlay, now_ms, shared, args }, reply)
        }
        // Of these only UNWATCH can be in a transaction, and EXEC has done its work.
        Access::Session(_) => {
            reply.ok();
            Ok(())
        }
    };
    let outcome = match overlay.is_overfull() {
        true => Err(CommandError::ChangesTooLarge(shared.config.changes_bytes_max())),
        false => outcome,
    };
    if let Err(error) = outcome {
        overlay.undo_to(before);
        reply.truncate(start);
        reply.error(&error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::health;
    use crate::command::table::{self, find};
    use crate::config::Config;
    use crate::store::database::Database;
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
        let shared = Arc::new(Shared::new(Config::default(), database));
        let log = log.expect("a log").0;
        (Writer { shared, log, jobs, checkpoint, unapplied: None }, queue)
    }

    fn queued(words: &[&str]) -> Queued {
        let args: Vec<Bytes> =
            words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Queued { command: find(&args[0]).expect("a command"), args }
    }

    fn job(commands: Vec<Queued>) -> (Job, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Job { work: Work::Pipeline(commands), protocol: Protocol::Resp2, answer }, answered)
    }

    fn run(writer: &mut Writer, words: &[&str]) -> String {
        let (job, answered) = job(vec![queued(words)]);
        writer.group(job);
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
            writer.group(job);
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
        let (job, answered) = job(vec![Queued { command: &PANIC, args: vec![] }]);
        queue.blocking_send(job).map_err(|_| "full").expect("the queue is open");
        let thread = std::thread::spawn(move || writer.run());
        thread.join().expect_err("it panicked");
        assert!(answered.blocking_recv().is_err(), "nobody knows");
        let (status, why) = health(&shared);
        assert_eq!(status, "503 Service Unavailable");
        assert!(why.contains("panicked"), "{why}");
    }
}
