//! The process: from a configuration to running shards, and from a signal to an orderly end.
//!
//! ```text
//!   main thread   signals, notices, memory watermark, keys file      every 100 ms
//!                 steering of connections                            every 10 ms
//!   shard 0..n    one pinned thread each: loop { turn }
//!   admin         one thread for /metrics, /health, /plan
//! ```
//!
//! A start does everything that can fail before the ready line: plan, kernel probe, listeners, rings.
//! SIGTERM or SIGINT begins the drain; a second one ends the process at once.
//!
//! Invariant: nothing here is on the path of a message. The shards hear of it through mailboxes.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use crate::admin::Admin;
use crate::config::{Config, ConfigError};
use crate::cpus::Cpus;
use crate::io::host::{self, EventFd, Signals};
use crate::io::probe::{Missing, probe};
use crate::io::retransmission::Bounds;
use crate::io::uring::{UringConfig, UringIo};
use crate::listeners::{ListenError, Listeners};
use crate::plan::{Machine, Memory, Plan, PlanError};
use crate::shard::mailbox::{Command, Mailbox, Notice};
use crate::shard::{Shard, ShardConfig, Turn};
use crate::steering::{self, Steer, Steering};
use hawser_codec::cursor::Reader;
use hawser_codec::link::Keys;

/// How often the main thread looks around.
const ROUND_MS: u64 = 100;

/// Rounds between two looks at the machine's memory.
const MEMORY_EVERY_ROUNDS: u64 = 5;

/// Admission returns when this much more than the watermark is free, so that it does not flap.
const MEMORY_HYSTERESIS_BYTES: u64 = 64 << 20;

