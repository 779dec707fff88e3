//! The fleet over a TUN device against the kernel's TCP and a real broker: what a wire does to
//! packets, what is refused, and what remains of a run that is killed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Those of a minute.
const LOOKS: u32 = 12_000;

fn bench(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawser-bench"));
    command.args(line.split_whitespace()).args(["--no-record", "--json"]);
    command
}

fn result(line: &str) -> Value {
    let output = bench(line).output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    let text = String::from_utf8(output.stdout).expect("it is text");
    serde_json::from_str(text.lines().last().expect("a last line")).expect("it is JSON")
}

/// Ends with an error and says all of these.
fn refused(output: &Output, said: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for text in said {
        assert!(error.contains(text), "{text} in {error}");
    }
}

#[test]
fn every_device_is_verified_and_reached() {
    for fleet in ["tun", "sockets"] {
        let found = result(&format!("connections --fleet {fleet} --connections 1500 --idle-s 0"));
        for name in ["established", "ready", "verified", "pushed", "received"] {
            assert_eq!(found[name], 1500, "{name} in {found}");
        }
        assert_eq!(found["lost"], 0, "{found}");
    }
}

/// One packet of ten is lost, twice or late, in both directions: TCP makes up for all of it.
#[test]
fn a_bad_wire_costs_time_and_nothing_else() {
    const WIRE: &str = "loss=0.04,delay_ms=5,reorder=0.04,duplicate=0.02";
    let found =
        result(&format!("connections --connections 400 --idle-s 0 --up {WIRE} --down {WIRE}"));
    for name in ["established", "ready", "verified", "pushed", "received"] {
        assert_eq!(found[name], 400, "{name} in {found}");
    }
    assert_eq!(found["lost"], 0, "{found}");
    for name in ["packets_lost_by_wire", "segments_repeated", "segments_heard_again"] {
        assert!(found["net"][name].as_u64() > Some(0), "{name} in {found}");
    }
}

#[test]
fn every_scenario_says_what_it_promises() {
    for (line, promised) in [
        (
            "fanout --connections 500 --rounds 2 --floor",
            &["rate", "floor_rate", "ratio_to_floor", "cpu_ns_per_message", "fleet_cpu_percent"][..],
        ),
        (
            "push --connections 500 --rounds 1 --seconds 1 --rate 2000 --floor",
            &["rate", "floor_rate", "ratio_to_floor", "p50_us", "p99_us", "p999_us", "max_us"],
        ),
        (
            "heartbeat --connections 500 --rounds 1 --seconds 1 --rate 2000 --floor",
            &["rate", "floor_rate", "ratio_to_floor", "p50_us", "p99_us", "p999_us", "max_us"],
        ),
        (
            "uplink --connections 500 --rounds 1 --seconds 1 --rate 2000 --floor",
            &["rate", "floor_rate", "floor_p99_us", "cpu_percent", "paced_fleet_cpu_percent"],
        ),
        (
            "connections --connections 500 --idle-s 0 --floor",
            &["user_bytes_per_conn", "setup_per_s", "floor_setup_per_s"],
        ),
    ] {
        let found = result(line);
        for name in promised {
            assert!(found[name].as_f64().is_some_and(|value| value > 0.0), "{name} in {found}");
        }
        assert_eq!(found["connections"], 500, "{found}");
    }
}

#[test]
fn a_storm_takes_nobody_else_along() {
    let found = result("storm --devices 1000 --connections 500 --floor");
    for (name, expected) in
        [("left", 1000), ("back", 1000), ("bystanders_lost", 0), ("online_after", 1500)]
    {
        assert_eq!(found[name], expected, "{name} in {found}");
    }
}

/// What was pushed to a device that does not read waits, and comes when it reads again.
#[test]
fn devices_that_stop_reading_lose_nothing() {
    let found = result("slow --connections 500 --stalled 100 --rate 5000 --seconds 2 --floor");
    let count = |name: &str| found[name].as_u64().unwrap_or_else(|| panic!("{name} in {found}"));
    assert_eq!(count("lost"), 0, "{found}");
    assert!(count("held_back") > 0, "{found}");
    assert!(found["blocked"].as_f64() > Some(0.0), "{found}");
    assert_eq!(count("received") + count("received_after"), count("sent"), "{found}");
    // The floor drops what those do not read.
    assert!((1..count("sent")).contains(&count("floor_received")), "{found}");
    for name in ["before_p99_us", "p99_us", "floor_before_p99_us", "floor_p99_us"] {
        assert!(found[name].as_f64() > Some(0.0), "{name} in {found}");
    }
}

