//! The soak for some seconds on the real store: figures are there, nothing stays, and what it finds wrong
//! ends it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What a run leaves, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("hkv-soak-{}-{name}", std::process::id());
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

fn soak(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-bench"));
    command.arg("soak").args(arguments).args(["--json", "--results"]).arg(folder.join("rows"));
    command.arg("--dir").arg(folder).output().expect("it runs")
}

#[test]
fn a_short_one_is_right_and_bounded() {
    let folder = Folder::new("short");
    let output = soak(&folder.0, &["--minutes", "0.1", "--clients", "4"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error} (cargo build --release --bins makes hawser-kv)");
    let said = String::from_utf8_lossy(&output.stdout);
    let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    for figure in ["commands", "connects", "memory_bytes", "memtables_bytes", "log_bytes"] {
        assert!(last[figure].as_f64().expect("a figure") > 0.0, "{figure}: {last}");
    }
    assert!(last["memory_curve_bytes"].as_array().expect("a curve").len() >= 3, "{last}");
    assert_eq!(last["wrong"], 0);
    let rows = std::fs::read_to_string(folder.0.join("rows/soak.jsonl")).expect("rows");
    assert_eq!(rows.lines().count(), 1);
    let left: Vec<_> = std::fs::read_dir(&folder.0).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 1, "only the rows stay: {left:?}");
}

#[test]
fn what_is_wrong_ends_it() {
    let folder = Folder::new("bad");
    for (arguments, told) in [
        (&["--kv", "/bin/false"][..], "hawser-kv: it ended at once"),
        (&["--minutes", "0.01"][..], "0.05 to 100000"),
        (&["--minutes", "0.05", "--clients", "1", "--cache-mib", "0"][..], "invalid value '0'"),
    ] {
        let output = soak(&folder.0, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(told), "{arguments:?}: {error}");
    }
}
