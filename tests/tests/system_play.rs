//! `hawser play --once` as an operator runs it: real processes, real sockets, thousands of devices,
//! and a process killed in the middle. It compares by itself what was accepted with what was heard;
//! the tests here judge its verdict.

use std::process::Command;

use hawser_tests::system::process::{Process, alone, executable};
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
