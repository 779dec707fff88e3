//! What the kernel does on each CPU beside the shard that is pinned there: interrupts, and the softirqs
//! of the network, in which packets of devices are received before a shard hears of them.
//!
//! ```text
//!   /proc/interrupts  rows with a number: those of devices      ─┐
//!   /proc/softirqs    runs of NET_RX and NET_TX                  ├─▶ one line per CPU at /metrics
//!   /proc/stat        time in softirqs and interrupts, in ticks ─┘
//! ```
//!
//! The files are read at the start and when a page is asked for; their form is that of
//! Documentation/filesystems/proc.rst. In a container one may be missing, empty or forbidden: what it
//! would have said is then missing on the page, and nothing else is.
//!
//! Invariant: a sum never goes backwards. The kernel counts each interrupt in 32 bits, and a driver that
//! changes its queues takes the rows of the old ones away, so what is summed is what was added to each
//! row since the last look, from the start of the process on. A count that is not summed may wrap: to who
//! takes rates that is a counter that began again.
//!
//! Limit: [`FILE_BYTES_MAX`]. A longer file says nothing, because half of it would look like rows that
//! went away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::metrics::{Kind, put_head};

/// 1,024 CPUs with 1,400 interrupts.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// No kernel has more.
const CPUS_MAX: usize = 8_192;

/// A tick of /proc/stat: USER_HZ is 100 on every architecture that the broker runs on.
const TICK_MS: u64 = 10;

/// What is known of a CPU since the boot, interrupts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work {
    interrupts: Option<u64>,
    net_rx: Option<u64>,
    net_tx: Option<u64>,
    softirq_ms: Option<u64>,
    interrupt_ms: Option<u64>,
}

struct Series {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    value: fn(&Work) -> Option<u64>,
}

const SOFTIRQS: &str = "hawser_broker_cpu_softirqs_total";
const SOFTIRQS_HELP: &str =
    "Runs of the network's softirqs on a CPU: packets received, and packets sent and freed";

/// Those of one name stand together.
const SERIES: [Series; 5] = [
    Series {
        name: "hawser_broker_cpu_interrupts_total",
        help: "Interrupts with a number, which are those of devices, by the CPU that took them",
        label: "",
        value: |work| work.interrupts,
    },
    Series {
        name: SOFTIRQS,
        help: SOFTIRQS_HELP,
        label: ",softirq=\"net_rx\"",
        value: |work| work.net_rx,
    },
    Series {
        name: SOFTIRQS,
        help: SOFTIRQS_HELP,
        label: ",softirq=\"net_tx\"",
        value: |work| work.net_tx,
    },
    Series {
        name: "hawser_broker_cpu_softirq_ms_total",
        help: "Time of a CPU in softirqs, all kinds",
        label: "",
        value: |work| work.softirq_ms,
    },
    Series {
        name: "hawser_broker_cpu_interrupt_ms_total",
        help: "Time of a CPU in interrupts, softirqs excluded",
        label: "",
        value: |work| work.interrupt_ms,
    },
];

/// The CPUs of a machine, and what was seen of their interrupts.
pub struct Cpus {
    /// `/`, or a tree of files that is a machine.
    root: PathBuf,
    /// The CPU of each shard; CPUs without one have no label for it.
    pinned: Vec<usize>,
    interrupts: Interrupts,
}

impl Cpus {
    /// Interrupts count from now on.
    pub fn new(root: &Path, pinned: Vec<usize>) -> Cpus {
        let interrupts = Interrupts::default();
        let mut cpus = Cpus { root: root.to_owned(), pinned, interrupts };
        cpus.interrupts.look(&cpus.file("interrupts"));
        cpus.interrupts.sums.values_mut().for_each(|sum| *sum = 0);
        cpus
    }

    /// Puts the lines of each CPU on a page.
    pub fn put(&mut self, page: &mut String) {
        let cpus = self.read();
        let mut last = "";
        for &Series { name, help, label, value } in &SERIES {
            if name != last {
                last = name;
                put_head(page, name, help, Kind::Counter);
            }
            for (cpu, work) in &cpus {
                let Some(value) = value(work) else { continue };
                let shard = self.pinned.iter().position(|pinned| pinned == cpu);
                let shard = shard.map_or(String::new(), |shard| format!(",shard=\"{shard}\""));
                // Writing to a string does not fail.
                let _ = writeln!(page, "{name}{{cpu=\"{cpu}\"{shard}{label}}} {value}");
            }
        }
    }

