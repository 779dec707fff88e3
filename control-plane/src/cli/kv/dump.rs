//! `hawser kv dump`: the keys of a store as an RDB file, which Redis from 7.0 on reads.
//!
//! Keys are found by SCAN and each is read by DUMP. A key is as it was at one moment; different keys are of
//! different moments, and what is written meanwhile may be in the file or not. For one moment of everything
//! the same is done to a checkpoint, on which this program starts a store of its own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use hawser_kv::backup::scratch::Scratch;
use hawser_kv::config::Durability;
use hawser_kv::rdb::payload;
use hawser_kv::rdb::writer::FileWriter;
use hawser_kv::{Config, Handle, Server};
use serde::Serialize;

use super::address::{Address, Place};
use super::lane::{Failure, shown};
use super::partial::Partial;
use super::store::{Held, Store};
use super::wire::{Answer, Connection, put_command};
use super::{STORE_PASSWORD, password};
use crate::cli::out::{self, Format, LiveLine};

pub const EXAMPLES: &str = "\
Examples:
  hawser kv dump store.rdb --from 127.0.0.1:7379
  hawser kv dump store.rdb --from 127.0.0.1:7379 --one-moment
  hawser kv dump store.rdb --from redis://team:SECRET@127.0.0.1:7379 --json

Each key in the file is as it was at one moment. Different keys are of different moments, since the store is
read while it is written. With --one-moment they are all of the same: the store makes a checkpoint, which is
read and deleted again. That must be run where the store's directory is, by a user who may write there.

The file gets its name when it is complete. Keys that cannot be dumped (more than the store's
output_bytes_max) are named and counted, the others are in the file, and the exit code is 1.

The password stands in the address, or in HAWSER_KV_PASSWORD. The file of a Redis is made by Redis itself:
redis-cli --rdb FILE.";

#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// File to write; one that is there is replaced
    pub file: PathBuf,

    /// Store to read: HOST:PORT, unix:PATH or redis://USER:PASSWORD@HOST:PORT
    #[arg(
        long,
        env = "HAWSER_KV",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7379"
    )]
    pub from: Address,

    /// All keys as they were at one moment, by way of a checkpoint on this machine
    #[arg(long)]
    pub one_moment: bool,
}

#[derive(Debug, Default, Serialize)]
struct Done {
    keys: u64,
    keys_failed: u64,
    failures: Vec<Failure>,
    bytes: u64,
    seconds: f64,
    keys_per_s: u64,
    /// How the keys of the file belong together.
    consistency: &'static str,
}

/// Keys that are asked for at once.
const PAGE_KEYS: &str = "200";
const DATABASES: u64 = 16;
/// How often a key is asked for whose expiry changes meanwhile.
const TRIES_MAX: u32 = 100;
const FAILURES_NAMED_MAX: usize = 100;
const UPDATE_EVERY: Duration = Duration::from_millis(500);

pub fn run(args: DumpArgs, format: Format) -> anyhow::Result<()> {
    let mut store = Connection::open(&args.from, password(STORE_PASSWORD).as_deref())?;
    // SCAN of Redis may give a key twice, which no file may have.
    if !store.must(&["INFO", "server"])?.text().contains("hawser_kv_version") {
        bail!("{} is no hawser-kv; for a Redis there is `redis-cli --rdb FILE`", args.from);
    }
    let partial = Partial::open(&args.file)?;
    match args.one_moment {
        false => write(&args, partial, store, "per key", format),
        true => {
            let held = Held::new(Store::connect(&args.from, 0)?)?;
            let copy = Copy::open(&held.checkpoint.path)?;
            write(&args, partial, copy.connect()?, "one moment", format)
        }
    }
}

/// A store on a checkpoint, which no other user can reach: its socket is in a folder of our own.
struct Copy {
    handle: Option<Handle>,
    scratch: Scratch,
}

