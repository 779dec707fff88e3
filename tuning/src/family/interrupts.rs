//! Queues, interrupts and steering of network cards.
//!
//! ```text
//!   packet ─▶ card: hash ─▶ queue ─▶ its interrupt ─▶ one CPU ─▶ TCP ─▶ the shard on that CPU
//! ```
//!
//! The aim is that line without a bend: as many queues as the card's node has CPUs, each interrupt on
//! one CPU of that node, one of each core first, and sending through the same queue. What is dealt
//! here is even by number; `hawser tune watch` moves interrupts by measured load.

use super::Family;
use crate::cpus::CpuSet;
use crate::interrupt::affinity_path;
use crate::nic::{Nic, steering_path};
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_NOTHING, UNDO_VALUE};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Interrupts,
        name: "irqbalance",
        what: "a service that moves interrupts every ten seconds by its own rules",
        why: "two who move the same interrupts undo each other's work",
        formula: "while it runs, interrupts are left to it and this is told",
        kernels: "all",
        range: (0, 0),
        risk: "told only: the service is not ours to stop",
        undo: UNDO_NOTHING,
        source: "irqbalance(1)",
        propose: |p| {
            if p.machine.irqbalance_runs {
                p.tell(
                    Kind::ByHand,
                    "irqbalance runs, so no interrupt is moved: `systemctl disable --now irqbalance` \
                     and apply again, or keep it and leave out this family",
                );
            }
        },
    },
    Setting {
        family: Family::Interrupts,
        name: "combined channels",
        what: "queues of a card that have an interrupt each",
        why: "a CPU without a queue receives only what others hand over",
        formula: "at least the CPUs of the card's node, as far as the card can; never fewer than now",
        kernels: "netlink since 5.6",
        range: (1, 1_024),
        risk: "the card is reset for a moment: packets are lost and sent again, connections stay",
        undo: "the former number is set",
        source: "Documentation/networking/ethtool-netlink.rst, CHANNELS_SET",
        propose: |p| {
            for nic in &p.machine.nics {
                let Some(channels) = nic.abilities.channels else { continue };
                let near = p.machine.cpus_near(nic).len() as u64;
                let wanted = near.min(u64::from(channels.combined_max));
                p.at_least(Place::Channels(nic.name.clone()), wanted);
            }
        },
    },
    Setting {
        family: Family::Interrupts,
        name: "interrupt affinity",
        what: "the CPU that a queue's interrupt goes to",
        why: "all on one core is the limit of many machines; the wrong node costs a trip between \
              sockets for every packet",
        formula: "the queues of a node's cards in order, one CPU each, one of each core first",
        kernels: "all",
        range: (0, u64::MAX),
        risk: "none to connections; some drivers keep their interrupts to themselves and refuse",
        undo: UNDO_VALUE,
        source: "Documentation/core-api/irq/irq-affinity.rst",
        propose: deal_interrupts,
    },
    Setting {
        family: Family::Interrupts,
        name: "receive packet steering (RPS)",
        what: "hands received packets to other CPUs in software",
        why: "with a queue for each CPU it moves work away from the shard that needs it: half the rate",
        formula: "off where the card has as many queues as its node has CPUs; else left",
        kernels: "since 2.6.35",
        range: (0, u64::MAX),
        risk: "none",
        undo: UNDO_VALUE,
        source: "Documentation/networking/scaling.rst, RPS",
        propose: |p| {
            for nic in &p.machine.nics {
                let enough = nic.rx_queues as usize >= p.machine.cpus_near(nic).len();
                for queue in (0..nic.rx_queues).filter(|_| enough) {
                    let path = steering_path(&nic.name, &format!("rx-{queue}"), "rps_cpus");
                    p.exactly(Place::Value(path), "0");
                }
            }
        },
    },
    Setting {
        family: Family::Interrupts,
        name: "receive flow steering (RFS)",
        what: "hands packets to the CPU where their connection was last read",
        why: "a shard reads on the CPU it is pinned to; without RPS it has nothing to steer, and its \
              table would hold a fraction of millions of flows",
        formula: "left; told where it is on",
        kernels: "since 2.6.35",
        range: (0, 0),
        risk: "none: told only",
        undo: UNDO_NOTHING,
        source: "Documentation/networking/scaling.rst, RFS",
        propose: |p| {
            let entries = p.host.number("proc/sys/net/core/rps_sock_flow_entries").unwrap_or(0);
            if entries > 0 && entries < p.goal.connections {
                p.tell(
                    Kind::Note,
                    format!(
                        "receive flow steering has {entries} entries for {} connections: most packets \
                         meet another flow's entry",
                        p.goal.connections
                    ),
                );
            }
        },
    },
    Setting {
        family: Family::Interrupts,
        name: "transmit packet steering (XPS)",
        what: "the CPUs that send through a queue",
        why: "the acknowledgement of what a shard sends comes back on the same CPU, and no two CPUs \
              share a queue's lock",
        formula: "each CPU to one queue: those that have its interrupt, the others in turn",
        kernels: "since 2.6.38",
        range: (0, u64::MAX),
        risk: "none",
        undo: UNDO_VALUE,
        source: "Documentation/networking/scaling.rst, XPS",
        propose: steer_sending,
    },
    Setting {
        family: Family::Interrupts,
        name: "coalescing",
        what: "how long a card gathers packets before it interrupts",
        why: "an interrupt for every packet costs more than the packet's own work",
        formula: "adaptive, or 30 microseconds; told, since no maintained library can set it",
        kernels: "all",
        range: (0, 0),
        risk: "adds up to that time to every message",
        undo: UNDO_NOTHING,
        source: "Documentation/networking/ethtool-netlink.rst, COALESCE_SET; ethtool(8)",
        propose: |p| {
            for nic in &p.machine.nics {
                let Some(coalescing) = nic.abilities.coalescing else { continue };
                if !coalescing.adaptive_rx && coalescing.rx_usecs == 0 && nic.rx_queues > 1 {
                    let name = &nic.name;
                    p.tell(
                        Kind::ByHand,
                        format!(
                            "{name} interrupts for every packet: `ethtool -C {name} adaptive-rx on`, \
                             or `rx-usecs 30` where it has no such mode"
                        ),
                    );
                }
            }
        },
    },
    Setting {
        family: Family::Interrupts,
        name: "net.core.busy_read and net.core.busy_poll",
        what: "spins on the card's queue instead of waiting for its interrupt",
        why: "millions of silent connections have nothing to spin for: it would burn the cores and \
              save tens of microseconds of a push that takes milliseconds",
        formula: "0",
        kernels: "since 3.11; only in the first network namespace",
        range: (0, i32::MAX as u64),
        risk: "programs on this machine that count on it lose some latency",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/net.rst, busy_read and busy_poll",
        propose: |p| {
            p.number(Place::sysctl("net.core.busy_read"), 0);
            p.number(Place::sysctl("net.core.busy_poll"), 0);
        },
    },
];

