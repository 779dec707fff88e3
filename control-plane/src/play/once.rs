//! `hawser play --once`: one measured run, from the first process to an exact comparison.
//!
//! ```text
//!   start servers ─▶ connect every device ─▶ push ──────────▶ wait for deliveries ─▶ wait for
//!                                             │ half accepted                        acknowledgements
//!                                             └─▶ kill -9, restart on the same data
//! ```
//!
//! One task owns everything that is known about the run; callers and fleets only send it news. The
//! run ends when everything is delivered and acknowledged, or at its deadline: then it says what is
//! missing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use super::check::{Audience, Ledger, Verdict};
use super::crowd::{Crowd, Records};
use super::fleet::device_name;
use super::load::{CALLERS, Caller, News, Unanswered};
use super::mark::Kind;
use super::ports::freed;
use super::process::Process;
use super::record::What;
use super::scrape::{BrokerCounts, broker_counts};
use super::system::{Store, System, SystemPlan, Victim};
use crate::cli::client::Client;
use crate::cli::out::LiveLine;

#[derive(Clone, Debug)]
pub struct Plan {
    pub devices: u32,
    pub messages: u32,
    pub group_messages: u32,
    pub topics: u32,
    pub control_nodes: u16,
    pub store: Store,
    pub kill: Option<Victim>,
    pub data_dir: Option<PathBuf>,
    /// For the run without the start of the servers.
    pub deadline: Duration,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Summary {
    pub devices: u32,
    pub verdict: Verdict,
    /// Devices whose inbox still held messages at the end.
    pub unacknowledged: u64,
    pub latency: Latency,
    pub group_latency: Latency,
    pub connects_per_s: f64,
    /// Deliveries per second, from the first push to the last delivery.
    pub messages_per_s: f64,
    /// Welcomes beyond each device's first.
    pub reconnects: u64,
    /// Connections that the broker closed, by its own count.
    pub dropped_connections: u64,
    /// Times that a device was told to go back in a stream.
    pub resets: u64,
    pub elapsed: Duration,
    /// Why the run is not a success, in sentences.
    pub complaints: Vec<String>,
}

/// Milliseconds from the API call to the application.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Summary {
    pub fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl Plan {
    /// Group messages go to all and to the topics in turn.
    fn audiences(&self) -> Vec<Audience> {
        let audience = |number| match (number % 2, self.topics) {
            (0, _) | (_, 0) => Audience::All,
            (_, topics) => Audience::Topic(number / 2 % topics),
        };
        (0..self.group_messages).map(audience).collect()
    }
}

/// How often the progress line and the children are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Examples of what is missing.
const EXAMPLES_MAX: usize = 5;

/// Runs the plan. An error means that it could not be carried out; a run whose messages went
/// wrong is a [`Summary`] with complaints.
pub async fn run(plan: Plan, line: &mut LiveLine) -> anyhow::Result<Summary> {
    let start = Instant::now();
    line.update("starting the servers");
    let system_plan = SystemPlan {
        data_dir: plan.data_dir.clone(),
        control_nodes: plan.control_nodes,
        store: plan.store.clone(),
        documented_ports: false,
        devices: plan.devices,
    };
    let system = System::start(&system_plan).await?;
    let (records_in, records) = mpsc::channel(64);
    let crowd = Crowd::start(&system, plan.devices, plan.topics, records_in).await?;
    let (news_in, news) = mpsc::channel(64);
    let clients = system.clients();
    let app = system.app.name.clone();
    let (accepted, accepted_out) = watch::channel(0);
    let mut run = Run {
        ledger: Ledger::new(plan.devices, plan.topics, plan.messages, &plan.audiences()),
        online: vec![false; plan.devices as usize],
        known: vec![false; plan.devices as usize],
        online_count: 0,
        known_count: 0,
        welcomes: 0,
        resets: 0,
        latency: histogram(),
        group_latency: histogram(),
        last_delivery: None,
        records,
        news,
        accepted,
        deadline: Instant::now() + plan.deadline,
        system,
        crowd: Some(crowd),
        line,
        plan,
    };

    let connecting = Instant::now();
    run.until(Goal::Connected).await?;
    let connecting = connecting.elapsed();

    let pushing = Instant::now();
    let before = broker_counts(run.system.addresses.broker_admin).await?;
    let unanswered = match run.plan.kill {
        Some(_) => Unanswered::Repeat,
        None => Unanswered::Fail,
    };
    let caller = Caller::new(clients.clone(), app.clone(), run.system.run, unanswered, news_in);
    run.start_callers(caller, accepted_out);
    if run.plan.kill.is_some() {
        run.until(Goal::HalfAccepted).await?;
        run.kill_and_restart().await?;
    }
    run.until(Goal::Delivered).await?;
    let delivering = run.last_delivery.map_or(pushing.elapsed(), |last| last - pushing);
    let unacknowledged = run.unacknowledged(&clients, &app).await?;
    // After a killed broker the last devices may still be on their way back.
    run.until(Goal::Connected).await?;
    let dropped_connections = run.dropped_connections(before).await?;
    let elapsed = start.elapsed();
    run.finish(Measured { connecting, delivering, unacknowledged, dropped_connections, elapsed })
        .await
}

/// What a phase waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Connected,
    HalfAccepted,
    Delivered,
}

