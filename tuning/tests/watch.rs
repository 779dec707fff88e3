//! A measured, skewed load on the fixtures' cards is spread to within 10 % of even, in few moves, and
//! then rests.

use std::collections::BTreeMap;
use std::fmt::Write;

use hawser_tuning::interrupt::affinity_path;
use hawser_tuning::journal;
use hawser_tuning::rollback::rollback;
use hawser_tuning::watch::Watch;

mod machines;

/// Rounds after which a spread must have come to rest: four moves each, and each interrupt moves once.
const ROUNDS: usize = 40;

/// Counts that grow by each interrupt's rate, on the CPU that its affinity names.
struct Load {
    rates: BTreeMap<u32, u64>,
    counts: BTreeMap<(u32, u32), u64>,
}

impl Load {
    fn new(tree: &machines::Tree, rate: impl Fn(u32) -> u64) -> Load {
        let machine = tree.machine();
        let numbers = machine.nics.iter().flat_map(|nic| nic.interrupts.clone());
        let rates = numbers.map(|number| (number, rate(number))).collect();
        Load { rates, counts: BTreeMap::new() }
    }

    /// One interval passes.
    fn pass(&mut self, tree: &machines::Tree) {
        let (host, machine) = (tree.host(), tree.machine());
        let mut text: String = machine.cpus.iter().map(|cpu| format!(" CPU{cpu}")).collect();
        for interrupt in &machine.interrupts {
            let number = interrupt.number;
            let rate = self.rates.get(&number).copied().unwrap_or(0);
            let cpu = host.number(&affinity_path(number)).unwrap_or(0) as u32;
            *self.counts.entry((number, cpu)).or_default() += rate;
            let _ = write!(text, "\n{number}:");
            for cpu in machine.cpus.iter() {
                let _ = write!(text, " {}", self.counts.get(&(number, cpu)).unwrap_or(&0));
            }
            let _ = write!(text, "  IR-PCI-MSI {number}-edge  {}", interrupt.name);
        }
        tree.put("proc/interrupts", &text);
    }

    /// What each CPU of a node has to do with the affinities of this moment.
    fn by_cpu(&self, tree: &machines::Tree, node: u32) -> Vec<u64> {
        let (host, machine) = (tree.host(), tree.machine());
        let cpus = &machine.nodes.iter().find(|n| n.index == node).unwrap().cpus;
        let mut by_cpu: BTreeMap<u32, u64> = cpus.iter().map(|cpu| (cpu, 0)).collect();
        for nic in machine.nics.iter().filter(|nic| nic.node == Some(node)) {
            for number in &nic.interrupts {
                let cpu = host.number(&affinity_path(*number)).unwrap() as u32;
                *by_cpu.get_mut(&cpu).expect("an interrupt stays on its card's node") +=
                    self.rates[number];
            }
        }
        by_cpu.into_values().collect()
    }
}

/// Watches until a round moves nothing; how many moves that took.
fn settle(tree: &machines::Tree, load: &mut Load) -> usize {
    let host = tree.host();
    load.pass(tree);
    let mut watch = Watch::begin(&host);
    let mut moves = 0;
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        load.pass(tree);
        let machine = tree.machine();
        let mut decided = watch.decide(&host, &machine);
        watch.carry_out(&host, &machine, &mut decided).unwrap();
        assert!(decided.iter().all(|moved| moved.refused.is_none()));
        moves += decided.len();
        quiet = if decided.is_empty() { quiet + 1 } else { 0 };
    }
    // Longer than an interrupt rests after it was moved.
    assert!(quiet > 6, "it still moves after {ROUNDS} rounds");
    moves
}

/// Puts the interrupts where the plan deals them.
fn deal(tree: &machines::Tree) {
    for nic in &tree.machine().nics {
        let near = tree.machine().cpus_near(nic);
        for (index, number) in nic.interrupts.iter().enumerate() {
            tree.put(&affinity_path(*number), &near[index % near.len()].to_string());
        }
    }
}

#[test]
fn a_skewed_load_is_spread_and_then_rests() {
    // Two cards on one node of 32 CPUs: sixteen queues, one each; every fourth has four times the load.
    let tree = machines::amd_nps4();
    deal(&tree);
    let mut load = Load::new(&tree, |number| if number % 4 == 0 { 40_000 } else { 10_000 });
    let moves = settle(&tree, &mut load);
    let spread = load.by_cpu(&tree, 2);
    // No CPU has two while others have none: a queue is the least that can be moved.
    assert_eq!(spread.iter().filter(|weight| **weight > 0).count(), 16, "{spread:?}");
    assert!(moves <= 16, "{moves} moves");
}

#[test]
fn what_a_boot_left_on_one_cpu_is_spread_over_the_node() {
    let tree = machines::two_sockets();
    for nic in &tree.machine().nics {
        let first = tree.machine().cpus_near(nic)[0];
        for (index, number) in nic.interrupts.iter().enumerate() {
            // All on four CPUs of the node.
            tree.put(&affinity_path(*number), &(first + index as u32 % 4).to_string());
        }
    }
    let before: Vec<_> = affinities(&tree);
    let mut load = Load::new(&tree, |_| 5_000);
    let moves = settle(&tree, &mut load);
    for node in [0, 1] {
        let spread = load.by_cpu(&tree, node);
        assert!(spread.iter().all(|weight| *weight == 5_000), "{spread:?}");
    }
    assert_eq!(moves, 2 * 28, "four of 32 were where they may stay");
    // All of it is in the journal.
    assert!(tree.host().has(journal::PATH));
    rollback(&tree.host(), &tree.machine(), false).unwrap();
    assert_eq!(affinities(&tree), before);
}

fn affinities(tree: &machines::Tree) -> Vec<String> {
    let machine = tree.machine();
    let numbers = machine.nics.iter().flat_map(|nic| &nic.interrupts);
    numbers.map(|number| tree.host().raw(&affinity_path(*number)).unwrap()).collect()
}

/// As when it is started while the watch runs.
#[test]
fn nothing_is_moved_while_irqbalance_runs() {
    let tree = machines::old_kernel();
    let mut load = Load::new(&tree, |_| 5_000);
    let host = tree.host();
    load.pass(&tree);
    let mut watch = Watch::begin(&host);
    load.pass(&tree);
    tree.put("proc/742/comm", "irqbalance");
    let mut decided = watch.decide(&host, &tree.machine());
    assert!(!decided.is_empty());
    watch.carry_out(&host, &tree.machine(), &mut decided).unwrap();
    let refused =
        |reason: &Option<String>| reason.as_ref().is_some_and(|r| r.contains("irqbalance"));
    assert!(decided.iter().all(|moved| refused(&moved.refused)), "{decided:?}");
    assert!(affinities(&tree).iter().all(|cpus| cpus == "0\n") && !host.has(journal::PATH));
}

#[test]
fn an_idle_machine_and_a_card_without_queues_are_left_alone() {
    for (name, tree) in machines::all() {
        tree.put("sys/class/net/bare0/device/numa_node", "0");
        let mut load = Load::new(&tree, |_| 3);
        assert_eq!(settle(&tree, &mut load), 0, "{name}");
    }
}
