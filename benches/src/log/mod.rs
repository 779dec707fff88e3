//! Ways to append to a log and sync it, in rounds that take turns: what the store's log costs, and what it
//! would cost otherwise.

mod writer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::figure::Unit;
use crate::folder::Folder;
use crate::io;
use crate::io::log_ring::Sync;
use crate::process::Helper;
use crate::progress::Progress;
use crate::results::Output;
use crate::runtimes;
use crate::spread::Spread;

use writer::{Direct, Dsync, Growing, Prepared, Ring, Writer};

const METHOD: &str = "\
How it is measured:
  Every way has a file of its own on the disk of --dir and gets the same records: those that the store
  writes for a group of so many SETs with keys of 16 and values of 128 bytes. A record counts as appended
  when it is on the disk; the next one follows at once. In a round every way has its turn, and the order
  changes with the rounds. `of prepared` is the median over the rounds of a way's rate by that of
  `prepared` in the same round.

  prepared     a write and an fdatasync, over zeros that were written beforehand: what the store does
  growing      the same, in a file that grows
  dsync        one write over zeros, O_DSYNC
  direct       one write over zeros, O_DIRECT and O_DSYNC, each record padded to blocks of 4 KiB
  ring         a write over zeros and an fdatasync linked to it, on an io_uring
  ring_dsync   one write over zeros with RWF_DSYNC, on an io_uring
  tokio-uring  a write over zeros and an fdatasync, with that runtime on a thread that does nothing else

  tokio-uring's program comes from `cargo build --release --manifest-path benches/runtimes/Cargo.toml`; it
  is left out if it is missing.

Examples:
  hawser-bench log
  hawser-bench log --rounds 31 --groups 1,8 --dir /var/lib/hawser-kv --json";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Rounds in which every way is measured once
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Records that are appended in a turn
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    appends: u32,
    /// Sizes of groups: SETs in one record
    #[arg(long, value_name = "N,N", default_value = "1,8,23,50", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    groups: Vec<u32>,
    /// Where the files are; a real disk, or syncs cost nothing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The folder of tokio-uring's program
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

const CHILD: &str = "log-tokio-uring";

/// Bytes that a record has before its changes: length, checksum, sequence, what was synced.
const RECORD_HEADER_BYTES: usize = 24;

/// A SET in a record: its kind, the key's length, space and key, the value's length, type and expiry, value.
const SET_BYTES: usize = 1 + 4 + (4 + 16) + 4 + 9 + 128;

/// The one that the others are compared with.
const BASE: &str = "prepared";

struct Way {
    name: &'static str,
    appender: Appender,
}

enum Appender {
    Here(Box<dyn Writer>),
    /// A process with a runtime of its own; see `benches/runtimes/src/bin/log-tokio-uring.rs`.
    There(Helper),
}

