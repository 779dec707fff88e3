//! Hashes. The metadata counts the fields; each field is a member. A hash without fields does not
//! exist.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, Write, find, integer};
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::{self, Family, Hash, Kind};
use crate::store::view::{Direction, View};

type Outcome = Result<(), CommandError>;

/// A hash and when it expires.
pub fn find_hash(
    view: &dyn View,
    now_ms: u64,
    key: &[u8],
) -> Result<Option<(Hash, u64)>, CommandError> {
    let Some(live) = find(view, now_ms, key)? else { return Ok(None) };
    Ok(Some((Hash::decode(live.expect(Kind::Hash)?)?, live.header.expires_at_ms)))
}

impl Read<'_> {
    fn hash(&self) -> Result<Option<Hash>, CommandError> {
        Ok(find_hash(self.view, self.now_ms, &self.args[1])?.map(|(hash, _)| hash))
    }

    fn field(&self, hash: Hash, field: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        let member = layout::member_key(&self.args[1], hash.version, field);
        Ok(self.view.get(Family::Member, &member)?)
    }

    /// Visits all fields in order.
    fn each_field(&self, hash: Hash, mut visit: impl FnMut(&[u8], &[u8])) -> Outcome {
        let prefix = layout::member_prefix(&self.args[1], hash.version);
        let upper = layout::after_prefix(&prefix);
        self.view.scan(
            Family::Member,
            &prefix,
            &upper,
            Direction::Forward,
            &mut |member, value| {
                visit(&member[prefix.len()..], value);
                ControlFlow::Continue(())
            },
        )?;
        Ok(())
    }
}

pub fn hget(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let value = match read.hash()? {
        Some(hash) => read.field(hash, &read.args[2])?,
        None => None,
    };
    reply.optional_bulk(value.as_deref());
    Ok(())
}

pub fn hexists(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let found = match read.hash()? {
        Some(hash) => read.field(hash, &read.args[2])?.is_some(),
        None => false,
    };
    reply.integer(found.into());
    Ok(())
}

pub fn hmget(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let hash = read.hash()?;
    reply.array(read.args.len() - 2);
    for field in &read.args[2..] {
        match hash {
            Some(hash) => reply.optional_bulk(read.field(hash, field)?.as_deref()),
            None => reply.null(),
        }
    }
    Ok(())
}

pub fn hlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.integer(read.hash()?.map_or(0, |hash| hash.fields as i64));
    Ok(())
}

pub fn hstrlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let value = match read.hash()? {
        Some(hash) => read.field(hash, &read.args[2])?,
        None => None,
    };
    reply.count(value.map_or(0, |value| value.len()));
    Ok(())
}

pub fn hgetall(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.map(0);
        return Ok(());
    };
    reply.map(hash.fields as usize);
    read.each_field(hash, |field, value| {
        reply.bulk(field);
        reply.bulk(value);
    })
}

pub fn hkeys(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.array(0);
        return Ok(());
    };
    reply.array(hash.fields as usize);
    read.each_field(hash, |field, _| reply.bulk(field))
}

pub fn hvals(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(hash) = read.hash()? else {
        reply.array(0);
        return Ok(());
    };
    reply.array(hash.fields as usize);
    read.each_field(hash, |_, value| reply.bulk(value))
}

/// A hash that a command is changing.
struct Change {
    hash: Hash,
    expires_at_ms: u64,
}

impl Write<'_, '_> {
    /// The hash to change, a new one if there is none. Nothing is written yet.
    fn hash_to_change(&mut self) -> Result<Change, CommandError> {
        let found = find_hash(self.overlay, self.now_ms, &self.args[1])?;
        let (hash, expires_at_ms) = match found {
            Some(found) => found,
            None => (Hash { version: self.overlay.next_version(), fields: 0 }, 0),
        };
        Ok(Change { hash, expires_at_ms })
    }

    fn field(&self, change: &Change, field: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        if change.hash.fields == 0 {
            return Ok(None);
        }
        let member = layout::member_key(&self.args[1], change.hash.version, field);
        Ok(self.overlay.get(Family::Member, &member)?)
    }

    fn put_field(&mut self, change: &Change, field: &[u8], value: &[u8]) {
        let member = layout::member_key(&self.args[1], change.hash.version, field);
        self.overlay.put(Family::Member, member, value.to_vec());
    }

    /// Writes the metadata of the changed hash.
    fn put_hash(&mut self, change: &Change) {
        if change.hash.fields == 0 {
            self.delete_metadata(&self.args[1]);
        } else {
            self.put_metadata(&self.args[1], change.hash.encode(change.expires_at_ms));
        }
    }

    /// Sets the pairs after the key and returns how many fields are new.
    fn set_fields(&mut self, command: &'static str) -> Result<usize, CommandError> {
        if !self.args.len().is_multiple_of(2) {
            return Err(CommandError::Arguments(command));
        }
        let mut change = self.hash_to_change()?;
        let args = self.args;
        let mut new = BTreeSet::new();
        for pair in args[2..].chunks_exact(2) {
            if self.field(&change, &pair[0])?.is_none() {
                new.insert(&pair[0]);
            }
        }
        for pair in args[2..].chunks_exact(2) {
            self.put_field(&change, &pair[0], &pair[1]);
        }
        change.hash.fields += new.len() as u64;
        self.put_hash(&change);
        Ok(new.len())
    }
}

pub fn hset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let new = write.set_fields("hset")?;
    reply.count(new);
    Ok(())
}

pub fn hmset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    write.set_fields("hmset")?;
    reply.ok();
    Ok(())
}

pub fn hsetnx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let mut change = write.hash_to_change()?;
    let (field, value) = (&write.args[2], &write.args[3]);
    let is_new = write.field(&change, field)?.is_none();
    if is_new {
        write.put_field(&change, field, value);
        change.hash.fields += 1;
        write.put_hash(&change);
    }
    reply.integer(is_new.into());
    Ok(())
}

pub fn hdel(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let mut change = write.hash_to_change()?;
    let args = write.args;
    let mut gone = BTreeSet::new();
    for field in &args[2..] {
        if write.field(&change, field)?.is_some() {
            gone.insert(field);
        }
    }
    for field in &gone {
        let member = layout::member_key(&args[1], change.hash.version, field);
        write.overlay.delete(Family::Member, member);
    }
    if !gone.is_empty() {
        change.hash.fields -= gone.len() as u64;
        write.put_hash(&change);
    }
    reply.count(gone.len());
    Ok(())
}

pub fn hincrby(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let by = integer(&write.args[3])?;
    let mut change = write.hash_to_change()?;
    let field = &write.args[2];
    let stored = write.field(&change, field)?;
    let current = match &stored {
        Some(text) => resp::integer(text).ok_or(CommandError::HashNotInteger)?,
        None => 0,
    };
    let value = current.checked_add(by).ok_or(CommandError::Overflow)?;
    let mut text = Vec::with_capacity(20);
    resp::put_integer(&mut text, value);
    write.put_field(&change, field, &text);
    change.hash.fields += u64::from(stored.is_none());
    write.put_hash(&change);
    reply.integer(value);
    Ok(())
}
