//! `hawser kv load`: an RDB file, or everything of a live Redis, into a store.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use hawser_kv::rdb::reader::Reader;
use hawser_kv::rdb::{RdbError, STRING_BYTES_MAX};
use serde::Serialize;

use super::address::Address;
use super::lane::{Failure, Failures, Lane, Limits};
use super::live::{Follower, Live, Progress};
use super::loader::{Counts, Loader};
use super::wire::Connection;
use super::{REDIS_PASSWORD, STORE_PASSWORD, password};
use crate::cli::failure::Usage;
use crate::cli::out::{self, Format, LiveLine};

pub const EXAMPLES: &str = "\
Examples:
  hawser kv load dump.rdb --to 127.0.0.1:7379
  hawser kv load dump.rdb --to redis://team:SECRET@127.0.0.1:7379 --json
  hawser kv load --from redis://:SECRET@redis.local:6379 --to unix:/run/hawser-kv.sock --follow

Every key of the file replaces the one of that name; other keys of the store stay. What was loaded before is
the same when it is loaded again, so an interrupted load is simply started again. Keys that the store cannot
take (a string above its bulk_bytes_max, a value of a module, a database that it does not have) are named and
counted, the others are loaded, and the exit code is 1.

A live Redis is read as its replica does: one moment of it, and with --follow every change after that, until
it is interrupted. Stop writing to Redis, wait until the lag is 0, interrupt, and move the clients.

Passwords stand in the addresses, or in HAWSER_KV_PASSWORD (--to) and HAWSER_REDIS_PASSWORD (--from).";

#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// RDB file of Redis, of any version up to 7.4
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub file: Option<PathBuf>,

    /// Store to load into: HOST:PORT, unix:PATH or redis://USER:PASSWORD@HOST:PORT
    #[arg(
        long,
        env = "HAWSER_KV",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7379"
    )]
    pub to: Address,

    /// Redis to take everything from, instead of a file
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<Address>,

    /// Go on with every change that is made there, until interrupted
    #[arg(long, requires = "from")]
    pub follow: bool,

    /// Connections that load at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: u8,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    keys_loaded: u64,
    /// Keys whose time was over already.
    keys_expired: u64,
    /// Collections without members, which do not exist.
    keys_empty: u64,
    keys_failed: u64,
    failures: Vec<Failure>,
    /// Deliveries of deleted entries, which large streams do not keep.
    pending_lost: u64,
    /// What is no key and was read over.
    skipped: Vec<String>,
    bytes: u64,
    seconds: f64,
    keys_per_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    followed: Option<Followed>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Followed {
    commands: u64,
    bytes: u64,
    lag_bytes: Option<u64>,
    commands_failed: u64,
}

pub fn run(args: LoadArgs, format: Format) -> anyhow::Result<()> {
    if args.follow && args.from.is_none() {
        return Err(Usage("--follow: a file does not change; follow a Redis, with --from").into());
    }
    if args.to.database.is_some() {
        return Err(Usage(
            "--to: each key goes to the database it comes from; leave the number out",
        )
        .into());
    }
    let to = |_| Connection::open(&args.to, password(STORE_PASSWORD).as_deref());
    let mut connections: Vec<Connection> =
        (0..args.connections).map(to).collect::<anyhow::Result<_>>()?;
    let limits = Limits::ask(&mut connections[0])?;
    let lanes = connections.into_iter().map(Lane::new).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let loader = Loader::new(lanes, limits, now.as_millis() as u64);
    let mut progress = Shown::new(format);
    let done = match (&args.file, &args.from) {
        (Some(path), None) => from_file(path, loader, &mut progress),
        (None, Some(address)) => from_redis(address, args.follow, loader, &mut progress),
        _ => return Err(Usage("give an RDB file or --from, and not both").into()),
    };
    progress.line.end();
    print(&done?, format)
}

