//! What it takes to hold connections: set-up rate, memory by where it is, processor time of idling.

use std::time::{Duration, Instant};

use hawser_broker::plan::Memory;
use serde_json::{Value, json};

use super::print;
use super::stage::{BrokerSide, Setting};
use crate::fleet::command::Pace;
use crate::fleet::handle::Kind;
use crate::kernel_memory::Slabs;
use crate::process::{cpu_ns, memory};
use crate::results::Output;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// How long the idle broker is watched
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub idle_s: u64,
}

const CONNECTIONS: u32 = 1_000_000;

/// Heartbeats that are under way at a time when all devices are checked.
const CHECK_WINDOW: u32 = 4096;

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let setting = &arguments.setting;
    let connections = setting.connections.unwrap_or(CONNECTIONS);
    setting.enter(connections)?;
    let mut stage = BrokerSide::start(setting, connections)?;
    let (empty, slabs, free) =
        (memory(stage.broker.id())?, Slabs::settled()?, Memory::read()?.free_bytes);
    let cpu_before_ns = cpu_ns(stage.broker.id())?;
    let opened = stage.open(connections)?;
    let setup_cpu_ns =
        (cpu_ns(stage.broker.id())? - cpu_before_ns) as f64 / f64::from(opened.online);
    let checked = stage.fleet.ping(opened.online.into(), Pace::Window(CHECK_WINDOW))?;

    let full = memory(stage.broker.id())?;
    let kernel = Slabs::settled()?.per_connection(&slabs, opened.online);
    let free_full = Memory::read()?.free_bytes;
    let (idle_from, idle_ns) = (Instant::now(), cpu_ns(stage.broker.id())?);
    std::thread::sleep(Duration::from_secs(arguments.idle_s));
    let idle_ns = cpu_ns(stage.broker.id())? - idle_ns;
    let idle_percent = 100.0 * idle_ns as f64 / idle_from.elapsed().as_nanos() as f64;

    // Still pushing and answering.
    let pushes = u64::from(opened.online.min(100_000));
    stage.fleet.expect(pushes, 10_000)?;
    stage.control.push(pushes, 0, 64)?;
    let received = stage.fleet.received()?;
    let counted = stage.fleet.count()?;

    let per = |bytes: u64| (bytes as f64 / f64::from(opened.online)).round();
    let kernel_bytes: f64 = kernel.values().map(|cache| cache.bytes).sum();
    let by_cache: serde_json::Map<String, Value> = kernel
        .iter()
        .filter(|(_, cache)| cache.bytes >= 1.0)
        .map(|(name, cache)| (name.clone(), json!(cache.bytes.round())))
        .collect();
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "established": opened.online,
        "ready": opened.ready,
        "verified": checked.answered,
        "lost": counted.lost,
        "stopped": opened.stopped,
        "tickets": setting.tickets.name(),
        "user_bytes_per_conn": per(full.resident.saturating_sub(empty.resident)),
        "user_bytes_per_conn_with_all": per(full.resident),
        "kernel_by_cache": by_cache,
        "fleet_bytes_per_conn": per(counted.memory_bytes),
        "all_bytes_per_conn": per(free.saturating_sub(free_full)),
        "setup_per_s": (f64::from(opened.online) / opened.seconds).round(),
        "setup_curve": opened.curve,
        "setup_cpu_ns": setup_cpu_ns.round(),
        "heartbeats_per_s": (checked.answered as f64 / checked.seconds).round(),
        "idle_cpu_percent": idle_percent,
        "pushed": pushes,
        "received": received.messages,
        "memory_free_min_bytes": free_full,
        "net": counted.net.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "closes": counted.closes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    // Over sockets the devices' ends are in it too.
    let name = match setting.fleet {
        Kind::Tun => "kernel_bytes_per_conn",
        Kind::Sockets => "kernel_bytes_per_pair",
    };
    values[name] = json!(kernel_bytes.round());
    let scenario = format!("{connections} over {}", setting.fleet.name());
    if !output.json {
        print(&format!("connections, {scenario}"), &values);
    }
    output.row("connections", &scenario, Some(&stage.broker.plan_hash), values)
}
