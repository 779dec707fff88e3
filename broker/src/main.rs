//! `hawser-broker`: the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hawser_broker::config::Config;
use hawser_broker::plan::{Machine, Plan};
use hawser_broker::server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Holds device connections and gets messages to them.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file; without one, every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Puts one key over the file; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Checks the configuration and whether this machine can hold it, prints the plan, and ends.
    #[arg(long)]
    check_config: bool,

    /// Prints the configuration in force, secrets excluded, and ends.
    #[arg(long)]
    print_config: bool,
}

const EXAMPLES: &str = "\
Examples:
  HAWSER_LINK_KEY=$(openssl rand -hex 32) hawser-broker
  hawser-broker --config /etc/hawser/broker.toml
  hawser-broker --set listen=0.0.0.0:7400 --set connections_max=1000000 --check-config
  hawser-broker --set control= --set listen=127.0.0.1:0 --set admin=127.0.0.1:0
  curl http://127.0.0.1:7401/metrics

Signals:
  SIGTERM, SIGINT   drain: send the devices elsewhere, close, end with 0; again: end at once

Exit codes:
  0 after a drain, 1 when ended without one, 2 when it could not start";

/// Could not start: configuration, plan, port or kernel.
const COULD_NOT_START: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hawser-broker: {error}");
            ExitCode::from(COULD_NOT_START)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = Config::load(arguments.config.as_deref(), &arguments.settings)?;
    if arguments.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check_config {
        config.link_key()?;
        config.control_addresses()?;
        println!("{}", Plan::new(&config, &Machine::read()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(server::run(&config)?)
}
