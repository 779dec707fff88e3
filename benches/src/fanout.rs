//! A group push through the broker beside a bare loop that sends the same bytes. `METHOD` says how.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use hawser_codec::device::Downlink;
use hawser_codec::ids::TopicId;
use serde_json::json;

use crate::connections::Clients;
use crate::control_end::ControlEnd;
use crate::io;
use crate::process::{Broker, Helper, cpu_ns, sibling};
use crate::results::Output;
use crate::sink::TOPIC;
use crate::spread::Spread;

pub const METHOD: &str = "\
How it is measured:
  Child processes hold two connections for each device: one to a real hawser-broker with one shard,
  where the device has joined a topic, and one to a bare process. A round is one message to all of
  one side, then one to all of the other; the sides change places every round.

  Broker: the control end inside this program writes one group entry to the shard's link.
  Bare: the bare process gets a line with the finished frame, and sends it to all its connections
  with io_uring: direct descriptors, 256 sends per call, no completion for a success.

  The same on both sides: the frame's bytes, the sockets' options, the number of sockets, the receiving processes and what
  they do (epoll, read, count), the processor that sends and the processor that receives, the clock
  (from the write that starts it until the last receiver has all bytes). Devices acknowledge nothing
  on either side. A round in which a byte is missing is an error.

  The rate is end to end, so receivers that are slower than the sender hide the sender. The server's
  own cost is therefore given too: processor time of all its threads per message, which includes the
  kernel's work for its sends.";

const RATE_AIM_PERCENT: f64 = 85.0;

/// A client process holds both lanes, within 20,000 descriptors.
const PER_CLIENT: u32 = 8_000;

#[derive(clap::Args)]
#[command(after_help = METHOD)]
pub struct Arguments {
    /// Devices that get each message
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(100..=18_000))]
    connections: u32,
    /// Rounds of one message on each side
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Bytes of the message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    payload: u32,
    /// Measure the bare loop as well
    #[arg(long)]
    floor: bool,
    /// The broker's binary; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    broker: Option<PathBuf>,
}

#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    cpu_ns: f64,
}

pub fn run(arguments: &Arguments, output: &Output) -> anyhow::Result<()> {
    let mut stage = Stage::set(arguments)?;
    // Once without counting: code, caches and buffers.
    stage.through_broker()?;
    if arguments.floor {
        stage.bare()?;
    }
    let (mut through_broker, mut bare) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        if arguments.floor && round % 2 == 0 {
            bare.push(stage.bare()?);
        }
        through_broker.push(stage.through_broker()?);
        if arguments.floor && round % 2 == 1 {
            bare.push(stage.bare()?);
        }
    }
    report(arguments, &stage.broker.plan_hash, &through_broker, &bare, output)
}

/// Both ends with all their connections.
struct Stage {
    connections: u32,
    payload: Vec<u8>,
    /// Before the other ends: dropped in this order, so that no client sees its connection end.
    clients: Clients,
    control: ControlEnd,
    broker: Broker,
    bare_end: Helper,
}

impl Stage {
    fn set(arguments: &Arguments) -> anyhow::Result<Stage> {
        let binary = sibling(arguments.broker.as_deref(), "hawser-broker")?;
        let connections = arguments.connections;
        let processors = io::processors()?;
        let (server_cpu, client_cpu) = (processors[0], processors[processors.len() - 1]);

        let control = ControlEnd::start()?;
        let maximum = u64::from(connections) + 1024;
        let broker = Broker::start(&binary, control.address(), maximum, server_cpu)?;
        control.wait_for_link()?;
        let mut clients = Clients::share(connections, PER_CLIENT, client_cpu)?;
        clients.open("broker", &broker.address.to_string())?;
        control.wait_for_sessions(u64::from(connections))?;

        let mut bare_end = Helper::start("bare", server_cpu)?;
        let address = bare_end.hear("ready")?;
        if arguments.floor {
            clients.open("floor", &address)?;
            let welcomed: u32 = bare_end.ask("count", "count")?.parse()?;
            ensure!(welcomed == connections, "the bare process has {welcomed} connections");
        }
        let payload = vec![b'm'; arguments.payload as usize];
        Ok(Stage { connections, payload, control, broker, bare_end, clients })
    }

