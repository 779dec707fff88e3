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
//! only if each shard's processor receives: RPS hands packets to it, or a receive queue without RPS
//! interrupts it, and there are as many of those queues as shards that RPS does not reach. And since
//! cards spread by hashes of their own, and anybody may move an interrupt later, it
//! rests while the fullest shard is more than [`EXCESS_PART`] of its limit above the mean, or full: what
//! it can cost in capacity is bounded by that, whatever the card does.
//!
//! Limit: the shards are looked at every [`LOOK_MS`], and what connects meanwhile may exceed the bound.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::io::socket;

/// The fullest shard may be above the mean by its limit divided by this; steering returns at half.
const EXCESS_PART: u64 = 32;

/// How often the shards are looked at. When 8,000 devices came at once from one receive queue, 13,000 a
/// second over loopback, to two shards with room for 4,000 each, 820 of them were refused with a look
/// every 100 ms, because one shard was full long before the other, and 90-231 with one every 10 ms.
pub const LOOK_MS: u64 = 10;

/// No kernel has more processors.
const PROCESSORS_MAX: usize = 8_192;

/// Before, a group's member was chosen by hash whatever its number.
const STEERS_SINCE: (u32, u32) = (6, 2);

/// In the names of the interrupts that a card has beside those of its queues.
const NOT_A_QUEUE: [&str; 6] = ["async", "config", "mgm", "ctrl", "misc", "event"];

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

/// Whether no shard is full or too far above the mean. It takes less to go on than to begin again.
fn is_balanced(connections: &[u64], max: u64, is_on: bool) -> bool {
    let mean = connections.iter().sum::<u64>() / (connections.len() as u64).max(1);
    let fullest = connections.iter().max().copied().unwrap_or(0);
    let half = max / EXCESS_PART / 2;
    let (excess_max, room_min) = if is_on { (max / EXCESS_PART, 1) } else { (half, half.max(1)) };
    fullest - mean <= excess_max && fullest + room_min <= max
}

/// Why connections are not to be steered to these processors, or `None` if they are. `root` is the
/// machine's, or a tree of files that is one.
pub fn why_not(steer: Steer, root: &Path, processors: &[usize]) -> Option<String> {
    match steer {
        Steer::Off => Some("steer_connections is off".to_owned()),
        Steer::Auto | Steer::On if is_too_old(&text(&root.join("proc/sys/kernel/osrelease"))) => {
            Some("choosing a listener by processor needs Linux 6.2".to_owned())
        }
        Steer::Auto => unserved(root, processors),
        Steer::On => None,
    }
}

/// Whether a kernel's release, such as `6.1.0-28-amd64`, is below the one that steers.
fn is_too_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < STEERS_SINCE,
        _ => false,
    }
}

/// What keeps the cards from serving these processors, or `None` if all are served.
fn unserved(root: &Path, processors: &[usize]) -> Option<String> {
    let cards = Cards::read(root);
    let left: Vec<usize> =
        processors.iter().copied().filter(|it| !cards.handed_to.contains(it)).collect();
    let first = left.first()?;
    if cards.queues < left.len() {
        return Some(match cards.handed_to.is_empty() {
            true => format!(
                "network cards have {} receive queues for {} shards",
                cards.queues,
                left.len()
            ),
            false => format!("RPS hands no packets to processor {first}"),
        });
    }
    let processor = left.iter().find(|&it| !cards.interrupted.contains(it))?;
    Some(format!("no receive interrupt of a network card goes to processor {processor}"))
}

/// What the network cards of a machine do with what they receive. An interface is a card if there is
/// a device behind it; those of a container are not.
#[derive(Debug, Default)]
struct Cards {
    /// Receive queues whose packets stay where they interrupted.
    queues: usize,
    /// The processors that the interrupts of cards with such a queue go to now.
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
            if card.join("device").exists() && text(&card.join("operstate")) != "down" {
                cards.add(root, &card);
            }
        }
        cards
    }

    fn add(&mut self, root: &Path, card: &Path) {
        let mut staying = 0;
        let queues = names(&card.join("queues")).into_iter();
        for queue in queues.filter(|queue| queue.starts_with("rx-")) {
            let mask = text(&card.join("queues").join(queue).join("rps_cpus"));
            let handed_to = from_mask(&mask);
            staying += usize::from(handed_to.is_empty());
            self.handed_to.extend(handed_to);
        }
        self.queues += staying;
        if staying == 0 {
            return;
        }
        for interrupt in names(&msi_interrupts(card)) {
            let interrupt = root.join("proc/irq").join(interrupt);
            if receives(&interrupt) {
                self.interrupted
                    .extend(from_list(&text(&interrupt.join("effective_affinity_list"))));
            }
        }
    }
}

/// The folder with a card's interrupts. A virtio device's are those of the PCI device above it; above
/// any other is a bridge, which has some of its own.
fn msi_interrupts(card: &Path) -> PathBuf {
    let device = card.join("device");
    let real = fs::canonicalize(&device).unwrap_or_default();
    let is_virtio = real.file_name().is_some_and(|it| it.to_string_lossy().starts_with("virtio"));
    device.join(if is_virtio { "../msi_irqs" } else { "msi_irqs" })
}

