//! Several servers under the same loads in one run: each on the same processor, all with their
//! devices there at the same time, and measured in turn within every round, so that a change of the
//! machine's speed meets them alike.
//!
//! A server that fails is left out from there on and named at the end; what was measured before is
//! recorded. Rows of one run share its name, from which `report` draws bars.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::say;
use super::side::{Measured, Side, measured, one_to_all, singles};
use super::stage::BARE;
use crate::figure::Unit;
use crate::fleet::command::Pace;
use crate::io::monotonic_ns;
use crate::results::Output;
use crate::rows::{OURS, SHARE};
use crate::spread::{Spread, median};

/// What does not arrive within this is lost.
const QUIET_MS: u64 = 3_000;

/// Questions that wait for an answer at a time.
const WINDOW: u32 = 1024;

/// A round of the search for a highest rate: a second's worth, within these. The least is also what a
/// load is tried with before that is known.
const BURST_MIN: u64 = 2_000;
const BURST_MAX: u64 = 300_000;

/// And of one device no more than sockets surely hold, since a server without a queue drops the rest.
const BURST_PER_DEVICE: u64 = 256;

/// The names are those of EMQX's benchmarks where it has the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Connections are made and held
    ConnTcp,
    /// Heartbeats of devices, answered by the server
    Ping,
    /// One message to all devices, time after time
    Fanout,
    /// 5 publishers, 1,000 subscribers, each message to all, at --rate messages a second
    #[value(name = "fanout-5-1000")]
    Fanout5To1000,
    /// Single messages to single devices
    P2p,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::ConnTcp => "conn-tcp",
            Load::Ping => "ping",
            Load::Fanout => "fanout",
            Load::Fanout5To1000 => "fanout-5-1000",
            Load::P2p => "p2p",
        }
    }
}

/// How long it is measured, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Length {
    /// Rounds in which every server is measured once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long a rate is kept up when latencies are taken
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(8..=4096))]
    pub payload: u16,
    /// Devices that are connecting at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub connect_window: u32,
    /// Give up on a server when no device gets further for so long
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub quiet_s: u64,
}

pub struct Contender {
    side: Box<dyn Side>,
    /// The same in every one of its rows.
    common: Value,
    /// Of the load that is being measured.
    marks: Marks,
    /// For the table at the end.
    told: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Marks {
    rates: Vec<f64>,
    cpu_ns: Vec<f64>,
    sent: u64,
    received: u64,
    burst: u64,
}

impl Marks {
    fn take(&mut self, one: &Measured) {
        self.rates.push(one.rate);
        self.cpu_ns.extend(one.cpu_ns);
        self.sent += one.sent;
        self.received += one.arrived;
    }

    fn rate(&self) -> Spread {
        Spread::of(self.rates.iter().copied())
    }
}

impl Contender {
    pub fn new(side: Box<dyn Side>, protocol: &str, config: Option<String>) -> Contender {
        let common = json!({
            "fleet": "sockets",
            "server": side.name(),
            "protocol": protocol,
            "server_config": config,
        });
        Contender { side, common, marks: Marks::default(), told: Vec::new() }
    }

    fn name(&self) -> String {
        self.side.name().to_owned()
    }
}

pub struct Contest<'a> {
    /// The command that asked for it.
    pub command: &'a str,
    pub connections: u32,
    pub length: &'a Length,
    /// Messages a second of [`Load::Fanout5To1000`].
    pub rate: u32,
    pub output: &'a Output,
}

