//! MEMORY: what a key takes, and where the memory of the server is.

use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, integer, is_word, put_help, subcommand};
use crate::process::Usage;
use crate::resp::reply::Reply;
use crate::store::layout::{self, Family};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("memory|doctor", 2, doctor),
    ("memory|help", 2, help),
    ("memory|stats", 2, stats),
    ("memory|usage", -3, usage),
];

/// Members of a collection that are added up; a larger one is shown with what these take.
const MEMBERS_MAX: usize = 100_000;

pub fn memory(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    subcommand(read.args, COMMANDS)?(read, reply)
}

/// Bytes on disk before compression, since values are not kept in memory. SAMPLES is taken and means
/// nothing: all members count.
fn usage(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match &read.args[3..] {
        [] => {}
        [word, count] if is_word(word, "samples") => {
            if integer(count)? < 0 {
                return Err(CommandError::Syntax);
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    let key = &read.args[2];
    let Some(live) = read.find(key)? else {
        reply.null();
        return Ok(());
    };
    let mut bytes = layout::metadata_key(key).len() + live.metadata.len();
    if let (_, Some(version)) = layout::version_of(&live.metadata)? {
        let prefix = layout::member_prefix(key, version);
        let upper = layout::after_prefix(&prefix);
        let mut members = 0;
        let visit = &mut |member: &[u8], value: &[u8]| {
            bytes += member.len() + value.len();
            members += 1;
            if members < MEMBERS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        read.view.scan(Family::Member, &prefix, &upper, Direction::Forward, visit)?;
    }
    reply.count(bytes);
    Ok(())
}

fn stats(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let usage = Usage::now();
    let database = &read.shared.database;
    let config = &read.shared.config;
    let facts = [
        ("peak.allocated", usage.resident_bytes_peak),
        ("total.allocated", usage.resident_bytes),
        ("keys.count", database.property("rocksdb.estimate-num-keys")),
        ("block-cache.bytes", database.property_of_one("rocksdb.block-cache-usage")),
        ("block-cache.bytes-max", (config.cache_mib as u64) << 20),
        ("rows.bytes", database.rows().bytes()),
        ("rows.bytes-max", (config.rows_mib as u64) << 20),
        ("memtables.bytes", database.property("rocksdb.cur-size-all-mem-tables")),
        ("table-readers.bytes", database.property("rocksdb.estimate-table-readers-mem")),
        ("dataset.disk-bytes", database.property("rocksdb.live-sst-files-size")),
    ];
    reply.map(facts.len());
    for (name, value) in facts {
        reply.bulk(name.as_bytes());
        reply.integer(value as i64);
    }
    Ok(())
}

fn doctor(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let database = &read.shared.database;
    let configured = (read.shared.config.cache_mib as u64) << 20;
    let memtables = database.property("rocksdb.cur-size-all-mem-tables");
    let rows = database.rows().bytes();
    let used = Usage::now().resident_bytes;
    let text = format!(
        "The process has {used} bytes of memory: up to {configured} of block cache (cache_mib), \
         {rows} in single rows (rows_mib), {memtables} in memtables (memtable_mib), the rest for connections and their answers. \
         Values are on disk; MEMORY USAGE shows what they take there.\n"
    );
    reply.bulk(text.as_bytes());
    Ok(())
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "MEMORY",
        &[
            "DOCTOR",
            "    Where the memory of the server is, in words.",
            "STATS",
            "    The same in numbers.",
            "USAGE <key> [SAMPLES <count>]",
            "    Bytes that a key takes on disk, before compression.",
        ],
    );
    Ok(())
}
