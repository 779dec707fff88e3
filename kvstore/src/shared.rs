//! What every connection and the writer look at. One per server.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use thiserror::Error;

use crate::command::random::Random;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::resp::request::RequestLimits;
use crate::store::database::Database;
use crate::watch::Watches;

/// Why no write is taken until the server is started again. Reads go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Stopped {
    #[error("the write log failed to sync; check the disk and restart the server")]
    LogFailed,
    #[error("the writing thread panicked; restart the server and report what it logged")]
    WriterPanicked,
}

pub struct Shared {
    pub config: Config,
    pub limits: RequestLimits,
    pub database: Database,
    pub random: Random,
    pub watches: Watches,
    pub metrics: Metrics,
    stopped: OnceLock<Stopped>,
    is_behind: AtomicBool,
    started: Instant,
    last_connection: AtomicU64,
}

type Section = (&'static str, Vec<(&'static str, String)>);

impl Shared {
    pub fn new(config: Config, database: Database) -> Shared {
        Shared {
            limits: config.request_limits(),
            config,
            database,
            random: Random::default(),
            watches: Watches::default(),
            metrics: Metrics::default(),
            stopped: OnceLock::new(),
            is_behind: AtomicBool::new(false),
            started: Instant::now(),
            last_connection: AtomicU64::new(0),
        }
    }

    /// The first reason stays.
    pub fn stop_writes(&self, why: Stopped) {
        if self.stopped.set(why).is_ok() {
            tracing::error!("no more writes: {why}");
        }
    }

    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.get().copied()
    }

    /// The database does not take what the log has; writes are refused until it does.
    pub fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Relaxed);
    }

    /// Why writes are refused at present.
    pub fn trouble(&self) -> Option<String> {
        let behind = "the database does not take a write that is in the log; is its disk full? \
                      Nothing is lost, and each further write tries again";
        let stopped = self.stopped().map(|why| why.to_string());
        stopped.or_else(|| self.is_behind.load(Relaxed).then(|| behind.to_owned()))
    }

    pub fn next_connection(&self) -> u64 {
        self.last_connection.fetch_add(1, Relaxed) + 1
    }

    /// What `INFO` answers. `redis_version` is the version whose behaviour and texts this server has.
    pub fn info(&self) -> Vec<Section> {
        let metrics = self.metrics.snapshot();
        let uptime = self.started.elapsed().as_secs();
        vec![
            (
                "Server",
                vec![
                    ("redis_version", REDIS_VERSION.into()),
                    ("redis_mode", "standalone".into()),
                    ("hawser_kv_version", env!("CARGO_PKG_VERSION").into()),
                    ("process_id", std::process::id().to_string()),
                    ("uptime_in_seconds", uptime.to_string()),
                ],
            ),
            (
                "Clients",
                vec![
                    ("connected_clients", metrics.connections.to_string()),
                    ("blocked_clients", metrics.blocked_clients.to_string()),
                ],
            ),
            (
                "Persistence",
                vec![
                    ("loading", "0".into()),
                    ("log_groups", metrics.groups.to_string()),
                    ("log_bytes", metrics.log_bytes.to_string()),
                    ("writes_refused", metrics.writes_refused.to_string()),
                    ("writes_trouble", self.trouble().unwrap_or_default()),
                ],
            ),
            (
                "Stats",
                vec![
                    ("total_connections_received", metrics.accepted_total.to_string()),
                    ("total_reads_processed", metrics.read_commands.to_string()),
                    ("total_writes_processed", metrics.writer_commands.to_string()),
                ],
            ),
            ("Replication", vec![("role", "master".into()), ("connected_slaves", "0".into())]),
            (
                "Keyspace",
                vec![(
                    "estimated_keys",
                    self.database.property("rocksdb.estimate-num-keys").to_string(),
                )],
            ),
        ]
    }
}

pub const REDIS_VERSION: &str = "7.0.15";