impl Contest<'_> {
    /// Measures all and records their rows.
    pub fn run(&self, mut contenders: Vec<Contender>, loads: &[Load]) -> anyhow::Result<()> {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let run = format!("{}-{unix_s}", self.command);
        let mut out = Vec::new();
        for one in &mut contenders {
            one.common["run"] = json!(run);
            one.common["connections"] = json!(self.connections);
        }
        self.connect(&mut contenders, &mut out, loads.contains(&Load::ConnTcp))?;
        for load in loads {
            contenders.iter_mut().for_each(|one| one.marks = Marks::default());
            match load {
                Load::ConnTcp => {}
                Load::Ping => self.ping(&mut contenders, &mut out)?,
                Load::Fanout => self.fan_out(&mut contenders, &mut out)?,
                Load::Fanout5To1000 => self.steadily(&mut contenders, &mut out)?,
                Load::P2p => self.push(&mut contenders, &mut out)?,
            }
        }
        if !self.output.json {
            contenders.sort_by_key(Contender::name);
            println!("{} connections, run {run}", self.connections);
            contenders.iter().for_each(tell);
        }
        if !out.is_empty() {
            bail!("left out: {}", out.join("; "));
        }
        Ok(())
    }

    fn connect(
        &self,
        contenders: &mut Vec<Contender>,
        out: &mut Vec<String>,
        is_recorded: bool,
    ) -> anyhow::Result<()> {
        each(contenders, out, |one| {
            say(&format!("{}: connecting", one.side.name()));
            let empty = one.side.private_bytes()?;
            let cpu_before_ns = one.side.server_cpu_ns()?;
            let opened = one.side.open_all(self.connections)?;
            let cpu_ns = one.side.server_cpu_ns()?;
            let count = u64::from(self.connections);
            let checked = one.side.fleet().verify(WINDOW)?;
            ensure!(
                checked.answered == count,
                "{} of {count} heartbeats were answered",
                checked.answered
            );
            let full = one.side.private_bytes()?;
            let per = |bytes: u64| (bytes as f64 / count as f64).round();
            let mut values = one.common.clone();
            values["load"] = json!(Load::ConnTcp.name());
            values["established"] = json!(opened.online);
            values["setup_per_s"] = json!((count as f64 / opened.seconds).round());
            if let Some((full, empty)) = full.zip(empty) {
                let user = per(full.saturating_sub(empty));
                values["user_bytes_per_conn"] = json!(user);
                values["user_bytes_per_conn_with_all"] = json!(per(full));
                one.told.push(("memory", format!("{} a connection", Unit::Bytes.text(user))));
            }
            if let Some((after, before)) = cpu_ns.zip(cpu_before_ns) {
                values["setup_cpu_ns"] =
                    json!((after.saturating_sub(before) as f64 / count as f64).round());
            }
            let rate = count as f64 / opened.seconds;
            one.told.push(("set-up", Unit::PerSecond.text(rate)));
            if is_recorded { self.row("connections", "", one, values) } else { Ok(()) }
        });
        ensure!(!contenders.is_empty(), "no server is left: {}", out.join("; "));
        Ok(())
    }

    fn ping(&self, contenders: &mut Vec<Contender>, out: &mut Vec<String>) -> anyhow::Result<()> {
        each(contenders, out, |one| {
            let trial = one.side.fleet().ping(self.burst(0.0), Pace::Window(WINDOW))?;
            one.marks.burst = self.burst(trial.answered as f64 / trial.seconds);
            Ok(())
        });
        self.rounds(contenders, out, |one| {
            let before_ns = one.side.server_cpu_ns()?;
            let count = one.marks.burst;
            let asked = one.side.fleet().ping(count, Pace::Window(WINDOW))?;
            ensure!(asked.answered == count, "{} of {count} were answered", asked.answered);
            one.marks.rates.push(asked.answered as f64 / asked.seconds);
            let used_ns = one.side.server_cpu_ns()?.zip(before_ns);
            let used_ns = used_ns.map(|(after, before)| after.saturating_sub(before));
            one.marks.cpu_ns.extend(used_ns.map(|ns| ns as f64 / count as f64));
            Ok(())
        });
        each(contenders, out, |one| {
            let highest = one.marks.rate().median;
            let half = half_of(highest) as u32;
            let count = u64::from(half) * u64::from(self.length.seconds);
            let asked = one.side.fleet().ping(count, Pace::Rate(half))?;
            let mut values = one.common.clone();
            values["load"] = json!(Load::Ping.name());
            values["highest_rate"] = json!(highest.round());
            put_cpu(one, &mut values, "heartbeat");
            values["rate"] = json!(half);
            values[SHARE] = json!(50);
            values["rate_reached"] = json!((asked.answered as f64 / asked.seconds).round());
            asked.latency.put("", &mut values);
            one.told.push(("heartbeats", Unit::PerSecond.text(highest)));
            self.row("heartbeat", ", half of the highest rate", one, values)
        });
        Ok(())
    }

    fn fan_out(
        &self,
        contenders: &mut Vec<Contender>,
        out: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let payload = vec![b'm'; self.length.payload.into()];
        let message =
            |one: &mut Contender| one_to_all(&mut *one.side, self.connections, &payload, QUIET_MS);
        // Once without counting: code, caches and buffers.
        each(contenders, out, |one| message(one)?.whole(&mut *one.side).map(drop));
        self.rounds(contenders, out, |one| {
            let round = message(one)?;
            one.marks.take(&round);
            Ok(())
        });
        let floor = contenders.iter().find(|one| one.side.name() == BARE);
        let floor = floor.map(|floor| floor.marks.rates.clone());
        each(contenders, out, |one| {
            let rate = one.marks.rate();
            let mut values = one.common.clone();
            values["load"] = json!(Load::Fanout.name());
            values["payload_bytes"] = json!(self.length.payload);
            values["rounds"] = json!(self.length.rounds);
            values["rate"] = json!(rate.median.round());
            values["rate_quartiles"] = json!([rate.low.round(), rate.high.round()]);
            values["sent"] = json!(one.marks.sent);
            values["received"] = json!(one.marks.received);
            put_cpu(one, &mut values, "message");
            one.told.push(("fan-out", Unit::PerSecond.text(rate.median)));
            if let Some(floor) = floor.as_ref().filter(|_| one.side.name() != BARE) {
                let ratio =
                    median(one.marks.rates.iter().zip(floor).map(|(rate, bare)| rate / bare));
                let ratio = ratio.expect("there are rounds");
                values["ratio_to_floor"] = json!(ratio);
                values["floor_rate"] = json!(Spread::of(floor.iter().copied()).median.round());
                one.told.push(("of the bare server's", Unit::Share.text(ratio)));
            }
            self.row("fanout", "", one, values)
        });
        Ok(())
    }

    fn push(&self, contenders: &mut Vec<Contender>, out: &mut Vec<String>) -> anyhow::Result<()> {
        let bytes = usize::from(self.length.payload);
        let messages = |one: &mut Contender, count, rate| {
            singles(&mut *one.side, count, rate, bytes, QUIET_MS)
        };
        each(contenders, out, |one| {
            one.marks.burst = self.burst(messages(one, self.burst(0.0), 0)?.rate);
            Ok(())
        });
        self.rounds(contenders, out, |one| {
            let round = messages(one, one.marks.burst, 0)?;
            one.marks.take(&round);
            Ok(())
        });
        each(contenders, out, |one| {
            let half = half_of(one.marks.rate().median);
            self.push_at(one, half, true)
        });
        // What is half a load for one is too much for another, so once more at one rate: half of the
        // best other server's.
        let highest = |one: &Contender| one.marks.rate().median;
        let others = contenders.iter().filter(|one| ![OURS, BARE].contains(&one.side.name()));
        let Some(best) = others.map(highest).reduce(f64::max) else { return Ok(()) };
        each(contenders, out, |one| match half_of(best) {
            rate if rate as f64 > highest(one) => Ok(()),
            rate => self.push_at(one, rate, false),
        });
        Ok(())
    }

    /// Single messages at a rate: the server's own half, or one that is the same for all.
    fn push_at(&self, one: &mut Contender, rate: u64, is_own: bool) -> anyhow::Result<()> {
        let bytes = usize::from(self.length.payload);
        let mut send = |count| singles(&mut *one.side, count, rate, bytes, QUIET_MS);
        // A second to warm up.
        send(rate)?;
        let steady = send(rate * u64::from(self.length.seconds))?;
        let highest = one.marks.rate().median;
        let mut values = one.common.clone();
        values["load"] = json!(Load::P2p.name());
        values["payload_bytes"] = json!(self.length.payload);
        values["highest_rate"] = json!(highest.round());
        values["highest_lost"] = json!(one.marks.sent - one.marks.received);
        values["rate"] = json!(rate);
        values["sent"] = json!(steady.sent);
        values["received"] = json!(steady.arrived);
        steady.put("", &mut values);
        if !is_own {
            values["load"] = json!(format!("{} at the same rate", Load::P2p.name()));
            one.told.push(("at one rate for all", Unit::PerSecond.text(rate as f64)));
            tell_latency(&steady, one);
            return self.row("push", ", the same rate for all", one, values);
        }
        values[SHARE] = json!(50);
        one.told.push(("single messages", Unit::PerSecond.text(highest)));
        put_cpu(one, &mut values, "message");
        one.told.push(("at half of that", Unit::PerSecond.text(rate as f64)));
        tell_latency(&steady, one);
        self.row("push", ", half of the highest rate", one, values)
    }

    /// Each message to all, at a rate that is the same for all servers.
    fn steadily(
        &self,
        contenders: &mut Vec<Contender>,
        out: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let count = u64::from(self.rate) * u64::from(self.length.seconds);
        let sent = count * u64::from(self.connections);
        each(contenders, out, |one| {
            let send = |side: &mut dyn Side| self.paced(side, count);
            let steady = measured(&mut *one.side, sent, QUIET_MS, send, |side| side.fanned_out())?;
            let mut values = one.common.clone();
            values["load"] = json!(Load::Fanout5To1000.name());
            values["publishers"] = json!(PUBLISHERS);
            values["payload_bytes"] = json!(self.length.payload);
            values["messages_per_s"] = json!(self.rate);
            values["sent"] = json!(sent);
            values["received"] = json!(steady.arrived);
            one.marks.take(&steady);
            put_cpu(one, &mut values, "message");
            steady.put("", &mut values);
            one.told.push(("deliveries", Unit::PerSecond.text(steady.rate)));
            tell_latency(&steady, one);
            let scenario = format!(", {}, {} messages/s", Load::Fanout5To1000.name(), self.rate);
            self.row("fanout", &scenario, one, values)
        });
        Ok(())
    }

    fn paced(&self, side: &mut dyn Side, count: u64) -> anyhow::Result<()> {
        let mut payload = vec![b'm'; self.length.payload.into()];
        let begun_ns = monotonic_ns();
        for number in 0..count {
            let due_ns = begun_ns + number * 1_000_000_000 / u64::from(self.rate);
            let early_ns = due_ns.saturating_sub(monotonic_ns());
            std::thread::sleep(Duration::from_nanos(early_ns));
            payload[..8].copy_from_slice(&due_ns.to_le_bytes());
            side.fan_out(&payload)?;
        }
        Ok(())
    }

    /// The size of a round at this rate.
    fn burst(&self, rate: f64) -> u64 {
        let most = u64::from(self.connections) * BURST_PER_DEVICE;
        (rate as u64).clamp(BURST_MIN, BURST_MAX).min(most)
    }

    /// In every round another one is first.
    fn rounds(
        &self,
        contenders: &mut Vec<Contender>,
        out: &mut Vec<String>,
        mut act: impl FnMut(&mut Contender) -> anyhow::Result<()>,
    ) {
        for round in 1..=self.length.rounds {
            say(&format!("round {round} of {}", self.length.rounds));
            each(contenders, out, &mut act);
            if !contenders.is_empty() {
                contenders.rotate_left(1);
            }
        }
    }

    fn row(
        &self,
        benchmark: &str,
        scenario: &str,
        one: &Contender,
        values: Value,
    ) -> anyhow::Result<()> {
        let scenario = format!("{} over sockets{scenario}", self.connections);
        self.output.row(benchmark, &scenario, one.side.plan_hash(), values)
    }
}

