//! The brokers of others: where they are, how they are set up and started.
//!
//! Each has a folder of its own, and listens on loopback only.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::folder::Folder;
use crate::process::Daemon;
use crate::scenario::stage::processors;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    Hawser,
    Mosquitto,
    NatsServer,
    Rumqttd,
}

impl Name {
    pub fn program(self) -> &'static str {
        match self {
            Name::Hawser => "hawser-broker",
            Name::Mosquitto => "mosquitto",
            Name::NatsServer => "nats-server",
            Name::Rumqttd => "rumqttd",
        }
    }

    pub fn how_to_install(self) -> &'static str {
        match self {
            Name::Hawser => "cargo build --release builds it",
            Name::Mosquitto => "`.ci/setup bench` or `apt-get install mosquitto` installs it",
            Name::NatsServer => "`.ci/setup bench` or `apt-get install nats-server` installs it",
            Name::Rumqttd => "`.ci/setup bench` or `cargo install rumqttd` installs it",
        }
    }

    /// On the search path, where Debian keeps servers, or where `.ci/setup bench` installs.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let own = cache.map(|cache| cache.join("hawser/peers/bin"));
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
            .chain(own)
            .map(|folder| folder.join(self.program()))
            .find(|program| program.is_file())
    }

    /// The program and its version, which it says in a line of its own.
    fn version(self, program: &Path) -> anyhow::Result<String> {
        let flag = if self == Name::Mosquitto { "-h" } else { "--version" };
        let said = Command::new(program)
            .arg(flag)
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let said = String::from_utf8_lossy(&said.stdout);
        let is_version = |word: &&str| {
            let number = word.strip_prefix('v').unwrap_or(word);
            number.contains('.') && number.starts_with(|first: char| first.is_ascii_digit())
        };
        let version = said.split_whitespace().find(is_version);
        let version = version
            .with_context(|| format!("{} {flag} says no version: {said}", program.display()))?;
        Ok(format!("{} {}", self.program(), version.trim_start_matches('v')))
    }

    /// Persistence and logs off, no limit below what is measured, no delay of small packets (which
    /// nats-server and rumqttd have off by themselves).
    fn config(self, address: SocketAddr, folder: &Path) -> String {
        let port = address.port();
        let folder = folder.display();
        match self {
            Name::Hawser => unreachable!("hawser's broker is started by its own scenarios"),
            // mosquitto.conf(5).
            Name::Mosquitto => format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n\
                 connection_messages false\nset_tcp_nodelay true\nmax_connections -1\n\
                 max_queued_messages 0\nmax_inflight_messages 0\nsys_interval 0\nuser root\n"
            ),
            // docs.nats.io: MQTT needs JetStream, for its sessions.
            Name::NatsServer => format!(
                "server_name: bench\nlisten: \"127.0.0.1:-1\"\nmax_connections: 1000000\n\
                 write_deadline: \"60s\"\nauthorization {{ timeout: 60 }}\n\
                 jetstream {{ store_dir: \"{folder}\", max_file_store: 4GB }}\n\
                 mqtt {{ listen: \"127.0.0.1:{port}\", max_ack_pending: 65535 }}\n"
            ),
            // rumqttd.toml of its repository, with room for the connections.
            Name::Rumqttd => format!(
                "id = 0\n[router]\nid = 0\nmax_connections = 1000000\n\
                 max_outgoing_packet_count = 200\nmax_segment_size = 104857600\n\
                 max_segment_count = 10\n[v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\n\
                 next_connection_delay_ms = 0\n[v4.1.connections]\nconnection_timeout_ms = 60000\n\
                 max_payload_size = 20480\nmax_inflight_count = 1000\ndynamic_filters = true\n"
            ),
        }
    }
}

/// A server that listens.
pub struct Peer {
    pub daemon: Daemon,
    pub version: String,
    pub config: String,
}

impl Peer {
    pub fn start(name: Name, program: &Path) -> anyhow::Result<Peer> {
        let version = name.version(program)?;
        let folder = Folder::in_memory(name.program())?;
        // rumqttd goes by the name; the others take any.
        let file = folder.path().join("config.toml");
        let command = |address, folder: &Path| {
            let config = name.config(address, folder);
            fs::write(&file, config).with_context(|| file.display().to_string())?;
            let mut command = Command::new(program);
            command.arg("-c").arg(&file);
            if name == Name::NatsServer {
                // As many threads that run as it has processors.
                command.env("GOMAXPROCS", "1");
            }
            Ok(command)
        };
        let daemon = Daemon::start(folder, &[processors()?.0], command)
            .with_context(|| format!("{version}, {}", program.display()))?;
        let config = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(Peer { daemon, version, config })
    }
}
