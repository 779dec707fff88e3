//! What `/metrics` says, in Prometheus's text format. `kvstore/METRICS.md` is the same as a table, which a
//! test keeps complete.
//!
//! Making it looks at every connection and at the files of the log, and asks RocksDB some thirty numbers:
//! a few milliseconds with 10,000 connections.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use rocksdb::statistics::Ticker;

use crate::histogram::Counts;
use crate::memory;
use crate::process::Usage;
use crate::shared::Shared;

/// Levels of RocksDB's files.
const LEVELS: usize = 7;

/// Ends of buckets are powers of two of microseconds; of these every second one is told, from 4 us on.
const BUCKET_STEP: usize = 2;

/// Name without `hawser_kv_`, kind, meaning and value.
type Simple = (&'static str, &'static str, &'static str, u64);

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP hawser_kv_{name} {help}"));
        self.put(format_args!("# TYPE hawser_kv_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        match labels {
            "" => self.put(format_args!("hawser_kv_{name} {value}")),
            _ => self.put(format_args!("hawser_kv_{name}{{{labels}}} {value}")),
        }
    }

    fn simple(&mut self, (name, kind, help, value): Simple) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, labels: &str, counts: &Counts) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        for (micros, below) in counts.below().skip(2).step_by(BUCKET_STEP) {
            let end_s = micros as f64 / 1e6;
            self.sample(&bucket, &format!("{labels}{comma}le=\"{end_s}\""), below);
        }
        self.sample(&bucket, &format!("{labels}{comma}le=\"+Inf\""), counts.calls());
        self.sample(&format!("{name}_sum"), labels, counts.micros as f64 / 1e6);
        self.sample(&format!("{name}_count"), labels, counts.calls());
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to memory does not fail");
    }
}

pub fn text(shared: &Shared) -> String {
    let mut text = Text::default();
    for (name, kind, help, value) in shared.metrics.snapshot().rows() {
        text.simple((name, kind, help.trim(), value));
    }
    process(shared, &mut text);
    commands(shared, &mut text);
    memory_parts(shared, &mut text);
    log(shared, &mut text);
    database(shared, &mut text);
    text.0
}

