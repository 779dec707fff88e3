//! Whole keys: DEL, EXISTS, TOUCH, TYPE, RENAME, COPY, FLUSHALL, and the commands between databases.

use std::ops::ControlFlow;

use super::basics::database;
use super::error::CommandError;
use super::{Live, Read, Write, integer, is_word, wait};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Family};
use crate::store::spaces::{DATABASES, Selected};
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
    let value = copied(write, from, live.metadata, to)?;
    put_copied(write, to, value);
    write.delete_metadata(from);
    Ok(true)
}

/// A value that is to be written somewhere else: its metadata and its members.
type Copied = (Vec<u8>, Members);

/// What `from` holds, as `to` would hold it.
fn copied(
    write: &mut Write<'_, '_>,
    from: &[u8],
    mut metadata: Vec<u8>,
    to: &[u8],
) -> Result<Copied, CommandError> {
    let mut found = Vec::new();
    if let (_, Some(version)) = layout::version_of(&metadata)? {
        let new_version = write.overlay.next_version();
        for (name, value) in members(write, from, version, &metadata)? {
            found.push((layout::member_key(to, new_version, &name), value));
        }
        metadata = layout::with_version(&metadata, new_version)?;
    }
    Ok((metadata, found))
}

fn put_copied(write: &mut Write<'_, '_>, to: &[u8], (metadata, members): Copied) {
    for (member, value) in members {
        write.overlay.put(Family::Member, member, value);
    }
    write.put_metadata(to, metadata);
}

pub fn copy(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (from, to) = (&write.args[1], &write.args[2]);
    let here = write.overlay.selected();
    let (mut replace, mut there) = (false, here);
    let mut rest = &write.args[3..];
    while let Some((word, tail)) = rest.split_first() {
        rest = match tail {
            _ if is_word(word, "replace") => {
                replace = true;
                tail
            }
            [index, tail @ ..] if is_word(word, "db") => {
                there.database = database(index)?;
                tail
            }
            _ => return Err(CommandError::Syntax),
        };
    }
    if from == to && here == there {
        return Err(CommandError::SameObject);
    }
    let live = write.find(from)?;
    let copied = copy_to(write, from, live, (there, to), replace)?;
    reply.integer(copied.into());
    Ok(())
}

/// Copies a key to one that may be in another database, and comes back.
fn copy_to(
    write: &mut Write<'_, '_>,
    from: &[u8],
    live: Option<Live>,
    (there, to): (Selected, &[u8]),
    replace: bool,
) -> Result<bool, CommandError> {
    let Some(live) = live else { return Ok(false) };
    let here = write.overlay.selected();
    let value = copied(write, from, live.metadata, to)?;
    write.overlay.select(there);
    let is_free = replace || write.find(to)?.is_none();
    if is_free {
        put_copied(write, to, value);
    }
    write.overlay.select(here);
    Ok(is_free)
}

pub fn move_key(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let from = write.overlay.selected();
    let to = Selected { database: database(&write.args[2])?, ..from };
    if from == to {
        return Err(CommandError::SameObject);
    }
    let key = &write.args[1];
    let live = write.find(key)?;
    let copied = copy_to(write, key, live, (to, key), false)?;
    if copied {
        write.delete_metadata(key);
    }
    reply.integer(copied.into());
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

pub fn swapdb(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let first = integer(&write.args[1]).map_err(|_| CommandError::FirstDatabaseInvalid)?;
    let second = integer(&write.args[2]).map_err(|_| CommandError::SecondDatabaseInvalid)?;
    let number = |number: i64| {
        let number = u8::try_from(number).ok().filter(|number| *number < DATABASES);
        number.ok_or(CommandError::DatabaseOutOfRange)
    };
    write.overlay.swap(number(first)?, number(second)?);
    reply.ok();
    Ok(())
}

pub fn flushdb(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    check_flush(write, reply)?;
    write.overlay.clear_database();
    Ok(())
}

pub fn flushall(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    check_flush(write, reply)?;
    write.overlay.clear_namespace();
    Ok(())
}

/// Dropping a space is one change whatever it holds, so there is no other way to do it.
fn check_flush(write: &Write<'_, '_>, reply: &mut Reply) -> Outcome {
    match &write.args[1..] {
        [] => {}
        [mode] if is_word(mode, "async") || is_word(mode, "sync") => {}
        _ => return Err(CommandError::Syntax),
    }
    reply.ok();
    Ok(())
}