impl Appender {
    /// Nanoseconds of each append.
    fn append(&mut self, bytes: usize, count: u32) -> anyhow::Result<Vec<u64>> {
        match self {
            Appender::Here(writer) => {
                let record: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
                (0..count)
                    .map(|_| {
                        let begun = Instant::now();
                        writer.append(&record)?;
                        Ok(begun.elapsed().as_nanos() as u64)
                    })
                    .collect()
            }
            Appender::There(child) => {
                let said = child.ask(&format!("append {bytes} {count}"), "took")?;
                let took: Result<Vec<u64>, _> = said.split(' ').map(str::parse).collect();
                took.with_context(|| format!("{CHILD} said {said:?}"))
            }
        }
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let folder = Folder::within(&arguments.dir, "log")?;
    let mut ways = ways(arguments, folder.path())?;
    if !output.json {
        println!("appended and on the disk, medians of {} rounds", arguments.rounds);
    }
    for &group in &arguments.groups {
        let bytes = RECORD_HEADER_BYTES + group as usize * SET_BYTES;
        let found = measure(arguments, &mut ways, group, bytes)?;
        if !output.json {
            print(group, bytes, &found);
        }
        let values = json!({
            "server": "hawser-kv",
            "sets": group,
            "record_bytes": bytes,
            "rounds": arguments.rounds,
            "appends": arguments.appends,
            "ways": found,
        });
        output.row("log", &format!("group of {group}"), None, values)?;
    }
    Ok(())
}

fn ways(arguments: &Arguments, folder: &Path) -> anyhow::Result<Vec<Way>> {
    let zeros = |name: &str| {
        let path = folder.join(name);
        let made = writer::make_zeros(&path);
        made.with_context(|| path.display().to_string()).map(|()| path)
    };
    let way = |name, writer: Box<dyn Writer>| Way { name, appender: Appender::Here(writer) };
    let mut ways = vec![
        way(BASE, Box::new(Prepared::new(&zeros(BASE)?)?)),
        way("growing", Box::new(Growing::new(&folder.join("growing"))?)),
        way("dsync", Box::new(Dsync::new(&zeros("dsync")?)?)),
        way("ring", Box::new(Ring::new(&zeros("ring")?, Sync::Linked)?)),
        way("ring_dsync", Box::new(Ring::new(&zeros("ring_dsync")?, Sync::OfWrite)?)),
    ];
    match Direct::new(&zeros("direct")?) {
        Ok(direct) => ways.push(way("direct", Box::new(direct))),
        Err(error) => eprintln!("hawser-bench: direct is left out, {error} on this file system"),
    }
    match runtimes::find(CHILD, arguments.binaries.as_deref()) {
        Some(program) => {
            let file = zeros("tokio-uring")?.display().to_string();
            let processors = io::processors()?;
            let child = Helper::of(&program, &[file], processors[processors.len() - 1])?;
            ways.push(Way { name: "tokio-uring", appender: Appender::There(child) });
        }
        None => eprintln!(
            "hawser-bench: {CHILD} is left out: `cargo build --release --manifest-path \
             benches/runtimes/Cargo.toml` builds it; --binaries says where it is"
        ),
    }
    Ok(ways)
}

/// Of each way, by name: rate, latencies and the ratio to the base.
fn measure(
    arguments: &Arguments,
    ways: &mut [Way],
    group: u32,
    bytes: usize,
) -> anyhow::Result<Map<String, Value>> {
    let mut progress = Progress::new(format!("groups of {group}"));
    let mut took: Vec<Vec<Vec<u64>>> = vec![Vec::new(); ways.len()];
    for round in 0..arguments.rounds {
        progress.at(round.into(), arguments.rounds.into());
        for turn in 0..ways.len() {
            let at = (turn + round as usize) % ways.len();
            let name = ways[at].name;
            let times = ways[at].appender.append(bytes, arguments.appends);
            took[at].push(times.with_context(|| name.to_owned())?);
        }
    }
    let base = ways.iter().position(|way| way.name == BASE).expect("it is always there");
    let rates = |at: usize| took[at].iter().map(|round| rate(round)).collect::<Vec<f64>>();
    let base = rates(base);
    let mut found = Map::new();
    for (at, way) in ways.iter().enumerate() {
        let of_base = rates(at).into_iter().zip(&base).map(|(rate, base)| rate / base);
        let mut all = took[at].concat();
        all.sort_unstable();
        let us = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize] as f64 / 1e3;
        let values = json!({
            "syncs_per_s": Spread::of(rates(at)).median.round(),
            "ratio_to_prepared": Spread::of(of_base),
            "p50_us": us(0.5),
            "p99_us": us(0.99),
        });
        found.insert(way.name.to_owned(), values);
    }
    Ok(found)
}

/// Appends in a second.
fn rate(round_ns: &[u64]) -> f64 {
    round_ns.len() as f64 * 1e9 / round_ns.iter().sum::<u64>() as f64
}

fn print(group: u32, bytes: usize, found: &Map<String, Value>) {
    println!(
        "\n  {:<16}{:>12}{:>12}{:>12}{:>14}",
        format!("{group}: {bytes} B"),
        "rate",
        "p50",
        "p99",
        "of prepared"
    );
    for (name, values) in found {
        let number = |path: &str| values.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        println!(
            "  {name:<16}{:>12}{:>12}{:>12}{:>14.2}",
            Unit::PerSecond.text(number("/syncs_per_s")),
            Unit::Microseconds.text(number("/p50_us")),
            Unit::Microseconds.text(number("/p99_us")),
            number("/ratio_to_prepared/median"),
        );
    }
}
