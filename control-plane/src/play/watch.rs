//! `hawser play`: the system to try things on. It runs until Ctrl-C, with a small fleet and a
//! little traffic, and one live line.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::crowd::{Crowd, Records};
use super::fleet::device_name;
use super::mark::{Kind, Mark, unix_us};
use super::record::What;
use super::system::{Store, System, SystemPlan};
use crate::cli::client::{Client, Payload, Push, To};
use crate::cli::connection::PlayFile;
use crate::cli::out::LiveLine;

#[derive(Clone, Debug)]
pub struct Plan {
    pub devices: u32,
    pub topics: u32,
    /// Messages per second to simulated devices.
    pub rate: u32,
    pub control_nodes: u16,
    pub store: Store,
    pub data_dir: Option<PathBuf>,
}

const TICK: Duration = Duration::from_secs(1);

/// The live line's rate and latency cover this many ticks.
const WINDOW_TICKS: usize = 10;

/// Background messages leave in this many batches a second.
const BATCHES_PER_S: u32 = 10;

const BACKGROUND_TTL_S: u32 = 600;

/// Runs until Ctrl-C or SIGTERM. `welcome` is told where everything listens.
pub async fn run(
    plan: Plan,
    line: &mut LiveLine,
    welcome: impl FnOnce(&System) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    line.update("starting the servers");
    let system_plan = SystemPlan {
        data_dir: plan.data_dir.clone(),
        control_nodes: plan.control_nodes,
        store: plan.store.clone(),
        documented_ports: true,
        devices: plan.devices,
    };
    // Until the system is complete, a signal drops what has been started, which kills it.
    let mut system = tokio::select! {
        system = System::start(&system_plan) => system?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let file = play_file(&system).publish()?;
    let (sink, mut records) = mpsc::channel(64);
    let mut crowd = Crowd::start(&system, plan.devices, plan.topics, sink).await?;
    line.end();
    welcome(&system)?;

    let client = system.clients().swap_remove(0);
    let background = tokio::spawn(background(
        client,
        system.app.name.clone(),
        system.run,
        plan.devices,
        plan.rate,
    ));
    let mut window = Window::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            Some(records) = records.recv() => if let Err(error) = window.take(&records) { break Err(error) },
            _ = tick.tick() => {
                if let Err(error) = system.check().and_then(|()| crowd.check()) {
                    break Err(error);
                }
                line.update(&window.line(plan.devices));
            }
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
        }
    };
    background.abort();
    line.say("stopping");
    drop(file);
    crowd.end().await?;
    system.stop().await?;
    ended
}

fn play_file(system: &System) -> PlayFile {
    PlayFile {
        pid: std::process::id(),
        url: format!("http://{}", system.addresses.api[0]),
        app: system.app.name.clone(),
        key: system.app.api_key.clone(),
        operator_key: system.operator_key.clone(),
        brokers: vec![system.addresses.broker.to_string()],
    }
}

/// A little traffic, round robin over the devices. What fails is left out: it is only there to be
/// looked at.
async fn background(client: Client, app: String, run: u32, devices: u32, rate: u32) {
    if devices == 0 || rate == 0 {
        return;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1) / BATCHES_PER_S);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks = 0u32;
    let mut number = 0u32;
    loop {
        tick.tick().await;
        // So many by now within this second, that the rate is met exactly.
        let (before, after) = (ticks * rate / BATCHES_PER_S, (ticks + 1) * rate / BATCHES_PER_S);
        ticks = (ticks + 1) % BATCHES_PER_S;
        let pushes: Vec<Push> = (before..after)
            .map(|_| {
                let device = number % devices;
                number = number.wrapping_add(1);
                Push {
                    to: To::Device(device_name(device)),
                    payload: Payload::Text(
                        Mark { run, kind: Kind::Single, number, sent_us: unix_us() }.text(),
                    ),
                    ttl_s: BACKGROUND_TTL_S,
                    priority: None,
                    when_awake: false,
                    collapse_key: None,
                    idempotency_key: None,
                }
            })
            .collect();
        if !pushes.is_empty() {
            let _ = client.push_batch(&app, &pushes).await;
        }
    }
}

/// What the live line is made of: the last ticks.
#[derive(Default)]
struct Window {
    online: u32,
    total: u64,
    ticks: VecDeque<Tick>,
    now: Vec<u32>,
    since: Option<Instant>,
}

struct Tick {
    latencies_us: Vec<u32>,
    duration: Duration,
}

impl Window {
    fn take(&mut self, records: &Records) -> anyhow::Result<()> {
        for record in records.iter() {
            match record?.what {
                What::Ready => self.online += 1,
                What::Lost => {
                    self.online = self.online.checked_sub(1).context("a device left twice")?;
                }
                What::Seen { latency_us, .. } => self.now.push(latency_us),
                // Somebody's own push: it has no time in it, and counts.
                What::Other => self.total += 1,
                What::Reset => {}
            }
        }
        Ok(())
    }

    fn line(&mut self, devices: u32) -> String {
        let now = Instant::now();
        let duration = self.since.replace(now).map_or(TICK, |since| now - since);
        let latencies_us = std::mem::take(&mut self.now);
        self.total += latencies_us.len() as u64;
        self.ticks.push_back(Tick { latencies_us, duration });
        if self.ticks.len() > WINDOW_TICKS {
            self.ticks.pop_front();
        }
        let mut histogram = Histogram::<u64>::new_with_max(3_600_000_000, 3).expect("constants");
        let latencies = self.ticks.iter().flat_map(|tick| &tick.latencies_us);
        latencies.for_each(|&us| histogram.saturating_record(us.into()));
        let seconds: f64 = self.ticks.iter().map(|tick| tick.duration.as_secs_f64()).sum();
        format!(
            "connections {}/{devices}   messages/s {:.0}   p99 {:.2} ms   delivered {}",
            self.online,
            histogram.len() as f64 / seconds,
            histogram.value_at_quantile(0.99) as f64 / 1000.0,
            self.total,
        )
    }
}
