//! The metrics page: held to METRICS.md, and to what the kernel says of its CPUs.

use std::collections::BTreeMap;
use std::fs;

use hawser_broker::io::host::processors;

use crate::support::{Broker, Device, inside};

#[test]
fn golden_metrics_are_those_of_the_table() {
    const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/METRICS.md");
    let broker = Broker::start(&[]);
    let page = broker.get("/metrics").1;
    let mut families: BTreeMap<&str, [&str; 2]> = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# ")) {
        let [what, name, rest] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        families.entry(name).or_default()[usize::from(what == "HELP")] = rest;
    }
    let row =
        |(name, [kind, help]): (&&str, &[&str; 2])| format!("| `{name}` | {kind} | {help} |\n");
    let rows: String = families.iter().map(row).collect();
    let table = format!("| name | kind | meaning |\n|---|---|---|\n{rows}");
    let page = fs::read_to_string(TABLE).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let head = page.split("| name |").next().unwrap();
        fs::write(TABLE, format!("{head}{table}")).unwrap();
    } else {
        assert!(page.ends_with(&table), "UPDATE_GOLDEN=1 rewrites METRICS.md");
    }
}

/// A row of /proc/softirqs by the name of the column, `CPU0`.
fn softirqs(name: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/softirqs").unwrap();
    let columns = text.lines().next().unwrap().split_whitespace().map(str::to_owned);
    let row = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let counts = row.unwrap().split_whitespace().map(|count| count.parse().unwrap());
    columns.zip(counts).collect()
}

#[test]
fn each_cpu_has_its_softirqs_beside_its_shard() {
    let broker = Broker::start(&["shards=1", "pin=true"]);
    let name = "hawser_broker_cpu_softirqs_total";
    let received = || broker.metric(&format!("{name} softirq=\"net_rx\""));
    let before = (softirqs("NET_RX"), received());
    let mut device = Device::online(broker.address, "d");
    device.ping();
    let page = broker.get("/metrics").1;
    let after = softirqs("NET_RX");
    assert!(received() > before.1, "packets over loopback are received in softirqs");

    let pinned = processors().unwrap()[0];
    let mut cpus = 0;
    for line in fs::read_to_string("/proc/stat").unwrap().lines() {
        let Some(cpu) = line.strip_prefix("cpu").and_then(|line| line.split(' ').next()) else {
            break;
        };
        let Ok(cpu) = cpu.parse::<usize>() else { continue };
        let shard = if cpu == pinned { ",shard=\"0\"" } else { "" };
        let start = format!("{name}{{cpu=\"{cpu}\"{shard},softirq=\"net_rx\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&start));
        let value: u64 = value.unwrap_or_else(|| panic!("no {start}in {page}")).parse().unwrap();
        let column = format!("CPU{cpu}");
        assert!((before.0[&column]..=after[&column]).contains(&value), "{column}: {value}");
        for name in ["softirq_ms", "interrupt_ms", "interrupts"] {
            let start = format!("hawser_broker_cpu_{name}_total{{cpu=\"{cpu}\"{shard}}} ");
            assert!(page.contains(&start), "no {start}in {page}");
        }
        cpus += 1;
    }
    assert!(cpus > 0);
    assert_eq!(page.matches(&format!("{name}{{")).count(), 2 * cpus, "no other CPU has a line");
    // A shard that may run anywhere stands beside no CPU.
    let page = Broker::start(&["shards=1"]).get("/metrics").1;
    assert!(page.contains(&format!("{name}{{cpu=\"{pinned}\",softirq=\"net_rx\"}} ")), "{page}");
}

#[test]
fn a_container_that_hides_the_cpus_hides_nothing_else() {
    let test = "metrics::a_container_that_hides_the_cpus_hides_nothing_else";
    // As container engines mask files that tell of the host.
    let script = "ip link set lo up; mount --bind /dev/null /proc/interrupts; \
                  mount --bind /dev/null /proc/softirqs";
    if !inside(test, script) {
        return;
    }
    let broker = Broker::start(&["shards=1", "pin=true"]);
    Device::online(broker.address, "d").ping();
    let page = broker.get("/metrics").1;
    for name in ["interrupts", "softirqs"] {
        assert!(!page.contains(&format!("\nhawser_broker_cpu_{name}_total{{")), "{page}");
    }
    assert!(page.contains("\nhawser_broker_cpu_softirq_ms_total{"), "{page}");
    assert_eq!(broker.metric("hawser_broker_connected_total"), 1);
}