/// Connections that publish in [`Load::Fanout5To1000`].
pub const PUBLISHERS: u32 = 5;

/// Does it with each; those that fail are out.
fn each(
    contenders: &mut Vec<Contender>,
    out: &mut Vec<String>,
    mut act: impl FnMut(&mut Contender) -> anyhow::Result<()>,
) {
    contenders.retain_mut(|one| match act(one) {
        Ok(()) => true,
        Err(error) => {
            out.push(format!("{}: {error:#}", one.side.name()));
            false
        }
    });
}

/// Each server at its own rate has the same share, so that rows of a run are of one kind for `report`.
fn half_of(rate: f64) -> u64 {
    ((rate / 2.0) as u64).max(1)
}

fn put_cpu(one: &mut Contender, values: &mut Value, what: &'static str) {
    if let Some(cpu_ns) = median(one.marks.cpu_ns.iter().copied()) {
        values["cpu_ns_per_message"] = json!(cpu_ns.round());
        one.told.push(("CPU", format!("{} a {what}", Unit::Nanoseconds.text(cpu_ns))));
    }
}

fn tell_latency(steady: &Measured, one: &mut Contender) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        if let Some(us) = steady.latency.at_us(quantile) {
            one.told.push((name, Unit::Microseconds.text(us)));
        }
    }
}

fn tell(one: &Contender) {
    println!("  {}", one.side.name());
    one.told.iter().for_each(|(name, text)| println!("    {name:<24}{text}"));
}