    /// Everything that the files say now, by CPU.
    fn read(&mut self) -> BTreeMap<usize, Work> {
        let (interrupts, softirqs) = (self.file("interrupts"), self.file("softirqs"));
        let mut cpus: BTreeMap<usize, Work> = BTreeMap::new();
        add_times(&self.file("stat"), &mut cpus);
        let online: Vec<usize> = cpus.keys().copied().collect();
        for cpu in self.interrupts.look(&interrupts) {
            cpus.entry(cpu).or_default().interrupts = self.interrupts.sums.get(&cpu).copied();
        }
        rows(&softirqs, |name, cpu, count| {
            let work = cpus.entry(cpu).or_default();
            match name {
                "NET_RX" => work.net_rx = Some(count),
                "NET_TX" => work.net_tx = Some(count),
                _ => {}
            }
        });
        // Softirqs are listed for CPUs, too, that are not there but could be.
        if !online.is_empty() {
            cpus.retain(|cpu, _| online.contains(cpu));
        }
        cpus
    }

    fn file(&self, name: &str) -> String {
        text(&self.root.join("proc").join(name), FILE_BYTES_MAX).unwrap_or_default()
    }
}

/// What came of the interrupts that have a number.
#[derive(Default)]
struct Interrupts {
    /// By interrupt and CPU, what the kernel said last.
    last: BTreeMap<u32, Vec<u32>>,
    /// By CPU, everything that was added between two looks.
    sums: BTreeMap<usize, u64>,
}

impl Interrupts {
    /// Takes the file's text in, and tells which CPUs it has. One that says nothing changes nothing.
    fn look(&mut self, text: &str) -> BTreeSet<usize> {
        let mut seen = BTreeSet::new();
        let mut cpus = BTreeSet::new();
        rows(text, |name, cpu, count| {
            let (Ok(interrupt), Ok(count)) = (name.parse(), u32::try_from(count)) else { return };
            seen.insert(interrupt);
            cpus.insert(cpu);
            let last = self.last.entry(interrupt).or_default();
            if last.len() <= cpu {
                last.resize(cpu + 1, 0);
            }
            *self.sums.entry(cpu).or_default() += u64::from(added(last[cpu], count));
            last[cpu] = count;
        });
        if !seen.is_empty() {
            self.last.retain(|interrupt, _| seen.contains(interrupt));
        }
        cpus
    }
}

/// How much a count of 32 bits grew. One that fell by at most half of the range belongs to another
/// interrupt, which was given the same number and began at 0.
fn added(last: u32, now: u32) -> u32 {
    let grown = now.wrapping_sub(last);
    if now < last && grown > u32::MAX / 2 { now } else { grown }
}

/// A file as text, unless it cannot be read or is larger than `bytes_max`.
fn text(path: &Path, bytes_max: u64) -> Option<String> {
    let mut text = String::new();
    let count = File::open(path).ok()?.take(bytes_max + 1).read_to_string(&mut text).ok()?;
    (count as u64 <= bytes_max).then_some(text)
}

/// Takes each count of a table: the first line names the CPUs; a row is a name, a colon, a count for each
/// CPU, and words.
fn rows(text: &str, mut take: impl FnMut(&str, usize, u64)) {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default().split_whitespace();
    let columns: Vec<usize> = heading
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
        .filter(|&cpu| cpu < CPUS_MAX)
        .collect();
    for line in lines {
        let Some((name, rest)) = line.split_once(':') else { continue };
        for (cpu, word) in columns.iter().zip(rest.split_whitespace()) {
            // A row of one count for all CPUs ends in words.
            let Ok(count) = word.parse() else { break };
            take(name.trim(), *cpu, count);
        }
    }
}

