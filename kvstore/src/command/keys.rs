//! Whole keys: DEL, EXISTS, TYPE, RENAME, FLUSHALL.

use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, Write, is_word};
use crate::resp::reply::Reply;
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
    let mut metadata = live.metadata;
    if let (_, Some(version)) = layout::version_of(&metadata)? {
        let new_version = write.overlay.next_version();
        for (name, value) in members(write, from, version, &metadata)? {
            write.overlay.put(Family::Member, layout::member_key(to, new_version, &name), value);
        }
        metadata = layout::with_version(&metadata, new_version)?;
    }
    write.delete_metadata(from);
    write.put_metadata(to, metadata);
    Ok(true)
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
