//! `hawser play --once` as an operator runs it: real processes, real sockets, thousands of devices,
//! and a process killed in the middle. It compares by itself what was accepted with what was heard;
//! the tests here judge its verdict.

use std::process::Command;

use hawser_tests::system::process::{Folder, Process, alone, executable};
use hawser_tests::system::wait::wait_for;
use serde_json::Value;

const DEVICES: u64 = 2_000;
const MESSAGES: u64 = 40_000;

#[test]
fn every_message_arrives_once_and_in_order() {
    let result = play(&[]);
    assert_eq!(result["dropped_connections"], 0, "{result}");
    assert_eq!(result["reconnects"], 0, "{result}");
}

#[test]
fn a_killed_control_node_costs_no_connection_and_no_message() {
    let result = play(&["--kill", "control"]);
    assert_eq!(result["dropped_connections"], 0, "{result}");
}

#[test]
fn a_killed_broker_costs_no_message() {
    let result = play(&["--kill", "broker"]);
    assert!(result["reconnects"].as_u64() >= Some(DEVICES / 2), "nobody reconnected: {result}");
}

#[test]
fn of_two_control_nodes_one_may_be_killed() {
    let result = play(&["--kill", "control", "--control-nodes", "2"]);
    assert_eq!(result["dropped_connections"], 0, "{result}");
}

/// What the README tells a newcomer to do, in three terminals.
#[test]
fn a_running_play_can_be_pushed_to_and_listened_to() {
    const SIMULATED: u64 = 60;
    let _turn = alone();
    let runtime = Folder::new();
    let hawser = |line: &[&str]| {
        let mut command = Command::new(executable("hawser"));
        command.args(line).env("XDG_RUNTIME_DIR", runtime.path());
        for name in ["HAWSER_URL", "HAWSER_KEY", "HAWSER_APP"] {
            command.env_remove(name);
        }
        command
    };
    let json = |line: &[&str]| -> Value {
        let output = hawser(line).arg("--json").output().expect("hawser runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hawser {line:?}: {stderr}");
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    };
    let devices = SIMULATED.to_string();
    let mut play = Process::start("hawser play", hawser(&["play", "--devices", &devices]));
    play.line_with("Ctrl-C stops everything");

    let mut tail = Process::start("hawser tail", hawser(&["tail", "--count", "2"]));
    tail.line_with("connected");
    let alone = json(&["push", "device", "tail", "--text", "to you alone"]);
    assert_eq!(alone["online"], true, "{alone}");
    tail.line_with("to you alone");
    // Who connects for the first time after a group message does not get it.
    wait_for("the whole fleet", || {
        let sessions = json(&["status"])["sessions"].as_u64();
        (sessions == Some(SIMULATED + 1)).then_some(())
    });
    let to_all = json(&["push", "all", "--text", "to everybody"]);
    tail.line_with("to everybody");
    assert_eq!(tail.wait().code(), Some(0));

    // Everybody acknowledges it: the simulated devices, and the tail.
    let id = to_all["id"].as_str().expect("an id");
    wait_for("the acknowledgements of all", || {
        let state = json(&["message", id]);
        (state["acknowledged"].as_u64() == Some(SIMULATED + 1)).then_some(())
    });
    let status = json(&["status"]);
    assert_eq!(status["store_up"], true, "{status}");

    play.terminate();
    assert_eq!(play.wait().code(), Some(0));
    let gone = hawser(&["status"]).output().expect("hawser runs");
    assert_eq!(gone.status.code(), Some(2), "a play that has ended is not talked to");
}

fn play(more: &[&str]) -> Value {
    let _turn = alone();
    let mut command = Command::new(executable("hawser"));
    command.args(["play", "--once", "--json"]);
    command.args(["--devices", &DEVICES.to_string(), "--messages", &MESSAGES.to_string()]);
    command.args(more);
    let mut play = Process::start("hawser play", command);
    let (status, lines) = play.wait_long();
    let output = lines.join("\n");
    let begin = output.find('{').unwrap_or_else(|| panic!("no result: {status}\n{output}"));
    let end = output.rfind('}').expect("a result has an end");
    let result: Value = serde_json::from_str(&output[begin..=end]).expect("the result is JSON");
    for (what, expected) in [
        ("lost", 0),
        ("duplicates", 0),
        ("out_of_order", 0),
        ("misplaced", 0),
        ("devices", DEVICES),
        ("accepted", MESSAGES),
        ("delivered", MESSAGES),
    ] {
        assert_eq!(result[what], expected, "{what}: {result}");
    }
    assert_eq!(status.code(), Some(0), "{result}");
    result
}