/// `cpu3 user nice system idle iowait irq softirq ...`, in ticks.
fn add_times(text: &str, cpus: &mut BTreeMap<usize, Work>) {
    for line in text.lines() {
        let Some((cpu, times)) = line.strip_prefix("cpu").and_then(|line| line.split_once(' '))
        else {
            // The CPUs stand first.
            break;
        };
        // The first line, without a number, is the sum.
        let Ok(cpu) = cpu.parse() else { continue };
        let mut times =
            times.split_whitespace().skip(5).map_while(|ticks| ticks.parse::<u64>().ok());
        let work = cpus.entry(cpu).or_default();
        work.interrupt_ms = times.next().map(|ticks| ticks * TICK_MS);
        work.softirq_ms = times.next().map(|ticks| ticks * TICK_MS);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A tree of files that is a machine, and goes with the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str, files: &[(&str, &str)]) -> Machine {
            let name = format!("hawser-cpus-{}-{name}", std::process::id());
            let machine = Machine(std::env::temp_dir().join(name));
            // What a process of the same id left when it was killed.
            let _left = fs::remove_dir_all(&machine.0);
            fs::create_dir_all(machine.0.join("proc")).unwrap();
            files.iter().for_each(|(file, text)| machine.write(file, text));
            machine
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.0.join("proc").join(file), text).unwrap();
        }
    }

    fn samples(cpus: &mut Cpus) -> Vec<String> {
        let mut page = String::new();
        cpus.put(&mut page);
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    const INTERRUPTS: &str = "            CPU0       CPU2       \n \
         41:      23724          1 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx\n \
         42:          6          7 IR-PCI-MSI 524289-edge      eth0-TxRx-0\n\
        NMI:          9          9   Non-maskable interrupts\n\
        ERR:          3\n";
    const SOFTIRQ_ROWS: &str = "        CPU0  CPU1  CPU2\n\
        HI:  1  1  1\n  NET_TX:  3  0  4\n  NET_RX:  50  0  60\n";
    const STAT: &str = "cpu  3 3 3 3 3 9 11 0 0 0\n\
        cpu0 1 1 1 1 1 4 5 0 0 0\n\
        cpu2 2 2 2 2 2 5 6 0 0 0\n\
        intr 5 0 0\ncpu9 1 1 1 1 1 1 1\n";

    #[test]
    fn each_cpu_has_its_lines_beside_its_shard() {
        let files = [("interrupts", INTERRUPTS), ("softirqs", SOFTIRQ_ROWS), ("stat", STAT)];
        let machine = Machine::new("whole", &files);
        let mut cpus = Cpus::new(&machine.0, vec![2]);
        machine.write("interrupts", &INTERRUPTS.replace("23724", "23734").replace(" 7 ", " 8 "));
        let expect = [
            "hawser_broker_cpu_interrupts_total{cpu=\"0\"} 10",
            "hawser_broker_cpu_interrupts_total{cpu=\"2\",shard=\"0\"} 1",
            "hawser_broker_cpu_softirqs_total{cpu=\"0\",softirq=\"net_rx\"} 50",
            "hawser_broker_cpu_softirqs_total{cpu=\"2\",shard=\"0\",softirq=\"net_rx\"} 60",
            "hawser_broker_cpu_softirqs_total{cpu=\"0\",softirq=\"net_tx\"} 3",
            "hawser_broker_cpu_softirqs_total{cpu=\"2\",shard=\"0\",softirq=\"net_tx\"} 4",
            "hawser_broker_cpu_softirq_ms_total{cpu=\"0\"} 50",
            "hawser_broker_cpu_softirq_ms_total{cpu=\"2\",shard=\"0\"} 60",
            "hawser_broker_cpu_interrupt_ms_total{cpu=\"0\"} 40",
            "hawser_broker_cpu_interrupt_ms_total{cpu=\"2\",shard=\"0\"} 50",
        ];
        assert_eq!(samples(&mut cpus), expect);
    }

    /// `/proc/interrupts` of two CPUs.
    fn interrupts(rows: &[(u32, [u32; 2])]) -> String {
        let row = |(interrupt, [a, b]): &(u32, [u32; 2])| format!("{interrupt}: {a} {b} MSI x\n");
        " CPU0 CPU1\n".to_owned() + &rows.iter().map(row).collect::<String>()
    }

    #[test]
    fn a_sum_of_interrupts_never_goes_backwards() {
        const MAX: u32 = u32::MAX;
        let mut interrupts_of = Interrupts::default();
        let mut check = |what: &str, rows: &[(u32, [u32; 2])], expect: [u64; 2]| {
            interrupts_of.look(&interrupts(rows));
            assert_eq!(interrupts_of.sums.values().copied().collect::<Vec<_>>(), expect, "{what}");
        };
        check("two rows", &[(40, [5, 0]), (41, [1, 2])], [6, 2]);
        check("both grow", &[(40, [7, 0]), (41, [2, 3])], [9, 3]);
        check("one goes with its driver", &[(41, [2, 4])], [9, 4]);
        check("another gets its number", &[(40, [3, 0]), (41, [2, 4])], [12, 4]);
        check("a smaller one gets it at once", &[(40, [1, 0]), (41, [2, 4])], [13, 4]);
        check("one is near its end", &[(41, [MAX - 1, 4])], [13 + u64::from(MAX) - 3, 4]);
        check("and wraps", &[(41, [3, 4])], [13 + u64::from(MAX) - 3 + 5, 4]);
        // A file that could not be read is not a machine without interrupts.
        interrupts_of.look("");
        assert_eq!(interrupts_of.last[&41], [3, 4]);
    }

    #[test]
    fn a_count_of_32_bits_grew_or_began_again() {
        const HALF: u32 = 1 << 31;
        for (last, now, expect) in [
            (0, 0, 0),
            (5, 9, 4),
            (0, u32::MAX, u32::MAX),
            (u32::MAX, 0, 1),
            (HALF + 1, 0, HALF - 1),
            (HALF, 0, 0),
            (9, 5, 5),
        ] {
            assert_eq!(added(last, now), expect, "{last} to {now}");
        }
    }

    #[test]
    fn a_cpu_that_comes_back_goes_on() {
        let mut interrupts = Interrupts::default();
        interrupts.look("CPU0 CPU3\n7: 10 20 x\n");
        assert_eq!(interrupts.look("CPU0\n7: 11 x\n"), BTreeSet::from([0]));
        interrupts.look("CPU0 CPU3\n7: 11 21 x\n");
        assert_eq!(interrupts.sums, BTreeMap::from([(0, 11), (3, 21)]));
        // A number that no kernel gives takes no memory.
        assert!(interrupts.look("CPU8192\n7: 1 x\n").is_empty());
        assert_eq!(interrupts.look("CPU8191\n7: 1 x\n"), BTreeSet::from([8191]));
    }

    #[test]
    fn what_a_container_hides_is_left_out() {
        let check = |name: &str, files: &[(&str, &str)], expect: &[&str]| {
            let machine = Machine::new(name, files);
            let samples = samples(&mut Cpus::new(&machine.0, Vec::new()));
            let starts: Vec<&str> =
                samples.iter().map(|line| line.split(['{', ' ']).next().unwrap()).collect();
            assert_eq!(starts, expect, "{name}: {samples:?}");
        };
        check("nothing", &[], &[]);
        check("empty", &[("interrupts", ""), ("softirqs", ""), ("stat", "")], &[]);
        check(
            "garbage",
            &[("interrupts", "\u{0}:\n:"), ("softirqs", "CPU0\nNET_RX"), ("stat", "cpu")],
            &[],
        );
        check(
            "short",
            &[("stat", "cpu0 1 2 3 4 5 6\n")],
            &["hawser_broker_cpu_interrupt_ms_total"],
        );
        // Without /proc/stat nobody knows which CPUs are online; all that are listed count.
        check("softirqs", &[("softirqs", SOFTIRQ_ROWS)], &[SOFTIRQS; 6]);
    }

    #[test]
    fn a_file_beyond_the_limit_says_nothing() {
        let machine = Machine::new("limit", &[("stat", STAT)]);
        let path = machine.0.join("proc/stat");
        assert_eq!(text(&path, STAT.len() as u64).as_deref(), Some(STAT));
        assert_eq!(text(&path, STAT.len() as u64 - 1), None);
    }
}
