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
use crate::budget::flows;
use crate::cpus::CpuSet;
use crate::interrupt::affinity_path;
use crate::machine::Machine;
use crate::nic::{Channels, Coalescing, Nic, steering_path};
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_NOTHING, UNDO_VALUE};

/// What Intel's drivers start with: 20,000 interrupts a second and queue.
const RX_USECS: u32 = 50;

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
        formula: "at least the CPUs of the card's node, as far as the card can; never fewer than now. \
                  The kernel's text finds no benefit in a queue for each hyper-thread, but a shard is \
                  pinned to each, and a shard without a queue gets its packets from others",
        kernels: "netlink since 5.6",
        range: (1, 1_024),
        risk: "the card is reset for a moment: packets are lost and sent again, connections stay",
        undo: "the former number is set",
        source: "Documentation/networking/ethtool-netlink.rst, CHANNELS_SET; scaling.rst, RSS, \
                 Suggested Configuration",
        propose: |p| {
            for nic in &p.machine.nics {
                // A card whose queues receive or send only has none that are combined, and cannot.
                let can = |channels: &Channels| channels.combined > 0 && channels.combined_max > 0;
                let Some(channels) = nic.abilities.channels.filter(can) else { continue };
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
        formula: "off where the card has as many queues as its node has CPUs, since it is redundant \
                  then; else left, because it spreads blindly what receive flow steering hands to the \
                  right CPU",
        kernels: "since 2.6.35",
        range: (0, u64::MAX),
        risk: "none",
        undo: UNDO_VALUE,
        source: "Documentation/networking/scaling.rst, RPS, Suggested Configuration",
        propose: |p| {
            for nic in &p.machine.nics {
                let enough = has_enough_queues(p.machine, nic);
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
        why: "a shard reads on the CPU it is pinned to: with fewer queues than CPUs its packets come \
              up on another one, and this brings them to it",
        formula: "only where a card has fewer queues than its node has CPUs: at least connections / 16 \
                  entries, rounded up to a power of two, from 32,768 to 2^20, and that by the number \
                  of queues for each of them. With a queue for each CPU it has nothing to hand over, \
                  and every read would pay for its table",
        kernels: "since 2.6.35; the table of the machine only in the first network namespace",
        range: (1, 1 << 29),
        risk: "up to 16 bytes an entry, which the plan's memory has in it; another CPU is woken for \
               packets that it is to have",
        undo: UNDO_VALUE,
        source: "Documentation/networking/scaling.rst, RFS, Suggested Configuration; \
                 net/core/sysctl_net_core.c, rps_sock_flow_sysctl",
        propose: steer_flows,
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
        formula: "where a card does not gather at all: it adapts by itself if it can, else 50 \
                  microseconds, which is 20,000 interrupts a second and queue. What somebody set \
                  stays",
        kernels: "netlink since 5.6",
        range: (0, u32::MAX as u64),
        risk: "adds up to that time to a message; a push that crosses a radio takes a thousand times \
               as long",
        undo: "the former mode and time are set, in one message",
        source: "Documentation/networking/ethtool-netlink.rst, COALESCE_SET; \
                 drivers/net/ethernet/intel/ice/ice_txrx.h, ICE_DFLT_RX_ITR; virtio 1.2, 5.1.3, \
                 VIRTIO_NET_F_NOTF_COAL",
        propose: |p| {
            for nic in &p.machine.nics {
                let Some(now) = nic.abilities.coalescing else { continue };
                if now.adaptive_rx == Some(true) || now.rx_usecs > 0 {
                    p.unchanged_count += 1;
                    continue;
                }
                let wanted = match now.adaptive_rx {
                    Some(_) => Coalescing { adaptive_rx: Some(true), ..now },
                    None => Coalescing { rx_usecs: RX_USECS, ..now },
                };
                p.exactly(Place::Coalescing(nic.name.clone()), &wanted.to_string());
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

/// Whether a card has, or will have once its channels are set, a queue for each CPU of its node.
fn has_enough_queues(machine: &Machine, nic: &Nic) -> bool {
    let possible = nic.abilities.channels.map_or(0, |channels| channels.combined_max);
    nic.rx_queues.max(possible) as usize >= machine.cpus_near(nic).len()
}

/// Entries of the table of the machine, and of each queue's.
fn steer_flows(p: &mut Proposals) {
    const TABLE: &str = "net.core.rps_sock_flow_entries";
    let wanted = flows(p.goal.connections);
    let steered = |nic: &&Nic| nic.rx_queues > 0 && !has_enough_queues(p.machine, nic);
    let steered: Vec<&Nic> = p.machine.nics.iter().filter(steered).collect();
    if steered.is_empty() {
        let entries = Place::sysctl(TABLE).read(p.host);
        let entries = entries.and_then(|text| text.trim().parse().ok()).unwrap_or(0u64);
        if entries > 0 {
            p.tell(
                Kind::Note,
                format!(
                    "receive flow steering has a table of {entries} entries, and every card has a queue \
                     for each CPU of its node: it has nothing to hand over here"
                ),
            );
        }
        return;
    }
    p.at_least(Place::sysctl(TABLE), wanted);
    for nic in steered {
        for queue in 0..nic.rx_queues {
            let path = steering_path(&nic.name, &format!("rx-{queue}"), "rps_flow_cnt");
            let each = (wanted / u64::from(nic.rx_queues)).next_power_of_two();
            p.at_least(Place::Value(path), each);
        }
    }
}

/// Cards of one node take turns at its CPUs: the second begins where the first ended.
fn deal_interrupts(p: &mut Proposals) {
    if p.machine.irqbalance_runs {
        return;
    }
    let mut dealt_by_node = std::collections::BTreeMap::new();
    for nic in &p.machine.nics {
        if nic.interrupts.is_empty() {
            let what = if nic.rx_queues > 0 { "interrupts" } else { "queues" };
            p.tell(
                Kind::Note,
                format!("{} shows no {what} of its own: nothing to place", nic.name),
            );
        }
        let near = p.machine.cpus_near(nic);
        let dealt = dealt_by_node.entry(nic.node).or_insert(0usize);
        let mut kept_by_driver = 0;
        for (number, cpu) in placed(nic, &near, *dealt) {
            let path = affinity_path(number);
            // The kernel shows an affinity that only the driver sets without the right to write it.
            if p.host.has(&path) && p.host.is_for_reading_only(&path) {
                kept_by_driver += 1;
            } else {
                p.exactly(Place::Value(path), &cpu.to_string());
            }
        }
        if kept_by_driver > 0 {
            p.tell(
                Kind::Note,
                format!(
                    "{kept_by_driver} interrupts of {} are placed by its driver and cannot be moved",
                    nic.name
                ),
            );
        }
        *dealt += queues(nic);
    }
}

/// Interrupts for receiving and for sending of one queue, where a card has two, share a CPU.
fn placed(nic: &Nic, near: &[u32], dealt: usize) -> Vec<(u32, u32)> {
    let place = |(number, turn): (&u32, &usize)| (*number, near[(dealt + turn) % near.len()]);
    nic.interrupts.iter().zip(&nic.turns).map(place).collect()
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
