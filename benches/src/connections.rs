//! Memory of an idle connection: of the broker in user space, and of the kernel on the server's
//! side, without what the clients' own sockets cost. `METHOD` says how.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hawser_bare_protocol::frames::welcome;
use hawser_broker::io::socket::{listen, local_address};
use serde_json::json;

use crate::control_end::ControlEnd;
use crate::io;
use crate::kernel_memory::{Cache, Slabs};
use crate::process::{Broker, Helper, memory, sibling};
use crate::results::Output;
use crate::spread::Spread;

pub const METHOD: &str = "\
How it is measured:
  A real hawser-broker with one shard is started, with a control end inside this program that hands
  out one app and says that every inbox is empty. Child processes open the connections, each with a
  signed ticket and one topic, and then do nothing.

  User space: the broker's private memory (Anonymous in /proc/PID/smaps_rollup) with all connections,
  minus that of the same broker before the first, divided by their number. Each round has a new
  broker. Huge pages are off for it, since with them memory grows in steps of 2 MiB.

  Kernel: objects in use in /proc/slabinfo before and after, with the slabs' waste. That counts both
  ends. So each round opens the same connections from the same clients to a bare end too, which
  accepts, greets and holds them with nothing waiting on them. What the broker's run has more than
  the bare run is what the broker's side costs beyond a bare socket, whatever the clients cost. A
  bare accepted socket itself has the same objects as a bare client's (TCP, sock_inode_cache, filp,
  dentry and what the security modules add to them), so it is half of those in the bare run.

  Other processes' files come and go in some of these caches: the medians of the rounds are used,
  caches that grew by less than an object for two connections are left out, and so are dentries
  beyond one for each socket.";

/// What one socket consists of, on either end.
const SOCKET_CACHES: [&str; 6] =
    ["TCP", "sock_inode_cache", "filp", "dentry", "lsm_inode_cache", "lsm_file_cache"];

/// The prototype that the design rests on, on the same kernel: one multishot poll per connection.
const PROTOTYPE_KERNEL_BYTES: f64 = 4160.0;

const USER_BYTES_AIM: f64 = 200.0;

/// The broker's default.
const SEND_BUFFER_BYTES: usize = 131_072;

/// Sockets of one client process; its limit is 20,000 descriptors.
const PER_CLIENT: u32 = 9_000;

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Connections to open
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(100..=18_000))]
    pub connections: u32,
    /// Rounds of a bare run and a broker's run
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// The broker's binary; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    pub broker: Option<PathBuf>,
}

/// What one round found, per connection.
struct Round {
    bare: BTreeMap<String, Cache>,
    broker: BTreeMap<String, Cache>,
    anonymous: f64,
    resident: f64,
    empty_anonymous: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let binary = sibling(arguments.broker.as_deref(), "hawser-broker")?;
    io::raise_descriptor_limit()?;
    let connections = arguments.connections;
    let processors = io::processors()?;
    let (server_cpu, client_cpu) = (processors[0], processors[processors.len() - 1]);
    let mut clients = Clients::start(connections, client_cpu)?;

    let (mut rounds, mut plan_hash) = (Vec::new(), None);
    for _ in 0..arguments.rounds {
        let before = Slabs::read()?;
        let held = hold(&mut clients, connections)?;
        let bare = settled()?.per_connection(&before, connections);
        clients.close("floor")?;
        drop(held);
        wait_for_sockets(&before)?;

        let control = ControlEnd::start()?;
        let maximum = u64::from(connections) + 1024;
        let broker = Broker::start(&binary, control.address(), maximum, server_cpu)?;
        control.wait_for_link()?;
        let empty = memory(broker.id())?;
        let before = Slabs::read()?;
        clients.open("broker", &broker.address.to_string())?;
        control.wait_for_sessions(u64::from(connections))?;
        let full = memory(broker.id())?;
        let with_broker = settled()?.per_connection(&before, connections);
        clients.close("broker")?;
        plan_hash = Some(broker.plan_hash.clone());
        drop(broker);
        wait_for_sockets(&before)?;

        let per_connection =
            |full: u64, empty: u64| (full as f64 - empty as f64) / f64::from(connections);
        rounds.push(Round {
            bare,
            broker: with_broker,
            anonymous: per_connection(full.anonymous, empty.anonymous),
            resident: per_connection(full.resident, empty.resident),
            empty_anonymous: empty.anonymous as f64,
        });
    }
    report(arguments, plan_hash.as_deref(), &rounds, output)
}

