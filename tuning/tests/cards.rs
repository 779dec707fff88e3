//! Cards and CPUs as they are beside the five machines: nodes without CPUs, CPUs that are taken away from
//! everybody, ports that share a device, vectors that no queue uses, interrupts that only a driver places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use hawser_tuning::goal::{Goal, Profile};
use hawser_tuning::place::Place;
use hawser_tuning::plan::{Choice, Plan};

mod machines;

const GOAL: Goal = Goal { connections: 1_000_000, profile: Profile::Mobile };

fn plan(tree: &machines::Tree) -> Plan {
    Plan::make(&tree.host(), &tree.machine(), GOAL, &Choice::default()).unwrap()
}

/// What a setting wants, by place.
fn wanted(tree: &machines::Tree, setting: &str) -> BTreeMap<String, String> {
    let changes = plan(tree).changes.into_iter();
    let ours = changes.filter(|change| change.setting.name == setting);
    ours.map(|change| (change.place.name(), change.wanted)).collect()
}

/// The CPUs that interrupts from this number on are to go to.
fn dealt(tree: &machines::Tree, first: u32, count: u32) -> Vec<Option<String>> {
    let wanted = wanted(tree, "interrupt affinity");
    let path = |number| format!("/proc/irq/{number}/smp_affinity_list");
    (first..first + count).map(|number| wanted.get(&path(number)).cloned()).collect()
}

fn some(cpus: &[&str]) -> Vec<Option<String>> {
    cpus.iter().map(|&cpu| (!cpu.is_empty()).then(|| cpu.to_owned())).collect()
}

#[test]
fn a_card_at_a_node_without_cpus_gets_those_of_all() {
    let tree = machines::old_kernel();
    tree.put("sys/class/net/eno1/device/numa_node", "1");
    tree.put("sys/devices/system/node/node1/cpulist", "");
    // All are on CPU 0 to begin with, so the first one stays.
    assert_eq!(dealt(&tree, 80, 4), some(&["", "1", "2", "3"]));
    assert_eq!(wanted(&tree, "transmit packet steering (XPS)").len(), 8);
}

#[test]
fn isolated_and_missing_cpus_get_no_interrupts() {
    let tree = machines::old_kernel();
    tree.put("sys/devices/system/cpu/online", "0,2,4-7");
    tree.put("sys/devices/system/cpu/isolated", "4-7");
    tree.put("sys/devices/system/node/node0/cpulist", "0,2,4-7");
    assert_eq!(dealt(&tree, 80, 4), some(&["", "2", "", "2"]));
    // Where there is nothing else it is what everybody has.
    tree.put("sys/devices/system/cpu/isolated", "0-7");
    assert_eq!(dealt(&tree, 80, 4), some(&["", "2", "4", "5"]));
}

#[test]
fn an_interrupt_of_two_ports_is_of_the_one_that_it_names() {
    let tree = machines::old_kernel();
    // A second port of the same PCI device, which lists all interrupts of it once more.
    for queue in 0..2 {
        tree.put(&format!("sys/class/net/eno2/queues/rx-{queue}/rps_cpus"), "00");
        tree.put(&format!("sys/class/net/eno2/queues/tx-{queue}/xps_cpus"), "00");
    }
    tree.put("sys/class/net/eno2/device/numa_node", "0");
    for number in 80..88 {
        tree.put(&format!("sys/class/net/eno2/device/msi_irqs/{number}"), "msix");
    }
    let text = tree.host().raw("proc/interrupts").unwrap();
    let text = text.replace("eno1-TxRx-6", "eno2-TxRx-0").replace("eno1-TxRx-7", "eno2-TxRx-1");
    tree.put("proc/interrupts", text.trim_end());
    let of = |name: &str| {
        let machine = tree.machine();
        machine.nics.into_iter().find(|nic| nic.name == name).unwrap().interrupts
    };
    assert_eq!((of("eno1"), of("eno2")), ((80..86).collect(), vec![86, 87]));
    assert_wanted_once(&tree);
}

fn assert_wanted_once(tree: &machines::Tree) {
    let changes = plan(tree).changes;
    let places: BTreeSet<&Place> = changes.iter().map(|change| &change.place).collect();
    assert_eq!(places.len(), changes.len(), "a place is wanted twice");
}

