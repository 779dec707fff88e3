//! The configuration: one TOML file, single values over it, and one secret beside it.
//!
//! ```text
//!   defaults ◀─ --config FILE ◀─ --set key=value ...        link key: link_key_file, or HAWSER_LINK_KEY
//! ```
//!
//! Every key has its unit in its name. An unknown key is an error that names the nearest right
//! one. What a number means for this machine is decided in `plan.rs`; zero leaves it to the plan
//! where the example file `hawser-broker.toml` says so.
//!
//! Invariant: the example file has every key with its default; a test compares them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hawser_codec::limits::{ADDRESS_BYTES_MAX, HEARTBEAT_S_MAX, REDIRECT_ADDRESSES_MAX};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::steering::Steer;

/// The environment variable with the link key in hexadecimal.
pub const LINK_KEY_VARIABLE: &str = "HAWSER_LINK_KEY";

/// Each listener may give one more connection after its accept was cancelled; a ring's margin has
/// room for these.
const LISTEN_ADDRESSES_MAX: usize = 4;

const LINKS_MAX: usize = 16;

/// From two ticks of the slowest clock, which the kernel insists on, to what `hawser tune apply` sets.
const RTO_MIN_MS: (u64, u64) = (20, 3_000);

/// What the kernel takes.
const RTO_MAX_MS: (u64, u64) = (1_000, 120_000);

/// Everything that can be configured. `hawser-broker.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub broker_id: u64,
    pub listen: Vec<String>,
    pub admin: String,
    pub control: Vec<String>,
    pub link_key_file: String,
    pub state_dir: String,
    pub shards: usize,
    pub pin: bool,
    pub steer_connections: Steer,
    pub connections_max: u32,
    pub table_max: u32,
    pub handshake_timeout_ms: u64,
    pub heartbeat_min_s: u64,
    pub heartbeat_max_s: u64,
    pub heartbeat_margin_ms: u64,
    pub accept_budget_per_turn: u32,
    pub accept_delay_above: u32,
    pub accept_delay_ms_per_100k: u64,
    pub memory_free_min_mib: u64,
    pub retry_after_ms: u32,
    pub outbox_bytes_max: usize,
    pub partial_bytes_max: usize,
    pub topics_bytes_max: usize,
    pub send_buffer_bytes: usize,
    pub rto_min_ms: u64,
    pub rto_max_ms: u64,
    pub link_queue_bytes_max: usize,
    pub link_idle_ms: u64,
    pub drain_per_s: u32,
    pub redirect: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            broker_id: 0,
            listen: vec!["127.0.0.1:7400".to_owned()],
            admin: "127.0.0.1:7401".to_owned(),
            control: vec!["127.0.0.1:7410".to_owned()],
            link_key_file: String::new(),
            state_dir: String::new(),
            shards: 0,
            pin: true,
            steer_connections: Steer::Auto,
            connections_max: 0,
            table_max: 0,
            handshake_timeout_ms: 10_000,
            heartbeat_min_s: 180,
            heartbeat_max_s: 600,
            heartbeat_margin_ms: 20_000,
            accept_budget_per_turn: 4096,
            accept_delay_above: 1_000_000,
            accept_delay_ms_per_100k: 50,
            memory_free_min_mib: 0,
            retry_after_ms: 5_000,
            outbox_bytes_max: 64 * 1024 * 1024,
            partial_bytes_max: 16 * 1024 * 1024,
            topics_bytes_max: 64 * 1024 * 1024,
            send_buffer_bytes: 128 * 1024,
            rto_min_ms: 0,
            rto_max_ms: 0,
            link_queue_bytes_max: 64 * 1024 * 1024,
            link_idle_ms: 30_000,
            drain_per_s: 1_000,
            redirect: Vec::new(),
        }
    }
}

