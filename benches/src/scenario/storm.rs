//! When many devices come or go: `storm`, `churn`, and `slow` ones that stop reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::side::Side;
use super::stage::{BrokerSide, FloorSide, Setting};
use super::{print, say};
use crate::fleet::command::{Limits, Received};
use crate::process::{Broker, memory};
use crate::results::Output;

const CONNECTIONS: u32 = 100_000;

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Beside --connections bystanders as many devices are connected as --devices says. These lose their
  connections with a reset each, all at once, and dial again at once, without pause: the worst that a
  network that comes back can do. The time is until the last is welcomed again; a connect's latency
  runs from the dial to the welcome. Bystanders must not lose theirs.

Examples:
  hawser-bench storm --devices 1000000 --connections 100000")]
pub struct StormArguments {
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

/// What did not end by itself: an error, with whether the broker is there.
fn whole(broker: &mut Broker, stopped: Option<String>) -> anyhow::Result<()> {
    let Some(stopped) = stopped else { return Ok(()) };
    broker.is_there().context(stopped.clone())?;
    bail!("not all came back: {stopped}")
}

pub fn storm(arguments: &StormArguments, output: &Output) -> anyhow::Result<()> {
    let StormArguments { setting, devices, floor } = arguments;
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
    let ended = whole(&mut side.broker, back.stopped);
    drop(side);
    if *floor && ended.is_ok() {
        let mut floor = FloorSide::start(setting, total)?;
        floor.open_all(total)?;
        floor.fleet.storm(*devices, limits)?;
        let bare = floor.fleet.back()?;
        ensure!(bare.back == bare.left, "{} of {} came back to the floor", bare.back, bare.left);
        values["floor_back_s"] = json!(bare.seconds);
        values["floor_rate"] = json!((bare.back as f64 / bare.seconds).round());
        values["ratio_to_floor"] = json!(bare.seconds / back.seconds);
        bare.connect.put("floor_accept_", &mut values);
    }
    let scenario = format!("{devices} of {total} over {}", setting.fleet.name());
    if !output.json {
        print(&format!("storm, {scenario}"), &values);
    }
    output.row("storm", &scenario, Some(&plan_hash), values)?;
    ended
}

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Every second --rate devices leave: every other one closes in good order and dials again a moment
  later, the others reset and dial at once, for --minutes. The broker's memory is read before, and after all are back; what it
  has grown by must not grow with the minutes.

Examples:
  hawser-bench churn --connections 100000 --rate 1000 --minutes 60")]
pub struct ChurnArguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that leave and come back, a second
    #[arg(long, value_name = "PER_S", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
}

pub fn churn(arguments: &ChurnArguments, output: &Output) -> anyhow::Result<()> {
    let ChurnArguments { setting, rate, minutes } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    // Connections that are being closed take memory too.
    setting.enter(connections)?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    // One minute that does not count, in which pools come to their size.
    side.fleet.churn(*rate, 60, setting.limits())?;
    let warm = side.fleet.back()?;
    whole(&mut side.broker, warm.stopped)?;
    let lost_before = side.fleet.count()?.lost;
    let mut curve = vec![memory(side.broker.id())?.anonymous];
    let (mut left, mut back, mut seconds, mut ended) = (0, 0, 0.0, Ok(()));
    for minute in 1..=*minutes {
        say(&format!("minute {minute} of {minutes}"));
        side.fleet.churn(*rate, 60, setting.limits())?;
        let one = side.fleet.back()?;
        (left, back, seconds) = (left + one.left, back + one.back, seconds + one.seconds);
        ended = whole(&mut side.broker, one.stopped);
        if ended.is_err() {
            break;
        }
        curve.push(memory(side.broker.id())?.anonymous);
    }
    let counted = side.fleet.count()?;
    let (first, last) = (curve[0], curve[curve.len() - 1]);
    let values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "rate": rate,
        "seconds": seconds,
        "rate_reached": left as f64 / seconds,
        "left": left,
        "back": back,
        "lost": counted.lost - lost_before,
        "memory_before_bytes": first,
        "memory_after_bytes": last,
        "memory_growth_bytes": last as i64 - first as i64,
        "memory_curve_bytes": curve,
        "sessions_at_control": side.control.sessions(),
    });
    let scenario = format!("{connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("churn, {scenario}"), &values);
    }
    output.row("churn", &scenario, Some(&side.broker.plan_hash), values)?;
    ended
}

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Messages go to all devices in turn at --rate, and latencies are taken. Then --stalled devices stop
  reading: their connections stay, with no room. The same messages again: what the others feel is the
  difference. The broker's sockets have the smallest send buffers that the kernel gives, so that they
  are full after a few messages and the broker itself has to do with it (blocked). Then they read
  again, and everything that was for them must arrive.

