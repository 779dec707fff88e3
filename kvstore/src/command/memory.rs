//! MEMORY: what a key takes, and where the memory of the server is.

use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, integer, is_word, put_help, subcommand};
use crate::memory::{self, Part};
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
    let (usage, database) = (Usage::now(), &read.shared.database);
    let parts = memory::parts(read.shared);
    let all = [
        ("peak.allocated", usage.resident_bytes_peak),
        ("total.allocated", usage.resident_bytes),
        ("keys.count", database.property("rocksdb.estimate-num-keys")),
        ("dataset.disk-bytes", database.files_bytes()),
    ];
    let mut facts: Vec<(String, u64)> =
        all.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    for part in parts {
        let name = part.name.replace('_', "-");
        facts.push((format!("{name}.bytes"), part.bytes));
        facts.extend(part.bytes_max.map(|max| (format!("{name}.bytes-max"), max)));
    }
    reply.map(facts.len());
    for (name, value) in facts {
        reply.bulk(name.as_bytes());
        reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }
    Ok(())
}

fn doctor(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let mut text = format!("The process has {} bytes of memory.\n", Usage::now().resident_bytes);
    for part in memory::parts(read.shared) {
        let Part { name, bytes, by, .. } = part;
        text += &format!("{name}: {bytes} bytes, bounded by {by}\n");
    }
    text += "Values are on disk; MEMORY USAGE shows what they take there.\n";
    reply.verbatim(text.as_bytes());
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