/// What is wrong with a configuration, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn error<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Config {
    /// Reads the file, if there is one, and puts the `key=value` settings over it.
    pub fn load(file: Option<&Path>, settings: &[String]) -> Result<Config, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?,
        };
        let config = Config::parse(&text, settings).map_err(|ConfigError(what)| match file {
            Some(path) => ConfigError(format!("{}: {what}", path.display())),
            None => ConfigError(what),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The same from text, without the checks of [`Config::check`].
    pub fn parse(text: &str, settings: &[String]) -> Result<Config, ConfigError> {
        let mut table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| ConfigError(error.to_string()))?;
        let defaults = toml::Table::try_from(Config::default()).expect("the default has a form");
        for setting in settings {
            let Some((key, value)) = setting.split_once('=') else {
                return error(format!("--set {setting}: write key=value"));
            };
            let value = setting_value(value.trim(), defaults.get(key.trim()));
            table.insert(key.trim().to_owned(), value);
        }
        for key in table.keys() {
            if !defaults.contains_key(key) {
                let nearest = nearest(key, defaults.keys());
                return error(format!("there is no key `{key}`; did you mean `{nearest}`?"));
            }
        }
        toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| {
            ConfigError(error.to_string().trim().replace('\n', " "))
        })
    }

    /// The checks that need no machine.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() || self.listen.len() > LISTEN_ADDRESSES_MAX {
            return error(format!("listen: give 1 to {LISTEN_ADDRESSES_MAX} addresses"));
        }
        if self.control.len() > LINKS_MAX {
            return error(format!("control: at most {LINKS_MAX} control nodes"));
        }
        let mut taken: Vec<SocketAddr> = Vec::new();
        for address in self.listen.iter().chain([&self.admin]) {
            let Ok(address) = address.parse() else {
                return error(format!(
                    "`{address}` is not an IP address with a port, like 0.0.0.0:7400 or [::]:7400"
                ));
            };
            if let Some(other) = taken.iter().find(|other| overlap(other, &address)) {
                return error(format!(
                    "listen and admin: {other} and {address} overlap; leave one out or give it a port \
                     of its own"
                ));
            }
            taken.push(address);
        }
        if self.redirect.len() > REDIRECT_ADDRESSES_MAX {
            return error(format!("redirect: at most {REDIRECT_ADDRESSES_MAX} addresses"));
        }
        if let Some(address) = self.redirect.iter().find(|address| !is_host_port(address)) {
            return error(format!("redirect: `{address}` is not host:port"));
        }
        let longest = u64::from(HEARTBEAT_S_MAX);
        for (key, value, min, max) in [
            ("heartbeat_min_s", self.heartbeat_min_s, 1, self.heartbeat_max_s),
            ("heartbeat_max_s", self.heartbeat_max_s, 1, longest),
            ("heartbeat_margin_ms", self.heartbeat_margin_ms, 100, 600_000),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 10, 600_000),
            ("accept_budget_per_turn", self.accept_budget_per_turn.into(), 1, 1 << 20),
            ("accept_delay_ms_per_100k", self.accept_delay_ms_per_100k, 0, 60_000),
            ("drain_per_s", self.drain_per_s.into(), 1, 1 << 24),
            ("send_buffer_bytes", self.send_buffer_bytes as u64, 4096, 16 << 20),
            ("link_queue_bytes_max", self.link_queue_bytes_max as u64, 4 << 20, 4 << 30),
            ("link_idle_ms", self.link_idle_ms, 100, 3_600_000),
            ("shards", self.shards as u64, 0, 1024),
        ] {
            if !(min..=max).contains(&value) {
                return error(format!("{key} = {value} is outside {min} to {max}"));
            }
        }
        for (key, value, (min, max)) in [
            ("rto_min_ms", self.rto_min_ms, RTO_MIN_MS),
            ("rto_max_ms", self.rto_max_ms, RTO_MAX_MS),
        ] {
            if value != 0 && !(min..=max).contains(&value) {
                return error(format!("{key} = {value} is neither 0 nor within {min} to {max}"));
            }
        }
        if self.steer_connections == Steer::On && !self.pin {
            return error("steer_connections = on needs pin = true");
        }
        if self.rto_max_ms != 0 && self.rto_max_ms < self.rto_min_ms {
            return error(format!(
                "rto_max_ms = {} is below rto_min_ms = {}",
                self.rto_max_ms, self.rto_min_ms
            ));
        }
        Ok(())
    }

    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        self.listen.iter().map(|address| address.parse().expect("checked")).collect()
    }

    /// The control nodes' addresses. Names are resolved here, once.
    pub fn control_addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        self.control.iter().map(|address| resolve(address)).collect()
    }

    /// The link key, which no print of the configuration shows.
    pub fn link_key(&self) -> Result<[u8; 32], ConfigError> {
        let (place, text) = if !self.link_key_file.is_empty() {
            (self.link_key_file.clone(), read_secret(&self.link_key_file)?)
        } else if let Ok(text) = std::env::var(LINK_KEY_VARIABLE) {
            (LINK_KEY_VARIABLE.to_owned(), text)
        } else if self.control.is_empty() {
            return Ok([0; 32]);
        } else {
            return error(format!(
                "no link key: set link_key_file, or {LINK_KEY_VARIABLE}, to 64 hexadecimal digits \
                 (openssl rand -hex 32), the same for the control nodes"
            ));
        };
        match from_hex(text.trim()) {
            Some(key) => Ok(key),
            None => error(format!("{place}: the link key is not 64 hexadecimal digits")),
        }
    }

    /// The configured number, or one from the host's name and the first address it really listens
    /// on, which is stable across restarts and differs between the brokers of a region.
    pub fn broker_id(&self, first: SocketAddr) -> u64 {
        if self.broker_id != 0 {
            return self.broker_id;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let digest = Sha256::digest(format!("{}\0{first}", host.trim()));
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(id).max(1)
    }

    /// The configuration as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("the configuration has a form")
    }
}

