//! What a configuration comes to on this machine: counts, then bytes, then yes or no.
//!
//! ```text
//!   configuration ─┐
//!                  ├─▶ Plan: shards × rings × table ─▶ bytes ─▶ printed, served at /plan, or refused
//!   the machine ───┘
//! ```
//!
//! Everything the broker may use is bounded here before anything is opened. A plan that the machine
//! cannot hold is refused with what to change, because the alternative is the kernel's out-of-memory
//! killer at the busiest hour.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::config::Config;
use crate::core::CoreConfig;
use crate::io::uring::{
    LINK_RECV_BUFFER_BYTES, LINK_RECV_BUFFERS, RECV_BUFFER_BYTES, RECV_BUFFERS, RingShape,
};
use crate::io::{LINK_SLOT_FIRST, host};

/// What the kernel holds for an established connection with a read watch; measured on Linux 6.18.
pub const KERNEL_BYTES_PER_CONNECTION: u64 = 4_200;

/// What this process holds for one: the session row and its timer and shell entries.
pub const USER_BYTES_PER_CONNECTION: u64 = 200;

/// The kernel's limit of a ring's table.
const TABLE_MAX: u64 = 1 << 20;

/// A smaller table would be mostly margin.
const TABLE_MIN: u32 = 64;

/// What a process takes before its first connection: code, allocator, core tables.
const PROCESS_BYTES: u64 = 32 << 20;

/// Connections that may be closing, or be refused, beside the admitted ones.
const SPARE_SLOTS: u32 = 64;

const MIB: u64 = 1 << 20;

/// What matters of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors this process may use.
    pub processors: Vec<usize>,
    /// The limit of open files, which bounds a ring's table.
    pub open_files_max: u64,
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
}

impl Machine {
    /// Asks the system; raises the soft limit of open files to the hard one.
    pub fn read() -> io::Result<Machine> {
        let memory = Memory::read()?;
        Ok(Machine {
            processors: host::processors()?,
            open_files_max: host::raise_open_files()?,
            memory_bytes: memory.total_bytes,
            memory_free_bytes: memory.free_bytes,
        })
    }
}

/// The memory of the machine now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total_bytes: u64,
    /// Free, buffers and page cache, without shared memory. Not MemAvailable, which counts the
    /// kernel's socket memory as reclaimable.
    pub free_bytes: u64,
}

impl Memory {
    pub fn read() -> io::Result<Memory> {
        let text = std::fs::read_to_string("/proc/meminfo")?;
        Memory::parse(&text).ok_or_else(|| io::Error::other("/proc/meminfo lacks a field"))
    }

    fn parse(text: &str) -> Option<Memory> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024)
        };
        let free = field("MemFree")? + field("Buffers")? + field("Cached")?;
        Some(Memory {
            total_bytes: field("MemTotal")?,
            free_bytes: free.saturating_sub(field("Shmem")?),
        })
    }
}

/// Counts and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub shards: usize,
    pub connections_max: u64,
    pub connections_max_per_shard: u32,
    pub table: u32,
    pub completions: u32,
    pub rings_per_shard: u32,
    pub slots_per_shard: u32,
    pub kernel_bytes_per_connection: u64,
    pub user_bytes_per_connection: u64,
    pub connection_bytes: u64,
    pub ring_bytes: u64,
    pub outbox_bytes: u64,
    pub partial_bytes: u64,
    pub topic_bytes: u64,
    pub link_bytes: u64,
    pub total_bytes: u64,
    pub memory_free_bytes: u64,
    pub memory_free_min_bytes: u64,
    pub open_files_max: u64,
}

