//! What `push`, `heartbeat` and `uplink` have in common: the highest rate, and the latencies at rates
//! below it, of a server and of the floor beside it.

use anyhow::ensure;
use serde_json::{Value, json};

use super::busy::{Busy, Clocks};
use super::pair::Pair;
use super::side::{Measured, Side, singles};
use super::stage::{BARE, Setting};
use super::{print, reached, say};
use crate::fleet::command::{Asked, Pace};
use crate::results::Output;
use crate::spread::{Spread, median};

const CONNECTIONS: u32 = 100_000;

/// A message that does not arrive within this is lost.
const QUIET_MS: u64 = 10_000;

/// Of the highest rate.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];

/// How latencies are taken.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// So many a second, instead of shares of the highest rate
    #[arg(long, value_name = "PER_S", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// How long each rate is kept up, after as long again of warming up
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Rounds in which the highest rate is looked for
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measure the bare server as well, with as many connections of its own
    #[arg(long)]
    pub floor: bool,
}

/// What is done so many times a second.
#[derive(Clone, Copy)]
pub enum Load {
    Push { payload_bytes: u16 },
    Heartbeat { window: u32 },
    Uplink { window: u32 },
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Push { .. } => "push",
            Load::Heartbeat { .. } => "heartbeat",
            Load::Uplink { .. } => "uplink",
        }
    }

    /// How many make a round in which the highest rate is looked for.
    fn burst(self) -> u64 {
        match self {
            Load::Push { .. } => 300_000,
            Load::Heartbeat { .. } | Load::Uplink { .. } => 200_000,
        }
    }

    /// As fast as they are taken.
    fn highest(self, side: &mut dyn Side) -> anyhow::Result<Measured> {
        let count = self.burst();
        match self {
            Load::Push { payload_bytes } => push(side, count, 0, payload_bytes),
            Load::Heartbeat { window } | Load::Uplink { window } => {
                self.ask(side, count, Pace::Window(window))
            }
        }
    }

    /// At this rate, whatever becomes of them.
    fn paced(self, side: &mut dyn Side, count: u64, rate: u32) -> anyhow::Result<Measured> {
        match self {
            Load::Push { payload_bytes } => push(side, count, rate.into(), payload_bytes),
            Load::Heartbeat { .. } | Load::Uplink { .. } => self.ask(side, count, Pace::Rate(rate)),
        }
    }

    fn ask(self, side: &mut dyn Side, count: u64, pace: Pace) -> anyhow::Result<Measured> {
        let before = Clocks::read(side)?;
        let asked = match self {
            // The floor has no control node to pull from.
            Load::Uplink { .. } if side.name() != BARE => side.fleet().pull(count, pace)?,
            _ => side.fleet().ping(count, pace)?,
        };
        let after = Clocks::read(side)?;
        let Asked { sent, answered, seconds, stopped, latency } = asked;
        ensure!(
            answered == count,
            "{answered} of {sent} questions were answered, of {count} to be asked: {}",
            stopped.as_deref().unwrap_or("connections ended meanwhile")
        );
        Ok(Measured {
            sent,
            arrived: answered,
            rate: answered as f64 / seconds,
            cpu_ns: after.server_ns_since(&before).map(|ns| ns as f64 / sent as f64),
            busy: after.since(&before),
            latency,
        })
    }
}

fn push(
    side: &mut dyn Side,
    count: u64,
    rate: u64,
    payload_bytes: u16,
) -> anyhow::Result<Measured> {
    singles(side, count, rate, payload_bytes.into(), QUIET_MS)?.whole(side)
}

pub fn run(load: Load, arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, seconds, floor, .. } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    ensure!(
        !floor || setting.running()?.is_none(),
        "--floor is of this machine and of hawser's devices, not of a --target's: leave it out"
    );
    ensure!(
        !floor || setting.fits(connections, 2)?,
        "the floor needs memory for as many connections again: choose fewer"
    );
    setting.enter(connections.saturating_mul(1 + u32::from(*floor)))?;
    let mut pair = Pair::start(setting, connections, *floor)?;
    let (common, reference) = highest(load, arguments, &mut pair, connections)?;
    let offered: Vec<u32> = match arguments.rate {
        Some(rate) => vec![rate],
        None => SHARES.iter().map(|share| ((share * reference) as u32).max(1)).collect(),
    };
    for (round, rate) in offered.into_iter().enumerate() {
        say(&format!("{rate} a second"));
        let count = u64::from(rate) * u64::from(*seconds);
        // Both once without counting, and then both measured.
        pair.each(round, |side| load.paced(side, count, rate))?;
        let (one, bare) = pair.each(round, |side| load.paced(side, count, rate))?;
        reached(arguments.rate, one.rate, *seconds)?;
        let mut values = common.clone();
        put_paced(rate, &one, &mut values);
        if let Some(bare) = bare {
            bare.put("floor_", &mut values);
        }
        let scenario = format!("{connections} over {}, {rate}/s", setting.fleet_name());
        if !output.json {
            print(&format!("{}, {scenario}", load.name()), &values);
        }
        output.row(load.name(), &scenario, pair.side.plan_hash(), values)?;
    }
    Ok(())
}

/// What all rows say, and the rate of which others are shares: the floor's, if there is one.
fn highest(
    load: Load,
    arguments: &Arguments,
    pair: &mut Pair,
    connections: u32,
) -> anyhow::Result<(Value, f64)> {
    say("looking for the highest rate");
    // Once without counting: code, caches and buffers.
    pair.each(0, |side| load.highest(side))?;
    let (mut own, mut bare) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds as usize {
        let (one, floor) = pair.each(round, |side| load.highest(side))?;
        own.push(one);
        bare.extend(floor);
    }
    let highest = Spread::of(own.iter().map(|one| one.rate)).median;
    let mut values = json!({
        "fleet": arguments.setting.fleet_name(),
        "server": pair.side.name(),
        "connections": connections,
        "highest_rate": highest.round(),
    });
    if let Load::Push { payload_bytes } = load {
        values["payload_bytes"] = json!(payload_bytes);
    }
    put_effort("", &own, &mut values);
    if bare.is_empty() {
        return Ok((values, highest));
    }
    let ratio = Spread::of(own.iter().zip(&bare).map(|(one, floor)| one.rate / floor.rate));
    let reference = Spread::of(bare.iter().map(|one| one.rate)).median;
    values["floor_rate"] = json!(reference.round());
    values["ratio_to_floor"] = json!(ratio.median);
    put_effort("floor_", &bare, &mut values);
    Ok((values, reference))
}

/// The server's processor time for each, and how busy all were.
pub fn put_effort(prefix: &str, rounds: &[Measured], values: &mut Value) {
    if let Some(cpu_ns) = median(rounds.iter().filter_map(|one| one.cpu_ns)) {
        values[format!("{prefix}cpu_ns_per_message")] = json!(cpu_ns.round());
    }
    let busy: Vec<Busy> = rounds.iter().map(|one| one.busy).collect();
    if let Some(busy) = Busy::median(&busy) {
        busy.put(prefix, values);
    }
}

fn put_paced(rate: u32, one: &Measured, values: &mut Value) {
    values["rate"] = json!(rate);
    values["sent"] = json!(one.sent);
    values["received"] = json!(one.arrived);
    one.put("", values);
    one.busy.put("paced_", values);
    if let Some(percent) = one.busy.server {
        values["cpu_percent"] = json!(percent);
        if let Some(own_ns) = values["cpu_ns_per_message"].as_f64() {
            values["cpu_over_percent"] = json!(percent - f64::from(rate) * own_ns / 1e7);
        }
    }
}