/// Everything that is known while it runs.
struct Run<'a> {
    plan: Plan,
    system: System,
    /// Until it is ended.
    crowd: Option<Crowd>,
    records: mpsc::Receiver<Records>,
    news: mpsc::Receiver<News>,
    accepted: watch::Sender<u64>,
    ledger: Ledger,
    /// Per device: whether it is connected, and whether it ever was.
    online: Vec<bool>,
    known: Vec<bool>,
    online_count: u32,
    known_count: u32,
    welcomes: u64,
    resets: u64,
    /// Microseconds.
    latency: Histogram<u64>,
    group_latency: Histogram<u64>,
    last_delivery: Option<Instant>,
    deadline: Instant,
    line: &'a mut LiveLine,
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Measured {
    connecting: Duration,
    delivering: Duration,
    unacknowledged: u64,
    dropped_connections: u64,
    elapsed: Duration,
}

impl Run<'_> {
    fn start_callers(&self, caller: Caller, accepted: watch::Receiver<u64>) {
        let Plan { devices, messages, .. } = self.plan;
        for index in 0..CALLERS {
            let caller = caller.clone().preferring(index);
            tokio::spawn(caller.push_singles(index, devices, messages));
        }
        tokio::spawn(caller.push_groups(self.plan.audiences(), messages, accepted));
    }

    /// Takes in what happens until the goal is reached or the deadline has come.
    async fn until(&mut self, goal: Goal) -> anyhow::Result<()> {
        let mut tick = ticks();
        while !self.reached(goal) && Instant::now() < self.deadline {
            self.step(goal, &mut tick).await?;
        }
        Ok(())
    }

    /// Takes in one thing. May be dropped while it waits: nothing is lost.
    async fn step(&mut self, goal: Goal, tick: &mut Interval) -> anyhow::Result<()> {
        tokio::select! {
            Some(records) = self.records.recv() => self.take_records(&records),
            Some(news) = self.news.recv() => self.take_news(news),
            _ = tick.tick() => {
                self.system.check()?;
                self.crowd.iter_mut().try_for_each(Crowd::check)?;
                self.show(goal);
                Ok(())
            }
        }
    }

    fn reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Connected => self.online_count == self.plan.devices,
            Goal::HalfAccepted => self.ledger.accepted_count() * 2 >= u64::from(self.plan.messages),
            Goal::Delivered => {
                let all = u64::from(self.plan.messages) + u64::from(self.plan.group_messages);
                self.ledger.accepted_count() == all
                    && self.ledger.delivered_count() == self.ledger.expected_count()
            }
        }
    }

    fn take_records(&mut self, records: &Records) -> anyhow::Result<()> {
        for record in records.iter() {
            let record = record?;
            let device = record.device as usize;
            if device >= self.online.len() {
                bail!("a fleet reported device {device}, which does not exist");
            }
            match record.what {
                What::Ready => {
                    self.welcomes += 1;
                    self.online_count +=
                        u32::from(!std::mem::replace(&mut self.online[device], true));
                    self.known_count +=
                        u32::from(!std::mem::replace(&mut self.known[device], true));
                }
                What::Lost => {
                    self.online_count -=
                        u32::from(std::mem::replace(&mut self.online[device], false));
                }
                What::Reset => self.resets += 1,
                What::Seen { kind, stream, seq, number, latency_us } => {
                    self.ledger.saw(record.device, stream, seq, kind, number);
                    let histogram = match kind {
                        Kind::Single => &mut self.latency,
                        Kind::Group => &mut self.group_latency,
                    };
                    histogram.saturating_record(latency_us.into());
                    self.last_delivery = Some(Instant::now());
                }
                What::Other => {}
            }
        }
        Ok(())
    }

    fn take_news(&mut self, news: News) -> anyhow::Result<()> {
        match news {
            News::Accepted { kind, accepted } => {
                if kind == Kind::Single {
                    self.accepted.send_modify(|count| *count += accepted.len() as u64);
                }
                for (number, seq) in accepted {
                    self.ledger.accepted(kind, number, seq);
                }
                Ok(())
            }
            News::Failed(error) => Err(error).context("a push was refused for good"),
        }
    }

    /// kill -9 in the middle of the load, and a restart on the same data and ports.
    async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        let Some(victim) = self.plan.kill else { return Ok(()) };
        let process = self.system.take(victim)?;
        self.line.say(&format!(
            "kill -9 {} (process {}) after {} messages",
            process.name(),
            process.pid().unwrap_or_default(),
            self.ledger.accepted_count()
        ));
        let killed = Instant::now();
        let addresses = self.system.addresses.of(victim);
        let restart = async {
            let spec = process.kill().await?;
            for address in addresses {
                freed(address).await?;
            }
            Process::start_server(spec).await
        };
        tokio::pin!(restart);
        let mut tick = ticks();
        let process = loop {
            tokio::select! {
                process = &mut restart => break process?,
                step = self.step(Goal::Delivered, &mut tick) => step?,
            }
        };
        self.line.say(&format!(
            "{} is back after {} ms",
            process.name(),
            killed.elapsed().as_millis()
        ));
        self.system.put_back(process);
        Ok(())
    }

    /// Asks the API for every device, several at a time, until its inbox is empty. Returns how many
    /// were not, at the deadline.
    async fn unacknowledged(&mut self, clients: &[Client], app: &str) -> anyhow::Result<u64> {
        if self.ledger.delivered_count() < self.ledger.expected_count() {
            // What has not arrived has not been acknowledged either; it is complained of already.
            return Ok(0);
        }
        self.line.update("waiting for acknowledgements");
        let (devices, deadline) = (self.plan.devices, self.deadline);
        let mut askers = tokio::task::JoinSet::new();
        for index in 0..CALLERS {
            let client = clients[index as usize % clients.len()].clone();
            let app = app.to_owned();
            askers.spawn(async move {
                let mut unacknowledged = 0;
                for device in (index..devices).step_by(CALLERS as usize) {
                    unacknowledged +=
                        u64::from(!is_settled(&client, &app, device, deadline).await?);
                }
                Ok::<u64, anyhow::Error>(unacknowledged)
            });
        }
        let mut unacknowledged = 0;
        while let Some(result) = askers.join_next().await {
            unacknowledged += result??;
        }
        Ok(unacknowledged)
    }

    /// By the broker's own count. A broker that was killed cannot count what that dropped: those
    /// are the sessions that it held.
    async fn dropped_connections(&self, before: BrokerCounts) -> anyhow::Result<u64> {
        let after = broker_counts(self.system.addresses.broker_admin).await?;
        Ok(match self.plan.kill {
            Some(Victim::Broker) => before.sessions + after.closed,
            Some(Victim::Control) | None => after.closed - before.closed,
        })
    }

    fn show(&mut self, goal: Goal) {
        let Plan { devices, messages, group_messages, .. } = self.plan;
        let text = match goal {
            Goal::Connected => format!("connecting  {}/{devices}", self.online_count),
            Goal::HalfAccepted | Goal::Delivered => format!(
                "accepted {}/{}  delivered {}/{}  connected {}/{devices}  p99 {:.1} ms",
                self.ledger.accepted_count(),
                u64::from(messages) + u64::from(group_messages),
                self.ledger.delivered_count(),
                self.ledger.expected_count(),
                self.online_count,
                milliseconds(self.latency.value_at_quantile(0.99)),
            ),
        };
        self.line.update(&text);
    }

    /// Ends the fleets and hears them out, so that a repeat at the very end counts too.
    async fn finish(mut self, measured: Measured) -> anyhow::Result<Summary> {
        self.line.update("stopping");
        let late = Instant::now() >= self.deadline;
        let ending = self.crowd.take().map(Crowd::end);
        let ended = tokio::spawn(async move {
            match ending {
                Some(ending) => ending.await,
                None => Ok(()),
            }
        });
        while let Some(records) = self.records.recv().await {
            self.take_records(&records)?;
        }
        ended.await??;
        let summary = Summary {
            devices: self.plan.devices,
            verdict: self.ledger.verdict(),
            unacknowledged: measured.unacknowledged,
            latency: Latency::of(&self.latency),
            group_latency: Latency::of(&self.group_latency),
            connects_per_s: f64::from(self.known_count) / measured.connecting.as_secs_f64(),
            messages_per_s: self.ledger.delivered_count() as f64
                / measured.delivering.as_secs_f64(),
            reconnects: self.welcomes - u64::from(self.known_count),
            dropped_connections: measured.dropped_connections,
            resets: self.resets,
            elapsed: measured.elapsed,
            complaints: self.complaints(&measured, late),
        };
        self.system.stop().await?;
        self.line.end();
        Ok(summary)
    }

    fn complaints(&self, measured: &Measured, late: bool) -> Vec<String> {
        let Verdict { lost, duplicates, out_of_order, misplaced, unanswered, .. } =
            self.ledger.verdict();
        let mut complaints = Vec::new();
        let mut complain = |count: u64, text: &str| {
            if count > 0 {
                complaints.push(format!("{count} {text}"));
            }
        };
        complain(lost, "deliveries are missing");
        complain(duplicates, "messages reached an application again");
        complain(out_of_order, "messages reached an application out of order");
        complain(misplaced, "messages reached the wrong application, or under another number");
        complain(unanswered, "messages were not accepted in time");
        complain(measured.unacknowledged, "devices have messages that are not acknowledged");
        complain(self.resets, "times a device was told that its place does not exist");
        let offline = u64::from(self.plan.devices - self.online_count);
        complain(offline, "devices are not connected");
        if self.plan.kill != Some(Victim::Broker) {
            complain(measured.dropped_connections, "connections were closed by the broker");
        }
        if late {
            complaints.push(format!("the deadline of {} s passed", self.plan.deadline.as_secs()));
        }
        complaints.extend(
            self.ledger.missing(EXAMPLES_MAX).into_iter().map(|line| format!("missing {line}")),
        );
        complaints
    }
}