/// Why a start failed. Each is one line for the operator; the process ends with code 2.
#[derive(Debug)]
pub enum StartError {
    Config(ConfigError),
    Plan(PlanError),
    Kernel(Missing),
    Listen(ListenError),
    Machine { what: &'static str, error: io::Error },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::Plan(error) => error.fmt(f),
            StartError::Kernel(missing) => missing.fmt(f),
            StartError::Listen(error) => error.fmt(f),
            StartError::Machine { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> StartError {
        StartError::Config(error)
    }
}

impl From<PlanError> for StartError {
    fn from(error: PlanError) -> StartError {
        StartError::Plan(error)
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> StartError {
        StartError::Listen(error)
    }
}

impl From<Missing> for StartError {
    fn from(error: Missing) -> StartError {
        StartError::Kernel(error)
    }
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::Machine { what, error }
}

/// Runs until a signal ends it.
pub fn run(config: &Config) -> Result<ExitCode, StartError> {
    // Before any thread is started, which would inherit the mask.
    let signals = Signals::block().map_err(cannot("take signals"))?;
    host::refuse_huge_pages();
    let machine = Machine::read().map_err(cannot("read the machine's limits"))?;
    let plan = Plan::new(config, &machine)?;
    eprintln!("{plan}");
    probe(&plan.shape())?;

    let admin = listen_admin(config)?;
    let server = Server::start(config, &machine, plan)?;
    let admin_address = admin.local_addr().map_err(cannot("ask for the admin port"))?;
    server.start_admin(admin)?;

    let listen: Vec<String> = server.addresses.iter().map(SocketAddr::to_string).collect();
    println!("hawser-broker ready on {} admin {admin_address}", listen.join(","));
    io::stdout().flush().map_err(cannot("write the ready line"))?;
    Ok(server.watch(&signals))
}

fn listen_admin(config: &Config) -> Result<TcpListener, StartError> {
    let address: SocketAddr = config.admin.parse().expect("checked");
    Ok(TcpListener::bind(address).map_err(|error| ListenError { address, error })?)
}

struct Server {
    plan: Plan,
    /// The real ones, with the ports that the kernel chose.
    addresses: Vec<SocketAddr>,
    rto: Bounds,
    pinned: Vec<usize>,
    control: Vec<SocketAddr>,
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<JoinHandle<()>>,
    keys: KeysFile,
    /// `None`: connections are spread.
    steering: Option<Steering>,
    is_steering: Arc<AtomicBool>,
    draining: Arc<AtomicBool>,
    memory_low: bool,
}

impl Server {
    /// Opens the listeners and starts the shards; returns when all of them have their rings.
    fn start(config: &Config, machine: &Machine, plan: Plan) -> Result<Server, StartError> {
        let control = config.control_addresses()?;
        let link_key = config.link_key()?;
        let listeners = Listeners::open(config, plan.shards)?;
        for line in listeners.not_in_force(config, &plan) {
            eprintln!("hawser-broker: {line}");
        }
        let pinned = if config.pin { &machine.processors[..plan.shards] } else { &[][..] };
        let steering = steer(config, &plan, pinned, &listeners)?;
        let Listeners { addresses, of_shards, rto } = listeners;
        let keys = KeysFile::open(&config.state_dir);
        let (incarnation, seed) = random_pair().map_err(cannot("read /dev/urandom"))?;

        let (started, starts) = channel();
        let mut mailboxes = Vec::new();
        let mut threads = Vec::new();
        for (shard, listeners) in of_shards.into_iter().enumerate() {
            let wake = Arc::new(EventFd::new().map_err(cannot("make an eventfd"))?);
            let mailbox = Arc::new(Mailbox::new(Some(wake.clone())));
            mailboxes.push(mailbox.clone());
            let start = ShardStart {
                processor: pinned.get(shard).copied(),
                config: ShardConfig {
                    core: plan.core_config(config, seed.wrapping_add(shard as u64)),
                    broker: config.broker_id(addresses[0]),
                    incarnation,
                    shard: shard as u16,
                    link_key,
                    control: control.clone(),
                    outbox_bytes_max: config.outbox_bytes_max,
                    partial_bytes_max: config.partial_bytes_max,
                    link_queue_bytes_max: config.link_queue_bytes_max,
                    link_idle_ms: config.link_idle_ms,
                    accepts_per_turn: config.accept_budget_per_turn,
                },
                uring: UringConfig {
                    shape: plan.shape(),
                    rings_max: plan.rings_per_shard,
                    links: control.len() as u8,
                    listeners,
                    wake,
                },
                keys: keys.bytes.clone(),
                mailbox,
            };
            let started = started.clone();
            let thread = std::thread::Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(move || start.run(&started))
                .map_err(cannot("start a thread"))?;
            threads.push(thread);
        }
        drop(started);
        for _ in 0..plan.shards {
            let result = starts.recv().map_err(|_| io::Error::other("the thread ended"));
            result.and_then(|result| result).map_err(cannot("start a shard"))?;
        }
        Ok(Server {
            plan,
            addresses,
            rto,
            pinned: pinned.to_vec(),
            control,
            mailboxes,
            threads,
            keys,
            is_steering: Arc::new(AtomicBool::new(steering.is_some())),
            steering,
            draining: Arc::new(AtomicBool::new(false)),
            memory_low: false,
        })
    }

    fn start_admin(&self, listener: TcpListener) -> Result<(), StartError> {
        let admin = Admin {
            plan: self.plan.clone(),
            rto: self.rto,
            cpus: Cpus::new(Path::new("/"), self.pinned.clone()),
            mailboxes: self.mailboxes.clone(),
            is_steering: self.is_steering.clone(),
            draining: self.draining.clone(),
        };
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || admin.serve(&listener))
            .map_err(cannot("start a thread"))?;
        Ok(())
    }

    /// The main thread's life after the start.
    fn watch(mut self, signals: &Signals) -> ExitCode {
        let mut told = vec![false; self.mailboxes.len()];
        let mut drained = vec![false; self.mailboxes.len()];
        for round in 0u64.. {
            if self.wait(signals) {
                if self.draining.swap(true, Ordering::Relaxed) {
                    eprintln!("hawser-broker: second signal, ending at once");
                    return ExitCode::FAILURE;
                }
                eprintln!("hawser-broker: draining");
                // It shares the listeners, which the shards are about to close.
                self.steering = None;
                self.is_steering.store(false, Ordering::Relaxed);
            }
            if self.draining.load(Ordering::Relaxed) {
                // A mailbox may be full of scrapes; it is tried again in the next round.
                for (mailbox, told) in self.mailboxes.iter().zip(&mut told) {
                    *told = *told || mailbox.post(Command::Drain).is_ok();
                }
            }
            self.take_notices(&mut drained);
            if drained.iter().all(|&drained| drained) {
                break;
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                eprintln!("hawser-broker: ERROR a shard's thread has ended; restart the broker");
                return ExitCode::FAILURE;
            }
            if round % MEMORY_EVERY_ROUNDS == 0 {
                self.watch_memory();
            }
        }
        eprintln!("hawser-broker: drained");
        for (mailbox, thread) in self.mailboxes.iter().zip(self.threads) {
            // The shard has just spoken, so it empties its mailbox.
            while mailbox.post(Command::Stop).is_err() {
                std::thread::yield_now();
            }
            if thread.join().is_err() {
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }

    /// Waits for the next round, and steers meanwhile. Whether there was a signal.
    fn wait(&mut self, signals: &Signals) -> bool {
        let look_ms = if self.steering.is_some() { steering::LOOK_MS } else { ROUND_MS };
        for _ in 0..ROUND_MS / look_ms {
            if signals.wait(look_ms) {
                return true;
            }
            self.balance();
        }
        false
    }

    fn take_notices(&mut self, drained: &mut [bool]) {
        for (shard, mailbox) in self.mailboxes.iter().enumerate() {
            while let Some(notice) = mailbox.notice() {
                match notice {
                    Notice::Keys(keys) => self.keys.take(keys),
                    Notice::Drained => drained[shard] = true,
                    Notice::LinkUp { link } => {
                        let address = self.control[usize::from(link.0)];
                        eprintln!("hawser-broker: shard {shard}: link to {address} is up");
                    }
                    Notice::LinkDown { link, reason } => {
                        let address = self.control[usize::from(link.0)];
                        eprintln!("hawser-broker: shard {shard}: link to {address}: {reason}");
                    }
                }
            }
        }
        self.keys.save();
    }

    /// Steers connections while no shard is much fuller than the others.
    fn balance(&mut self) {
        if let Some(steering) = &mut self.steering {
            let connections: Vec<u64> =
                self.mailboxes.iter().map(|mailbox| mailbox.connections().into()).collect();
            if let Err(error) = steering.balance(&connections) {
                eprintln!("hawser-broker: connections are not steered any more: {error}");
                self.steering = None;
            }
        }
        let is_on = self.steering.as_ref().is_some_and(Steering::is_on);
        self.is_steering.store(is_on, Ordering::Relaxed);
    }

    /// Stops admission while the machine is short of memory.
    fn watch_memory(&mut self) {
        let Ok(memory) = Memory::read() else { return };
        let margin = if self.memory_low { MEMORY_HYSTERESIS_BYTES } else { 0 };
        let low = memory.free_bytes < self.plan.memory_free_min_bytes + margin;
        if low != self.memory_low {
            self.memory_low = low;
            let mib = memory.free_bytes >> 20;
            let what = if low { "nobody is admitted" } else { "devices are admitted again" };
            eprintln!("hawser-broker: {mib} MiB of memory are free: {what}");
            for mailbox in &self.mailboxes {
                mailbox.set_memory_low(low);
            }
        }
    }
}

/// Begins to steer if that is set, or if it is left to the machine and the machine is made for it.
fn steer(
    config: &Config,
    plan: &Plan,
    processors: &[usize],
    listeners: &Listeners,
) -> Result<Option<Steering>, StartError> {
    if config.steer_connections == Steer::Off || processors.len() < 2 {
        return Ok(None);
    }
    if let Some(why_not) = steering::why_not(config.steer_connections, Path::new("/"), processors) {
        eprintln!("hawser-broker: connections are spread over the shards by a hash: {why_not}");
        return Ok(None);
    }
    eprintln!("hawser-broker: connections go to the shard whose processor receives them");
    Steering::start(&listeners.of_shards, processors, plan.connections_max_per_shard)
        .map(Some)
        .map_err(cannot("steer connections (set steer_connections = \"off\")"))
}

/// What a shard's thread begins with. The rings are made by the thread that uses them.
struct ShardStart {
    processor: Option<usize>,
    config: ShardConfig,
    uring: UringConfig,
    keys: Option<Vec<u8>>,
    mailbox: Arc<Mailbox>,
}

impl ShardStart {
    fn run(self, started: &Sender<io::Result<()>>) {
        let pinned = self.processor.map_or(Ok(()), host::pin_thread);
        let io = match pinned.and_then(|()| UringIo::new(self.uring)) {
            Ok(io) => io,
            Err(error) => {
                // Whoever waits for the start reports it.
                let _ended = started.send(Err(error));
                return;
            }
        };
        let mut shard = Shard::new(self.config, io, self.mailbox);
        if let Some(keys) = self.keys
            && let Err(error) = shard.restore_keys(&keys)
        {
            eprintln!("hawser-broker: the kept keys are damaged and not used: {error}");
        }
        let _ended = started.send(Ok(()));
        while shard.turn() == Turn::Go {}
    }
}

fn random_pair() -> io::Result<(u64, u64)> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let number = u128::from_le_bytes(bytes);
    Ok((number as u64, (number >> 64) as u64))
}

/// The file in which the last key set survives a restart. It is replaced by renaming, so that it is
/// always whole, and only its owner can read it: it may hold keys that sign tickets.
struct KeysFile {
    path: Option<PathBuf>,
    /// The newest set that a shard has heard of.
    bytes: Option<Vec<u8>>,
    /// What the file lacks.
    is_unsaved: bool,
    /// It was said that the file cannot be written.
    is_failing: bool,
}

impl KeysFile {
    fn open(state_dir: &str) -> KeysFile {
        let mut file = KeysFile { path: None, bytes: None, is_unsaved: false, is_failing: false };
        if state_dir.is_empty() {
            return file;
        }
        let path = Path::new(state_dir).join("keys");
        match fs::read(&path) {
            Ok(bytes) => file.bytes = Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                eprintln!("hawser-broker: cannot read {}: {error}", path.display());
            }
        }
        file.path = Some(path);
        file
    }

    /// Takes a set, unless it is the one it has or a lagging control node's.
    fn take(&mut self, keys: Vec<u8>) {
        let is_news =
            self.bytes.as_ref().is_none_or(|kept| *kept != keys && !is_older(&keys, kept));
        if is_news {
            self.bytes = Some(keys);
            self.is_unsaved = true;
        }
    }

    /// Writes what is not written yet; called again and again, for a disk that was full.
    fn save(&mut self) {
        let (Some(path), Some(bytes), true) = (&self.path, &self.bytes, self.is_unsaved) else {
            return;
        };
        match replace(path, bytes) {
            Ok(()) => (self.is_unsaved, self.is_failing) = (false, false),
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                eprintln!(
                    "hawser-broker: ERROR cannot keep keys in {}, which a restart without control \
                     nodes would need; trying on: {error}",
                    path.display()
                );
            }
            Err(_) => {}
        }
    }
}

/// Whether both are sets of one installation and the first has the lower version.
fn is_older(keys: &[u8], kept: &[u8]) -> bool {
    let version = |bytes: &[u8]| {
        Keys::decode(&mut Reader::new(bytes)).ok().map(|keys| (keys.hash_key, keys.version))
    };
    match (version(keys), version(kept)) {
        (Some((hash_key, version)), Some((of, known))) => hash_key == of && version < known,
        _ => false,
    }
}

/// Writes beside the file, syncs, and renames over it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("it was joined to a folder");
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    // Left over from a crash, with whatever mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use hawser_codec::ids::HashKey;

