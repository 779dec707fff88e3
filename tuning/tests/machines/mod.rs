//! Machines as trees of files, laid out as the kernel documents them: Documentation/filesystems/proc.rst,
//! Documentation/ABI/testing/sysfs-class-net-queues, Documentation/ABI/stable/sysfs-devices-node.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use hawser_tuning::host::Host;
use hawser_tuning::machine::Machine;
use hawser_tuning::netlink::channels;

/// A machine that is removed when it is dropped.
#[derive(Debug)]
pub struct Tree {
    folder: tempfile::TempDir,
    cpu_count: u32,
    /// Rows of /proc/interrupts.
    interrupts: Vec<(u32, String)>,
}

/// A card with one interrupt for each queue.
pub struct Card {
    pub name: &'static str,
    pub node: i32,
    pub queues: u32,
    pub combined: u32,
    pub combined_max: u32,
    pub first_interrupt: u32,
    /// The driver's name of an interrupt, before the queue's number.
    pub prefix: &'static str,
    /// In the words of ethtool.
    pub coalescing: &'static str,
    /// What traffic control shows.
    pub queueing: &'static str,
}

impl Tree {
    /// Any kernel's values before anybody tuned it, as far as all machines have them.
    pub fn new(kernel: &str, memory_gib: u64, cpu_count: u32) -> Tree {
        let folder = tempfile::tempdir().expect("a folder for the machine");
        let tree = Tree { folder, cpu_count, interrupts: Vec::new() };
        let kilobytes = memory_gib << 20;
        tree.put(
            "proc/meminfo",
            &format!("MemTotal:  {kilobytes} kB\nMemAvailable: {kilobytes} kB\n"),
        );
        tree.put("proc/sys/kernel/osrelease", kernel);
        tree.put("proc/sys/kernel/hostname", "fixture");
        tree.put("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555");
        tree.put(&format!("lib/modules/{kernel}/modules.dep"), "kernel/net/sched/sch_fq.ko.xz:");
        tree.put("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro");
        tree.put(
            "proc/net/sockstat",
            "sockets: used 200\nTCP: inuse 10 orphan 0 tw 3 alloc 12 mem 40",
        );
        tree.put("etc/machine-id", "0123456789abcdef0123456789abcdef");
        fs::create_dir_all(tree.path().join("etc/systemd/system")).expect("a folder");
        tree.put("sys/devices/system/cpu/online", &format!("0-{}", cpu_count - 1));
        tree.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc");
        tree.put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
        let pages = kilobytes / 4;
        let (third, second) = (pages / 32 * 3, pages / 16);
        tree.sysctl("net.ipv4.tcp_mem", &format!("{}\t{second}\t{third}", second / 4 * 3));
        for (name, value) in [
            ("fs.file-nr", "2112\t0\t9223372036854775807"),
            ("fs.file-max", "9223372036854775807"),
            ("fs.nr_open", "1048576"),
            ("net.ipv4.tcp_rmem", "4096\t131072\t6291456"),
            ("net.ipv4.tcp_wmem", "4096\t16384\t4194304"),
            ("net.core.somaxconn", "4096"),
            ("net.core.netdev_max_backlog", "1000"),
            ("net.core.busy_read", "0"),
            ("net.core.busy_poll", "0"),
            ("net.core.default_qdisc", "pfifo_fast"),
            ("net.core.rps_sock_flow_entries", "0"),
            ("net.ipv4.tcp_max_syn_backlog", "4096"),
            ("net.ipv4.tcp_syncookies", "1"),
            ("net.ipv4.tcp_abort_on_overflow", "0"),
            ("net.ipv4.tcp_max_orphans", "262144"),
            ("net.ipv4.tcp_max_tw_buckets", "262144"),
            ("net.ipv4.ip_local_port_range", "32768\t60999"),
            ("net.ipv4.tcp_retries2", "15"),
            ("net.ipv4.tcp_frto", "2"),
            ("net.ipv4.tcp_keepalive_time", "7200"),
            ("net.ipv4.tcp_no_metrics_save", "0"),
            ("net.ipv4.tcp_slow_start_after_idle", "1"),
            ("net.ipv4.tcp_congestion_control", "cubic"),
            ("net.ipv4.tcp_available_congestion_control", "reno cubic bbr"),
            ("net.ipv4.tcp_allowed_congestion_control", "reno cubic"),
        ] {
            tree.sysctl(name, value);
        }
        tree
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn host(&self) -> Host {
        Host::at(self.path())
    }

    pub fn machine(&self) -> Machine {
        let host = self.host();
        Machine::read(&host, &channels::abilities(&host)).expect("a fixture is readable")
    }

    /// Writes a file as the kernel shows it, with a newline.
    pub fn put(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(path, format!("{content}\n")).expect("a file");
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        self.put(&format!("proc/sys/{}", name.replace('.', "/")), value);
    }

    /// What kernels since 6.11 have.
    pub fn recent(self) -> Tree {
        self.sysctl("net.ipv4.tcp_rto_min_us", "200000");
        self.sysctl("net.ipv4.tcp_ehash_entries", "262144");
        self.sysctl("net.ipv4.tcp_child_ehash_entries", "0");
        self.sysctl("kernel.io_uring_disabled", "0");
        self
    }

    /// Deals the CPUs to nodes: as many to each, hyper-threads `threads_apart` above their core.
    pub fn nodes(self, node_count: u32, memory_gib: u64, threads_apart: Option<u32>) -> Tree {
        let core_count = threads_apart.unwrap_or(self.cpu_count);
        let each = core_count / node_count;
        for node in 0..node_count {
            let first = node * each;
            let mut list = format!("{first}-{}", first + each - 1);
            if let Some(apart) = threads_apart {
                let second = first + apart;
                let _ = write!(list, ",{second}-{}", second + each - 1);
            }
            let folder = format!("sys/devices/system/node/node{node}");
            self.put(&format!("{folder}/cpulist"), &list);
            let kilobytes = (memory_gib << 20) / u64::from(node_count);
            self.put(
                &format!("{folder}/meminfo"),
                &format!("Node {node} MemTotal:  {kilobytes} kB"),
            );
        }
        for cpu in 0..self.cpu_count {
            let core = cpu % core_count;
            let siblings = match threads_apart {
                Some(apart) => format!("{core},{}", core + apart),
                None => core.to_string(),
            };
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            self.put(&path, &siblings);
        }
        self
    }

    /// Frequency and idle states as a server has them.
    pub fn power(self, governor: &str) -> Tree {
        for cpu in 0..self.cpu_count {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            self.put(&format!("{folder}/cpufreq/scaling_governor"), governor);
            let offered = "conservative ondemand userspace powersave performance schedutil";
            self.put(&format!("{folder}/cpufreq/scaling_available_governors"), offered);
            for (state, latency_us) in [(0, 0), (1, 2), (2, 10), (3, 133)] {
                self.put(
                    &format!("{folder}/cpuidle/state{state}/latency"),
                    &latency_us.to_string(),
                );
                self.put(&format!("{folder}/cpuidle/state{state}/disable"), "0");
            }
        }
        self
    }

    pub fn card(mut self, card: &Card) -> Tree {
        let folder = format!("sys/class/net/{}", card.name);
        self.put(&format!("{folder}/device/numa_node"), &card.node.to_string());
        let ethtool = format!("ethtool/{}", card.name);
        self.put(&format!("{ethtool}/combined"), &card.combined.to_string());
        self.put(&format!("{ethtool}/combined_max"), &card.combined_max.to_string());
        self.put(&format!("{ethtool}/coalescing"), card.coalescing);
        self.put(&format!("queueing/{}", card.name), card.queueing);
        for queue in 0..card.queues {
            self.put(&format!("{folder}/queues/rx-{queue}/rps_cpus"), &self.no_cpus());
            self.put(&format!("{folder}/queues/rx-{queue}/rps_flow_cnt"), "0");
            self.put(&format!("{folder}/queues/tx-{queue}/xps_cpus"), &self.no_cpus());
            let number = card.first_interrupt + queue;
            self.put(&format!("{folder}/device/msi_irqs/{number}"), "msix");
            // What a machine does that nobody tuned: everything on the first CPU.
            self.put(&format!("proc/irq/{number}/smp_affinity_list"), "0");
            self.interrupts.push((number, format!("{}{queue}", card.prefix)));
        }
        self
    }

    fn no_cpus(&self) -> String {
        let groups = self.cpu_count.div_ceil(32) as usize;
        vec!["00000000"; groups].join(",")
    }

    /// Writes /proc/interrupts, once all cards are there.
    pub fn done(self) -> Tree {
        let mut text = String::new();
        for cpu in 0..self.cpu_count {
            let _ = write!(text, " CPU{cpu}");
        }
        for (number, name) in &self.interrupts {
            let _ = write!(text, "\n{number}:");
            for cpu in 0..self.cpu_count {
                let _ = write!(text, " {}", if cpu == 0 { 1_000 } else { 0 });
            }
            let _ = write!(text, "  IR-PCI-MSI {}-edge  {name}", number * 1024);
        }
        self.put("proc/interrupts", &text);
        self
    }
}

/// A small virtual machine: one queue pair on virtio.
pub fn small_vm() -> Tree {
    let card = Card {
        name: "eth0",
        node: -1,
        queues: 1,
        combined: 1,
        combined_max: 1,
        first_interrupt: 38,
        prefix: "virtio2-input.",
        coalescing: "rx-usecs 0",
        queueing: "pfifo_fast, by default",
    };
    Tree::new("6.18.44", 8, 2).recent().nodes(1, 8, None).card(&card).done()
}

/// 64 cores in two sockets, a 32-queue card at each.
pub fn two_sockets() -> Tree {
    let card = |name, node, first_interrupt, prefix| Card {
        name,
        node,
        queues: 32,
        combined: 32,
        combined_max: 64,
        first_interrupt,
        prefix,
        coalescing: "adaptive-rx on",
        queueing: "mq pfifo_fast, by default",
    };
    Tree::new("6.12.3", 512, 64)
        .recent()
        .nodes(2, 512, None)
        .power("schedutil")
        .card(&card("ens1f0", 0, 100, "ice-ens1f0-TxRx-"))
        .card(&card("ens2f0", 1, 200, "ice-ens2f0-TxRx-"))
        .done()
}

/// 64 cores and their 64 hyper-threads, a socket as four nodes (NPS4); two ports of a card at node 2.
pub fn amd_nps4() -> Tree {
    let card = |name, first_interrupt, prefix| Card {
        name,
        node: 2,
        queues: 8,
        combined: 8,
        combined_max: 63,
        first_interrupt,
        prefix,
        coalescing: "adaptive-rx off rx-usecs 0",
        queueing: "mq pfifo_fast, by default",
    };
    Tree::new("6.8.0-45-generic", 768, 128)
        .nodes(4, 768, Some(64))
        .power("performance")
        .card(&card("enp65s0f0np0", 300, "mlx5_comp"))
        .card(&card("enp65s0f1np1", 400, "mlx5_comp"))
        .done()
}

/// A box of somebody else: connection tracking, irqbalance, limits lowered and raised by hand.
pub fn tracked_and_balanced() -> Tree {
    let card = Card {
        name: "eth0",
        node: 0,
        queues: 4,
        combined: 4,
        combined_max: 8,
        first_interrupt: 60,
        prefix: "eth0-TxRx-",
        coalescing: "adaptive-rx on",
        queueing: "mq fq_codel, by default",
    };
    let tree = Tree::new("6.1.0-25-amd64", 64, 8).nodes(1, 64, None).card(&card).done();
    for (name, value) in [
        ("net.netfilter.nf_conntrack_max", "262144"),
        ("net.netfilter.nf_conntrack_count", "51234"),
        ("net.netfilter.nf_conntrack_buckets", "65536"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", "600"),
        ("net.ipv4.tcp_retries2", "5"),
        ("net.ipv4.tcp_keepalive_time", "60"),
        ("net.ipv4.tcp_syncookies", "2"),
        ("net.core.somaxconn", "100000"),
        ("net.core.rps_sock_flow_entries", "32768"),
        ("net.ipv4.tcp_available_congestion_control", "reno cubic"),
    ] {
        tree.sysctl(name, value);
    }
    tree.put("proc/742/comm", "irqbalance");
    tree.put("proc/1/comm", "systemd");
    tree
}

/// An old kernel: no sysctl for the retransmission minimum, one default route instead.
pub fn old_kernel() -> Tree {
    let card = Card {
        name: "eno1",
        node: 0,
        queues: 8,
        combined: 8,
        combined_max: 8,
        first_interrupt: 80,
        prefix: "eno1-TxRx-",
        coalescing: "adaptive-rx off rx-usecs 3",
        queueing: "htb fq_codel",
    };
    let tree = Tree::new("5.4.0-42-generic", 32, 8).nodes(1, 32, None).card(&card).done();
    tree.put("route/4/rto_min_ms", "0");
    tree.sysctl("fs.file-max", "3241034");
    tree.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
    tree.put("sys/devices/system/clocksource/clocksource0/available_clocksource", "hpet acpi_pm");
    tree
}

/// All five, by name.
pub fn all() -> [(&'static str, Tree); 5] {
    [
        ("small_vm", small_vm()),
        ("two_sockets", two_sockets()),
        ("amd_nps4", amd_nps4()),
        ("tracked_and_balanced", tracked_and_balanced()),
        ("old_kernel", old_kernel()),
    ]
}
