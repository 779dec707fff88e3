//! The tables in which the kernel finds a connection.

use super::Family;
use crate::budget::buckets;
use crate::place::Place;
use crate::setting::{Kind, Proposals, Setting, UNDO_NOTHING, UNDO_VALUE};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Hashes,
        name: "net.ipv4.tcp_child_ehash_entries",
        what: "buckets of the table of established connections in network namespaces made from now on",
        why: "with the default of 262,144 buckets and 2,000,000 connections pushes were 19-27 % slower",
        formula: "connections, rounded up to a power of two, from 2^16 to 2^24",
        kernels: "since 6.1",
        range: (0, 1 << 24),
        risk: "8 bytes a bucket in each namespace made from now on; containers are such namespaces",
        undo: UNDO_VALUE,
        source: "Documentation/networking/ip-sysctl.rst, tcp_child_ehash_entries",
        propose: |p| {
            let wanted = buckets(p.goal.connections);
            if enough_buckets(p.host.text("proc/sys/net/ipv4/tcp_ehash_entries"), wanted) {
                p.unchanged_count += 1;
                return;
            }
            let place = Place::sysctl("net.ipv4.tcp_child_ehash_entries");
            if place.read(p.host).is_some() {
                p.tell(
                    Kind::Note,
                    "this namespace keeps its table: start the broker in a network namespace that \
                     is made after this is set",
                );
            }
            p.at_least(place, wanted);
        },
    },
    Setting {
        family: Family::Hashes,
        name: "thash_entries",
        what: "the boot parameter for the same table in the first network namespace",
        why: "kernels before 6.1 have no other way, and it serves a broker without a namespace",
        formula: "connections, rounded up to a power of two, from 2^16 to 2^24",
        kernels: "all",
        range: (1 << 16, 1 << 24),
        risk: "needs a reboot; 8 bytes a bucket",
        undo: UNDO_NOTHING,
        source: "Documentation/admin-guide/kernel-parameters.txt, thash_entries",
        propose: |p| {
            let wanted = buckets(p.goal.connections);
            if enough_buckets(p.host.text("proc/sys/net/ipv4/tcp_ehash_entries"), wanted)
                || enough_buckets(of_command_line(p), wanted)
            {
                p.unchanged_count += 1;
                return;
            }
            let why = match p.host.has("proc/sys/net/ipv4/tcp_child_ehash_entries") {
                true => "for a broker that runs outside a namespace of its own",
                false => "this kernel has no other way to size the table",
            };
            p.tell(
                Kind::Reboot,
                format!("set thash_entries={wanted} on the kernel's command line: {why}"),
            );
        },
    },
];

/// What the next boot would have as well as this one; kernels before 6.1 say it nowhere else.
fn of_command_line(p: &Proposals) -> Option<String> {
    let line = p.host.text("proc/cmdline")?;
    let mut set = line.split_whitespace().filter_map(|word| word.strip_prefix("thash_entries="));
    set.next_back().map(str::to_owned)
}

/// Chains of two are as good; a negative number is a namespace that shares the first one's table.
fn enough_buckets(now: Option<String>, wanted: u64) -> bool {
    let now: Option<i64> = now.and_then(|text| text.parse().ok());
    now.is_some_and(|now| now.unsigned_abs() >= wanted / 2)
}
