//! Devices leave and come back for a long time: what stays behind.

use anyhow::bail;
use serde_json::{Value, json};

use super::side::Side;
use super::stage::{BrokerSide, FloorSide, Setting};
use super::{print, say};
use crate::process::{cpu_ns, memory};
use crate::results::Output;

const CONNECTIONS: u32 = 100_000;

#[derive(clap::Args)]
#[command(after_help = "\
How it is measured:
  Every second --rate devices leave: every other one closes in good order and dials again a moment
  later, the others reset and dial at once. This goes on for a minute that does not count, in which
  pools come to their size (less if --minutes is less), and then for --minutes. Memory of the server
  (what it has without a file behind it) is read before, after each minute when all are back, and at
  the end: what it has grown by must not grow with the minutes.

  With --floor the bare server is then churned for as long, after the broker has gone: the fields
  with floor_. cpu_ns_per_connect is the server's processor time, kernel included, for a device that
  leaves and comes back; ratio_to_floor is the floor's of it divided by the broker's.

Examples:
  hawser-bench churn --connections 100000 --rate 1000 --minutes 60
  hawser-bench churn --connections 20000 --rate 500 --minutes 5 --floor")]
pub struct Arguments {
    #[command(flatten)]
    pub setting: Setting,
    /// Devices that leave and come back, a second
    #[arg(long, value_name = "PER_S", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// How long they do, of each server; 0.5 is half a minute
    #[arg(long, value_name = "MIN", default_value_t = 60.0, value_parser = minutes)]
    pub minutes: f64,
    /// The same churn at the bare server, after the broker has gone
    #[arg(long)]
    pub floor: bool,
}

const MINUTE_S: u32 = 60;

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok().filter(|minutes| (0.01..=10_000.0).contains(minutes));
    minutes.ok_or_else(|| "give a number of minutes, 0.01 to 10000".to_owned())
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let Arguments { setting, rate, floor, .. } = arguments;
    let connections = setting.connections()?.unwrap_or(CONNECTIONS);
    setting.enter(connections)?;
    let mut side = BrokerSide::start(setting, connections)?;
    side.open_all(connections)?;
    let pid = side.broker.id();
    let own = churned(&mut side, pid, arguments)?;
    let ended = side.all_back(own.stopped.clone());
    if own.memory_bytes.is_empty() {
        return ended;
    }
    let mut values = json!({
        "fleet": setting.fleet.name(),
        "server": side.name(),
        "connections": connections,
        "rate": rate,
        "sessions_at_control": side.control.sessions(),
    });
    own.put("", &mut values);
    let plan_hash = side.broker.plan_hash.clone();
    drop(side);
    // What was seen of the broker is recorded, whatever becomes of the floor.
    let ended = ended.and_then(|()| match floor {
        true => put_floor(arguments, connections, &own, &mut values),
        false => Ok(()),
    });
    let scenario = format!("{connections} over {}, {rate}/s", setting.fleet.name());
    if !output.json {
        print(&format!("churn, {scenario}"), &values);
    }
    output.row("churn", &scenario, Some(&plan_hash), values)?;
    ended
}

fn put_floor(
    arguments: &Arguments,
    connections: u32,
    own: &Churned,
    values: &mut Value,
) -> anyhow::Result<()> {
    say("the floor");
    let mut floor = FloorSide::start(&arguments.setting, connections)?;
    floor.open_all(connections)?;
    let pid = floor.id();
    let bare = churned(&mut floor, pid, arguments)?;
    if let Some(stopped) = bare.stopped {
        bail!("not all came back to the floor: {stopped}");
    }
    bare.put("floor_", values);
    if let Some((bare_ns, own_ns)) = bare.cpu_ns_per_connect().zip(own.cpu_ns_per_connect()) {
        values["ratio_to_floor"] = json!(bare_ns / own_ns);
    }
    Ok(())
}

/// What was seen of a server meanwhile.
#[derive(Default)]
struct Churned {
    left: u64,
    back: u64,
    seconds: f64,
    /// Connections that ended though their devices did not leave.
    lost: u64,
    /// Of the server until the last minute that ended well, and how many had left by then.
    cpu_ns: u64,
    cpu_left: u64,
    /// Before, and after each minute. Nothing if the first, which does not count, did not end well.
    memory_bytes: Vec<u64>,
    /// Why it ended before its time.
    stopped: Option<String>,
}

fn churned(side: &mut dyn Side, pid: u32, arguments: &Arguments) -> anyhow::Result<Churned> {
    let Arguments { setting, rate, minutes, .. } = arguments;
    let churn = |side: &mut dyn Side, seconds| {
        side.fleet().churn(*rate, seconds, setting.limits())?;
        side.fleet().back()
    };
    let all_s = (minutes * f64::from(MINUTE_S)).ceil() as u32;
    let mut churned =
        Churned { stopped: churn(side, all_s.min(MINUTE_S))?.stopped, ..Churned::default() };
    if churned.stopped.is_some() {
        return Ok(churned);
    }
    let lost_before = side.fleet().count()?.lost;
    let begun_ns = cpu_ns(pid)?;
    churned.memory_bytes.push(memory(pid)?.anonymous);
    let mut done_s = 0;
    while done_s < all_s && churned.stopped.is_none() {
        say(&format!("{done_s} s of {all_s} s"));
        let seconds = (all_s - done_s).min(MINUTE_S);
        let one = churn(side, seconds)?;
        done_s += seconds;
        churned.left += one.left;
        churned.back += one.back;
        churned.seconds += one.seconds;
        churned.stopped = one.stopped;
        // A server that is gone has neither.
        if churned.stopped.is_none() {
            churned.memory_bytes.push(memory(pid)?.anonymous);
            churned.cpu_ns = cpu_ns(pid)?.saturating_sub(begun_ns);
            churned.cpu_left = churned.left;
        }
    }
    churned.lost = side.fleet().count()?.lost - lost_before;
    Ok(churned)
}

impl Churned {
    /// None if not even a minute ended well.
    fn cpu_ns_per_connect(&self) -> Option<f64> {
        (self.cpu_left > 0).then(|| self.cpu_ns as f64 / self.cpu_left as f64)
    }

    /// Each with a prefix to its name.
    fn put(&self, prefix: &str, values: &mut Value) {
        let mut put = |name: &str, value: Value| values[format!("{prefix}{name}")] = value;
        put("seconds", json!(self.seconds));
        put("rate_reached", json!(self.left as f64 / self.seconds));
        put("left", json!(self.left));
        put("back", json!(self.back));
        put("lost", json!(self.lost));
        if let Some(stopped) = &self.stopped {
            put("stopped", json!(stopped));
        }
        if let Some(cpu_ns) = self.cpu_ns_per_connect() {
            put("cpu_ns_per_connect", json!(cpu_ns.round()));
        }
        if let [first, .., last] = self.memory_bytes[..] {
            put("memory_before_bytes", json!(first));
            put("memory_after_bytes", json!(last));
            put("memory_growth_bytes", json!(last as i64 - first as i64));
            put("memory_curve_bytes", json!(self.memory_bytes));
        }
    }
}