/// Cards of one node take turns at its CPUs: the second begins where the first ended.
fn deal_interrupts(p: &mut Proposals) {
    if p.machine.irqbalance_runs {
        return;
    }
    let mut dealt_by_node = std::collections::BTreeMap::new();
    for nic in &p.machine.nics {
        if nic.interrupts.is_empty() && nic.rx_queues > 0 {
            p.tell(
                Kind::Note,
                format!("{} has no interrupts of its own here: nothing to place", nic.name),
            );
        }
        let near = p.machine.cpus_near(nic);
        let dealt = dealt_by_node.entry(nic.node).or_insert(0usize);
        for (number, cpu) in placed(nic, &near, *dealt) {
            p.exactly(Place::Value(affinity_path(number)), &cpu.to_string());
        }
        *dealt += queues(nic);
    }
}

/// Interrupts for receiving and for sending of one queue, where a card has two, share a CPU.
fn placed(nic: &Nic, near: &[u32], dealt: usize) -> Vec<(u32, u32)> {
    let each = nic.interrupts.len() / queues(nic).max(1);
    let place = |(index, number): (usize, &u32)| {
        (*number, near[(dealt + index / each.max(1)) % near.len()])
    };
    nic.interrupts.iter().enumerate().map(place).collect()
}

fn queues(nic: &Nic) -> usize {
    (nic.rx_queues as usize).clamp(1, nic.interrupts.len().max(1))
}

fn steer_sending(p: &mut Proposals) {
    let mut dealt_by_node = std::collections::BTreeMap::new();
    for nic in p.machine.nics.iter().filter(|nic| nic.tx_queues > 1) {
        let mut order = p.machine.cpus_near(nic);
        let dealt = dealt_by_node.entry(nic.node).or_insert(0usize);
        // The first CPU of the order is the one that has the first queue's interrupt.
        let turn = *dealt % order.len();
        order.rotate_left(turn);
        *dealt += queues(nic);
        let far: Vec<u32> = p.machine.cpus.iter().filter(|cpu| !order.contains(cpu)).collect();
        order.extend(far);
        for queue in 0..nic.tx_queues {
            let own = order.iter().skip(queue as usize).step_by(nic.tx_queues as usize);
            let set = CpuSet::of(own.copied());
            let path = steering_path(&nic.name, &format!("tx-{queue}"), "xps_cpus");
            if !set.is_empty() && p.host.has(&path) {
                p.exactly(Place::Value(path), &set.mask());
            }
        }
    }
}
