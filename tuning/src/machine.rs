//! What a machine is: kernel, CPUs, NUMA nodes, memory, cards, interrupts, and who else tunes it.
//!
//! It is read once and is then a value, so that every decision about it is a pure function. Current
//! values of settings are not in it: each is read where it is compared.

use std::collections::BTreeMap;
use std::fmt;

use crate::cpus::CpuSet;
use crate::host::Host;
use crate::interrupt::{self, Interrupt};
use crate::nic::{self, Abilities, Nic};

/// Version of the kernel, as far as settings differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    pub major: u32,
    pub minor: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub index: u32,
    pub cpus: CpuSet,
    pub memory_bytes: u64,
}

/// Connection tracking, where it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    pub entries: u64,
    pub entries_max: u64,
}

#[derive(Clone, Debug)]
pub struct Machine {
    /// What a journal knows it by: `/etc/machine-id`, else the name of the host.
    pub id: String,
    /// New with every boot.
    pub boot_id: String,
    /// The network namespace whose settings are seen; empty where there are no namespaces.
    pub network_namespace: String,
    pub kernel: Kernel,
    pub memory_bytes: u64,
    pub cpus: CpuSet,
    /// One CPU of each core: the others are its hyper-threads.
    pub cores: CpuSet,
    /// Those that were taken away from everybody at boot (isolcpus): they get no interrupts from us.
    pub isolated: CpuSet,
    pub nodes: Vec<Node>,
    pub nics: Vec<Nic>,
    pub interrupts: Vec<Interrupt>,
    pub conntrack: Option<Conntrack>,
    pub irqbalance_runs: bool,
}

impl Machine {
    pub fn read(
        host: &Host,
        abilities: &BTreeMap<String, Abilities>,
    ) -> Result<Machine, Unreadable> {
        let text = |path: &'static str| host.text(path).ok_or(Unreadable::Missing { path });
        let release = text("proc/sys/kernel/osrelease")?;
        let kernel = Kernel::parse(&release).ok_or(Unreadable::Kernel { release })?;
        let memory_bytes = kilobytes(&text("proc/meminfo")?, "MemTotal:")
            .ok_or(Unreadable::Missing { path: "MemTotal in proc/meminfo" })?;
        let cpus = CpuSet::from_list(&text("sys/devices/system/cpu/online")?)
            .filter(|cpus| !cpus.is_empty())
            .ok_or(Unreadable::Missing { path: "a CPU in sys/devices/system/cpu/online" })?;
        let interrupts = interrupt::read_all(host);
        let name = || host.text("proc/sys/kernel/hostname");
        Ok(Machine {
            id: host
                .text("etc/machine-id")
                .filter(|id| !id.is_empty())
                .or_else(name)
                .unwrap_or_default(),
            boot_id: host.text("proc/sys/kernel/random/boot_id").unwrap_or_default(),
            network_namespace: host.link_name("proc/self/ns/net").unwrap_or_default(),
            kernel,
            memory_bytes,
            cores: cores(host, &cpus),
            isolated: host
                .text("sys/devices/system/cpu/isolated")
                .and_then(|list| CpuSet::from_list(&list))
                .unwrap_or_default(),
            nodes: nodes(host, &cpus, memory_bytes),
            cpus,
            nics: nic::read_all(host, &interrupts, abilities),
            interrupts,
            conntrack: conntrack(host),
            irqbalance_runs: runs(host, "irqbalance"),
        })
    }

