//! Which shard gets a connection: the one on whose processor its packets are received.
//!
//! ```text
//!   card ──interrupt──▶ processor 3: softirq, TCP ──▶ the group's listener whose number is 3 ──▶ shard 3
//!                                                     none has it: by a hash, as without steering
//! ```
//!
//! Without it a hash spreads connections, and of n shards only every nth connection has its softirqs, its
//! socket and its shard on one processor; for the others one processor wakes another. SO_INCOMING_CPU on
//! each shard's listener makes the kernel prefer, within the SO_REUSEPORT group, the one whose number is
//! the processor that handles the first packet (net/core/sock_reuseport.c, Linux 6.2; before, it changes
//! nothing). A BPF program on the group could do the same, but by places in the group, which move when
//! one shard closes its listener before the others.
//!
//! Measured over loopback on two processors, heartbeats of 1,000 connections from a thread on each, six
//! rounds by turns on a machine with other work: 165,000-174,000/s at 5.1-5.3 us of the broker's processor
//! time with steering, 97,000-148,000/s at 5.6-6.0 us without.
//!
//! It is not always right: a card with one queue would give everything to one shard. So `auto` begins
//! only if cards have a receive queue for each shard and interrupts on each shard's processor, or RPS
//! does that. And since cards spread by hashes of their own, and anybody may move an interrupt later, it
//! rests while the fullest shard is more than [`EXCESS_PART`] of its limit above the mean: what it can
//! cost in capacity is bounded by that, whatever the card does.
//!
//! Limit: the shards are looked at in each round of the main thread, so what connects within a round may
//! exceed the bound.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::io::socket;

/// The fullest shard may be above the mean by its limit divided by this; steering returns at half.
const EXCESS_PART: u64 = 32;

/// No kernel has more processors.
const PROCESSORS_MAX: usize = 8_192;

/// The setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// If the cards serve each shard's processor.
    Auto,
    On,
    Off,
}

/// The listeners of one shard, shared with its thread, and its processor.
struct Steered {
    processor: usize,
    listeners: Vec<Socket>,
}

pub struct Steering {
    shards: Vec<Steered>,
    connections_max_per_shard: u64,
    is_on: bool,
}

