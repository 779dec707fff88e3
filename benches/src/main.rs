//! hawser's benchmarks. Each compares with something measured in the same run: another codec, a
//! bare loop over as many connections, other brokers, other runtimes. Absolute numbers drift between
//! runs; ratios hold.
//!
//! | command | question | compared with |
//! |---|---|---|
//! | `connections` | what does it take to hold N connections, and how fast do they come | the bare server |
//! | `fanout`, `push`, `heartbeat`, `uplink` | what rate, and at what latency | the bare server |
//! | `storm`, `churn`, `slow` | what happens when devices go, come, or stop reading | the same before it, the bare server |
//! | `peers` | what do other brokers need for the same loads | mosquitto, nats-server, rumqttd |
//! | `runtimes` | what would the same loop cost on another runtime | tokio, tokio-uring, glommio |
//! | `tune` | what does each family of host settings do for a broker | the same network as the kernel makes it |
//! | `kv` | what does the store carry, durable and not | redis-server |
//! | `log` | what does appending to a log on the disk cost | other ways to write and sync |
//! | `soak` | does the store stay right and bounded for a long time | its configuration |
//! | `codec` | what do encode and decode cost, and how many bytes | XMPP, MQTT 5, JSON |
//! | `instructions` | what do the broker's decisions cost, in instructions | the recorded counts |
//! | `system` | what does the whole system carry, and through a kill -9 | itself, undisturbed |
//!
//! Where to start reading: `scenario/` says what is done, `fleet/` is the devices, `bare/` the floor.
//!
//! Every run appends rows to `benches/results/<command>.jsonl`: when, commit, kernel, processor,
//! scenario, values. `--json` prints the last row's values instead of a table. `report` makes a page
//! of the rows, `compare` says what two sets of them differ in.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use scenario::questions;

mod bare;

mod codec;

mod compare;

mod control_end;

mod fleet;

mod folder;

mod figure;

mod instructions;

mod io;

mod kernel_memory;

mod kv;

mod log;

mod mqtt;

mod peers;

mod process;

mod progress;

mod report;

mod results;

mod rows;

mod runtimes;

mod scenario;

mod soak;

mod spread;

mod system;

mod tickets;

mod tuned;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: &str = "\
Where to start:
  `make build` leaves this program beside the hawser-broker that it starts and measures. Devices come
  over a TUN device in a network of its own, which needs root; --fleet sockets does without.

  hawser-bench connections --connections 100000       what an idle connection costs
  hawser-bench push --connections 100000 --floor      rates and latencies, beside the bare server
  hawser-bench report                                 a page of all rows that were recorded

  hawser-bench COMMAND --help                         how each is measured, with examples";

#[derive(Parser)]
#[command(
    name = "hawser-bench",
    version,
    about = "Measures hawser beside a floor, a bare server that does the same in the same run",
    after_help = START
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: results::Output,
}

#[derive(Subcommand)]
enum Command {
    /// Encode, decode and size of the same messages in hawser's codec, XMPP, MQTT 5 and JSON
    Codec(codec::Arguments),
    /// Hold connections: set-up rate, memory by where it is, cost of idling
    Connections(scenario::connections::Arguments),
    /// One message to all devices
    Fanout(scenario::fanout::Arguments),
    /// Single messages: the highest rate, and the latencies below it
    Push(scenario::push::Arguments),
    /// Heartbeats: the highest rate, and the latencies below it
    Heartbeat(scenario::questions::Arguments),
    /// Pulls of devices, which go to the control node and back
    Uplink(scenario::questions::Arguments),
    /// Many devices lose their connections at once and come back
    Storm(scenario::storm::Arguments),
    /// Devices leave and come back for a long time
    Churn(scenario::churn::Arguments),
    /// Some devices stop reading: what the others feel
    Slow(scenario::slow::Arguments),
    /// Other brokers under the same loads, beside hawser's
    Peers(peers::Arguments),
    /// The bare server on other runtimes, beside the one on io_uring
    Runtimes(runtimes::Arguments),
    /// The store beside redis-server
    Kv(kv::Arguments),
    /// Ways to append to a log so that it is on the disk
    Log(log::Arguments),
    /// The store under mixed load for a long time: right answers, bounded memory and files
    Soak(soak::Arguments),
    /// What `hawser tune` does for a broker, family by family, before and after
    Tune(tuned::Arguments),
    /// The whole system under load, undisturbed and with a kill -9 in the middle
    System(system::Arguments),
    /// Instructions of a connect, a heartbeat and a message in the broker, counted by callgrind
    Instructions(instructions::Arguments),
    /// A page with tables and plots of the recorded rows
    Report(report::Arguments),
    /// What the rows of two files, commits or runs differ in
    Compare(compare::Arguments),
    /// What `instructions` counts
    #[command(hide = true)]
    Counted(instructions::Counted),
    /// The devices of the other benchmarks
    #[command(hide = true)]
    Fleet(fleet::child::Arguments),
    /// The server without sessions that the others are compared with
    #[command(hide = true)]
    Bare(bare::Arguments),
    /// One run of `tune`
    #[command(hide = true)]
    Tuned(tuned::run::Arguments),
    /// Removes a folder of a run when that ends
    #[command(hide = true)]
    Remove(folder::Arguments),
}

/// A run failed.
const FAILED: u8 = 1;

/// There is nothing to compare, or it may not be compared.
const NOT_COMPARABLE: u8 = 2;

fn main() -> ExitCode {
    let Arguments { command, output } = Arguments::parse();
    let done = match command {
        Command::Codec(arguments) => codec::run(&arguments, &output),
        Command::Connections(arguments) => scenario::connections::run(&arguments, &output),
        Command::Fanout(arguments) => scenario::fanout::run(&arguments, &output),
        Command::Push(arguments) => scenario::push::run(&arguments, &output),
        Command::Heartbeat(arguments) => questions::heartbeat(&arguments, &output),
        Command::Uplink(arguments) => questions::uplink(&arguments, &output),
        Command::Storm(arguments) => scenario::storm::run(&arguments, &output),
        Command::Churn(arguments) => scenario::churn::run(&arguments, &output),
        Command::Slow(arguments) => scenario::slow::run(&arguments, &output),
        Command::Peers(arguments) => peers::run(&arguments, &output),
        Command::Runtimes(arguments) => runtimes::run(&arguments, &output),
        Command::Kv(arguments) => kv::run(&arguments, &output),
        Command::Log(arguments) => log::run(&arguments, &output),
        Command::Soak(arguments) => soak::run(&arguments, &output),
        Command::Tune(arguments) => tuned::run(&arguments, &output),
        Command::System(arguments) => system::run(&arguments, &output),
        Command::Instructions(arguments) => instructions::run(&arguments, &output),
        Command::Report(arguments) => report::run(&arguments, &output),
        Command::Compare(arguments) => compare::run(&arguments, &output),
        Command::Counted(arguments) => instructions::counted(&arguments),
        Command::Fleet(arguments) => fleet::child::run(&arguments),
        Command::Bare(arguments) => bare::run(&arguments),
        Command::Tuned(arguments) => tuned::run::run(&arguments),
        Command::Remove(arguments) => folder::remove(&arguments),
    };
    output.finish();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hawser-bench: {error:#}");
            ExitCode::from(if error.is::<compare::Refused>() { NOT_COMPARABLE } else { FAILED })
        }
    }
}
