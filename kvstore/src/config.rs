//! Every setting of a server: one flat TOML table, units in the names, all with defaults.
//!
//! A name that does not exist is an error that says the nearest one that does. Values are checked
//! before anything is opened.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::clients::OutboxLimits;
use crate::processor::OneProcessor;
use crate::resp::request::RequestLimits;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: String,
    pub unix: PathBuf,
    pub admin: String,
    pub dir: PathBuf,
    pub password: String,
    pub users: Vec<String>,
    pub users_file: PathBuf,
    pub network_threads: usize,
    pub one_processor: OneProcessor,
    pub connections_max: usize,
    pub arguments_max: usize,
    pub bulk_bytes_max: usize,
    pub request_bytes_max: usize,
    pub inline_bytes_max: usize,
    pub pipeline_commands_max: usize,
    pub transaction_commands_max: usize,
    pub watched_keys_max: usize,
    pub waiting_keys_max: usize,
    pub subscriptions_max: usize,
    pub output_bytes_max: usize,
    pub outbox_bytes_max: usize,
    pub outbox_soft_bytes_max: usize,
    pub outbox_soft_seconds: u64,
    pub durability: Durability,
    pub log_segment_mib: u64,
    pub cache_mib: usize,
    pub rows_mib: usize,
    pub memtable_mib: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: "127.0.0.1:7379".into(),
            unix: PathBuf::new(),
            admin: String::new(),
            dir: "hawser-kv".into(),
            password: String::new(),
            users: Vec::new(),
            users_file: PathBuf::new(),
            network_threads: 0,
            one_processor: OneProcessor::Auto,
            connections_max: 10_000,
            arguments_max: 65_536,
            bulk_bytes_max: 8 << 20,
            request_bytes_max: 16 << 20,
            inline_bytes_max: 64 * 1024,
            pipeline_commands_max: 1024,
            transaction_commands_max: 16_384,
            watched_keys_max: 1024,
            waiting_keys_max: 1 << 20,
            subscriptions_max: 65_536,
            output_bytes_max: 256 << 20,
            outbox_bytes_max: 32 << 20,
            outbox_soft_bytes_max: 8 << 20,
            outbox_soft_seconds: 60,
            durability: Durability::Always,
            log_segment_mib: 64,
            cache_mib: 128,
            rows_mib: 64,
            memtable_mib: 32,
        }
    }
}

/// What an answered write has survived, the most careful first. Whatever it is, a write that was answered
/// survives a crash of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut: it is answered after it is on the disk.
    Always,
    /// A power cut after a second.
    EverySec,
    /// Nothing more: the kernel writes it when it likes.
    None,
}

impl Durability {
    /// As it is written in settings.
    pub fn word(self) -> &'static str {
        match self {
            Durability::Always => "always",
            Durability::EverySec => "everysec",
            Durability::None => "none",
        }
    }
}

/// Each text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    #[error("unknown setting `{name}`; did you mean `{nearest}`?")]
    Unknown { name: String, nearest: String },
    #[error("`{0}` must be written as name=value")]
    NoValue(String),
    #[error("{0}")]
    Invalid(String),
    #[error("set `{name}` to {range} (it is {value})")]
    OutOfRange { name: &'static str, range: String, value: u64 },
    #[error("set `listen` or `unix`: nobody could connect")]
    NowhereToListen,
    #[error("set `users` or `users_file`, not both")]
    TwoUsers,
    #[error("set `request_bytes_max` to at least `bulk_bytes_max`, which one argument may have")]
    RequestBelowBulk,
}