/// Why a plan is refused. Each says what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    Memory { needed_bytes: u64, usable_bytes: u64, connections_fit: u64 },
    NoMemory { fixed_bytes: u64, usable_bytes: u64 },
    Table { table: u64, limit: u64 },
    Slots { connections: u64, table: u32 },
    Shards { shards: usize, processors: usize },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            PlanError::Memory { needed_bytes, usable_bytes, connections_fit } => write!(
                f,
                "the plan needs {} MiB and {} MiB are free above memory_free_min_mib; set \
                 connections_max to {connections_fit} or less, or add memory",
                needed_bytes / MIB,
                usable_bytes / MIB
            ),
            PlanError::NoMemory { fixed_bytes, usable_bytes } => write!(
                f,
                "buffers alone need {} MiB and {} MiB are free above memory_free_min_mib; lower \
                 outbox_bytes_max, partial_bytes_max, topics_bytes_max or link_queue_bytes_max, or \
                 free memory",
                fixed_bytes / MIB,
                usable_bytes / MIB
            ),
            PlanError::Table { table, limit } => write!(
                f,
                "table_max = {table} is outside {TABLE_MIN} to {limit}, which is what the limit of \
                 open files allows; set table_max = 0, or raise the limit (ulimit -n, LimitNOFILE=)"
            ),
            PlanError::Slots { connections, table } => write!(
                f,
                "{connections} connections of one shard exceed the slot numbers with tables of \
                 {table}; lower connections_max or use more shards"
            ),
            PlanError::Shards { shards, processors } => write!(
                f,
                "shards = {shards} exceeds the {processors} processors to pin them to; lower it or \
                 set pin = false"
            ),
        }
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    pub fn new(config: &Config, machine: &Machine) -> Result<Plan, PlanError> {
        let processors = machine.processors.len();
        let shards = if config.shards == 0 { processors.max(1) } else { config.shards };
        if config.pin && shards > processors {
            return Err(PlanError::Shards { shards, processors });
        }
        let shape = table_shape(config, machine)?;

        let automatic = (machine.memory_bytes / 16).min(1536 * MIB);
        let memory_free_min_bytes = match config.memory_free_min_mib {
            0 => automatic,
            mib => mib * MIB,
        };
        let usable_bytes = machine.memory_free_bytes.saturating_sub(memory_free_min_bytes);
        let links = config.control.len() as u64;
        let outbox_bytes = shards as u64 * config.outbox_bytes_max as u64;
        let partial_bytes = shards as u64 * config.partial_bytes_max as u64;
        let topic_bytes = shards as u64 * config.topics_bytes_max as u64;
        let link_bytes = shards as u64 * links * config.link_queue_bytes_max as u64;
        let fixed_bytes = PROCESS_BYTES + outbox_bytes + partial_bytes + topic_bytes + link_bytes;
        if fixed_bytes + shards as u64 * ring_bytes(&shape) > usable_bytes {
            return Err(PlanError::NoMemory { fixed_bytes, usable_bytes });
        }

        // A ring's price belongs to its connections.
        let per_connection = KERNEL_BYTES_PER_CONNECTION + USER_BYTES_PER_CONNECTION;
        let per_ring = u64::from(shape.usable()) * per_connection + ring_bytes(&shape);
        let fit = (usable_bytes - fixed_bytes) / per_ring * u64::from(shape.usable())
            + (usable_bytes - fixed_bytes) % per_ring
                / (per_connection + ring_bytes(&shape) / u64::from(shape.usable()));
        let numbers =
            u64::from(LINK_SLOT_FIRST) / u64::from(shape.table) * u64::from(shape.usable());
        let wanted = match config.connections_max {
            0 => fit.min(numbers * shards as u64 / 2).max(1),
            connections => u64::from(connections),
        };
        let per_shard = wanted.div_ceil(shards as u64);
        let slots_wanted = per_shard + per_shard / 16 + u64::from(SPARE_SLOTS);
        let rings = slots_wanted.div_ceil(u64::from(shape.usable()));
        let slots = rings * u64::from(shape.table);
        if slots >= u64::from(LINK_SLOT_FIRST) {
            return Err(PlanError::Slots { connections: per_shard, table: shape.table });
        }
        let ring_bytes = shards as u64 * rings * ring_bytes(&shape);
        let connection_bytes = wanted * per_connection;
        let total_bytes = fixed_bytes + connection_bytes + ring_bytes;
        if total_bytes > usable_bytes && config.connections_max != 0 {
            return Err(PlanError::Memory {
                needed_bytes: total_bytes,
                usable_bytes,
                connections_fit: fit * 15 / 16,
            });
        }
        Ok(Plan {
            shards,
            connections_max: wanted,
            connections_max_per_shard: per_shard as u32,
            table: shape.table,
            completions: shape.completions,
            rings_per_shard: rings as u32,
            slots_per_shard: slots as u32,
            kernel_bytes_per_connection: KERNEL_BYTES_PER_CONNECTION,
            user_bytes_per_connection: USER_BYTES_PER_CONNECTION,
            connection_bytes,
            ring_bytes,
            outbox_bytes,
            partial_bytes,
            topic_bytes,
            link_bytes,
            total_bytes,
            memory_free_bytes: machine.memory_free_bytes,
            memory_free_min_bytes,
            open_files_max: machine.open_files_max,
        })
    }

    pub fn shape(&self) -> RingShape {
        RingShape { table: self.table, completions: self.completions }
    }

    /// What the core of each shard is told.
    pub fn core_config(&self, config: &Config, seed: u64) -> CoreConfig {
        CoreConfig {
            slots_max: self.slots_per_shard,
            connections_max: self.connections_max_per_shard,
            handshake_timeout_ms: config.handshake_timeout_ms,
            heartbeat_min_ms: config.heartbeat_min_s * 1000,
            heartbeat_max_ms: config.heartbeat_max_s * 1000,
            heartbeat_margin_ms: config.heartbeat_margin_ms,
            accept_delay_above: config.accept_delay_above,
            accept_delay_ms_per_100k: config.accept_delay_ms_per_100k,
            retry_after_ms: config.retry_after_ms,
            drain_per_s: config.drain_per_s,
            redirect: config.redirect.clone(),
            topics_bytes_max: config.topics_bytes_max,
            seed,
            ..CoreConfig::default()
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan has a form")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        writeln!(
            f,
            "plan: {} shards, {} connections; per shard {} in up to {} rings of {}",
            self.shards,
            self.connections_max,
            self.connections_max_per_shard,
            self.rings_per_shard,
            self.table
        )?;
        writeln!(
            f,
            "plan: {} MiB for connections ({} B each in the kernel, {} B here), {} rings, {} \
             outboxes, {} unfinished frames, {} topics, {} links",
            mib(self.connection_bytes),
            self.kernel_bytes_per_connection,
            self.user_bytes_per_connection,
            mib(self.ring_bytes),
            mib(self.outbox_bytes),
            mib(self.partial_bytes),
            mib(self.topic_bytes),
            mib(self.link_bytes)
        )?;
        write!(
            f,
            "plan: {} MiB in all of {} MiB free; nobody is admitted below {} MiB free",
            mib(self.total_bytes),
            mib(self.memory_free_bytes),
            mib(self.memory_free_min_bytes)
        )
    }
}

