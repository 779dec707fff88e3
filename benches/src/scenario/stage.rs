//! What scenarios need: a server under test on one processor, a fleet on another, and if asked for
//! the same once more with the bare server, which is the floor.
//!
//! ```text
//!   processor 0                 processor 1
//!   hawser-broker  ◀── lane 0 ──▶  fleet       control end (this program)
//!   bare server    ◀── lane 1 ──▶  fleet
//! ```
//!
//! Both sides are there at the same time and measured in turn, so that what the machine does
//! otherwise hits both. When memory cannot hold both, the floor comes after the broker has gone.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use hawser_broker::plan::Memory;
use hawser_codec::device::Downlink;
use hawser_codec::ids::{Seq, TopicId};

use super::side::Side;
use super::target::{Target, TargetSide, resolve};
use crate::control_end::ControlEnd;
use crate::fleet::command::{Limits, Opened};
use crate::fleet::handle::{Fleet, Kind, Opening, Plan, Protocol, Speech};
use crate::fleet::tun::{DEVICES_MAX, Lane, Wire};
use crate::io;
use crate::io::namespace::{self, Retransmit};
use crate::process::{Broker, Helper, cpu_ns, sibling};
use crate::rows::OURS;
use crate::tickets::{Issuer, Signing};

/// Free memory that must remain, whatever is measured: the machine has other work and may have no
/// swap. It is MemFree + Buffers + Cached - Shmem; MemAvailable counts sockets as reclaimable.
const FREE_MIN_MIB: u64 = 1536;

/// What a connection takes of the machine on all sides, rounded up.
const BYTES_PER_CONNECTION: u64 = 4_600;
/// With the kernel's socket at the other end too.
const BYTES_PER_SOCKET_PAIR: u64 = 9_000;

const PORT: u16 = 7400;

/// How a scenario's devices come and what they find.
#[derive(clap::Args, Clone, Debug)]
pub struct Setting {
    /// How devices connect
    #[arg(long, value_enum, default_value = "tun")]
    pub fleet: Kind,
    /// Connections to hold, in a storm those of the bystanders; without it 100,000, for `connections`
    /// 1,000,000 and for `slow` 20,000
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(DEVICES_MAX)))]
    pub connections: Option<u32>,
    /// A number is the same as --connections. A place is that of a server which runs already, for
    /// connections, fanout and push with --protocol mqtt: the devices are then the kernel's sockets,
    /// and the server's memory is not measured
    #[arg(long, value_name = "N|HOST:PORT")]
    pub target: Option<Target>,
    #[command(flatten)]
    pub speech: Speech,
    /// How tickets are signed; Ed25519 signatures are made before anything is measured
    #[arg(long, value_enum, default_value = "hmac")]
    pub tickets: Signing,
    /// Connects a second; 0: as fast as the server takes them
    #[arg(long, value_name = "PER_S", default_value_t = 0)]
    pub connect_rate: u32,
    /// Devices that are connecting at a time
    #[arg(long, value_name = "N", default_value_t = 2048,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub connect_window: u32,
    /// Give up when no device gets further for so long
    #[arg(long, value_name = "S", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub quiet_s: u64,
    /// What the wire does to packets from the devices, over --fleet tun: a list of loss, duplicate
    /// and reorder, each a share of the packets, and delay_ms, such as loss=0.01,delay_ms=50
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub up: Wire,
    /// The same for packets to the devices
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub down: Wire,
    /// Stop before less memory than this is free
    #[arg(long, value_name = "MIB", default_value_t = FREE_MIN_MIB)]
    pub free_min_mib: u64,
    /// The broker's binary; without it the one beside this program
    #[arg(long, value_name = "FILE")]
    pub broker: Option<PathBuf>,
    /// A further setting of the broker, key=value; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

impl Setting {
    /// Connections over sockets, as many as there are, with the defaults for the rest.
    pub fn over_sockets(connect_window: u32, quiet_s: u64, broker: Option<PathBuf>) -> Setting {
        Setting {
            fleet: Kind::Sockets,
            connections: None,
            target: None,
            speech: Speech::default(),
            tickets: Signing::Hmac,
            connect_rate: 0,
            connect_window,
            quiet_s,
            up: Wire::default(),
            down: Wire::default(),
            free_min_mib: FREE_MIN_MIB,
            broker,
            settings: Vec::new(),
        }
    }

