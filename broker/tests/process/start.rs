//! Starting the real binary: what it says when it can, and when it cannot.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::support::{Broker, Device, Folder, command, hex, inside};

/// Runs to the end; the exit code is 2 and the message says what to change.
fn refused(output: &Output, expect: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty(), "a broker that does not start says nothing of ready");
    let line = text.lines().last().expect("a message");
    assert!(line.starts_with("hawser-broker: "), "{line}");
    for part in expect {
        assert!(line.contains(part), "{line:?} does not say {part:?}");
    }
}

#[test]
fn mistakes_in_the_configuration_end_the_start_with_code_2() {
    let check = |settings: &[&str], expect: &[&str]| {
        refused(&command(settings).output().unwrap(), expect);
    };
    check(&["conections_max=5"], &["`conections_max`", "did you mean `connections_max`?"]);
    check(&["shards=many"], &["shards"]);
    check(&["listen=everywhere"], &["`everywhere` is not an IP address with a port"]);
    check(&["connections_max=4000000000"], &["set connections_max to"]);
    check(&["table_max=4000000"], &["table_max = 4000000", "ulimit -n"]);
    check(&["shards=900", "pin=true"], &["shards = 900", "pin = false"]);
    check(&["control=127.0.0.1:1"], &["no link key", "openssl rand -hex 32"]);
    check(&["control=nowhere"], &["`nowhere`"]);
    check(
        &["listen=192.0.2.1:7400"],
        &["cannot listen on 192.0.2.1:7400", "does not have the address"],
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["listen", "admin"] {
        let output = command(&[&format!("{key}={address}")]).output().unwrap();
        refused(&output, &[&address.to_string(), "another process has the port"]);
    }
    // Nor is the port shared with another broker of the same user, which SO_REUSEPORT would allow.
    let other = Broker::start(&[]);
    let output = command(&[&format!("listen={}", other.address)]).output().unwrap();
    refused(&output, &["another process has the port"]);
}

/// As a supervisor does. The kernel is not done with the rings of the one that was killed.
#[test]
fn a_broker_that_was_killed_is_replaced_at_once() {
    // In a network of its own nobody else is given the port meanwhile.
    let test = "start::a_broker_that_was_killed_is_replaced_at_once";
    if !inside(test, "ip link set lo up") {
        return;
    }
    let mut listen = "listen=127.0.0.1:0".to_owned();
    for _ in 0..8 {
        let broker = Broker::start(&["shards=2", &listen]);
        listen = format!("listen={}", broker.address);
        let devices: Vec<Device> = (0..100).map(|_| Device::dial(broker.address)).collect();
        broker.wait_for_metric("hawser_broker_slots_in_use", 100);
        drop(broker);
        drop(devices);
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let output = command(&[]).args(["--config", &path("absent.toml")]).output().unwrap();
    refused(&output, &["cannot read", "absent.toml"]);

    fs::write(path("typo.toml"), "[table]\nlisten = 3").unwrap();
    let output = command(&[]).args(["--config", &path("typo.toml")]).output().unwrap();
    refused(&output, &["typo.toml", "no key `table`"]);

    fs::write(path("key"), hex(&[1; 32])).unwrap();
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let settings = [&format!("link_key_file={}", path("key"))[..], "control=127.0.0.1:1"];
    refused(&command(&settings).output().unwrap(), &["others may read", "chmod 600"]);
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(command(&settings).arg("--check-config").status().unwrap().success());
    fs::write(path("key"), "secret").unwrap();
    refused(&command(&settings).output().unwrap(), &["is not 64 hexadecimal digits"]);
}

#[test]
fn checking_and_printing_start_nothing() {
    let output = command(&["connections_max=1000"]).arg("--check-config").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("plan: ") && text.contains("1000 connections"), "{text}");

    let folder = Folder::new();
    let file = folder.path().join("broker.toml");
    let print = |more: &[&str]| {
        let output = command(more).arg("--print-config").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let printed = print(&["drain_per_s=77"]);
    fs::write(&file, &printed).unwrap();
    let mut again = command(&["drain_per_s=77"]);
    let again = again.arg("--config").arg(&file).arg("--print-config").output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), printed);
    assert!(printed.contains("drain_per_s = 77"));
}

#[test]
fn the_example_file_is_accepted_as_it_is() {
    let example = "hawser-broker.toml";
    let status = command(&[]).args(["--config", example, "--check-config"]).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_pages_of_the_admin_address() {
    let broker = Broker::start(&["shards=2"]);
    let (status, health) = broker.get("/health");
    assert_eq!(status, 200);
    assert!(health.contains("\"status\":\"ok\"") && health.contains("\"shards_answering\":2"));

    let (status, plan) = broker.get("/plan");
    assert_eq!(status, 200);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["connections_max"], 2000);
    assert_eq!(plan["shards"], 2);

    let (status, page) = broker.get("/metrics");
    assert_eq!(status, 200);
    check_exposition(&page);
    assert_eq!(broker.metric_of_shards("hawser_broker_rings"), [1, 1]);
    assert_eq!(broker.get("/").0, 404);
    assert_eq!(broker.get("/metrics?x=1").0, 200);
}

/// The text format's rules: each name has its help and type once, before its samples, together.
fn check_exposition(page: &str) {
    let mut seen = std::collections::HashSet::new();
    let mut current = String::new();
    let mut lines = std::collections::HashSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(current.clone()), "{current} comes twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest.split(' ').next(), Some(current.as_str()));
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert_eq!(series.split('{').next(), Some(current.as_str()));
            assert!(lines.insert(series.to_owned()), "{series} comes twice");
            value.parse::<u64>().expect("a number");
        }
    }
    assert!(seen.len() > 40, "only {} metrics", seen.len());
}
