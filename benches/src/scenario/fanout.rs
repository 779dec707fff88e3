//! One message to all devices, through the broker and from the bare server.

use anyhow::ensure;
use serde_json::json;

use super::pair::Pair;
use super::print;
use super::rates::put_effort;
use super::side::{Side, one_to_all};
use super::stage::{FloorSide, Setting};
use crate::results::Output;
use crate::spread::Spread;

pub const METHOD: &str = "\
How it is measured:
  Devices are connected to a real hawser-broker with one shard and, with --floor, as many to the bare
  server: io_uring and nothing around it. A round is one group message to all devices of one side,
  then one to all of the other; the sides change places every round, so that what the machine does
  otherwise hits both. Without memory for both, the floor comes after the broker is gone.

  Broker: the control end inside this program writes one group entry to the shard's link. Bare: a line
  on its standard input. The frames on the wire are the same bytes; devices acknowledge each, on both
  sides. The rate is the number of devices over the time from that write to the last device's
  receipt. A message that does not arrive is an error. bound_by fleet: the processor of the fleet and
  the control end was full (fleet_cpu_percent, control_cpu_percent) and the server's was not.

Examples:
  hawser-bench fanout --connections 1000000 --floor
  hawser-bench fanout --fleet sockets --connections 15000 --floor --json
  hawser-bench fanout --connections 15000 --target broker.example:1883 --protocol mqtt";

const CONNECTIONS: u32 = 100_000;

/// What does not arrive within this is lost.
const QUIET_MS: u64 = 10_000;

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Rounds of one message on each side
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Bytes of the message
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(8..=4096))]
    pub payload: u16,
    /// Measure the bare server as well, with as many connections of its own
    #[arg(long)]
    pub floor: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, rounds, .. } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    let payload = vec![b'm'; usize::from(arguments.payload)];
    ensure!(
        !arguments.floor || setting.running()?.is_none(),
        "--floor is of this machine and of hawser's devices, not of a --target's: leave it out"
    );
    let both = arguments.floor && setting.fits(connections, 2)?;
    setting.enter(connections.saturating_mul(1 + u32::from(both)))?;
    let mut pair = Pair::start(setting, connections, both)?;
    let plan_hash = pair.side.plan_hash().map(str::to_owned);
    let name = pair.side.name().to_owned();
    let one = |side: &mut dyn Side| one_to_all(side, connections, &payload, QUIET_MS)?.whole(side);
    let (mut through, mut bare) = (Vec::new(), Vec::new());
    // Each once without counting: code, caches and buffers.
    pair.each(0, one)?;
    for round in 0..*rounds as usize {
        let (own, floor) = pair.each(round, one)?;
        through.push(own);
        bare.extend(floor);
    }
    drop(pair);
    if arguments.floor && !both {
        let mut floor = FloorSide::start(setting, connections)?;
        floor.open_all(connections)?;
        one(&mut floor)?;
        for _ in 0..*rounds {
            bare.push(one(&mut floor)?);
        }
    }
    let rate = Spread::of(through.iter().map(|one| one.rate));
    let mut values = json!({
        "fleet": setting.fleet_name(),
        "server": name,
        "connections": connections,
        "payload_bytes": arguments.payload,
        "rounds": rounds,
        "rate": rate.median.round(),
        "rate_quartiles": [rate.low.round(), rate.high.round()],
        "seconds": f64::from(connections) / rate.median,
    });
    put_effort("", &through, &mut values);
    if !bare.is_empty() {
        let floor_rate = Spread::of(bare.iter().map(|one| one.rate));
        let ratio =
            Spread::of(through.iter().zip(&bare).map(|(through, bare)| through.rate / bare.rate));
        values["floor_rate"] = json!(floor_rate.median.round());
        values["ratio_to_floor"] = json!(ratio.median);
        values["ratio_quartiles"] = json!([ratio.low, ratio.high]);
        put_effort("floor_", &bare, &mut values);
        values["interleaved"] = json!(both);
    }
    let scenario = format!("{connections} over {}", setting.fleet_name());
    if !output.json {
        print(&format!("one message to {scenario}"), &values);
    }
    output.row("fanout", &scenario, plan_hash.as_deref(), values)
}
