//! INFO: what the server says about itself, in the sections and under the names that clients and
//! exporters know from Redis. Facts that Redis does not have stand at the end of their section.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::CommandError;
use super::{Read, is_word};
use crate::memory;
use crate::process::Usage;
use crate::resp::reply::Reply;
use crate::shared::REDIS_VERSION;
use crate::store::layout::{self, Family, Header};
use crate::store::spaces::{DATABASES, Selected};
use crate::store::view::{Direction, Frozen, View};

type Outcome = Result<(), CommandError>;
type Section = fn(&Read<'_>, &mut String);

/// Names, whether it is shown when no section is asked for, and what it says.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Persistence", true, persistence),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("CPU", true, cpu),
    ("Modules", true, modules),
    ("Commandstats", false, commandstats),
    ("Errorstats", true, errorstats),
    ("Latencystats", false, latencystats),
    ("Cluster", true, cluster),
    ("Keyspace", true, keyspace),
];

/// Keys of one database that are counted for INFO; a larger one is estimated.
const KEYS_COUNTED_MAX: u64 = 20_000;

pub fn info(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let asked = &read.args[1..];
    let is_asked = |name: &str| asked.iter().any(|word| is_word(word, name));
    let all = is_asked("all") || is_asked("everything");
    let defaults = asked.is_empty() || is_asked("default");
    let mut text = String::new();
    for (name, is_default, put) in SECTIONS {
        if all || defaults && *is_default || is_asked(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            put_line(&mut text, format_args!("# {name}"));
            put(read, &mut text);
        }
    }
    reply.verbatim(text.as_bytes());
    Ok(())
}

fn put_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    write!(text, "{line}\r\n").expect("writing to memory does not fail");
}

macro_rules! facts {
    ($text:ident, $($name:literal: $value:expr,)*) => {
        $(put_line($text, format_args!(concat!($name, ":{}"), $value));)*
    };
}

fn server(read: &Read<'_>, text: &mut String) {
    let shared = read.shared;
    let uptime_s = shared.uptime().as_secs();
    let port = shared.config.listen.rsplit_once(':').map_or("0", |(_, port)| port);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let executable = std::env::current_exe().unwrap_or_default();
    facts!(text,
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": 0,
        "redis_mode": "standalone",
        "os": std::env::consts::OS,
        "arch_bits": usize::BITS,
        "multiplexing_api": "epoll",
        "process_id": std::process::id(),
        "process_supervised": "no",
        "run_id": shared.run_id(),
        "tcp_port": port,
        "server_time_usec": since.as_micros(),
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s / 86_400,
        "hz": 10,
        "configured_hz": 10,
        "lru_clock": since.as_secs() & 0xff_ffff,
        "executable": executable.display(),
        "config_file": "",
        "io_threads_active": 0,
        "server_name": "hawser-kv",
        "hawser_kv_version": env!("CARGO_PKG_VERSION"),
    );
}

fn clients(read: &Read<'_>, text: &mut String) {
    let (metrics, totals) = (&read.shared.metrics, read.shared.clients.totals());
    facts!(text,
        "connected_clients": metrics.connections.load(Relaxed),
        "cluster_connections": 0,
        "maxclients": read.shared.live.connections_max(),
        "client_recent_max_input_buffer": totals.input_bytes_largest,
        "client_recent_max_output_buffer": totals.output_bytes_largest,
        "blocked_clients": metrics.blocked_clients.load(Relaxed),
        "tracking_clients": 0,
        "clients_in_timeout_table": 0,
        "subscribed_clients": totals.subscribed,
    );
}

fn memory(read: &Read<'_>, text: &mut String) {
    let usage = Usage::now();
    let (used, peak) = (usage.resident_bytes, usage.resident_bytes_peak);
    facts!(text,
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": used,
        "used_memory_rss_human": human(used),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_lua": 0,
        "used_memory_scripts": 0,
        "maxmemory": read.shared.live.memory_bytes_max(),
        "maxmemory_human": human(read.shared.live.memory_bytes_max()),
        "maxmemory_policy": "noeviction",
        "mem_fragmentation_ratio": "1.00",
        "mem_allocator": "mimalloc",
        "lazyfree_pending_objects": 0,
        "mem_clients_normal": read.shared.clients.totals().input_bytes,
        "mem_aof_buffer": read.shared.metrics.group_bytes.load(Relaxed),
    );
    let parts = memory::parts(read.shared);
    let known: u64 = parts.iter().map(|part| part.bytes).sum();
    for part in parts {
        put_line(text, format_args!("{}_bytes:{}", part.name, part.bytes));
        if let Some(bytes_max) = part.bytes_max {
            put_line(text, format_args!("{}_bytes_max:{bytes_max}", part.name));
        }
    }
    facts!(text, "other_bytes": used.saturating_sub(known),);
}

/// As Redis writes sizes for people.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    let mut value = bytes as f64;
    let mut unit = None;
    for name in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, Some(name));
    }
    unit.map_or_else(|| format!("{bytes}B"), |unit| format!("{value:.2}{unit}"))
}

