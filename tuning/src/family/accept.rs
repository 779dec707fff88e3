//! The way in: listen queues, SYN queues, cookies, and what is left of connections that closed.
//!
//! A reconnect storm is every device of a machine at once. A shard accepts some 60,000 a second;
//! what arrives while it does something else waits in these queues, and what does not fit is
//! dropped and comes again after 1, 3, 7 seconds.

use super::Family;
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

/// A second of one shard's accepting.
const ACCEPT_QUEUE_MAX: u64 = 65_535;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Accept,
        name: "net.core.somaxconn",
        what: "the longest listen queue that a program can have",
        why: "handshakes that are done wait here while the shard is in its turn",
        formula: "at least connections / 16, from 4,096 to 65,535: one second of a shard's accepting",
        kernels: "all; 128 before 5.4, 4,096 since",
        range: (128, 65_535),
        risk: "none: a longer queue is used only in a storm",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, somaxconn; listen(2)",
        propose: |p| {
            let wanted = (p.goal.connections / 16).clamp(4_096, ACCEPT_QUEUE_MAX);
            p.at_least(Place::sysctl("net.core.somaxconn"), wanted);
        },
    },
    Setting {
        family: Family::Accept,
        name: "net.ipv4.tcp_max_syn_backlog",
        what: "handshakes that wait for the client's acknowledgement, where cookies are off or not \
               yet sent",
        why: "at a round trip of 2 s a storm of 60,000 connects a second has 120,000 of them open",
        formula: "at least connections / 4, from 4,096 to 2^20",
        kernels: "all",
        range: (128, 1 << 20),
        risk: "each open handshake takes 304 bytes until it times out; 2^20 of them 304 MiB, for each \
               listener",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_max_syn_backlog",
        propose: |p| {
            let wanted = (p.goal.connections / 4).clamp(4_096, 1 << 20);
            p.at_least(Place::sysctl("net.ipv4.tcp_max_syn_backlog"), wanted);
        },
    },
    Setting {
        family: Family::Accept,
        name: "net.ipv4.tcp_syncookies",
        what: "answers handshakes without remembering them once the queue is full",
        why: "the last line against a flood; sent always (2) they would cost every connection its \
              window scaling and SACK where timestamps are off",
        formula: "1",
        kernels: "all built with CONFIG_SYN_COOKIES",
        range: (0, 2),
        risk: "under a flood the connections that get in lack options of TCP",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_syncookies",
        propose: |p| p.number(Place::sysctl("net.ipv4.tcp_syncookies"), 1),
    },
    Setting {
        family: Family::Accept,
        name: "net.ipv4.tcp_abort_on_overflow",
        what: "resets connections that do not fit into the listen queue instead of dropping the packet",
        why: "a reset tells devices to come back at once, all of them; a drop lets TCP back off",
        formula: "0",
        kernels: "all",
        range: (0, 1),
        risk: "none: it is the kernel's default",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_abort_on_overflow",
        propose: |p| p.number(Place::sysctl("net.ipv4.tcp_abort_on_overflow"), 0),
    },
    Setting {
        family: Family::Accept,
        name: "net.core.netdev_max_backlog",
        what: "packets that wait for a CPU when they come from loopback, a TUN device or another CPU",
        why: "a message to all is a burst of packets and their acknowledgements",
        formula: "at least connections / 64, from 1,000 to 262,144",
        kernels: "all; only in the first network namespace",
        range: (1_000, i32::MAX as u64),
        risk: "longer queues add delay when a CPU is saturated",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/net.rst, netdev_max_backlog",
        propose: |p| {
            let wanted = (p.goal.connections / 64).clamp(1_000, 262_144);
            p.at_least(Place::sysctl("net.core.netdev_max_backlog"), wanted);
        },
    },
    Setting {
        family: Family::Accept,
        name: "net.ipv4.tcp_max_orphans",
        what: "connections that no program holds any more and that are still closing",
        why: "a drain or a restart closes millions; beyond the limit they are reset, and what was \
              still on its way is lost",
        formula: "at least connections / 4, what a sixteenth of the memory holds at 2,520 bytes each, \
                  whichever is less; never below what is there",
        kernels: "all; only in the first network namespace",
        range: (0, i32::MAX as u64),
        risk: "each can hold up to 64 KiB that cannot be swapped",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_max_orphans",
        propose: |p| {
            let held = p.budget.memory_bytes / 16 / 2_520;
            let wanted = (p.goal.connections / 4).min(held).max(2 * p.budget.in_use.orphans);
            p.at_least(Place::sysctl("net.ipv4.tcp_max_orphans"), wanted);
        },
    },
    Setting {
        family: Family::Accept,
        name: "net.ipv4.tcp_max_tw_buckets",
        what: "connections in TIME_WAIT",
        why: "who closes first waits; a drain closes many. Beyond the limit the state is destroyed \
              at once, which is against simple attacks only",
        formula: "at least connections / 4, what a sixteenth of the memory holds at 256 bytes each, \
                  whichever is less",
        kernels: "all",
        range: (0, i32::MAX as u64),
        risk: "256 bytes each for 60 s",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_max_tw_buckets",
        propose: |p| {
            let held = p.budget.memory_bytes / 16 / 256;
            let wanted = (p.goal.connections / 4).min(held).max(2 * p.budget.in_use.time_wait);
            p.at_least(Place::sysctl("net.ipv4.tcp_max_tw_buckets"), wanted);
        },
    },
];
