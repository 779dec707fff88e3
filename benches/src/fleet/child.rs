//! The process of a fleet: its loop, and the commands one after another.

use std::cmp::Reverse;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, bail};
use hawser_codec::ids::TopicId;
use hawser_codec::session::Session;

use super::Net;
use super::command::{Answer, Asked, Back, Command, Counted, Limits, Opened, Pace, Received};
use super::crowd::Crowd;
use super::device::{Device, Question};
use super::handle::{Kind, Protocol, Speech};
use super::hawser;
use super::latency::Latency;
use super::sockets::Sockets;
use super::tun::{TunNet, Wire};
use super::watch::{SLOWEST_MS, Watch};
use crate::io::{monotonic_ns, raise_descriptor_limit};
use crate::mqtt::client::{self, Client};
use crate::tickets::{Issuer, Signing, Tickets};

/// What happens between two looks at the clock.
const BATCH: usize = 256;

/// While something is paced, the loop must not sleep longer.
const PACED_WAIT_MS: i32 = 1;
const IDLE_WAIT_MS: i32 = 20;

const BUFFER_BYTES: usize = 64 * 1024;

/// A point of the curve every so many connections.
const CURVE_STEP: u32 = 50_000;

/// Rare enough that nobody need read them for half an hour: a pipe holds 64 KiB.
const PROGRESS_MS: u64 = 1_000;
/// When the owner counts what all parts of the fleet have.
const SHARE_MS: u64 = 20;

/// No answer has come for so long, so none will. Questions take no memory that counts.
const ANSWERED: Limits = Limits { free_min_bytes: 0, quiet_ms: 30_000 };

/// How long the last devices of a churn may take to come back.
const CHURN_GRACE_MS: u64 = 60_000;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    server: SocketAddr,
    /// The processor of the server
    #[arg(long)]
    server_cpu: usize,
    /// The number of the first device
    #[arg(long)]
    first: u32,
    /// The devices there may ever be
    #[arg(long)]
    devices: u32,
    #[command(flatten)]
    speech: Speech,
    #[arg(long, value_enum)]
    tickets: Signing,
    #[arg(long)]
    issuer: Issuer,
    #[arg(long)]
    topic: Option<String>,
    #[arg(long, default_value = "")]
    up: Wire,
    #[arg(long, default_value = "")]
    down: Wire,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    raise_descriptor_limit()?;
    match arguments.speech.protocol {
        Protocol::Hawser => {
            let Arguments { tickets, issuer, first, devices, .. } = *arguments;
            let topics = arguments.topic.iter().map(|topic| TopicId::new(topic)).collect();
            let script = hawser::Script::new(Tickets::new(tickets, issuer, first, devices), topics);
            serve::<Session>(arguments, script)
        }
        Protocol::Mqtt => {
            let script = client::Script { first: arguments.first, qos: arguments.speech.qos() };
            serve::<Client>(arguments, script)
        }
    }
}

fn serve<D: Device>(arguments: &Arguments, script: D::Script) -> anyhow::Result<()> {
    match arguments.kind {
        Kind::Tun => {
            let net = TunNet::new(
                arguments.server,
                arguments.server_cpu,
                arguments.up,
                arguments.down,
            ).context(
                "a TUN device cannot be made; load its module (modprobe tun), see that /dev/net/tun \
                 exists and may be opened, or use --fleet sockets",
            )?;
            Child::<_, D>::new(Crowd::new(net, script, 0)).run()
        }
        Kind::Sockets => {
            let net = Sockets::new(arguments.server, arguments.first)?;
            Child::<_, D>::new(Crowd::new(net, script, 0)).run()
        }
    }
}

struct Child<N, D: Device> {
    crowd: Crowd<N, D>,
    start: Instant,
    now_ms: u64,
    buffer: Vec<u8>,
    progress_ms: u64,
}

impl<N: Net, D: Device> Child<N, D> {
    fn new(crowd: Crowd<N, D>) -> Child<N, D> {
        let buffer = vec![0; BUFFER_BYTES];
        Child { crowd, start: Instant::now(), now_ms: 0, buffer, progress_ms: 0 }
    }

