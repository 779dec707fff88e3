//! Network cards: queues, channels, and which interrupts are whose.
//!
//! A card is an interface with a device behind it; loopback, veth and TUN are not. Which interrupts
//! belong to its queues is not written anywhere in one place: the PCI device lists its interrupts in
//! `msi_irqs`, and drivers name them (`eth0-TxRx-3`, `i40e-eth0-TxRx-3`, `mlx5_comp3@pci:...`,
//! `virtio2-input.0`). A queue's interrupt ends in the queue's number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::host::Host;
use crate::interrupt::Interrupt;

/// How many queues a card shares between receiving and sending, and could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    pub combined: u32,
    pub combined_max: u32,
}

/// How long a card gathers packets before it interrupts. As text in the words of ethtool(8):
/// `adaptive-rx on`, `adaptive-rx off rx-usecs 8`, or `rx-usecs 8` for a card that cannot adapt. One
/// that adapts changes its time by itself, so that is not in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// `None` for a card that cannot adapt.
    pub adaptive_rx: Option<bool>,
    pub rx_usecs: u32,
}

impl Coalescing {
    pub fn parse(text: &str) -> Option<Coalescing> {
        let (mut adaptive_rx, mut rx_usecs) = (None, 0);
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            match (word, words.next()?) {
                ("adaptive-rx", on) => adaptive_rx = Some(on == "on"),
                ("rx-usecs", usecs) => rx_usecs = usecs.parse().ok()?,
                _ => return None,
            }
        }
        Some(Coalescing { adaptive_rx, rx_usecs })
    }
}

impl fmt::Display for Coalescing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.adaptive_rx {
            Some(true) => f.write_str("adaptive-rx on"),
            Some(false) => write!(f, "adaptive-rx off rx-usecs {}", self.rx_usecs),
            None => write!(f, "rx-usecs {}", self.rx_usecs),
        }
    }
}

/// What ethtool says of a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    pub channels: Option<Channels>,
    pub coalescing: Option<Coalescing>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub name: String,
    /// The NUMA node it is attached to, where the machine says so.
    pub node: Option<u32>,
    pub rx_queues: u32,
    pub tx_queues: u32,
    pub abilities: Abilities,
    /// Numbers of the queues' interrupts, in the order of the queues.
    pub interrupts: Vec<u32>,
    /// For each of them which queue it is of, counted from 0: those of one queue for receiving and for
    /// sending have the same.
    pub turns: Vec<usize>,
}

const FOLDER: &str = "sys/class/net";

/// The interrupts that a card has beside those of its queues.
const NOT_A_QUEUE: [&str; 9] =
    ["async", "config", "mgmt", "ctrl", "misc", "event", "fdir", "Mailbox", "pages"];

pub fn read_all(
    host: &Host,
    interrupts: &[Interrupt],
    abilities: &BTreeMap<String, Abilities>,
) -> Vec<Nic> {
    let names = host.names(FOLDER).into_iter();
    let names = names.filter(|name| host.has(&format!("{FOLDER}/{name}/device")));
    let mut cards: Vec<Nic> = names.map(|name| read(host, &name, abilities)).collect();
    // The ports of a card can share one PCI device, which then lists the interrupts of all of them: an
    // interrupt is of the port that its name has, else of the first port, and never of two.
    let named: Vec<Vec<&Interrupt>> = cards
        .iter()
        .map(|card| interrupts.iter().filter(|one| is_named(host, &card.name, one)).collect())
        .collect();
    let mut taken: BTreeSet<u32> = named.iter().flatten().map(|one| one.number).collect();
    for (card, mut ours) in cards.iter_mut().zip(named) {
        let listed = host.names(&format!("{FOLDER}/{}/device/msi_irqs", card.name));
        let listed: BTreeSet<u32> =
            listed.iter().filter_map(|number| number.parse().ok()).collect();
        let free = interrupts.iter().filter(|one| listed.contains(&one.number));
        ours.extend(free.filter(|one| taken.insert(one.number)));
        (card.interrupts, card.turns) = of_queues(ours);
    }
    cards
}

