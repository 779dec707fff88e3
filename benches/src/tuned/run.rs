//! One run: a network as the kernel makes it, what `hawser-tune` sets in it, a broker and its devices.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::fleet::handle::Kind;
use crate::io::{self, namespace};
use crate::kernel_memory::Slabs;
use crate::process::memory;
use crate::scenario::side::{Side, one_to_all, singles};
use crate::scenario::stage::{BrokerSide, Setting, processors};
use crate::spread::median;

/// Messages of the highest rate, and those before it that are not counted.
const PUSHES: u64 = 200_000;
const WARM_UP: u64 = 50_000;
const TO_ALL: usize = 3;
/// Devices that are connecting at a time: twice what the kernel's own accept queue holds.
const CONNECT_WINDOW: u32 = 8_192;
const PAYLOAD_BYTES: usize = 64;

/// What does not arrive within this is lost.
const QUIET_MS: u64 = 30_000;
const QUIET_S: u64 = 60;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    connections: u32,
    #[arg(long)]
    family: Vec<String>,
    #[arg(long)]
    broker: PathBuf,
    #[arg(long)]
    tune: PathBuf,
    /// Say how many values changed, and measure nothing
    #[arg(long)]
    only_apply: bool,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Values that `hawser-tune` set in the namespace.
    pub changed: usize,
    setup_per_s: f64,
    push_per_s: f64,
    fanout_per_s: f64,
    user_bytes_per_conn: f64,
    kernel_bytes_per_conn: f64,
    sent_again: f64,
}

type Figure = (&'static str, fn(&Figures) -> f64);

/// As rows name them.
pub const FIGURES: [Figure; 6] = [
    ("setup_per_s", |figures| figures.setup_per_s),
    ("push_per_s", |figures| figures.push_per_s),
    ("fanout_per_s", |figures| figures.fanout_per_s),
    ("user_bytes_per_conn", |figures| figures.user_bytes_per_conn),
    ("kernel_bytes_per_conn", |figures| figures.kernel_bytes_per_conn),
    ("sent_again", |figures| figures.sent_again),
];

/// Prints the figures as a line of JSON.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    io::pin(&[processors()?.1])?;
    // A namespace's connection table is sized by the one it is made from, so both are tuned.
    namespace::enter_as_made()?;
    apply(arguments)?;
    namespace::enter_as_made()?;
    let changed = apply(arguments)?;
    let figures = match arguments.only_apply {
        true => Figures { changed, ..Figures::default() },
        false => Figures { changed, ..measure(arguments)? },
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// How many values `hawser-tune` changed.
fn apply(arguments: &Arguments) -> anyhow::Result<usize> {
    if arguments.family.is_empty() {
        return Ok(0);
    }
    let mut tuner = Command::new(&arguments.tune);
    tuner.args(["--json", "apply", "--connections"]).arg(arguments.connections.to_string());
    arguments.family.iter().for_each(|family| {
        tuner.args(["--only", family]);
    });
    let applied = tuner.stderr(Stdio::inherit()).output()?;
    ensure!(applied.status.success(), "hawser-tune could not apply; what it said is above");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&applied.stdout)?;
    Ok(rows.len())
}

fn measure(arguments: &Arguments) -> anyhow::Result<Figures> {
    let connections = arguments.connections;
    let broker = Some(arguments.broker.clone());
    let sockets = Setting::over_sockets(CONNECT_WINDOW, QUIET_S, broker);
    let setting = Setting { fleet: Kind::Tun, ..sockets };
    let mut side = BrokerSide::start(&setting, connections)?;
    let (slabs, empty) = (Slabs::settled()?, memory(side.broker.id())?.resident);
    let opened = side.open_all(connections)?;
    let full = memory(side.broker.id())?.resident;
    let kernel = Slabs::settled()?.per_connection(&slabs, connections);
    singles(&mut side, WARM_UP, 0, PAYLOAD_BYTES, QUIET_MS)?.whole(&mut side)?;
    let pushed = singles(&mut side, PUSHES, 0, PAYLOAD_BYTES, QUIET_MS)?.whole(&mut side)?;
    let mut to_all = Vec::new();
    for _ in 0..TO_ALL {
        let one = one_to_all(&mut side, connections, &[b'm'; PAYLOAD_BYTES], QUIET_MS)?;
        to_all.push(one.whole(&mut side)?.rate);
    }
    let lost = side.fleet().count()?.lost;
    ensure!(lost == 0, "{lost} connections were lost");
    Ok(Figures {
        changed: 0,
        setup_per_s: f64::from(connections) / opened.seconds,
        push_per_s: pushed.rate,
        fanout_per_s: median(to_all).unwrap_or_default(),
        user_bytes_per_conn: full.saturating_sub(empty) as f64 / f64::from(connections),
        kernel_bytes_per_conn: kernel.values().map(|cache| cache.bytes).sum(),
        sent_again: sent_again(Path::new("/proc/self/net/snmp"))?,
    })
}

/// Segments that this namespace's kernel sent again: RetransSegs of RFC 1213, as proc(5) shows it.
fn sent_again(path: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(path)?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next(), rows.next());
    let (names, values) = names.zip(values).context("the kernel's counts of TCP")?;
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let found = pairs.find(|(name, _)| *name == "RetransSegs").context("RetransSegs")?;
    Ok(found.1.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_again_stands_under_its_name() {
        let file = std::env::temp_dir().join(format!("hawser-snmp-{}", std::process::id()));
        std::fs::write(&file, "Ip: A\nIp: 1\nTcp: InSegs RetransSegs X\nTcp: 5 17 9\n").unwrap();
        assert_eq!(sent_again(&file).unwrap(), 17.0);
        std::fs::write(&file, "Tcp: InSegs\nTcp: 5\n").unwrap();
        assert!(sent_again(&file).is_err());
        std::fs::remove_file(&file).unwrap();
    }
}
