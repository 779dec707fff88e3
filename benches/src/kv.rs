//! The store beside redis-server, in rounds that take turns, with `redis-benchmark` as the client of
//! both: it knows neither.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::figure::Unit;
use crate::folder::Folder;
use crate::io;
use crate::process::{Daemon, sibling};
use crate::progress::Progress;
use crate::results::Output;
use crate::spread::Spread;

const METHOD: &str = "\
How it is measured:
  Two servers at a time run on this machine, each with a folder on the disk of --dir: hawser-kv that
  syncs before it answers beside redis-server with appendfsync always, then hawser-kv that does not
  beside redis-server without persistence. redis-benchmark first fills both, which does not count, and
  then gives each the same loads, one server after the other within every round; the order changes
  with the rounds. A ratio is the median over the rounds of hawser-kv's rate by Redis's in the same
  round. Rates are as redis-benchmark says, with the client on this machine, so its share of the
  processors is in all of them.

  durable_set         both sync before they answer
  set, get            hawser-kv with durability none, Redis without persistence
  ..._p16             the same in pipelines of 16
  cold_set, cold_get  set and get with a data set of ten times hawser-kv's block cache, its only one; Redis
                      has it in memory

Examples:
  hawser-bench kv
  hawser-bench kv --rounds 9 --requests 400000 --json";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Rounds in which every server has every load once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests of one load without a pipeline; four times as many with one
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    requests: u32,
    /// Connections of redis-benchmark
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    bytes: u32,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    keys: u32,
    /// hawser-kv's block cache where the data set is ten times as large
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cold_cache_mib: u32,
    /// Where the servers keep their data; a real disk, or syncs cost nothing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The binary of hawser-kv; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    kv: Option<PathBuf>,
}

/// Three times as many writes fill them, and are counted in 32 bits.
const KEYS_MAX: i64 = 1_000_000_000;

/// What a server is started for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Durable,
    Fast,
    /// With so small a block cache that most reads miss it.
    Cold,
}

struct Pair {
    ours: Store,
    redis: Store,
}

struct Load {
    name: &'static str,
    role: Role,
    test: &'static str,
    pipeline: u32,
}

const LOADS: [Load; 8] = [
    Load { name: "durable_set", role: Role::Durable, test: "set", pipeline: 1 },
    Load { name: "durable_set_p16", role: Role::Durable, test: "set", pipeline: 16 },
    Load { name: "set", role: Role::Fast, test: "set", pipeline: 1 },
    Load { name: "get", role: Role::Fast, test: "get", pipeline: 1 },
    Load { name: "set_p16", role: Role::Fast, test: "set", pipeline: 16 },
    Load { name: "get_p16", role: Role::Fast, test: "get", pipeline: 16 },
    Load { name: "cold_set", role: Role::Cold, test: "set", pipeline: 1 },
    Load { name: "cold_get", role: Role::Cold, test: "get", pipeline: 1 },
];

/// What one load did to one server.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let kv = sibling(arguments.kv.as_deref(), "hawser-kv")?;
    let redis = version("redis-server")?;
    version("redis-benchmark")?;
    let mut values = json!({
        "server": "hawser-kv",
        "peer": redis,
        "clients": arguments.clients,
        "value_bytes": arguments.bytes,
        "keys": arguments.keys,
        "cold_keys": arguments.cold_keys(),
        "cold_cache_mib": arguments.cold_cache_mib,
        "rounds": arguments.rounds,
    });
    for role in [Role::Durable, Role::Fast, Role::Cold] {
        // Others that only stand by would still take memory and time in the background.
        let mut pair = Pair {
            ours: Store::start("hawser-kv", &arguments.dir, |port, dir| {
                arguments.ours(&kv, role, port, dir)
            })?,
            redis: Store::start("redis-server", &arguments.dir, |port, dir| {
                redis_of(role, port, dir)
            })?,
        };
        measure(arguments, role, &mut pair, &mut values)?;
    }
    if !output.json {
        print(&values);
    }
    output.row("kv", &format!("{} clients, {} B", arguments.clients, arguments.bytes), None, values)
}

fn measure(
    arguments: &Arguments,
    role: Role,
    pair: &mut Pair,
    values: &mut Value,
) -> anyhow::Result<()> {
    let keys = if role == Role::Cold { arguments.cold_keys() } else { arguments.keys };
    let warm = Load { name: "warm-up", role, test: "set", pipeline: 16 };
    for store in [&mut pair.ours, &mut pair.redis] {
        // Three random writes for each key leave one in twenty without a value.
        store.load(arguments, &warm, keys, 3 * keys)?;
    }
    let loads: Vec<&Load> = LOADS.iter().filter(|load| load.role == role).collect();
    let mut progress = Progress::new("rounds");
    let mut found = vec![Vec::new(); loads.len()];
    for round in 0..arguments.rounds {
        progress.at(round.into(), arguments.rounds.into());
        for (load, found) in loads.iter().zip(&mut found) {
            let requests = arguments.requests * if load.pipeline > 1 { 4 } else { 1 };
            let (ours, redis) = if round % 2 == 0 {
                let ours = pair.ours.load(arguments, load, keys, requests)?;
                (ours, pair.redis.load(arguments, load, keys, requests)?)
            } else {
                let redis = pair.redis.load(arguments, load, keys, requests)?;
                (pair.ours.load(arguments, load, keys, requests)?, redis)
            };
            found.push((ours, redis));
        }
    }
    for (load, found) in loads.iter().zip(&found) {
        put(load.name, found, values);
    }
    Ok(())
}

