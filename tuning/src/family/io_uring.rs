//! io_uring: whether the broker may use it at all.

use super::Family;
use crate::machine::Kernel;
use crate::place::Place;
use crate::setting::{Kind, Setting, UNDO_NOTHING, UNDO_VALUE};

/// The first kernel that has all that the broker's rings need.
const NEEDED: Kernel = Kernel { major: 6, minor: 1 };

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::IoUring,
        name: "kernel.io_uring_disabled",
        what: "who may make rings: 0 everyone, 1 members of a group or CAP_SYS_ADMIN, 2 nobody",
        why: "the broker does not start without a ring",
        formula: "0 where it is 2; 1 is left, since the broker's user can be in the group",
        kernels: "since 6.6",
        range: (0, 2),
        risk: "every program on the machine may make rings; where that is not wanted, set 1 and \
               kernel.io_uring_group instead",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/sysctl/kernel.rst, io_uring_disabled",
        propose: |p| {
            let place = Place::sysctl("kernel.io_uring_disabled");
            match p.host.number("proc/sys/kernel/io_uring_disabled") {
                Some(2) => p.number(place, 0),
                Some(1) => p.tell(
                    Kind::ByHand,
                    "only CAP_SYS_ADMIN and the group in kernel.io_uring_group may make rings: put \
                     the broker's user into that group",
                ),
                Some(_) => p.unchanged_count += 1,
                None => {}
            }
        },
    },
    Setting {
        family: Family::IoUring,
        name: "kernel version",
        what: "what the broker's rings need",
        why: "multishot accept, direct descriptors and deferred task work",
        formula: "6.1 or newer",
        kernels: "6.1",
        range: (0, 0),
        risk: "told only",
        undo: UNDO_NOTHING,
        source: "io_uring_setup(2), IORING_SETUP_DEFER_TASKRUN",
        propose: |p| {
            if p.machine.kernel < NEEDED {
                p.tell(
                    Kind::Reboot,
                    format!(
                        "this is Linux {}; the broker needs {NEEDED} or newer",
                        p.machine.kernel
                    ),
                );
            }
        },
    },
];
