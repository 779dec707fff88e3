//! Single messages to single devices while many are held: the highest rate, and the latencies at
//! given ones.

use super::rates::{self, Load};
use crate::results::Output;

pub const METHOD: &str = "\
How it is measured:
  Highest rate: as many messages as the link takes, in rounds, with the bare server's in between if
  --floor is given. Each message is a frame of its own on the link, to another session; the bare
  server makes the same frames for as many sockets by itself.

  Latency: an open loop. Message k is due k/R after the start, whatever became of the others; its time
  runs from when it was due until the device has read it, so waiting behind a slow one counts. Times
  are taken on one clock, in the control end (before the link frame is written) and in the fleet. The
  rates are a quarter, a half and three quarters of the highest (of the bare server's, with --floor),
  unless --rate gives one. Both servers are warmed at each rate, and change places from one to the next.

  server_cpu_percent, fleet_cpu_percent and control_cpu_percent are of one processor at the highest
  rate, those with paced_ at the row's. bound_by fleet: the processor of the fleet and the control end
  was full and the server's was not, so the server could do more.

Examples:
  hawser-bench push --connections 1000000 --floor
  hawser-bench push --connections 100000 --rate 50000 --json
  hawser-bench push --connections 15000 --target broker.example:1883 --protocol mqtt";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    rates: rates::Arguments,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(8..=4096))]
    payload: u16,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    rates::run(Load::Push { payload_bytes: arguments.payload }, &arguments.rates, output)
}
