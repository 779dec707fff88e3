//! The arguments of `hawser play`, and how its result is shown.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Usage;
use super::out::{self, Format, LiveLine};
use crate::play::once::{self, Summary};
use crate::play::system::{Store, System, Victim};
use crate::play::{fleet, watch};

pub const EXAMPLES: &str = "\
Examples:
  hawser play                                     until Ctrl-C; then, in a second terminal:
  hawser push all --text 'hello'
  hawser tail

  hawser play --once --devices 1000 --messages 20000
  hawser play --once --devices 1000 --messages 20000 --kill control
  hawser play --once --kill broker --control-nodes 2 --json

With --once it pushes through the HTTP API, waits for every acknowledgement, and compares what each
device's application saw with what the API accepted. It fails if a single message was lost,
repeated or out of order. With --kill control no connection may drop; with --kill broker devices
reconnect.";

#[derive(Debug, clap::Args)]
pub struct PlayArgs {
    /// Simulated devices, over real TCP [default: 100, with --once 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub devices: Option<u32>,

    /// Topics; each device is subscribed to one
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub topics: u32,

    /// Control nodes, which share one store
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub control_nodes: u16,

    /// Store: `embedded` in the one control node, `kv` (a hawser-kv process), or the URL of an empty
    /// Redis: redis://host:port or unix:///path [default: embedded, or kv for two control nodes]
    #[arg(long, value_name = "WHERE", value_parser = store)]
    pub store: Option<Store>,

    /// Keep everything in this directory, and go on with what it holds [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Messages per second to simulated devices while it runs
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "once")]
    pub rate: u32,

    /// Push, compare, print a summary, and exit
    #[arg(long)]
    pub once: bool,

    /// Messages to single devices, spread over all of them
    #[arg(long, value_name = "N", default_value_t = 20_000, requires = "once")]
    pub messages: u32,

    /// Messages to the whole app and to topics, in turn
    #[arg(long, value_name = "N", default_value_t = 10, requires = "once")]
    pub group_messages: u32,

    /// Kill this with SIGKILL when half of the messages are accepted, and start it again
    #[arg(long, value_enum, value_name = "WHAT", requires = "once")]
    pub kill: Option<KillChoice>,

    /// Give up after so many seconds [default: depends on devices and messages]
    #[arg(long, value_name = "SECONDS", requires = "once")]
    pub timeout_s: Option<u64>,
}

