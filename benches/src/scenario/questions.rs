//! What devices ask: `heartbeat`, answered by the broker alone, and `uplink`, a pull that goes to the
//! control node and back.

use anyhow::ensure;
use serde_json::{Value, json};

use super::side::Side;
use super::stage::{BrokerSide, FloorSide, Setting};
use super::{print, reached, say};
use crate::fleet::command::{Asked, Pace};
use crate::fleet::handle::Fleet;
use crate::results::Output;
use crate::spread::Spread;

pub const METHOD: &str = "\
How it is measured:
  Highest rate: devices ask one after the other, with --window of them waiting for an answer at a
  time, in rounds, with the bare server's in between if --floor is given.

  Latency: an open loop. Question k is due k/R after the start; its time runs from when it was due
  until the device has read the answer. cpu_percent is the processor time of the broker meanwhile;
  cpu_over_percent is what of it is above the questions' own cost at the highest rate: waking up.
  A million devices with heartbeats every five minutes are `--connections 1000000 --rate 3333`.

  A pull's floor is a heartbeat to the bare server, which has no control node behind it.

Examples:
  hawser-bench heartbeat --connections 1000000 --floor
  hawser-bench uplink --connections 100000 --rate 20000";

const CONNECTIONS: u32 = 100_000;
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Questions a second, instead of shares of the highest rate
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Devices that wait for an answer at a time when the highest rate is looked for
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub window: u32,
    /// How long each rate is kept up
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Rounds in which the highest rate is looked for
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measure the bare server as well
    #[arg(long)]
    pub floor: bool,
}

/// Questions of a round in which the highest rate is looked for.
const BURST: u64 = 200_000;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    Heartbeat,
    Uplink,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Heartbeat => "heartbeat",
            What::Uplink => "uplink",
        }
    }

    fn ask(self, fleet: &mut Fleet, count: u64, pace: Pace) -> anyhow::Result<Asked> {
        let asked = match self {
            What::Heartbeat => fleet.ping(count, pace)?,
            What::Uplink => fleet.pull(count, pace)?,
        };
        let Asked { sent, answered, stopped, .. } = &asked;
        ensure!(
            *answered == count,
            "{answered} of {sent} questions were answered, of {count} to be asked: {}",
            stopped.as_deref().unwrap_or("connections ended meanwhile")
        );
        Ok(asked)
    }
}

pub fn run(what: What, arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let setting = &arguments.setting;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    ensure!(
        !arguments.floor || setting.fits(connections, 2)?,
        "the floor needs memory for as many connections again: choose fewer"
    );
    setting.enter(connections.saturating_mul(1 + u32::from(arguments.floor)))?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let mut floor = None;
    if arguments.floor {
        let mut bare = FloorSide::start(setting, connections)?;
        bare.open_all(connections)?;
        floor = Some(bare);
    }
    say("looking for the highest rate");
    let window = Pace::Window(arguments.window);
    what.ask(&mut side.fleet, BURST, window)?;
    let (mut rates, mut floor_rates) = (Vec::new(), Vec::new());
    let (mut cpu, mut floor_cpu) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let before_ns = side.cpu_ns()?;
        rates.push(rate(&what.ask(&mut side.fleet, BURST, window)?));
        cpu.push((side.cpu_ns()? - before_ns) as f64 / BURST as f64);
        if let Some(floor) = &mut floor {
            let before_ns = floor.cpu_ns()?;
            floor_rates.push(rate(&What::Heartbeat.ask(&mut floor.fleet, BURST, window)?));
            floor_cpu.push((floor.cpu_ns()? - before_ns) as f64 / BURST as f64);
        }
    }
    let highest = Spread::of(rates.iter().copied()).median;
    let own_ns = Spread::of(cpu).median;
    let mut common = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "highest_rate": highest.round(),
        "cpu_ns_per_message": own_ns.round(),
    });
    let mut reference = highest;
    if !floor_rates.is_empty() {
        let ratio = Spread::of(rates.iter().zip(&floor_rates).map(|(rate, floor)| rate / floor));
        reference = Spread::of(floor_rates.iter().copied()).median;
        common["floor_rate"] = json!(reference.round());
        common["ratio_to_floor"] = json!(ratio.median);
        common["floor_cpu_ns_per_message"] = json!(Spread::of(floor_cpu).median.round());
    }
    let offered: Vec<u32> = match arguments.rate {
        Some(rate) => vec![rate],
        None => SHARES.iter().map(|share| (share * reference) as u32).collect(),
    };
    for rate in offered {
        say(&format!("{rate} a second"));
        let count = u64::from(rate) * u64::from(arguments.seconds);
        let mut values = common.clone();
        values["rate"] = json!(rate);
        let before_ns = side.cpu_ns()?;
        let asked = what.ask(&mut side.fleet, count, Pace::Rate(rate))?;
        let cpu_percent = (side.cpu_ns()? - before_ns) as f64 / asked.seconds / 1e7;
        values["cpu_percent"] = json!(cpu_percent);
        values["cpu_over_percent"] = json!(cpu_percent - f64::from(rate) * own_ns / 1e7);
        reached(arguments.rate, self::rate(&asked))?;
        put(&asked, "", &mut values);
        if let Some(floor) = &mut floor {
            let asked = What::Heartbeat.ask(&mut floor.fleet, count, Pace::Rate(rate))?;
            put(&asked, "floor_", &mut values);
        }
        let scenario = format!("{connections} over {}, {rate}/s", setting.fleet.name());
        if !output.json {
            print(&format!("{}, {scenario}", what.name()), &values);
        }
        output.row(what.name(), &scenario, Some(&side.broker.plan_hash), values)?;
    }
    Ok(())
}

fn rate(asked: &Asked) -> f64 {
    asked.answered as f64 / asked.seconds
}

fn put(asked: &Asked, prefix: &str, values: &mut Value) {
    values[format!("{prefix}rate_reached")] = json!(rate(asked).round());
    asked.latency.put(prefix, values);
}
