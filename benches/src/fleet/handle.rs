//! A fleet as a scenario holds it: one process, or several that share the devices and whose answers
//! are added up.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::command::{Answer, Asked, Back, Command, Counted, Limits, Opened, Pace, Received};
use super::latency::Latency;
use super::listener::Listener;
use super::sockets::PER_PROCESS;
use super::tun::Wire;
use super::watch::Watch;
use crate::mqtt::packet::Qos;
use crate::process::{Helper, Owned, cpu_ns};
use crate::progress::Progress;
use crate::tickets::{Issuer, Signing};

/// Which kind of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// User-space TCP over a TUN device in a network of its own; needs root
    Tun,
    /// The kernel's sockets, which take memory of this machine for both ends
    Sockets,
}

/// What devices speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    #[default]
    /// hawser's own protocol
    Hawser,
    /// MQTT 3.1.1
    Mqtt,
}

/// The same with what MQTT leaves open.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Speech {
    /// What devices speak; mqtt needs a server that runs already (--target HOST:PORT)
    #[arg(long, value_enum, default_value = "hawser")]
    pub protocol: Protocol,
    /// At which QoS MQTT devices subscribe and messages are published, 0 or 1
    #[arg(long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=1))]
    pub qos: u8,
}

/// What a fleet is to be.
pub struct Plan<'a> {
    pub kind: Kind,
    pub speech: Speech,
    pub server: SocketAddr,
    /// The processor that it runs on.
    pub server_cpu: usize,
    pub devices: u32,
    pub tickets: Signing,
    pub issuer: Issuer,
    pub topic: Option<&'a str>,
    pub up: Wire,
    pub down: Wire,
}

/// How devices connect.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Connects a second; 0: as fast as `window` allows.
    pub rate: u32,
    pub window: u32,
    pub limits: Limits,
}

pub struct Fleet {
    members: Vec<Member>,
    expected: Expected,
}

/// What [`Fleet::received`] waits for.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    messages: u64,
    quiet_ms: u64,
}

struct Member {
    /// Ended with its owner.
    process: Owned,
    stdin: ChildStdin,
    listener: Listener,
    devices: u32,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tun => "tun",
            Kind::Sockets => "sockets",
        }
    }
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Hawser => "hawser",
            Protocol::Mqtt => "mqtt",
        }
    }
}

impl Speech {
    pub fn qos(self) -> Qos {
        if self.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce }
    }
}

impl Fleet {
    pub fn start(plan: &Plan<'_>, processor: usize) -> anyhow::Result<Fleet> {
        let processes = match plan.kind {
            Kind::Tun => 1,
            Kind::Sockets => plan.devices.div_ceil(PER_PROCESS),
        };
        let mut first = 0;
        let mut members = Vec::new();
        for index in 0..processes {
            let devices = plan.devices / processes + u32::from(index < plan.devices % processes);
            let mut arguments = vec![
                "fleet".to_owned(),
                format!("--kind={}", plan.kind.name()),
                format!("--protocol={}", plan.speech.protocol.name()),
                format!("--qos={}", plan.speech.qos),
                format!("--server={}", plan.server),
                format!("--server-cpu={}", plan.server_cpu),
                format!("--first={first}"),
                format!("--devices={devices}"),
                format!("--tickets={}", plan.tickets.name()),
                format!("--issuer={}", plan.issuer),
                format!("--up={}", plan.up),
                format!("--down={}", plan.down),
            ];
            arguments.extend(plan.topic.map(|topic| format!("--topic={topic}")));
            let (process, stdin, stdout) = Helper::start(&arguments, processor)?.apart();
            let listener = Listener::new(stdout);
            members.push(Member { process, stdin, listener, devices });
            first += devices;
        }
        let mut fleet = Fleet { members, expected: Expected::default() };
        fleet.hear("preparing tickets", |answer| matches!(answer, Answer::Ready).then_some(()))?;
        Ok(fleet)
    }

