//! Connection tracking: what it costs where it is loaded, and the limit at which it drops.

use super::Family;
use crate::budget::tracked_buckets;
use crate::place::Place;
use crate::setting::{Kind, Setting, UNDO_NOTHING, UNDO_VALUE};

/// Longer than any heartbeat by far.
const ESTABLISHED_SECONDS_MIN: u64 = 7_200;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Conntrack,
        name: "connection tracking",
        what: "netfilter remembers every connection of this machine",
        why: "it costs memory and time for each, and when its table is full new connections are dropped",
        formula: "about 328 bytes a connection, and a look-up for every packet",
        kernels: "all with nf_conntrack",
        range: (0, 0),
        risk: "told only: rules that the machine depends on may need it",
        undo: UNDO_NOTHING,
        source: "Documentation/networking/nf_conntrack-sysctl.rst",
        propose: |p| {
            let Some(conntrack) = p.machine.conntrack else { return };
            let mib = (p.goal.connections * 328) >> 20;
            p.tell(
                Kind::ByHand,
                format!(
                    "connection tracking is on ({} of {} entries): {mib} MiB for these connections. \
                     If no rule needs it for the broker's port, exempt it: \
                     `iptables -t raw -A PREROUTING -p tcp --dport PORT -j CT --notrack`, and the \
                     same in OUTPUT with --sport",
                    conntrack.entries, conntrack.entries_max
                ),
            );
        },
    },
    Setting {
        family: Family::Conntrack,
        name: "net.netfilter.nf_conntrack_max",
        what: "the most tracked connections",
        why: "at the limit the kernel drops the first packet of every new connection",
        formula: "at least connections x 9/8 + twice the entries there are",
        kernels: "all with nf_conntrack",
        range: (1, i32::MAX as u64),
        risk: "328 bytes an entry",
        undo: UNDO_VALUE,
        source: "Documentation/networking/nf_conntrack-sysctl.rst, nf_conntrack_max",
        propose: |p| {
            let Some(conntrack) = p.machine.conntrack else { return };
            let wanted = p.goal.connections * 9 / 8 + 2 * conntrack.entries;
            p.at_least(Place::sysctl("net.netfilter.nf_conntrack_max"), wanted);
        },
    },
    Setting {
        family: Family::Conntrack,
        name: "net.netfilter.nf_conntrack_buckets",
        what: "buckets of the table of tracked connections",
        why: "its default is for 262,144 entries; longer chains cost time for every packet",
        formula: "at least connections, rounded up to a power of two, up to 2^24",
        kernels: "all with nf_conntrack; writable since 4.8, only in the first network namespace",
        range: (1_024, 1 << 24),
        risk: "8 bytes a bucket; the table is rebuilt once, with packets held up meanwhile",
        undo: UNDO_VALUE,
        source: "Documentation/networking/nf_conntrack-sysctl.rst, nf_conntrack_buckets",
        propose: |p| {
            if p.machine.conntrack.is_some() {
                let wanted = tracked_buckets(p.goal.connections);
                p.at_least(Place::sysctl("net.netfilter.nf_conntrack_buckets"), wanted);
            }
        },
    },
    Setting {
        family: Family::Conntrack,
        name: "net.netfilter.nf_conntrack_tcp_timeout_established",
        what: "seconds after which a silent connection is forgotten",
        why: "a forgotten connection is cut without either end knowing; heartbeats come every 3 to 10 \
              minutes",
        formula: "at least 7,200",
        kernels: "all with nf_conntrack",
        range: (1, i32::MAX as u64),
        risk: "dead connections stay in the table longer",
        undo: UNDO_VALUE,
        source: "Documentation/networking/nf_conntrack-sysctl.rst",
        propose: |p| {
            if p.machine.conntrack.is_some() {
                let place = Place::sysctl("net.netfilter.nf_conntrack_tcp_timeout_established");
                p.at_least(place, ESTABLISHED_SECONDS_MIN);
            }
        },
    },
];
