//! What the kernel does on each CPU beside the shard that is pinned there: interrupts, and the softirqs
//! of the network, in which packets of devices are received before a shard hears of them.
//!
//! ```text
//!   /proc/interrupts  rows with a number: those of devices      ─┐
//!   /proc/softirqs    runs of NET_RX and NET_TX                  ├─▶ one line per CPU at /metrics
//!   /proc/stat        time in softirqs and interrupts, in ticks ─┘
//! ```
//!
//! The files are read when a page is asked for and at no other time; their form is that of
//! Documentation/filesystems/proc.rst. In a container one may be missing, empty or forbidden: what it
//! would have said is then missing on the page, and nothing else is.
//!
//! Limit: [`FILE_BYTES_MAX`]. A longer file says nothing, because half of a sum would look like a counter
//! that went backwards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::metrics::{Kind, put_head};

/// 1,024 CPUs with 1,400 interrupts.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A tick of /proc/stat: USER_HZ is 100 on every architecture that the broker runs on.
const TICK_MS: u64 = 10;

/// What is known of a CPU since the boot.
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

/// Puts the lines of each CPU on a page. `pinned[shard]` is the CPU of that shard; CPUs without one have
/// no label for it.
pub fn put(page: &mut String, root: &Path, pinned: &[usize]) {
    let cpus = read(root);
    let mut last = "";
    for &Series { name, help, label, value } in &SERIES {
        if name != last {
            last = name;
            put_head(page, name, help, Kind::Counter);
        }
        for (cpu, work) in &cpus {
            let Some(value) = value(work) else { continue };
            let shard = pinned.iter().position(|pinned| pinned == cpu);
            let shard = shard.map_or(String::new(), |shard| format!(",shard=\"{shard}\""));
            // Writing to a string does not fail.
            let _ = writeln!(page, "{name}{{cpu=\"{cpu}\"{shard}{label}}} {value}");
        }
    }
}

/// Everything that the files under `root` say, by CPU.
fn read(root: &Path) -> BTreeMap<usize, Work> {
    let file = |name: &str| text(&root.join("proc").join(name), FILE_BYTES_MAX).unwrap_or_default();
    let (interrupts, softirqs, stat) = (file("interrupts"), file("softirqs"), file("stat"));
    let mut cpus: BTreeMap<usize, Work> = BTreeMap::new();
    add_times(&stat, &mut cpus);
    let online: Vec<usize> = cpus.keys().copied().collect();
    add_rows(&interrupts, &mut cpus, |name| {
        name.parse::<u32>().is_ok().then_some(|work| &mut work.interrupts)
    });
    add_rows(&softirqs, &mut cpus, |name| match name {
        "NET_RX" => Some(|work| &mut work.net_rx),
        "NET_TX" => Some(|work| &mut work.net_tx),
        _ => None,
    });
    // Softirqs are listed for CPUs, too, that are not there but could be.
    if !online.is_empty() {
        cpus.retain(|cpu, _| online.contains(cpu));
    }
    cpus
}

/// A file as text, unless it cannot be read or is larger than `bytes_max`.
fn text(path: &Path, bytes_max: u64) -> Option<String> {
    let mut text = String::new();
    let count = File::open(path).ok()?.take(bytes_max + 1).read_to_string(&mut text).ok()?;
    (count as u64 <= bytes_max).then_some(text)
}

type Cell = fn(&mut Work) -> &mut Option<u64>;

/// Adds the rows that have a cell to it. The first line names the CPUs; a row is a name, a colon, a
/// count for each CPU, and words.
fn add_rows(text: &str, cpus: &mut BTreeMap<usize, Work>, cell_of: fn(&str) -> Option<Cell>) {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default().split_whitespace();
    let columns: Vec<usize> =
        heading.filter_map(|word| word.strip_prefix("CPU")?.parse().ok()).collect();
    for line in lines {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let Some(cell) = cell_of(name.trim()) else { continue };
        for (cpu, word) in columns.iter().zip(rest.split_whitespace()) {
            // A row of one count for all CPUs ends in words.
            let Ok(count) = word.parse::<u64>() else { break };
            let sum = cell(cpus.entry(*cpu).or_default());
            *sum = Some(sum.unwrap_or(0) + count);
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
    use std::path::PathBuf;

    use super::*;

    /// A tree of files that is a machine, and goes with the test.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str, files: &[(&str, &str)]) -> Machine {
            let name = format!("hawser-cpus-{}-{name}", std::process::id());
            let root = std::env::temp_dir().join(name);
            fs::create_dir_all(root.join("proc")).unwrap();
            for (file, text) in files {
                fs::write(root.join("proc").join(file), text).unwrap();
            }
            Machine(root)
        }

        fn samples(&self, pinned: &[usize]) -> Vec<String> {
            let mut page = String::new();
            put(&mut page, &self.0, pinned);
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        }
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
        let expect = [
            "hawser_broker_cpu_interrupts_total{cpu=\"0\"} 23730",
            "hawser_broker_cpu_interrupts_total{cpu=\"2\",shard=\"0\"} 8",
            "hawser_broker_cpu_softirqs_total{cpu=\"0\",softirq=\"net_rx\"} 50",
            "hawser_broker_cpu_softirqs_total{cpu=\"2\",shard=\"0\",softirq=\"net_rx\"} 60",
            "hawser_broker_cpu_softirqs_total{cpu=\"0\",softirq=\"net_tx\"} 3",
            "hawser_broker_cpu_softirqs_total{cpu=\"2\",shard=\"0\",softirq=\"net_tx\"} 4",
            "hawser_broker_cpu_softirq_ms_total{cpu=\"0\"} 50",
            "hawser_broker_cpu_softirq_ms_total{cpu=\"2\",shard=\"0\"} 60",
            "hawser_broker_cpu_interrupt_ms_total{cpu=\"0\"} 40",
            "hawser_broker_cpu_interrupt_ms_total{cpu=\"2\",shard=\"0\"} 50",
        ];
        assert_eq!(machine.samples(&[2]), expect);
    }

    #[test]
    fn what_a_container_hides_is_left_out() {
        let check = |name: &str, files: &[(&str, &str)], expect: &[&str]| {
            let samples = Machine::new(name, files).samples(&[]);
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