    /// Connects devices until there are `total`, or the answer says why not.
    pub fn open(&mut self, total: u32, how: &Opening) -> anyhow::Result<Opened> {
        let totals = self.shares(total.into());
        let devices: u32 = self.members.iter().map(|member| member.devices).sum();
        let windows = self.shares(how.window.into());
        for (index, member) in self.members.iter_mut().enumerate() {
            member.tell(&Command::Open {
                total: totals[index] as u32,
                rate: rate_of(how.rate, member.devices, devices),
                window: windows[index].max(1) as u32,
                limits: how.limits,
            })?;
        }
        let each = self.hear("connecting", |answer| match answer {
            Answer::Opened(opened) => Some(opened),
            _ => None,
        })?;
        let mut all = each.into_iter();
        let mut sum = all.next().expect("a fleet has a process");
        for one in all {
            sum.online += one.online;
            sum.ready += one.ready;
            sum.seconds = sum.seconds.max(one.seconds);
            sum.stopped = sum.stopped.or(one.stopped);
            // A curve of one process is not that of the server.
            sum.curve.clear();
        }
        Ok(sum)
    }

    pub fn ping(&mut self, count: u64, pace: Pace) -> anyhow::Result<Asked> {
        self.ask("heartbeats", count, pace, |count, pace| Command::Ping { count, pace })
    }

    /// Has every device that is online send a heartbeat, once. What is answered are devices.
    pub fn verify(&mut self, window: u32) -> anyhow::Result<Asked> {
        let windows = self.shares(window.into());
        for (member, window) in self.members.iter_mut().zip(windows) {
            member.tell(&Command::Verify { window: window.max(1) as u32 })?;
        }
        self.asked("heartbeats of all")
    }

    pub fn pull(&mut self, count: u64, pace: Pace) -> anyhow::Result<Asked> {
        self.ask("pulls", count, pace, |count, pace| Command::Pull { count, pace })
    }

    fn ask(
        &mut self,
        what: &str,
        count: u64,
        pace: Pace,
        command: impl Fn(u64, Pace) -> Command,
    ) -> anyhow::Result<Asked> {
        let counts = self.shares(count);
        let paces = self.shares(match pace {
            Pace::Rate(pace) | Pace::Window(pace) => pace.into(),
        });
        for ((member, count), share) in self.members.iter_mut().zip(counts).zip(paces) {
            let share = share.max(1) as u32;
            let pace = match pace {
                Pace::Rate(_) => Pace::Rate(share),
                Pace::Window(_) => Pace::Window(share),
            };
            member.tell(&command(count, pace))?;
        }
        self.asked(what)
    }

    fn asked(&mut self, what: &str) -> anyhow::Result<Asked> {
        let each = self.hear(what, |answer| match answer {
            Answer::Asked(asked) => Some(asked),
            _ => None,
        })?;
        let none = Asked {
            sent: 0,
            answered: 0,
            seconds: 0.0,
            stopped: None,
            latency: Latency::default(),
        };
        Ok(each.into_iter().fold(none, |mut sum, one| {
            sum.sent += one.sent;
            sum.answered += one.answered;
            sum.seconds = sum.seconds.max(one.seconds);
            sum.stopped = sum.stopped.or(one.stopped);
            sum.latency.add(&one.latency);
            sum
        }))
    }

    /// Counts messages from now on, until [`Fleet::received`].
    pub fn expect(&mut self, messages: u64, quiet_ms: u64) -> anyhow::Result<()> {
        self.expect_resuming(messages, quiet_ms, 0)
    }

    /// The same, and the first devices begin to read again.
    pub fn expect_resuming(
        &mut self,
        messages: u64,
        quiet_ms: u64,
        devices: u32,
    ) -> anyhow::Result<()> {
        self.expected = Expected { messages, quiet_ms };
        let quiet_ms = Some(quiet_ms).filter(|_| !self.is_several());
        let devices = self.shares(devices.into());
        for (member, resume) in self.members.iter_mut().zip(devices) {
            member.tell(&Command::Expect { messages, quiet_ms, resume: resume as u32 })?;
        }
        self.armed()
    }

