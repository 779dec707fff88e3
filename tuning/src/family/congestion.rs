//! Congestion control, pacing, and what TCP remembers between connections.

use super::Family;
use crate::goal::Profile;
use crate::netlink::queueing;
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_VALUE};

const DEFAULT: &str = "net.core.default_qdisc";

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
    // Before the default for cards to come, so that rollback, which goes backwards, has that one back
    // first: what a card gets for a discipline that is taken away is the default of that moment.
    Setting {
        family: Family::Congestion,
        name: "queueing discipline of cards",
        what: "in which order packets of cards that are up leave, and when",
        why: "fq paces what bbr sends by one timer for a whole queue, and keeps one busy connection \
              from delaying the others; without it each socket paces with a timer of its own",
        formula: "fq for the mobile profile with bbr, for each queue of a card that has what the kernel \
                  attached by itself; what somebody chose is told and left, since it would not come \
                  back with its options",
        kernels: "fq since 3.12; bbr paces without it since 4.13",
        range: (0, 0),
        risk: "what waits in the former discipline at that moment is dropped and sent again; fq holds \
               10,000 packets of all connections and 100 of each",
        undo: "what was attached is taken away, and the kernel attaches its default",
        source: "tc-fq(8); net/ipv4/tcp_output.c, tcp_needs_internal_pacing; net/sched/sch_generic.c, \
                 attach_default_qdiscs",
        propose: pace_cards,
    },
    Setting {
        family: Family::Congestion,
        name: DEFAULT,
        what: "queueing discipline of devices that come up from now on",
        why: "the same for cards that appear later, and for each queue that a card gets",
        formula: "fq for the mobile profile with bbr where this kernel has it; else left",
        kernels: "fq since 3.12; only in the first network namespace",
        range: (0, 0),
        risk: "none to devices that are up: they keep theirs until they are set up anew",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/net.rst, default_qdisc; tc-fq(8)",
        propose: |p| {
            let place = Place::sysctl(DEFAULT);
            if paces_with_fq(p) && place.read(p.host).is_some() {
                p.exactly(place, "fq");
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

fn pace_cards(p: &mut Proposals) {
    if p.goal.profile != Profile::Mobile || !bbr_is_possible(p) {
        return;
    }
    if !has_fq(p) {
        p.tell(
            Kind::Note,
            "this kernel has no fq, or does not list its modules in /lib/modules: bbr paces with a \
             timer of each socket",
        );
        return;
    }
    let default = p.host.text("proc/sys/net/core/default_qdisc").unwrap_or_default();
    for nic in &p.machine.nics {
        let place = Place::Queueing(nic.name.clone());
        let Some(current) = place.read(p.host) else { continue };
        if queueing::leaves_are(&current, "fq") {
            p.unchanged_count += 1;
        } else if let Some(wanted) = queueing::instead(&current, &default, "fq") {
            p.exactly(place, &wanted);
        } else {
            p.tell(
                Kind::ByHand,
                format!(
                    "{0} has {1}, which would not come back by itself: `tc qdisc replace dev {0} root \
                     fq`, or for several queues `root mq`, moves it without dropping connections",
                    nic.name,
                    current.trim()
                ),
            );
        }
    }
}

fn paces_with_fq(p: &Proposals) -> bool {
    p.goal.profile == Profile::Mobile && bbr_is_possible(p) && has_fq(p)
}

/// A kernel lists what it was built with and what it can load, and nothing else does.
fn has_fq(p: &Proposals) -> bool {
    let release = p.host.text("proc/sys/kernel/osrelease").unwrap_or_default();
    let lists = |list: &str| {
        let modules = p.host.raw(&format!("lib/modules/{release}/{list}"));
        modules.is_some_and(|modules| modules.contains("/sch_fq.ko"))
    };
    lists("modules.builtin") || lists("modules.dep")
}
