//! Values that the running kernel refuses, rounds, or that somebody else changes, and journals that are
//! not this machine's: each in a namespace of the test's own, and nothing is ever half done.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use ethtool::EthtoolCoalesceAttr;
use hawser_tuning::apply::{ApplyError, apply};
use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::host::Host;
use hawser_tuning::journal::{self, Journal, State};
use hawser_tuning::machine::Machine;
use hawser_tuning::netlink::{channels, coalescing};
use hawser_tuning::place::Place;
use hawser_tuning::plan::{Choice, Plan};
use hawser_tuning::rollback::rollback;
use hawser_tuning::setting::Change;
use hawser_tuning::verify;

mod namespace;

use namespace::{inside, inside_as_root, tune};

/// A card as TUN makes it, with a queue, and one with four.
const CARDS: &str = "ip tuntap add dev one mode tun; ip link set one up; \
                     ip link add four numtxqueues 4 type ifb; ip link set four up";

fn machine(host: &Host) -> Machine {
    Machine::read(host, &channels::abilities(host)).unwrap()
}

/// A plan for the retransmission family, as this kernel gives it, with other places instead of its own.
fn plan_of(host: &Host, places: &[(Place, &str)]) -> Plan {
    let goal = Goal { connections: 100_000, profile: Profile::Mobile };
    let mut plan = Plan::make(host, &machine(host), goal, &Choice::default()).unwrap();
    let setting = plan.changes[0].setting;
    let change = |(place, wanted): &(Place, &str)| Change {
        setting,
        place: place.clone(),
        current: place.read(host),
        wanted: (*wanted).to_owned(),
    };
    plan.changes = places.iter().map(change).collect();
    plan
}

fn settings() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in ["/proc/sys/net/ipv4", "/proc/sys/net/core"] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if let Ok(content) = fs::read_to_string(&path) {
                found.insert(path.display().to_string(), content);
            }
        }
    }
    found
}

#[test]
fn a_value_that_the_kernel_refuses_undoes_what_was_written_before_it() {
    if !inside("a_value_that_the_kernel_refuses_undoes_what_was_written_before_it", CARDS) {
        return;
    }
    let (host, before) = (Host::live(), settings());
    let at = |wanted| {
        let places =
            [(Place::sysctl("net.core.somaxconn"), "9999"), (retries(), wanted), (minimum(), "1")];
        apply(&host, &machine(&host), &plan_of(&host, &places), false)
    };
    // The kernel takes 255 and not 256.
    let ApplyError::Refused { place, wanted, .. } = at("256").unwrap_err() else { panic!() };
    assert_eq!((place.as_str(), wanted.as_str()), ("net.ipv4.tcp_retries2", "256"));
    assert_eq!(settings(), before);
    assert!(!host.has(journal::PATH), "nothing is left to undo");
    assert_eq!(at("255").unwrap().len(), 3);
    rollback(&host, &machine(&host), false).unwrap();
    assert_eq!(settings(), before);
}

fn retries() -> Place {
    Place::sysctl("net.ipv4.tcp_retries2")
}

fn minimum() -> Place {
    Place::sysctl("net.ipv4.tcp_rto_min_us")
}

/// There is room for what is intended, and not for all that is done.
#[test]
fn a_disk_that_is_full_half_way_undoes_what_was_written() {
    let script = "mount -t tmpfs -o size=4096 none /var/lib";
    if !inside("a_disk_that_is_full_half_way_undoes_what_was_written", script) {
        return;
    }
    let (host, before) = (Host::live(), settings());
    let places: Vec<_> = (0..20)
        .flat_map(|_| [(retries(), "20"), (Place::sysctl("net.core.somaxconn"), "9999")])
        .collect();
    for (count, has_room) in [(2, true), (36, false)] {
        let plan = plan_of(&host, &places[..count]);
        match apply(&host, &machine(&host), &plan, false) {
            Ok(written) => assert!(has_room && written.len() == count),
            Err(error) => {
                assert!(!has_room, "{error}");
                assert!(matches!(error, ApplyError::NotNoted { .. }), "{error}");
                assert!(error.to_string().contains("was undone; make room"), "{error}");
                assert!(!host.has(journal::PATH), "nothing is left to undo");
            }
        }
        rollback(&host, &machine(&host), false).unwrap();
        assert_eq!(settings(), before);
    }
}

#[test]
fn a_discipline_that_is_refused_for_a_queue_leaves_the_card_as_it_was() {
    if !inside("a_discipline_that_is_refused_for_a_queue_leaves_the_card_as_it_was", CARDS) {
        return;
    }
    let (host, place) = (Host::live(), Place::Queueing("four".to_owned()));
    let plan = plan_of(&host, &[(place.clone(), "mq hawser_has_none")]);
    let before = place.read(&host);
    assert_eq!(before.as_deref(), Some("mq pfifo_fast, by default"));
    let error = apply(&host, &machine(&host), &plan, false).unwrap_err();
    assert!(matches!(error, ApplyError::Refused { .. }), "{error}");
    assert_eq!(place.read(&host), before);
    assert!(!host.has(journal::PATH));
}