Examples:
  hawser-bench slow --connections 20000 --stalled 2000 --rate 20000")]
pub struct SlowArguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that stop reading
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub stalled: u32,
    /// Messages a second
    #[arg(long, value_name = "PER_S", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

pub fn slow(arguments: &SlowArguments, output: &Output) -> anyhow::Result<()> {
    let SlowArguments { setting, stalled, rate, seconds } = arguments;
    let connections = setting.connections()?.unwrap_or(SLOW_CONNECTIONS);
    ensure!(*stalled < connections, "--stalled {stalled} leaves none of {connections} reading");
    setting.enter(connections)?;
    let mut setting = setting.clone();
    setting.settings.insert(0, format!("send_buffer_bytes={SMALLEST_SEND_BUFFER}"));
    let setting = &setting;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let count = u64::from(*rate) * u64::from(*seconds);
    pushed(&mut side, count, *rate)?;
    let before = pushed(&mut side, count, *rate)?;
    ensure!(before.messages == count, "{} of {count} arrived before", before.messages);
    side.fleet.stall(*stalled)?;
    let calm = memory(side.broker.id())?.resident;
    let during = pushed(&mut side, count, *rate)?;
    let full = memory(side.broker.id())?.resident;
    let blocked = side.broker.metric("hawser_broker_blocked")?;
    ensure!(
        blocked > 0.0,
        "no socket was full, so the broker had nothing to do with it: choose more --seconds"
    );
    let missing = count.saturating_sub(during.messages);
    side.fleet.expect_resuming(missing, RESUME_QUIET_MS, *stalled)?;
    let after = side.fleet.received()?;
    let counted = side.fleet.count()?;
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": "hawser",
        "connections": connections,
        "stalled": stalled,
        "rate": rate,
        "sent": count,
        "received": during.messages,
        "held_back": missing,
        "blocked": blocked,
        "received_after": after.messages,
        "lost": counted.lost,
        "memory_growth_bytes": full as i64 - calm as i64,
    });
    before.latency.put("before_", &mut values);
    during.latency.put("", &mut values);
    let scenario = format!("{stalled} of {connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("slow, {scenario}"), &values);
    }
    output.row("slow", &scenario, Some(&side.broker.plan_hash), values)
}

const SLOW_CONNECTIONS: u32 = 20_000;

/// A dozen fill a socket.
const SLOW_PAYLOAD_BYTES: usize = 1_000;

/// Linux gives twice this.
const SMALLEST_SEND_BUFFER: u32 = 4_096;

/// What has not come by then waits for a device that does not read.
const STALL_QUIET_MS: u64 = 5_000;
/// The kernel asks a closed window at intervals that double.
const RESUME_QUIET_MS: u64 = 30_000;

fn pushed(side: &mut BrokerSide, count: u64, rate: u32) -> anyhow::Result<Received> {
    side.fleet.expect(count, STALL_QUIET_MS)?;
    side.control.push(count, rate.into(), SLOW_PAYLOAD_BYTES)?;
    side.fleet.received()
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