    pub fn received(&mut self) -> anyhow::Result<Received> {
        if self.is_several() {
            self.wait_for_messages()?;
            self.members.iter_mut().try_for_each(|member| member.tell(&Command::Enough))?;
        }
        let each = self.hear("messages", |answer| match answer {
            Answer::Received(received) => Some(received),
            _ => None,
        })?;
        if self.is_several() {
            self.armed()?;
        }
        let none = Received { messages: 0, repeats: 0, last_ns: 0, latency: Latency::default() };
        Ok(each.into_iter().fold(none, |mut sum, one| {
            sum.messages += one.messages;
            sum.repeats += one.repeats;
            sum.last_ns = sum.last_ns.max(one.last_ns);
            sum.latency.add(&one.latency);
            sum
        }))
    }

    pub fn stall(&mut self, devices: u32) -> anyhow::Result<()> {
        let shares = self.shares(devices.into());
        for (member, devices) in self.members.iter_mut().zip(shares) {
            member.tell(&Command::Stall { devices: devices as u32 })?;
        }
        self.armed()
    }

    pub fn storm(&mut self, devices: u32, limits: Limits) -> anyhow::Result<()> {
        let shares = self.shares(devices.into());
        for (member, devices) in self.members.iter_mut().zip(shares) {
            member.tell(&Command::Storm { devices: devices as u32, limits })?;
        }
        Ok(())
    }

    pub fn churn(&mut self, rate: u32, seconds: u32, limits: Limits) -> anyhow::Result<()> {
        let shares = self.shares(rate.into());
        for (member, rate) in self.members.iter_mut().zip(shares) {
            member.tell(&Command::Churn { rate: rate as u32, seconds, limits })?;
        }
        Ok(())
    }

    /// The end of a storm, or of the churn.
    pub fn back(&mut self) -> anyhow::Result<Back> {
        let each = self.hear("coming back", |answer| match answer {
            Answer::Back(back) => Some(back),
            _ => None,
        })?;
        let none =
            Back { left: 0, back: 0, seconds: 0.0, stopped: None, connect: Latency::default() };
        Ok(each.into_iter().fold(none, |mut sum, one| {
            sum.left += one.left;
            sum.back += one.back;
            sum.seconds = sum.seconds.max(one.seconds);
            sum.stopped = sum.stopped.or(one.stopped);
            sum.connect.add(&one.connect);
            sum
        }))
    }

    pub fn count(&mut self) -> anyhow::Result<Counted> {
        self.members.iter_mut().try_for_each(|member| member.tell(&Command::Count))?;
        let each = self.hear("counting", |answer| match answer {
            Answer::Counted(counted) => Some(counted),
            _ => None,
        })?;
        let none =
            Counted { online: 0, lost: 0, closes: Vec::new(), memory_bytes: 0, net: Vec::new() };
        Ok(each.into_iter().fold(none, |mut sum, one| {
            sum.online += one.online;
            sum.lost += one.lost;
            sum.memory_bytes += one.memory_bytes;
            add_named(&mut sum.closes, one.closes);
            add_named(&mut sum.net, one.net);
            sum
        }))
    }

