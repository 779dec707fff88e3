//! On the running kernel, in a network and mount namespace of the test's own: a read-only `/proc/sys`,
//! a route's attribute over netlink, and what `verify` sees.

use std::process::Command;

use hawser_tuning::host::Host;
use hawser_tuning::place::Place;

mod namespace;

use namespace::{inside, tune};

#[test]
fn a_container_with_read_only_settings_is_refused_and_unchanged() {
    let script = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys";
    if !inside("a_container_with_read_only_settings_is_refused_and_unchanged", script) {
        return;
    }
    let apply =
        ["--json", "apply", "--connections", "1000000", "--only", "accept", "--only", "rto"];
    let output = tune(&apply);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "not_writable");
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("nothing was changed") && message.contains("net.core.somaxconn"));
    assert!(!Host::live().has(hawser_tuning::journal::PATH));
    // Looking is still possible.
    assert_eq!(tune(&["plan", "--connections", "1000000", "--only", "rto"]).status.code(), Some(3));
}

#[test]
fn the_default_routes_minimum_comes_and_goes_without_touching_the_rest() {
    let script = "ip link add here type veth peer name there; ip address add 10.8.8.1/24 dev here; \
                  ip link set here up; ip link set there up; \
                  ip route add default via 10.8.8.2 dev here metric 7 mtu lock 1400";
    if !inside("the_default_routes_minimum_comes_and_goes_without_touching_the_rest", script) {
        return;
    }
    let (host, place) = (Host::live(), Place::RouteRto(4));
    let shown = || {
        let output = Command::new("ip").args(["-d", "route", "show", "default"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = shown();
    assert_eq!(place.read(&host).as_deref(), Some("0"));
    place.check_writable(&host).unwrap();
    place.write(&host, "3000").unwrap();
    assert_eq!(place.read(&host).as_deref(), Some("3000"));
    let with = shown();
    assert!(with.contains("rto_min lock 3s") && with.contains("mtu lock 1400"), "{with}");
    assert_eq!(with.lines().count(), before.lines().count(), "it is replaced, not doubled: {with}");
    place.write(&host, "0").unwrap();
    assert_eq!(shown(), before);
    assert_eq!(Place::RouteRto(6).read(&host), None, "there is no default route of IPv6");
}

/// Replaced by itself it would not expire any more.
#[test]
fn a_route_that_expires_is_left_to_its_router() {
    let script = "ip link add here type veth peer name there; ip link set here up; \
                  ip link set there up; ip -6 address add fd08::1/64 dev here nodad";
    if !inside("a_route_that_expires_is_left_to_its_router", script) {
        return;
    }
    let route = |arguments: &[&str]| {
        let base = ["-6", "route", "replace", "default", "via", "fd08::2", "dev", "here"];
        let status = Command::new("ip").args(base).args(arguments).status().unwrap();
        assert!(status.success());
        Place::RouteRto(6).read(&Host::live())
    };
    assert_eq!(route(&["expires", "600"]), None);
    assert_eq!(route(&[]).as_deref(), Some("0"));
}

#[test]
fn verify_sees_what_holds_and_what_somebody_changed() {
    if !inside("verify_sees_what_holds_and_what_somebody_changed", "true") {
        return;
    }
    assert!(tune(&["apply", "--connections", "100000", "--only", "rto"]).status.success());
    let verified = || {
        let output = tune(&["--json", "verify", "--seconds", "0"]);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), document)
    };
    let (code, document) = verified();
    assert_eq!(code, 0, "{document}");
    assert_eq!(document["applied"][0]["place"], "net.ipv4.tcp_rto_min_us");
    // What `ss -ti` shows as rto: the minimum and the round trip.
    assert!(document["self_test"]["rto_ms"].as_u64().unwrap() >= 3_000, "{document}");
    Host::live().write_value("proc/sys/net/ipv4/tcp_rto_min_us", "200000").unwrap();
    let (code, document) = verified();
    assert_eq!((code, &document["applied"][0]["holds"]), (3, &serde_json::Value::Bool(false)));
}
