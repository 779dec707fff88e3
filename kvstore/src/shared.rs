//! What every connection and the writer look at. One per server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;

use crate::clients::{Addresses, Client, Clients};
use crate::command::catalogue::Facts;
use crate::command::random::Random;
use crate::config::{Config, Durability};
use crate::inbox::Inbox;
use crate::latency::{Event, Latencies};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::pause::Pause;
use crate::process::Usage;
use crate::pubsub::Hubs;
use crate::resp::request::RequestLimits;
use crate::slowlog::SlowLog;
use crate::stats::CommandStats;
use crate::store::checkpoints::Checkpoints;
use crate::store::database::{Database, unix_ms};
use crate::users::Users;
use crate::watch::Watches;

/// Why no write is taken until the server is started again. Reads go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Stopped {
    #[error("the write log failed to sync; check the disk and restart the server")]
    LogFailed,
    #[error("the writing thread panicked; restart the server and report what it logged")]
    WriterPanicked,
    /// Its connections are gone, and new ones that it should serve are not served.
    #[error("a network thread panicked; restart the server and report what it logged")]
    NetworkPanicked,
}

/// Held by a thread without which the server is none: says so when a panic has ended it.
pub struct Alarm {
    shared: Arc<Shared>,
    why: Stopped,
}

impl Alarm {
    pub fn new(shared: &Arc<Shared>, why: Stopped) -> Alarm {
        Alarm { shared: shared.clone(), why }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop_writes(self.why);
        }
    }
}

/// A command that ran.
#[derive(Clone, Copy)]
pub struct RanCommand<'a> {
    pub facts: &'a Facts,
    pub words: &'a [Bytes],
    /// Who sent it, unless nobody waits for it any more.
    pub client: Option<&'a Client>,
    pub took: Duration,
    pub has_failed: bool,
}

/// How long a look at the memory of the process is good for: each costs some microseconds.
const RESIDENT_FOR: Duration = Duration::from_millis(10);

pub struct Shared {
    pub config: Config,
    pub limits: RequestLimits,
    pub database: Database,
    pub random: Random,
    pub watches: Watches,
    pub metrics: Metrics,
    pub users: Users,
    pub live: Live,
    pub stats: CommandStats,
    pub slowlog: SlowLog,
    pub latencies: Latencies,
    pub clients: Clients,
    pub hubs: Hubs,
    pub pause: Pause,
    pub checkpoints: Checkpoints,
    stopped: OnceLock<Stopped>,
    panicked: watch::Sender<Option<Stopped>>,
    is_behind: AtomicBool,
    started: Instant,
    run_id: String,
    /// When the rate of commands was last asked for, and how many there had been.
    asked: Mutex<(Instant, u64)>,
    last_connection: AtomicU64,
    /// The memory of the process when it was last looked at.
    resident: Mutex<Option<(Instant, u64)>>,
}

impl Shared {
    pub fn new(config: Config, database: Database, users: Users) -> Shared {
        Shared {
            limits: config.request_limits(),
            users,
            live: Live::new(&config),
            stats: CommandStats::default(),
            slowlog: SlowLog::default(),
            latencies: Latencies::default(),
            clients: Clients::default(),
            hubs: Hubs::default(),
            pause: Pause::default(),
            checkpoints: Checkpoints::default(),
            run_id: new_run_id(),
            asked: Mutex::new((Instant::now(), 0)),
            config,
            database,
            random: Random::default(),
            watches: Watches::default(),
            metrics: Metrics::default(),
            stopped: OnceLock::new(),
            panicked: watch::Sender::new(None),
            is_behind: AtomicBool::new(false),
            started: Instant::now(),
            last_connection: AtomicU64::new(0),
            resident: Mutex::new(None),
        }
    }

    /// The first reason stays.
    pub fn stop_writes(&self, why: Stopped) {
        if self.stopped.set(why).is_ok() {
            tracing::error!("no more writes: {why}");
        }
        if why != Stopped::LogFailed {
            self.panicked.send_replace(Some(why));
        }
    }

