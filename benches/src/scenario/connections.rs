//! What it takes to hold connections: set-up rate, memory by where it is, processor time of idling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hawser_broker::plan;
use serde_json::{Value, json};

use super::control_node::ControlNode;
use super::print;
use super::side::Side;
use super::stage::{BrokerSide, FloorSide, Setting};
use crate::fleet::command::{Asked, Opened, Received};
use crate::fleet::handle::Kind;
use crate::kernel_memory::{Cache, Slabs};
use crate::process::{Memory, memory};
use crate::results::Output;
use crate::tickets::Signing;

pub const METHOD: &str = "\
How it is measured:
  A real hawser-broker with one shard is started, and a fleet connects: each device with a signed
  ticket of its own, which the broker verifies. Then every device sends a heartbeat that must be
  answered (verified), the idle broker is watched, and messages are pushed that must arrive.

  User space: resident memory of the broker (smaps_rollup) with all connections, minus that of the
  same broker before the first, divided by their number.
  Kernel: objects in use in /proc/slabinfo after, minus before, each with its share of what the slabs
  waste. Over --fleet tun the devices have no sockets, so it is the server's side alone; over sockets
  it is that of both ends.
  Set-up rate: connections over the time from the first dial to the last device that is ready.

Examples:
  hawser-bench connections --target 5000000 --json
  hawser-bench connections --connections 1000000 --tickets ed25519
  hawser-bench connections --connections 2000000 --tickets ed25519 --control-node
  hawser-bench connections --fleet sockets --connections 15000
  hawser-bench connections --connections 15000 --target broker.example:1883 --protocol mqtt";

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// How long the idle broker is watched
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub idle_s: u64,
    /// Run a real control node with its store, which holds a route for each session and pushes at
    /// the end, instead of the control end of this program
    #[arg(long)]
    pub control_node: bool,
    /// Hold as many with the bare server, after the broker has gone
    #[arg(long)]
    pub floor: bool,
}

const CONNECTIONS: u32 = 1_000_000;

/// Messages pushed at the end.
const PUSHES: u32 = 100_000;
/// A lossy wire may lose the same message a few times.
const QUIET_MS: u64 = 30_000;

/// Heartbeats that are under way at a time when all devices are checked.
const CHECK_WINDOW: u32 = 4096;

/// What differs between the control end and a real node.
struct Checked {
    pushed: u64,
    received: Received,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let setting = &arguments.setting;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    setting.enter(connections)?;
    if let Some(server) = setting.running()? {
        ensure!(
            !arguments.floor && !arguments.control_node,
            "--floor and --control-node are for hawser's own broker, not for a --target: leave them out"
        );
        return of_target(setting, server, connections, output);
    }
    if arguments.control_node {
        ensure!(
            setting.tickets == Signing::Ed25519,
            "--control-node needs --tickets ed25519: it gives its apps such keys"
        );
        let node = ControlNode::start()?;
        let (link, issuer) = (node.link, node.issuer);
        let empty = memory(node.server.id())?.resident;
        let mut stage = BrokerSide::with(setting, connections, node, link, issuer)?;
        let held = Held::hold(arguments, connections, &mut stage, |stage, online| {
            stage.control.wait_for_sessions(online)
        })?;
        let full = memory(stage.control.server.id())?.resident;
        // Still pushing: a message to everybody, and one to the last device.
        let pushed = u64::from(held.opened.online) + 1;
        stage.fleet.expect(pushed, QUIET_MS)?;
        stage.control.push_to_all("to all of you")?;
        stage.control.push_to(held.opened.online - 1, "to you alone")?;
        let received = stage.fleet.received()?;
        let mut extra = json!({ "control": "node" });
        extra["control_bytes_per_conn"] =
            json!((full.saturating_sub(empty)) as f64 / f64::from(held.opened.online));
        return held.report(arguments, stage, &Checked { pushed, received }, extra, output);
    }
    let mut stage = BrokerSide::start(setting, connections)?;
    let held = Held::hold(arguments, connections, &mut stage, |stage, online| {
        stage.control.wait_for_sessions(online)
    })?;
    // Still pushing.
    let pushed = u64::from(held.opened.online.min(PUSHES));
    stage.fleet.expect(pushed, QUIET_MS)?;
    stage.control.push(pushed, 0, 64)?;
    let received = stage.fleet.received()?;
    held.report(arguments, stage, &Checked { pushed, received }, json!({}), output)
}

/// What was found while the connections were held.
struct Held {
    connections: u32,
    opened: Opened,
    checked: Asked,
    empty: Memory,
    full: Memory,
    kernel: BTreeMap<String, Cache>,
    free_before: u64,
    free: u64,
    setup_cpu_ns: f64,
    idle_percent: f64,
}

