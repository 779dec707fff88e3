//! The servers of a play: their directory, keys, configuration files, and their order.
//!
//! Everything lies in one directory: keys (mode 0600), a configuration file and a log for each
//! process, the store. A temporary one is removed at the end; a given one is kept, and a later play
//! in it goes on with the same keys, apps and messages.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::fleet::Credentials;
use super::mark::unix_us;
use super::ports::Ports;
use super::process::{Process, Spec};
use super::scrape::{ShardState, broker_shards};
use crate::cli::client::{ApiError, Client, NewApp, Quota};
use crate::secrets::random;

/// The app that simulated devices belong to.
pub const APP: &str = "play";

/// Far above what one machine does, so that a quota does not end a measurement.
const QUOTA: Quota = Quota {
    messages_per_s: Some(1_000_000),
    inbox_entries_max: Some(100_000),
    group_log_entries_max: Some(100_000),
};

/// Room for those who connect beside the simulated devices.
const CONNECTIONS_MIN: u64 = 10_000;

const API_PORT: u16 = 7420;
const LINK_PORT: u16 = 7410;
const BROKER_PORT: u16 = 7400;
const BROKER_ADMIN_PORT: u16 = 7401;

/// Where messages are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Inside the one control node.
    Embedded,
    /// In a hawser-kv process, over a Unix socket.
    Kv,
    /// In a server that is there already, such as Redis. It should be empty.
    Other { url: String },
}

#[derive(Clone, Debug)]
pub struct SystemPlan {
    /// `None`: a temporary one.
    pub data_dir: Option<PathBuf>,
    pub control_nodes: u16,
    pub store: Store,
    /// Use the documented ports where they are free.
    pub documented_ports: bool,
    /// Devices that the broker should hold.
    pub devices: u32,
}

/// A running system.
#[derive(Debug)]
pub struct System {
    /// In the order in which they were started.
    processes: Vec<Process>,
    pub addresses: Addresses,
    pub operator_key: String,
    pub app: NewApp,
    /// Differs between plays, which may share a store one after another.
    pub run: u32,
    /// After the processes: dropped when they are gone.
    directory: Directory,
}

#[derive(Clone, Debug)]
pub struct Addresses {
    pub api: Vec<SocketAddr>,
    pub link: Vec<SocketAddr>,
    pub broker: SocketAddr,
    pub broker_admin: SocketAddr,
}

/// Which process to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The first control node.
    Control,
    Broker,
}

impl System {
    /// Returns when devices can connect and pushes reach them.
    pub async fn start(plan: &SystemPlan) -> anyhow::Result<System> {
        let directory = Directory::open(plan.data_dir.as_deref())?;
        let operator_key = directory.key("operator.key")?;
        directory.key("link.key")?;
        let addresses = Addresses::choose(plan)?;
        let mut processes = Vec::new();
        if plan.store == Store::Kv {
            processes.push(directory.start_kv().await?);
        }
        for index in 0..addresses.api.len() {
            processes.push(directory.start_control(index, &plan.store, &addresses).await?);
        }
        let operators = operators(&addresses, &operator_key);
        let app = directory.app(&operators).await?;
        // Last, so that its first key set has the app: a broker refuses the devices of an app that
        // it does not know, and they stay away.
        processes.push(directory.start_broker(plan.devices, &addresses).await?);
        linked(&addresses).await?;
        let run = unix_us() as u32;
        Ok(System { processes, addresses, operator_key, app, run, directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// An error if a server has died.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// Takes the process out, to be killed; [`System::put_back`] returns it.
    pub fn take(&mut self, victim: Victim) -> anyhow::Result<Process> {
        let name = match victim {
            Victim::Control => "control-1",
            Victim::Broker => "broker",
        };
        let index = self.processes.iter().position(|process| process.name() == name);
        Ok(self.processes.remove(index.with_context(|| format!("there is no {name}"))?))
    }

    pub fn put_back(&mut self, process: Process) {
        self.processes.push(process);
    }

    /// A client with the operator's key for each control node.
    pub fn operators(&self) -> Vec<Client> {
        operators(&self.addresses, &self.operator_key)
    }

    /// A client with the app's key for each control node.
    pub fn clients(&self) -> Vec<Client> {
        self.operators().iter().map(|client| client.with_key(&self.app.api_key)).collect()
    }

    /// What a fleet needs to sign the tickets of its devices.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            app: self.app.name.clone(),
            key_id: self.app.signing_key.kid,
            seed: self.app.signing_key.seed.clone(),
        }
    }

    /// Stops the broker first, so that nothing arrives at nodes that are gone, and the store last.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let rank = |process: &Process| match process.name() {
            "broker" => 0,
            "kv" => 2,
            _ => 1,
        };
        self.processes.sort_by_key(rank);
        for process in self.processes {
            process.stop().await?;
        }
        Ok(())
    }
}

impl Addresses {
    /// Where this process listens.
    pub fn of(&self, victim: Victim) -> [SocketAddr; 2] {
        match victim {
            Victim::Control => [self.link[0], self.api[0]],
            Victim::Broker => [self.broker, self.broker_admin],
        }
    }

    fn choose(plan: &SystemPlan) -> anyhow::Result<Addresses> {
        let mut ports = Ports::of_this_process();
        let mut choose = |documented: u16| match plan.documented_ports {
            true => ports.preferably(documented),
            false => ports.any(),
        };
        let nodes = 0..plan.control_nodes;
        Ok(Addresses {
            broker: choose(BROKER_PORT)?,
            broker_admin: choose(BROKER_ADMIN_PORT)?,
            link: nodes.clone().map(|node| choose(LINK_PORT + node)).collect::<Result<_, _>>()?,
            api: nodes.map(|node| choose(API_PORT + node)).collect::<Result<_, _>>()?,
        })
    }
}