    /// The connections that were asked for, in either way.
    pub fn connections(&self) -> anyhow::Result<Option<u32>> {
        match (self.connections, &self.target) {
            (Some(_), Some(Target::Connections(_))) => {
                bail!("--connections and --target with a number say the same: give one of them")
            }
            (None, Some(Target::Connections(count))) => Ok(Some(*count)),
            (connections, _) => Ok(connections),
        }
    }

    /// The server that runs already, if one is to be measured.
    pub fn running(&self) -> anyhow::Result<Option<&str>> {
        match (&self.target, self.speech.protocol) {
            (Some(Target::Server(server)), Protocol::Mqtt) => Ok(Some(server)),
            (Some(Target::Server(server)), Protocol::Hawser) => bail!(
                "what runs at {server} has not the keys of these devices' tickets: use --protocol \
                 mqtt, or no --target for a broker of this benchmark's own"
            ),
            (_, Protocol::Mqtt) => bail!(
                "--protocol mqtt needs --target HOST:PORT; `hawser-bench peers` starts servers itself"
            ),
            (_, Protocol::Hawser) => Ok(None),
        }
    }

    /// As rows name how devices connect.
    pub fn fleet_name(&self) -> &'static str {
        match self.target {
            Some(Target::Server(_)) => Kind::Sockets.name(),
            _ => self.fleet.name(),
        }
    }

    /// The server to be measured with its fleet: hawser's broker, or the one that runs already.
    pub fn side(&self, connections: u32) -> anyhow::Result<Box<dyn Side>> {
        let Some(server) = self.running()? else {
            return Ok(Box::new(BrokerSide::start(self, connections)?));
        };
        let name = format!("mqtt at {server}");
        let side = TargetSide::start(self, resolve(server)?, name, None, connections, 1)?;
        Ok(Box::new(side))
    }

    pub fn opening(&self) -> Opening {
        Opening { rate: self.connect_rate, window: self.connect_window, limits: self.limits() }
    }

    pub fn limits(&self) -> Limits {
        Limits { free_min_bytes: self.free_min_mib << 20, quiet_ms: self.quiet_s * 1000 }
    }

    /// Whether memory holds `times` the connections.
    pub fn fits(&self, connections: u32, times: u64) -> anyhow::Result<bool> {
        let needed = self.needed_bytes(connections) * times;
        Ok(needed + (self.free_min_mib << 20) <= Memory::read()?.free_bytes)
    }

    fn needed_bytes(&self, connections: u32) -> u64 {
        let each = match self.fleet {
            Kind::Tun => BYTES_PER_CONNECTION,
            Kind::Sockets => BYTES_PER_SOCKET_PAIR,
        };
        u64::from(connections) * each
    }

    /// Moves this program to where the servers and fleets will be. Once, before anything is
    /// started; `connections` are those of all sides.
    pub fn enter(&self, connections: u32) -> anyhow::Result<()> {
        ensure!(
            self.fits(connections, 1)?,
            "{connections} connections take about {} MiB and {} MiB are free above the {} that stay \
             so: choose fewer (--connections) or free memory",
            self.needed_bytes(connections) >> 20,
            (Memory::read()?.free_bytes >> 20).saturating_sub(self.free_min_mib),
            self.free_min_mib
        );
        if self.running()?.is_some() {
            return Ok(());
        }
        let wired = self.up != Wire::default() || self.down != Wire::default();
        // The control end sends from here: it must not take the server's processor.
        io::pin(&[processors()?.1])?;
        match self.fleet {
            Kind::Tun if wired => Ok(namespace::enter(connections, Retransmit::AsUsual)?),
            Kind::Tun => Ok(namespace::enter(connections, Retransmit::Late)?),
            Kind::Sockets => {
                ensure!(!wired, "--up and --down need --fleet tun: the kernel's wire is as it is");
                Ok(())
            }
        }
    }

    fn fleet(&self, server: SocketAddr, devices: u32, issuer: Issuer) -> anyhow::Result<Fleet> {
        let plan = self.plan(server, devices, issuer)?;
        Fleet::start(&plan, processors()?.1).context("the fleet")
    }

    /// Of a fleet that speaks with a server of this machine.
    pub fn plan(
        &self,
        server: SocketAddr,
        devices: u32,
        issuer: Issuer,
    ) -> anyhow::Result<Plan<'static>> {
        Ok(Plan {
            kind: self.fleet,
            speech: Speech::default(),
            server,
            server_cpu: processors()?.0,
            devices,
            tickets: self.tickets,
            issuer,
            topic: None,
            up: self.up,
            down: self.down,
        })
    }

    /// Where the server of a side listens.
    fn server(&self, lane: u8) -> anyhow::Result<SocketAddr> {
        match self.fleet {
            Kind::Tun => Ok(SocketAddr::from((Lane::new(lane).server(), PORT))),
            // A port that was free a moment ago.
            Kind::Sockets => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?),
        }
    }
}