impl Held {
    fn hold<C>(
        arguments: &Arguments,
        connections: u32,
        stage: &mut BrokerSide<C>,
        announced: impl Fn(&BrokerSide<C>, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<Held> {
        let slabs = Slabs::settled()?;
        let (empty, free_before) = (memory(stage.broker.id())?, free_bytes()?);
        let begun_ns = stage.cpu_ns()?;
        let opened = stage.connect(connections)?;
        let setup_cpu_ns =
            stage.cpu_ns()?.saturating_sub(begun_ns) as f64 / f64::from(opened.online);
        announced(stage, opened.online.into())?;
        let checked = stage.fleet.verify(CHECK_WINDOW)?;
        let full = memory(stage.broker.id())?;
        let kernel = Slabs::settled()?.per_connection(&slabs, opened.online);
        let (idle_from, idle_ns) = (Instant::now(), stage.cpu_ns()?);
        std::thread::sleep(Duration::from_secs(arguments.idle_s));
        let idle_ns = stage.cpu_ns()?.saturating_sub(idle_ns);
        let idle_percent = 100.0 * idle_ns as f64 / idle_from.elapsed().as_nanos() as f64;
        let free = free_bytes()?;
        Ok(Held {
            connections,
            opened,
            checked,
            empty,
            full,
            kernel,
            free_before,
            free,
            setup_cpu_ns,
            idle_percent,
        })
    }

    fn report<C>(
        self,
        arguments: &Arguments,
        mut stage: BrokerSide<C>,
        check: &Checked,
        extra: Value,
        output: &Output,
    ) -> anyhow::Result<()> {
        let setting = &arguments.setting;
        let counted = stage.fleet.count()?;
        let Held { connections, opened, checked, empty, full, .. } = &self;
        let per = |bytes: u64| (bytes as f64 / f64::from(opened.online)).round();
        let kernel_bytes: f64 = self.kernel.values().map(|cache| cache.bytes).sum();
        let by_cache: serde_json::Map<String, Value> = self
            .kernel
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
            "all_bytes_per_conn": per(self.free_before.saturating_sub(self.free)),
            "setup_per_s": (f64::from(opened.online) / opened.seconds).round(),
            "setup_curve": opened.curve,
            "setup_cpu_ns": self.setup_cpu_ns.round(),
            "heartbeats_per_s": (checked.answered as f64 / checked.seconds).round(),
            "idle_cpu_percent": self.idle_percent,
            "pushed": check.pushed,
            "received": check.received.messages,
            "memory_free_min_bytes": self.free,
            "net": counted.net.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "closes": counted.closes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        });
        if let (Value::Object(values), Value::Object(extra)) = (&mut values, extra) {
            values.extend(extra);
        }
        // Before the floor: memory may not hold both.
        let plan_hash = stage.broker.plan_hash.clone();
        drop(stage);
        if arguments.floor {
            put_floor(setting, *connections, &mut values)?;
        }
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
        output.row("connections", &scenario, Some(&plan_hash), values)?;
        all_answered(self.opened.online, checked)?;
        let (arrived, pushed) = (check.received.messages, check.pushed);
        ensure!(arrived == pushed, "{arrived} of {pushed} messages arrived in the end");
        ensure!(counted.lost == 0, "{} connections were lost", counted.lost);
        Ok(())
    }
}

fn all_answered(online: u32, checked: &Asked) -> anyhow::Result<()> {
    let Asked { answered, stopped, .. } = checked;
    ensure!(
        *answered == u64::from(online),
        "{answered} of {online} devices got an answer to their heartbeat: {}",
        stopped.as_deref().unwrap_or("connections ended meanwhile")
    );
    Ok(())
}

/// The same with the bare server.
fn put_floor(setting: &Setting, connections: u32, values: &mut Value) -> anyhow::Result<()> {
    let mut floor = FloorSide::start(setting, connections)?;
    let slabs = Slabs::settled()?;
    let (empty, begun_ns) = (memory(floor.id())?.resident, floor.cpu_ns()?);
    let opened = floor.open_all(connections)?;
    let per = |bytes: f64| json!((bytes / f64::from(connections)).round());
    values["floor_setup_per_s"] = json!((f64::from(connections) / opened.seconds).round());
    values["floor_setup_cpu_ns"] = per(floor.cpu_ns()?.saturating_sub(begun_ns) as f64);
    let grown = memory(floor.id())?.resident.saturating_sub(empty);
    values["floor_user_bytes_per_conn"] = per(grown as f64);
    let kernel = Slabs::settled()?.per_connection(&slabs, connections);
    let kernel: f64 = kernel.values().map(|cache| cache.bytes).sum();
    values["floor_kernel_bytes_per_conn"] = json!(kernel.round());
    Ok(())
}

fn free_bytes() -> anyhow::Result<u64> {
    Ok(plan::Memory::read()?.free_bytes)
}

/// Of a server that runs elsewhere: what its devices see.
fn of_target(
    setting: &Setting,
    server: &str,
    connections: u32,
    output: &Output,
) -> anyhow::Result<()> {
    let mut side = setting.side(connections)?;
    let opened = side.open(connections)?;
    let why = || opened.stopped.clone().unwrap_or_default();
    ensure!(opened.ready > 0, "{server}: nobody could connect: {}", why());
    let checked = side.fleet().verify(CHECK_WINDOW)?;
    let counted = side.fleet().count()?;
    let values = json!({
        "fleet": setting.fleet_name(),
        "server": side.name(),
        "connections": connections,
        "established": opened.online,
        "ready": opened.ready,
        "verified": checked.answered,
        "lost": counted.lost,
        "stopped": opened.stopped,
        "setup_per_s": (f64::from(opened.online) / opened.seconds).round(),
        "heartbeats_per_s": (checked.answered as f64 / checked.seconds).round(),
        "closes": counted.closes.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    let scenario = format!("{connections} at {server}");
    if !output.json {
        print(&format!("connections, {scenario}"), &values);
    }
    output.row("connections", &scenario, None, values)?;
    all_answered(opened.ready, &checked).with_context(|| server.to_owned())?;
    ensure!(counted.lost == 0, "{server}: {} connections were lost", counted.lost);
    Ok(())
}