impl Config {
    /// `text` is TOML; `sets` are `name=value` and win over it.
    pub fn parse(text: &str, sets: &[String]) -> Result<Config, ConfigError> {
        let mut table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| invalid(error.message()))?;
        for set in sets {
            let (name, value) =
                set.split_once('=').ok_or_else(|| ConfigError::NoValue(set.clone()))?;
            table.insert(name.trim().to_string(), value_of(value.trim()));
        }
        let names = names();
        if let Some(name) = table.keys().find(|name| !names.contains(name)) {
            let nearest = names.iter().min_by_key(|known| distance(name, known));
            let nearest = nearest.expect("there are settings").clone();
            return Err(ConfigError::Unknown { name: name.clone(), nearest });
        }
        let config: Config =
            table.try_into().map_err(|error: toml::de::Error| invalid(error.to_string().trim()))?;
        config.check()?;
        Ok(config)
    }

    pub fn check(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("network_threads", self.network_threads as u64, 0, 256),
            ("connections_max", self.connections_max as u64, 1, 1_000_000),
            ("arguments_max", self.arguments_max as u64, 16, 1 << 20),
            ("bulk_bytes_max", self.bulk_bytes_max as u64, 1024, 64 << 20),
            ("request_bytes_max", self.request_bytes_max as u64, 1024, 256 << 20),
            ("inline_bytes_max", self.inline_bytes_max as u64, 64, 1 << 20),
            ("pipeline_commands_max", self.pipeline_commands_max as u64, 1, 16_384),
            ("transaction_commands_max", self.transaction_commands_max as u64, 1, 65_536),
            ("watched_keys_max", self.watched_keys_max as u64, 1, 65_536),
            ("waiting_keys_max", self.waiting_keys_max as u64, 1, 1 << 24),
            ("subscriptions_max", self.subscriptions_max as u64, 1, 1 << 20),
            ("output_bytes_max", self.output_bytes_max as u64, 1 << 20, 4 << 30),
            ("outbox_bytes_max", self.outbox_bytes_max as u64, 1 << 16, 4 << 30),
            ("outbox_soft_bytes_max", self.outbox_soft_bytes_max as u64, 1 << 16, 4 << 30),
            ("outbox_soft_seconds", self.outbox_soft_seconds, 1, 86_400),
            ("log_segment_mib", self.log_segment_mib, 1, 4096),
            ("cache_mib", self.cache_mib as u64, 1, 1 << 20),
            ("rows_mib", self.rows_mib as u64, 0, 1 << 20),
            ("memtable_mib", self.memtable_mib as u64, 1, 4096),
        ];
        for (name, value, smallest, largest) in ranges {
            if !(smallest..=largest).contains(&value) {
                let range = format!("{smallest} to {largest}");
                return Err(ConfigError::OutOfRange { name, range, value });
            }
        }
        if self.listen.is_empty() && self.unix.as_os_str().is_empty() {
            return Err(ConfigError::NowhereToListen);
        }
        if !self.users.is_empty() && !self.users_file.as_os_str().is_empty() {
            return Err(ConfigError::TwoUsers);
        }
        if self.request_bytes_max < self.bulk_bytes_max {
            return Err(ConfigError::RequestBelowBulk);
        }
        Ok(())
    }

    /// Bytes one transaction, or one command outside of one, may change. Twice a request holds any that
    /// stores what it was sent; the rest is for those that copy what is stored, as RENAME does.
    pub fn changes_bytes_max(&self) -> usize {
        (2 * self.request_bytes_max).max(64 << 20)
    }

    pub fn outbox_limits(&self) -> OutboxLimits {
        OutboxLimits {
            bytes_max: self.outbox_bytes_max,
            soft_bytes_max: self.outbox_soft_bytes_max,
            soft: Duration::from_secs(self.outbox_soft_seconds),
        }
    }

    pub fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            arguments_max: self.arguments_max,
            bulk_bytes_max: self.bulk_bytes_max,
            request_bytes_max: self.request_bytes_max,
            inline_bytes_max: self.inline_bytes_max,
        }
    }

    /// As TOML, without the password.
    pub fn printed(&self) -> String {
        let hidden = if self.password.is_empty() { "" } else { "(hidden)" };
        let users = self.users.iter().map(|_| "(hidden)".to_string()).collect();
        let shown = Config { password: hidden.into(), users, ..self.clone() };
        toml::to_string(&shown).expect("a flat table of plain values")
    }
}

/// The names of all settings.
pub fn names() -> Vec<String> {
    let table = toml::Table::try_from(Config::default()).expect("a flat table of plain values");
    table.keys().cloned().collect()
}

/// A value from the command line: TOML if it is, text if not.
fn value_of(text: &str) -> toml::Value {
    let parsed: Result<toml::Table, _> = format!("value = {text}").parse();
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| toml::Value::String(text.to_string()))
}

fn invalid(message: &str) -> ConfigError {
    ConfigError::Invalid(message.replace('\n', " "))
}

/// Edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
