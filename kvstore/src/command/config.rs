//! CONFIG: settings under the names that Redis has for them, and under their own.
//!
//! What can change while the server runs is in [`live`](crate::live); the rest is shown, and refused
//! with where it is set instead. Setting something to what it already is does nothing and is no error.

use bytes::Bytes;

use super::error::{CommandError, shown};
use super::scan::glob;
use super::{Read, put_help, subcommand};
use crate::config::Durability;
use crate::live::{Live, SLOWLOG_LEN_MAX};
use crate::resp;
use crate::resp::reply::Reply;
use crate::shared::Shared;
use crate::users::DEFAULT;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("config|get", -3, get),
    ("config|help", 2, help),
    ("config|resetstat", 2, resetstat),
    ("config|set", -4, set),
];

/// A setting that changes while the server runs.
struct Parameter {
    name: &'static str,
    unit: Unit,
    get: fn(&Live) -> i64,
    set: fn(&Live, i64),
    range: (i64, i64),
}

/// How a value is written.
#[derive(Clone, Copy)]
enum Unit {
    Number,
    /// Bytes, perhaps with a unit behind them.
    Memory,
}

impl Unit {
    fn parse(self, text: &[u8]) -> Result<i64, &'static str> {
        match self {
            Unit::Number => {
                resp::integer(text).ok_or("argument couldn't be parsed into an integer")
            }
            Unit::Memory => memory(text).ok_or("argument must be a memory value"),
        }
    }
}

/// Bytes as Redis reads them: `100mb` are 100 * 1024 * 1024, and `100m` are 100,000,000.
fn memory(text: &[u8]) -> Option<i64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    std::str::from_utf8(number).ok()?.parse::<i64>().ok()?.checked_mul(factor)
}

const LIVE: &[Parameter] = &[
    Parameter {
        name: "latency-monitor-threshold",
        unit: Unit::Number,
        get: |live| live.latency_threshold_ms() as i64,
        set: |live, value| live.set_latency_threshold_ms(value as u64),
        range: (0, i64::MAX),
    },
    Parameter {
        name: "maxclients",
        unit: Unit::Number,
        get: |live| live.connections_max() as i64,
        set: |live, value| live.set_connections_max(value as usize),
        range: (1, i64::MAX),
    },
    Parameter {
        name: "maxmemory",
        unit: Unit::Memory,
        get: |live| live.memory_bytes_max() as i64,
        set: |live, value| live.set_memory_bytes_max(value as u64),
        range: (0, i64::MAX),
    },
    Parameter {
        name: "slowlog-log-slower-than",
        unit: Unit::Number,
        get: |live| live.slower_than_micros(),
        set: |live, value| live.set_slower_than_micros(value),
        range: (-1, i64::MAX),
    },
    Parameter {
        name: "slowlog-max-len",
        unit: Unit::Number,
        get: |live| live.slowlog_len_max() as i64,
        set: |live, value| live.set_slowlog_len_max(value as usize),
        range: (0, SLOWLOG_LEN_MAX as i64),
    },
    Parameter {
        name: "stream-node-max-entries",
        unit: Unit::Number,
        get: |live| live.stream_node_entries() as i64,
        set: |live, value| live.set_stream_node_entries(value as u64),
        range: (1, i64::MAX),
    },
];

/// Settings that choose how Redis lays values out in memory, with what they are there. Each older name
/// stands before the one it is another name of.
const ENCODINGS: &[(&str, &str, &str)] = &[
    ("hash-max-ziplist-entries", "hash-max-listpack-entries", "512"),
    ("hash-max-listpack-entries", "hash-max-listpack-entries", "512"),
    ("hash-max-ziplist-value", "hash-max-listpack-value", "64"),
    ("hash-max-listpack-value", "hash-max-listpack-value", "64"),
    ("list-compress-depth", "list-compress-depth", "0"),
    ("list-max-ziplist-size", "list-max-listpack-size", "-2"),
    ("list-max-listpack-size", "list-max-listpack-size", "-2"),
    ("set-max-intset-entries", "set-max-intset-entries", "512"),
    ("stream-node-max-bytes", "stream-node-max-bytes", "4096"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries", "128"),
    ("zset-max-listpack-entries", "zset-max-listpack-entries", "128"),
    ("zset-max-ziplist-value", "zset-max-listpack-value", "64"),
    ("zset-max-listpack-value", "zset-max-listpack-value", "64"),
];

/// The password of the default user, which is never shown.
const REQUIREPASS: &str = "requirepass";

/// Settings of Redis that have one value here, and what they would be set with.
fn fixed(shared: &Shared) -> Vec<(String, String)> {
    let config = &shared.config;
    let port = config.listen.rsplit_once(':').map_or("0", |(_, port)| port);
    let host = config.listen.rsplit_once(':').map_or("", |(host, _)| host);
    let synced = match config.durability {
        Durability::Always => "always",
        Durability::EverySec => "everysec",
        Durability::None => "no",
    };
    let known = [
        ("appendfsync", synced),
        ("appendonly", "yes"),
        ("bind", host),
        ("cluster-enabled", "no"),
        ("databases", "16"),
        ("maxmemory-policy", "noeviction"),
        ("notify-keyspace-events", ""),
        ("port", port),
        ("save", ""),
        ("timeout", "0"),
    ];
    let mut all: Vec<(String, String)> =
        known.map(|(name, value)| (name.to_string(), value.to_string())).into();
    all.push((
        "client-output-buffer-limit".into(),
        format!(
            "normal {} 0 0 slave 0 0 0 pubsub {} {} {}",
            config.output_bytes_max,
            config.outbox_bytes_max,
            config.outbox_soft_bytes_max,
            config.outbox_soft_seconds
        ),
    ));
    all.push(("proto-max-bulk-len".into(), config.bulk_bytes_max.to_string()));
    all.push(("unixsocket".into(), config.unix.display().to_string()));
    let own = toml::Table::try_from(config).expect("a flat table of plain values");
    all.extend(own.into_iter().filter(|(name, _)| !is_secret(name)).map(|(name, value)| {
        (name, value.as_str().map_or_else(|| value.to_string(), str::to_string))
    }));
    all
}

fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "users")
}