/// A setting's value: TOML if it is some; otherwise text, which is a list where one belongs.
fn setting_value(text: &str, default: Option<&toml::Value>) -> toml::Value {
    let parsed = format!("value = {text}").parse::<toml::Table>().ok();
    let value = parsed
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    match (default, &value) {
        (Some(toml::Value::Array(_)), toml::Value::String(items)) => items
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| toml::Value::String(item.to_owned()))
            .collect::<Vec<_>>()
            .into(),
        (Some(toml::Value::String(_)), toml::Value::String(_)) => value,
        (Some(toml::Value::String(_)), _) => toml::Value::String(text.to_owned()),
        _ => value,
    }
}

/// The right key with the fewest edits.
fn nearest<'a>(key: &str, keys: impl Iterator<Item = &'a String>) -> &'a str {
    keys.min_by_key(|right| edits(key, right)).expect("there are keys")
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Whether one address takes the port of the other. Sockets of IPv6 leave IPv4 alone.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same_port = one.port() == other.port() && one.port() != 0;
    same_port && one.is_ipv4() == other.is_ipv4() && (any || one == other)
}

fn is_host_port(address: &str) -> bool {
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && port != 0).then_some(port)
    });
    port.is_some() && address.len() <= ADDRESS_BYTES_MAX
}

fn resolve(address: &str) -> Result<SocketAddr, ConfigError> {
    let found = address.to_socket_addrs().map(|mut addresses| addresses.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => error(format!("control: `{address}` has no address")),
        Err(why) => error(format!("control: `{address}` is not host:port that resolves ({why})")),
    }
}