fn read(host: &Host, name: &str, abilities: &BTreeMap<String, Abilities>) -> Nic {
    let queues = host.names(&format!("{FOLDER}/{name}/queues"));
    let count = |prefix| queues.iter().filter(|queue| queue.starts_with(prefix)).count() as u32;
    Nic {
        name: name.to_owned(),
        // The kernel says -1 where the firmware does not know.
        node: host.number(&format!("{FOLDER}/{name}/device/numa_node")).map(|node| node as u32),
        rx_queues: count("rx-"),
        tx_queues: count("tx-"),
        abilities: abilities.get(name).copied().unwrap_or_default(),
        interrupts: Vec::new(),
        turns: Vec::new(),
    }
}

fn is_named(host: &Host, name: &str, interrupt: &Interrupt) -> bool {
    // A virtio device is named by its own number, and its interrupts belong to the PCI device above.
    let device = host.link_name(&format!("{FOLDER}/{name}/device"));
    let virtio = device.filter(|device| device.starts_with("virtio"));
    let mut parts = interrupt.name.split(['-', '@', ':']);
    parts.any(|part| part == name || virtio.as_deref().is_some_and(|device| part == device))
}

/// The numbers of those that are queues' in the order of the queues, and the turn of each queue.
fn of_queues(ours: Vec<&Interrupt>) -> (Vec<u32>, Vec<usize>) {
    let with_queue = |one: &Interrupt| Some((queue_of(&one.name)?, one.number));
    let mut ours: Vec<(u32, u32)> = ours.into_iter().filter_map(with_queue).collect();
    ours.sort_unstable();
    let queues: BTreeSet<u32> = ours.iter().map(|(queue, _)| *queue).collect();
    let turns = ours.iter().map(|(queue, _)| queues.range(..queue).count()).collect();
    (ours.into_iter().map(|(_, number)| number).collect(), turns)
}

/// The queue in the name of an interrupt, or `None` for one that is not a queue's.
fn queue_of(name: &str) -> Option<u32> {
    let name = name.split('@').next()?;
    if NOT_A_QUEUE.iter().any(|word| name.contains(word)) {
        return None;
    }
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let has_prefix = name.contains(['-', '_', '.']);
    (digits > 0 && has_prefix).then(|| name[name.len() - digits..].parse().ok())?
}

/// VIRTIO_NET_F_NOTF_COAL of the virtio specification, 5.1.3: without it the driver shows a time and
/// does not take one.
const VIRTIO_COALESCES_BIT: usize = 53;

/// Whether a card that shows its coalescing would let it be set.
pub fn can_coalesce(host: &Host, name: &str) -> bool {
    // Only virtio devices list their features, as one character for each bit.
    let features = host.text(&format!("{FOLDER}/{name}/device/features"));
    features.is_none_or(|bits| bits.as_bytes().get(VIRTIO_COALESCES_BIT) == Some(&b'1'))
}

/// Where a fixture has what ethtool would say.
pub fn fixture_coalescing(nic: &str) -> String {
    format!("ethtool/{nic}/coalescing")
}

/// The CPUs that a queue's packets may be handed to, or that send through it.
pub fn steering_path(nic: &str, queue: &str, which: &str) -> String {
    format!("{FOLDER}/{nic}/queues/{queue}/{which}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coalescing_is_written_in_the_words_of_ethtool() {
        for text in ["adaptive-rx on", "adaptive-rx off rx-usecs 8", "rx-usecs 0"] {
            assert_eq!(Coalescing::parse(text).unwrap().to_string(), text);
        }
        for text in ["rx-usecs", "rx-usecs many", "tx-usecs 8", "adaptive-rx on rx-usecs -1"] {
            assert_eq!(Coalescing::parse(text), None, "{text}");
        }
    }

    #[test]
    fn drivers_name_the_queue_last() {
        for (name, queue) in [
            ("eth0-TxRx-13", Some(13)),
            ("i40e-eth0-TxRx-3", Some(3)),
            ("mlx5_comp7@pci:0000:41:00.0", Some(7)),
            ("virtio2-input.0", Some(0)),
            ("mlx5_async0@pci:0000:41:00.0", None),
            ("virtio2-config", None),
            ("ena-mgmnt@pci:0000:00:05.0", None),
            ("i40e-0000:3b:00.0:fdir-TxRx-0", None),
            ("idpf-Mailbox-0", None),
            ("eth0", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }
}
