//! Devices leave and come back for a long time: what stays behind.

use serde_json::json;

use super::side::Side;
use super::stage::{BrokerSide, Setting};
use super::{print, say};
use crate::process::memory;
use crate::results::Output;

const CONNECTIONS: u32 = 100_000;

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Every second --rate devices leave: every other one closes in good order and dials again a moment
  later, the others reset and dial at once, for --minutes. The broker's memory is read before, and after all are back; what it
  has grown by must not grow with the minutes.

Examples:
  hawser-bench churn --connections 100000 --rate 1000 --minutes 60")]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that leave and come back, a second
    #[arg(long, value_name = "PER_S", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, rate, minutes } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    // Connections that are being closed take memory too.
    setting.enter(connections)?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    // One minute that does not count, in which pools come to their size.
    side.fleet.churn(*rate, 60, setting.limits())?;
    let warm = side.fleet.back()?;
    side.all_back(warm.stopped)?;
    let lost_before = side.fleet.count()?.lost;
    let mut curve = vec![memory(side.broker.id())?.anonymous];
    let (mut left, mut back, mut seconds, mut ended) = (0, 0, 0.0, Ok(()));
    for minute in 1..=*minutes {
        say(&format!("minute {minute} of {minutes}"));
        side.fleet.churn(*rate, 60, setting.limits())?;
        let one = side.fleet.back()?;
        (left, back, seconds) = (left + one.left, back + one.back, seconds + one.seconds);
        ended = side.all_back(one.stopped);
        if ended.is_err() {
            break;
        }
        curve.push(memory(side.broker.id())?.anonymous);
    }
    let counted = side.fleet.count()?;
    let (first, last) = (curve[0], curve[curve.len() - 1]);
    let values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "rate": rate,
        "seconds": seconds,
        "rate_reached": left as f64 / seconds,
        "left": left,
        "back": back,
        "lost": counted.lost - lost_before,
        "memory_before_bytes": first,
        "memory_after_bytes": last,
        "memory_growth_bytes": last as i64 - first as i64,
        "memory_curve_bytes": curve,
        "sessions_at_control": side.control.sessions(),
    });
    let scenario = format!("{connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("churn, {scenario}"), &values);
    }
    output.row("churn", &scenario, Some(&side.broker.plan_hash), values)?;
    ended
}
