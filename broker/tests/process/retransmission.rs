//! What the kernel makes of `rto_min_ms` and `rto_max_ms`, as `ss -ti` shows it of a session's socket.
//!
//! The test runs once more in a network namespace of its own, because the minimum is the namespace's.

use std::fs;
use std::ops::Range;
use std::process::Command;

use hawser_codec::ids::Seq;
use hawser_codec::link::{EntryFlags, to_broker};

use crate::links::{announced, answer_pull, linked, push};
use crate::support::{Broker, Control, Device, LINK_KEY, inside};

const TEST: &str = "retransmission::the_bounds_of_the_timeout_are_those_of_the_listener";
const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_rto_min_us";

#[test]
fn the_bounds_of_the_timeout_are_those_of_the_listener() {
    if !inside(TEST, "ip link set lo up") {
        return;
    }
    let check = |settings: &[&str], expect_ms: Range<u64>, metric_ms: u64| -> Vec<String> {
        let broker = pushing_broker(settings, expect_ms);
        assert_eq!(broker.metric("hawser_broker_rto_min_ms"), metric_ms, "{settings:?}");
        let log = broker.log();
        log.lines().filter(|line| line.contains("not in force")).map(str::to_owned).collect()
    };
    let in_force = Vec::<String>::new();

    // As the kernel has it, and what a broker can do by itself.
    assert_eq!(check(&[], 200..1_000, 200), in_force);
    assert_eq!(check(&["rto_min_ms=200", "rto_max_ms=30000"], 200..1_000, 200), in_force);
    assert_eq!(check(&["rto_min_ms=100"], 100..200, 100), in_force);

    // The kernel refuses more: the broker says once what to do, and goes on.
    for wanted in [201, 3_000] {
        let said = check(&[&format!("rto_min_ms={wanted}")], 200..1_000, 200);
        let [line] = &said[..] else { panic!("{said:?}") };
        for part in [
            format!("rto_min_ms = {wanted} is not in force, connections have 200 ms"),
            "`hawser tune apply --only rto --connections 2000`".to_owned(),
        ] {
            assert!(line.contains(&part), "{line:?} does not say {part:?}");
        }
    }

    // On a host with the mobile profile, whose minimum a listener takes over when it is opened.
    fs::write(SYSCTL, "3000000").unwrap();
    assert_eq!(check(&[], 3_000..4_000, 3_000), in_force);
    assert_eq!(check(&["rto_min_ms=3000"], 3_000..4_000, 3_000), in_force);
    assert_eq!(check(&["rto_min_ms=100"], 100..200, 100), in_force);
    // The longest wait bounds the least.
    assert_eq!(check(&["rto_max_ms=1000"], 1_000..1_001, 1_000), in_force);
}

/// Pushes to a device of a broker with these settings, and looks at the timeout that its socket at the
/// broker then has.
fn pushing_broker(settings: &[&str], expect_ms: Range<u64>) -> Broker {
    let control = Control::new(LINK_KEY);
    let (broker, mut link) = linked(&control, settings);
    let mut device = Device::online(broker.address, "phone");
    let session = announced(&mut link, "phone");
    answer_pull(&mut link, session);
    for number in 1..=3 {
        link.send(|out| to_broker::deliver(out, session, Seq(number), EntryFlags::NONE, b"ring"));
        assert_eq!(push(&mut device), (number, b"ring".to_vec()));
    }
    let rto_ms = rto_ms(&broker);
    assert!(expect_ms.contains(&rto_ms), "{settings:?}: {rto_ms} ms is not in {expect_ms:?}");
    broker
}

fn rto_ms(broker: &Broker) -> u64 {
    let port = format!(":{}", broker.address.port());
    let established = ["-tinHO", "state", "established", "sport", "=", &port];
    let output = Command::new("ss").args(established).output().expect("iproute2 has ss");
    let text = String::from_utf8(output.stdout).unwrap();
    let [line] = text.lines().collect::<Vec<_>>()[..] else { panic!("one session: {text}") };
    let rto = line.split(' ').find_map(|word| word.strip_prefix("rto:"));
    // Milliseconds, with a fraction where there is one.
    let rto: f64 = rto.unwrap_or_else(|| panic!("no rto in {line}")).parse().unwrap();
    rto as u64
}