    use super::*;

    fn keys(version: u64, installation: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        Keys { version, hash_key: HashKey([installation; 16]), apps: Vec::new() }
            .encode(&mut bytes);
        bytes
    }

    #[test]
    fn the_newest_keys_are_kept_as_soon_as_there_is_room() {
        let folder = std::env::temp_dir().join(format!("hawser-keys-{}", std::process::id()));
        let on_disk = || fs::read(folder.join("keys")).ok();
        let mut file = KeysFile::open(folder.to_str().unwrap());
        file.take(keys(5, 1));
        file.save();
        assert_eq!(on_disk(), Some(keys(5, 1)));

        // What a lagging control node tells another shard.
        file.take(keys(4, 1));
        file.save();
        assert_eq!(on_disk(), Some(keys(5, 1)));

        // The file cannot be written for a while.
        fs::create_dir_all(folder.join("keys.new/in the way")).unwrap();
        file.take(keys(6, 1));
        file.save();
        file.save();
        assert_eq!(on_disk(), Some(keys(5, 1)));
        fs::remove_dir_all(folder.join("keys.new")).unwrap();
        file.save();
        assert_eq!(on_disk(), Some(keys(6, 1)));

        // Another installation counts from its own beginning.
        file.take(keys(1, 2));
        file.save();
        assert_eq!(on_disk(), Some(keys(1, 2)));
        assert_eq!(KeysFile::open(folder.to_str().unwrap()).bytes, Some(keys(1, 2)));
        fs::remove_dir_all(folder).unwrap();
    }
}