/// All settings as they are now.
fn all(shared: &Shared) -> Vec<(String, String)> {
    let mut all = fixed(shared);
    let live = LIVE.iter();
    all.extend(live.map(|known| (known.name.to_string(), (known.get)(&shared.live).to_string())));
    all.extend(ENCODINGS.iter().map(|(name, stored, default)| {
        let value = shared.live.encoding(stored).unwrap_or_else(|| default.to_string());
        (name.to_string(), value)
    }));
    all.push((REQUIREPASS.to_string(), String::new()));
    all
}

pub fn config(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    subcommand(read.args, COMMANDS)?(read, reply)
}

fn get(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let is_wanted = |name: &str| {
        let matches = |pattern: &Bytes| glob(&pattern.to_ascii_lowercase(), name.as_bytes());
        read.args[2..].iter().any(matches)
    };
    let found: Vec<_> = all(read.shared).into_iter().filter(|(name, _)| is_wanted(name)).collect();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// Everything is checked before anything is set.
fn set(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let pairs = &read.args[2..];
    let bad = |name: &Bytes| CommandError::ConfigUnknown(shown(name));
    if !pairs.len().is_multiple_of(2) {
        return Err(CommandError::Syntax);
    }
    let mut changes: Vec<Change> = Vec::new();
    let mut names: Vec<Vec<u8>> = Vec::new();
    for pair in pairs.chunks_exact(2) {
        let name = pair[0].to_ascii_lowercase();
        if names.contains(&name) {
            return Err(refused(&pair[0], "duplicate parameter"));
        }
        let change = Change::of(read.shared, &name, &pair[1]);
        changes.push(change.map_err(|why| refused(&pair[0], &why))?.ok_or_else(|| bad(&pair[0]))?);
        names.push(name);
    }
    changes.into_iter().try_for_each(|change| change.make(read.shared))?;
    reply.ok();
    Ok(())
}

fn refused(name: &Bytes, why: &str) -> CommandError {
    CommandError::ConfigRefused(shown(name), why.to_string())
}

/// What one pair of CONFIG SET does.
enum Change {
    Nothing,
    Live(&'static Parameter, i64),
    Encoding(&'static str, String),
    Password(Bytes),
}

impl Change {
    /// `None` for a name that is not known; the error says why it cannot be set.
    fn of(shared: &Shared, name: &[u8], value: &Bytes) -> Result<Option<Change>, String> {
        let is_it = |known: &str| known.as_bytes() == name;
        if let Some(parameter) = LIVE.iter().find(|known| is_it(known.name)) {
            let number = parameter.unit.parse(value)?;
            let (from, to) = parameter.range;
            return match (from..=to).contains(&number) {
                true => Ok(Some(Change::Live(parameter, number))),
                false => Err(format!("argument must be between {from} and {to} inclusive")),
            };
        }
        if let Some((_, stored, _)) = ENCODINGS.iter().find(|(known, _, _)| is_it(known)) {
            let number = resp::integer(value)
                .ok_or_else(|| "argument couldn't be parsed into an integer".to_string())?;
            return Ok(Some(Change::Encoding(stored, number.to_string())));
        }
        if is_it(REQUIREPASS) {
            return Ok(Some(Change::Password(value.clone())));
        }
        let fixed = fixed(shared).into_iter().find(|(known, _)| is_it(known));
        match fixed {
            None => Ok(None),
            Some((_, present)) if present.as_bytes() == value => Ok(Some(Change::Nothing)),
            Some((_, present)) => Err(format!(
                "it is '{present}' and cannot change while the server runs; see the settings in \
                 its configuration file"
            )),
        }
    }

    fn make(self, shared: &Shared) -> Outcome {
        match self {
            Change::Nothing => {}
            Change::Live(parameter, value) => (parameter.set)(&shared.live, value),
            Change::Encoding(name, value) => shared.live.set_encoding(name, value),
            Change::Password(password) => {
                let new = match password.is_empty() {
                    true => Bytes::from_static(b"nopass"),
                    false => Bytes::from([b">", &password[..]].concat()),
                };
                shared.users.set(DEFAULT.as_bytes(), &[Bytes::from_static(b"resetpass"), new])?;
            }
        }
        Ok(())
    }
}

fn resetstat(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    read.shared.stats.reset();
    read.shared.reset_counters();
    reply.ok();
    Ok(())
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "CONFIG",
        &[
            "GET <pattern> [<pattern> ...]",
            "    Settings whose names match.",
            "RESETSTAT",
            "    Set the counters of INFO to 0.",
            "SET <name> <value> [<name> <value> ...]",
            "    Change settings until the next start.",
        ],
    );
    Ok(())
}
