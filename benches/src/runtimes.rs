//! The bare server on tokio, tokio-uring and glommio beside the one on io_uring: what a runtime costs
//! where there is nothing else. The servers are those of `benches/runtimes`, with hawser's devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::io::raise_descriptor_limit;
use crate::results::Output;
use crate::scenario::contest::{Contender, Contest, Length, Load};
use crate::scenario::stage::{FloorSide, Setting};

const METHOD: &str = "\
How it is measured:
  Each server runs alone on one processor, its devices on another. All are there at the same time and
  are measured in turn within each round. Memory is what the process shares with nobody, less what it
  had before anybody connected. A heartbeat is answered by the task or the slot of its connection; a
  fan-out is a loop over all.

  The servers come from `cargo build --release --manifest-path benches/runtimes/Cargo.toml`. They are
  looked for beside this program, and in benches/runtimes/target/release. One that is missing is left
  out.

Examples:
  hawser-bench runtimes
  hawser-bench runtimes --connections 5000 --binaries /var/tmp/target/release";

const BINARIES: [&str; 3] = ["bare-tokio", "bare-tokio-uring", "bare-glommio"];

const BUILT: &str = "benches/runtimes/target/release";

/// What a server opens beside its connections.
const DESCRIPTORS_BESIDE: u64 = 512;

const LOADS: [Load; 4] = [Load::ConnTcp, Load::Ping, Load::Fanout, Load::P2p];

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Connections to each server
    #[arg(long, value_name = "N", default_value_t = 15_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// The folder of the servers
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    #[command(flatten)]
    length: Length,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { connections, length, .. } = arguments;
    let setting = Setting::over_sockets(length.connect_window, length.quiet_s, None);
    let sides = 1 + BINARIES.len() as u64;
    ensure!(
        setting.fits(*connections, sides)?,
        "memory does not hold {connections} connections for each of {sides} servers: choose fewer"
    );
    let limit = raise_descriptor_limit()?;
    ensure!(
        u64::from(*connections) + DESCRIPTORS_BESIDE <= limit,
        "a process may open {limit} files here and {connections} connections need one each: choose \
         fewer, or raise the limit (ulimit -Hn)"
    );
    let bare = FloorSide::start(&setting, *connections)?;
    let mut contenders = vec![Contender::new(Box::new(bare), "hawser", None)];
    for binary in BINARIES {
        let Some(program) = find(binary, arguments.binaries.as_deref()) else {
            eprintln!(
                "hawser-bench: {binary} is left out: `cargo build --release --manifest-path \
                 benches/runtimes/Cargo.toml` builds it; --binaries says where it is"
            );
            continue;
        };
        let server = FloorSide::of(&program, &[], version(&program)?, &setting, *connections)?;
        contenders.push(Contender::new(Box::new(server), "hawser", None));
    }
    ensure!(contenders.len() > 1, "none of the runtimes' servers is there; see above");
    let contest =
        Contest { command: "runtimes", connections: *connections, length, rate: 0, output };
    contest.run(contenders, &LOADS)
}

/// A program of `benches/runtimes`, if it is built.
pub fn find(binary: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let candidates = match folder {
        Some(folder) => vec![folder.join(binary)],
        None => {
            let beside = std::env::current_exe().map(|own| own.with_file_name(binary)).ok();
            beside.into_iter().chain([Path::new(BUILT).join(binary)]).collect()
        }
    };
    candidates.into_iter().find(|program| program.is_file())
}

/// The runtime and its version, which the server says.
fn version(program: &Path) -> anyhow::Result<String> {
    let said = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    let has_version = said.split_once(' ').is_some_and(|(_, version)| !version.is_empty());
    ensure!(has_version, "{} --version said {said:?}: build it anew", program.display());
    Ok(said)
}
