//! Other brokers under the loads that hawser's is measured with, in one run: they are started with
//! the settings that their documents advise for speed, on the processor where hawser's broker runs,
//! and get the same number of devices, which speak MQTT to them.

use std::path::PathBuf;

use anyhow::{bail, ensure};

use crate::fleet::tun::DEVICES_MAX;
use crate::io::raise_descriptor_limit;
use crate::results::Output;
use crate::scenario::contest::{Contender, Contest, Length, Load, PUBLISHERS};
use crate::scenario::stage::{BrokerSide, FloorSide, Setting};
use crate::scenario::target::TargetSide;
use server::{Name, Peer};

mod server;

const METHOD: &str = "\
How it is measured:
  Each server runs alone on one processor, without persistence, logs or encryption; what devices and
  publishers do is on another. All servers and their devices are there at the same time and are
  measured in turn within each round. The exact settings stand in each row (server_config).

  hawser's devices speak hawser's protocol and its control end writes to its link; the others' speak
  MQTT 3.1.1 with clean sessions, subscribed to `all` and to a topic of their own, and a publisher
  sends over one connection. Memory is what the process shares with nobody, less what it had before
  anybody connected. A message that does not arrive at QoS 0 is counted, not repeated.

  The loads have EMQX's names where it has them: conn-tcp (connections), fanout, fanout-5-1000 (5
  publishers, 1,000 subscribers, each message to all) and p2p (single messages: the highest rate, the
  latencies at half of it, and those at one rate for all, half of the best other server's highest).

  Servers are installed with `.ci/setup bench`. One that is missing is left out.

Examples:
  hawser-bench peers --floor
  hawser-bench peers --servers hawser,mosquitto --load fanout-5-1000 --rate 50";

const CONNECTIONS: u32 = 15_000;

/// What a server opens beside its connections.
const DESCRIPTORS_BESIDE: u64 = 512;

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Connections to each server; without it 15,000, or 1,000 for fanout-5-1000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(DEVICES_MAX)))]
    connections: Option<u32>,
    /// Servers to measure, with commas between them
    #[arg(long, value_enum, value_delimiter = ',',
          default_values = ["hawser", "mosquitto", "nats-server", "rumqttd"])]
    servers: Vec<Name>,
    /// Measure the bare server as well
    #[arg(long)]
    floor: bool,
    /// What is done to each, with commas between them
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["conn-tcp", "fanout", "p2p"])]
    load: Vec<Load>,
    /// Messages a second, all publishers together, in fanout-5-1000
    #[arg(long, value_name = "PER_S", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// At which QoS MQTT devices subscribe and messages are published, 0 or 1
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=1))]
    qos: u8,
    #[command(flatten)]
    length: Length,
    /// The binary of hawser's broker; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    broker: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let connections = connections(arguments)?;
    let mut setting = Setting::over_sockets(
        arguments.length.connect_window,
        arguments.length.quiet_s,
        arguments.broker.clone(),
    );
    setting.speech.qos = arguments.qos;
    let sides = arguments.servers.len() as u64 + u64::from(arguments.floor);
    ensure!(
        setting.fits(connections, sides)?,
        "memory does not hold {connections} connections for each of {sides} servers: choose fewer"
    );
    let limit = raise_descriptor_limit()?;
    ensure!(
        u64::from(connections) + DESCRIPTORS_BESIDE <= limit,
        "a process may open {limit} files here and {connections} connections need one each: choose \
         fewer, or raise the limit (ulimit -Hn)"
    );
    let mut contenders = Vec::new();
    if arguments.floor {
        let floor = FloorSide::start(&setting, connections)?;
        contenders.push(Contender::new(Box::new(floor), "hawser", None));
    }
    for &name in &arguments.servers {
        contenders.extend(contender(name, &setting, arguments, connections)?);
    }
    ensure!(!contenders.is_empty(), "none of the servers is installed: run .ci/setup bench");
    let Arguments { length, rate, .. } = arguments;
    let contest = Contest { command: "peers", connections, length, rate: *rate, output };
    contest.run(contenders, &arguments.load)
}

fn connections(arguments: &Arguments) -> anyhow::Result<u32> {
    const OF_FANOUT_5_TO_1000: u32 = 1_000;
    let Arguments { connections, load, .. } = arguments;
    if !load.contains(&Load::Fanout5To1000) {
        return Ok(connections.unwrap_or(CONNECTIONS));
    }
    match connections {
        None | Some(OF_FANOUT_5_TO_1000) if load.len() == 1 => Ok(OF_FANOUT_5_TO_1000),
        _ => bail!("fanout-5-1000 has 1,000 connections: give it alone, without --connections"),
    }
}

/// A server that runs, if it is installed.
fn contender(
    name: Name,
    setting: &Setting,
    arguments: &Arguments,
    connections: u32,
) -> anyhow::Result<Option<Contender>> {
    if name == Name::Hawser {
        let side = BrokerSide::start(setting, connections)?;
        let config = side.config.clone();
        return Ok(Some(Contender::new(Box::new(side), "hawser", Some(config))));
    }
    let Some(program) = name.find() else {
        eprintln!("hawser-bench: {} is left out: {}", name.program(), name.how_to_install());
        return Ok(None);
    };
    let publishers = match arguments.load[..] {
        [Load::Fanout5To1000] => PUBLISHERS,
        _ => 1,
    };
    let Peer { daemon, version, config } = Peer::start(name, &program)?;
    let address = daemon.address;
    let side = TargetSide::start(setting, address, version, Some(daemon), connections, publishers)?;
    Ok(Some(Contender::new(Box::new(side), "mqtt", Some(config))))
}