fn store(text: &str) -> Result<Store, String> {
    match text {
        "embedded" => Ok(Store::Embedded),
        "kv" => Ok(Store::Kv),
        url if ["redis://", "unix:///"].iter().any(|scheme| url.starts_with(scheme)) => {
            Ok(Store::Other { url: url.to_owned() })
        }
        _ => Err("write embedded, kv, redis://host:port or unix:///path".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KillChoice {
    Control,
    Broker,
}

const DEVICES: u32 = 100;
const DEVICES_ONCE: u32 = 1000;

/// The default deadline: a minute, and this much for each device and message.
const DEADLINE_BASE: Duration = Duration::from_secs(60);
const DEADLINE_PER_ITEM: Duration = Duration::from_micros(500);

pub async fn run(args: PlayArgs, format: Format) -> anyhow::Result<()> {
    let store = match (args.store.clone(), args.control_nodes) {
        (Some(Store::Embedded), 2..) => {
            return Err(
                Usage("--store embedded is inside one control node; two need --store kv").into()
            );
        }
        (Some(store), _) => store,
        (None, 1) => Store::Embedded,
        (None, _) => Store::Kv,
    };
    if args.once { once(args, store, format).await } else { watch(args, store, format).await }
}

async fn once(args: PlayArgs, store: Store, format: Format) -> anyhow::Result<()> {
    let devices = args.devices.unwrap_or(DEVICES_ONCE);
    let items = u64::from(devices) + u64::from(args.messages);
    let estimate = DEADLINE_BASE + DEADLINE_PER_ITEM * u32::try_from(items).unwrap_or(u32::MAX);
    let plan = once::Plan {
        devices,
        messages: args.messages,
        group_messages: args.group_messages,
        topics: args.topics,
        control_nodes: args.control_nodes,
        store,
        kill: args.kill.map(|kill| match kill {
            KillChoice::Control => Victim::Control,
            KillChoice::Broker => Victim::Broker,
        }),
        data_dir: args.data_dir,
        deadline: args.timeout_s.map_or(estimate, Duration::from_secs),
    };
    let mut line = LiveLine::on_stderr();
    let mut terminate = signal(SignalKind::terminate())?;
    // What is dropped unfinished kills its processes.
    let summary = tokio::select! {
        summary = once::run(plan, &mut line) => summary,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    };
    line.end();
    let summary = summary?;
    match format {
        Format::Json => out::json(&summary_json(&summary))?,
        Format::Human => out::line(out::pairs(&summary_pairs(&summary)))?,
    }
    if !summary.is_good() {
        bail!("the run failed:\n  {}", summary.complaints.join("\n  "));
    }
    Ok(())
}

fn summary_json(summary: &Summary) -> Value {
    let Summary { verdict, latency, group_latency, .. } = summary;
    json!({
        "devices": summary.devices,
        "accepted": verdict.accepted,
        "delivered": verdict.delivered,
        "group_accepted": verdict.group_accepted,
        "group_expected": verdict.group_expected,
        "group_delivered": verdict.group_delivered,
        "lost": verdict.lost,
        "duplicates": verdict.duplicates,
        "out_of_order": verdict.out_of_order,
        "misplaced": verdict.misplaced,
        "unanswered": verdict.unanswered,
        "unacknowledged": summary.unacknowledged,
        "p50_ms": latency.p50_ms,
        "p99_ms": latency.p99_ms,
        "p999_ms": latency.p999_ms,
        "max_ms": latency.max_ms,
        "group_p50_ms": group_latency.p50_ms,
        "group_p99_ms": group_latency.p99_ms,
        "connects_per_s": summary.connects_per_s.round(),
        "messages_per_s": summary.messages_per_s.round(),
        "reconnects": summary.reconnects,
        "dropped_connections": summary.dropped_connections,
        "resets": summary.resets,
        "elapsed_s": (summary.elapsed.as_secs_f64() * 10.0).round() / 10.0,
        "ok": summary.is_good(),
        "complaints": summary.complaints,
    })
}

fn summary_pairs(summary: &Summary) -> Vec<(&'static str, String)> {
    let Summary { verdict, latency, group_latency, .. } = summary;
    let times = |latency: &once::Latency| format!("{:.2} / {:.2}", latency.p50_ms, latency.p99_ms);
    vec![
        ("devices", summary.devices.to_string()),
        ("accepted", verdict.accepted.to_string()),
        ("delivered", verdict.delivered.to_string()),
        ("group messages", verdict.group_accepted.to_string()),
        ("group deliveries", format!("{} of {}", verdict.group_delivered, verdict.group_expected)),
        ("lost", verdict.lost.to_string()),
        ("duplicates", verdict.duplicates.to_string()),
        ("out of order", verdict.out_of_order.to_string()),
        ("misplaced", verdict.misplaced.to_string()),
        ("p50 / p99 ms", times(latency)),
        ("group p50 / p99 ms", times(group_latency)),
        ("connects/s", format!("{:.0}", summary.connects_per_s)),
        ("messages/s", format!("{:.0}", summary.messages_per_s)),
        ("reconnects", summary.reconnects.to_string()),
        ("dropped connections", summary.dropped_connections.to_string()),
        ("elapsed s", format!("{:.1}", summary.elapsed.as_secs_f64())),
    ]
}

async fn watch(args: PlayArgs, store: Store, format: Format) -> anyhow::Result<()> {
    let plan = watch::Plan {
        devices: args.devices.unwrap_or(DEVICES),
        topics: args.topics,
        rate: args.rate,
        control_nodes: args.control_nodes,
        store,
        data_dir: args.data_dir,
    };
    let mut line = LiveLine::on_stderr();
    let ended = watch::run(plan, &mut line, |system| match format {
        Format::Json => out::json_line(&places_json(system)),
        Format::Human => Ok(out::line(places_text(system))?),
    });
    let ended = ended.await;
    line.end();
    ended
}

fn places_json(system: &System) -> Value {
    let addresses = &system.addresses;
    json!({
        "api": addresses.api.iter().map(|api| format!("http://{api}")).collect::<Vec<_>>(),
        "broker": addresses.broker,
        "broker_admin": format!("http://{}", addresses.broker_admin),
        "data_dir": system.directory(),
    })
}

fn places_text(system: &System) -> String {
    let addresses = &system.addresses;
    let apis: Vec<String> = addresses.api.iter().map(|api| format!("http://{api}")).collect();
    let places = out::pairs(&[
        ("HTTP API", apis.join("  ")),
        ("devices", addresses.broker.to_string()),
        ("metrics", format!("http://{}/metrics  {}/metrics", addresses.broker_admin, apis[0])),
        ("data and logs", system.directory().display().to_string()),
    ]);
    format!(
        "{places}\n\
         Try, in a second terminal:\n  \
           hawser tail\n  \
           hawser push device tail --text 'to you alone'\n  \
           hawser push all --text 'hello'\n  \
           hawser devices show device-000000\n  \
           hawser status\n\n\
         Ctrl-C stops everything.\n"
    )
}

/// The hidden subcommand that `hawser play` starts.
#[derive(Debug, clap::Args)]
pub struct FleetArgs {
    #[arg(long)]
    pub broker: SocketAddr,
    #[arg(long)]
    pub first: u32,
    #[arg(long)]
    pub count: u32,
    #[arg(long)]
    pub topics: u32,
    #[arg(long)]
    pub run: u32,
    #[arg(long)]
    pub many_sources: bool,
}

impl FleetArgs {
    pub fn run(self) -> anyhow::Result<()> {
        let FleetArgs { broker, first, count, topics, run, many_sources } = self;
        fleet::run(fleet::FleetPlan { broker, first, count, topics, run, many_sources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::check::Verdict;
    use crate::play::once::Latency;

    fn summary() -> Summary {
        let latency = Latency { p50_ms: 1.5, p99_ms: 9.25, p999_ms: 10.0, max_ms: 11.0 };
        let accepted = Verdict { accepted: 5, delivered: 5, ..Verdict::default() };
        Summary {
            devices: 2,
            verdict: accepted,
            unacknowledged: 0,
            latency,
            group_latency: latency,
            connects_per_s: 1000.4,
            messages_per_s: 5.0,
            reconnects: 0,
            dropped_connections: 0,
            resets: 0,
            elapsed: Duration::from_millis(1234),
            complaints: Vec::new(),
        }
    }

    #[test]
    fn the_summary_has_the_documented_fields() {
        let value = summary_json(&summary());
        for (name, expect) in [
            ("devices", json!(2)),
            ("accepted", json!(5)),
            ("delivered", json!(5)),
            ("duplicates", json!(0)),
            ("out_of_order", json!(0)),
            ("lost", json!(0)),
            ("p50_ms", json!(1.5)),
            ("p99_ms", json!(9.25)),
            ("connects_per_s", json!(1000.0)),
            ("reconnects", json!(0)),
            ("dropped_connections", json!(0)),
            ("elapsed_s", json!(1.2)),
            ("ok", json!(true)),
        ] {
            assert_eq!(value[name], expect, "{name}");
        }
        let bad = Summary { complaints: vec!["1 deliveries are missing".to_owned()], ..summary() };
        assert_eq!(summary_json(&bad)["ok"], false);
    }
}
