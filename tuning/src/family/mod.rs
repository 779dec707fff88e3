//! All settings, one file for each family.

use std::fmt;

use crate::setting::Setting;

mod accept;
mod clock;
mod congestion;
mod conntrack;
mod hashes;
mod huge_pages;
mod interrupts;
mod io_uring;
mod keepalive;
mod limits;
mod memory;
mod ports;
mod power;
mod rto;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Family {
    /// Descriptors and locked memory
    Limits,
    /// TCP memory and buffers
    Memory,
    /// Listen and SYN queues
    Accept,
    /// Tables of connections
    Hashes,
    /// Ports for outgoing connections
    Ports,
    /// Connection tracking, where it is loaded
    Conntrack,
    /// Retransmission
    Rto,
    /// Keepalive
    Keepalive,
    /// Congestion control and pacing
    Congestion,
    /// Queues, interrupts and steering of network cards
    Interrupts,
    /// Governor and idle states
    Power,
    /// Transparent huge pages
    HugePages,
    /// io_uring
    IoUring,
    /// Clock source
    Clock,
}

/// In the order in which they are applied: a card has its queues before each gets a discipline.
const ALL: [&[Setting]; 14] = [
    limits::SETTINGS,
    memory::SETTINGS,
    accept::SETTINGS,
    hashes::SETTINGS,
    ports::SETTINGS,
    conntrack::SETTINGS,
    rto::SETTINGS,
    keepalive::SETTINGS,
    interrupts::SETTINGS,
    congestion::SETTINGS,
    power::SETTINGS,
    huge_pages::SETTINGS,
    io_uring::SETTINGS,
    clock::SETTINGS,
];

/// The settings of these families; of all if none is named.
pub fn settings(only: &[Family]) -> impl Iterator<Item = &'static Setting> {
    let is_chosen = |setting: &&Setting| only.is_empty() || only.contains(&setting.family);
    ALL.into_iter().flatten().filter(is_chosen)
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_what_why_how_and_where_from() {
        for setting in settings(&[]) {
            let name = setting.name;
            for text in [
                setting.what,
                setting.why,
                setting.formula,
                setting.kernels,
                setting.risk,
                setting.undo,
                setting.source,
            ] {
                assert!(!text.is_empty(), "{name}: a text is missing");
            }
            assert!(setting.range.0 <= setting.range.1, "{name}");
        }
        let names: std::collections::BTreeSet<_> = settings(&[]).map(|s| s.name).collect();
        assert_eq!(names.len(), settings(&[]).count(), "a name is used twice");
    }
}
