//! Many devices lose their connections at once and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::side::Side;
use super::stage::{BrokerSide, FloorSide, Setting};
use super::{print, say};
use crate::fleet::command::Limits;
use crate::process::memory;
use crate::results::Output;

const CONNECTIONS: u32 = 100_000;

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Beside --connections bystanders as many devices are connected as --devices says. These lose their
  connections with a reset each, all at once, and dial again at once, without pause: the worst that a
  network that comes back can do. The time (back_s) is until the last is welcomed again; a connect's
  latency (accept_) runs from the first dial to the welcome. Bystanders must not lose theirs
  (bystanders_lost).

  With --floor the bare server then has the same storm: floor_back_s, floor_rate in devices a second,
  and ratio_to_floor, its time divided by the broker's.

Examples:
  hawser-bench storm --devices 1000000 --connections 100000
  hawser-bench storm --devices 100000 --connections 20000 --floor")]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that lose their connections
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub devices: u32,
    /// The same storm at the bare server, after the broker has gone
    #[arg(long)]
    pub floor: bool,
}

/// A storm in which nobody gets further for so long is over.
const STORM_QUIET_MS: u64 = 60_000;

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, devices, floor } = arguments;
    let bystanders = setting.connections()?.unwrap_or(CONNECTIONS);
    let total = devices.saturating_add(bystanders);
    setting.enter(total)?;
    let mut setting = setting.clone();
    // A connection may be made again before the broker knows that the last one is over.
    let connections_max = total.saturating_add(*devices);
    setting.settings.insert(0, format!("connections_max={connections_max}"));
    let setting = &setting;
    let mut side = BrokerSide::start(setting, total)?;
    side.open_all(total)?;
    let before = side.fleet.count()?;
    let calm = memory(side.broker.id())?.resident;
    let peak = Peak::watch(side.broker.id());
    say("the storm");
    let limits = Limits { quiet_ms: STORM_QUIET_MS, ..setting.limits() };
    side.fleet.storm(*devices, limits)?;
    let back = side.fleet.back()?;
    let peak = peak.end();
    let after = side.fleet.count()?;
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": devices,
        "bystanders": bystanders,
        "connections_max": connections_max,
        "left": back.left,
        "back": back.back,
        "stopped": back.stopped,
        "back_s": back.seconds,
        "back_per_s": (back.back as f64 / back.seconds).round(),
        "bystanders_lost": after.lost - before.lost,
        "online_after": after.online,
        "memory_before_bytes": calm,
        "memory_peak_bytes": peak,
        "closes": after.closes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "net": after.net.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    back.connect.put("accept_", &mut values);
    let plan_hash = side.broker.plan_hash.clone();
    let ended = side.all_back(back.stopped);
    drop(side);
    // What was seen of the broker is recorded, whatever becomes of the floor.
    let ended = ended.and_then(|()| match floor {
        true => put_floor(setting, total, *devices, limits, back.seconds, &mut values),
        false => Ok(()),
    });
    let scenario = format!("{devices} of {total} over {}", setting.fleet.name());
    if !output.json {
        print(&format!("storm, {scenario}"), &values);
    }
    output.row("storm", &scenario, Some(&plan_hash), values)?;
    ended
}

/// The same storm at the bare server; `back_s` is the broker's.
fn put_floor(
    setting: &Setting,
    total: u32,
    devices: u32,
    limits: Limits,
    back_s: f64,
    values: &mut Value,
) -> anyhow::Result<()> {
    let mut floor = FloorSide::start(setting, total)?;
    floor.open_all(total)?;
    floor.fleet.storm(devices, limits)?;
    let bare = floor.fleet.back()?;
    ensure!(bare.back == bare.left, "{} of {} came back to the floor", bare.back, bare.left);
    values["floor_back_s"] = json!(bare.seconds);
    values["floor_rate"] = json!((bare.back as f64 / bare.seconds).round());
    values["ratio_to_floor"] = json!(bare.seconds / back_s);
    bare.connect.put("floor_accept_", values);
    Ok(())
}

/// The most memory that a process had while this watched.
struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    fn watch(pid: u32) -> Peak {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = memory(pid).map_or(most, |memory| most.max(memory.resident));
                std::thread::sleep(Duration::from_millis(250));
            }
            most
        });
        Peak { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it only reads")
    }
}