/// Whether an interrupt may be that of a receive queue. Who takes it is a folder there: `eth0-TxRx-3`,
/// `virtio2-input.0`, but not `virtio2-output.0` or `mlx5_async0@pci:0000:01:00.0`.
fn receives(interrupt: &Path) -> bool {
    let is_other = |name: &String| {
        let name = name.to_ascii_lowercase();
        let sends = name.contains("output") || name.contains("tx") && !name.contains("rx");
        sends || NOT_A_QUEUE.iter().any(|word| name.contains(word))
    };
    let takers = names(interrupt).into_iter().filter(|name| interrupt.join(name).is_dir());
    let takers: Vec<String> = takers.collect();
    takers.is_empty() || !takers.iter().all(is_other)
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
        check(&[3_199, 3_199, 3_199, 3_000], 3_200, true, true);
        check(&[3_199, 3_000, 3_000, 3_000], 3_200, true, false);
        // A full one leaves room to others only while it rests.
        check(&[3_200, 3_200, 3_200, 3_000], 3_200, true, false);
        check(&[3_151, 3_151], 3_200, false, false);
        check(&[3_150, 3_150], 3_200, false, true);
        check(&[1, 1], 1, false, false);
        check(&[0, 0], 1, false, true);
        check(&[1, 0], 10, true, false);
    }

    /// A tree of files that is a machine, and goes with the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Machine {
            let name = format!("hawser-steering-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            // What a process of the same id left when it was killed.
            let _left = fs::remove_dir_all(&root);
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
        let other = "no receive interrupt of a network card goes to processor 2";
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
        assert_eq!(machine.why_not(&[0, 33]), "RPS hands no packets to processor 0");
        machine.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "00000002,00000001");
        assert_eq!(machine.why_not(&[0, 33]), "");
    }

    #[test]
    fn what_rps_takes_away_is_not_received_where_it_interrupts() {
        let machine = Machine::new("rps takes away").with_card("eth0", 40, &["0", "1"]);
        let rps = |queue: &str, mask: &str| {
            machine.write(&format!("sys/class/net/eth0/queues/{queue}/rps_cpus"), mask);
        };
        // All packets of both queues go to processor 1.
        rps("rx-0", "2");
        rps("rx-1", "2");
        assert_eq!(machine.why_not(&[0, 1]), "RPS hands no packets to processor 0");
        // The second queue may be the one that interrupts processor 0.
        rps("rx-1", "0");
        assert_eq!(machine.why_not(&[0, 1]), "");
        let few = "RPS hands no packets to processor 0";
        assert_eq!(machine.why_not(&[0, 2, 1]), few);
    }

    /// A card below a device with two interrupts.
    fn below(device: &str, takers: [&str; 2]) -> Machine {
        let machine = Machine::new(&format!("below {device} {}", takers.join(" ")));
        for (interrupt, (affinity, taker)) in ["37", "38"].iter().zip(["1", "0"].iter().zip(takers))
        {
            machine.write(&format!("sys/devices/pci/msi_irqs/{interrupt}"), "msix");
            machine.write(&format!("proc/irq/{interrupt}/effective_affinity_list"), affinity);
            fs::create_dir_all(machine.0.join("proc/irq").join(interrupt).join(taker)).unwrap();
        }
        let card = format!("sys/devices/pci/{device}/net/eth0");
        for queue in ["rx-0", "rx-1"] {
            machine.write(&format!("{card}/queues/{queue}/rps_cpus"), "0");
        }
        symlink("../..", machine.0.join(&card).join("device")).unwrap();
        let interface = format!("../../devices/pci/{device}/net/eth0");
        symlink(interface, machine.0.join("sys/class/net/eth0")).unwrap();
        machine
    }

    #[test]
    fn a_virtio_card_has_the_interrupts_of_the_device_above() {
        let machine = below("virtio2", ["virtio2-input.0", "virtio2-input.1"]);
        assert_eq!(machine.why_not(&[0, 1]), "");
        // Above any other card is a bridge.
        let machine = below("0000:01:00.0", ["PCIe PME", "aerdrv"]);
        let none = "no receive interrupt of a network card goes to processor 0";
        assert_eq!(machine.why_not(&[0, 1]), none);
    }

    #[test]
    fn an_interrupt_that_is_not_for_receiving_serves_nobody() {
        let sending = "no receive interrupt of a network card goes to processor 0";
        for (other, expect) in [
            ("virtio2-output.0", sending),
            ("virtio2-config", sending),
            ("eth0-tx-1", sending),
            ("mlx5_async0@pci:0000:01:00.0", sending),
            ("eth0-TxRx-1", ""),
            ("mlx5_comp1@pci:0000:01:00.0", ""),
        ] {
            let machine = below("virtio2", ["virtio2-input.0", other]);
            assert_eq!(machine.why_not(&[0, 1]), expect, "{other}");
        }
    }

    #[test]
    fn a_kernel_that_chooses_by_hash_alone_is_told() {
        let machine = Machine::new("kernel").with_card("eth0", 40, &["0", "1"]);
        let old = "choosing a listener by processor needs Linux 6.2";
        for (release, expect) in [
            ("6.1.0-28-amd64", Some(old)),
            ("5.19.17", Some(old)),
            ("6.2.0", None),
            ("6.18.44-fc-v595", None),
            ("7.0-rc1", None),
            ("what", None),
        ] {
            machine.write("proc/sys/kernel/osrelease", release);
            for steer in [Steer::Auto, Steer::On] {
                let why_not = why_not(steer, &machine.0, &[0, 1]);
                assert_eq!(why_not.as_deref(), expect, "{steer:?} on {release}");
            }
        }
        assert!(why_not(Steer::Off, &machine.0, &[0, 1]).is_some());
        // "on" does not ask for the cards.
        assert_eq!(why_not(Steer::On, Path::new("/nowhere"), &[0, 1]), None);
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
