//! Ports for outgoing connections.
//!
//! The broker accepts and hardly connects; a TLS terminator in front of it connects as often as
//! devices do, from its own addresses to few.

use super::Family;
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

/// One end is even and the other odd, as the kernel prefers.
const FIRST: u64 = 10_240;
const LAST: u64 = 65_535;

pub(super) const SETTINGS: &[Setting] = &[Setting {
    family: Family::Ports,
    name: "net.ipv4.ip_local_port_range",
    what: "the ports that outgoing connections use",
    why: "a terminator or benchmark on this machine has that many connections to one address of the \
          broker; the broker itself does not need it",
    formula: "10,240 to 65,535, unless the present range is as wide",
    kernels: "all",
    range: (1, 65_535),
    risk: "a service that listens on a port of the range may find it in use: list such ports in \
           net.ipv4.ip_local_reserved_ports",
    undo: UNDO_VALUE,
    source: "Documentation/networking/ip-sysctl.rst, ip_local_port_range",
    propose: |p| {
        p.fields(Place::sysctl("net.ipv4.ip_local_port_range"), |current| match *current {
            [first, last] if last.saturating_sub(first) >= LAST - FIRST => vec![first, last],
            [first, last] => vec![first.min(FIRST), last.max(LAST)],
            _ => vec![FIRST, LAST],
        });
    },
}];