impl Copy {
    fn open(path: &Path) -> anyhow::Result<Copy> {
        let parent = std::env::temp_dir();
        let made = Scratch::new(&parent);
        let scratch = made.with_context(|| format!("cannot write {}", parent.display()))?;
        let config = Config {
            listen: String::new(),
            unix: scratch.path().join("socket"),
            dir: path.to_owned(),
            durability: Durability::None,
            ..Config::default()
        };
        let context = || format!("cannot open the checkpoint {}", path.display());
        let handle = Some(Server::start(config).with_context(context)?);
        Ok(Copy { handle, scratch })
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        let place = Place::Unix(self.scratch.path().join("socket"));
        Connection::open(&Address { place, user: None, password: None, database: None }, None)
    }
}

impl Drop for Copy {
    /// What it has opened is closed before the checkpoint is deleted.
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let (Some(handle), Ok(runtime)) = (self.handle.take(), runtime) {
            runtime.block_on(handle.stop());
        }
    }
}

/// Writes what a store has.
fn write(
    args: &DumpArgs,
    partial: Partial,
    store: Connection,
    consistency: &'static str,
    format: Format,
) -> anyhow::Result<()> {
    let mut dump = Dump::begin(store, BufWriter::with_capacity(1 << 20, partial.writer()?))?;
    dump.done.consistency = consistency;
    let databases = match args.from.database {
        Some(number) => number..=number,
        None => 0..=DATABASES - 1,
    };
    dump.databases(databases)?;
    print(&dump.finish(partial)?, format)
}

struct Dump {
    store: Connection,
    /// Until it is finished.
    file: Option<FileWriter<BufWriter<File>>>,
    done: Done,
    line: LiveLine,
    started: Instant,
    updated: Instant,
}

impl Dump {
    fn begin(store: Connection, output: BufWriter<File>) -> anyhow::Result<Dump> {
        let mut file = FileWriter::begin(output)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        file.aux("redis-ver", "7.0.15")?;
        file.aux("redis-bits", "64")?;
        file.aux("ctime", &now.as_secs().to_string())?;
        file.aux("hawser-ver", env!("CARGO_PKG_VERSION"))?;
        let done = Done::default();
        let (line, started) = (LiveLine::on_stderr(), Instant::now());
        Ok(Dump { store, file: Some(file), done, line, started, updated: started })
    }

    fn file(&mut self) -> &mut FileWriter<BufWriter<File>> {
        self.file.as_mut().expect("it is not finished")
    }

