//! Interrupts as `/proc/interrupts` counts them, and softirq work as `/proc/softirqs` and
//! `/proc/stat` count it, per CPU.
//!
//! The first line names the CPUs that are online; a row is a number, one count for each of them, the
//! interrupt controller, and the names of the drivers. See Documentation/filesystems/proc.rst.

use std::collections::{BTreeMap, BTreeSet};

use crate::cpus::CpuSet;
use crate::host::Host;

/// One interrupt line with a number; those of the CPU itself (timer, rescheduling) have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub number: u32,
    /// The driver's name of it, such as `eth0-TxRx-3`.
    pub name: String,
    pub counts: BTreeMap<u32, u64>,
    /// Where it may go. Empty if the kernel does not say.
    pub affinity: CpuSet,
}

impl Interrupt {
    /// The CPUs' share of the count between two readings.
    pub fn since(&self, earlier: &Interrupt) -> BTreeMap<u32, u64> {
        let before = |cpu: &u32| earlier.counts.get(cpu).copied().unwrap_or(0);
        let grown = |(cpu, count): (&u32, &u64)| (*cpu, grown(*count, before(cpu)));
        self.counts.iter().map(grown).collect()
    }
}

/// Growth of a counter of 32 bits, as the kernel's for interrupts and softirqs are: at 20,000 a second
/// one is full after two and a half days and begins at 0. One that fell from the lower half was not
/// full: its interrupt was taken away and is a new one.
fn grown(now: u64, before: u64) -> u64 {
    const FULL: u64 = 1 << 32;
    match now.checked_sub(before) {
        Some(grown) => grown,
        None if (FULL / 2..FULL).contains(&before) => now + FULL - before,
        None => now,
    }
}

pub fn read_all(host: &Host) -> Vec<Interrupt> {
    let text = host.raw("proc/interrupts").unwrap_or_default();
    let mut interrupts = parse(&text);
    for interrupt in &mut interrupts {
        let path = affinity_path(interrupt.number);
        interrupt.affinity =
            host.text(&path).and_then(|list| CpuSet::from_list(&list)).unwrap_or_default();
    }
    interrupts
}

/// Where the affinity of an interrupt is read and written, as a list.
pub fn affinity_path(number: u32) -> String {
    format!("proc/irq/{number}/smp_affinity_list")
}

fn parse(text: &str) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let cpus = heading(lines.next().unwrap_or(""));
    let row = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let counts = counts(&cpus, &words)?;
        let name = words.get(cpus.len()..)?.last().copied().unwrap_or("").to_owned();
        Some(Interrupt { number, name, counts, affinity: CpuSet::default() })
    };
    lines.filter_map(row).collect()
}

fn heading(line: &str) -> Vec<u32> {
    line.split_whitespace().filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect()
}

fn counts(cpus: &[u32], words: &[&str]) -> Option<BTreeMap<u32, u64>> {
    let count = |(cpu, word): (&u32, &&str)| Some((*cpu, word.parse().ok()?));
    let counts: Option<BTreeMap<u32, u64>> = cpus.iter().zip(words).map(count).collect();
    counts.filter(|counts| counts.len() == cpus.len())
}

/// Interrupt and network work of each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuWork {
    /// Runs of the softirqs NET_RX and NET_TX.
    pub net_rx: u64,
    pub net_tx: u64,
    /// Time in softirqs and in interrupts, in ticks of 10 ms (USER_HZ), and all time.
    pub softirq_ticks: u64,
    pub interrupt_ticks: u64,
    pub total_ticks: u64,
}

impl CpuWork {
    pub fn since(&self, earlier: &CpuWork) -> CpuWork {
        CpuWork {
            net_rx: grown(self.net_rx, earlier.net_rx),
            net_tx: grown(self.net_tx, earlier.net_tx),
            softirq_ticks: self.softirq_ticks.saturating_sub(earlier.softirq_ticks),
            interrupt_ticks: self.interrupt_ticks.saturating_sub(earlier.interrupt_ticks),
            total_ticks: self.total_ticks.saturating_sub(earlier.total_ticks),
        }
    }
}

pub fn read_work(host: &Host) -> BTreeMap<u32, CpuWork> {
    let mut work: BTreeMap<u32, CpuWork> = BTreeMap::new();
    let softirqs = host.raw("proc/softirqs").unwrap_or_default();
    let cpus = heading(softirqs.lines().next().unwrap_or(""));
    for line in softirqs.lines().skip(1) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        for (cpu, count) in counts(&cpus, &words).unwrap_or_default() {
            let row = work.entry(cpu).or_default();
            match name.trim() {
                "NET_RX" => row.net_rx = count,
                "NET_TX" => row.net_tx = count,
                _ => {}
            }
        }
    }
    let mut online = BTreeSet::new();
    for line in host.raw("proc/stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        let Some(cpu) = name.strip_prefix("cpu").and_then(|cpu| cpu.parse().ok()) else { continue };
        // user nice system idle iowait irq softirq steal; guest time is within user time.
        let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).take(8).collect();
        let row = work.entry(cpu).or_default();
        row.interrupt_ticks = ticks.get(5).copied().unwrap_or(0);
        row.softirq_ticks = ticks.get(6).copied().unwrap_or(0);
        row.total_ticks = ticks.iter().sum();
        online.insert(cpu);
    }
    // Softirqs are listed for each CPU that there could ever be.
    work.retain(|cpu, _| online.is_empty() || online.contains(cpu));
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_a_number_are_interrupts() {
        let text = "            CPU0       CPU2       \n \
                    41:      23724          1 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx\n \
                    42:          0          7 IR-PCI-MSI 524289-edge      eth0-TxRx-0\n\
                    NMI:          0          0   Non-maskable interrupts\n\
                    ERR:          0\n";
        let rows = parse(text);
        let names: Vec<(u32, &str)> =
            rows.iter().map(|row| (row.number, row.name.as_str())).collect();
        assert_eq!(names, [(41, "virtio3-rx"), (42, "eth0-TxRx-0")]);
        assert_eq!(rows[0].counts, BTreeMap::from([(0, 23724), (2, 1)]));
        assert_eq!(rows[0].since(&rows[1]), BTreeMap::from([(0, 23724), (2, 1)]));
        assert!(parse("").is_empty());
    }

    #[test]
    fn softirq_work_is_counted_per_cpu() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::at(folder.path());
        host.write_file(
            "proc/softirqs",
            "CPU0 CPU1 CPU2\n HI: 1 2 0\n NET_TX: 3 4 0\n NET_RX: 50 60 0\n",
        )
        .unwrap();
        host.write_file("proc/stat", "cpu 1 1\ncpu0 1\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 5\n")
            .unwrap();
        let work = read_work(&host);
        assert_eq!((work[&0].net_rx, work[&1].net_tx), (50, 4));
        assert_eq!((work[&1].softirq_ticks, work[&1].total_ticks), (7, 36));
        assert_eq!(work[&1].since(&work[&0]).net_rx, 10);
        assert_eq!(work.len(), 2, "a CPU that could be plugged in is not there");
    }

    #[test]
    fn counters_of_32_bits_begin_anew_and_so_do_those_of_a_new_interrupt() {
        const FULL: u64 = 1 << 32;
        assert_eq!(grown(30, 10), 20);
        assert_eq!(grown(5, FULL - 10), 15, "it was full");
        assert_eq!(grown(0, FULL / 2), FULL / 2);
        assert_eq!(grown(5, FULL / 2 - 1), 5, "it is a new one");
        assert_eq!(grown(5, FULL), 5, "what is wider does not wrap there");
    }
}