impl Steering {
    /// Begins to steer. `listeners[shard]` belong to the shard on `processors[shard]`.
    pub fn start(
        listeners: &[Vec<Socket>],
        processors: &[usize],
        connections_max_per_shard: u32,
    ) -> io::Result<Steering> {
        let mut steering = Steering {
            shards: Vec::new(),
            connections_max_per_shard: connections_max_per_shard.into(),
            is_on: false,
        };
        for (listeners, &processor) in listeners.iter().zip(processors) {
            let listeners = listeners.iter().map(Socket::try_clone).collect::<io::Result<_>>()?;
            steering.shards.push(Steered { processor, listeners });
        }
        steering.set(true)?;
        Ok(steering)
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Rests or goes on, by how many connections each shard has.
    pub fn balance(&mut self, connections: &[u64]) -> io::Result<()> {
        let on = is_balanced(connections, self.connections_max_per_shard, self.is_on);
        if on == self.is_on { Ok(()) } else { self.set(on) }
    }

    fn set(&mut self, on: bool) -> io::Result<()> {
        self.is_on = on;
        for shard in &self.shards {
            for listener in &shard.listeners {
                socket::prefer_processor(listener, on.then_some(shard.processor))?;
            }
        }
        Ok(())
    }
}

/// Whether no shard is too far above the mean. It takes less to go on than to begin again.
fn is_balanced(connections: &[u64], max: u64, is_on: bool) -> bool {
    let mean = connections.iter().sum::<u64>() / (connections.len() as u64).max(1);
    let fullest = connections.iter().max().copied().unwrap_or(0);
    let excess_max = if is_on { max / EXCESS_PART } else { max / EXCESS_PART / 2 };
    fullest - mean <= excess_max
}

/// Why connections are not to be steered to these processors, or `None` if the cards serve all of them.
/// `root` is the machine's, or a tree of files that is one.
pub fn unserved(root: &Path, processors: &[usize]) -> Option<String> {
    let cards = Cards::read(root);
    let lacks =
        |reached: &BTreeSet<usize>| processors.iter().find(|&it| !reached.contains(it)).copied();
    // What RPS hands to all of them needs no queue for each.
    lacks(&cards.handed_to)?;
    if cards.queues < processors.len() {
        return Some(format!(
            "network cards have {} receive queues for {} shards",
            cards.queues,
            processors.len()
        ));
    }
    let processor = lacks(&cards.interrupted)?;
    Some(format!("no interrupt of a network card goes to processor {processor}"))
}

/// What the network cards of a machine do with what they receive. An interface is a card if there is
/// a device behind it; those of a container are not.
#[derive(Debug, Default)]
struct Cards {
    queues: usize,
    /// The processors that their interrupts go to now.
    interrupted: BTreeSet<usize>,
    /// The processors that packets are handed to by RPS.
    handed_to: BTreeSet<usize>,
}

impl Cards {
    fn read(root: &Path) -> Cards {
        let mut cards = Cards::default();
        let interfaces = root.join("sys/class/net");
        for name in names(&interfaces) {
            let card = interfaces.join(name);
            if !card.join("device").exists() || text(&card.join("operstate")) == "down" {
                continue;
            }
            let queues = names(&card.join("queues")).into_iter();
            for queue in queues.filter(|queue| queue.starts_with("rx-")) {
                cards.queues += 1;
                let mask = text(&card.join("queues").join(queue).join("rps_cpus"));
                cards.handed_to.extend(from_mask(&mask));
            }
            // A virtio device's interrupts are those of the PCI device above it.
            for place in ["device/msi_irqs", "device/../msi_irqs"] {
                for interrupt in names(&card.join(place)) {
                    let affinity =
                        root.join("proc/irq").join(interrupt).join("effective_affinity_list");
                    cards.interrupted.extend(from_list(&text(&affinity)));
                }
            }
        }
        cards
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A file's words; nothing if it cannot be read.
fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `0-3,8`.
fn from_list(text: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (last < PROCESSORS_MAX).then_some(first..=last)
    };
    text.split(',').filter_map(part).flatten().collect()
}

/// `1,0000010f`: groups of 32 bits, the last has processor 0.
fn from_mask(text: &str) -> Vec<usize> {
    let mut processors = Vec::new();
    for (group, digits) in text.split(',').rev().take(PROCESSORS_MAX / 32).enumerate() {
        let bits = u32::from_str_radix(digits, 16).unwrap_or(0);
        processors.extend((0..32).filter(|bit| bits & (1 << bit) != 0).map(|bit| group * 32 + bit));
    }
    processors
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_fullest_shard_may_be_a_part_of_its_limit_above_the_mean() {
        let check = |connections: &[u64], max, is_on, expect| {
            assert_eq!(is_balanced(connections, max, is_on), expect, "{connections:?} of {max}");
        };
        check(&[0, 0], 3_200, true, true);
        check(&[200, 0], 3_200, true, true);
        check(&[202, 0], 3_200, true, false);
        // Once it rests, it rests until half of that.
        check(&[102, 0], 3_200, false, false);
        check(&[100, 0], 3_200, false, true);
        check(&[3_200, 3_200, 3_200, 3_000], 3_200, true, true);
        check(&[3_200, 3_000, 3_000, 3_000], 3_200, true, false);
        check(&[1, 0], 10, true, false);
    }

    /// A tree of files that is a machine, and goes with the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Machine {
            let name = format!("hawser-steering-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(root.join("sys/class/net/lo/queues/rx-0")).unwrap();
            Machine(root)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        /// A card with a queue for each affinity, whose interrupts are counted from `first`.
        fn with_card(self, name: &str, first: usize, affinities: &[&str]) -> Machine {
            let card = format!("sys/class/net/{name}");
            self.write(&format!("{card}/operstate"), "up");
            for (queue, affinity) in affinities.iter().enumerate() {
                self.write(&format!("{card}/queues/rx-{queue}/rps_cpus"), "00000000,00000000");
                self.write(&format!("{card}/queues/tx-{queue}/xps_cpus"), "0");
                let interrupt = first + queue;
                self.write(&format!("{card}/device/msi_irqs/{interrupt}"), "msix");
                self.write(&format!("proc/irq/{interrupt}/effective_affinity_list"), affinity);
            }
            self
        }

        fn why_not(&self, processors: &[usize]) -> String {
            unserved(&self.0, processors).unwrap_or_default()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_shard_must_be_served() {
        let machine = Machine::new("two queues").with_card("eth0", 40, &["0", "1"]);
        assert_eq!(machine.why_not(&[0, 1]), "");
        let few = "network cards have 2 receive queues for 3 shards";
        assert_eq!(machine.why_not(&[0, 1, 2]), few);
        let other = "no interrupt of a network card goes to processor 2";
        assert_eq!(machine.why_not(&[1, 2]), other);
        // Another card may serve it, unless it is down.
        let machine = machine.with_card("eth1", 50, &["2-3"]);
        assert_eq!(machine.why_not(&[1, 2, 3]), "");
        machine.write("sys/class/net/eth1/operstate", "down");
        assert_eq!(machine.why_not(&[1, 2]), other);
    }

    #[test]
    fn a_card_with_one_queue_serves_all_if_it_hands_packets_on() {
        let machine = Machine::new("one queue").with_card("eth0", 40, &["0"]);
        let few = "network cards have 1 receive queues for 2 shards";
        assert_eq!(machine.why_not(&[0, 33]), few);
        machine.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000002,00000000");
        assert_eq!(machine.why_not(&[0, 33]), few);
        machine.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000002,00000001");
        assert_eq!(machine.why_not(&[0, 33]), "");
    }

    #[test]
    fn a_virtio_card_has_the_interrupts_of_the_device_above() {
        let machine = Machine::new("virtio");
        for (interrupt, affinity) in [("37", "1"), ("38", "0")] {
            machine.write(&format!("sys/devices/pci/msi_irqs/{interrupt}"), "msix");
            machine.write(&format!("proc/irq/{interrupt}/effective_affinity_list"), affinity);
        }
        let card = "sys/devices/pci/virtio2/net/eth0";
        for queue in ["rx-0", "rx-1"] {
            machine.write(&format!("{card}/queues/{queue}/rps_cpus"), "0");
        }
        symlink("../..", machine.0.join(card).join("device")).unwrap();
        symlink("../../devices/pci/virtio2/net/eth0", machine.0.join("sys/class/net/eth0"))
            .unwrap();
        assert_eq!(machine.why_not(&[0, 1]), "");
    }

    #[test]
    fn without_a_card_nobody_is_steered() {
        let machine = Machine::new("container");
        machine.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "");
        let none = "network cards have 0 receive queues for 2 shards";
        assert_eq!(machine.why_not(&[0, 1]), none);
        let nowhere = unserved(Path::new("/nowhere"), &[0, 1]);
        assert_eq!(nowhere.as_deref(), Some(none));
    }

    #[test]
    fn the_kernels_notations() {
        assert_eq!(from_list("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(from_mask("1,0000010f"), [0, 1, 2, 3, 8, 32]);
        for wrong in ["", "x", "3-", "9-2", "0-8192"] {
            assert!(from_list(wrong).is_empty(), "{wrong}");
        }
        assert!(from_mask("").is_empty() && from_mask("xyz").is_empty());
        assert_eq!(from_list("8191"), [8191]);
    }
}
