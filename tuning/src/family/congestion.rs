//! Congestion control, pacing, and what TCP remembers between connections.

use super::Family;
use crate::goal::Profile;
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_VALUE};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Congestion,
        name: "net.ipv4.tcp_congestion_control",
        what: "congestion control of connections made from now on",
        why: "radio links lose packets without being congested; bbr measures what the path carries \
              instead of halving at each loss",
        formula: "bbr for the mobile profile where this kernel has it loaded; else left",
        kernels: "bbr since 4.9",
        range: (0, 0),
        risk: "other programs' new connections use it too; bbr takes more than its share beside cubic \
               in shallow buffers",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_congestion_control",
        propose: |p| {
            if p.goal.profile != Profile::Mobile {
                return;
            }
            match bbr_is_possible(p) {
                true => p.exactly(Place::sysctl("net.ipv4.tcp_congestion_control"), "bbr"),
                false => p.tell(
                    Kind::Note,
                    "bbr is not offered here (not loaded, or not allowed in this network namespace)",
                ),
            }
        },
    },
    Setting {
        family: Family::Congestion,
        name: "net.core.default_qdisc",
        what: "queueing discipline of devices that come up from now on",
        why: "fq paces what bbr sends and keeps one busy connection from delaying the others; without \
              it each socket paces with a timer of its own",
        formula: "fq for the mobile profile with bbr; else left",
        kernels: "fq since 3.12; only in the first network namespace",
        range: (0, 0),
        risk: "none to devices that are up: they keep theirs until they are set up anew",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/net.rst, default_qdisc; tc-fq(8)",
        propose: |p| {
            let place = Place::sysctl("net.core.default_qdisc");
            if p.goal.profile == Profile::Mobile
                && bbr_is_possible(p)
                && place.read(p.host).is_some()
            {
                p.exactly(place, "fq");
                p.tell(
                    Kind::ByHand,
                    "cards that are up keep their discipline: `tc qdisc replace dev NIC root fq`, or \
                     for several queues `root mq`, moves one without dropping connections",
                );
            }
        },
    },
    Setting {
        family: Family::Congestion,
        name: "net.ipv4.tcp_no_metrics_save",
        what: "does not remember a peer's round trip and threshold for its next connection",
        why: "behind one carrier's address are thousands of devices: what one of them met says \
              nothing of the next, and a bad start lasts",
        formula: "1",
        kernels: "all",
        range: (0, 1),
        risk: "long downloads to few wired peers start from scratch",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_no_metrics_save",
        propose: |p| p.number(Place::sysctl("net.ipv4.tcp_no_metrics_save"), 1),
    },
    Setting {
        family: Family::Congestion,
        name: "net.ipv4.tcp_slow_start_after_idle",
        what: "forgets the congestion window of a connection that was silent for one timeout",
        why: "every push connection is silent; a message of 64 KiB would take three round trips \
              instead of one where the window had grown",
        formula: "0",
        kernels: "all",
        range: (0, 1),
        risk: "a burst into a path that has changed meanwhile; messages are small, so it is small",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_slow_start_after_idle",
        propose: |p| p.number(Place::sysctl("net.ipv4.tcp_slow_start_after_idle"), 0),
    },
];

/// A child namespace may choose only what its parent allows to everyone.
fn bbr_is_possible(p: &Proposals) -> bool {
    let lists = |name: &str| {
        let text = p.host.text(&format!("proc/sys/net/ipv4/{name}")).unwrap_or_default();
        text.split_whitespace().any(|word| word == "bbr")
    };
    let is_first_namespace = p.host.has("proc/sys/net/core/netdev_max_backlog");
    lists("tcp_available_congestion_control")
        && (is_first_namespace || lists("tcp_allowed_congestion_control"))
}
