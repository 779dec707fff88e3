//! Frequency and idle states of the CPUs.

use super::Family;
use crate::place::Place;
use crate::setting::{Setting, UNDO_VALUE};

/// Deeper states take longer to leave than a whole turn of a shard.
const WAKE_UP_US_MAX: u64 = 100;

const CPUS: &str = "sys/devices/system/cpu";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        family: Family::Power,
        name: "scaling governor",
        what: "who decides the frequency of a CPU",
        why: "a storm or a message to all comes without warning, and a core that has to speed up \
              first adds to every message's time",
        formula: "performance, where the CPU has a choice and offers it",
        kernels: "all with cpufreq",
        range: (0, 0),
        risk: "more power when idle",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/pm/cpufreq.rst",
        propose: |p| {
            for cpu in p.machine.cpus.iter() {
                let folder = format!("{CPUS}/cpu{cpu}/cpufreq");
                let offered = p.host.text(&format!("{folder}/scaling_available_governors"));
                if offered.is_some_and(|list| list.split_whitespace().any(|g| g == "performance")) {
                    let place = Place::Value(format!("{folder}/scaling_governor"));
                    p.exactly(place, "performance");
                }
            }
        },
    },
    Setting {
        family: Family::Power,
        name: "deep idle states",
        what: "states of an idle CPU that take long to leave",
        why: "at some thousand packets a second each core sleeps between them, and each wake-up adds \
              its exit latency",
        formula: "states whose exit latency is above 100 microseconds are disabled",
        kernels: "all with cpuidle",
        range: (0, 1),
        risk: "more power when idle, and less turbo for the other cores",
        undo: UNDO_VALUE,
        source: "Documentation/admin-guide/pm/cpuidle.rst, latency and disable",
        propose: |p| {
            for cpu in p.machine.cpus.iter() {
                let folder = format!("{CPUS}/cpu{cpu}/cpuidle");
                for state in p.host.names(&folder) {
                    let latency_us = p.host.number(&format!("{folder}/{state}/latency"));
                    if latency_us.is_some_and(|us| us > WAKE_UP_US_MAX) {
                        p.number(Place::Value(format!("{folder}/{state}/disable")), 1);
                    }
                }
            }
        },
    },
];
