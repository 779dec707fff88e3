//! Result rows read back: files and folders of them, which rows measure the same thing, and which
//! of those is the latest.
//!
//! Rows of earlier commits stay readable: fields that they lack are unknown, and figures that had
//! another name get the present one. A line that is no row, as a run that was killed leaves behind,
//! is left out with a warning; a file without a single row is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

use crate::results::Row;

/// The server of rows that do not name one.
pub const OURS: &str = "hawser";

/// The rate of a row as a share of the server's highest one, where each server had its own.
pub const SHARE: &str = "share_of_highest_percent";

/// Benchmark, a figure's place in rows of earlier commits, its present name, and what it is to be
/// multiplied with.
const FORMER: [(&str, &str, &str, f64); 7] = [
    ("connections", "user_anonymous_bytes_per_connection.median", "user_bytes_per_conn", 1.0),
    ("connections", "kernel_bytes_per_connection", "kernel_bytes_per_conn", 1.0),
    ("fanout", "broker.messages_per_s.median", "rate", 1.0),
    ("fanout", "broker.cpu_ns_per_message.median", "cpu_ns_per_message", 1.0),
    ("fanout", "floor.messages_per_s.median", "floor_rate", 1.0),
    ("fanout", "floor.cpu_ns_per_message.median", "floor_cpu_ns_per_message", 1.0),
    ("fanout", "rate_percent_of_floor.median", "ratio_to_floor", 0.01),
];

/// Options that say where to read and write, not what is measured. The second is whether a value
/// follows.
const ASIDE: [(&str, bool); 8] = [
    ("--json", false),
    ("--no-record", false),
    ("--results", true),
    ("--run", true),
    ("--broker", true),
    ("--hawser", true),
    ("--valgrind", true),
    ("--binaries", true),
];

/// What a row measures. Rows with the same key can stand in for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub benchmark: String,
    pub fleet: String,
    /// Ours sorts first.
    is_other_server: bool,
    pub server: String,
    scenario: String,
    tickets: String,
    pub connections: u64,
    payload_bytes: u64,
    /// Zero where the rate is a result.
    pub rate: u64,
}

/// Rows in the order of their files and lines.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub warnings: Vec<String>,
}

impl Rows {
    /// All `.jsonl` files of a folder.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Rows> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("cannot read {}; use --results", folder.display()))?;
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                files.push(path);
            }
        }
        files.sort();
        ensure!(
            !files.is_empty(),
            "{} has no results; run a benchmark first, or use --results",
            folder.display()
        );
        let mut all = Rows::default();
        for file in files {
            let read = Rows::of_file(&file)?;
            all.rows.extend(read.rows);
            all.warnings.extend(read.warnings);
        }
        Ok(all)
    }

    pub fn of_file(path: &Path) -> anyhow::Result<Rows> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // A torn line may end within a character.
        let text = String::from_utf8_lossy(&bytes);
        let mut read = Rows::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str::<Row>(line) {
                Ok(row) => read.rows.push(with_present_names(row)),
                Err(error) => read.warnings.push(format!(
                    "{}:{}: left out, no result row: {error}",
                    path.display(),
                    index + 1
                )),
            }
        }
        ensure!(
            !read.rows.is_empty(),
            "{} has no result row; give a file that a benchmark wrote",
            path.display()
        );
        Ok(read)
    }

    /// The latest row of each key.
    pub fn latest<'a>(rows: impl IntoIterator<Item = &'a Row>) -> BTreeMap<Key, &'a Row> {
        let mut latest: BTreeMap<Key, &Row> = BTreeMap::new();
        for row in rows {
            let held = latest.entry(row.key()).or_insert(row);
            if row.unix_s >= held.unix_s {
                *held = row;
            }
        }
        latest
    }
}

impl Row {
    pub fn key(&self) -> Key {
        let count = |name: &str| self.number(name).unwrap_or(0.0) as u64;
        Key {
            benchmark: self.benchmark.clone(),
            fleet: self.word("fleet").to_owned(),
            is_other_server: !self.is_ours(),
            server: self.word("server").to_owned(),
            scenario: self.scenario.clone(),
            tickets: self.word("tickets").to_owned(),
            connections: count("connections"),
            payload_bytes: count("payload_bytes"),
            rate: self.offered_rate(),
        }
    }

    /// Whether hawser is what was measured.
    pub fn is_ours(&self) -> bool {
        matches!(self.word("server"), OURS | "")
    }

    /// A value that is a word, or nothing.
    pub fn word(&self, name: &str) -> &str {
        self.values.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A figure by its name or path.
    pub fn number(&self, path: &str) -> Option<f64> {
        number_at(&self.values, path)
    }

    /// All figures with their paths, except the edges of spreads.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let mut figures = Vec::new();
        collect("", &self.values, &mut figures);
        figures
    }

