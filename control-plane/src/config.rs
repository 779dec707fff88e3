//! The configuration: a TOML file, then `--set key=value`, checked as a whole before anything
//! starts.
//!
//! ```text
//!   file ─▶ table ◀─ --set          table ─▶ Config ─▶ Plan (addresses parsed, keys read)
//! ```
//!
//! Every key has a default or says what to set; a key that does not exist is an error that names
//! the nearest one. `hawser-control.toml` explains each key, and a test holds it to the defaults
//! here. The two secrets stand in files or in the environment, never in the configuration, so that
//! it can be printed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_kv::descriptors;
use serde::{Deserialize, Serialize};

use crate::link;
use crate::nearest::nearest;
use crate::secrets::{KeyDigest, LinkKey, SecretError, read_key_file};
use crate::store;

/// The environment variables that stand in for the two key files.
pub const LINK_KEY_VARIABLE: &str = "HAWSER_LINK_KEY";
pub const ADMIN_KEY_VARIABLE: &str = "HAWSER_ADMIN_KEY";

/// Open files for what is counted nowhere else: listeners, standard streams, connections that are
/// accepted and have no place yet, name resolution.
const OPEN_FILES_RESERVE: u64 = 64;

/// The configuration as it is written. An empty text means "not set".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node_id: u64,
    pub listen_api: String,
    pub listen_link: String,
    pub data_dir: PathBuf,
    pub store: String,
    pub link_key_file: PathBuf,
    pub admin_key_file: PathBuf,
    pub broker_addresses: Vec<String>,
    pub api_connections_max: u32,
    pub api_request_timeout_ms: u64,
    pub api_bodies_mib: u32,
    pub links_max: u32,
    pub link_queue_mib: u32,
    pub link_handshake_timeout_ms: u64,
    pub store_timeout_ms: u64,
    pub store_start_timeout_ms: u64,
    pub stop_timeout_ms: u64,
    pub log: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node_id: 0,
            listen_api: "127.0.0.1:7420".into(),
            listen_link: "127.0.0.1:7410".into(),
            data_dir: "hawser-data".into(),
            store: "embedded".into(),
            link_key_file: PathBuf::new(),
            admin_key_file: PathBuf::new(),
            broker_addresses: vec!["127.0.0.1:7400".into()],
            api_connections_max: 4096,
            api_request_timeout_ms: 30_000,
            api_bodies_mib: 256,
            links_max: 1024,
            link_queue_mib: 64,
            link_handshake_timeout_ms: 5_000,
            store_timeout_ms: 5_000,
            store_start_timeout_ms: 30_000,
            stop_timeout_ms: 10_000,
            log: "info".into(),
        }
    }
}

/// Where inboxes, group logs and apps are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A kvstore inside this process, its files in this directory.
    Embedded { directory: PathBuf },
    /// A URL that the redis crate understands. It may contain a password.
    Remote { url: String },
}

impl StoreAddress {
    /// For a log line: without user and password.
    pub fn shown(&self) -> String {
        match self {
            StoreAddress::Embedded { directory } => format!("embedded in {}", directory.display()),
            StoreAddress::Remote { url } => match (url.find("://"), url.rfind('@')) {
                (Some(scheme), Some(at)) if scheme < at => {
                    format!("{}..{}", &url[..scheme + 3], &url[at..])
                }
                _ => url.clone(),
            },
        }
    }
}

/// What the process runs with: the configuration with everything in it checked and read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `None`: derived from the host's name and the port of `listen_link`.
    pub node_id: Option<u64>,
    pub listen_api: SocketAddr,
    pub listen_link: SocketAddr,
    pub store: StoreAddress,
    pub link_key: LinkKey,
    pub admin_key: KeyDigest,
    pub broker_addresses: Vec<String>,
    pub api_connections_max: usize,
    pub api_request_timeout: Duration,
    pub api_bodies_bytes_max: usize,
    pub links_max: usize,
    pub link_queue_bytes_max: usize,
    pub link_handshake_timeout: Duration,
    pub store_timeout: Duration,
    pub store_start_timeout: Duration,
    pub stop_timeout: Duration,
}

