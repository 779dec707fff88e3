//! Proves what was applied: reads every place back, and measures what the values are for.
//!
//! - the journal's places against what they hold now;
//! - the retransmission timeout of live connections, as the kernel has it, against the minimum;
//! - interrupts and softirq time of each CPU over some seconds;
//! - a connection of our own over loopback that goes through the whole of it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::host::Host;
use crate::interrupt::{self, CpuWork, Interrupt};
use crate::journal::{Journal, JournalError, State};
use crate::machine::Machine;
use crate::netlink::sockets;

/// Whether a place holds what was applied.
#[derive(Clone, Debug)]
pub struct Checked {
    pub place: String,
    pub applied: String,
    pub now: Option<String>,
    pub holds: bool,
}

pub fn places(host: &Host, machine: &Machine) -> Result<Vec<Checked>, JournalError> {
    let journal = Journal::read(host, machine)?;
    let checked = journal.entries().iter().map(|entry| {
        let now = entry.place.read(host);
        let applied = match &entry.state {
            State::Done { read_back } => read_back.clone().unwrap_or_default(),
            State::Interrupted | State::Planned => entry.ours.clone(),
        };
        let holds = now.as_deref().is_some_and(|now| entry.place.same(now, &applied));
        Checked { place: entry.place.name(), applied, now, holds }
    });
    Ok(checked.collect())
}

/// The retransmission timeouts of established connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub connections: u64,
    /// Those whose timeout is below the sysctl's minimum: made before it was set, or by a route or
    /// program that says otherwise.
    pub below_minimum: u64,
    pub least_ms: Option<u64>,
    pub most_ms: Option<u64>,
    pub retransmitted_total: u64,
}

/// Of connections with this local port, or of all.
pub fn timeouts(minimum_ms: u64, port: Option<u16>) -> io::Result<Timeouts> {
    let mut timeouts = Timeouts::default();
    sockets::established(|connection| {
        if port.is_some_and(|port| port != connection.local_port) {
            return;
        }
        let rto_ms = u64::from(connection.rto_us) / 1_000;
        timeouts.connections += 1;
        timeouts.below_minimum += u64::from(rto_ms < minimum_ms);
        timeouts.least_ms = Some(timeouts.least_ms.map_or(rto_ms, |least| least.min(rto_ms)));
        timeouts.most_ms = Some(timeouts.most_ms.map_or(rto_ms, |most| most.max(rto_ms)));
        timeouts.retransmitted_total += u64::from(connection.retransmitted_total);
    })?;
    Ok(timeouts)
}

/// The minimum that new connections of this namespace get from the sysctl.
pub fn minimum_ms(host: &Host) -> u64 {
    host.number("proc/sys/net/ipv4/tcp_rto_min_us").map_or(200, |us| us / 1_000)
}

/// Work of one CPU over the time that was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub interrupts: u64,
    pub work: CpuWork,
}

pub struct Reading {
    interrupts: Vec<Interrupt>,
    work: BTreeMap<u32, CpuWork>,
}

impl Reading {
    pub fn take(host: &Host) -> Reading {
        Reading { interrupts: interrupt::read_all(host), work: interrupt::read_work(host) }
    }

    /// What each CPU did since an earlier reading.
    pub fn since(&self, earlier: &Reading) -> BTreeMap<u32, Measured> {
        let mut measured: BTreeMap<u32, Measured> = BTreeMap::new();
        for interrupt in &self.interrupts {
            let mut former = earlier.interrupts.iter();
            let Some(former) = former.find(|former| former.number == interrupt.number) else {
                continue;
            };
            for (cpu, count) in interrupt.since(former) {
                measured.entry(cpu).or_default().interrupts += count;
            }
        }
        for (cpu, work) in &self.work {
            let former = earlier.work.get(cpu).copied().unwrap_or_default();
            measured.entry(*cpu).or_default().work = work.since(&former);
        }
        measured
    }
}

/// What a connection of our own met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTest {
    pub rto_ms: u64,
    /// The timeout is at least the minimum that is set.
    pub holds: bool,
}

const EXCHANGES: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects over loopback, exchanges some messages, and asks the kernel for the connection's timeout.
pub fn self_test(host: &Host) -> io::Result<SelfTest> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect_timeout(&address, PATIENCE)?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    let mut message = [0u8; 64];
    for _ in 0..EXCHANGES {
        client.write_all(&message)?;
        server.read_exact(&mut message)?;
        server.write_all(&message)?;
        client.read_exact(&mut message)?;
    }
    let timeouts = timeouts(minimum_ms(host), Some(address.port()))?;
    let lost =
        || io::Error::new(io::ErrorKind::NotFound, "the kernel does not list the connection");
    let rto_ms = timeouts.least_ms.ok_or_else(lost)?;
    Ok(SelfTest { rto_ms, holds: timeouts.below_minimum == 0 })
}