    /// The options that decide what is measured.
    pub fn settings(&self) -> Option<Vec<&str>> {
        let mut kept = Vec::new();
        let mut flags = self.flags.as_ref()?.iter().map(String::as_str);
        while let Some(flag) = flags.next() {
            let name = flag.split('=').next().unwrap_or(flag);
            match ASIDE.iter().find(|(aside, _)| *aside == name) {
                Some((_, true)) if name == flag => drop(flags.next()),
                Some(_) => {}
                None => kept.push(flag),
            }
        }
        Some(kept)
    }

    /// Messages a second that were asked for where latencies are measured at a rate; elsewhere the
    /// rate is a result and no part of the key. Without `--rate` it is the rate that was reached,
    /// to two digits, since no two runs reach the same.
    pub fn offered_rate(&self) -> u64 {
        let at_a_rate = matches!(self.benchmark.as_str(), "push" | "heartbeat" | "uplink");
        if !at_a_rate || self.number(SHARE).is_some() {
            return 0;
        }
        let asked = self.settings().and_then(|settings| {
            let joined = settings.iter().find_map(|flag| flag.strip_prefix("--rate="));
            let apart = || Some(*settings.iter().skip_while(|flag| **flag != "--rate").nth(1)?);
            joined.or_else(apart)?.replace('_', "").parse().ok()
        });
        asked.unwrap_or_else(|| {
            let Some(reached) = self.number("rate").filter(|&rate| rate >= 1.0) else { return 0 };
            let step = 10f64.powf(reached.log10().floor() - 1.0);
            ((reached / step).round() * step).round() as u64
        })
    }
}

fn number_at(values: &Map<String, Value>, path: &str) -> Option<f64> {
    match path.split_once('.') {
        None => values.get(path)?.as_f64(),
        Some((first, rest)) => number_at(values.get(first)?.as_object()?, rest),
    }
}

fn collect(prefix: &str, values: &Map<String, Value>, figures: &mut Vec<(String, f64)>) {
    let is_spread = values.len() == 3 && values.contains_key("median");
    for (name, value) in values {
        let path = format!("{prefix}{name}");
        match value {
            Value::Number(_) if is_spread && name != "median" => {}
            Value::Number(number) => figures.extend(number.as_f64().map(|number| (path, number))),
            Value::Object(inner) => collect(&format!("{path}."), inner, figures),
            _ => {}
        }
    }
}

fn with_present_names(mut row: Row) -> Row {
    let former = || FORMER.iter().filter(|(benchmark, ..)| *benchmark == row.benchmark);
    let found: Vec<(&str, &str, f64)> = former()
        .filter_map(|&(_, path, name, factor)| {
            Some((path, name, number_at(&row.values, path)? * factor))
        })
        .collect();
    if found.is_empty() {
        return row;
    }
    for (path, name, value) in found {
        row.values.remove(path.split('.').next().unwrap_or(path));
        row.values.insert(name.to_owned(), Value::from(value));
    }
    for (name, value) in [("server", OURS), ("fleet", "sockets")] {
        row.values.entry(name).or_insert_with(|| Value::from(value));
    }
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(row: Value) -> Row {
        with_present_names(serde_json::from_value(row).unwrap())
    }

    #[test]
    fn rows_of_earlier_commits_get_present_names() {
        let old = row(json!({"benchmark": "fanout", "scenario": "15000 devices", "values": {
            "connections": 15000,
            "broker": {
                "messages_per_s": {"low": 1.0, "median": 140000.0, "high": 2.0},
                "cpu_ns_per_message": {"low": 1.0, "median": 6500.0, "high": 2.0},
            },
            "rate_percent_of_floor": {"low": 98.0, "median": 99.0, "high": 100.0},
        }}));
        let expected = [
            ("connections", 15000.0),
            ("cpu_ns_per_message", 6500.0),
            ("rate", 140000.0),
            ("ratio_to_floor", 0.99),
        ];
        assert_eq!(old.figures(), expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!((old.word("server"), old.word("fleet")), ("hawser", "sockets"));
        assert_eq!((old.memory_bytes, old.settings()), (None, None));
    }

    #[test]
    fn offered_rates_make_rows_distinct_and_reached_ones_do_not() {
        let push = |flags: Value, rate: f64| {
            let values = json!({"rate": rate});
            row(json!({"benchmark": "push", "scenario": "", "flags": flags, "values": values}))
                .offered_rate()
        };
        assert_eq!(push(json!(["push", "--rate", "20000", "--json"]), 19_321.0), 20_000);
        assert_eq!(push(json!(["push", "--rate=0"]), 19_321.0), 0);
        assert_eq!(push(json!(["push", "--rate", "1000,2000"]), 1_987.2), 2_000);
        assert_eq!(push(json!(["push", "--rates", "5"]), 304_100.0), 300_000);
        assert_eq!(push(json!(["push"]), 0.0), 0);
    }

    #[test]
    fn settings_leave_out_where_files_are() {
        let flags = json!(["push", "--json", "--results", "/x", "--broker=/y", "--rate", "5"]);
        let row = row(json!({"benchmark": "push", "scenario": "", "flags": flags, "values": {}}));
        assert_eq!(row.settings(), Some(vec!["push", "--rate", "5"]));
    }
}