    fn through_broker(&mut self) -> anyhow::Result<Measured> {
        let frame = self.next_frame();
        let before_ns = cpu_ns(self.broker.id())?;
        self.clients.expect("broker", frame.len() as u64)?;
        let started = Instant::now();
        self.control.push_to_topic(TopicId::new(TOPIC), &self.payload)?;
        self.clients.received(frame.len() as u64)?;
        let seconds = started.elapsed().as_secs_f64();
        let (sent, waiting) = self.control.wait_for_account(u64::from(self.connections))?;
        ensure!(waiting == 0, "{waiting} devices were to pull it, {sent} got it at once");
        self.measured(seconds, cpu_ns(self.broker.id())? - before_ns)
    }

    /// The frame that the broker sent last, from the bare end.
    fn bare(&mut self) -> anyhow::Result<Measured> {
        let frame = self.next_frame();
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let before_ns = cpu_ns(self.bare_end.id())?;
        self.clients.expect("floor", frame.len() as u64)?;
        let started = Instant::now();
        self.bare_end.tell(&format!("fanout {hex}"))?;
        self.clients.received(frame.len() as u64)?;
        let seconds = started.elapsed().as_secs_f64();
        let fanned = self.bare_end.hear("fanned")?;
        let all = format!("{} 0 ", self.connections);
        ensure!(fanned.starts_with(&all), "sent, failed, ns: {fanned}");
        self.measured(seconds, cpu_ns(self.bare_end.id())? - before_ns)
    }

    /// What the broker writes to each device for the next entry.
    fn next_frame(&self) -> Vec<u8> {
        let (seq, tag) = (self.control.next_seq(), TopicId::new(TOPIC).tag());
        let mut frame = Vec::new();
        Downlink::TopicPush { seq, tag, payload: &self.payload }.encode(&mut frame);
        frame
    }

    fn measured(&self, seconds: f64, cpu_ns: u64) -> anyhow::Result<Measured> {
        let messages = f64::from(self.connections);
        Ok(Measured { rate: messages / seconds, cpu_ns: cpu_ns as f64 / messages })
    }
}

fn report(
    arguments: &Arguments,
    plan_hash: &str,
    through_broker: &[Measured],
    bare: &[Measured],
    output: &Output,
) -> anyhow::Result<()> {
    let rate = Spread::of(through_broker.iter().map(|one| one.rate));
    let cpu_ns = Spread::of(through_broker.iter().map(|one| one.cpu_ns));
    let mut values = json!({
        "connections": arguments.connections,
        "rounds": arguments.rounds,
        "payload_bytes": arguments.payload,
        "broker": { "messages_per_s": rate, "cpu_ns_per_message": cpu_ns },
    });
    if !output.json {
        println!(
            "one message of {} bytes to {} devices, {} rounds: median (quartiles)\n",
            arguments.payload, arguments.connections, arguments.rounds
        );
        print_side("broker", rate, cpu_ns);
    }
    if !bare.is_empty() {
        let pairs = || through_broker.iter().zip(bare);
        let bare_rate = Spread::of(bare.iter().map(|one| one.rate));
        let bare_cpu_ns = Spread::of(bare.iter().map(|one| one.cpu_ns));
        let rate_percent =
            Spread::of(pairs().map(|(broker, bare)| 100.0 * broker.rate / bare.rate));
        let cpu_percent =
            Spread::of(pairs().map(|(broker, bare)| 100.0 * bare.cpu_ns / broker.cpu_ns));
        values["floor"] = json!({ "messages_per_s": bare_rate, "cpu_ns_per_message": bare_cpu_ns });
        values["rate_percent_of_floor"] = json!(rate_percent);
        values["cpu_floor_percent_of_broker"] = json!(cpu_percent);
        if !output.json {
            print_side("bare", bare_rate, bare_cpu_ns);
            println!(
                "\n  of the bare loop's rate: {:.1} % ({:.1}-{:.1}); aim >= {RATE_AIM_PERCENT} %",
                rate_percent.median, rate_percent.low, rate_percent.high
            );
            println!(
                "  bare loop's processor time in the broker's: {:.1} % ({:.1}-{:.1})",
                cpu_percent.median, cpu_percent.low, cpu_percent.high
            );
        }
    }
    let scenario = format!("{} devices", arguments.connections);
    output.row("fanout", &scenario, Some(plan_hash), values)
}

fn print_side(name: &str, rate: Spread, cpu_ns: Spread) {
    println!(
        "  {name:<7} {:>8.0} messages/s ({:.0}-{:.0}) {:>7.0} ns of processor a message ({:.0}-{:.0})",
        rate.median, rate.low, rate.high, cpu_ns.median, cpu_ns.low, cpu_ns.high
    );
}