#[test]
fn disciplines_come_and_go() {
    if !inside("disciplines_come_and_go", CARDS) {
        return;
    }
    let host = Host::live();
    for (card, before, wanted) in [
        ("one", "pfifo_fast, by default", "pfifo"),
        ("four", "mq pfifo_fast, by default", "mq pfifo"),
    ] {
        let place = Place::Queueing(card.to_owned());
        let shown = || {
            let output = Command::new("tc").args(["qdisc", "show", "dev", card]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let shown_before = shown();
        assert_eq!(place.read(&host).as_deref(), Some(before));
        let plan = plan_of(&host, &[(place.clone(), wanted)]);
        let written = apply(&host, &machine(&host), &plan, false).unwrap();
        assert!(!written[0].is_rounded(), "{written:?}");
        let queues = if card == "four" { 4 } else { 1 };
        assert_eq!(shown().matches("qdisc pfifo ").count(), queues, "{}", shown());
        rollback(&host, &machine(&host), false).unwrap();
        assert_eq!((place.read(&host).as_deref(), shown()), (Some(before), shown_before));
    }
}

#[test]
fn what_the_kernel_rounds_is_told_journaled_as_it_is_and_undone() {
    if !inside_as_root("what_the_kernel_rounds_is_told_journaled_as_it_is_and_undone", CARDS) {
        return;
    }
    let host = Host::live();
    let place = Place::Value("sys/class/net/one/queues/rx-0/rps_flow_cnt".to_owned());
    // The kernel rounds up to a power of two: at one it stays, one past it doubles.
    for (wanted, read_back, is_rounded) in
        [("4096", "4096\n", false), ("4097", "8192\n", true), ("1", "1\n", false)]
    {
        let plan = plan_of(&host, &[(place.clone(), wanted)]);
        let written = apply(&host, &machine(&host), &plan, false).unwrap();
        assert_eq!(written[0].is_rounded(), is_rounded, "{wanted}");
        let journal = Journal::read(&host, &machine(&host)).unwrap();
        let done = State::Done { read_back: Some(read_back.to_owned()) };
        assert_eq!(journal.entry(&place).unwrap().state, done);
        let checked = verify::places(&host, &machine(&host)).unwrap();
        assert!(checked.iter().all(|checked| checked.holds), "what was made of it holds");
        rollback(&host, &machine(&host), false).unwrap();
        assert_eq!(place.read(&host).as_deref(), Some("0\n"));
    }
}

#[test]
fn a_card_that_cannot_gather_refuses_and_one_that_can_is_set() {
    if !inside("a_card_that_cannot_gather_refuses_and_one_that_can_is_set", CARDS) {
        return;
    }
    let (host, place) = (Host::live(), Place::Coalescing("one".to_owned()));
    assert_eq!(place.read(&host), None);
    let plan = plan_of(&host, &[(place, "adaptive-rx off rx-usecs 50")]);
    let ApplyError::Refused { place, .. } =
        apply(&host, &machine(&host), &plan, false).unwrap_err()
    else {
        panic!()
    };
    assert_eq!(place, "one coalescing");
    assert!(!host.has(journal::PATH));
    // TUN gathers by frames and not by time, so the message itself can be seen to arrive.
    coalescing::set("one", [EthtoolCoalesceAttr::RxMaxFrames(16)]).unwrap();
    let output = Command::new("/usr/sbin/ethtool").args(["-c", "one"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let frames = shown.lines().find(|line| line.starts_with("rx-frames:")).unwrap();
    assert_eq!(frames.split_whitespace().last(), Some("16"), "{shown}");
    assert!(coalescing::set("none", [EthtoolCoalesceAttr::RxMaxFrames(16)]).is_err());
}

#[test]
fn what_somebody_else_changed_is_left_until_it_is_forced() {
    if !inside("what_somebody_else_changed_is_left_until_it_is_forced", "true") {
        return;
    }
    let (host, before) = (Host::live(), settings());
    let arguments = ["apply", "--connections", "1000000", "--only", "rto", "--only", "accept"];
    assert!(tune(&arguments).status.success());
    host.write_value("proc/sys/net/core/somaxconn", "1234").unwrap();
    let again = tune(&arguments);
    let told = String::from_utf8(again.stderr).unwrap();
    assert_eq!(again.status.code(), Some(1), "{told}");
    let was = before["/proc/sys/net/core/somaxconn"].trim();
    let ways = format!("(before hawser {was:?}, hawser's \"62500\", now \"1234\")");
    assert!(told.contains(&ways), "{told}");
    let back = tune(&["rollback"]);
    let told = String::from_utf8(back.stdout).unwrap();
    assert_eq!(back.status.code(), Some(3), "{told}");
    assert!(told.contains("net.core.somaxconn: left, somebody else changed it"), "{told}");
    let mut left = settings();
    assert_eq!(
        left.insert("/proc/sys/net/core/somaxconn".into(), format!("{was}\n")).unwrap(),
        "1234\n"
    );
    assert_eq!(left, before, "all others are back");
    assert!(tune(&["rollback", "--force"]).status.success());
    assert_eq!(settings(), before);
    assert!(!host.has(journal::PATH));
}

#[test]
fn a_journal_of_another_namespace_is_refused_there() {
    if !inside("a_journal_of_another_namespace_is_refused_there", "true") {
        return;
    }
    assert!(tune(&["apply", "--connections", "100000", "--only", "rto"]).status.success());
    let program = env!("CARGO_BIN_EXE_hawser-tune");
    let elsewhere = Command::new("unshare").args(["--net", program, "rollback"]).output().unwrap();
    let told = String::from_utf8(elsewhere.stderr).unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{told}");
    assert!(told.contains("is of network namespace") && told.contains("run it there"), "{told}");
    assert!(Path::new("/").join(journal::PATH).exists());
    assert!(tune(&["rollback"]).status.success());
}
