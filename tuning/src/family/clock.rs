//! The clock source.

use super::Family;
use crate::setting::{Kind, Setting, UNDO_NOTHING};

const FOLDER: &str = "sys/devices/system/clocksource/clocksource0";

/// Sources that a program reads without a system call, by their architectures' vDSO: x86 (bare, KVM,
/// Hyper-V, Xen since 5.0), arm64, powerpc, s390, riscv.
const FAST: [&str; 8] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "xen",
    "arch_sys_counter",
    "timebase",
    "tod",
    "riscv_clocksource",
];

pub(super) const SETTINGS: &[Setting] = &[Setting {
    family: Family::Clock,
    name: "clock source",
    what: "what the kernel reads the time from",
    why: "hpet and acpi_pm take a system call and a slow bus for every reading, also within the kernel",
    formula: "left: the kernel leaves tsc only when it has seen it drift",
    kernels: "all",
    range: (0, 0),
    risk: "told only: a clock that drifts breaks more than speed",
    undo: UNDO_NOTHING,
    source: "Documentation/timers/timekeeping.rst; \
             Documentation/ABI/testing/sysfs-devices-clocksource; vdso(7)",
    propose: |p| {
        let Some(current) = p.host.text(&format!("{FOLDER}/current_clocksource")) else { return };
        if FAST.contains(&current.as_str()) {
            p.unchanged_count += 1;
            return;
        }
        let offered = p.host.text(&format!("{FOLDER}/available_clocksource")).unwrap_or_default();
        p.tell(
            Kind::ByHand,
            format!(
                "the clock source is {current} (offered: {offered}): `dmesg | grep -i tsc` says why; \
                 a firmware update often cures it"
            ),
        );
    },
}];