/// What is wrong with the configuration, as one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path}: {message}")]
    Syntax { path: String, message: String },
    #[error("--set {text}: write it as key=value")]
    NotAnAssignment { text: String },
    #[error("unknown key {key:?}{}", did_you_mean(.nearest))]
    UnknownKey { key: String, nearest: Option<&'static str> },
    #[error("{message}")]
    WrongType { message: String },
    #[error("{key} = {value:?}: {reason}")]
    BadValue { key: &'static str, value: String, reason: String },
    #[error("no {what}: set {key} or the environment variable {variable}")]
    NoSecret { what: &'static str, key: &'static str, variable: &'static str },
    #[error("{origin}: {source}")]
    BadSecret { origin: String, source: SecretError },
    #[error(
        "{needed} open files are needed, with api_connections_max = {connections_max}, but the \
         limit is {limit}; {}raise the limit (ulimit -Hn, LimitNOFILE=)", lower(*.fit)
    )]
    TooFewOpenFiles { needed: u64, connections_max: u64, limit: u64, fit: u64 },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => "; --print-config shows all keys".into(),
    }
}

/// Without a single connection there is more to lower than them.
fn lower(fit: u64) -> String {
    match fit {
        0 => "lower api_connections_max and links_max, or ".into(),
        fit => format!("set api_connections_max to at most {fit}, or "),
    }
}

impl Plan {
    /// Whether this process, with everything that it may hold at once, fits under a limit of open
    /// files. At the limit callers and brokers would be locked out, and the embedded store could not
    /// write.
    pub fn check_open_files(&self, limit: u64) -> Result<(), ConfigError> {
        let connections_max = self.api_connections_max as u64;
        let others = self.open_files_beside_the_api();
        let needed = connections_max + others;
        if needed <= limit {
            return Ok(());
        }
        let fit = limit.saturating_sub(others);
        Err(ConfigError::TooFewOpenFiles { needed, connections_max, limit, fit })
    }

    fn open_files_beside_the_api(&self) -> u64 {
        let links = (self.links_max + link::HANDSHAKES_MAX) as u64;
        let store = store::CONNECTIONS_MAX as u64;
        OPEN_FILES_RESERVE
            + links
            + match self.store {
                // Both ends of each connection, and the files.
                StoreAddress::Embedded { .. } => 2 * store + descriptors::needed_without_clients(),
                StoreAddress::Remote { .. } => store,
            }
    }
}

impl Config {
    /// Every key, in the order in which they are explained.
    pub const KEYS: [&str; 18] = [
        "node_id",
        "listen_api",
        "listen_link",
        "data_dir",
        "store",
        "link_key_file",
        "admin_key_file",
        "broker_addresses",
        "api_connections_max",
        "api_request_timeout_ms",
        "api_bodies_mib",
        "links_max",
        "link_queue_mib",
        "link_handshake_timeout_ms",
        "store_timeout_ms",
        "store_start_timeout_ms",
        "stop_timeout_ms",
        "log",
    ];

