//! The store as a program: what `hawser-kv` and `hawser kv start` have in common, which is all of it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Config, Server, descriptors};

/// The command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Settings as TOML; kvstore/hawser-kv.toml explains each
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, wins over the file; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Address for clients; 127.0.0.1:7379 unless set, empty for none
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Socket file for clients
    #[arg(long, value_name = "PATH")]
    unix: Option<String>,
    /// Directory of the data
    #[arg(long, value_name = "PATH")]
    dir: Option<String>,
    /// Address for /metrics and /health
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Give up what a damaged file of the write log holds from a byte on, and the files after it, and exit
    #[arg(long, value_name = "FILE@BYTE")]
    cut_log: Option<String>,
    /// Check the settings and exit
    #[arg(long)]
    check_config: bool,
    /// Print all settings and exit
    #[arg(long)]
    print_config: bool,
}

/// Runs the store until SIGTERM or SIGINT, or a panic of one of its threads, or does what the options ask
/// for instead.
pub fn run(options: &Options) -> anyhow::Result<()> {
    log_to_stderr();
    if let Some(place) = &options.cut_log {
        return cut_log(place);
    }
    let config = configured(options)?;
    if options.print_config {
        print!("{}", config.printed());
        return Ok(());
    }
    let open_files_max =
        descriptors::raise_limit().context("cannot raise the limit of open files")?;
    descriptors::check(&config, open_files_max)?;
    if options.check_config {
        println!("the configuration is good");
        return Ok(());
    }
    // Signals only: the server has its own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let server = Server::start(config)?;
        let tcp = server.address().map(|address| address.to_string());
        let unix = server.unix_path().map(|path| path.display().to_string());
        let places: Vec<String> = tcp.into_iter().chain(unix).collect();
        let mut line = format!("hawser-kv ready on {}", places.join(" "));
        if let Some(address) = server.admin_address() {
            line.push_str(&format!(" admin {address}"));
        }
        println!("{line}");
        std::io::stdout().flush()?;
        let panicked = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            why = server.panicked() => Some(why),
        };
        server.stop().await;
        panicked.map_or(Ok(()), |why| Err(why.into()))
    })
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn cut_log(place: &str) -> anyhow::Result<()> {
    let parts = place.rsplit_once('@').and_then(|(file, byte)| Some((file, byte.parse().ok()?)));
    let (file, byte) = parts.context("--cut-log needs FILE@BYTE, as the error message has it")?;
    for cut in Server::cut_log(Path::new(file), byte)? {
        println!(
            "{}: {} bytes given up from byte {} on",
            cut.path.display(),
            cut.bytes,
            cut.offset
        );
    }
    Ok(())
}

fn configured(options: &Options) -> anyhow::Result<Config> {
    let text = match &options.config {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?,
        None => String::new(),
    };
    let quoted = |name: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!("{name}={}", toml::Value::String(value.clone())))
    };
    let mut sets = options.set.clone();
    sets.extend(quoted("listen", &options.listen));
    sets.extend(quoted("unix", &options.unix));
    sets.extend(quoted("dir", &options.dir));
    sets.extend(quoted("admin", &options.admin));
    Ok(Config::parse(&text, &sets)?)
}
