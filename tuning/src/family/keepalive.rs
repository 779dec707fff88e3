//! Keepalive and user timeout of TCP, which the broker does not use.
//!
//! A heartbeat of the device protocol goes through a proxy or carrier's address translation as data
//! does, is paced by the server, and releases messages that wait. TCP's keepalive would wake every
//! radio a second time. What is sent and never acknowledged is ended by the broker's heartbeat too, so
//! its sockets have no TCP_USER_TIMEOUT, and `tcp_retries2` is the last line. So nothing is set; a value
//! that would wake radios often, or keep dead connections long, is told.

use super::Family;
use crate::setting::{Kind, Setting, UNDO_NOTHING};

/// The broker's shortest heartbeat.
const SHORTEST_SECONDS: u64 = 180;

/// What the kernel's default of 15 retries comes to.
const GIVE_UP_SECONDS_MAX: u64 = 925;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Keepalive,
        name: "net.ipv4.tcp_keepalive_time",
        what: "silent seconds before the kernel probes a connection that asked for it (SO_KEEPALIVE)",
        why: "the broker's heartbeat finds dead devices, and a probe would wake a radio once more",
        formula: "left as it is: connections of other programs depend on it",
        kernels: "all",
        range: (1, 32_767),
        risk: "none: told only",
        undo: UNDO_NOTHING,
        source: "Documentation/networking/ip-sysctl.rst, tcp_keepalive_time; tcp(7), TCP_USER_TIMEOUT",
        propose: |p| {
            let Some(seconds) = p.host.number("proc/sys/net/ipv4/tcp_keepalive_time") else {
                return;
            };
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
    },
    Setting {
        family: Family::Keepalive,
        name: "user timeout",
        what: "how long data may stay without an acknowledgement before the connection is given up \
               (TCP_USER_TIMEOUT)",
        why: "a device that vanished keeps its memory until then, where no heartbeat ends it sooner",
        formula: "left: the broker's heartbeat ends its connections, and tcp_retries2 all others. Told \
                  where that comes to more than the 925 s of the kernel's default",
        kernels: "since 2.6.37",
        range: (0, 0),
        risk: "told only: it is an option of each program's sockets",
        undo: UNDO_NOTHING,
        source: "tcp(7), TCP_USER_TIMEOUT; net/ipv4/tcp_timer.c, tcp_model_timeout; ip-sysctl.rst, \
                 tcp_retries2",
        propose: |p| {
            let retries = p.host.number("proc/sys/net/ipv4/tcp_retries2");
            let Some(seconds) = retries.map(give_up_seconds) else { return };
            if seconds <= GIVE_UP_SECONDS_MAX {
                p.unchanged_count += 1;
                return;
            }
            p.tell(
                Kind::Note,
                format!(
                    "by tcp_retries2 the kernel gives data up after {seconds} s; the broker's \
                     heartbeat ends its own connections sooner, other programs can set \
                     TCP_USER_TIMEOUT"
                ),
            );
        },
    },
];

/// The kernel's model of so many retries: each wait is twice the former, from 200 ms to 120 s.
fn give_up_seconds(retries: u64) -> u64 {
    const DOUBLINGS: u64 = 9;
    let doubled = retries.min(DOUBLINGS) as u32;
    let waits_ms = ((2 << doubled) - 1) * 200 + retries.saturating_sub(DOUBLINGS) * 120_000u64;
    (waits_ms + 500) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_to_the_times_that_the_kernel_documents() {
        // ip-sysctl.rst: 15 is 924.6 s, and 8 is the least with at least 100 s.
        assert_eq!([7, 8, 9, 10, 15].map(give_up_seconds), [51, 102, 205, 325, 925]);
    }
}