fn operators(addresses: &Addresses, key: &str) -> Vec<Client> {
    addresses.api.iter().map(|api| Client::new(&format!("http://{api}"), key)).collect()
}

/// How long a node may take to read what the store has, and the broker to find the nodes.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Repeats a call that a node which has just started refuses with "come back".
async fn patiently<T>(call: impl AsyncFn() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let start = Instant::now();
    loop {
        match call().await {
            Err(error) if error.may_retry() && start.elapsed() < START_TIMEOUT => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            result => return result,
        }
    }
}

/// Waits until every shard of the broker has a link to every node, and the apps' keys.
async fn linked(addresses: &Addresses) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < START_TIMEOUT {
        let shards = broker_shards(addresses.broker_admin).await?;
        let ready = |shard: &ShardState| {
            shard.links_up == addresses.link.len() as u64 && shard.keys_version > 0
        };
        if !shards.is_empty() && shards.iter().all(ready) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the broker and the control nodes did not find each other in {START_TIMEOUT:?}");
}

/// A program that lies in the directory of this one.
pub fn beside_us(program: &str) -> anyhow::Result<PathBuf> {
    let us = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(us.parent().context("a program lies in a directory")?.join(program))
}

/// Where a system keeps everything. A temporary one is removed when dropped.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn open(given: Option<&Path>) -> anyhow::Result<Directory> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("hawser-play-{}", std::process::id())),
        };
        if given.is_none() && path.exists() {
            // Of an earlier process with our number, which was killed.
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        let path = path.canonicalize()?;
        Ok(Directory { path, temporary: given.is_none() })
    }

    async fn start_kv(&self) -> anyhow::Result<Process> {
        let (data, socket) = (self.path.join("kv"), self.socket());
        let config = format!("dir = {data:?}\nlisten = \"\"\nunix = {socket:?}\n");
        self.start_server("kv", "hawser-kv", &config).await
    }

    async fn start_control(
        &self,
        index: usize,
        store: &Store,
        addresses: &Addresses,
    ) -> anyhow::Result<Process> {
        let name = format!("control-{}", index + 1);
        let store = match store {
            Store::Embedded => "embedded".to_owned(),
            Store::Kv => format!("unix://{}", self.socket().display()),
            Store::Other { url } => url.clone(),
        };
        let config = format!(
            "node_id = {}\nlisten_api = \"{}\"\nlisten_link = \"{}\"\ndata_dir = {:?}\n\
             store = {store:?}\nlink_key_file = {:?}\nadmin_key_file = {:?}\n\
             broker_addresses = [\"{}\"]\n",
            index + 1,
            addresses.api[index],
            addresses.link[index],
            self.path.join(&name),
            self.path.join("link.key"),
            self.path.join("operator.key"),
            addresses.broker,
        );
        self.start_server(&name, "hawser-control", &config).await
    }

    async fn start_broker(&self, devices: u32, addresses: &Addresses) -> anyhow::Result<Process> {
        let links: Vec<String> = addresses.link.iter().map(SocketAddr::to_string).collect();
        // Not pinned: here the cores also carry the other processes.
        let config = format!(
            "broker_id = 1\nlisten = [\"{}\"]\nadmin = \"{}\"\ncontrol = {links:?}\n\
             link_key_file = {:?}\nstate_dir = {:?}\nconnections_max = {}\npin = false\n",
            addresses.broker,
            addresses.broker_admin,
            self.path.join("link.key"),
            self.path.join("broker"),
            // The kernel spreads connections over the shards by chance.
            CONNECTIONS_MIN + 2 * u64::from(devices),
        );
        self.start_server("broker", "hawser-broker", &config).await
    }

    async fn start_server(
        &self,
        name: &str,
        program: &str,
        config: &str,
    ) -> anyhow::Result<Process> {
        let file = self.path.join(format!("{name}.toml"));
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let spec = Spec {
            name: name.to_owned(),
            program: beside_us(program)?,
            args: vec!["--config".to_owned(), file.display().to_string()],
            log: self.path.join(format!("{name}.log")),
        };
        Process::start_server(spec).await
    }

    fn socket(&self) -> PathBuf {
        self.path.join("kv.sock")
    }

    /// The play's app: registered once per directory, since its secrets are shown once. Returns
    /// when every node knows it.
    async fn app(&self, operators: &[Client]) -> anyhow::Result<NewApp> {
        let path = self.path.join("app.json");
        let app: NewApp = match fs::read_to_string(&path) {
            Ok(text) => NewApp::from_json(&text)
                .with_context(|| format!("{} is damaged", path.display()))?,
            Err(_) => {
                let app = patiently(async || operators[0].app_create(APP, QUOTA).await).await?;
                write_secret(&path, &app.to_json())?;
                app
            }
        };
        for client in operators {
            // With the app's own key an unknown app is one that the node asks the store for.
            let client = client.with_key(&app.api_key);
            patiently(async || client.device(&app.name, "nobody").await).await?;
        }
        Ok(app)
    }

    /// 32 random bytes in hex, made on first use.
    fn key(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(key) => return Ok(key.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => bail!("cannot read {}: {error}", path.display()),
        }
        let key: String = random::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret(&path, &key)?;
        Ok(key)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