fn from_file(path: &Path, mut loader: Loader, progress: &mut Shown) -> anyhow::Result<Done> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    progress.bytes = Some(file.metadata()?.len());
    let mut input = BufReader::with_capacity(1 << 20, file);
    let bytes = match read(&mut input, &mut loader, progress) {
        Ok(bytes) => bytes,
        Err(error) => return Err(given_up(error, loader).context(format!("{shown}"))),
    };
    if !input.fill_buf()?.is_empty() {
        let what = "bytes behind the end of the RDB file, such as commands of an append-only file";
        loader.counts.skipped.push(what.to_owned());
    }
    Ok(progress.done(bytes, loader.loaded(), loader.counts, loader.failures))
}

fn from_redis(
    address: &Address,
    follow: bool,
    mut loader: Loader,
    progress: &mut Shown,
) -> anyhow::Result<Done> {
    progress.line.update("waiting for Redis to make its file");
    let mut live = Live::begin(address, password(REDIS_PASSWORD).as_deref())?;
    progress.bytes = live.file_bytes();
    let bytes = match read(live.file(), &mut loader, progress) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Err(given_up(error, loader).context(format!("the file that {address} sends")));
        }
    };
    live.end_file(bytes)?;
    let loaded = loader.loaded();
    if !follow {
        return Ok(progress.done(bytes, loaded, loader.counts, loader.failures));
    }
    let (lane, limits, counts, failures) = loader.into_lane();
    let mut done = progress.done(bytes, loaded, counts, failures);
    progress.line.say(&format!("loaded {loaded} keys, following; Ctrl-C ends it"));
    let observer = Connection::open(address, password(REDIS_PASSWORD).as_deref()).ok();
    let mut follower = Follower::new(live, observer, (lane, limits, Failures::default()));
    let stop = stopped_by_signals()?;
    let followed = follower.run(&stop, |so_far, failures| progress.following(so_far, failures))?;
    let failures = std::mem::take(&mut follower.failures);
    done.followed = Some(Followed {
        commands: followed.commands,
        bytes: followed.bytes,
        lag_bytes: followed.lag_bytes,
        commands_failed: failures.count,
    });
    done.failures.extend(failures.named);
    Ok(done)
}

/// Where the source is damaged, says what became of the keys before that.
fn given_up(error: anyhow::Error, mut loader: Loader) -> anyhow::Error {
    if !error.is::<RdbError>() {
        return error;
    }
    match loader.give_up() {
        Ok(keys) => anyhow!("{error:#}; {keys} keys before that are loaded"),
        Err(second) => anyhow!("{error:#}; and {second:#}"),
    }
}

/// Loads one RDB file, and says how many bytes it had.
fn read(
    input: &mut impl BufRead,
    loader: &mut Loader,
    progress: &mut Shown,
) -> anyhow::Result<u64> {
    // The library says where and why; the connection's own errors pass as they are.
    let told = |error: RdbError| anyhow::Error::new(error);
    let mut reader = Reader::open(input, STRING_BYTES_MAX).map_err(told)?;
    while let Some(event) = reader.next_event().map_err(told)? {
        loader.take(event)?;
        progress.loading(reader.offset(), loader);
    }
    loader.finish()?;
    Ok(reader.offset())
}

/// Set by SIGINT or SIGTERM.
fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopped = stop.clone();
    let mut terminate = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        });
        stopped.store(true, Relaxed);
    });
    Ok(stop)
}

/// What is shown while it lasts.
struct Shown {
    line: LiveLine,
    format: Format,
    started: Instant,
    updated: Instant,
    /// Of the whole file, if that is known.
    bytes: Option<u64>,
    commands_before: u64,
}

const UPDATE_EVERY: Duration = Duration::from_millis(500);

impl Shown {
    fn new(format: Format) -> Shown {
        let now = Instant::now();
        let line = LiveLine::on_stderr();
        Shown { line, format, started: now, updated: now, bytes: None, commands_before: 0 }
    }