fn persistence(read: &Read<'_>, text: &mut String) {
    let (metrics, database) = (read.shared.metrics.snapshot(), &read.shared.database);
    let trouble = read.shared.trouble();
    let status = if trouble.is_none() { "ok" } else { "err" };
    let (log_files, log_disk_bytes) = read.shared.log_files();
    facts!(text,
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": 0,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "aof_enabled": 1,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": status,
        "log_groups": metrics.groups,
        "log_bytes": metrics.log_bytes,
        "log_micros": metrics.log_micros,
        "apply_micros": metrics.apply_micros,
        "log_files": log_files,
        "log_disk_bytes": log_disk_bytes,
        "checkpoints": metrics.checkpoints,
        "checkpoint_failures": metrics.checkpoint_failures,
        "writes_refused": metrics.writes_refused,
        "writes_trouble": trouble.unwrap_or_default(),
        "disk_bytes": database.files_bytes(),
    );
}

fn stats(read: &Read<'_>, text: &mut String) {
    let metrics = read.shared.metrics.snapshot();
    let errors: u64 = read.shared.stats.errors().values().sum();
    let commands = metrics.read_commands + metrics.writer_commands;
    facts!(text,
        "total_connections_received": metrics.accepted_total,
        "total_commands_processed": commands,
        "instantaneous_ops_per_sec": read.shared.commands_per_second(commands),
        "rejected_connections": metrics.refused_total,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": read.shared.database.dropped().expired_keys.load(Relaxed),
        "evicted_keys": 0,
        "keyspace_hits": metrics.keyspace_hits,
        "keyspace_misses": metrics.keyspace_misses,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "tracking_total_keys": 0,
        "unexpected_error_replies": 0,
        "total_error_replies": errors,
        "total_reads_processed": metrics.read_commands,
        "total_writes_processed": metrics.writer_commands,
        "protocol_errors": metrics.protocol_errors_total,
    );
}

fn replication(read: &Read<'_>, text: &mut String) {
    facts!(text,
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": read.shared.run_id(),
        "master_replid2": "0".repeat(40),
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    );
}

fn cpu(_: &Read<'_>, text: &mut String) {
    let usage = Usage::now();
    for (name, seconds) in [
        ("used_cpu_sys", usage.system_s),
        ("used_cpu_user", usage.user_s),
        ("used_cpu_sys_children", usage.children_system_s),
        ("used_cpu_user_children", usage.children_user_s),
    ] {
        put_line(text, format_args!("{name}:{seconds:.6}"));
    }
}

fn modules(_: &Read<'_>, _: &mut String) {}

fn commandstats(read: &Read<'_>, text: &mut String) {
    for row in read.shared.stats.rows() {
        let (calls, micros) = (row.times.calls(), row.times.micros);
        let per_call = if calls == 0 { 0.0 } else { micros as f64 / calls as f64 };
        put_line(
            text,
            format_args!(
                "cmdstat_{}:calls={calls},usec={micros},usec_per_call={per_call:.2},\
                 rejected_calls={},failed_calls={}",
                row.name, row.rejected, row.failed
            ),
        );
    }
}

fn errorstats(read: &Read<'_>, text: &mut String) {
    for (code, count) in read.shared.stats.errors() {
        put_line(text, format_args!("errorstat_{code}:count={count}"));
    }
}

fn latencystats(read: &Read<'_>, text: &mut String) {
    for row in read.shared.stats.rows().into_iter().filter(|row| row.times.calls() > 0) {
        let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|percent| row.times.percentile(percent));
        put_line(
            text,
            format_args!(
                "latency_percentiles_usec_{}:p50={p50}.000,p99={p99}.000,p99.9={p999}.000",
                row.name
            ),
        );
    }
}

fn cluster(_: &Read<'_>, text: &mut String) {
    facts!(text, "cluster_enabled": 0,);
}

/// The databases of the namespace that have keys.
fn keyspace(read: &Read<'_>, text: &mut String) {
    for database in 0..DATABASES {
        let selected = Selected { database, ..read.view.selected() };
        let view = Frozen::new(&read.shared.database, selected);
        let (lower, upper) = layout::whole_space();
        let (mut keys, mut expires, mut left_ms) = (0, 0, 0);
        let visit = &mut |_: &[u8], metadata: &[u8]| {
            if let Ok((header, _)) = Header::decode(metadata)
                && !header.is_expired(read.now_ms)
            {
                keys += 1;
                expires += u64::from(header.expires_at_ms != 0);
                left_ms += header.expires_at_ms.saturating_sub(read.now_ms);
            }
            let full = keys == KEYS_COUNTED_MAX;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let scanned = view.scan(Family::Metadata, &lower, &upper, Direction::Forward, visit);
        if scanned.is_err() || keys == 0 {
            continue;
        }
        let average_ms = left_ms.checked_div(expires).unwrap_or(0);
        let estimate = match keys {
            KEYS_COUNTED_MAX => {
                read.shared.database.property("rocksdb.estimate-num-keys").max(keys)
            }
            counted => counted,
        };
        put_line(
            text,
            format_args!("db{database}:keys={estimate},expires={expires},avg_ttl={average_ms}"),
        );
    }
}