fn put(name: &str, found: &[(Measured, Measured)], values: &mut Value) {
    let median =
        |of: &dyn Fn(&(Measured, Measured)) -> f64| Spread::of(found.iter().map(of)).median;
    values[format!("{name}_ratio")] = json!(median(&|(ours, redis)| ours.rate / redis.rate));
    values[format!("{name}_rate")] = json!(median(&|(ours, _)| ours.rate).round());
    values[format!("{name}_peer_rate")] = json!(median(&|(_, redis)| redis.rate).round());
    for (what, of) in
        [("p50_ms", (|one| one.p50_ms) as fn(&Measured) -> f64), ("p99_ms", |one| one.p99_ms)]
    {
        values[format!("{name}_{what}")] = json!(median(&|(ours, _)| of(ours)));
        values[format!("{name}_peer_{what}")] = json!(median(&|(_, redis)| of(redis)));
    }
}

fn print(values: &Value) {
    let number = |name: String| values[name].as_f64().unwrap_or(f64::NAN);
    println!(
        "{} clients, values of {} B, beside {}\n",
        values["clients"],
        values["value_bytes"],
        values["peer"].as_str().unwrap_or_default()
    );
    println!(
        "  {:<18}{:>14}{:>14}{:>8}{:>10}{:>14}",
        "", "hawser-kv", "redis", "ratio", "p99", "p99 of redis"
    );
    for Load { name, .. } in &LOADS {
        let rate = |name: String| Unit::PerSecond.text(number(name));
        println!(
            "  {name:<18}{:>14}{:>14}{:>8.2}{:>10}{:>14}",
            rate(format!("{name}_rate")),
            rate(format!("{name}_peer_rate")),
            number(format!("{name}_ratio")),
            format!("{:.2} ms", number(format!("{name}_p99_ms"))),
            format!("{:.2} ms", number(format!("{name}_peer_p99_ms"))),
        );
    }
}

impl Arguments {
    /// As many as make the data set ten times the cache: a key of redis-benchmark has 16 bytes.
    fn cold_keys(&self) -> u32 {
        let data_bytes = 10 * (u64::from(self.cold_cache_mib) << 20);
        (data_bytes / u64::from(16 + self.bytes)) as u32
    }

    fn ours(&self, kv: &Path, role: Role, port: u16, dir: &Path) -> Command {
        let durability = if role == Role::Durable { "always" } else { "none" };
        let mut command = Command::new(kv);
        command.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--dir").arg(dir.join("data"));
        command.args(["--set", &format!("durability={durability}")]);
        if role == Role::Cold {
            command.args(["--set", &format!("cache_mib={}", self.cold_cache_mib)]);
            command.args(["--set", "rows_mib=0"]);
            // Nor may the data set stand in what is not yet written to files.
            command.args(["--set", &format!("memtable_mib={}", self.cold_cache_mib / 4 + 1)]);
        }
        command
    }
}

fn redis_of(role: Role, port: u16, dir: &Path) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
    command.arg("--dir").arg(dir);
    let is_durable = role == Role::Durable;
    command.args(["--appendonly", if is_durable { "yes" } else { "no" }]);
    command.args(["--appendfsync", "always"]);
    command
}

/// A server that listens.
struct Store(Daemon);

impl Store {
    fn start(
        name: &str,
        dir: &Path,
        command: impl Fn(u16, &Path) -> Command,
    ) -> anyhow::Result<Store> {
        let folder = Folder::within(dir, name)?;
        let command = |address: SocketAddr, dir: &Path| Ok(command(address.port(), dir));
        Ok(Store(Daemon::start(folder, &io::processors()?, command).context(name.to_owned())?))
    }

    fn load(
        &mut self,
        arguments: &Arguments,
        load: &Load,
        keys: u32,
        requests: u32,
    ) -> anyhow::Result<Measured> {
        let [port, clients, bytes, keys, requests, pipeline] = [
            self.0.address.port().into(),
            arguments.clients,
            arguments.bytes,
            keys,
            requests,
            load.pipeline,
        ]
        .map(|number: u32| number.to_string());
        let done = Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &port, "-c", &clients, "-d", &bytes, "-r", &keys])
            .args(["-n", &requests, "-P", &pipeline, "-t", load.test, "--csv"])
            .stdin(Stdio::null())
            .output()
            .context("cannot run redis-benchmark")?;
        let said = String::from_utf8_lossy(&done.stdout);
        if self.0.has_ended()? {
            bail!("the server has ended during {}: {}", load.name, self.0.last_words());
        }
        let wrong = || format!("{}: redis-benchmark says {said}", load.name);
        // test, requests a second, and in milliseconds: average, least, p50, p95, p99, most.
        let line = said.lines().last().with_context(wrong)?;
        let numbers: Vec<f64> =
            line.split(',').filter_map(|field| field.trim_matches('"').parse().ok()).collect();
        ensure!(done.status.success() && numbers.len() == 7, wrong());
        Ok(Measured { rate: numbers[0], p50_ms: numbers[3], p99_ms: numbers[5] })
    }
}

/// A program and the version that it says it has.
fn version(program: &str) -> anyhow::Result<String> {
    let said = Command::new(program).arg("--version").output().with_context(|| {
        format!("{program} is not there; `.ci/setup test` or `apt-get install redis` installs it")
    })?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let word = said.split_whitespace().find_map(|word| {
        let number = word.strip_prefix("v=").unwrap_or(word);
        number.starts_with(|first: char| first.is_ascii_digit()).then_some(number)
    });
    Ok(format!("{program} {}", word.unwrap_or("of an unknown version")))
}