#[test]
fn a_churn_brings_all_back_to_both_servers() {
    let found = result("churn --connections 300 --rate 300 --minutes 0.05 --floor");
    for (name, expected) in [("left", 900), ("back", 900), ("lost", 0)] {
        for prefix in ["", "floor_"] {
            assert_eq!(found[format!("{prefix}{name}")], expected, "{prefix}{name} in {found}");
        }
    }
    for name in ["memory_after_bytes", "floor_memory_after_bytes", "ratio_to_floor"] {
        assert!(found[name].as_f64() > Some(0.0), "{name} in {found}");
    }
    assert_eq!(found["sessions_at_control"], 300, "{found}");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let run = |command: &mut Command| command.output().expect("it starts");
    // Whoever may do all but administrate the system: so it is without root, and the program can
    // be read wherever it is.
    let mut nobody = Command::new("setpriv");
    nobody.args(["--bounding-set", "-sys_admin", env!("CARGO_BIN_EXE_hawser-bench")]);
    nobody.args(["connections", "--connections", "100", "--no-record"]);
    refused(&run(&mut nobody), &["network namespace needs root", "--fleet sockets"]);
    let short = bench("connections --connections 100 --free-min-mib 100000000").output().unwrap();
    refused(&short, &["100 connections take about", "choose fewer"]);
    let wired = run(&mut bench("connections --fleet sockets --connections 10 --up loss=0.1"));
    refused(&wired, &["--fleet tun"]);
    let missing = run(&mut bench("connections --connections 10 --broker /nowhere/broker"));
    refused(&missing, &["/nowhere/broker does not exist"]);
    let hurried = run(&mut bench("push --connections 100 --rate 10000000 --seconds 1 --rounds 1"));
    refused(&hurried, &["10000000 a second were asked for", "choose a lower --rate"]);
    let unset = run(&mut bench("connections --connections 10 --set shards_=1"));
    refused(&unset, &["shards"]);
    for bad in ["--connections 0", "--connections 16777217", "--up loss=2", "--rate 5"] {
        let output = run(&mut bench(&format!("connections {bad}")));
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}

/// While devices leave and come back, so that nobody is left to leave.
#[test]
fn a_churn_at_a_server_that_dies_ends_with_what_was_seen() {
    let mut command = bench("churn --connections 300 --rate 300 --minutes 1 --quiet-s 2");
    let run = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let broker = wait_for(|| broker_of(run.id()));
    let first = wait_for(|| Some(established(broker)).filter(|devices| !devices.is_empty()));
    // Nobody leaves before the churn.
    wait_for(|| (!first.is_subset(&established(broker))).then_some(()));
    let killed = Command::new("kill").args(["-9", &broker.to_string()]).status();
    assert!(killed.expect("it starts").success());
    let output = run.wait_with_output().expect("it is ours");
    refused(
        &output,
        &["the server under test has ended (signal: 9", "no device got further for 2 s"],
    );
}

/// The devices' ends of connections to a broker, which has its network for itself.
fn established(broker: u32) -> BTreeSet<String> {
    const PORT_7400: &str = ":1CE8";
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string(format!("/proc/{broker}/net/tcp")).unwrap_or_default();
    let device = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, ..] = words[..] else { return None };
        (local.ends_with(PORT_7400) && state == ESTABLISHED).then(|| remote.to_owned())
    };
    table.lines().filter_map(device).collect()
}

/// The broker of a run, once there is one that is not only asked for its plan. One that has just
/// ended has no arguments any more.
fn broker_of(run: u32) -> Option<u32> {
    let text = |pid, file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let children = text(run, format!("task/{run}/children"))?;
    children.split(' ').filter_map(|id| id.parse().ok()).find(|&pid| {
        let name = text(pid, "comm".to_owned()).unwrap_or_default();
        let line = text(pid, "cmdline".to_owned()).unwrap_or_default();
        name == "hawser-broker\n" && line.contains("listen=") && !line.contains("--check-config")
    })
}

/// A run is killed in the middle: its children, its device and its network go with it.
#[test]
fn nothing_remains_of_a_run_that_is_killed() {
    let mut command = bench("connections --connections 2000 --idle-s 600");
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let broker = wait_for(|| broker_of(run.id()));
    wait_for(|| (!established(broker).is_empty()).then_some(()));
    let path = format!("/proc/{0}/task/{0}/children", run.id());
    let list = std::fs::read_to_string(path).expect("it runs");
    let children: Vec<u32> = list.split(' ').filter_map(|id| id.parse().ok()).collect();
    assert!(children.len() >= 2 && children.contains(&broker), "{list}");
    run.kill().expect("it is ours");
    run.wait().expect("it is ours");
    for child in children {
        wait_for(|| (!Path::new(&format!("/proc/{child}/exe")).exists()).then_some(()));
    }
    assert!(!Path::new("/sys/class/net/devices0").exists(), "the host has seen nothing of it");
}

/// Counts looks and not time: a machine that stands still for a minute uses none up.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..LOOKS {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nothing came of it");
}
