//! TCP memory and buffers.
//!
//! Idle connections own no buffer, so these bound what happens when many are busy at once: a
//! message to all, or peers that send and do not read.

use super::Family;
use crate::budget::{Budget, PAGE_BYTES};
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

/// A device sends heartbeats and acknowledgements; a payload of 64 KiB still fits with autotuning.
const RECEIVE_DEFAULT_BYTES: u64 = 16 << 10;
const RECEIVE_DEFAULT_BYTES_MAX: u64 = 128 << 10;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Memory,
        name: "net.ipv4.tcp_mem",
        what: "pages of all TCP queues together: below the first nothing is bounded, from the second \
               buffers stop growing, at the third memory is refused",
        why: "at the kernel's default a message to millions can stop all sending, and with many \
              connections planned the default can be more than the memory that is left",
        formula: "third = what connections need at 2 KiB of queue each, at least 16 MiB and twice \
                  what is in use; the present value stays where it is greater and fits into what \
                  is left of the memory; second = 3/4, first = 1/2 of it",
        kernels: "all; only in the first network namespace",
        range: (1, i64::MAX as u64),
        risk: "too high lets queues take the memory of everything else; the formula never goes \
               beyond what is left",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_mem",
        propose: |p| {
            let budget = *p.budget;
            p.fields(Place::sysctl("net.ipv4.tcp_mem"), |current| queues(&budget, current));
        },
    },
    Setting {
        family: Family::Memory,
        name: "net.ipv4.tcp_rmem",
        what: "receive buffer of a connection in bytes: least, at first, at most",
        why: "what a peer may send before the broker reads: connections times the second number is \
              what hostile peers can fill",
        formula: "second = queue memory / connections, from 16 KiB to 128 KiB, never more than it \
                  is; the others stay",
        kernels: "all",
        range: (4_096, i32::MAX as u64),
        risk: "a first window below 64 KiB costs a large upload from a device some round trips",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_rmem",
        propose: |p| {
            let share = p.budget.queues_bytes / p.goal.connections.max(1);
            let share = share.clamp(RECEIVE_DEFAULT_BYTES, RECEIVE_DEFAULT_BYTES_MAX);
            p.fields(Place::sysctl("net.ipv4.tcp_rmem"), |current| middle_at_most(current, share));
        },
    },
    Setting {
        family: Family::Memory,
        name: "net.ipv4.tcp_wmem",
        what: "send buffer of a connection in bytes: least, at first, at most",
        why: "the broker never queues a payload for a device that does not read, so a small buffer \
              at first is enough and autotuning does the rest",
        formula: "second = 16 KiB, never more than it is; the others stay",
        kernels: "all",
        range: (4_096, i32::MAX as u64),
        risk: "none: 16 KiB is the kernel's own default",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_wmem",
        propose: |p| {
            p.fields(Place::sysctl("net.ipv4.tcp_wmem"), |current| {
                middle_at_most(current, 16 << 10)
            });
        },
    },
];

/// The three numbers of `tcp_mem` in pages.
fn queues(budget: &Budget, current: &[u64]) -> Vec<u64> {
    let need = budget.queues_bytes / PAGE_BYTES;
    let left = budget.left_bytes / PAGE_BYTES;
    match current {
        // What is there serves and fits: leave it as it is, to the page.
        [_, _, third] if (need..=left).contains(third) => current.to_vec(),
        _ => {
            let third = current.last().copied().unwrap_or(need).clamp(need, left.max(need));
            vec![third / 2, third / 4 * 3, third]
        }
    }
}

fn middle_at_most(current: &[u64], wanted: u64) -> Vec<u64> {
    match *current {
        [first, second, third] => vec![first, second.min(wanted).max(first), third],
        _ => vec![4_096, wanted, wanted.max(4 << 20)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(queues_mib: u64, left_mib: u64) -> Budget {
        Budget {
            memory_bytes: 0,
            reserve_bytes: 0,
            connections_bytes: 0,
            tables_bytes: 0,
            left_bytes: left_mib << 20,
            queues_bytes: queues_mib << 20,
            in_use: Default::default(),
        }
    }

    #[test]
    fn queues_are_raised_to_the_need_and_lowered_to_what_is_left() {
        let check = |budget: Budget, current: &[u64], expect: &[u64]| {
            assert_eq!(queues(&budget, current), expect);
        };
        check(budget(1, 4), &[100, 200, 300], &[100, 200, 300]);
        check(budget(2, 4), &[100, 200, 300], &[256, 384, 512]);
        check(budget(1, 1), &[100, 200, 300], &[128, 192, 256]);
        check(budget(1, 1), &[], &[128, 192, 256]);
    }
}