    /// Waits until a thread has panicked.
    pub async fn panicked(&self) -> Stopped {
        let mut panicked = self.panicked.subscribe();
        let found = panicked.wait_for(Option::is_some).await.ok().and_then(|found| *found);
        found.expect("it waits until there is a reason, and the other end is in `self`")
    }

    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.get().copied()
    }

    /// The database does not take what the log has; writes are refused until it does.
    pub fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Relaxed);
    }

    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Relaxed)
    }

    /// Why writes are refused at present.
    pub fn trouble(&self) -> Option<String> {
        let behind = "the database does not take a write that is in the log; is its disk full? \
                      Nothing is lost, and each further write tries again";
        let stopped = self.stopped().map(|why| why.to_string());
        stopped.or_else(|| self.is_behind.load(Relaxed).then(|| behind.to_owned()))
    }

    pub fn connect(&self, addresses: Addresses, inbox: Arc<Inbox>) -> Arc<Client> {
        let id = self.last_connection.fetch_add(1, Relaxed) + 1;
        self.clients.add(id, addresses, inbox)
    }

    /// Puts a message in front of a client, or ends it when too much waits there.
    pub fn put(&self, client: &Client, message: Bytes) {
        if !client.put(message, self.config.outbox_limits()) {
            self.metrics.output_overflows_total.fetch_add(1, Relaxed);
        }
    }

    /// Whether the process uses more memory than CONFIG SET maxmemory allows.
    pub fn is_out_of_memory(&self) -> bool {
        let bytes_max = self.live.memory_bytes_max();
        if bytes_max == 0 {
            return false;
        }
        let mut resident = self.resident.lock().expect("not poisoned: nothing panics under it");
        let fresh = resident.filter(|(at, _)| at.elapsed() < RESIDENT_FOR);
        let (_, bytes) = *resident
            .insert(fresh.unwrap_or_else(|| (Instant::now(), Usage::now().resident_bytes)));
        bytes > bytes_max
    }

    /// What a write in this namespace survives once it is answered.
    pub fn durability_of(&self, namespace: u32) -> Durability {
        self.database.spaces().durability(namespace).unwrap_or(self.config.durability)
    }

    /// How often anything changed that says who may do what.
    pub fn access_changes(&self) -> u64 {
        self.users.changes() + self.database.spaces().changes()
    }

    /// Everything that keeps count of commands.
    pub fn ran(&self, ran: &RanCommand<'_>) {
        let RanCommand { facts, words, client, took, has_failed } = *ran;
        self.stats.ran(facts, took, has_failed);
        self.slowlog.ran(&self.live, facts, words, took, client);
        let event = if facts.has_flag("fast") { Event::FastCommand } else { Event::Command };
        self.latencies.took(&self.live, event, took);
    }

    /// How many files the write log has, and their bytes. 0 where that cannot be known.
    pub fn log_files(&self) -> (u64, u64) {
        let entries = std::fs::read_dir(self.config.dir.join("log")).into_iter().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Forty hexadecimal digits that no other start has.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Commands a second since somebody last asked.
    pub fn commands_per_second(&self, commands: u64) -> u64 {
        let mut asked = self.asked.lock().expect("not poisoned: nothing panics under it");
        let (at, before) = std::mem::replace(&mut *asked, (Instant::now(), commands));
        (commands.saturating_sub(before) as f64 / at.elapsed().as_secs_f64().max(1e-3)) as u64
    }

    /// What CONFIG RESETSTAT sets to 0.
    pub fn reset_counters(&self) {
        let metrics = &self.metrics;
        for counter in [
            &metrics.accepted_total,
            &metrics.refused_total,
            &metrics.read_commands,
            &metrics.writer_commands,
            &metrics.protocol_errors_total,
            &metrics.keyspace_hits,
            &metrics.keyspace_misses,
        ] {
            counter.store(0, Relaxed);
        }
    }
}

fn new_run_id() -> String {
    let mut hasher = Sha256::new();
    hasher.update(unix_ms().to_be_bytes());
    hasher.update(std::process::id().to_be_bytes());
    let digits = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    digits[..40].to_string()
}

pub const REDIS_VERSION: &str = "7.0.15";
