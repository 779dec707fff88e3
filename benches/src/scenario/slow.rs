//! Some devices stop reading: what the others feel.

use anyhow::ensure;
use serde_json::{Value, json};

use super::print;
use super::side::{Measured, Side, singles};
use super::stage::{BrokerSide, FloorSide, Setting};
use crate::process::memory;
use crate::results::Output;

const CONNECTIONS: u32 = 20_000;

/// Between ten and twenty fill a socket.
const PAYLOAD_BYTES: usize = 1_000;

/// Linux gives twice this.
const SMALLEST_SEND_BUFFER: u32 = 4_096;

/// What has not come by then waits for a device that does not read.
const STALL_QUIET_MS: u64 = 5_000;
/// The kernel asks a closed window at intervals that double.
const RESUME_QUIET_MS: u64 = 30_000;

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Messages of 1,000 bytes go to all devices in turn at --rate, and latencies are taken (before_).
  Then --stalled devices stop reading: their connections stay, with no room. The same messages again:
  what the others feel is the difference. The broker's sockets have the smallest send buffers that the
  kernel gives, so that they are full after ten to twenty messages and the broker itself has to do
  with it (blocked): --rate times --seconds must be more than that for each connection. Then they read
  again, and everything that was for them must arrive.

  With --floor the same is done to the bare server with the same send buffers, after the broker has
  gone: the fields with floor_. It keeps nothing for anybody: what a full socket does not take is
  dropped, a connection that took half a frame is closed, and nobody reads again.

Examples:
  hawser-bench slow --connections 20000 --stalled 2000 --rate 20000 --floor")]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that stop reading
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub stalled: u32,
    /// Messages a second
    #[arg(long, value_name = "PER_S", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    /// How long messages are sent: once to warm up, once before and once after they stop reading
    #[arg(long, value_name = "S", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// The same with the bare server, after the broker has gone
    #[arg(long)]
    pub floor: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, stalled, rate, floor, .. } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    ensure!(*stalled < connections, "--stalled {stalled} leaves none of {connections} reading");
    setting.enter(connections)?;
    let mut setting = setting.clone();
    setting.settings.insert(0, format!("send_buffer_bytes={SMALLEST_SEND_BUFFER}"));
    let setting = &setting;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let pid = side.broker.id();
    let Felt { before, during, growth_bytes } = felt(&mut side, pid, arguments)?;
    let before = before.whole(&mut side)?;
    let blocked = side.broker.metric("hawser_broker_blocked")?;
    ensure!(
        blocked > 0.0,
        "no socket was full, so the broker had nothing to do with it: choose more --seconds"
    );
    let held_back = during.sent.saturating_sub(during.arrived);
    side.fleet.expect_resuming(held_back, RESUME_QUIET_MS, *stalled)?;
    let after = side.fleet.received()?;
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": side.name(),
        "connections": connections,
        "stalled": stalled,
        "rate": rate,
        "sent": during.sent,
        "received": during.arrived,
        "held_back": held_back,
        "blocked": blocked,
        "received_after": after.messages,
        "lost": side.fleet.count()?.lost,
        "memory_growth_bytes": growth_bytes,
    });
    before.latency.put("before_", &mut values);
    during.latency.put("", &mut values);
    let plan_hash = side.broker.plan_hash.clone();
    drop(side);
    // What was seen of the broker is recorded, whatever becomes of the floor.
    let floored = match floor {
        true => put_floor(setting, connections, arguments, &mut values),
        false => Ok(()),
    };
    let scenario = format!("{stalled} of {connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("slow, {scenario}"), &values);
    }
    output.row("slow", &scenario, Some(&plan_hash), values)?;
    let came = after.messages;
    ensure!(came >= held_back, "{came} of the {held_back} messages that waited came in the end");
    floored
}

/// The same at the bare server.
fn put_floor(
    setting: &Setting,
    connections: u32,
    arguments: &Arguments,
    values: &mut Value,
) -> anyhow::Result<()> {
    let mut floor = FloorSide::with_send_buffer(setting, connections, SMALLEST_SEND_BUFFER)?;
    floor.open_all(connections)?;
    let pid = floor.id();
    let Felt { before, during, growth_bytes } = felt(&mut floor, pid, arguments)?;
    ensure!(during.arrived < during.sent, "no socket of the floor was full: choose more --seconds");
    values["floor_before_received"] = json!(before.arrived);
    values["floor_received"] = json!(during.arrived);
    values["floor_memory_growth_bytes"] = json!(growth_bytes);
    before.latency.put("floor_before_", values);
    during.latency.put("floor_", values);
    Ok(())
}

/// The same messages before some stop reading, and then.
struct Felt {
    before: Measured,
    during: Measured,
    /// What the server's memory has grown by meanwhile.
    growth_bytes: i64,
}

fn felt(side: &mut dyn Side, pid: u32, arguments: &Arguments) -> anyhow::Result<Felt> {
    let Arguments { stalled, rate, seconds, .. } = *arguments;
    let (rate, count) = (u64::from(rate), u64::from(rate) * u64::from(seconds));
    let pushed = |side: &mut dyn Side| singles(side, count, rate, PAYLOAD_BYTES, STALL_QUIET_MS);
    // Once without counting: code, caches and buffers.
    pushed(side)?;
    let before = pushed(side)?;
    side.fleet().stall(stalled)?;
    let calm = memory(pid)?.resident;
    let during = pushed(side)?;
    let growth_bytes = memory(pid)?.resident as i64 - calm as i64;
    Ok(Felt { before, during, growth_bytes })
}