    fn databases(&mut self, numbers: impl Iterator<Item = u64>) -> anyhow::Result<()> {
        for number in numbers {
            self.store.must(&["SELECT", &number.to_string()])?;
            let Answer::Integer(keys @ 1..) = self.store.must(&["DBSIZE"])? else { continue };
            self.file().database(number, keys as u64)?;
            let mut cursor = "0".to_owned();
            loop {
                let page = self.store.must(&["SCAN", &cursor, "COUNT", PAGE_KEYS])?;
                let Answer::Array(page) = page else { bail!("the store answers SCAN otherwise") };
                let [next, Answer::Array(keys)] = &page[..] else {
                    bail!("the store answers SCAN otherwise")
                };
                self.page(number, keys)?;
                cursor = next.text();
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, database: u64, keys: &[Answer]) -> anyhow::Result<()> {
        let keys = keys.iter().filter_map(|key| match key {
            Answer::Bytes(key) => Some(&key[..]),
            _ => None,
        });
        let keys: Vec<&[u8]> = keys.collect();
        let mut request = Vec::new();
        keys.iter().for_each(|key| put_questions(&mut request, key));
        self.store.send(&request)?;
        let mut changed = Vec::new();
        for key in keys {
            match self.moment()? {
                Some((expiry, value)) => self.key(database, key, &expiry, value)?,
                None => changed.push(key),
            }
        }
        for key in changed {
            let (expiry, value) = self.again(key)?;
            self.key(database, key, &expiry, value)?;
        }
        self.show();
        Ok(())
    }

    /// Expiry and value of a key of one moment, if the answers to its questions are. The store may read the
    /// three commands in two parts, between which others write; two of them are then of one moment still, so
    /// when the expiry is the same before and after, it is that of the value.
    fn moment(&mut self) -> anyhow::Result<Option<(Answer, Answer)>> {
        let before = self.store.receive()?;
        let value = self.store.receive()?;
        let after = self.store.receive()?;
        Ok((before == after).then_some((after, value)))
    }

    /// Asks until nobody writes between.
    fn again(&mut self, key: &[u8]) -> anyhow::Result<(Answer, Answer)> {
        let mut request = Vec::new();
        put_questions(&mut request, key);
        for _ in 0..TRIES_MAX {
            self.store.send(&request)?;
            if let Some(found) = self.moment()? {
                return Ok(found);
            }
        }
        let error = "it got another expiry each time it was read".to_owned();
        Ok((Answer::Error(error), Answer::Nothing))
    }

    fn key(
        &mut self,
        database: u64,
        key: &[u8],
        expiry: &Answer,
        value: Answer,
    ) -> anyhow::Result<()> {
        let error = match (expiry, value) {
            // It went after it was found.
            (Answer::Integer(_), Answer::Nothing) | (Answer::Integer(-2), _) => return Ok(()),
            (Answer::Integer(at_ms), Answer::Bytes(dumped)) => match payload::open(&dumped) {
                Some(value) => {
                    let at_ms = u64::try_from(*at_ms).ok();
                    self.file().key(key, at_ms, value).context("cannot write the file")?;
                    self.done.keys += 1;
                    return Ok(());
                }
                None => "its dump has another version or a wrong checksum".to_owned(),
            },
            (_, Answer::Error(error)) => error,
            (Answer::Error(error), _) => error.clone(),
            (_, other) => format!("the store answers DUMP with {other:?}"),
        };
        self.done.keys_failed += 1;
        if self.done.failures.len() < FAILURES_NAMED_MAX {
            self.done.failures.push(Failure { database, key: shown(key), error });
        }
        Ok(())
    }

    fn show(&mut self) {
        if self.updated.elapsed() < UPDATE_EVERY {
            return;
        }
        self.updated = Instant::now();
        let keys = self.done.keys;
        let rate = keys as f64 / self.started.elapsed().as_secs_f64();
        let mib = self.file().bytes() >> 20;
        self.line.update(&format!("{keys} keys, {mib} MiB, {rate:.0} keys/s"));
    }

    /// Ends the file, which gets its name.
    fn finish(&mut self, partial: Partial) -> anyhow::Result<Done> {
        self.line.end();
        let file = self.file.take().expect("it is finished once");
        let mut output = file.finish().context("cannot write the file")?;
        output.flush().context("cannot write the file")?;
        let bytes = partial.complete()?;
        let seconds = self.started.elapsed().as_secs_f64();
        let done = std::mem::take(&mut self.done);
        let keys_per_s = (done.keys as f64 / seconds) as u64;
        Ok(Done { bytes, seconds, keys_per_s, ..done })
    }
}

fn put_questions(request: &mut Vec<u8>, key: &[u8]) {
    for name in [&b"PEXPIRETIME"[..], b"DUMP", b"PEXPIRETIME"] {
        put_command(request, &[name, key]);
    }
}

fn print(done: &Done, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => out::json_line(done)?,
        Format::Human => {
            out::line(out::pairs(&[
                ("keys", done.keys.to_string()),
                ("keys failed", done.keys_failed.to_string()),
                ("bytes", done.bytes.to_string()),
                ("seconds", format!("{:.1}", done.seconds)),
                ("keys/s", done.keys_per_s.to_string()),
                ("consistency", done.consistency.to_owned()),
            ]))?;
            for failure in &done.failures {
                let Failure { database, key, error } = failure;
                eprintln!("failed: database {database}, {key}: {error}");
            }
        }
    }
    match done.keys_failed {
        0 => Ok(()),
        count => bail!("{count} keys are not in the file; {} others are", done.keys),
    }
}