    fn run(mut self) -> anyhow::Result<()> {
        answer(&Answer::Ready)?;
        let stdin = io::stdin();
        loop {
            if !self.turn(IDLE_WAIT_MS)? {
                continue;
            }
            let mut line = String::new();
            // One command at a time, so nothing is left in the buffer behind this line.
            if stdin.lock().read_line(&mut line)? == 0 {
                return Ok(());
            }
            let command = serde_json::from_str(&line).context("a command")?;
            let said = match self.obey(command) {
                Ok(said) => said,
                Err(error) => Answer::Failed(format!("{error:#}")),
            };
            answer(&said)?;
        }
    }

    /// One round of everything; whether there is a command. Sleeps when nothing has happened.
    fn turn(&mut self, wait_ms: i32) -> io::Result<bool> {
        self.now_ms = self.start.elapsed().as_millis() as u64;
        let more = self.crowd.listen(&mut self.buffer, BATCH, self.now_ms)?;
        self.crowd.on_time(BATCH, self.now_ms)?;
        self.crowd.net.flush(self.now_ms)?;
        if more {
            return Ok(false);
        }
        self.crowd.net.wait(wait_ms)
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<Answer> {
        self.crowd.tally.latency = Latency::default();
        match command {
            Command::Open { total, rate, window, limits } => {
                self.open(total, rate, window, limits).map(Answer::Opened)
            }
            Command::Ping { count, pace } => self.ask(Question::Ping, count, pace, u64::MAX),
            Command::Pull { count, pace } => self.ask(Question::Pull, count, pace, u64::MAX),
            Command::Verify { window } => {
                let (count, turns) = (self.crowd.online.into(), self.crowd.len().into());
                self.ask(Question::Ping, count, Pace::Window(window), turns)
            }
            Command::Expect { messages, quiet_ms, resume } => {
                self.stall(resume, false);
                self.expect(messages, quiet_ms)
            }
            Command::Enough => Ok(Answer::Armed),
            Command::Stall { devices } => {
                self.stall(devices, true);
                Ok(Answer::Armed)
            }
            Command::Storm { devices, limits } => self.storm(devices, limits),
            Command::Churn { rate, seconds, limits } => self.churn(rate, seconds, limits),
            Command::Count => Ok(Answer::Counted(self.count())),
        }
    }

    fn open(
        &mut self,
        total: u32,
        rate: Option<f64>,
        window: u32,
        limits: Limits,
    ) -> anyhow::Result<Opened> {
        self.crowd.reserve(total as usize)?;
        let (begun, before) = (Instant::now(), self.crowd.len());
        let mut curve = Vec::new();
        let (mut mark, mut mark_at) = (self.crowd.online, Instant::now());
        let more = total.saturating_sub(before);
        let paced_ms = rate.map_or(0.0, |rate| f64::from(more) / rate * 1000.0);
        let longest_ms = limits.quiet_ms + u64::from(more) * SLOWEST_MS + 2 * paced_ms as u64;
        let mut watch = Watch::new(limits, longest_ms, self.crowd.ready.into(), self.now_ms);
        let mut stopped = None;
        while self.crowd.ready < total && stopped.is_none() {
            let due = match rate {
                None => total,
                Some(rate) => before.saturating_add((begun.elapsed().as_secs_f64() * rate) as u32),
            };
            let mut burst = BATCH;
            while self.crowd.len() < due.min(total) && self.crowd.connecting < window && burst > 0 {
                self.crowd.add(self.now_ms)?;
                burst -= 1;
            }
            self.turn(PACED_WAIT_MS)?;
            if self.crowd.online >= mark + CURVE_STEP {
                let per_s = f64::from(self.crowd.online - mark) / mark_at.elapsed().as_secs_f64();
                curve.push((self.crowd.online, per_s.round()));
                (mark, mark_at) = (self.crowd.online, Instant::now());
            }
            stopped = self.stops(&mut watch, self.crowd.ready.into())?;
            self.progress(self.crowd.ready.into(), total.into())?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if stopped.is_some() {
            self.crowd.close(self.now_ms);
        }
        Ok(Opened { online: self.crowd.online, ready: self.crowd.ready, seconds, curve, stopped })
    }

    /// Why to give up, with what the server said, if it is time to.
    fn stops(&self, watch: &mut Watch, done: u64) -> io::Result<Option<String>> {
        Ok(watch.ends(done, self.now_ms)?.map(|why| format!("{why} ({})", self.closes())))
    }

    /// Why connections ended until now, the most frequent reason first.
    fn closes(&self) -> String {
        let mut closes: Vec<_> = self.crowd.tally.closes.iter().collect();
        closes.sort_by_key(|&(reason, count)| (Reverse(count), reason));
        let closes: Vec<String> =
            closes.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        if closes.is_empty() { "no answer at all".to_owned() } else { closes.join(", ") }
    }

    /// Asks so many, each device in its turn if it is online. With as many `turns` as devices none is
    /// asked twice.
    fn ask(
        &mut self,
        what: Question,
        count: u64,
        pace: Pace,
        mut turns: u64,
    ) -> anyhow::Result<Answer> {
        if self.crowd.online == 0 {
            bail!("no device is online ({})", self.closes());
        }
        self.crowd.tally.asked.clear();
        self.crowd.tally.answered = 0;
        let begun_ns = monotonic_ns();
        let (mut sent, mut device) = (0, 0);
        let paced_ms = match pace {
            Pace::Rate(rate) => 2_000 * count / u64::from(rate.max(1)),
            Pace::Window(_) => 0,
        };
        let longest_ms = ANSWERED.quiet_ms + count * SLOWEST_MS + paced_ms;
        let mut watch = Watch::new(ANSWERED, longest_ms, 0, self.now_ms);
        loop {
            let (due, window) = match pace {
                Pace::Rate(rate) => {
                    let due =
                        (monotonic_ns() - begun_ns) as u128 * u128::from(rate) / 1_000_000_000;
                    (count.min(due as u64 + 1), usize::MAX)
                }
                Pace::Window(window) => (count, window as usize),
            };
            let mut burst = BATCH;
            while sent < due && self.crowd.tally.asked.len() < window && burst > 0 && turns > 0 {
                let due_ns = match pace {
                    Pace::Rate(rate) => begun_ns + sent * 1_000_000_000 / u64::from(rate),
                    Pace::Window(_) => monotonic_ns(),
                };
                sent += u64::from(self.crowd.ask(device, what, due_ns, self.now_ms)?);
                device = (device + 1) % self.crowd.len();
                burst -= 1;
                turns -= 1;
            }
            self.turn(if sent < count { PACED_WAIT_MS } else { IDLE_WAIT_MS })?;
            let answered = self.crowd.tally.answered;
            let is_said = sent == count || turns == 0;
            let is_over = is_said && (answered == count || self.crowd.tally.asked.is_empty());
            let stopped = if is_over { None } else { self.stops(&mut watch, answered)? };
            if is_over || stopped.is_some() {
                let seconds = (monotonic_ns() - begun_ns) as f64 / 1e9;
                let latency = std::mem::take(&mut self.crowd.tally.latency);
                return Ok(Answer::Asked(Asked { sent, answered, seconds, stopped, latency }));
            }
            self.progress(answered, count)?;
        }
    }

    fn expect(&mut self, messages: u64, quiet_ms: Option<u64>) -> anyhow::Result<Answer> {
        (self.crowd.tally.messages, self.crowd.tally.repeats) = (0, 0);
        answer(&Answer::Armed)?;
        // How long the sender takes is its own affair: what does not come ends it.
        let limits = Limits { free_min_bytes: 0, quiet_ms: quiet_ms.unwrap_or(u64::MAX) };
        let every_ms = quiet_ms.map_or(SHARE_MS, |_| PROGRESS_MS);
        let mut watch = Watch::new(limits, u64::MAX, 0, self.now_ms);
        loop {
            let is_enough = self.turn(IDLE_WAIT_MS)?;
            let tally = &self.crowd.tally;
            let is_all = quiet_ms.is_some() && tally.messages >= messages;
            if is_enough || is_all || watch.ends(tally.messages, self.now_ms)?.is_some() {
                return Ok(Answer::Received(Received {
                    messages: tally.messages,
                    repeats: tally.repeats,
                    last_ns: tally.last_message_ns,
                    latency: tally.latency.clone(),
                }));
            }
            self.progress_every(every_ms, self.crowd.tally.messages, messages)?;
        }
    }

    fn stall(&mut self, devices: u32, stalled: bool) {
        for device in 0..devices.min(self.crowd.len()) {
            self.crowd.net.stall(device, stalled);
        }
    }

    fn storm(&mut self, devices: u32, limits: Limits) -> anyhow::Result<Answer> {
        self.crowd.tally.dialled = Some(Default::default());
        let (begun, wanted) = (Instant::now(), self.crowd.online);
        let mut left = 0;
        for device in 0..devices.min(self.crowd.len()) {
            if self.crowd.is_online(device) {
                self.crowd.break_off(device, self.now_ms);
                left += 1;
                if left % BATCH as u64 == 0 {
                    self.crowd.net.flush(self.now_ms)?;
                }
            }
        }
        let longest_ms = limits.quiet_ms + left * SLOWEST_MS;
        let mut watch = Watch::new(limits, longest_ms, self.crowd.online.into(), self.now_ms);
        let mut stopped = None;
        while self.crowd.online < wanted && stopped.is_none() {
            self.turn(PACED_WAIT_MS)?;
            stopped = self.stops(&mut watch, self.crowd.online.into())?;
            let missing = wanted.saturating_sub(self.crowd.online);
            self.progress(left.saturating_sub(missing.into()), left)?;
        }
        Ok(self.back(left, wanted, begun, stopped))
    }

    fn churn(&mut self, rate: u32, seconds: u32, limits: Limits) -> anyhow::Result<Answer> {
        self.crowd.tally.dialled = Some(Default::default());
        let (begun, wanted) = (Instant::now(), self.crowd.online);
        let total = u64::from(rate) * u64::from(seconds);
        let (mut left, mut device) = (0, 0);
        let longest_ms = u64::from(seconds) * 1000 + CHURN_GRACE_MS;
        let mut watch = Watch::new(limits, longest_ms, 0, self.now_ms);
        let mut stopped = None;
        while (left < total || self.crowd.online < wanted) && stopped.is_none() {
            let due = total.min((begun.elapsed().as_secs_f64() * f64::from(rate)) as u64);
            let mut tries = self.crowd.len();
            while left < due && tries > 0 {
                if self.crowd.is_online(device) {
                    // Half of them say goodbye, the others vanish.
                    match left % 2 {
                        0 => self.crowd.leave(device, self.now_ms),
                        _ => self.crowd.break_off(device, self.now_ms),
                    }
                    left += 1;
                }
                device = (device + 1) % self.crowd.len();
                tries -= 1;
            }
            self.turn(PACED_WAIT_MS)?;
            // Those that come back make it possible that others leave; at the end they are all.
            let back = if left < total { 0 } else { u64::from(self.crowd.online) };
            stopped = self.stops(&mut watch, left + back)?;
            self.progress(left, total)?;
        }
        Ok(self.back(left, wanted, begun, stopped))
    }

    fn back(&mut self, left: u64, wanted: u32, begun: Instant, stopped: Option<String>) -> Answer {
        self.crowd.tally.dialled = None;
        if stopped.is_some() {
            self.crowd.close(self.now_ms);
        }
        let missing = wanted.saturating_sub(self.crowd.online);
        Answer::Back(Back {
            left,
            back: left.saturating_sub(missing.into()),
            seconds: begun.elapsed().as_secs_f64(),
            stopped,
            connect: std::mem::take(&mut self.crowd.tally.latency),
        })
    }

    fn count(&self) -> Counted {
        let tally = &self.crowd.tally;
        let owned = |(name, count): (&str, u64)| (name.to_owned(), count);
        Counted {
            online: self.crowd.online,
            lost: tally.lost(),
            closes: tally
                .closes
                .iter()
                .map(|(&reason, &count)| (reason.to_owned(), count))
                .collect(),
            memory_bytes: self.crowd.memory_bytes() as u64,
            net: self.crowd.net.counters().into_iter().map(owned).collect(),
        }
    }

    fn progress(&mut self, done: u64, of: u64) -> io::Result<()> {
        self.progress_every(PROGRESS_MS, done, of)
    }

    fn progress_every(&mut self, every_ms: u64, done: u64, of: u64) -> io::Result<()> {
        if self.now_ms >= self.progress_ms + every_ms {
            self.progress_ms = self.now_ms;
            answer(&Answer::Progress { done, of })?;
        }
        Ok(())
    }
}

fn answer(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer).expect("an answer has a form"))?;
    out.flush()
}