    /// Processor time of its processes until now, in nanoseconds.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        self.members.iter().map(|member| cpu_ns(member.process.id())).sum()
    }

    /// Nobody knows how many messages come to each of several processes: that they are all is seen
    /// from here.
    fn wait_for_messages(&self) -> anyhow::Result<()> {
        let Expected { messages, quiet_ms } = self.expected;
        let mut watch = Watch::new(Limits { free_min_bytes: 0, quiet_ms }, u64::MAX, 0, 0);
        let mut progress = Progress::new("messages");
        let begun = Instant::now();
        loop {
            for member in &self.members {
                match member.listener.answer(Duration::ZERO)? {
                    None => {}
                    Some(Answer::Failed(error)) => bail!("messages: {error}"),
                    Some(_) => bail!("the fleet answered something else while messages came"),
                }
            }
            let done = self.members.iter().map(|member| member.listener.progress().done).sum();
            progress.at(done, messages);
            let now_ms = begun.elapsed().as_millis() as u64;
            if done >= messages || watch.ends(done, now_ms)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn is_several(&self) -> bool {
        self.members.len() > 1
    }

    fn armed(&mut self) -> anyhow::Result<()> {
        self.hear("preparing", |answer| matches!(answer, Answer::Armed).then_some(())).map(drop)
    }

    /// A number divided over the processes as the devices are.
    fn shares(&self, total: u64) -> Vec<u64> {
        let devices: u64 = self.members.iter().map(|member| u64::from(member.devices)).sum();
        let (mut before, mut given) = (0, 0);
        let mut share = |member: &Member| {
            before += u64::from(member.devices);
            let until =
                (u128::from(total) * u128::from(before) / u128::from(devices.max(1))) as u64;
            until - std::mem::replace(&mut given, until)
        };
        self.members.iter().map(&mut share).collect()
    }

    /// The next answer of each process that is no progress. What one of them fails with ends it at
    /// once.
    fn hear<T>(
        &mut self,
        what: &str,
        expected: impl Fn(Answer) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut progress = Progress::new(what);
        let mut heard: Vec<Option<T>> = self.members.iter().map(|_| None).collect();
        while let Some(first) = heard.iter().position(Option::is_none) {
            for (index, member) in self.members.iter().enumerate() {
                if heard[index].is_some() {
                    continue;
                }
                let within = if index == first { LISTEN } else { Duration::ZERO };
                match member.listener.answer(within)? {
                    None => {}
                    Some(Answer::Failed(error)) => bail!("{what}: {error}"),
                    Some(answer) => match expected(answer) {
                        Some(answer) => heard[index] = Some(answer),
                        None => bail!("the fleet answered something else while {what}"),
                    },
                }
            }
            let all = self.members.iter().map(|member| member.listener.progress());
            let (done, of) = all.fold((0, 0), |(done, of), one| (done + one.done, of + one.of));
            progress.at(done, of);
        }
        Ok(heard.into_iter().map(|answer| answer.expect("all have answered")).collect())
    }
}

/// How long one process is waited for before the others are looked at.
const LISTEN: Duration = Duration::from_millis(100);

/// Between two looks at how many messages came.
const LOOK: Duration = Duration::from_millis(10);

impl Member {
    fn tell(&mut self, command: &Command) -> anyhow::Result<()> {
        let line = serde_json::to_string(command)? + "\n";
        Ok(self.stdin.write_all(line.as_bytes())?)
    }
}

/// The connects a second of a part of the fleet. They may be less than one, since none at all would
/// mean as many as there can be; 0 of the whole fleet means that.
fn rate_of(rate: u32, devices: u32, all: u32) -> Option<f64> {
    (rate > 0).then(|| f64::from(rate) * f64::from(devices) / f64::from(all.max(1)))
}

fn add_named(to: &mut Vec<(String, u64)>, from: Vec<(String, u64)>) {
    for (name, count) in from {
        match to.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => to.push((name, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::io::processors;

    /// A process to which so many messages come, and which says so until it is told that they are all.
    fn member(come: u64) -> Member {
        let received =
            Received { messages: come, repeats: 0, last_ns: come, latency: Latency::default() };
        let say = |answer: Answer| format!("echo '{}'", serde_json::to_string(&answer).unwrap());
        let script = [
            "read expect".to_owned(),
            say(Answer::Armed),
            say(Answer::Progress { done: come, of: 0 }),
            "read enough".to_owned(),
            say(Answer::Received(received)),
            say(Answer::Armed),
            "read end".to_owned(),
        ];
        let arguments = ["-c".to_owned(), script.join("\n")];
        let processor = processors().unwrap()[0];
        let helper = Helper::of(Path::new("/bin/sh"), &arguments, processor).unwrap();
        let (process, stdin, stdout) = helper.apart();
        Member { process, stdin, listener: Listener::new(stdout), devices: 5 }
    }

    #[test]
    fn messages_are_counted_over_all_processes() {
        let members = vec![member(7), member(2)];
        let mut fleet = Fleet { members, expected: Expected::default() };
        fleet.expect(9, 60_000).unwrap();
        let received = fleet.received().unwrap();
        assert_eq!((received.messages, received.last_ns), (9, 7));
    }

    #[test]
    fn a_rate_is_shared_and_stays_one() {
        let parts: Vec<f64> =
            [5, 5, 2].iter().map(|&devices| rate_of(2, devices, 12).expect("a rate")).collect();
        assert!(parts.iter().all(|&part| part > 0.0), "{parts:?}");
        assert!((parts.iter().sum::<f64>() - 2.0).abs() < 1e-9, "{parts:?}");
        assert_eq!(rate_of(0, 5, 12), None);
    }
}
