//! A server with its devices, as what is measured sees it: whose server it is does not matter.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::busy::{Busy, Clocks};
use crate::fleet::command::Opened;
use crate::fleet::handle::Fleet;
use crate::fleet::latency::Latency;
use crate::io::monotonic_ns;
use crate::process::{cpu_ns, memory};

pub trait Side {
    /// As rows name the server.
    fn name(&self) -> &str;

    fn fleet(&mut self) -> &mut Fleet;

    /// Devices connect until there are so many, or it says why not.
    fn open(&mut self, connections: u32) -> anyhow::Result<Opened>;

    /// The server's process, if it is one of ours.
    fn process(&self) -> Option<u32>;

    /// Of the broker's plan, if it has one.
    fn plan_hash(&self) -> Option<&str>;

    /// One message to all devices, which begins now.
    fn fan_out(&mut self, payload: &[u8]) -> anyhow::Result<()>;

    /// Waits for the server's word on what was fanned out until now, if it gives one.
    fn fanned_out(&mut self) -> anyhow::Result<()>;

    /// Single messages to all devices in turn: `rate` a second whatever becomes of them, or as fast
    /// as they are taken for 0. The first eight bytes of a payload are when it was due.
    fn push(&mut self, count: u64, rate: u64, payload_bytes: usize) -> anyhow::Result<()>;

    /// [`Side::open`], and none may be missing.
    fn open_all(&mut self, connections: u32) -> anyhow::Result<Opened> {
        let opened = self.open(connections)?;
        let why = || opened.stopped.clone().unwrap_or_default();
        ensure!(
            opened.ready == connections,
            "{} of {connections} connected: {}",
            opened.ready,
            why()
        );
        Ok(opened)
    }

    /// Processor time of the server until now.
    fn server_cpu_ns(&self) -> anyhow::Result<Option<u64>> {
        self.process().map(cpu_ns).transpose()
    }

    /// Memory that the server shares with nobody.
    fn private_bytes(&self) -> anyhow::Result<Option<u64>> {
        self.process().map(|pid| Ok(memory(pid)?.private)).transpose()
    }
}

/// What arrived of what was sent.
pub struct Measured {
    pub sent: u64,
    pub arrived: u64,
    /// Of those that arrived, from the first's sending to the last's arrival.
    pub rate: f64,
    /// Of the server, for each message sent.
    pub cpu_ns: Option<f64>,
    pub busy: Busy,
    pub latency: Latency,
}

impl Measured {
    /// That all have arrived.
    pub fn whole(self, side: &mut dyn Side) -> anyhow::Result<Measured> {
        let (messages, sent) = (self.arrived, self.sent);
        if messages != sent {
            let net = side.fleet().count()?.net;
            let name = side.name();
            bail!("{messages} of {sent} messages from {name} arrived; the fleet's counts: {net:?}");
        }
        Ok(self)
    }

    /// The rate that was reached and the latencies, each with a prefix to its name.
    pub fn put(&self, prefix: &str, values: &mut Value) {
        values[format!("{prefix}rate_reached")] = json!(self.rate.round());
        self.latency.put(prefix, values);
    }
}

/// One message to all devices.
pub fn one_to_all(
    side: &mut dyn Side,
    connections: u32,
    payload: &[u8],
    quiet_ms: u64,
) -> anyhow::Result<Measured> {
    let sent = u64::from(connections);
    measured(side, sent, quiet_ms, |side| side.fan_out(payload), |side| side.fanned_out())
}

/// Single messages, as [`Side::push`] sends them.
pub fn singles(
    side: &mut dyn Side,
    count: u64,
    rate: u64,
    payload_bytes: usize,
    quiet_ms: u64,
) -> anyhow::Result<Measured> {
    measured(side, count, quiet_ms, |side| side.push(count, rate, payload_bytes), |_| Ok(()))
}

/// Sends, waits for the messages, and ends.
pub fn measured(
    side: &mut dyn Side,
    sent: u64,
    quiet_ms: u64,
    send: impl FnOnce(&mut dyn Side) -> anyhow::Result<()>,
    end: impl FnOnce(&mut dyn Side) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let before = Clocks::read(side)?;
    side.fleet().expect(sent, quiet_ms)?;
    let begun_ns = monotonic_ns();
    send(side)?;
    let received = side.fleet().received()?;
    let arrived_at = Clocks::read(side)?;
    end(side)?;
    let used_ns = Clocks::read(side)?.server_ns_since(&before);
    let seconds = received.last_ns.saturating_sub(begun_ns).max(1) as f64 / 1e9;
    Ok(Measured {
        sent,
        rate: received.messages as f64 / seconds,
        cpu_ns: used_ns.map(|ns| ns as f64 / sent as f64),
        arrived: received.messages,
        busy: arrived_at.since(&before),
        latency: received.latency,
    })
}
