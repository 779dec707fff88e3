//! Single messages to single devices while many are held: the highest rate, and the latencies at
//! given ones.

use anyhow::ensure;
use serde_json::json;

use super::side::{Side, singles};
use super::stage::{FloorSide, Setting};
use super::{print, reached, say};
use crate::results::Output;
use crate::spread::{Spread, median};

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
  hawser-bench push --connections 100000 --rate 50000 --json
  hawser-bench push --connections 15000 --target broker.example:1883 --protocol mqtt";

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
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    ensure!(
        !arguments.floor || setting.running()?.is_none(),
        "--floor is of this machine and of hawser's devices, not of a --target's: leave it out"
    );
    let both = arguments.floor && setting.fits(connections, 2)?;
    ensure!(
        both || !arguments.floor,
        "the floor needs memory for as many connections again: choose fewer"
    );
    setting.enter(connections.saturating_mul(1 + u32::from(both)))?;
    let mut side = setting.side(connections)?;
    side.open_all(connections)?;
    let mut floor = None;
    if both {
        let mut bare = FloorSide::start(setting, connections)?;
        bare.open_all(connections)?;
        floor = Some(bare);
    }
    let bytes = usize::from(arguments.payload);
    let messages =
        |side: &mut dyn Side, count, rate| singles(side, count, rate, bytes, QUIET_MS)?.whole(side);
    say("looking for the highest rate");
    messages(&mut *side, BURST, 0)?;
    let (mut rates, mut floor_rates, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut floor_cpu = Vec::new();
    for _ in 0..arguments.rounds {
        let one = messages(&mut *side, BURST, 0)?;
        rates.push(one.rate);
        cpu.extend(one.cpu_ns);
        if let Some(floor) = &mut floor {
            let one = messages(floor, BURST, 0)?;
            floor_rates.push(one.rate);
            floor_cpu.extend(one.cpu_ns);
        }
    }
    let highest = Spread::of(rates.iter().copied()).median;
    let mut common = json!({
        "fleet": setting.fleet_name(),
        "server": side.name(),
        "connections": connections,
        "payload_bytes": arguments.payload,
        "highest_rate": highest.round(),
    });
    if let Some(cpu_ns) = median(cpu) {
        common["cpu_ns_per_message"] = json!(cpu_ns.round());
    }
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
        messages(&mut *side, count, rate)?;
        let one = messages(&mut *side, count, rate)?;
        reached(arguments.rate, one.rate)?;
        one.put("", &mut values);
        values["sent"] = json!(count);
        values["received"] = json!(one.received.messages);
        if let Some(cpu_ns) = one.cpu_ns {
            values["cpu_percent"] = json!(cpu_ns * rate as f64 / 1e7);
        }
        if let Some(floor) = &mut floor {
            messages(floor, count, rate)?;
            messages(floor, count, rate)?.put("floor_", &mut values);
        }
        let scenario = format!("{connections} over {}, {rate}/s", setting.fleet_name());
        if !output.json {
            print(&format!("single messages, {scenario}"), &values);
        }
        output.row("push", &scenario, side.plan_hash(), values)?;
    }
    Ok(())
}
