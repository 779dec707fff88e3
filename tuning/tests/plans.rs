//! Plans of five machines, held to golden files, and what any plan must keep.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use hawser_tuning::budget::{Budget, InUse};
use hawser_tuning::family::{self, Family};
use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::place::Place;
use hawser_tuning::plan::{Choice, Plan};
use proptest::prelude::*;

mod machines;

fn goals() -> [(&'static str, u64, &'static str); 5] {
    [
        ("small_vm", 1_000_000, "mobile"),
        ("two_sockets", 12_000_000, "mobile"),
        ("amd_nps4", 20_000_000, "datacenter"),
        ("tracked_and_balanced", 5_000_000, "mobile"),
        ("old_kernel", 2_000_000, "mobile"),
    ]
}

fn tune(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hawser-tune")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Set UPDATE_GOLDEN=1 to rewrite.
fn golden(name: &str, is: &str) {
    let path = PathBuf::from("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, is).unwrap();
    }
    let expect = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(is, expect, "{name} differs; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn golden_plans() {
    for ((name, tree), (goal_name, connections, profile)) in machines::all().iter().zip(goals()) {
        assert_eq!(*name, goal_name);
        let root = tree.path().to_str().unwrap();
        let connections = connections.to_string();
        let (code, text, error) = tune(&[
            "--root",
            root,
            "plan",
            "--all",
            "--connections",
            &connections,
            "--profile",
            profile,
        ]);
        assert_eq!((code, error.as_str()), (3, ""), "{name}");
        golden(&format!("plan_{name}.txt"), &text);
    }
}

#[test]
fn golden_inspections() {
    for (name, tree) in machines::all() {
        let (code, text, error) = tune(&["--root", tree.path().to_str().unwrap(), "inspect"]);
        assert_eq!((code, error.as_str()), (0, ""), "{name}");
        golden(&format!("inspect_{name}.txt"), &text);
    }
}

#[test]
fn golden_exports() {
    let tree = machines::tracked_and_balanced();
    let root = tree.path().to_str().unwrap();
    for dialect in ["sysctl", "systemd", "udev", "ansible"] {
        let (code, text, error) =
            tune(&["--root", root, "export", dialect, "--connections", "5000000"]);
        assert_eq!((code, error.as_str()), (0, ""), "{dialect}");
        golden(&format!("export_{dialect}.txt"), &text);
    }
}

#[test]
fn a_goal_that_the_machine_cannot_hold_is_refused_with_one_that_it_can() {
    let tree = machines::small_vm();
    let root = tree.path().to_str().unwrap();
    let (code, text, error) = tune(&["--root", root, "plan", "--connections", "5000000", "--json"]);
    assert_eq!((code, text.as_str()), (1, ""));
    let error: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["code"], "too_many_connections");
    let message = error["error"]["message"].as_str().unwrap();
    let at_most = message.split("at most ").nth(1).unwrap().split(' ').next().unwrap();
    let (code, _, error) = tune(&["--root", root, "plan", "--connections", at_most]);
    assert_eq!((code, error.as_str()), (3, ""));
}

#[test]
fn wrong_command_lines_are_told_from_failures() {
    let tree = machines::small_vm();
    let root = tree.path().to_str().unwrap();
    for arguments in [
        &["--root", root, "plan"][..],
        &["--root", root, "plan", "--connections", "0"],
        &["--root", root, "plan", "--connections", "1000", "--only", "nothing"],
        &["--root", root, "plan", "--connections", "1000", "--except", "net.core.nothing"],
    ] {
        assert_eq!(tune(arguments).0, 2, "{arguments:?}");
        let (code, text, error) = tune(&[&["--json"], arguments].concat());
        assert_eq!((code, text.as_str()), (2, ""), "{arguments:?}");
        let error: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert_eq!(error["error"]["code"], "usage", "{arguments:?}");
    }
    assert_eq!(tune(&["--root", "/nonexistent", "inspect"]).0, 1);
}

/// A machine of any size with any values, as far as formulae look at them.
fn any_machine() -> impl Strategy<Value = (machines::Tree, Goal)> {
    let sizes = (1u64..2_048, 1u32..64, 1u64..40_000_000, any::<bool>());
    let values = (1u64..1 << 22, 1u64..1 << 24, 0u64..1 << 12, prop::option::of(1u64..1 << 22));
    (sizes, values).prop_map(|((memory_gib, cpus, connections, mobile), values)| {
        let (limit, pages, pages_used, tracked) = values;
        let tree = machines::Tree::new("6.18.0", memory_gib, cpus).recent().done();
        for name in
            ["net.core.somaxconn", "net.ipv4.tcp_max_orphans", "net.ipv4.tcp_max_tw_buckets"]
        {
            tree.sysctl(name, &limit.to_string());
        }
        tree.sysctl("fs.file-max", &(limit * 3).to_string());
        tree.sysctl("fs.file-nr", &format!("{} 0 {}", limit, limit * 3));
        tree.sysctl("net.ipv4.tcp_mem", &format!("{} {} {pages}", pages / 2, pages / 4 * 3));
        let orphans = limit / 2;
        let sockets =
            format!("TCP: inuse 1 orphan {orphans} tw {orphans} alloc 9 mem {pages_used}");
        tree.put("proc/net/sockstat", &sockets);
        if let Some(entries) = tracked {
            tree.sysctl("net.netfilter.nf_conntrack_max", &entries.to_string());
            tree.sysctl("net.netfilter.nf_conntrack_count", &entries.to_string());
            tree.sysctl("net.netfilter.nf_conntrack_buckets", "1024");
        }
        let profile = if mobile { Profile::Mobile } else { Profile::Datacenter };
        (tree, Goal { connections, profile })
    })
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What a plan implies fits into the machine, and what is refused would not have.
    #[test]
    fn a_plan_never_exceeds_the_memory((tree, goal) in any_machine()) {
        let (host, machine) = (tree.host(), tree.machine());
        match Budget::of(&machine, &goal, InUse::read(&host)) {
            Ok(budget) => {
                let used = budget.reserve_bytes + budget.connections_bytes + budget.tables_bytes;
                prop_assert!(used + budget.queues_bytes <= machine.memory_bytes);
                prop_assert!(used + budget.left_bytes <= machine.memory_bytes);
                let plan = Plan::make(&host, &machine, goal, &Choice::default()).unwrap();
                let queues = Place::sysctl("net.ipv4.tcp_mem");
                let planned = plan.changes.iter().find(|change| change.place == queues);
                let pages = planned.map_or_else(|| queues.read(&host).unwrap(), |c| c.wanted.clone());
                let third = *numbers(&pages).last().unwrap();
                prop_assert!(used + third * 4096 <= machine.memory_bytes);
                let buckets = Place::sysctl("net.netfilter.nf_conntrack_buckets");
                if let Some(change) = plan.changes.iter().find(|change| change.place == buckets) {
                    let bytes = goal.connections * 320 + 8 * numbers(&change.wanted)[0];
                    prop_assert!(budget.tables_bytes >= bytes, "what is tracked is counted");
                }
            }
            Err(refused) => {
                prop_assert!(refused.connections_max < goal.connections);
                if refused.connections_max > 0 {
                    let less = Goal { connections: refused.connections_max, ..goal };
                    prop_assert!(Budget::of(&machine, &less, InUse::read(&host)).is_ok());
                }
            }
        }
    }

    /// No limit falls below what is in use or below what it is; every number is in its range.
    #[test]
    fn a_plan_never_goes_below_the_need((tree, goal) in any_machine()) {
        let (host, machine) = (tree.host(), tree.machine());
        let Ok(plan) = Plan::make(&host, &machine, goal, &Choice::default()) else { return Ok(()) };
        let in_use = InUse::read(&host);
        for change in &plan.changes {
            let name = change.setting.name;
            let (min, max) = change.setting.range;
            let wanted = numbers(&change.wanted);
            let current = numbers(change.current.as_deref().unwrap_or(""));
            if max > 0 && !matches!(change.place, Place::File(_)) {
                prop_assert!(wanted.iter().all(|n| (min..=max).contains(n)), "{name} {wanted:?}");
            }
            let least = match name {
                "net.ipv4.tcp_mem" => 2 * in_use.tcp_pages,
                "fs.file-max" => in_use.files.max(goal.connections),
                "net.ipv4.tcp_max_orphans" => in_use.orphans,
                "net.ipv4.tcp_max_tw_buckets" => in_use.time_wait,
                "net.netfilter.nf_conntrack_max" => goal.connections,
                _ => 0,
            };
            prop_assert!(*wanted.last().unwrap_or(&u64::MAX) >= least, "{name} {wanted:?} {least}");
            let is_limit = ["fs.file-max", "net.core.somaxconn", "net.ipv4.tcp_max_orphans",
                "net.ipv4.tcp_max_tw_buckets", "net.netfilter.nf_conntrack_max"].contains(&name);
            prop_assert!(!is_limit || wanted > current, "{name} {wanted:?} {current:?}");
        }
    }
}

#[test]
fn each_family_can_be_planned_alone() {
    use clap::ValueEnum;
    let tree = machines::tracked_and_balanced();
    let (host, machine) = (tree.host(), tree.machine());
    let goal = Goal { connections: 5_000_000, profile: Profile::Mobile };
    let whole = Plan::make(&host, &machine, goal, &Choice::default()).unwrap().changes.len();
    let mut parts = 0;
    for &only in Family::value_variants() {
        let choice = Choice { only: vec![only], except: Vec::new() };
        let plan = Plan::make(&host, &machine, goal, &choice).unwrap();
        assert!(plan.changes.iter().all(|change| change.setting.family == only));
        parts += plan.changes.len();
    }
    assert_eq!(parts, whole);
    let names = family::settings(&[]).map(|setting| setting.name.to_owned()).collect();
    let nothing = Choice { only: Vec::new(), except: names };
    assert!(Plan::make(&host, &machine, goal, &nothing).unwrap().changes.is_empty());
}

#[test]
fn one_card_alone_can_be_planned_and_one_that_is_not_there_is_named() {
    let tree = machines::two_sockets();
    let root = tree.path().to_str().unwrap();
    let plan = |nics: &[&str]| {
        let mut arguments = vec!["--root", root, "--json", "plan", "--connections", "1000000"];
        nics.iter().for_each(|&nic| arguments.extend(["--nic", nic]));
        tune(&arguments)
    };
    let (code, text, _) = plan(&["ens2f0"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let places = document["changes"].as_array().unwrap().iter();
    let places: Vec<&str> = places.map(|change| change["place"].as_str().unwrap()).collect();
    assert_eq!(code, 3);
    assert!(places.contains(&"/proc/irq/200/smp_affinity_list"), "{places:?}");
    assert!(!places.iter().any(|place| place.contains("ens1f0") || place.contains("/irq/1")));
    assert!(places.contains(&"net.core.somaxconn"), "what is of no card is planned all the same");
    assert_eq!(plan(&["ens1f0", "ens2f0"]).1, plan(&[]).1);
    for wrong in [&["ens3f0"][..], &["ens1f0", "lo"], &[""]] {
        let (code, text, error) = plan(wrong);
        let error: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert_eq!((code, text.as_str()), (2, ""), "{wrong:?}");
        assert_eq!(error["error"]["code"], "no_such_nic");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("there are ens1f0, ens2f0"), "{message}");
    }
}

/// As an interface with a device behind it that the driver has not brought up.
#[test]
fn a_card_without_queues_is_told_and_left() {
    let tree = machines::small_vm();
    let root = tree.path().to_str().unwrap();
    tree.put("sys/class/net/bare0/device/numa_node", "0");
    let (code, text, error) = tune(&[
        "--root",
        root,
        "plan",
        "--connections",
        "1000000",
        "--only",
        "interrupts",
        "--nic",
        "bare0",
    ]);
    assert_eq!((code, error.as_str()), (0, ""), "{text}");
    assert!(text.contains("bare0 shows no queues of its own: nothing to place"), "{text}");
}

#[test]
fn limits_of_the_command_line_hold_at_and_one_past() {
    let tree = machines::two_sockets();
    let root = tree.path().to_str().unwrap();
    let check = |arguments: &[&str], code: i32| {
        let all = [&["--root", root], arguments].concat();
        assert_eq!(tune(&all).0, code, "{arguments:?}");
    };
    let most = hawser_tuning::goal::CONNECTIONS_MAX;
    check(&["plan", "--connections", "1"], 3);
    check(&["plan", "--connections", "0"], 2);
    check(&["plan", "--connections", &most.to_string()], 3);
    check(&["plan", "--connections", &(most + 1).to_string()], 2);
    check(&["verify", "--seconds", "3601"], 2);
    check(&["watch", "--interval-s", "0", "--rounds", "0"], 2);
    check(&["watch", "--interval-s", "1", "--rounds", "0"], 0);
    check(&["watch", "--interval-s", "3600", "--rounds", "0"], 0);
    check(&["watch", "--interval-s", "3601", "--rounds", "0"], 2);
}

/// Each kind of card gets what it can do, and what somebody set stays.
#[test]
fn what_cards_are_asked_for_depends_on_what_they_can() {
    let planned = |tree: &machines::Tree, name: &str| {
        let goal = Goal { connections: 1_000_000, profile: Profile::Mobile };
        let plan = Plan::make(&tree.host(), &tree.machine(), goal, &Choice::default()).unwrap();
        let ours = plan.changes.into_iter().filter(|change| change.setting.name == name);
        ours.map(|change| change.wanted).collect::<Vec<_>>()
    };
    let coalescing = |text: &str, expect: &[&str]| {
        let tree = machines::small_vm();
        tree.put("ethtool/eth0/coalescing", text);
        assert_eq!(planned(&tree, "coalescing"), expect, "{text}");
    };
    coalescing("rx-usecs 0", &["rx-usecs 50"]);
    coalescing("rx-usecs 1", &[]);
    coalescing("adaptive-rx off rx-usecs 0", &["adaptive-rx on"]);
    coalescing("adaptive-rx off rx-usecs 8", &[]);
    coalescing("adaptive-rx on", &[]);
    let virtio = |bit: &str, expect: &[&str]| {
        let tree = machines::small_vm();
        tree.put(
            "sys/class/net/eth0/device/features",
            &format!("{}{bit}{}", "0".repeat(53), "0".repeat(10)),
        );
        assert_eq!(planned(&tree, "coalescing"), expect, "feature bit {bit}");
    };
    virtio("0", &[]);
    virtio("1", &["rx-usecs 50"]);
    let discipline = |kernel_has_fq: bool, text: &str, expect: &[&str]| {
        let tree = machines::small_vm();
        tree.put("queueing/eth0", text);
        if !kernel_has_fq {
            tree.put("lib/modules/6.18.44/modules.dep", "kernel/net/sched/sch_fq_codel.ko.xz:");
        }
        assert_eq!(planned(&tree, "queueing discipline of cards"), expect, "{text}");
    };
    discipline(true, "pfifo_fast, by default", &["fq"]);
    discipline(true, "mq pfifo_fast, by default", &["mq fq"]);
    discipline(true, "fq", &[]);
    discipline(true, "htb pfifo_fast", &[]);
    discipline(false, "pfifo_fast, by default", &[]);
    let boot = |line: &str, expect: bool| {
        let tree = machines::old_kernel();
        tree.put("proc/cmdline", line);
        let goal = Goal { connections: 1_000_000, profile: Profile::Mobile };
        let plan = Plan::make(&tree.host(), &tree.machine(), goal, &Choice::default()).unwrap();
        let told = plan.advice.iter().any(|advice| advice.setting.name == "thash_entries");
        assert_eq!(told, expect, "{line}");
    };
    // A table of half as many buckets is as good; one fewer is not.
    boot("ro thash_entries=524288 quiet", false);
    boot("ro thash_entries=524287 quiet", true);
    boot("ro quiet", true);
}
