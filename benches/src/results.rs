//! Result rows: one JSON object a line, appended to `benches/results/<benchmark>.jsonl`, each with
//! what is needed to know where it comes from.
//!
//! ```text
//!   {"benchmark", "scenario",                      what was measured
//!    "unix_s", "commit", "kernel", "cpu", "cpus",  when, of what, on which machine
//!    "memory_bytes", "plan_hash", "flags",         its memory, the broker's plan, the command line
//!    "values": {...}}                              the figures; numbers with the unit in the name
//! ```
//!
//! A figure that was not measured is absent, never zero. With `--json` the last row of a run is
//! printed as the last line of standard output, flat: its values beside its benchmark and scenario.

use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Where results go; the same for every benchmark.
#[derive(clap::Args)]
pub struct Output {
    /// Print one JSON object as the last line instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// The folder of the files of rows
    #[arg(long, global = true, value_name = "DIR", default_value = "benches/results")]
    pub results: PathBuf,
    /// Append no rows
    #[arg(long, global = true)]
    no_record: bool,
    #[arg(skip)]
    last: RefCell<Option<Row>>,
}

/// One line of a file of results. What rows of earlier commits do not have may be missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub benchmark: String,
    pub scenario: String,
    #[serde(default)]
    pub unix_s: u64,
    #[serde(default)]
    pub commit: String,
    #[serde(default)]
    pub kernel: String,
    #[serde(default)]
    pub cpu: String,
    #[serde(default)]
    pub cpus: usize,
    pub memory_bytes: Option<u64>,
    /// Of the broker's plan; none if no broker ran.
    pub plan_hash: Option<String>,
    /// The command line's arguments.
    pub flags: Option<Vec<String>>,
    pub values: Map<String, Value>,
}

impl Output {
    /// Records one row. `plan_hash` is that of the broker that ran, if one did; `values` is an
    /// object.
    pub fn row(
        &self,
        benchmark: &str,
        scenario: &str,
        plan_hash: Option<&str>,
        values: Value,
    ) -> anyhow::Result<()> {
        let Value::Object(values) = values else {
            bail!("the values of {benchmark} are no object: {values}");
        };
        let row = Row {
            benchmark: benchmark.to_owned(),
            scenario: scenario.to_owned(),
            unix_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            commit: commit(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            cpu: cpu(),
            cpus: cpus(),
            memory_bytes: Some(memory_bytes()?),
            plan_hash: plan_hash.map(str::to_owned),
            flags: Some(std::env::args().skip(1).collect()),
            values,
        };
        if !self.no_record {
            std::fs::create_dir_all(&self.results)
                .with_context(|| format!("cannot make {}", self.results.display()))?;
            let path = self.results.join(format!("{benchmark}.jsonl"));
            let mut file =
                std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(
                    || format!("cannot append to {}; use --results", path.display()),
                )?;
            // One write, so that a line is not torn by a second run beside this one.
            file.write_all((serde_json::to_string(&row)? + "\n").as_bytes())?;
        }
        self.last.replace(Some(row));
        Ok(())
    }

    /// What a command that records no row prints with `--json`.
    pub fn say(&self, benchmark: &str, scenario: &str, values: Value) {
        println!("{}", flat(benchmark, scenario, values));
    }

    /// The end of a run: with `--json`, the last row, flat.
    pub fn finish(&self) {
        if let Some(row) = self.last.take().filter(|_| self.json) {
            self.say(&row.benchmark, &row.scenario, Value::Object(row.values));
        }
    }
}

/// Values with what they are values of among them.
fn flat(benchmark: &str, scenario: &str, mut values: Value) -> Value {
    values["benchmark"] = Value::from(benchmark);
    values["scenario"] = Value::from(scenario);
    values
}

/// Twelve hexadecimal digits that two brokers share if their plans do. The plan's text is what
/// `hawser-broker --check-config` prints; the memory that was free at that moment is no part of the
/// plan, and no two runs would have the same.
pub fn plan_hash(plan: &str) -> String {
    let of = " MiB in all of ";
    let (planned, now) = plan.split_once(of).unwrap_or((plan, ""));
    let lasting = now.split_once(" MiB free").map_or(now, |(_free, rest)| rest);
    let digest = Sha256::new().chain_update(planned.trim()).chain_update(lasting.trim()).finalize();
    digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The commit that is checked out where this runs, with a plus if files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Result rows of earlier benchmarks do not change what is measured.
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benches/results"]);
    if changed.is_some_and(|files| files.is_empty()) { commit } else { commit + "+" }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}

fn memory_bytes() -> anyhow::Result<u64> {
    let path = "/proc/meminfo";
    let text = std::fs::read_to_string(path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib =
        line.and_then(|line| line.split_whitespace().next()).context("MemTotal is missing")?;
    Ok(1024 * kib.parse::<u64>()?)
}

/// Of the machine: this program may have bound itself to one of them.
fn cpus() -> usize {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use hawser_broker::config::Config;
    use hawser_broker::plan::{Machine, Plan};

    use super::*;

    /// On a real plan, so that a change of its wording is seen here.
    #[test]
    fn a_plan_has_one_hash_whatever_memory_is_free() {
        let hash = |connections_max: u64, memory_free_bytes: u64| {
            let machine = Machine {
                memory_free_bytes,
                processors: vec![0, 1],
                ..Machine::read().expect("this machine")
            };
            let settings = [
                "control=".to_owned(),
                "shards=1".to_owned(),
                format!("connections_max={connections_max}"),
            ];
            let config = Config::load(None, &settings).expect("a configuration");
            plan_hash(&Plan::new(&config, &machine).expect("a plan").to_string())
        };
        let (less, more) = (4 << 30, 5 << 30);
        assert_eq!(hash(10_000, less), hash(10_000, more));
        assert_ne!(hash(10_000, less), hash(20_000, less));
        assert_eq!(hash(10_000, less).len(), 12);
    }
}