/// The broker with its devices.
pub struct BrokerSide<C = ControlEnd> {
    /// Before the other ends: dropped in this order, so that no device sees its connection end.
    pub fleet: Fleet,
    pub control: C,
    pub broker: Broker,
    /// Its settings, one a line.
    pub config: String,
    opening: Opening,
}

impl BrokerSide {
    /// Nobody has connected yet.
    pub fn start(setting: &Setting, connections: u32) -> anyhow::Result<BrokerSide> {
        let control = ControlEnd::start(setting.tickets)?;
        let (link, issuer) = (control.address(), Issuer::default());
        let side = BrokerSide::with(setting, connections, control, link, issuer)?;
        side.control.wait_for_link()?;
        Ok(side)
    }
}

impl<C> BrokerSide<C> {
    /// With a control node that is there already.
    pub fn with(
        setting: &Setting,
        connections: u32,
        control: C,
        link: SocketAddr,
        issuer: Issuer,
    ) -> anyhow::Result<BrokerSide<C>> {
        ensure!(
            setting.running()?.is_none(),
            "--target HOST:PORT is for connections, fanout and push; this needs hawser's broker"
        );
        let binary = sibling(setting.broker.as_deref(), "hawser-broker")?;
        // The fleet makes the device that the broker's address is on.
        let server = setting.server(0)?;
        let fleet = setting.fleet(server, connections, issuer)?;
        let mut settings = vec![
            format!("listen={server}"),
            format!("connections_max={}", connections.saturating_add(connections / 64 + 1024)),
            format!("memory_free_min_mib={}", setting.free_min_mib * 3 / 4),
            // Nobody is made to wait below what is to be held.
            format!("accept_delay_above={}", connections.saturating_mul(2)),
            "heartbeat_min_s=1800".to_owned(),
            "heartbeat_max_s=3600".to_owned(),
        ];
        settings.extend(setting.settings.iter().cloned());
        let broker = Broker::start(&binary, link, &settings, processors()?.0)?;
        let config = settings.join("\n");
        Ok(BrokerSide { fleet, control, broker, config, opening: setting.opening() })
    }

    /// Devices connect until there are so many, or something ends that.
    pub fn connect(&mut self, connections: u32) -> anyhow::Result<Opened> {
        let opened = self.fleet.open(connections, &self.opening)?;
        self.broker.is_there()?;
        ensure!(opened.online > 0, "nobody could connect: {}", opened.stopped.unwrap_or_default());
        Ok(opened)
    }

    /// What devices did not come back to: an error, with whether the broker is there.
    pub fn all_back(&mut self, stopped: Option<String>) -> anyhow::Result<()> {
        let Some(stopped) = stopped else { return Ok(()) };
        self.broker.is_there().context(stopped.clone())?;
        bail!("not all came back: {stopped}")
    }

    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        cpu_ns(self.broker.id())
    }
}

