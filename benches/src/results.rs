//! Result rows: one JSON object a line, appended to `benches/results/<benchmark>.jsonl`, each with
//! what is needed to know where it comes from.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

/// Where results go; the same for every benchmark.
#[derive(clap::Args)]
pub struct Output {
    /// Print the rows as JSON lines instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// The folder that the rows are appended to
    #[arg(long, global = true, value_name = "DIR", default_value = "benches/results")]
    results: PathBuf,
    /// Append no rows
    #[arg(long, global = true)]
    no_record: bool,
}

impl Output {
    /// Records one row, and prints it if rows are what is printed.
    pub fn row(&self, benchmark: &str, scenario: &str, values: Value) -> anyhow::Result<()> {
        let row = json!({
            "benchmark": benchmark,
            "scenario": scenario,
            "unix_s": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            "commit": commit(),
            "kernel": first_line("/proc/sys/kernel/osrelease"),
            "cpu": cpu(),
            "cpus": std::thread::available_parallelism()?.get(),
            "values": values,
        });
        if self.json {
            println!("{row}");
        }
        if self.no_record {
            return Ok(());
        }
        std::fs::create_dir_all(&self.results)?;
        let path = self.results.join(format!("{benchmark}.jsonl"));
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot append to {}; use --results", path.display()))?;
        writeln!(file, "{row}")?;
        Ok(())
    }
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

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
