//! The store under mixed load at full rate for a long time: every answer is right, and nothing grows
//! beyond what is configured.

mod client;
mod worker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::folder::Folder;
use crate::io;
use crate::process::{Daemon, memory, sibling};
use crate::progress::Progress;
use crate::results::Output;

use client::{Answer, Client};
use worker::{Together, Worker};

const METHOD: &str = "\
How it is measured:
  hawser-kv runs with caches and memtables that are small beside what it holds, and syncs before it
  answers. --clients workers each write to keys of their own, remember what is in them and check every
  answer: strings in pipelines, hashes, lists, sets, sorted sets, streams with groups, transactions, keys
  that expire, waiting commands, walks with cursors, large hashes that are made and deleted, and
  connections that go and come. Once a second the memory of the process, every part of it as INFO shows
  it, and the files are looked at.

  A run fails
    when an answer is wrong;
    when a part of the memory is beyond its bound, or the log has more than --log-files files;
    when the process has more memory than its caches and memtables are configured to have, a quarter of
    that for what the allocator keeps, and 128 MiB for the program, its threads and its open files;
    when, in a run of ten minutes or more, the straight line through the memory of the last two thirds
    rises by more than a twentieth from its start to its end, or the one through the files does so by
    more than a fifth, which is what a compaction moves them.

Examples:
  hawser-bench soak
  hawser-bench soak --minutes 5 --clients 8 --json
  hawser-bench soak --cache-mib 256";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// How long; 0.5 is half a minute
    #[arg(long, value_name = "MIN", default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// Workers, each with a connection and keys of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// The store's block cache
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    cache_mib: u32,
    /// One memtable; there may be four of each of two families
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    memtable_mib: u32,
    /// Files of 16 MiB that the log may have
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..))]
    log_files: u64,
    /// Where the store keeps its data; a real disk, or syncs cost nothing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The binary of hawser-kv; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    kv: Option<PathBuf>,
}

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The row cache of the store under test.
const ROWS_MIB: u32 = 16;

/// Families of rows with data, and memtables of each, as the store's settings have them.
const MEMTABLES_MAX: u32 = 2 * 4;

/// What the allocator keeps of what was freed, as a share of what is configured.
const KEPT_SHARE: f64 = 0.25;

/// The program, the stacks of its threads, its open files and its connections.
const PROGRAM_BYTES: f64 = (128 << 20) as f64;

/// In a shorter run caches are still filling, so nothing is said about growth.
const JUDGED_FROM_MINUTES: f64 = 10.0;

const CURVE_POINTS: usize = 120;

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|minutes| (0.05..=100_000.0).contains(minutes));
    minutes.ok_or_else(|| "give a number of minutes, 0.05 to 100000".to_owned())
}

/// One look at the store.
#[derive(Clone, Copy, Default)]
struct Sample {
    at_s: f64,
    resident: f64,
    cache: f64,
    memtables: f64,
    clients: f64,
    log: f64,
    log_files: f64,
    database: f64,
    commands: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let kv = sibling(arguments.kv.as_deref(), "hawser-kv")?;
    let mut store = Store::start(arguments, &kv)?;
    let port = store.port();
    let together = Together::default();
    let (failures, failed) = channel();
    let samples = std::thread::scope(|scope| {
        for number in 0..arguments.clients {
            let (together, failures) = (&together, failures.clone());
            scope.spawn(move || work(port, number, together, &failures));
        }
        let wrong = || failed.try_recv().ok();
        let samples = watch(arguments, &store, &together, &wrong);
        together.stop.store(true, Relaxed);
        samples
    });
    let samples = samples.map_err(|error| match store.daemon.has_ended() {
        Ok(true) => error.context(format!("the store has ended: {}", store.daemon.last_words())),
        _ => error,
    })?;
    if let Ok(error) = failed.try_recv() {
        return Err(error);
    }
    check_counter(port, &together)?;
    let values = values(arguments, &samples, &together);
    if !output.json {
        print(&values);
    }
    output.row("soak", &format!("{} clients", arguments.clients), None, values)?;
    ensure_bounded(arguments, &samples)?;
    if arguments.minutes < JUDGED_FROM_MINUTES {
        return Ok(());
    }
    LEVEL.iter().try_for_each(|level| level.ensure(&samples))
}

