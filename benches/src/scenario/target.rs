//! A server that speaks MQTT with its devices: one that was started here as a peer, or `--target
//! HOST:PORT`, of which no more is known than that.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use hawser_bare_protocol::command::Push;

use super::side::Side;
use super::stage::{Setting, processors};
use crate::fleet::command::Opened;
use crate::fleet::handle::{Fleet, Kind, Opening, Plan, Protocol, Speech};
use crate::fleet::tun::{DEVICES_MAX, Wire};
use crate::mqtt::ALL;
use crate::mqtt::publisher::Publisher;
use crate::process::Daemon;
use crate::tickets::Issuer;

/// How long a server may take to answer the first words of a publisher.
const PATIENCE: Duration = Duration::from_secs(5);

/// `--target`: how many, or where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Connections(u32),
    Server(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let count = text.parse().ok().filter(|count| (1..=DEVICES_MAX).contains(count));
            return count
                .map(Target::Connections)
                .ok_or_else(|| format!("{text} connections: 1 to {DEVICES_MAX} can be held"));
        }
        let port = text.rsplit_once(':').and_then(|(_host, port)| port.parse::<u16>().ok());
        match port {
            Some(1..) => Ok(Target::Server(text.to_owned())),
            _ => Err("give a number of connections, or HOST:PORT of a server".to_owned()),
        }
    }
}

/// Where a server is, with how much it is to be asked for an answer.
pub fn resolve(server: &str) -> anyhow::Result<SocketAddr> {
    let found = server.to_socket_addrs().with_context(|| format!("cannot find {server}"))?.next();
    found.with_context(|| format!("{server} has no address"))
}

pub struct TargetSide {
    fleet: Fleet,
    publishers: Vec<Publisher>,
    /// The next one to publish.
    turn: usize,
    devices: u32,
    pushed: u64,
    opening: Opening,
    name: String,
    /// Of a peer that runs here.
    server: Option<Daemon>,
}

impl TargetSide {
    /// With so many publishers. Nobody else has connected yet.
    pub fn start(
        setting: &Setting,
        server: SocketAddr,
        name: String,
        daemon: Option<Daemon>,
        connections: u32,
        publishers: u32,
    ) -> anyhow::Result<TargetSide> {
        let speech = Speech { protocol: Protocol::Mqtt, ..setting.speech };
        let publishers = (0..publishers)
            .map(|index| {
                let id = format!("p-{}-{index}", std::process::id());
                Publisher::connect(server, &id, speech.qos(), PATIENCE)
            })
            .collect::<anyhow::Result<Vec<Publisher>>>()?;
        let (kind, wire) = (Kind::Sockets, Wire::default());
        let plan = setting.plan(server, connections, Issuer::default())?;
        let plan = Plan { kind, speech, up: wire, down: wire, ..plan };
        let fleet = Fleet::start(&plan, processors()?.1).context("the fleet")?;
        Ok(TargetSide {
            fleet,
            publishers,
            turn: 0,
            devices: connections,
            pushed: 0,
            opening: setting.opening(),
            name,
            server: daemon,
        })
    }
}

impl Side for TargetSide {
    fn name(&self) -> &str {
        &self.name
    }

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn open(&mut self, connections: u32) -> anyhow::Result<Opened> {
        self.fleet.open(connections, &self.opening)
    }

    fn process(&self) -> Option<u32> {
        self.server.as_ref().map(Daemon::id)
    }

    fn plan_hash(&self) -> Option<&str> {
        None
    }

    fn fan_out(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let publisher = &mut self.publishers[self.turn];
        publisher.publish(ALL, payload)?;
        publisher.flush()?;
        self.turn = (self.turn + 1) % self.publishers.len();
        Ok(())
    }

    fn fanned_out(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn push(&mut self, count: u64, rate: u64, payload_bytes: usize) -> anyhow::Result<()> {
        let order = Push { count, rate, payload_bytes, first: self.pushed };
        self.pushed += count;
        self.publishers[0].push(order, self.devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_number_or_a_place() {
        let server = |text: &str| Some(Target::Server(text.to_owned()));
        for (text, expected) in [
            ("15000", Some(Target::Connections(15_000))),
            ("localhost:1883", server("localhost:1883")),
            ("[::1]:1883", server("[::1]:1883")),
            ("0", None),
            ("99999999999", None),
            ("localhost", None),
            ("localhost:0", None),
            ("localhost:mqtt", None),
            ("-5", None),
        ] {
            assert_eq!(text.parse::<Target>().ok(), expected, "{text}");
        }
    }
}
