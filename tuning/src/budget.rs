//! The memory that a goal takes on a machine, and the refusal of what it cannot hold.
//!
//! ```text
//!   memory = reserve + connections x (kernel + broker) + tables + queues of TCP
//! ```
//!
//! The kernel's 4,160 bytes of an idle connection were measured on Linux 6.18 with 5,000,000 of
//! them: socket 2,520, its inode 862, file 219, dentry 227, io_uring's poll 259, others 80. The
//! broker's 128 were measured too; both are rounded up here. TCP's queues (`tcp_mem`) get what the
//! connections need, out of what is left over.
//!
//! **Invariant:** what a plan implies is at most the machine's memory less the reserve.

use crate::goal::Goal;
use crate::host::Host;
use crate::machine::{Machine, kilobytes};

pub const PAGE_BYTES: u64 = 4096;

/// Of an idle connection; see above.
pub const KERNEL_BYTES_PER_CONNECTION: u64 = 4_200;
pub const BROKER_BYTES_PER_CONNECTION: u64 = 200;

/// A bucket of the table of established connections is one pointer.
const BUCKET_BYTES: u64 = 8;

/// An entry of connection tracking with its extensions, from `nf_conntrack` in /proc/slabinfo. Its table
/// has buckets of its own.
const CONNTRACK_BYTES_PER_CONNECTION: u64 = 320;

/// What receive flow steering keeps of a flow that is active: 4 bytes in the table of the machine, and
/// up to 12 in that of a queue (include/net/rps.h).
const FLOW_BYTES: u64 = 4 + 12;

/// What the kernel's documentation found to work for a moderately loaded server (scaling.rst), and
/// the most that can be active at once by this plan.
const FLOWS_MIN: u64 = 1 << 15;
const FLOWS_MAX: u64 = 1 << 20;

/// For everything else: the kernel itself, the page cache, other programs. With less than 1.5 GiB
/// free a machine with millions of sockets starts to reclaim and stalls.
const RESERVE_BYTES_MAX: u64 = 3 << 29;

/// What TCP's queues get at least, so that anything can be sent at all.
const QUEUES_BYTES_MIN: u64 = 16 << 20;

/// What a connection's queues hold when all of them are in use at once: one small message each.
const QUEUE_BYTES_PER_CONNECTION: u64 = 2_048;

/// What is in use at this moment, below which nothing may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub files: u64,
    pub tcp_pages: u64,
    pub orphans: u64,
    pub time_wait: u64,
    pub available_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub memory_bytes: u64,
    pub reserve_bytes: u64,
    pub connections_bytes: u64,
    /// Hash buckets, flows that are steered, and connection tracking.
    pub tables_bytes: u64,
    /// What is left over for TCP's queues, and what they need of it.
    pub left_bytes: u64,
    pub queues_bytes: u64,
    pub in_use: InUse,
}

/// A goal that the machine cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{connections} connections need {need_mib} MiB and this machine has {memory_mib} MiB: plan for at most \
     {connections_max} connections here, or use more machines"
)]
pub struct TooMany {
    pub connections: u64,
    pub connections_max: u64,
    pub need_mib: u64,
    pub memory_mib: u64,
}

impl Budget {
    pub fn of(machine: &Machine, goal: &Goal, in_use: InUse) -> Result<Budget, TooMany> {
        let each = bytes_per_connection(machine);
        let is_tracked = machine.conntrack.is_some();
        let tables_bytes = |connections: u64| {
            let tracked = if is_tracked { tracked_buckets(connections) } else { 0 };
            BUCKET_BYTES * (buckets(connections) + tracked) + FLOW_BYTES * flows(connections)
        };
        let buckets_bytes = tables_bytes(goal.connections);
        let reserve_bytes = RESERVE_BYTES_MAX.min(machine.memory_bytes / 4);
        let queues_min = QUEUES_BYTES_MIN.max(2 * in_use.tcp_pages * PAGE_BYTES);
        let fixed = reserve_bytes + queues_min;
        let need = fixed + buckets_bytes + goal.connections * each;
        if need > machine.memory_bytes {
            // At most 16 bytes of buckets of either table and 2 of flows for each connection, since the
            // number of each is a power of two.
            let for_connections = machine.memory_bytes.saturating_sub(fixed + tables_bytes(0));
            let tables = 2 * BUCKET_BYTES * (1 + u64::from(is_tracked))
                + 2 * FLOW_BYTES / CONNECTIONS_PER_FLOW;
            return Err(TooMany {
                connections: goal.connections,
                connections_max: for_connections / (each + tables),
                need_mib: need >> 20,
                memory_mib: machine.memory_bytes >> 20,
            });
        }
        let left_bytes = machine.memory_bytes - (need - queues_min);
        let wanted = (goal.connections * QUEUE_BYTES_PER_CONNECTION).max(queues_min);
        let own_bytes = KERNEL_BYTES_PER_CONNECTION + BROKER_BYTES_PER_CONNECTION;
        Ok(Budget {
            memory_bytes: machine.memory_bytes,
            reserve_bytes,
            connections_bytes: goal.connections * own_bytes,
            tables_bytes: buckets_bytes + goal.connections * (each - own_bytes),
            left_bytes,
            queues_bytes: wanted.min(left_bytes),
            in_use,
        })
    }
}

impl InUse {
    pub fn read(host: &Host) -> InUse {
        let sockets = host.raw("proc/net/sockstat").unwrap_or_default();
        let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or("");
        let field = |name: &str| {
            let mut words = tcp.split_whitespace().skip_while(|word| *word != name);
            words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        let files = host.text("proc/sys/fs/file-nr").unwrap_or_default();
        let meminfo = host.raw("proc/meminfo").unwrap_or_default();
        InUse {
            files: files.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0),
            tcp_pages: field("mem"),
            orphans: field("orphan"),
            time_wait: field("tw"),
            available_bytes: kilobytes(&meminfo, "MemAvailable:").unwrap_or(0),
        }
    }
}

/// Buckets for the table of established connections: the next power of two, so that chains are
/// short, within what the kernel takes (2^16 as its own tables have at least, 2^24 at most).
pub fn buckets(connections: u64) -> u64 {
    connections.next_power_of_two().clamp(1 << 16, 1 << 24)
}

/// The same for the table of connection tracking, which takes any number and has 2^24 at most by this
/// plan.
pub fn tracked_buckets(connections: u64) -> u64 {
    connections.next_power_of_two().min(1 << 24)
}

/// Connections for each one that is active in the same moment. The suggested count of flows is that of
/// active connections, "which may be significantly less than the number of open connections"
/// (scaling.rst); a device that sends a heartbeat every three minutes is active for a second of them.
const CONNECTIONS_PER_FLOW: u64 = 16;

/// Flows that receive flow steering has to remember.
pub fn flows(connections: u64) -> u64 {
    (connections / CONNECTIONS_PER_FLOW).next_power_of_two().clamp(FLOWS_MIN, FLOWS_MAX)
}

fn bytes_per_connection(machine: &Machine) -> u64 {
    let tracked = if machine.conntrack.is_some() { CONNTRACK_BYTES_PER_CONNECTION } else { 0 };
    KERNEL_BYTES_PER_CONNECTION + BROKER_BYTES_PER_CONNECTION + tracked
}