/// Whether nothing waits in the device's inbox, now or before the deadline.
async fn is_settled(
    client: &Client,
    app: &str,
    device: u32,
    deadline: Instant,
) -> anyhow::Result<bool> {
    loop {
        match client.waiting(app, &device_name(device)).await {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.may_retry() => {}
            Err(error) => return Err(error).context("cannot ask for a device"),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Microseconds up to an hour, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(3_600_000_000, 3).expect("the bounds are constants")
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        Latency {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: milliseconds(histogram.max()),
        }
    }
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            devices: 10,
            messages: 0,
            group_messages: 6,
            topics: 2,
            control_nodes: 1,
            store: Store::Embedded,
            kill: None,
            data_dir: None,
            deadline: Duration::ZERO,
        }
    }

    #[test]
    fn group_messages_take_turns() {
        use Audience::{All, Topic};
        assert_eq!(plan().audiences(), [All, Topic(0), All, Topic(1), All, Topic(0)]);
        assert_eq!(Plan { topics: 0, group_messages: 2, ..plan() }.audiences(), [All, All]);
    }

    #[test]
    fn latency_is_in_milliseconds() {
        let mut histogram = histogram();
        for us in 1..=1000 {
            histogram.record(us * 1000).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50_ms - 500.0).abs() < 1.0, "{latency:?}");
        assert!((latency.p99_ms - 990.0).abs() < 1.0, "{latency:?}");
        assert!((latency.max_ms - 1000.0).abs() < 1.0, "{latency:?}");
    }
}