    /// The file, if there is one, and what `--set` changes in it.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Config, ConfigError> {
        let mut table = match file {
            Some(path) => read_table(path)?,
            None => toml::Table::new(),
        };
        for text in sets {
            let (key, value) = assignment(text)?;
            table.insert(key, value);
        }
        for key in table.keys() {
            if !Config::KEYS.contains(&key.as_str()) {
                let nearest = nearest(key, Config::KEYS);
                return Err(ConfigError::UnknownKey { key: key.clone(), nearest });
            }
        }
        table.try_into().map_err(|error: toml::de::Error| ConfigError::WrongType {
            message: error.to_string().trim_end().replace('\n', " "),
        })
    }

    /// As TOML, without secrets, since it holds none but a store's password, which is left out.
    pub fn print(&self) -> String {
        let shown = Config {
            store: match self.store_address() {
                Ok(address @ StoreAddress::Remote { .. }) => address.shown(),
                _ => self.store.clone(),
            },
            ..self.clone()
        };
        toml::to_string(&shown).expect("texts and numbers are valid TOML")
    }

    /// Checks everything and reads the keys; `variable` looks an environment variable up.
    pub fn plan(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Plan, ConfigError> {
        let link_key =
            secret("link key", "link_key_file", &self.link_key_file, LINK_KEY_VARIABLE, &variable)?;
        let admin_key = secret(
            "operator key",
            "admin_key_file",
            &self.admin_key_file,
            ADMIN_KEY_VARIABLE,
            &variable,
        )?;
        for address in &self.broker_addresses {
            check_broker_address(address)?;
        }
        let milliseconds = |key, value| {
            let value = in_range(key, value, 1, 3_600_000)?;
            Ok(Duration::from_millis(value))
        };
        let mebibytes = |key, value: u32, min, max| {
            in_range(key, value.into(), min, max).map(|mib| (mib as usize) << 20)
        };
        Ok(Plan {
            node_id: (self.node_id != 0).then_some(self.node_id),
            listen_api: socket_address("listen_api", &self.listen_api)?,
            listen_link: socket_address("listen_link", &self.listen_link)?,
            store: self.store_address()?,
            link_key: link_key.read(LinkKey::parse)?,
            admin_key: admin_key.read(KeyDigest::of_admin_key)?,
            broker_addresses: self.broker_addresses.clone(),
            api_connections_max: in_range(
                "api_connections_max",
                self.api_connections_max.into(),
                1,
                1_000_000,
            )? as usize,
            api_request_timeout: milliseconds(
                "api_request_timeout_ms",
                self.api_request_timeout_ms,
            )?,
            api_bodies_bytes_max: mebibytes("api_bodies_mib", self.api_bodies_mib, 16, 65_536)?,
            links_max: in_range("links_max", self.links_max.into(), 1, 65_536)? as usize,
            link_queue_bytes_max: mebibytes("link_queue_mib", self.link_queue_mib, 4, 4096)?,
            link_handshake_timeout: milliseconds(
                "link_handshake_timeout_ms",
                self.link_handshake_timeout_ms,
            )?,
            store_timeout: milliseconds("store_timeout_ms", self.store_timeout_ms)?,
            store_start_timeout: milliseconds(
                "store_start_timeout_ms",
                self.store_start_timeout_ms,
            )?,
            stop_timeout: milliseconds("stop_timeout_ms", self.stop_timeout_ms)?,
        })
    }

    fn store_address(&self) -> Result<StoreAddress, ConfigError> {
        if self.store == "embedded" {
            return Ok(StoreAddress::Embedded { directory: self.data_dir.clone() });
        }
        let known = ["redis://", "unix:///"].iter().any(|scheme| self.store.starts_with(scheme));
        if !known || redis::Client::open(self.store.as_str()).is_err() {
            return Err(ConfigError::BadValue {
                key: "store",
                value: self.store.clone(),
                reason: "must be \"embedded\", \"redis://host:port\" or \"unix:///path\"".into(),
            });
        }
        Ok(StoreAddress::Remote { url: self.store.clone() })
    }
}

fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: shown(), source })?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::Syntax { path: shown(), message: format!("line {line}: {}", error.message()) }
    })
}

/// The value is TOML if it reads as such, otherwise a text, so that quotes are seldom needed.
fn assignment(text: &str) -> Result<(String, toml::Value), ConfigError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| ConfigError::NotAnAssignment { text: text.to_owned() })?;
    let (key, value) = (key.trim().to_owned(), value.trim());
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let value = parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    Ok((key, value))
}

/// A secret's text and where it came from.
struct Secret {
    text: String,
    origin: String,
}

impl Secret {
    fn read<T>(self, parse: impl Fn(&str) -> Result<T, SecretError>) -> Result<T, ConfigError> {
        parse(&self.text).map_err(|source| ConfigError::BadSecret { origin: self.origin, source })
    }
}

fn secret(
    what: &'static str,
    key: &'static str,
    file: &Path,
    name: &'static str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Secret, ConfigError> {
    if !file.as_os_str().is_empty() {
        let origin = format!("{key} {}", file.display());
        return match read_key_file(file) {
            Ok(text) => Ok(Secret { text, origin }),
            Err(source) => Err(ConfigError::BadSecret { origin, source }),
        };
    }
    match variable(name) {
        Some(text) => Ok(Secret { text, origin: name.to_owned() }),
        None => Err(ConfigError::NoSecret { what, key, variable: name }),
    }
}

fn socket_address(key: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    value.parse().map_err(|_| ConfigError::BadValue {
        key,
        value: value.to_owned(),
        reason: "must be an address and a port, such as 127.0.0.1:7420".into(),
    })
}

/// Devices resolve names themselves; only the form is checked.
fn check_broker_address(address: &str) -> Result<(), ConfigError> {
    let good = address.len() <= hawser_codec::limits::ADDRESS_BYTES_MAX
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if good {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        key: "broker_addresses",
        value: address.to_owned(),
        reason: "must be host:port".into(),
    })
}