fn work(port: u16, number: u64, together: &Together, failures: &Sender<anyhow::Error>) {
    let done = Worker::new(port, number, together).and_then(Worker::run);
    if let Err(error) = done {
        // Nobody listens any more when another one has failed before.
        _ = failures.send(error.context(format!("worker {number}")));
    }
}

/// The store under test, listening.
struct Store {
    daemon: Daemon,
    dir: PathBuf,
}

impl Store {
    fn start(arguments: &Arguments, kv: &Path) -> anyhow::Result<Store> {
        let folder = Folder::within(&arguments.dir, "hawser-kv")?;
        let dir = folder.path().join("data");
        let command = |address: SocketAddr, _: &Path| {
            let mut command = Command::new(kv);
            command.args(["--listen", &address.to_string(), "--dir"]).arg(&dir);
            for set in [
                format!("cache_mib={}", arguments.cache_mib),
                format!("memtable_mib={}", arguments.memtable_mib),
                format!("rows_mib={ROWS_MIB}"),
                "log_segment_mib=16".to_owned(),
            ] {
                command.args(["--set", &set]);
            }
            Ok(command)
        };
        let daemon = Daemon::start(folder, &io::processors()?, command).context("hawser-kv")?;
        Ok(Store { daemon, dir })
    }

    fn port(&self) -> u16 {
        self.daemon.address.port()
    }

    /// What its files have, blob files included, without the write log.
    fn database_bytes(&self) -> anyhow::Result<u64> {
        let dir = self.dir.join("rocksdb");
        let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
        // A compaction deletes files at any time.
        Ok(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum())
    }
}

fn watch(
    arguments: &Arguments,
    store: &Store,
    together: &Together,
    wrong: &dyn Fn() -> Option<anyhow::Error>,
) -> anyhow::Result<Vec<Sample>> {
    let (begun, seconds) = (Instant::now(), arguments.minutes * 60.0);
    let mut client = Client::connect(store.port())?;
    let mut progress = Progress::new("seconds");
    let mut samples = Vec::new();
    while begun.elapsed().as_secs_f64() < seconds {
        std::thread::sleep(SAMPLE_EVERY);
        if let Some(error) = wrong() {
            return Err(error);
        }
        progress.at(begun.elapsed().as_secs(), seconds as u64);
        let info = info(&mut client)?;
        within_bounds(arguments, &info)?;
        samples.push(Sample {
            at_s: begun.elapsed().as_secs_f64(),
            resident: memory(store.daemon.id())?.resident as f64,
            cache: number(&info, "block_cache_bytes")?,
            memtables: number(&info, "memtables_bytes")?,
            clients: number(&info, "client_input_bytes")? + number(&info, "client_output_bytes")?,
            log: number(&info, "log_disk_bytes")?,
            log_files: number(&info, "log_files")?,
            database: store.database_bytes()? as f64,
            commands: together.commands.load(Relaxed) as f64,
        });
    }
    ensure!(samples.len() >= 3, "too short to say anything; raise --minutes");
    Ok(samples)
}

fn info(client: &mut Client) -> anyhow::Result<String> {
    match client.run("INFO memory persistence")? {
        Answer::Text(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        other => bail!("INFO answered {other:?}"),
    }
}

fn number(info: &str, name: &str) -> anyhow::Result<f64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.parse().ok();
    info.lines().find_map(value).with_context(|| format!("INFO has no {name}"))
}

/// Every part of the memory that has a bound is within it, and so is the log.
fn within_bounds(arguments: &Arguments, info: &str) -> anyhow::Result<()> {
    for line in info.lines() {
        let Some((name, max)) = line.split_once("_bytes_max:") else { continue };
        let (used, max) = (number(info, &format!("{name}_bytes"))?, max.parse::<f64>()?);
        ensure!(used <= max, "{name} has {used} bytes and may have {max}");
    }
    let (files, max) = (number(info, "log_files")?, arguments.log_files as f64);
    ensure!(files <= max, "the log has {files} files and may have {max}");
    Ok(())
}