fn process(shared: &Shared, text: &mut Text) {
    let usage = Usage::now();
    text.family("info", "gauge", "1, with the version.");
    text.sample("info", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    text.simple(("uptime_seconds", "gauge", "Since the start.", shared.uptime().as_secs()));
    text.simple(("resident_bytes", "gauge", "Memory of the process.", usage.resident_bytes));
    text.family("cpu_seconds_total", "counter", "Processor time of the process.");
    text.sample("cpu_seconds_total", "mode=\"user\"", usage.user_s);
    text.sample("cpu_seconds_total", "mode=\"system\"", usage.system_s);
    let refused = shared.trouble().is_some();
    let help = "1 while writes are refused; /health says why.";
    text.simple(("writes_are_refused", "gauge", help, refused.into()));
    let clients = shared.clients.totals();
    let max = shared.live.connections_max() as u64;
    text.simple(("connections_max", "gauge", "Connections there may be (maxclients).", max));
    let help = "Connections that have subscribed to something.";
    text.simple(("subscribed_clients", "gauge", help, clients.subscribed));
}

fn commands(shared: &Shared, text: &mut Text) {
    let rows = shared.stats.rows();
    let ran: Vec<_> = rows.iter().filter(|row| row.times.calls() > 0).collect();
    let name = "command_seconds";
    text.family(name, "histogram", "Time of running each command, without waiting for the disk.");
    for row in &ran {
        text.histogram(name, &format!("command=\"{}\"", row.name), &row.times);
    }
    let name = "commands_failed_total";
    text.family(name, "counter", "Commands that ran and answered an error.");
    for row in &ran {
        text.sample(name, &format!("command=\"{}\"", row.name), row.failed);
    }
    let name = "commands_rejected_total";
    text.family(name, "counter", "Commands that were not run: number of words, permissions.");
    for row in rows.iter().filter(|row| row.rejected > 0) {
        text.sample(name, &format!("command=\"{}\"", row.name), row.rejected);
    }
    text.family("errors_total", "counter", "Errors answered, by their first word.");
    for (code, count) in shared.stats.errors() {
        // Codes are words of ours; should one ever quote a client, it must not break the format.
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
        text.sample("errors_total", &format!("code=\"{code}\""), count);
    }
}

fn memory_parts(shared: &Shared, text: &mut Text) {
    let parts = memory::parts(shared);
    text.family("memory_bytes", "gauge", "Where the memory goes, as in INFO memory.");
    for part in &parts {
        text.sample("memory_bytes", &format!("part=\"{}\"", part.name), part.bytes);
    }
    text.family("memory_max_bytes", "gauge", "What each part may grow to.");
    for part in &parts {
        if let Some(bytes_max) = part.bytes_max {
            text.sample("memory_max_bytes", &format!("part=\"{}\"", part.name), bytes_max);
        }
    }
}

fn log(shared: &Shared, text: &mut Text) {
    let name = "log_sync_seconds";
    text.family(
        name,
        "histogram",
        "Time of each write and sync of the log; its count is the syncs.",
    );
    text.histogram(name, "", &shared.latencies.log_sync.counts());
    let name = "apply_seconds";
    text.family(name, "histogram", "Time of applying each group to the database.");
    text.histogram(name, "", &shared.latencies.db_apply.counts());
    let (files, bytes) = shared.log_files();
    text.simple((
        "log_files",
        "gauge",
        "Files of the log on the disk, a spare one included.",
        files,
    ));
    text.simple(("log_disk_bytes", "gauge", "Their bytes.", bytes));
}

fn database(shared: &Shared, text: &mut Text) {
    let database = &shared.database;
    let property = |name: &str| database.property(&format!("rocksdb.{name}"));
    let of_one = |name: &str| database.property_of_one(&format!("rocksdb.{name}"));
    let dropped = database.dropped();
    let (expired, members) = (dropped.expired_keys.load(Relaxed), dropped.members.load(Relaxed));
    let simple: [Simple; 21] = [
        (
            "keys_estimate",
            "gauge",
            "Rows in the database, members included.",
            property("estimate-num-keys"),
        ),
        ("expired_keys_total", "counter", "Expired keys that compactions have dropped.", expired),
        (
            "dropped_members_total",
            "counter",
            "Members of deleted or expired collections that compactions have dropped.",
            members,
        ),
        (
            "evicted_keys_total",
            "counter",
            "Always 0: nothing is evicted, writes are refused at maxmemory.",
            0,
        ),
        (
            "cache_hits_total",
            "counter",
            "Blocks that were in the block cache.",
            database.ticker(Ticker::BlockCacheHit),
        ),
        (
            "cache_misses_total",
            "counter",
            "Blocks that were read from files.",
            database.ticker(Ticker::BlockCacheMiss),
        ),
        (
            "bloom_useful_total",
            "counter",
            "Reads of files that a filter has saved.",
            database.ticker(Ticker::BloomFilterUseful),
        ),
        (
            "flush_write_bytes_total",
            "counter",
            "Bytes written by flushes of memtables.",
            database.ticker(Ticker::FlushWriteBytes),
        ),
        (
            "compaction_read_bytes_total",
            "counter",
            "Bytes read by compactions.",
            database.ticker(Ticker::CompactReadBytes),
        ),
        (
            "compaction_write_bytes_total",
            "counter",
            "Bytes written by compactions.",
            database.ticker(Ticker::CompactWriteBytes),
        ),
        (
            "stall_micros_total",
            "counter",
            "Microseconds that writes were held back for compactions.",
            database.ticker(Ticker::StallMicros),
        ),
        (
            "write_is_stopped",
            "gauge",
            "1 while writes wait for compactions.",
            of_one("is-write-stopped"),
        ),
        (
            "delayed_write_bytes_per_second",
            "gauge",
            "What writes are slowed to; 0 when they are not.",
            of_one("actual-delayed-write-rate"),
        ),
        (
            "pending_compaction_bytes",
            "gauge",
            "What compactions have yet to rewrite.",
            property("estimate-pending-compaction-bytes"),
        ),
        (
            "running_compactions",
            "gauge",
            "Compactions that run.",
            of_one("num-running-compactions"),
        ),
        ("running_flushes", "gauge", "Flushes that run.", of_one("num-running-flushes")),
        (
            "immutable_memtables",
            "gauge",
            "Full memtables that wait to be flushed.",
            property("num-immutable-mem-table"),
        ),
        (
            "table_bytes",
            "gauge",
            "Bytes of the table files in use.",
            property("live-sst-files-size"),
        ),
        ("blob_files", "gauge", "Files of large values.", property("num-blob-files")),
        ("blob_bytes", "gauge", "Their bytes.", property("total-blob-file-size")),
        (
            "background_errors_total",
            "counter",
            "Flushes and compactions that failed.",
            of_one("background-errors"),
        ),
    ];
    simple.into_iter().for_each(|row| text.simple(row));
    text.family("table_files", "gauge", "Table files of each level.");
    for level in 0..LEVELS {
        text.sample("table_files", &format!("level=\"{level}\""), database.files_at_level(level));
    }
}
