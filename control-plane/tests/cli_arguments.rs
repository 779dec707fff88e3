//! Wrong command lines end with 2 and say what to do; failures end with 1.

use std::process::{Command, Output};

/// Runs `hawser` where no play has left its file, with nothing in the environment.
fn hawser(line: &[&str]) -> Output {
    let nowhere = std::env::temp_dir().join("hawser-no-such-directory");
    Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(line)
        .env_clear()
        .env("HOME", nowhere)
        .output()
        .unwrap()
}

fn check(line: &[&str], code: i32, part: &str) {
    let output = hawser(line);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line:?}: {stderr}");
    assert!(stderr.contains(part), "{line:?} should say {part:?}:\n{stderr}");
    assert!(output.stdout.is_empty(), "{line:?} printed to standard output");
}

#[test]
fn wrong_command_lines_end_with_2() {
    let node = ["--url", "http://127.0.0.1:1", "--key", "k", "--app", "a"];
    let with = |line: &[&'static str]| [line, &node[..]].concat();

    check(&["psuh"], 2, "push");
    check(&["push", "all"], 2, "--text");
    check(&["push", "all", "--text", "a", "--file", "b"], 2, "cannot be used with");
    check(&["push", "device", "--text", "a"], 2, "<DEVICE>");
    check(&["push", "all", "--text", "a", "--ttl", "soon"], 2, "90s, 15m, 12h or 30d");
    check(&["push", "all", "--text", "a", "--priority", "urgent"], 2, "low, normal, high");
    check(&["completions", "cmd"], 2, "bash");
    check(&with(&["tail", "--device", ""]), 2, "--device");
    check(&with(&["tail", "--topic", "a\nb"]), 2, "--topic");
    check(&with(&["tail", "--count", "0"]), 2, "--count");
    check(&with(&["tail", "--broker", "nowhere"]), 2, "host:port");
    check(&with(&["ticket", ""]), 2, "<DEVICE>");
    check(&with(&["devices", "show", "a\nb"]), 2, "1 to 64 bytes");
    check(&with(&["push", "topic", "", "--text", "a"]), 2, "<TOPIC>");
    check(&with(&["message", ""]), 2, "<ID>");

    check(&["push", "all", "--text", "a"], 2, "hawser play");
    check(&["status", "--url", "http://127.0.0.1:1"], 2, "HAWSER_KEY");
    check(&["ticket", "d", "--url", "http://127.0.0.1:1", "--key", "k"], 2, "HAWSER_APP");
}

#[test]
fn a_control_node_has_an_http_address() {
    for url in ["foo", "127.0.0.1:7420", "localhost:7420", "ftp://x", "http://", "/run/x.sock"] {
        check(&["status", "--key", "k", "--url", url], 2, "such as http://127.0.0.1:7420");
    }
    check(&["status", "--key", "k", "--url", "https://x"], 2, "plain HTTP");
    check(&["status", "--key", "a\nb", "--url", "http://x"], 2, "HAWSER_KEY");
    check(&["status", "--key", "", "--url", "http://x"], 2, "no API key");
    let from_environment = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["status", "--key", "k"])
        .env_clear()
        .env("HAWSER_URL", "foo")
        .output()
        .unwrap();
    assert_eq!(from_environment.status.code(), Some(2));
}

/// With `--json` the same mistakes end with the same codes, and say so in one line of JSON.
#[test]
fn programs_read_mistakes_too() {
    let gone = "http://127.0.0.1:1";
    for (line, exit, code, part) in [
        (&["psuh"][..], 2, "usage", "psuh"),
        (&["push", "all"], 2, "usage", "--text"),
        (&["push", "all", "--text", "a"], 2, "usage", "hawser play"),
        (&["status", "--key", "k", "--url", "foo"], 2, "usage", "such as http://127.0.0.1:7420"),
        (&["status", "--url", gone], 2, "usage", "HAWSER_KEY"),
        (&["play", "--control-nodes", "2", "--store", "embedded"], 2, "usage", "--store kv"),
        (&["status", "--key", "k", "--url", gone], 1, "unreachable", "Connection refused"),
        (&["push", "all", "--file", "/does/not/exist"], 1, "failed", "cannot read /does/not/exist"),
    ] {
        let output = hawser(&[line, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(exit), "{line:?}");
        assert!(output.stdout.is_empty(), "{line:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{line:?}: {text}");
        let error = &serde_json::from_str::<serde_json::Value>(&text).unwrap()["error"];
        assert_eq!(error["code"], code, "{text}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{line:?} should say {part:?}: {message}");
        assert!(!message.starts_with("error") && !message.contains("Usage:"), "{message}");
    }
    // Help is no mistake.
    let help = hawser(&["push", "all", "--help", "--json"]);
    assert!(help.status.success() && help.stderr.is_empty());
}

#[test]
fn wrong_plays_end_with_2() {
    check(&["play", "--messages", "5"], 2, "--once");
    check(&["play", "--kill", "control"], 2, "--once");
    check(&["play", "--once", "--kill", "kernel"], 2, "control, broker");
    check(&["play", "--once", "--rate", "5"], 2, "--once");
    check(&["play", "--once", "--devices", "0"], 2, "--devices");
    check(&["play", "--control-nodes", "3"], 2, "--control-nodes");
    check(&["play", "--control-nodes", "2", "--store", "embedded"], 2, "--store kv");
}

#[test]
fn failures_end_with_1_and_name_the_cause() {
    // A port that no other process is given, and that no connection to it can come from.
    let node = ["--url", "http://127.0.0.1:1", "--key", "k", "--app", "a"];
    let with = |line: &[&'static str]| -> Vec<String> {
        line.iter().chain(&node).map(|&word| word.to_owned()).collect()
    };
    for line in [
        with(&["push", "all", "--text", "a"]),
        with(&["ticket", "phone-1"]),
        with(&["devices", "show", "phone-1"]),
        with(&["status"]),
        with(&["app", "list"]),
        with(&["tail"]),
    ] {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        check(&line, 1, "Connection refused");
    }
    let missing = with(&["push", "all", "--file", "/does/not/exist"]);
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    check(&missing, 1, "cannot read /does/not/exist");
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = hawser(&["completions", shell]);
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).unwrap();
        for command in ["app", "ticket", "push", "tail", "play"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.len() > 1000, "{shell}");
    }
}