fn check_counter(port: u16, together: &Together) -> anyhow::Result<()> {
    let counted = together.counted.load(Relaxed);
    let expected = match counted {
        0 => Answer::Nil,
        counted => Answer::from(counted.to_string().as_str()),
    };
    let answer = Client::connect(port)?.run("GET all")?;
    ensure!(answer == expected, "{counted} transactions have counted to {answer:?}");
    Ok(())
}

/// What the process may have in memory.
fn resident_bytes_max(arguments: &Arguments) -> f64 {
    let memtables_mib = MEMTABLES_MAX * arguments.memtable_mib;
    let configured_mib = f64::from(arguments.cache_mib + ROWS_MIB + memtables_mib);
    configured_mib * f64::from(1 << 20) * (1.0 + KEPT_SHARE) + PROGRAM_BYTES
}

fn ensure_bounded(arguments: &Arguments, samples: &[Sample]) -> anyhow::Result<()> {
    let (most, max) = (most(samples, |sample| sample.resident), resident_bytes_max(arguments));
    ensure!(most <= max, "the store had {most} bytes of memory and may have {max}");
    Ok(())
}

type Figure = fn(&Sample) -> f64;

/// Something that must not grow from the second third of a run to its end.
struct Level {
    what: &'static str,
    of: Figure,
    growth_max: f64,
}

const LEVEL: [Level; 3] = [
    Level { what: "memory", of: |sample| sample.resident, growth_max: 0.05 },
    Level { what: "the database", of: |sample| sample.database, growth_max: 0.2 },
    Level { what: "the log", of: |sample| sample.log, growth_max: 0.2 },
];

impl Level {
    fn ensure(&self, samples: &[Sample]) -> anyhow::Result<()> {
        let Level { what, of, growth_max } = *self;
        let growth = growth(samples, of).share;
        ensure!(
            growth <= growth_max,
            "{what} has grown by {:.1} % in the last two thirds of the run, and may by {:.1} %",
            growth * 100.0,
            growth_max * 100.0
        );
        Ok(())
    }
}

/// How a straight line through the last two thirds of a run, by least squares, rises.
struct Growth {
    /// From its start to its end, of what it is in the middle.
    share: f64,
    per_hour: f64,
}

fn growth(samples: &[Sample], of: Figure) -> Growth {
    let late = &samples[samples.len() / 3..];
    let mean = |of: &dyn Fn(&Sample) -> f64| late.iter().map(of).sum::<f64>() / late.len() as f64;
    let (at_s, middle) = (mean(&|sample| sample.at_s), mean(&of));
    let together = mean(&|sample| (sample.at_s - at_s) * (of(sample) - middle));
    let per_s = together / mean(&|sample| (sample.at_s - at_s).powi(2));
    let seconds = late[late.len() - 1].at_s - late[0].at_s;
    Growth { share: per_s * seconds / middle.max(1.0), per_hour: per_s * 3600.0 }
}

fn most(samples: &[Sample], of: Figure) -> f64 {
    samples.iter().map(of).fold(0.0, f64::max)
}

/// Points for a plot, evenly spread.
fn curve(samples: &[Sample], of: Figure) -> Vec<(f64, f64)> {
    let point = |sample: &Sample| (sample.at_s.round(), of(sample));
    samples.iter().step_by(samples.len().div_ceil(CURVE_POINTS)).map(point).collect()
}

fn values(arguments: &Arguments, samples: &[Sample], together: &Together) -> Value {
    let last = samples.last().expect("checked when they were taken");
    let (memory, database) = (growth(samples, LEVEL[0].of), growth(samples, LEVEL[1].of));
    let mut values = json!({
        "server": "hawser-kv",
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "cache_mib": arguments.cache_mib,
        "memtable_mib": arguments.memtable_mib,
        "commands": last.commands,
        "commands_rate": (last.commands / last.at_s).round(),
        "connects": together.connects.load(Relaxed),
        "expired_and_gone": together.expired.load(Relaxed),
        "wrong": 0,
        "log_files": most(samples, |sample| sample.log_files),
        "memory_bytes_max": resident_bytes_max(arguments),
        "memory_growth_percent": 100.0 * memory.share,
        "memory_bytes_per_hour": memory.per_hour.round(),
        "database_growth_percent": 100.0 * database.share,
    });
    for (name, of) in PARTS {
        values[format!("{name}_bytes")] = json!(most(samples, of));
        values[format!("{name}_curve_bytes")] = json!(curve(samples, of));
    }
    values
}