fn in_range(key: &'static str, value: u64, min: u64, max: u64) -> Result<u64, ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let reason = format!("must be {min} to {max}");
    Err(ConfigError::BadValue { key, value: value.to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../hawser-control.toml");

    fn variables(name: &str) -> Option<String> {
        match name {
            LINK_KEY_VARIABLE => Some("ab".repeat(32)),
            ADMIN_KEY_VARIABLE => Some("operator-key-for-tests".into()),
            _ => None,
        }
    }

    fn load(sets: &[&str]) -> Result<Config, ConfigError> {
        let sets: Vec<String> = sets.iter().map(|&text| text.to_owned()).collect();
        Config::load(None, &sets)
    }

    #[test]
    fn example_has_every_key_with_its_default_and_explains_it() {
        let table: toml::Table = EXAMPLE.parse().unwrap();
        assert_eq!(table.clone().try_into::<Config>().unwrap(), Config::default());
        let mut keys: Vec<&str> = table.keys().map(String::as_str).collect();
        keys.sort_by_key(|key| Config::KEYS.iter().position(|known| known == key));
        assert_eq!(keys, Config::KEYS);
        let mut before = "";
        for line in EXAMPLE.lines() {
            if line.split_once(" = ").is_some() && !line.starts_with('#') {
                assert!(before.starts_with('#'), "{line} is not explained");
            }
            before = line;
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        let config = load(&["listen_api=127.0.0.1:0", "links_max=7", "store = unix:///x"]).unwrap();
        assert_eq!(config.links_max, 7);
        let table: toml::Table = config.print().parse().unwrap();
        assert_eq!(table.try_into::<Config>().unwrap(), config);
        let secret = load(&["store=redis://me:secret@host:6379"]).unwrap();
        assert!(!secret.print().contains("secret"), "{}", secret.print());
    }

    #[test]
    fn mistakes_are_told_by_name() {
        for (sets, expect) in [
            (&["listen_apii=x"][..], "unknown key \"listen_apii\"; did you mean \"listen_api\"?"),
            (&["zzzzzzzzzzzzz=1"], "unknown key \"zzzzzzzzzzzzz\"; --print-config shows all keys"),
            (&["links_max"], "--set links_max: write it as key=value"),
            (&["links_max=many"], "links_max"),
            (&["links_max=0"], "links_max = \"0\": must be 1 to 65536"),
            (&["api_bodies_mib=15"], "api_bodies_mib = \"15\": must be 16 to 65536"),
            (&["listen_link=localhost"], "listen_link = \"localhost\": must be an address"),
            (&["store=mysql://x"], "store = \"mysql://x\": must be"),
            (&["broker_addresses=[\"nowhere\"]"], "broker_addresses = \"nowhere\": must be"),
            (&["link_key_file=/does/not/exist"], "link_key_file /does/not/exist: cannot be read"),
        ] {
            let result = load(sets).and_then(|config| config.plan(variables));
            let message = result.expect_err(expect).to_string();
            assert!(message.contains(expect), "{message:?} should contain {expect:?}");
            assert!(!message.contains('\n'), "{message:?}");
        }
    }

    #[test]
    fn a_plan_fits_under_the_limit_of_open_files_or_says_what_does() {
        for store in ["store=embedded", "store=unix:///x"] {
            let plan = |connections_max: u64| {
                let connections_max = format!("api_connections_max={connections_max}");
                load(&[store, &connections_max]).unwrap().plan(variables).unwrap()
            };
            let needed = 4096 + plan(1).open_files_beside_the_api();
            assert!(plan(4096).check_open_files(needed).is_ok());
            let error = plan(4096).check_open_files(needed - 1).unwrap_err();
            let ConfigError::TooFewOpenFiles { fit: 4095, .. } = error else { panic!("{error}") };
            assert!(plan(4095).check_open_files(needed - 1).is_ok());
            assert!(error.to_string().contains("set api_connections_max to at most 4095"));
            let message = plan(1).check_open_files(64).unwrap_err().to_string();
            assert!(message.contains("lower api_connections_max and links_max"), "{message}");
        }
    }

    #[test]
    fn secrets_come_from_the_environment_or_are_asked_for() {
        let config = Config::default();
        assert!(config.plan(variables).is_ok());
        let message = config.plan(|_| None).unwrap_err().to_string();
        assert_eq!(
            message,
            "no link key: set link_key_file or the environment variable HAWSER_LINK_KEY"
        );
        let message = config.plan(|_| Some("short".into())).unwrap_err().to_string();
        assert_eq!(message, "HAWSER_LINK_KEY: must be 64 hexadecimal digits (32 bytes)");
    }
}
