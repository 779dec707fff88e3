//! Hashes: members with values.

use std::collections::BTreeSet;

use super::error::CommandError;
use super::members::Members;
use super::{Read, Write, integer};
use crate::resp::extended::Extended;
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::Kind;

type Outcome = Result<(), CommandError>;

impl<'a> Read<'a> {
    fn hash(&self) -> Result<Option<Members<'a>>, CommandError> {
        self.members(Kind::Hash)
    }

    fn field(&self) -> Result<Option<Vec<u8>>, CommandError> {
        match self.hash()? {
            Some(hash) => hash.get(self.view, &self.args[2]),
            None => Ok(None),
        }
    }
}

pub fn hget(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.optional_bulk(read.field()?.as_deref());
    Ok(())
}

pub fn hexists(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.integer(read.field()?.is_some().into());
    Ok(())
}

pub fn hmget(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let hash = read.hash()?;
    reply.array(read.args.len() - 2);
    for field in &read.args[2..] {
        match &hash {
            Some(hash) => reply.optional_bulk(hash.get(read.view, field)?.as_deref()),
            None => reply.null(),
        }
    }
    Ok(())
}

pub fn hlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.integer(read.hash()?.map_or(0, |hash| hash.count as i64));
    Ok(())
}

pub fn hstrlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.count(read.field()?.map_or(0, |value| value.len()));
    Ok(())
}

pub fn hgetall(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.map(0);
        return Ok(());
    };
    reply.map(hash.count as usize);
    hash.each(read.view, |field, value| {
        reply.bulk(field);
        reply.bulk(value);
    })
}

pub fn hkeys(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.array(0);
        return Ok(());
    };
    reply.array(hash.count as usize);
    hash.each(read.view, |field, _| reply.bulk(field))
}

pub fn hvals(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.array(0);
        return Ok(());
    };
    reply.array(hash.count as usize);
    hash.each(read.view, |_, value| reply.bulk(value))
}

/// Sets the pairs after the key and returns how many fields are new.
fn set_fields(write: &mut Write<'_, '_>, command: &'static str) -> Result<usize, CommandError> {
    let args = write.args;
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::Arguments(command));
    }
    let mut hash = write.members_or_new(&args[1], Kind::Hash)?;
    let mut new = BTreeSet::new();
    for pair in args[2..].chunks_exact(2) {
        if !hash.contains(write.overlay, &pair[0])? {
            new.insert(&pair[0]);
        }
    }
    for pair in args[2..].chunks_exact(2) {
        hash.put(write.overlay, &pair[0], &pair[1]);
    }
    hash.count += new.len() as u64;
    hash.save(write.overlay);
    Ok(new.len())
}

pub fn hset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let new = set_fields(write, "hset")?;
    reply.count(new);
    Ok(())
}

pub fn hmset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    set_fields(write, "hmset")?;
    reply.ok();
    Ok(())
}

pub fn hsetnx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let mut hash = write.members_or_new(&args[1], Kind::Hash)?;
    let is_new = !hash.contains(write.overlay, &args[2])?;
    if is_new {
        hash.put(write.overlay, &args[2], &args[3]);
        hash.count += 1;
        hash.save(write.overlay);
    }
    reply.integer(is_new.into());
    Ok(())
}

pub fn hdel(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let Some(mut hash) = write.members(&args[1], Kind::Hash)? else {
        reply.integer(0);
        return Ok(());
    };
    let mut gone = BTreeSet::new();
    for field in &args[2..] {
        if hash.contains(write.overlay, field)? {
            gone.insert(field);
        }
    }
    hash.take_out(write.overlay, gone.iter().map(|field| &field[..]));
    reply.count(gone.len());
    Ok(())
}

pub fn hincrby(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let by = integer(&args[3])?;
    let mut hash = write.members_or_new(&args[1], Kind::Hash)?;
    let stored = hash.get(write.overlay, &args[2])?;
    let current = match &stored {
        Some(text) => resp::integer(text).ok_or(CommandError::HashNotInteger)?,
        None => 0,
    };
    let value = current.checked_add(by).ok_or(CommandError::Overflow)?;
    let mut text = Vec::with_capacity(20);
    resp::put_integer(&mut text, value);
    hash.put(write.overlay, &args[2], &text);
    hash.count += u64::from(stored.is_none());
    hash.save(write.overlay);
    reply.integer(value);
    Ok(())
}

pub fn hincrbyfloat(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let by = Extended::parse(&args[3]).ok_or(CommandError::NotFloat)?;
    if by.is_infinite() {
        return Err(CommandError::Infinite);
    }
    let mut hash = write.members_or_new(&args[1], Kind::Hash)?;
    let stored = hash.get(write.overlay, &args[2])?;
    let current = Extended::parse(stored.as_deref().unwrap_or(b"0"));
    let current = current.ok_or(CommandError::HashNotFloat)?;
    let text = current.plus(by).ok_or(CommandError::IncrementInfinite)?.text();
    hash.put(write.overlay, &args[2], text.as_bytes());
    hash.count += u64::from(stored.is_none());
    hash.save(write.overlay);
    reply.bulk(text.as_bytes());
    Ok(())
}