/// The bare end: welcomes the clients' connections, and waits for nothing on them.
fn hold(clients: &mut Clients, connections: u32) -> anyhow::Result<Vec<TcpStream>> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = listen(any_port, 1, SEND_BUFFER_BYTES)?.pop().context("one was asked for")?;
    let address = local_address(&listener)?.to_string();
    let listener = TcpListener::from(listener);
    thread::scope(|scope| {
        let welcoming = scope.spawn(|| (0..connections).map(|_| accept(&listener)).collect());
        clients.open("floor", &address)?;
        welcoming.join().expect("no panic while welcoming")
    })
}

fn accept(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    let (mut socket, _) = listener.accept()?;
    ensure!(socket.read(&mut [0; 1024])? > 0, "closed before a greeting");
    socket.write_all(&welcome())?;
    Ok(socket)
}

/// The client processes, which share the connections.
pub struct Clients {
    helpers: Vec<Helper>,
    counts: Vec<u32>,
}

impl Clients {
    pub fn start(connections: u32, processor: usize) -> anyhow::Result<Clients> {
        Clients::share(connections, PER_CLIENT, processor)
    }

    /// With at most `per_client` connections of each lane in one process.
    pub fn share(connections: u32, per_client: u32, processor: usize) -> anyhow::Result<Clients> {
        let processes = connections.div_ceil(per_client);
        let counts: Vec<u32> = (0..processes)
            .map(|index| connections / processes + u32::from(index < connections % processes))
            .collect();
        let helpers = counts
            .iter()
            .map(|_| Helper::start("sink", processor))
            .collect::<anyhow::Result<_>>()?;
        Ok(Clients { helpers, counts })
    }

    pub fn open(&mut self, lane: &str, address: &str) -> anyhow::Result<()> {
        let mut first = 0;
        for (client, &count) in self.helpers.iter_mut().zip(&self.counts) {
            client.tell(&format!("open {lane} {address} {count} {first}"))?;
            first += count;
        }
        self.helpers.iter_mut().try_for_each(|client| client.hear("opened").map(drop))
    }

    pub fn close(&mut self, lane: &str) -> anyhow::Result<()> {
        self.helpers.iter_mut().try_for_each(|client| client.tell(&format!("close {lane}")))?;
        self.helpers.iter_mut().try_for_each(|client| client.hear("closed").map(drop))
    }

    /// Makes each client count until it has `bytes` for each of its connections.
    pub fn expect(&mut self, lane: &str, bytes: u64) -> anyhow::Result<()> {
        for (client, &count) in self.helpers.iter_mut().zip(&self.counts) {
            client.tell(&format!("expect {lane} {}", u64::from(count) * bytes))?;
        }
        self.helpers.iter_mut().try_for_each(|client| client.hear("armed").map(drop))
    }

    /// Waits until all have them.
    pub fn received(&mut self, bytes: u64) -> anyhow::Result<()> {
        for (client, &count) in self.helpers.iter_mut().zip(&self.counts) {
            let received: u64 = client.hear("received")?.parse()?;
            let expected = u64::from(count) * bytes;
            ensure!(received == expected, "{received} of {expected} bytes arrived");
        }
        Ok(())
    }
}

