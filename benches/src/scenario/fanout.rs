//! One message to all devices, through the broker and from the bare server.

use anyhow::bail;
use hawser_codec::device::Downlink;
use hawser_codec::ids::TopicId;
use serde_json::json;

use super::print;
use super::stage::{BrokerSide, FloorSide, Setting};
use crate::fleet::command::Received;
use crate::fleet::handle::Fleet;
use crate::io::monotonic_ns;
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
  receipt. A message that does not arrive is an error.

Examples:
  hawser-bench fanout --connections 1000000 --floor
  hawser-bench fanout --fleet sockets --connections 15000 --floor --json";

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
    /// Measure the bare server as well
    #[arg(long)]
    pub floor: bool,
}

/// One round.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    cpu_ns: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, rounds, .. } = arguments;
    let connections = setting.connections.unwrap_or(CONNECTIONS);
    let payload = vec![b'm'; usize::from(arguments.payload)];
    let both = arguments.floor && setting.fits(connections, 2)?;
    setting.enter(connections.saturating_mul(1 + u32::from(both)))?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let plan_hash = side.broker.plan_hash.clone();
    let mut through = Vec::new();
    let mut bare = Vec::new();
    // Each once without counting: code, caches and buffers.
    through_broker(&mut side, connections, &payload)?;
    if both {
        let mut floor = FloorSide::start(setting, connections)?;
        floor.open_all(connections)?;
        from_floor(&mut floor, connections, &payload, 1)?;
        for round in 0..*rounds {
            let seq = u64::from(round) + 2;
            if round % 2 == 0 {
                bare.push(from_floor(&mut floor, connections, &payload, seq)?);
            }
            through.push(through_broker(&mut side, connections, &payload)?);
            if round % 2 == 1 {
                bare.push(from_floor(&mut floor, connections, &payload, seq)?);
            }
        }
    } else {
        for _ in 0..*rounds {
            through.push(through_broker(&mut side, connections, &payload)?);
        }
        drop(side);
        if arguments.floor {
            let mut floor = FloorSide::start(setting, connections)?;
            floor.open_all(connections)?;
            for seq in 1..=u64::from(*rounds) + 1 {
                bare.push(from_floor(&mut floor, connections, &payload, seq)?);
            }
            bare.remove(0);
        }
    }
    let rate = Spread::of(through.iter().map(|one| one.rate));
    let cpu_ns = Spread::of(through.iter().map(|one| one.cpu_ns));
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "payload_bytes": arguments.payload,
        "rounds": rounds,
        "rate": rate.median.round(),
        "rate_quartiles": [rate.low.round(), rate.high.round()],
        "cpu_ns_per_message": cpu_ns.median.round(),
        "seconds": f64::from(connections) / rate.median,
    });
    if !bare.is_empty() {
        let floor_rate = Spread::of(bare.iter().map(|one| one.rate));
        let ratio =
            Spread::of(through.iter().zip(&bare).map(|(through, bare)| through.rate / bare.rate));
        let floor_cpu = Spread::of(bare.iter().map(|one| one.cpu_ns)).median;
        values["floor_rate"] = json!(floor_rate.median.round());
        values["ratio_to_floor"] = json!(ratio.median);
        values["ratio_quartiles"] = json!([ratio.low, ratio.high]);
        values["floor_cpu_ns_per_message"] = json!(floor_cpu.round());
        values["interleaved"] = json!(both);
    }
    let scenario = format!("{connections} over {}", setting.fleet.name());
    if !output.json {
        print(&format!("one message to {scenario}"), &values);
    }
    output.row("fanout", &scenario, Some(&plan_hash), values)
}

fn through_broker(
    side: &mut BrokerSide,
    connections: u32,
    payload: &[u8],
) -> anyhow::Result<Measured> {
    let before_ns = side.cpu_ns()?;
    side.fleet.expect(connections.into(), QUIET_MS)?;
    let begun_ns = monotonic_ns();
    side.control.push_to_topic(TopicId::ALL, payload)?;
    let received = all_of(&mut side.fleet, connections, "the broker")?;
    side.control.wait_for_account(connections.into())?;
    Ok(measured(connections, begun_ns, &received, side.cpu_ns()? - before_ns))
}

fn from_floor(
    floor: &mut FloorSide,
    connections: u32,
    payload: &[u8],
    seq: u64,
) -> anyhow::Result<Measured> {
    let mut frame = Vec::new();
    Downlink::Broadcast { seq: hawser_codec::ids::Seq(seq), payload }.encode(&mut frame);
    let before_ns = floor.cpu_ns()?;
    floor.fleet.expect(connections.into(), QUIET_MS)?;
    let begun_ns = monotonic_ns();
    floor.fan_out(&frame)?;
    let received = all_of(&mut floor.fleet, connections, "the bare server")?;
    floor.fanned_out()?;
    Ok(measured(connections, begun_ns, &received, floor.cpu_ns()? - before_ns))
}

fn all_of(fleet: &mut Fleet, connections: u32, whose: &str) -> anyhow::Result<Received> {
    let received = fleet.received()?;
    let messages = received.messages;
    if messages != u64::from(connections) {
        let net = fleet.count()?.net;
        bail!(
            "{messages} of {connections} messages from {whose} arrived; the fleet's counts: {net:?}"
        );
    }
    Ok(received)
}

fn measured(connections: u32, begun_ns: u64, received: &Received, cpu_ns: u64) -> Measured {
    let messages = f64::from(connections);
    let seconds = (received.last_ns - begun_ns) as f64 / 1e9;
    Measured { rate: messages / seconds, cpu_ns: cpu_ns as f64 / messages }
}
