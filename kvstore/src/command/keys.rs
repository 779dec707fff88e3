//! Whole keys: DEL, EXISTS, TOUCH, TYPE, RENAME, COPY, FLUSHALL, and the commands between databases,
//! of which there is one.

use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, Write, integer, is_word, wait};
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::{self, Family};
use crate::store::view::{Direction, View};

type Outcome = Result<(), CommandError>;

/// Members hold the name of their key, so renaming a collection copies it, in one group.
const RENAME_MEMBERS_MAX: u64 = 1 << 20;

pub fn del(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let mut deleted = 0;
    for key in &write.args[1..] {
        if write.find(key)?.is_some() {
            write.delete_metadata(key);
            deleted += 1;
        }
    }
    reply.integer(deleted);
    Ok(())
}

pub fn exists(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let mut found = 0;
    for key in &read.args[1..] {
        found += i64::from(read.find(key)?.is_some());
    }
    reply.integer(found);
    Ok(())
}

pub fn kind(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let live = read.find(&read.args[1])?;
    reply.simple(live.map_or("none", |live| live.header.kind.name()));
    Ok(())
}

pub fn rename(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    rename_key(write, true)?;
    reply.ok();
    Ok(())
}

pub fn renamenx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let renamed = rename_key(write, false)?;
    reply.integer(renamed.into());
    Ok(())
}

fn rename_key(write: &mut Write<'_, '_>, overwrite: bool) -> Result<bool, CommandError> {
    let (from, to) = (&write.args[1], &write.args[2]);
    let live = write.find(from)?.ok_or(CommandError::NoSuchKey)?;
    if from == to {
        return Ok(overwrite);
    }
    if !overwrite && write.find(to)?.is_some() {
        return Ok(false);
    }
    copy_value(write, from, live.metadata, to)?;
    write.delete_metadata(from);
    Ok(true)
}

/// Gives `to` what `from` holds, over whatever it holds itself.
fn copy_value(write: &mut Write<'_, '_>, from: &[u8], mut metadata: Vec<u8>, to: &[u8]) -> Outcome {
    if let (_, Some(version)) = layout::version_of(&metadata)? {
        let new_version = write.overlay.next_version();
        for (name, value) in members(write, from, version, &metadata)? {
            write.overlay.put(Family::Member, layout::member_key(to, new_version, &name), value);
        }
        metadata = layout::with_version(&metadata, new_version)?;
    }
    write.put_metadata(to, metadata);
    Ok(())
}

pub fn copy(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (from, to) = (&write.args[1], &write.args[2]);
    let mut replace = false;
    let mut rest = &write.args[3..];
    while let Some((word, tail)) = rest.split_first() {
        rest = match tail {
            _ if is_word(word, "replace") => {
                replace = true;
                tail
            }
            [index, tail @ ..] if is_word(word, "db") => {
                own_database(index)?;
                tail
            }
            _ => return Err(CommandError::Syntax),
        };
    }
    if from == to {
        return Err(CommandError::SameObject);
    }
    let live = write.find(from)?;
    let is_taken = !replace && write.find(to)?.is_some();
    let Some(live) = live.filter(|_| !is_taken) else {
        reply.integer(0);
        return Ok(());
    };
    copy_value(write, from, live.metadata, to)?;
    reply.integer(1);
    Ok(())
}

/// There is one database.
fn own_database(index: &[u8]) -> Outcome {
    match integer(index)? {
        0 => Ok(()),
        _ => Err(CommandError::DatabaseOutOfRange),
    }
}

/// To the same database, which is an error, since there is no other.
pub fn move_key(write: &mut Write<'_, '_>, _: &mut Reply) -> Outcome {
    own_database(&write.args[2])?;
    Err(CommandError::SameObject)
}

pub fn swapdb(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let first = resp::integer(&write.args[1]).ok_or(CommandError::FirstDatabaseInvalid)?;
    let second = resp::integer(&write.args[2]).ok_or(CommandError::SecondDatabaseInvalid)?;
    if (first, second) != (0, 0) {
        return Err(CommandError::DatabaseOutOfRange);
    }
    reply.ok();
    Ok(())
}

/// There are no replicas, so nothing comes by waiting for them.
pub fn wait_for_replicas(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    integer(&read.args[1])?;
    wait::timeout_ms(&read.args[2])?;
    reply.integer(0);
    Ok(())
}

type Members = Vec<(Vec<u8>, Vec<u8>)>;

fn members(
    write: &Write<'_, '_>,
    key: &[u8],
    version: u64,
    metadata: &[u8],
) -> Result<Members, CommandError> {
    let prefix = layout::member_prefix(key, version);
    let Some((lower, upper)) = layout::member_bounds(key, metadata)? else { return Ok(Vec::new()) };
    let bytes_max = write.shared.config.changes_bytes_max();
    let (mut found, mut bytes) = (Vec::new(), 0);
    let visit = &mut |member: &[u8], value: &[u8]| {
        found.push((member[prefix.len()..].to_vec(), value.to_vec()));
        bytes += member.len() + value.len();
        if found.len() as u64 > RENAME_MEMBERS_MAX || bytes > bytes_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    write.overlay.scan(Family::Member, &lower, &upper, Direction::Forward, visit)?;
    if found.len() as u64 > RENAME_MEMBERS_MAX {
        return Err(CommandError::RenameTooLarge(RENAME_MEMBERS_MAX));
    }
    if bytes > bytes_max {
        return Err(CommandError::ChangesTooLarge(bytes_max));
    }
    Ok(found)
}

pub fn flush(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    match &write.args[1..] {
        [] => {}
        [mode] if is_word(mode, "async") || is_word(mode, "sync") => {}
        _ => return Err(CommandError::Syntax),
    }
    write.overlay.clear();
    reply.ok();
    Ok(())
}
