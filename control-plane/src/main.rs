//! `hawser-control`: one control node. See `--help` and `hawser-control.toml`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use hawser_control::config::Config;
use hawser_control::server;
use hawser_kv::descriptors;
use hawser_kv::shared::Stopped;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Accepts, stores and routes messages for hawser's devices.
#[derive(Parser)]
#[command(name = "hawser-control", version)]
struct Arguments {
    /// The configuration file; without it every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key for this run, such as --set listen_api=127.0.0.1:0. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Reads and checks everything, starts nothing.
    #[arg(long)]
    check_config: bool,
    /// Prints the configuration that would be run with.
    #[arg(long)]
    print_config: bool,
}

/// 0: stopped as asked. 1: its own store has panicked, and a restart helps. 2: something must be changed
/// before it can start. One line says what.
fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hawser-control: {error:#}");
            ExitCode::from(if error.is::<Stopped>() { 1 } else { 2 })
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref(), &arguments.set)?;
    if arguments.print_config {
        print!("{}", config.print());
        return Ok(());
    }
    let plan = config.plan(|name| std::env::var(name).ok())?;
    let open_files_max =
        descriptors::raise_limit().context("cannot raise the limit of open files")?;
    plan.check_open_files(open_files_max)?;
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| anyhow::anyhow!("log = {:?}: {error}", config.log))?;
    if arguments.check_config {
        println!("the configuration is good");
        return Ok(());
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(server::run(plan));
    // A store that is still being opened is not waited for: what it does can be cut off anywhere.
    runtime.shutdown_background();
    result
}
