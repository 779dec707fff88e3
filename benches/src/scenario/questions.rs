//! What devices ask: `heartbeat`, answered by the broker alone, and `uplink`, a pull that goes to the
//! control node and back.

use anyhow::ensure;

use super::rates::{self, Load};
use crate::results::Output;

pub const METHOD: &str = "\
How it is measured:
  Highest rate: devices ask one after the other, with --window of them waiting for an answer at a
  time, in rounds, with the bare server's in between if --floor is given.

  Latency: an open loop. Question k is due k/R after the start; its time runs from when it was due
  until the device has read the answer. cpu_percent is the processor time of the broker meanwhile;
  cpu_over_percent is what of it is above the questions' own cost at the highest rate: waking up.
  A million devices with heartbeats every five minutes are `--connections 1000000 --rate 3333`.

  server_cpu_percent, fleet_cpu_percent and control_cpu_percent are of one processor at the highest
  rate, those with paced_ at the row's. bound_by fleet: the processor of the fleet and the control end
  was full and the server's was not, so the server could do more.

  A pull's floor is a heartbeat to the bare server, which has no control node behind it.

Examples:
  hawser-bench heartbeat --connections 1000000 --floor
  hawser-bench uplink --connections 100000 --rate 20000";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    rates: rates::Arguments,
    /// Devices that wait for an answer at a time when the highest rate is looked for
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
}

pub fn heartbeat(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    of_broker(arguments)?;
    rates::run(Load::Heartbeat { window: arguments.window }, &arguments.rates, output)
}

pub fn uplink(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    of_broker(arguments)?;
    rates::run(Load::Uplink { window: arguments.window }, &arguments.rates, output)
}

fn of_broker(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        arguments.rates.setting.running()?.is_none(),
        "--target HOST:PORT is for connections, fanout and push; this needs hawser's broker"
    );
    Ok(())
}
