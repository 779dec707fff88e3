//! Keepalive of TCP, which the broker does not use.
//!
//! A heartbeat of the device protocol goes through a proxy or carrier's address translation as data
//! does, is paced by the server, and releases messages that wait. TCP's keepalive would wake every
//! radio a second time. So nothing is set; a value that would wake radios often is told.

use super::Family;
use crate::setting::{Kind, Setting, UNDO_NOTHING};

/// The broker's shortest heartbeat.
const SHORTEST_SECONDS: u64 = 180;

pub(super) const SETTINGS: &[Setting] = &[Setting {
    family: Family::Keepalive,
    name: "net.ipv4.tcp_keepalive_time",
    what: "silent seconds before the kernel probes a connection that asked for it (SO_KEEPALIVE)",
    why: "the broker's heartbeat finds dead devices; TCP_USER_TIMEOUT, per socket, bounds data that \
          is not acknowledged, and tcp_retries2 does where it is not set",
    formula: "left as it is: connections of other programs depend on it",
    kernels: "all",
    range: (1, 32_767),
    risk: "none: told only",
    undo: UNDO_NOTHING,
    source: "Documentation/networking/ip-sysctl.rst, tcp_keepalive_time; tcp(7), TCP_USER_TIMEOUT",
    propose: |p| {
        let Some(seconds) = p.host.number("proc/sys/net/ipv4/tcp_keepalive_time") else { return };
        if seconds >= SHORTEST_SECONDS {
            p.unchanged_count += 1;
        } else {
            p.tell(
                Kind::Note,
                format!(
                    "programs with SO_KEEPALIVE probe after {seconds} s of silence; the broker does \
                     not, but a terminator in front of it would wake every device that often"
                ),
            );
        }
    },
}];