/// Reads a file that only its owner may read.
fn read_secret(path: &str) -> Result<String, ConfigError> {
    let failed = |error| ConfigError(format!("link_key_file: cannot read {path}: {error}"));
    let mode = std::fs::metadata(path).map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return error(format!("link_key_file: others may read {path}; chmod 600 {path}"));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| pair[0] << 4 | pair.last().unwrap_or(&0)).collect();
    (digits.len() == 64).then(|| bytes.try_into().expect("64 digits are 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_has_every_key_with_its_default() {
        let text = include_str!("../hawser-broker.toml");
        let table: toml::Table = text.parse().expect("the example is TOML");
        let defaults = toml::Table::try_from(Config::default()).expect("the default has a form");
        let missing: Vec<_> = defaults.keys().filter(|&key| !table.contains_key(key)).collect();
        assert!(missing.is_empty(), "hawser-broker.toml lacks {missing:?}");
        assert_eq!(Config::parse(text, &[]), Ok(Config::default()));
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn a_printed_configuration_reads_back() {
        let settings = ["listen=[::1]:0, 127.0.0.1:0", "pin=false", "redirect=a.example:1"];
        let config = Config::parse("shards = 3", &settings.map(str::to_owned)).unwrap();
        assert_eq!(config.listen, ["[::1]:0", "127.0.0.1:0"]);
        assert_eq!((config.shards, config.pin), (3, false));
        assert_eq!(Config::parse(&config.to_toml(), &[]), Ok(config));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, settings: &[&str], expect: &str| {
            let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
            let result = Config::parse(text, &settings).and_then(|config| config.check());
            let message = result.expect_err(text).to_string();
            assert!(message.contains(expect), "{message:?} does not say {expect:?}");
        };
        check("lisen = []", &[], "did you mean `listen`?");
        check("", &["conections_max=1"], "did you mean `connections_max`?");
        check("", &["drain_per_second=1"], "did you mean `drain_per_s`?");
        check("", &["shards"], "write key=value");
        check("shards = \"two\"", &[], "shards");
        check("shards =", &[], "line 1");
        check("listen = [\"localhost\"]", &[], "`localhost` is not an IP address with a port");
        check("listen = []", &[], "1 to 4 addresses");
        check("", &["listen=[::1]:1,[::1]:1"], "[::1]:1 and [::1]:1 overlap; leave one out");
        check("", &["listen=127.0.0.1:1,0.0.0.0:1"], "127.0.0.1:1 and 0.0.0.0:1 overlap");
        check("", &["listen=0.0.0.0:1", "admin=127.0.0.1:1"], "0.0.0.0:1 and 127.0.0.1:1 overlap");
        check("", &["heartbeat_min_s=0"], "outside 1 to 600");
        check("", &["heartbeat_min_s=700"], "outside 1 to 600");
        check("", &["redirect=nowhere"], "`nowhere` is not host:port");
        check("", &["steer_connections=on", "pin=false"], "needs pin = true");
        check("", &["steer_connections=yes"], "expected one of `auto`, `on`, `off`");
        check("", &["rto_min_ms=19"], "rto_min_ms = 19 is neither 0 nor within 20 to 3000");
        check("", &["rto_min_ms=3001"], "rto_min_ms = 3001 is neither 0 nor within 20 to 3000");
        check("", &["rto_max_ms=999"], "rto_max_ms = 999 is neither 0 nor within 1000 to 120000");
        check("", &["rto_max_ms=120001"], "neither 0 nor within 1000 to 120000");
        check("", &["rto_min_ms=3000", "rto_max_ms=2999"], "is below rto_min_ms = 3000");
    }

    #[test]
    fn addresses_that_do_not_overlap_stand_together() {
        for listen in [
            "listen=0.0.0.0:1,[::]:1,0.0.0.0:2,[::]:2",
            "listen=127.0.0.1:1,127.0.0.2:1",
            "listen=127.0.0.1:0,127.0.0.1:0,0.0.0.0:0",
        ] {
            let config = Config::parse("", &[listen.to_owned()]).unwrap();
            assert_eq!(config.check(), Ok(()), "{listen}");
        }
    }

    #[test]
    fn bounds_of_the_retransmission_timeout_may_be_at_their_limits() {
        for settings in [
            ["rto_min_ms=20", "rto_max_ms=1000"],
            ["rto_min_ms=3000", "rto_max_ms=3000"],
            ["rto_min_ms=3000", "rto_max_ms=0"],
            ["rto_min_ms=0", "rto_max_ms=120000"],
        ] {
            let config = Config::parse("", &settings.map(str::to_owned)).unwrap();
            assert_eq!(config.check(), Ok(()), "{settings:?}");
        }
    }

    #[test]
    fn link_keys_are_64_digits() {
        assert_eq!(from_hex(&"0f".repeat(32)), Some([0x0f; 32]));
        for wrong in
            ["", "0f", &"0f".repeat(31), &"0g".repeat(32), &"0f".repeat(33), &"ä".repeat(32)]
        {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_nearest_key_takes_the_fewest_edits() {
        for (a, b, expect) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("a", "a", 0)]
        {
            assert_eq!(edits(a, b), expect, "{a} {b}");
        }
    }
}
