//! Single messages to single devices while many are held: the highest rate, and the latencies at
//! given ones.

use anyhow::ensure;
use serde_json::{Value, json};

use super::stage::{BrokerSide, FloorSide, Setting};
use super::{print, reached, say};
use crate::fleet::command::Received;
use crate::io::monotonic_ns;
use crate::results::Output;
use crate::spread::Spread;

pub const METHOD: &str = "\
How it is measured:
  Highest rate: as many messages as the link takes, in rounds, with the bare server's in between if
  --floor is given. Each message is a frame of its own on the link, to another session; the bare
  server makes the same frames for as many sockets by itself.

  Latency: an open loop. Message k is due k/R after the start, whatever became of the others; its time
  runs from when it was due until the device has read it, so waiting behind a slow one counts. Times
  are taken on one clock, in the control end (before the link frame is written) and in the fleet. The
  rates are a quarter, a half and three quarters of the highest, unless --rate gives one.

Examples:
  hawser-bench push --connections 1000000 --floor
  hawser-bench push --connections 100000 --rate 50000 --json";

const CONNECTIONS: u32 = 100_000;
const QUIET_MS: u64 = 10_000;

/// Of the highest rate.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Messages a second, instead of shares of the highest rate
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// How long each rate is kept up, after as long again of warming up
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Rounds in which the highest rate is looked for
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(8..=4096))]
    pub payload: u16,
    /// Measure the bare server as well
    #[arg(long)]
    pub floor: bool,
}

/// Messages of a round in which the highest rate is looked for.
const BURST: u64 = 300_000;

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let setting = &arguments.setting;
    let connections = setting.connections.unwrap_or(CONNECTIONS);
    let both = arguments.floor && setting.fits(connections, 2)?;
    ensure!(
        both || !arguments.floor,
        "the floor needs memory for as many connections again: choose fewer"
    );
    setting.enter(connections.saturating_mul(1 + u32::from(both)))?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let mut floor = None;
    if both {
        let mut bare = FloorSide::start(setting, connections)?;
        bare.open_all(connections)?;
        floor = Some(bare);
    }
    let bytes = usize::from(arguments.payload);
    say("looking for the highest rate");
    through_broker(&mut side, BURST, 0, bytes)?;
    let (mut rates, mut floor_rates, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut floor_cpu = Vec::new();
    for _ in 0..arguments.rounds {
        let one = through_broker(&mut side, BURST, 0, bytes)?;
        rates.push(one.rate);
        cpu.push(one.cpu_ns);
        if let Some(floor) = &mut floor {
            let one = from_floor(floor, BURST, 0, bytes)?;
            floor_rates.push(one.rate);
            floor_cpu.push(one.cpu_ns);
        }
    }
    let highest = Spread::of(rates.iter().copied()).median;
    let mut common = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "payload_bytes": arguments.payload,
        "highest_rate": highest.round(),
        "cpu_ns_per_message": Spread::of(cpu).median.round(),
    });
    let mut reference = highest;
    if !floor_rates.is_empty() {
        let ratio = Spread::of(rates.iter().zip(&floor_rates).map(|(rate, floor)| rate / floor));
        reference = Spread::of(floor_rates.iter().copied()).median;
        common["floor_rate"] = json!(reference.round());
        common["ratio_to_floor"] = json!(ratio.median);
        common["floor_cpu_ns_per_message"] = json!(Spread::of(floor_cpu).median.round());
    }
    let offered: Vec<u64> = match arguments.rate {
        Some(rate) => vec![rate.into()],
        None => SHARES.iter().map(|share| (share * reference) as u64).collect(),
    };
    for rate in offered {
        say(&format!("{rate} messages a second"));
        let count = rate * u64::from(arguments.seconds);
        let mut values = common.clone();
        values["rate"] = json!(rate);
        through_broker(&mut side, count, rate, bytes)?;
        let one = through_broker(&mut side, count, rate, bytes)?;
        reached(arguments.rate, one.rate)?;
        put(&one, "", &mut values);
        values["sent"] = json!(count);
        values["received"] = json!(one.received.messages);
        values["cpu_percent"] = json!(one.cpu_ns * rate as f64 / 1e7);
        if let Some(floor) = &mut floor {
            from_floor(floor, count, rate, bytes)?;
            put(&from_floor(floor, count, rate, bytes)?, "floor_", &mut values);
        }
        let scenario = format!("{connections} over {}, {rate}/s", setting.fleet.name());
        if !output.json {
            print(&format!("single messages, {scenario}"), &values);
        }
        output.row("push", &scenario, Some(&side.broker.plan_hash), values)?;
    }
    Ok(())
}

struct Measured {
    rate: f64,
    cpu_ns: f64,
    received: Received,
}

fn put(one: &Measured, prefix: &str, values: &mut Value) {
    values[format!("{prefix}rate_reached")] = json!(one.rate.round());
    one.received.latency.put(prefix, values);
}

fn through_broker(
    side: &mut BrokerSide,
    count: u64,
    rate: u64,
    bytes: usize,
) -> anyhow::Result<Measured> {
    let before_ns = side.cpu_ns()?;
    side.fleet.expect(count, QUIET_MS)?;
    let begun_ns = monotonic_ns();
    side.control.push(count, rate, bytes)?;
    let received = side.fleet.received()?;
    measured(count, begun_ns, received, side.cpu_ns()? - before_ns)
}

fn from_floor(
    floor: &mut FloorSide,
    count: u64,
    rate: u64,
    bytes: usize,
) -> anyhow::Result<Measured> {
    let before_ns = floor.cpu_ns()?;
    floor.fleet.expect(count, QUIET_MS)?;
    let begun_ns = monotonic_ns();
    floor.push(count, rate, bytes)?;
    let received = floor.fleet.received()?;
    measured(count, begun_ns, received, floor.cpu_ns()? - before_ns)
}

fn measured(
    count: u64,
    begun_ns: u64,
    received: Received,
    cpu_ns: u64,
) -> anyhow::Result<Measured> {
    ensure!(received.messages == count, "{} of {count} messages arrived", received.messages);
    let seconds = (received.last_ns - begun_ns) as f64 / 1e9;
    Ok(Measured { rate: count as f64 / seconds, cpu_ns: cpu_ns as f64 / count as f64, received })
}
