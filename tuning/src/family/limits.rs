//! Descriptors and locked memory.
//!
//! The broker's connections are direct descriptors of io_uring: they take no place in a descriptor
//! table, but a ring's table of them is checked against `RLIMIT_NOFILE` when it is registered, and
//! each is a `struct file` that `fs.file-max` counts.

use super::Family;
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

/// What one ring registers at most: IORING_MAX_FIXED_FILES of io_uring/filetable.h.
const RING_FILES_MAX: u64 = 1 << 20;

/// Descriptors that are not connections: listeners, logs, links, other programs.
const OTHER_FILES: u64 = 65_536;

const DROP_IN: &str = "etc/systemd/system/hawser-broker.service.d/50-hawser-tune.conf";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Limits,
        name: "fs.nr_open",
        what: "the most descriptors that RLIMIT_NOFILE of any process can be raised to",
        why: "one ring holds 2^20 direct descriptors only if RLIMIT_NOFILE is as high",
        formula: "at least 2^20, what one ring registers at most",
        kernels: "since 2.6.25",
        range: (64, 2_147_483_584),
        risk: "none by itself: it is a ceiling",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/fs.rst, nr_open; fs/file.c sysctl_nr_open_max",
        propose: |p| p.at_least(Place::sysctl("fs.nr_open"), RING_FILES_MAX),
    },
    Setting {
        family: Family::Limits,
        name: "fs.file-max",
        what: "the most open files of the whole machine",
        why: "each connection is one file; at the limit accept fails with ENFILE",
        formula: "at least connections x 9/8 + 65,536 + the files open now",
        kernels: "all",
        range: (8_192, i64::MAX as u64),
        risk: "none by itself: it is a ceiling",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/fs.rst, file-max & file-nr",
        propose: |p| {
            let wanted = p.goal.connections * 9 / 8 + OTHER_FILES + p.budget.in_use.files;
            p.at_least(Place::sysctl("fs.file-max"), wanted);
        },
    },
    Setting {
        family: Family::Limits,
        name: "hawser-broker.service limits",
        what: "RLIMIT_NOFILE and RLIMIT_MEMLOCK of the broker's service, as a drop-in for systemd",
        why: "with the usual limit of 1,024 (or 524,288) a ring's table is smaller and a shard needs \
              more rings; rings and registered buffers count as locked memory before Linux 5.12",
        formula: "LimitNOFILE = 2^20, LimitMEMLOCK = infinity",
        kernels: "all, with systemd",
        range: (0, u64::MAX),
        risk: "none to other services; it takes effect after `systemctl daemon-reload` when the \
               broker is next started, and no connection is dropped before",
        undo: "the file and its folder are removed",
        source: "systemd.exec(5); io_uring_register(2); io_uring/rsrc.c checks rlimit(RLIMIT_NOFILE)",
        propose: |p| {
            // Without systemd the limits are those of whoever starts the broker.
            if p.host.has("etc/systemd/system") {
                p.file(DROP_IN, &drop_in());
            }
        },
    },
];

fn drop_in() -> String {
    format!(
        "# Written by hawser tune; `hawser tune rollback` removes it.\n\
         [Service]\nLimitNOFILE={RING_FILES_MAX}\nLimitMEMLOCK=infinity\n"
    )
}
