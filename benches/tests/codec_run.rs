//! A short run of the codec benchmark: every format says and reads every message as the others do
//! (the run itself checks that), and the rows have what a reader of results needs.

use std::process::Command;

use serde_json::Value;

const FLAGS: [&str; 6] = ["codec", "--rounds", "1", "--measure-ms", "1", "--json"];

#[test]
fn rows_hold_every_format() {
    let folder = std::env::temp_dir().join(format!("hawser-codec-run-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_hawser-bench"))
        .args(FLAGS)
        .arg("--results")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let text = std::fs::read_to_string(folder.join("codec.jsonl")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 6, "one row a scenario");
    for row in &rows {
        check_origin(row);
        check_formats(row);
    }
    check_printed(&output.stdout, rows.last().unwrap());
}

/// Where the row comes from.
fn check_origin(row: &Value) {
    for key in ["scenario", "commit", "kernel", "cpu"] {
        assert!(row[key].is_string(), "{key} is missing in {row}");
    }
    for key in ["unix_s", "cpus", "memory_bytes"] {
        assert!(row[key].as_u64().unwrap() > 0, "{key} is missing in {row}");
    }
    assert_eq!(row["benchmark"], "codec");
    assert_eq!(row.get("plan_hash"), Some(&Value::Null), "no broker ran");
    let flags = row["flags"].as_array().unwrap();
    assert_eq!(flags[..FLAGS.len()], FLAGS.map(Value::from));
}

fn check_formats(row: &Value) {
    let formats = row["values"]["formats"].as_object().unwrap();
    for name in ["hawser", "xmpp", "mqtt5", "json"] {
        assert!(formats[name]["encode_ns"]["median"].as_f64().unwrap() > 0.0);
        assert!(formats[name]["decode_ns"]["median"].as_f64().unwrap() > 0.0);
    }
    // Bytes do not depend on the machine. A body of a kilobyte outweighs any envelope.
    let percent = row["values"]["xmpp_over_hawser"]["bytes_percent"].as_f64().unwrap();
    let percent_max = if row["scenario"] == "push 1 KiB" { 95.0 } else { 50.0 };
    assert!(percent <= percent_max, "{percent} % of XMPP's bytes in {}", row["scenario"]);
}

/// With `--json`, one line: the last row's values with its benchmark and scenario among them.
fn check_printed(stdout: &[u8], last: &Value) {
    let mut flat = last["values"].clone();
    flat["benchmark"] = last["benchmark"].clone();
    flat["scenario"] = last["scenario"].clone();
    let printed: Vec<&str> = std::str::from_utf8(stdout).unwrap().lines().collect();
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert_eq!(serde_json::from_str::<Value>(printed[0]).unwrap(), flat);
}
