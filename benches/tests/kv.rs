//! The store beside redis-server, small: that every figure is there, and that nothing stays.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a run leaves, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("hkv-bench-{}-{name}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).expect("a folder");
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-bench"));
    command.arg("kv").args(arguments).args(["--json", "--results"]).arg(folder.join("rows"));
    command.arg("--dir").arg(folder).output().expect("it runs")
}

#[test]
fn every_ratio_is_measured_and_recorded() {
    let folder = Folder::new("all");
    let arguments =
        ["--rounds", "1", "--requests", "2000", "--keys", "500", "--cold-cache-mib", "1"];
    let output = bench(&folder.0, &arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error} (cargo build --release --bins makes hawser-kv)");
    let said = String::from_utf8_lossy(&output.stdout);
    let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    for load in [
        "durable_set",
        "set",
        "get",
        "durable_set_p16",
        "set_p16",
        "get_p16",
        "cold_set",
        "cold_get",
    ] {
        let figure = |what: &str| last[format!("{load}_{what}")].as_f64().expect("a figure");
        assert!(figure("ratio") > 0.0 && figure("p99_ms") > 0.0, "{load}: {last}");
        assert!(figure("rate") > 0.0 && figure("peer_rate") > 0.0, "{load}: {last}");
    }
    assert!(last["peer"].as_str().expect("a name").starts_with("redis-server 7."), "{last}");
    let rows = std::fs::read_to_string(folder.0.join("rows/kv.jsonl")).expect("rows");
    assert_eq!(rows.lines().count(), 1);
    let left: Vec<_> = std::fs::read_dir(&folder.0).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 1, "only the rows stay: {left:?}");
}

#[test]
fn what_cannot_run_is_told() {
    let folder = Folder::new("bad");
    for (arguments, told) in [
        (&["--kv", "/nonexistent/hawser-kv"][..], "does not exist"),
        (&["--kv", "/bin/false"][..], "hawser-kv: it ended at once"),
        (&["--rounds", "0"][..], "invalid value '0' for '--rounds"),
    ] {
        let output = bench(&folder.0, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{arguments:?}: {error}");
    }
}
