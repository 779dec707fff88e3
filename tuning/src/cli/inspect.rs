//! `hawser tune inspect`: the machine as tables.

use serde::Serialize;

use super::out::{self, Format};
use super::{Failure, Outcome, machine};
use crate::cpus::CpuSet;
use crate::family;
use crate::host::Host;
use crate::interrupt::read_work;
use crate::machine::Machine;
use crate::nic::Nic;
use crate::place::Place;

pub const EXAMPLES: &str = "\
Examples:
  hawser tune inspect
  hawser tune inspect --json | jq '.nics[].interrupts'

Needs no rights beyond reading /proc and /sys.";

#[derive(Serialize)]
struct Document {
    kernel: String,
    memory_bytes: u64,
    cpus: String,
    cores: usize,
    conntrack: bool,
    irqbalance: bool,
    nodes: Vec<NodeRow>,
    nics: Vec<NicRow>,
    cpu_work: Vec<WorkRow>,
    values: Vec<ValueRow>,
}

#[derive(Serialize)]
struct NodeRow {
    node: u32,
    cpus: String,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct NicRow {
    name: String,
    node: Option<u32>,
    rx_queues: u32,
    tx_queues: u32,
    combined: Option<u32>,
    combined_max: Option<u32>,
    coalescing: Option<String>,
    queueing: Option<String>,
    interrupts: Vec<InterruptRow>,
}

#[derive(Serialize)]
struct InterruptRow {
    number: u32,
    name: String,
    affinity: String,
    /// The CPU that took most of them since boot.
    busiest_cpu: Option<u32>,
    count: u64,
}

#[derive(Serialize)]
struct WorkRow {
    cpu: u32,
    node: Option<u32>,
    interrupts: u64,
    net_rx: u64,
    net_tx: u64,
}

#[derive(Serialize)]
struct ValueRow {
    name: String,
    value: String,
}

pub fn run(host: &Host, format: Format) -> Result<Outcome, Failure> {
    let machine = machine(host)?;
    let document = document(host, &machine);
    match format {
        Format::Json => out::json(&document)?,
        Format::Human => out::text(&shown(&machine, &document))?,
    }
    Ok(Outcome::AsItShouldBe)
}

fn document(host: &Host, machine: &Machine) -> Document {
    let node = |node: &crate::machine::Node| NodeRow {
        node: node.index,
        cpus: node.cpus.to_string(),
        memory_bytes: node.memory_bytes,
    };
    let work = |(cpu, work): (u32, crate::interrupt::CpuWork)| {
        let counts = machine.interrupts.iter().filter_map(|interrupt| interrupt.counts.get(&cpu));
        let (net_rx, net_tx) = (work.net_rx, work.net_tx);
        WorkRow { cpu, node: machine.node_of(cpu), interrupts: counts.sum(), net_rx, net_tx }
    };
    Document {
        kernel: machine.kernel.to_string(),
        memory_bytes: machine.memory_bytes,
        cpus: machine.cpus.to_string(),
        cores: machine.cores.len(),
        conntrack: machine.conntrack.is_some(),
        irqbalance: machine.irqbalance_runs,
        nodes: machine.nodes.iter().map(node).collect(),
        nics: machine.nics.iter().map(|nic| nic_row(host, machine, nic)).collect(),
        cpu_work: read_work(host).into_iter().map(work).collect(),
        values: values(host),
    }
}

fn nic_row(host: &Host, machine: &Machine, nic: &Nic) -> NicRow {
    let interrupt = |number: &u32| {
        let interrupt = machine.interrupt(*number)?;
        let busiest = interrupt.counts.iter().max_by_key(|(_, count)| **count);
        let count: u64 = interrupt.counts.values().sum();
        Some(InterruptRow {
            number: *number,
            name: interrupt.name.clone(),
            affinity: interrupt.affinity.to_string(),
            busiest_cpu: busiest.filter(|_| count > 0).map(|(cpu, _)| *cpu),
            count,
        })
    };
    NicRow {
        name: nic.name.clone(),
        node: nic.node,
        rx_queues: nic.rx_queues,
        tx_queues: nic.tx_queues,
        combined: nic.abilities.channels.map(|channels| channels.combined),
        combined_max: nic.abilities.channels.map(|channels| channels.combined_max),
        coalescing: nic.abilities.coalescing.map(|coalescing| coalescing.to_string()),
        queueing: Place::Queueing(nic.name.clone()).read(host).map(|text| text.trim().to_owned()),
        interrupts: nic.interrupts.iter().filter_map(interrupt).collect(),
    }
}

/// The present values of all settings that are sysctls.
fn values(host: &Host) -> Vec<ValueRow> {
    let value = |name: &str| {
        let value = Place::sysctl(name).read(host)?;
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(ValueRow { name: name.to_owned(), value })
    };
    let names = family::settings(&[]).flat_map(|setting| setting.name.split(" and "));
    names.filter(|name| name.contains('.') && !name.contains(' ')).filter_map(value).collect()
}

fn shown(machine: &Machine, document: &Document) -> String {
    let mut text = format!(
        "Linux {}, {} CPUs ({} cores), {} memory\n",
        document.kernel,
        machine.cpus.len(),
        document.cores,
        out::size(document.memory_bytes)
    );
    for (is_so, what) in [
        (document.conntrack, "connection tracking is on"),
        (document.irqbalance, "irqbalance runs"),
    ] {
        if is_so {
            text.push_str(&format!("{what}\n"));
        }
    }
    text.push('\n');
    let nodes = document
        .nodes
        .iter()
        .map(|node| vec![node.node.to_string(), node.cpus.clone(), out::size(node.memory_bytes)]);
    text.push_str(&out::table(&["NODE", "CPUS", "MEMORY"], &nodes.collect::<Vec<_>>()));
    text.push('\n');
    text.push_str(&nics(machine, document));
    text.push('\n');
    let values = document.values.iter().map(|row| vec![row.name.clone(), row.value.clone()]);
    text.push_str(&out::table(&["SETTING", "VALUE"], &values.collect::<Vec<_>>()));
    text.push('\n');
    text.push_str(&work(document));
    text
}

fn nics(machine: &Machine, document: &Document) -> String {
    if document.nics.is_empty() {
        return "no network card with a device behind it\n".to_owned();
    }
    let text_or_dash = |text: &Option<String>| text.clone().unwrap_or("-".to_owned());
    let or_dash = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    let row = |nic: &NicRow| {
        let lands = nic.interrupts.iter().filter_map(|interrupt| interrupt.busiest_cpu);
        let lands = CpuSet::of(lands);
        let nodes = CpuSet::of(lands.iter().filter_map(|cpu| machine.node_of(cpu)));
        vec![
            nic.name.clone(),
            or_dash(nic.node),
            format!("{}/{}", nic.rx_queues, nic.tx_queues),
            format!("{}/{}", or_dash(nic.combined), or_dash(nic.combined_max)),
            text_or_dash(&nic.coalescing),
            text_or_dash(&nic.queueing),
            nic.interrupts.len().to_string(),
            if lands.is_empty() { "-".to_owned() } else { format!("{lands} (node {nodes})") },
        ]
    };
    let heading = [
        "CARD",
        "NODE",
        "RX/TX QUEUES",
        "CHANNELS/MAX",
        "COALESCING",
        "QUEUEING",
        "INTERRUPTS",
        "LAND ON CPUS",
    ];
    out::table(&heading, &document.nics.iter().map(row).collect::<Vec<_>>())
}

fn work(document: &Document) -> String {
    let row = |row: &WorkRow| {
        vec![
            row.cpu.to_string(),
            row.node.map_or("-".to_owned(), |node| node.to_string()),
            row.interrupts.to_string(),
            row.net_rx.to_string(),
            row.net_tx.to_string(),
        ]
    };
    let rows: Vec<_> = document.cpu_work.iter().map(row).collect();
    out::table(&["CPU", "NODE", "INTERRUPTS", "NET_RX", "NET_TX"], &rows)
}