/// What is drawn over time.
const PARTS: [(&str, Figure); 6] = [
    ("memory", |sample| sample.resident),
    ("cache", |sample| sample.cache),
    ("memtables", |sample| sample.memtables),
    ("clients", |sample| sample.clients),
    ("database", |sample| sample.database),
    ("log", |sample| sample.log),
];

fn print(values: &Value) {
    let number = |name: &str| values[name].as_f64().unwrap_or(f64::NAN);
    let mib = |name: &str| number(name) / f64::from(1 << 20);
    println!("soak of {} minutes, {} clients\n", values["minutes"], values["clients"]);
    for name in ["commands", "commands_rate", "connects", "expired_and_gone", "wrong", "log_files"]
    {
        println!("  {name:<26}{:>12}", number(name));
    }
    for (name, _) in PARTS {
        println!(
            "  {:<26}{:>12.1} MiB at most",
            format!("{name}_bytes"),
            mib(&format!("{name}_bytes"))
        );
    }
    println!("  {:<26}{:>12.1} MiB", "memory_bytes_max", mib("memory_bytes_max"));
    println!("  {:<26}{:>12.1} MiB", "memory_bytes_per_hour", mib("memory_bytes_per_hour"));
    for name in ["memory_growth_percent", "database_growth_percent"] {
        println!("  {name:<26}{:>12.1} % in the last two thirds", number(name));
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        let command = Arguments::augment_args(clap::Command::new("soak").no_binary_name(true));
        Arguments::from_arg_matches(&command.get_matches_from(words)).expect("arguments")
    }

    /// One a second, nine of them, of which the first three do not count for growth.
    fn samples(resident_mib: [f64; 9]) -> Vec<Sample> {
        let sample = |(at, mib): (usize, f64)| Sample {
            at_s: at as f64,
            resident: mib * f64::from(1 << 20),
            ..Sample::default()
        };
        resident_mib.into_iter().enumerate().map(sample).collect()
    }

    #[test]
    fn growth_is_told_from_filling_and_from_noise() {
        let of = LEVEL[0].of;
        let growth = |mib| (growth(&samples(mib), of).share * 1000.0).round() / 1000.0;
        assert_eq!(growth([1.0, 50.0, 90.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0]), 0.0);
        assert_eq!(growth([1.0, 1.0, 1.0, 98.0, 99.0, 100.0, 100.0, 101.0, 102.0]), 0.037);
        let is_level = |mib| LEVEL[0].ensure(&samples(mib)).is_ok();
        assert!(is_level([0.0, 0.0, 0.0, 97.5, 98.5, 99.5, 100.5, 101.5, 102.5]), "a twentieth");
        assert!(!is_level([0.0, 0.0, 0.0, 97.4, 98.5, 99.5, 100.5, 101.5, 102.6]), "and more");
        assert!(is_level([0.0, 0.0, 0.0, 100.0, 150.0, 100.0, 100.0, 150.0, 100.0]), "noise");
        assert!(is_level([0.0, 0.0, 0.0, 300.0, 250.0, 200.0, 150.0, 120.0, 100.0]), "it shrinks");
    }

    #[test]
    fn memory_is_held_to_what_is_configured() {
        let arguments = arguments(&["--cache-mib", "64", "--memtable-mib", "2"]);
        // 64 of the cache, 16 of rows, 16 of memtables, a quarter of that, and 128.
        let is_bounded = |mib| ensure_bounded(&arguments, &samples([mib; 9])).is_ok();
        assert!(is_bounded(248.0));
        assert!(!is_bounded(248.1));
    }

    #[test]
    fn bounds_of_info_are_held() {
        let arguments = arguments(&["--log-files", "3"]);
        let info = |used: u32, files: u32| {
            format!("block_cache_bytes:{used}\r\nblock_cache_bytes_max:9\r\nlog_files:{files}\r\n")
        };
        assert!(within_bounds(&arguments, &info(9, 3)).is_ok());
        assert!(within_bounds(&arguments, &info(10, 3)).is_err());
        assert!(within_bounds(&arguments, &info(9, 4)).is_err());
        assert!(within_bounds(&arguments, "").is_err());
    }
}
