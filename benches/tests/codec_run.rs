//! A short run of the codec benchmark: every format says and reads every message as the others do
//! (the run itself checks that), and the rows have what a reader of results needs.

use std::process::Command;

use serde_json::Value;

#[test]
fn rows_hold_every_format() {
    let output = Command::new(env!("CARGO_BIN_EXE_hawser-bench"))
        .args(["codec", "--rounds", "1", "--measure-ms", "1", "--json", "--no-record"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 6, "one row a scenario");
    for row in rows {
        for key in ["scenario", "commit", "kernel", "cpu", "unix_s"] {
            assert!(!row[key].is_null(), "{key} is missing in {row}");
        }
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
}
