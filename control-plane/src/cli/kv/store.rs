//! The connection to a running store, and the checkpoints that go with the process that asked for them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use redis::{Client, Cmd, Connection, FromRedisValue, RedisError, cmd};

use super::super::out::LiveLine;
use super::address::{Address, Place};
use super::{STORE_PASSWORD, password};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// No command of ours lets the server compute longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the names of checkpoints begin with that belong to a running command.
pub const HELD: &str = "held-";

/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// Which store, the same for every command that talks to one.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct Target {
    /// Store to talk to: HOST:PORT, unix:PATH or redis://USER:PASSWORD@HOST:PORT
    #[arg(
        long,
        env = "HAWSER_KV",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7379"
    )]
    store: Address,

    /// Database to look into
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..16))]
    db: u8,
}

pub struct Store {
    place: String,
    connection: Connection,
}

impl Target {
    pub fn connect(&self) -> anyhow::Result<Store> {
        Store::connect(&self.store, self.db)
    }
}

impl Store {
    /// The database of the address wins.
    pub fn connect(address: &Address, database: u8) -> anyhow::Result<Store> {
        let place = address.to_string();
        let url = match &address.place {
            Place::Tcp(place) => format!("redis://{place}"),
            Place::Unix(path) => format!("redis+unix://{}", std::path::absolute(path)?.display()),
        };
        let client = Client::open(url)?;
        let connected = client.get_connection_with_timeout(CONNECT_TIMEOUT);
        let connection = connected.with_context(|| {
            format!(
                "no store answers at {place}; --store or HAWSER_KV names another, `hawser kv start` \
                 starts one"
            )
        })?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut store = Store { place, connection };
        let Address { user, password: given, database: wanted, .. } = address;
        if let Some(password) = given.clone().or_else(|| password(STORE_PASSWORD)) {
            store.ask::<()>(cmd("AUTH").arg(user).arg(password))?;
        }
        let database = wanted.unwrap_or(database.into());
        if database != 0 {
            store.ask::<()>(cmd("SELECT").arg(database))?;
        }
        Ok(store)
    }

    pub fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> anyhow::Result<T> {
        let answer = command.query(&mut self.connection);
        answer.map_err(|error| self.failure(&error))
    }

    /// The answers of many commands, in their order.
    pub fn ask_all(&mut self, pipeline: &redis::Pipeline) -> anyhow::Result<Vec<redis::Value>> {
        let answers = pipeline.query(&mut self.connection);
        answers.map_err(|error| self.failure(&error))
    }

    /// In the store's own words where it has any.
    fn failure(&self, error: &RedisError) -> anyhow::Error {
        let place = &self.place;
        match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => anyhow!("the store at {place}: {code} {detail}"),
            _ => anyhow!("the store at {place}: {error}"),
        }
    }

    /// Makes a checkpoint; its path and its last sequence.
    pub fn checkpoint(&mut self, name: &str) -> anyhow::Result<Checkpoint> {
        let answer: Vec<(String, String)> = self.ask(cmd("CHECKPOINT").arg("ADD").arg(name))?;
        let field = |name: &str| {
            let found = answer.iter().find(|(field, _)| field == name);
            found.map(|(_, value)| value.clone()).context("the store answers without what is asked")
        };
        Ok(Checkpoint {
            path: field("path")?.into(),
            sequence: field("sequence")?.parse()?,
            micros: field("micros")?.parse()?,
        })
    }

    pub fn delete_checkpoint(&mut self, name: &str) -> anyhow::Result<()> {
        self.ask(cmd("CHECKPOINT").arg("DEL").arg(name))
    }

    pub fn checkpoints(&mut self) -> anyhow::Result<Vec<String>> {
        self.ask(cmd("CHECKPOINT").arg("LIST"))
    }
}

pub struct Checkpoint {
    pub path: PathBuf,
    pub sequence: u64,
    pub micros: u64,
}

/// A checkpoint that goes with the value. When the process is killed instead, whoever makes the next one
/// deletes it: a lock on one of its files, which went with the process, says that nobody needs it.
pub struct Held {
    store: Store,
    name: String,
    pub checkpoint: Checkpoint,
    _lock: File,
}

impl Held {
    pub fn new(mut store: Store) -> anyhow::Result<Held> {
        // In containers many processes have the same number, at the same time, too.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{HELD}{}-{}", std::process::id(), since.as_nanos());
        let before = store.checkpoints()?;
        let checkpoint = store.checkpoint(&name)?;
        let lock = lock(&checkpoint.path);
        if lock.is_err() {
            store.delete_checkpoint(&name)?;
        }
        let lock = lock.with_context(|| {
            format!(
                "cannot read {}: run this on the store's machine, as a user that may read its data \
                 directory",
                checkpoint.path.display()
            )
        })?;
        let held = Held { store, name, checkpoint, _lock: lock };
        held.delete_left(before)
    }

    fn delete_left(mut self, names: Vec<String>) -> anyhow::Result<Held> {
        for name in names.iter().filter(|name| name.starts_with(HELD) && **name != self.name) {
            if lock(&self.checkpoint.path.with_file_name(name)).is_ok() {
                self.store.delete_checkpoint(name)?;
            }
        }
        Ok(self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.store.delete_checkpoint(&self.name) {
            eprintln!("hawser: checkpoint {} stays for now: {error:#}", self.name);
        }
    }
}

fn lock(checkpoint: &Path) -> anyhow::Result<File> {
    let file = File::open(checkpoint.join("format"))?;
    if file.try_lock().is_err() {
        bail!("it is in use");
    }
    Ok(file)
}

/// Shows progress now and then, on standard error.
pub struct Shown {
    line: LiveLine,
    last: Option<Instant>,
}

impl Shown {
    pub fn new() -> Shown {
        Shown { line: LiveLine::on_stderr(), last: None }
    }

    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.last.is_none_or(|last| last.elapsed() >= SHOWN_EVERY) {
            self.line.update(&text());
            self.last = Some(Instant::now());
        }
    }

    pub fn end(mut self) {
        self.line.end();
    }
}

/// Bytes as people read them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (bytes.max(1).ilog2() / 10).min(4);
    match step {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / 2f64.powi(10 * step as i32), UNITS[step as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (bytes, expect) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536 << 20, "1.5 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), expect);
        }
    }
}