fn table_shape(config: &Config, machine: &Machine) -> Result<RingShape, PlanError> {
    let limit = machine.open_files_max.min(TABLE_MAX);
    let table = match config.table_max {
        0 => limit,
        table => u64::from(table),
    };
    if table > limit || table < u64::from(TABLE_MIN) {
        return Err(PlanError::Table { table, limit });
    }
    Ok(RingShape::for_table(table as u32))
}

/// What one ring takes: queues, table, receive buffers. Links' buffers are on the first only, and
/// small enough to be counted with each.
fn ring_bytes(shape: &RingShape) -> u64 {
    let queues = u64::from(shape.completions) * 16 + 256 * 64;
    let table = u64::from(shape.table) * 8;
    let buffers = u64::from(RECV_BUFFERS) * u64::from(RECV_BUFFER_BYTES + 16);
    queues + table + buffers + u64::from(LINK_RECV_BUFFERS) * u64::from(LINK_RECV_BUFFER_BYTES) / 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            processors: vec![0, 1],
            open_files_max: 20_000,
            memory_bytes: 24 << 30,
            memory_free_bytes: 20 << 30,
        }
    }

    fn plan(settings: &[&str], machine: &Machine) -> Result<Plan, PlanError> {
        let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
        Plan::new(&Config::parse("", &settings).expect("right settings"), machine)
    }

    #[test]
    fn every_connection_of_the_plan_has_a_slot_and_memory() {
        for connections in [1u32, 10, 17_000, 100_000, 1_000_000, 4_000_000] {
            for shards in [1, 2] {
                for table in [64, 1_000, 20_000] {
                    let settings = [
                        format!("connections_max={connections}"),
                        format!("shards={shards}"),
                        format!("table_max={table}"),
                    ];
                    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
                    let Ok(plan) = plan(&settings, &machine()) else { continue };
                    let usable = u64::from(plan.shape().usable()) * u64::from(plan.rings_per_shard);
                    assert!(usable > u64::from(plan.connections_max_per_shard), "{plan:?}");
                    assert!(
                        plan.connections_max_per_shard as usize * plan.shards
                            >= connections as usize
                    );
                    assert!(plan.slots_per_shard < LINK_SLOT_FIRST);
                    assert!(
                        plan.total_bytes <= plan.memory_free_bytes - plan.memory_free_min_bytes
                    );
                }
            }
        }
    }

    #[test]
    fn left_to_the_plan_the_memory_is_filled_and_not_more() {
        for memory_free_bytes in [2u64 << 30, 20 << 30] {
            let machine = Machine { memory_free_bytes, ..machine() };
            let plan = plan(&[], &machine).expect("it fits");
            let usable = memory_free_bytes - plan.memory_free_min_bytes;
            assert!(plan.total_bytes > usable * 9 / 10, "{plan}");
            assert!(plan.total_bytes < usable * 102 / 100, "{plan}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_change() {
        let check = |settings: &[&str], machine: &Machine, expect: &str| {
            let message = plan(settings, machine).expect_err("it is refused").to_string();
            assert!(message.contains(expect), "{message:?} does not say {expect:?}");
        };
        check(&["connections_max=6000000"], &machine(), "set connections_max to");
        check(&["table_max=20001"], &machine(), "set table_max = 0, or raise the limit");
        check(&["table_max=10"], &machine(), "table_max = 10");
        check(&["shards=3"], &machine(), "set pin = false");
        let small = Machine { memory_free_bytes: 100 << 20, memory_bytes: 1 << 30, ..machine() };
        check(&[], &small, "lower outbox_bytes_max");
        // What the refusal suggests is accepted.
        let Err(PlanError::Memory { connections_fit, .. }) =
            plan(&["connections_max=6000000"], &machine())
        else {
            panic!("6 million do not fit");
        };
        let setting = format!("connections_max={connections_fit}");
        assert!(plan(&[&setting], &machine()).is_ok());
    }

    #[test]
    fn memory_is_read_without_what_is_shared() {
        let text = "MemTotal: 1000 kB\nMemFree:  100 kB\nMemAvailable: 900 kB\nBuffers: 10 kB\n\
                    Cached: 50 kB\nSwapCached: 7 kB\nShmem: 20 kB\n";
        let expect = Memory { total_bytes: 1000 * 1024, free_bytes: 140 * 1024 };
        assert_eq!(Memory::parse(text), Some(expect));
        assert_eq!(Memory::parse("MemTotal: 1 kB\n"), None);
    }
}
