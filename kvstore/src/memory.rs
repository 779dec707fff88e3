//! Where the memory of the process goes, part by part, with what bounds each: INFO memory, MEMORY STATS
//! and `/metrics` show the same.
//!
//! Bytes of clients are as of the last turn of each. What the parts leave over is the program itself, the
//! stacks of its threads, what the allocator keeps, and 1 to 2 KiB for each connection.

use std::sync::atomic::Ordering::Relaxed;

use crate::shared::Shared;

/// Families of rows with data, and memtables of each, as `store::settings` has them.
const MEMTABLES_MAX: u64 = 2 * 4;

/// Bytes of one entry of SLOWLOG: 32 words of at most 128 bytes, and what they stand in.
const SLOWLOG_ENTRY_BYTES: u64 = 32 * (128 + 40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    pub bytes: u64,
    /// `None`: it is bounded by number and not by bytes; `by` says how.
    pub bytes_max: Option<u64>,
    /// What sets the bound.
    pub by: &'static str,
}

/// All parts, the largest possible first.
pub fn parts(shared: &Shared) -> Vec<Part> {
    let (config, database) = (&shared.config, &shared.database);
    let part = |name, bytes, bytes_max, by| Part { name, bytes, bytes_max: Some(bytes_max), by };
    let of_all = |each: usize| (shared.live.connections_max() as u64).saturating_mul(each as u64);
    let clients = shared.clients.totals();
    let request_bytes_max = config.request_bytes_max;
    vec![
        part("block_cache", database.cache_bytes(), mib(config.cache_mib), "cache_mib"),
        part("rows", database.rows().bytes(), mib(config.rows_mib), "rows_mib"),
        part(
            "memtables",
            database.property("rocksdb.cur-size-all-mem-tables"),
            MEMTABLES_MAX * mib(config.memtable_mib),
            "memtable_mib",
        ),
        Part {
            name: "table_readers",
            bytes: database.property("rocksdb.estimate-table-readers-mem"),
            bytes_max: None,
            by: "512 open files",
        },
        part(
            "client_input",
            clients.input_bytes,
            of_all(2 * request_bytes_max),
            "maxclients, request_bytes_max",
        ),
        part(
            "client_output",
            clients.output_bytes,
            of_all(config.output_bytes_max),
            "maxclients, output_bytes_max",
        ),
        part(
            "client_outbox",
            clients.outbox_bytes,
            of_all(config.outbox_bytes_max),
            "maxclients, outbox_bytes_max",
        ),
        part(
            "transactions",
            clients.queued_bytes,
            of_all(request_bytes_max),
            "maxclients, request_bytes_max",
        ),
        part(
            "writer_queue",
            shared.metrics.writer_queue_bytes.load(Relaxed),
            of_all(request_bytes_max),
            "maxclients, request_bytes_max",
        ),
        part(
            "group",
            shared.metrics.group_bytes.load(Relaxed),
            group_bytes_max(shared),
            "request_bytes_max",
        ),
        part(
            "slowlog",
            shared.slowlog.len() as u64 * SLOWLOG_ENTRY_BYTES,
            shared.live.slowlog_len_max() as u64 * SLOWLOG_ENTRY_BYTES,
            "slowlog-max-len",
        ),
    ]
}

/// A group ends when it is full, but one command may change as much again.
fn group_bytes_max(shared: &Shared) -> u64 {
    (crate::store::group::GROUP_BYTES_MAX + shared.config.changes_bytes_max()) as u64
}

fn mib(count: usize) -> u64 {
    (count as u64) << 20
}