impl Side for BrokerSide {
    fn name(&self) -> &str {
        OURS
    }

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn open(&mut self, connections: u32) -> anyhow::Result<Opened> {
        let opened = self.connect(connections)?;
        self.control.wait_for_sessions(opened.online.into())?;
        Ok(opened)
    }

    fn process(&self) -> Option<u32> {
        Some(self.broker.id())
    }

    fn plan_hash(&self) -> Option<&str> {
        Some(&self.broker.plan_hash)
    }

    fn fan_out(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.control.push_to_topic(TopicId::ALL, payload).map(drop)
    }

    fn fanned_out(&mut self) -> anyhow::Result<()> {
        self.control.wait_for_account(self.control.sessions()).map(drop)
    }

    fn push(&mut self, count: u64, rate: u64, payload_bytes: usize) -> anyhow::Result<()> {
        self.control.push(count, rate, payload_bytes)
    }
}

/// A bare server with its devices.
pub struct FloorSide {
    pub fleet: Fleet,
    bare: Helper,
    name: String,
    pushed: u64,
    /// The last group entry that was sent, and those among which the server has not told about yet.
    group: Seq,
    untold: u32,
    opening: Opening,
}

/// As rows name the one without a runtime.
pub const BARE: &str = "bare";

impl FloorSide {
    pub fn start(setting: &Setting, connections: u32) -> anyhow::Result<FloorSide> {
        let program = std::env::current_exe()?;
        FloorSide::of(&program, &["bare"], BARE.to_owned(), setting, connections)
    }

    /// With so much room in each socket instead of the broker's default.
    pub fn with_send_buffer(
        setting: &Setting,
        connections: u32,
        bytes: u32,
    ) -> anyhow::Result<FloorSide> {
        let program = std::env::current_exe()?;
        let buffer = format!("--send-buffer-bytes={bytes}");
        FloorSide::of(&program, &["bare", &buffer], BARE.to_owned(), setting, connections)
    }

    /// One on another runtime, or this program's.
    pub fn of(
        program: &Path,
        arguments: &[&str],
        name: String,
        setting: &Setting,
        connections: u32,
    ) -> anyhow::Result<FloorSide> {
        let server = setting.server(1)?;
        let fleet = setting.fleet(server, connections, Issuer::default())?;
        let mut arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        arguments.push(format!("--listen={server}"));
        let mut bare = Helper::of(program, &arguments, processors()?.0)?;
        bare.hear("ready")?;
        let (group, opening) = (Seq::ZERO, setting.opening());
        Ok(FloorSide { fleet, bare, name, pushed: 0, group, untold: 0, opening })
    }

    pub fn id(&self) -> u32 {
        self.bare.id()
    }

    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        cpu_ns(self.id())
    }
}

impl Side for FloorSide {
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
        Some(self.bare.id())
    }

    fn plan_hash(&self) -> Option<&str> {
        None
    }

    fn fan_out(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.group = Seq(self.group.0 + 1);
        let mut frame = Vec::new();
        Downlink::Broadcast { seq: self.group, payload }.encode(&mut frame);
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        self.untold += 1;
        self.bare.tell(&format!("fanout {hex}"))
    }

    fn fanned_out(&mut self) -> anyhow::Result<()> {
        for _ in 0..std::mem::take(&mut self.untold) {
            self.bare.hear("fanned")?;
        }
        Ok(())
    }

    fn push(&mut self, count: u64, rate: u64, payload_bytes: usize) -> anyhow::Result<()> {
        let first = self.pushed;
        self.pushed += count;
        let line = format!("push {count} {rate} {payload_bytes} {first}");
        // What a full socket did not take is in the answer too; who sends counts what arrives.
        self.bare.ask(&line, "pushed").map(drop)
    }
}

/// The processor of the servers, and that of everything else. The first call is made before this
/// program binds itself to the latter.
pub fn processors() -> anyhow::Result<(usize, usize)> {
    static FOUND: OnceLock<(usize, usize)> = OnceLock::new();
    if let Some(&found) = FOUND.get() {
        return Ok(found);
    }
    let processors = io::processors()?;
    Ok(*FOUND.get_or_init(|| (processors[0], processors[processors.len() - 1])))
}