    fn loading(&mut self, offset: u64, loader: &Loader) {
        // Reading the clock for every key would be most of the work.
        if !loader.counts.read.is_multiple_of(256) || self.updated.elapsed() < UPDATE_EVERY {
            return;
        }
        self.updated = Instant::now();
        let keys = loader.counts.read;
        let rate = keys as f64 / self.started.elapsed().as_secs_f64();
        let part = match self.bytes {
            Some(bytes) if bytes > 0 => format!("{} % of ", offset * 100 / bytes),
            _ => String::new(),
        };
        let of = self.bytes.unwrap_or(offset) >> 20;
        let failed = match loader.failures.count {
            0 => String::new(),
            count => format!(", {count} failed"),
        };
        self.line.update(&format!("{part}{of} MiB, {keys} keys, {rate:.0} keys/s{failed}"));
    }

    fn following(&mut self, so_far: Progress, failures: &Failures) -> anyhow::Result<()> {
        let Progress { commands, bytes, lag_bytes } = so_far;
        let new = commands - std::mem::replace(&mut self.commands_before, commands);
        let commands_failed = failures.count;
        if self.format == Format::Json {
            return out::json_line(&Followed { commands, bytes, lag_bytes, commands_failed });
        }
        let lag = lag_bytes.map_or("not known".to_owned(), |bytes| format!("{bytes} bytes"));
        let failed = match failures.named.last() {
            None => String::new(),
            Some(last) => {
                format!("; {commands_failed} failed, such as {}: {}", last.key, last.error)
            }
        };
        self.line.update(&format!("lag {lag}, {new} commands/s, {commands} so far{failed}"));
        Ok(())
    }

    fn done(&self, bytes: u64, loaded: u64, counts: Counts, failures: Failures) -> Done {
        let seconds = self.started.elapsed().as_secs_f64();
        Done {
            keys_loaded: loaded,
            keys_expired: counts.expired,
            keys_empty: counts.empty,
            keys_failed: failures.count,
            failures: failures.named,
            pending_lost: counts.pending_lost,
            skipped: counts.skipped,
            bytes,
            seconds,
            keys_per_s: (loaded as f64 / seconds) as u64,
            followed: None,
        }
    }
}

fn print(done: &Done, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => out::json_line(done)?,
        Format::Human => print_pairs(done)?,
    }
    let commands_failed = done.followed.map_or(0, |followed| followed.commands_failed);
    match (done.keys_failed, commands_failed) {
        (0, 0) => Ok(()),
        (keys, 0) => bail!("{keys} keys were not loaded; {} others were", done.keys_loaded),
        (keys, commands) => bail!("{keys} keys and {commands} commands did not reach the store"),
    }
}

fn print_pairs(done: &Done) -> anyhow::Result<()> {
    let mut rows = vec![
        ("keys loaded", done.keys_loaded.to_string()),
        ("keys expired before", done.keys_expired.to_string()),
        ("keys failed", done.keys_failed.to_string()),
        ("bytes read", done.bytes.to_string()),
        ("seconds", format!("{:.1}", done.seconds)),
        ("keys/s", done.keys_per_s.to_string()),
    ];
    if let Some(followed) = done.followed {
        rows.push(("commands followed", followed.commands.to_string()));
        rows.push(("commands failed", followed.commands_failed.to_string()));
        let lag = followed.lag_bytes.map_or("not known".to_owned(), |bytes| bytes.to_string());
        rows.push(("lag in bytes", lag));
    }
    out::line(out::pairs(&rows))?;
    if done.pending_lost > 0 {
        let count = done.pending_lost;
        eprintln!("not kept: {count} deliveries of entries that were deleted, in large streams");
    }
    for what in &done.skipped {
        eprintln!("read over: {what}");
    }
    for failure in &done.failures {
        eprintln!("failed: database {}, {}: {}", failure.database, failure.key, failure.error);
    }
    let named = done.failures.len() as u64;
    let all = done.keys_failed + done.followed.map_or(0, |followed| followed.commands_failed);
    if all > named {
        eprintln!("and {} more", all - named);
    }
    Ok(())
}