    /// The CPUs of a card's node in the order in which queues are dealt to them: one of each core
    /// first. All CPUs if the card belongs to no node or to one without any, as a node of memory alone
    /// is; isolated ones only where there are no others. Never empty.
    pub fn cpus_near(&self, nic: &Nic) -> Vec<u32> {
        let node = self.nodes.iter().find(|node| Some(node.index) == nic.node);
        let on_node: &[&CpuSet] = &[node.map_or(&self.cpus, |node| &node.cpus), &self.cpus];
        let usable = on_node.iter().map(|cpus| {
            let cpus = cpus.iter().filter(|cpu| self.cpus.contains(*cpu));
            cpus.filter(|cpu| !self.isolated.contains(*cpu)).collect::<Vec<u32>>()
        });
        let near = usable.into_iter().find(|cpus| !cpus.is_empty());
        let near = near.unwrap_or_else(|| self.cpus.iter().collect());
        let (first, second): (Vec<u32>, Vec<u32>) =
            near.into_iter().partition(|cpu| self.cores.contains(*cpu));
        first.into_iter().chain(second).collect()
    }

    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.nodes.iter().find(|node| node.cpus.contains(cpu)).map(|node| node.index)
    }

    pub fn interrupt(&self, number: u32) -> Option<&Interrupt> {
        self.interrupts.iter().find(|interrupt| interrupt.number == number)
    }
}

impl Kernel {
    pub fn parse(release: &str) -> Option<Kernel> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Kernel { major: next()?, minor: next()? })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a machine cannot be tuned at all.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{path} is missing: are /proc and /sys mounted?")]
    Missing { path: &'static str },
    #[error("{release:?} is not the release of a Linux kernel")]
    Kernel { release: String },
}

/// The value of a line such as `MemTotal:  24 kB`, in bytes.
pub fn kilobytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains(name))?;
    let kilobytes: u64 = line.split(name).nth(1)?.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

fn cores(host: &Host, cpus: &CpuSet) -> CpuSet {
    let is_first = |cpu: &u32| {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let siblings = host.text(&path).and_then(|list| CpuSet::from_list(&list));
        siblings.and_then(|siblings| siblings.first()).is_none_or(|first| first == *cpu)
    };
    CpuSet::of(cpus.iter().filter(is_first))
}

/// A kernel without NUMA has no such folder: all is one node then.
fn nodes(host: &Host, cpus: &CpuSet, memory_bytes: u64) -> Vec<Node> {
    const FOLDER: &str = "sys/devices/system/node";
    let read = |name: String| {
        let index = name.strip_prefix("node")?.parse().ok()?;
        let list = CpuSet::from_list(&host.text(&format!("{FOLDER}/{name}/cpulist"))?)?;
        let meminfo = host.raw(&format!("{FOLDER}/{name}/meminfo")).unwrap_or_default();
        let memory_bytes = kilobytes(&meminfo, "MemTotal:").unwrap_or(0);
        Some(Node { index, cpus: list, memory_bytes })
    };
    let nodes: Vec<Node> = host.names(FOLDER).into_iter().filter_map(read).collect();
    if nodes.is_empty() {
        return vec![Node { index: 0, cpus: cpus.clone(), memory_bytes }];
    }
    nodes
}

fn conntrack(host: &Host) -> Option<Conntrack> {
    let entries_max = host.number("proc/sys/net/netfilter/nf_conntrack_max")?;
    let entries = host.number("proc/sys/net/netfilter/nf_conntrack_count").unwrap_or(0);
    // Built into the kernel and used by no rule, it tracks nothing.
    (entries > 0).then_some(Conntrack { entries, entries_max })
}

fn runs(host: &Host, command: &str) -> bool {
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut processes = host.names("proc").into_iter().filter(is_process);
    processes.any(|pid| host.text(&format!("proc/{pid}/comm")).as_deref() == Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_compare_by_number() {
        let parse = |text| Kernel::parse(text).unwrap();
        assert_eq!(parse("6.18.44-fc-v595"), Kernel { major: 6, minor: 18 });
        assert!(parse("5.4.0-42-generic") < parse("5.10.0") && parse("5.19") < parse("6.1"));
        assert_eq!(Kernel::parse("generic"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Machine::read(&Host::at(folder.path()), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("proc/sys/kernel/osrelease"), "{error}");
    }
}
