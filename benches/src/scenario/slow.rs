//! Some devices stop reading: what the others feel.

use anyhow::ensure;
use serde_json::json;

use super::print;
use super::side::Side;
use super::stage::{BrokerSide, Setting};
use crate::fleet::command::Received;
use crate::process::memory;
use crate::results::Output;

const CONNECTIONS: u32 = 20_000;

/// A dozen fill a socket.
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
  Messages go to all devices in turn at --rate, and latencies are taken. Then --stalled devices stop
  reading: their connections stay, with no room. The same messages again: what the others feel is the
  difference. The broker's sockets have the smallest send buffers that the kernel gives, so that they
  are full after a few messages and the broker itself has to do with it (blocked). Then they read
  again, and everything that was for them must arrive.

Examples:
  hawser-bench slow --connections 20000 --stalled 2000 --rate 20000")]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that stop reading
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub stalled: u32,
    /// Messages a second
    #[arg(long, value_name = "PER_S", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, stalled, rate, seconds } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    ensure!(*stalled < connections, "--stalled {stalled} leaves none of {connections} reading");
    setting.enter(connections)?;
    let mut setting = setting.clone();
    setting.settings.insert(0, format!("send_buffer_bytes={SMALLEST_SEND_BUFFER}"));
    let setting = &setting;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let count = u64::from(*rate) * u64::from(*seconds);
    pushed(&mut side, count, *rate)?;
    let before = pushed(&mut side, count, *rate)?;
    ensure!(before.messages == count, "{} of {count} arrived before", before.messages);
    side.fleet.stall(*stalled)?;
    let calm = memory(side.broker.id())?.resident;
    let during = pushed(&mut side, count, *rate)?;
    let full = memory(side.broker.id())?.resident;
    let blocked = side.broker.metric("hawser_broker_blocked")?;
    ensure!(
        blocked > 0.0,
        "no socket was full, so the broker had nothing to do with it: choose more --seconds"
    );
    let missing = count.saturating_sub(during.messages);
    side.fleet.expect_resuming(missing, RESUME_QUIET_MS, *stalled)?;
    let after = side.fleet.received()?;
    let counted = side.fleet.count()?;
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "stalled": stalled,
        "rate": rate,
        "sent": count,
        "received": during.messages,
        "held_back": missing,
        "blocked": blocked,
        "received_after": after.messages,
        "lost": counted.lost,
        "memory_growth_bytes": full as i64 - calm as i64,
    });
    before.latency.put("before_", &mut values);
    during.latency.put("", &mut values);
    let scenario = format!("{stalled} of {connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("slow, {scenario}"), &values);
    }
    output.row("slow", &scenario, Some(&side.broker.plan_hash), values)
}

fn pushed(side: &mut BrokerSide, count: u64, rate: u32) -> anyhow::Result<Received> {
    side.fleet.expect(count, STALL_QUIET_MS)?;
    side.control.push(count, rate.into(), PAYLOAD_BYTES)?;
    side.fleet.received()
}