#[test]
fn no_machine_wants_a_place_twice() {
    machines::all().iter().for_each(|(_, tree)| assert_wanted_once(tree));
}

#[test]
fn vectors_that_no_queue_uses_do_not_crowd_those_that_are_used() {
    // Eight queues and a vector for each CPU, as mlx5 asks for; the second eight are idle.
    let tree = machines::Tree::new("6.1.0", 64, 16).nodes(1, 64, None);
    let card = machines::Card {
        name: "eth0",
        node: 0,
        queues: 16,
        combined: 8,
        combined_max: 16,
        first_interrupt: 40,
        prefix: "mlx5_comp",
        coalescing: "adaptive-rx on",
        queueing: "mq pfifo_fast, by default",
    };
    let tree = tree.card(&card).done();
    for queue in 8..16 {
        for side in ["rx", "tx"] {
            let path = format!("sys/class/net/eth0/queues/{side}-{queue}");
            fs::remove_dir_all(tree.path().join(path)).unwrap();
        }
    }
    assert_eq!(tree.machine().nics[0].rx_queues, 8);
    assert_eq!(dealt(&tree, 40, 8), some(&["", "1", "2", "3", "4", "5", "6", "7"]));
}

#[test]
fn receiving_and_sending_of_a_queue_share_a_cpu() {
    let tree = machines::small_vm();
    let rows = "CPU0 CPU1\n 38: 9 9 PCI-MSI 1-edge virtio2-input.0\n\
                39: 9 9 PCI-MSI 2-edge virtio2-output.0\n\
                40: 9 9 PCI-MSI 3-edge virtio2-input.1\n\
                41: 9 9 PCI-MSI 4-edge virtio2-output.1";
    tree.put("proc/interrupts", rows);
    for number in 38..42 {
        tree.put(&format!("sys/class/net/eth0/device/msi_irqs/{number}"), "msix");
        tree.put(&format!("proc/irq/{number}/smp_affinity_list"), "0-1");
    }
    tree.put("sys/class/net/eth0/queues/rx-1/rps_cpus", "0");
    assert_eq!(dealt(&tree, 38, 4), some(&["0", "0", "1", "1"]));
}

#[test]
fn interrupts_that_only_the_driver_places_are_told_and_left() {
    let tree = machines::old_kernel();
    for number in [81, 82] {
        let path = tree.path().join(format!("proc/irq/{number}/smp_affinity_list"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    assert_eq!(dealt(&tree, 80, 4), some(&["", "", "", "3"]));
    let told = plan(&tree).advice.into_iter().map(|advice| advice.text).collect::<Vec<_>>();
    let text = "2 interrupts of eno1 are placed by its driver and cannot be moved";
    assert!(told.iter().any(|told| told == text), "{told:?}");
}

/// Such a card has queues that receive and others that send, and the kernel refuses combined ones.
#[test]
fn channels_are_asked_for_only_where_a_card_combines_them() {
    let check = |combined: &str, combined_max: &str, expect: Option<&str>| {
        let tree = machines::old_kernel();
        tree.put("ethtool/eno1/combined", combined);
        tree.put("ethtool/eno1/combined_max", combined_max);
        let wanted = wanted(&tree, "combined channels");
        let wanted = wanted.get("eno1 combined channels").map(String::as_str);
        assert_eq!(wanted, expect, "{combined} of {combined_max}");
    };
    check("4", "16", Some("8"));
    check("4", "6", Some("6"));
    check("8", "16", None);
    check("0", "0", None);
    check("0", "8", None);
}

#[test]
fn a_table_that_somebody_made_larger_stays() {
    let check = |now: &str, expect: Option<&str>| {
        let tree = machines::small_vm();
        tree.sysctl("net.ipv4.tcp_child_ehash_entries", now);
        let place = Place::sysctl("net.ipv4.tcp_child_ehash_entries").name();
        let wanted = wanted(&tree, "net.ipv4.tcp_child_ehash_entries");
        assert_eq!(wanted.get(&place).map(String::as_str), expect, "{now}");
    };
    check("0", Some("1048576"));
    check("1048575", Some("1048576"));
    check("1048576", None);
    check("16777216", None);
}