/// The slabs once the count of sockets stands still: handshakes leave objects that go a moment
/// later.
fn settled() -> anyhow::Result<Slabs> {
    let mut before = Slabs::read()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = Slabs::read()?;
        let moved = |cache: &str| (now.objects(cache) - before.objects(cache)).abs();
        if moved("TCP") < 20.0 && moved("skbuff_head_cache") < 200.0 {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// Waits until the sockets of a run are freed.
fn wait_for_sockets(before: &Slabs) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Slabs::read()?.objects("TCP") > before.objects("TCP") + 2_000.0 {
        ensure!(Instant::now() < deadline, "the sockets of the last run are not freed");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One cache's medians, in bytes per connection.
struct Row {
    cache: String,
    objects: f64,
    bare: f64,
    broker: f64,
    /// On the server's side.
    server: f64,
}

fn report(
    arguments: &Arguments,
    plan_hash: Option<&str>,
    rounds: &[Round],
    output: &Output,
) -> anyhow::Result<()> {
    let rows = rows(rounds);
    let kernel: f64 = rows.iter().map(|row| row.server).sum();
    let anonymous = Spread::of(rounds.iter().map(|round| round.anonymous));
    let resident = Spread::of(rounds.iter().map(|round| round.resident));
    let empty = Spread::of(rounds.iter().map(|round| round.empty_anonymous));
    let kernel_percent = 100.0 * kernel / PROTOTYPE_KERNEL_BYTES;
    let by_cache: serde_json::Map<String, serde_json::Value> =
        rows.iter().map(|row| (row.cache.clone(), json!(row.server.round()))).collect();
    let values = json!({
        "connections": arguments.connections,
        "rounds": arguments.rounds,
        "user_anonymous_bytes_per_connection": anonymous,
        "user_resident_bytes_per_connection": resident,
        "empty_broker_anonymous_bytes": empty.median,
        "kernel_bytes_per_connection": kernel.round(),
        "kernel_percent_of_prototype": kernel_percent,
        "kernel_by_cache": by_cache,
    });
    let scenario = format!("{} idle", arguments.connections);
    output.row("connections", &scenario, plan_hash, values)?;
    if output.json {
        return Ok(());
    }
    println!("{} idle connections, {} rounds\n", arguments.connections, arguments.rounds);
    println!("kernel, bytes per connection");
    println!(
        "  {:<20} {:>8} {:>10} {:>10} {:>12}",
        "cache", "objects", "bare pair", "with broker", "server side"
    );
    for Row { cache, objects, bare, broker, server } in &rows {
        println!("  {cache:<20} {objects:>8.2} {bare:>10.0} {broker:>10.0} {server:>12.0}");
    }
    println!("  {:<20} {:>8} {:>10} {:>10} {kernel:>12.0}", "together", "", "", "");
    println!("  {kernel_percent:.1} % of the prototype's {PROTOTYPE_KERNEL_BYTES}\n");
    println!("broker, user space, bytes per connection");
    for (name, spread) in [("private", anonymous), ("resident", resident)] {
        println!("  {name:<9} {:>7.0} ({:.0}-{:.0})", spread.median, spread.low, spread.high);
    }
    println!(
        "  aim: private <= {USER_BYTES_AIM}; the empty broker has {:.1} MiB",
        empty.median / 1048576.0
    );
    Ok(())
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let caches: BTreeSet<&String> =
        rounds.iter().flat_map(|round| round.bare.keys().chain(round.broker.keys())).collect();
    let median = |cache: &str, of: fn(&Round) -> &BTreeMap<String, Cache>| {
        let values = |pick: fn(&Cache) -> f64| {
            Spread::of(rounds.iter().map(|round| of(round).get(cache).map_or(0.0, pick))).median
        };
        (values(|cache| cache.objects), values(|cache| cache.bytes))
    };
    caches
        .into_iter()
        .map(|cache| {
            let (_, bare) = median(cache, |round| &round.bare);
            let (objects, broker) = median(cache, |round| &round.broker);
            let socket = SOCKET_CACHES.contains(&cache.as_str());
            let server = broker - bare + if socket { bare / 2.0 } else { 0.0 };
            Row { cache: cache.clone(), objects, bare, broker, server }
        })
        .filter(|row| row.bare > 0.0 || row.broker > 0.0)
        .collect()
}
