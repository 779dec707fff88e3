//! Retransmission over mobile links.
//!
//! A radio that slept answers after one to three seconds. TCP, which saw 50 ms before, sends again
//! after 200 ms and a few times more: bytes that the device pays for, a congestion window of one,
//! and a radio that is kept awake. A minimum of 3 s waits for it.
//!
//! Two places can say so, and the kernel takes the first that does: the route's `rto_min`, and the
//! socket's own minimum. A socket takes that from the sysctl when it is opened (Linux 6.11), and a
//! connection from its listener. The socket option `TCP_RTO_MIN_US` (6.15) and a BPF program's
//! `TCP_BPF_RTO_MIN` only lower it: the kernel refuses more than 200 ms. So no process can raise it for
//! itself; here the sysctl is set, or the route where there is no sysctl.

use super::Family;
use crate::goal::Profile;
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_VALUE};

const RTO_MIN_MS: u64 = 3_000;

/// RFC 1122's 100 seconds, by the kernel's table; see tcp_retries2.
const RETRIES_MIN: u64 = 8;

const SYSCTL: &str = "net.ipv4.tcp_rto_min_us";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Rto,
        name: SYSCTL,
        what: "the least time before TCP sends again, for sockets opened from now on; a connection has \
               that of its listener, so the broker is to be restarted",
        why: "200 ms is shorter than the wake-up of a radio, so nearly every first message to a \
              sleeping device would be sent several times",
        formula: "3,000,000 for the mobile profile; the datacenter profile leaves it",
        kernels: "since 6.11",
        range: (1, i32::MAX as u64),
        risk: "a packet that is really lost comes again after 3 s instead of 0.2 s, unless later \
               packets reveal the loss; this holds for every connection of the namespace, also for \
               those to other servers. The kernel's advice of 200 ms or less is for wired networks",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_rto_min_us; tcp_output.c, tcp_rto_min",
        propose: |p| {
            if p.goal.profile != Profile::Mobile {
                return;
            }
            let place = Place::sysctl(SYSCTL);
            if place.read(p.host).is_some() {
                p.at_least(place, RTO_MIN_MS * 1_000);
                tell_of_route(p);
            }
        },
    },
    Setting {
        family: Family::Rto,
        name: "route rto_min",
        what: "the same as an attribute of the default route",
        why: "kernels before 6.11 have no sysctl",
        formula: "3,000 ms for the mobile profile where there is no sysctl",
        kernels: "since 2.6.23",
        range: (1, 120_000),
        risk: "the same; connections by other routes keep 200 ms, and a network manager that writes \
               the route again loses it",
        undo: UNDO_VALUE,
        source: "ip-route(8), rto_min; include/uapi/linux/rtnetlink.h, RTAX_RTO_MIN",
        propose: |p| {
            if p.goal.profile != Profile::Mobile || Place::sysctl(SYSCTL).read(p.host).is_some() {
                return;
            }
            let routes: Vec<Place> = [4, 6].map(Place::RouteRto).into();
            let present = routes.into_iter().filter(|place| place.read(p.host).is_some());
            let present: Vec<Place> = present.collect();
            if present.is_empty() {
                p.tell(
                    Kind::ByHand,
                    "this kernel has no tcp_rto_min_us and there is not exactly one default route that stays: \
                     `ip route change ROUTE rto_min 3s` for the routes to devices",
                );
            }
            for place in present {
                p.at_least(place, RTO_MIN_MS);
            }
        },
    },
    Setting {
        family: Family::Rto,
        name: "net.ipv4.tcp_retries2",
        what: "how often TCP sends again before it gives a connection up",
        why: "the kernel turns it into a time as if the first wait were 200 ms; with a minimum of 3 s \
              that time holds fewer tries, and below 8 hardly any",
        formula: "at least 8: 102 s, which is 5 tries from 3 s on. Never lowered, since that could \
                  end connections that wait. The kernel's 15 is 925 s",
        kernels: "all",
        range: (RETRIES_MIN, 255),
        risk: "none: dead devices are found by the broker's heartbeat",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_retries2; RFC 1122, 4.2.3.5",
        propose: |p| p.at_least(Place::sysctl("net.ipv4.tcp_retries2"), RETRIES_MIN),
    },
    Setting {
        family: Family::Rto,
        name: "net.ipv4.tcp_frto",
        what: "after a timeout, finds out whether the first packet had arrived after all",
        why: "when the wait was too short in spite of all, it undoes the congestion window's collapse",
        formula: "at least 1",
        kernels: "all; 2 is the default",
        range: (1, 2),
        risk: "none: it is the kernel's default",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_frto; RFC 5682",
        propose: |p| p.at_least(Place::sysctl("net.ipv4.tcp_frto"), 1),
    },
];

fn tell_of_route(p: &mut Proposals) {
    for family in [4, 6] {
        let set = Place::RouteRto(family).read(p.host).and_then(|text| text.trim().parse().ok());
        if set.is_some_and(|ms: u64| ms > 0 && ms < RTO_MIN_MS) {
            p.tell(
                Kind::ByHand,
                format!(
                    "the default IPv{family} route has rto_min {} ms, which counts before the sysctl: \
                     `ip route change ROUTE rto_min 3s`",
                    set.unwrap_or(0)
                ),
            );
        }
    }
}
