//! ZPOPMIN, ZPOPMAX, ZMPOP and those that wait: the members at an end, taken out.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Scored, put_pair};
use crate::command::error::CommandError;
use crate::command::members::Members;
use crate::command::wait::{self, Flow, Nil};
use crate::command::{Write, is_word};
use crate::resp::reply::{Protocol, Reply};
use crate::resp::{self};
use crate::store::layout::{self, Kind};
use crate::store::view::{Direction, View};

type Outcome = Result<(), CommandError>;

/// Which end: forward takes the lowest scores.
type End = Direction;

impl Members<'_> {
    fn at_end(&self, view: &dyn View, end: End, wanted: u64) -> Result<Vec<Scored>, CommandError> {
        let mut found = Vec::new();
        if wanted == 0 {
            return Ok(found);
        }
        let from = layout::scored_from(f64::NEG_INFINITY);
        let bounds = (&from[..], &layout::scored_end()[..]);
        self.each_scored(view, bounds, end, &mut |member, score| {
            found.push((member.to_vec(), score));
            let is_enough = found.len() as u64 >= wanted;
            if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }
}

/// Takes members from the first of the keys that exists.
fn pop_first<'k>(
    write: &mut Write<'_, '_>,
    keys: impl Iterator<Item = &'k Bytes>,
    end: End,
    wanted: u64,
) -> Result<Option<(&'k Bytes, Vec<Scored>)>, CommandError> {
    for key in keys {
        let found = Members::find(write.overlay, write.now_ms, key, Kind::SortedSet)?;
        if let Some(mut set) = found {
            let members = set.at_end(write.overlay, end, wanted)?;
            set.take_out_scored(write.overlay, &members);
            return Ok(Some((key, members)));
        }
    }
    Ok(None)
}

pub fn zpopmin(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    pop(write, reply, Direction::Forward)
}

pub fn zpopmax(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    pop(write, reply, Direction::Backward)
}

fn pop(write: &mut Write<'_, '_>, reply: &mut Reply, end: End) -> Outcome {
    let args = write.args;
    let wanted = match &args[2..] {
        [] => None,
        [count] => {
            let count = resp::integer(count).and_then(|count| u64::try_from(count).ok());
            Some(count.ok_or(CommandError::NotPositive)?)
        }
        _ => return Err(CommandError::Syntax),
    };
    let popped = pop_first(write, args[1..2].iter(), end, wanted.unwrap_or(1))?;
    let members = popped.map_or(Vec::new(), |(_, members)| members);
    match wanted {
        Some(_) => super::put_scored(reply, &members),
        // One pair is never wrapped.
        None => {
            reply.array(2 * members.len());
            for (member, score) in &members {
                reply.bulk(member);
                reply.double(*score);
            }
        }
    }
    Ok(())
}

pub fn zmpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (keys, end, wanted) = parse_mpop(&write.args[1..])?;
    match pop_first(write, keys.iter(), end, wanted)? {
        Some((key, members)) => put_popped(reply, key, &members),
        None => reply.null_array(),
    }
    Ok(())
}

pub fn bzpopmin(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    pop_or_wait(write, reply, Direction::Forward)
}

pub fn bzpopmax(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    pop_or_wait(write, reply, Direction::Backward)
}

fn pop_or_wait(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    end: End,
) -> Result<Flow, CommandError> {
    let args = write.args;
    let (timeout, keys) = args[1..].split_last().ok_or(CommandError::Syntax)?;
    let timeout = wait::timeout_s(timeout)?;
    let ready = write.ready_keys(keys);
    let Some((key, members)) = pop_first(write, ready, end, 1)? else {
        return Ok(write.wait_for(reply, keys, Kind::SortedSet, timeout, Nil::Array));
    };
    reply.array(1 + 2 * members.len());
    reply.bulk(key);
    for (member, score) in &members {
        reply.bulk(member);
        reply.double(*score);
    }
    Ok(Flow::Answered)
}

pub fn bzmpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let args = write.args;
    let (keys, end, wanted) = parse_mpop(&args[2..])?;
    let timeout = wait::timeout_s(&args[1])?;
    let ready = write.ready_keys(keys);
    let Some((key, members)) = pop_first(write, ready, end, wanted)? else {
        return Ok(write.wait_for(reply, keys, Kind::SortedSet, timeout, Nil::Array));
    };
    put_popped(reply, key, &members);
    Ok(Flow::Answered)
}

/// `numkeys key ... MIN|MAX [COUNT count]`
fn parse_mpop(args: &[Bytes]) -> Result<(&[Bytes], End, u64), CommandError> {
    let keys = resp::integer(&args[0]).filter(|keys| *keys > 0);
    let keys = usize::try_from(keys.ok_or(CommandError::NumkeysNotPositive)?);
    let (keys, rest) = args[1..]
        .split_at_checked(keys.unwrap_or(usize::MAX))
        .filter(|(_, rest)| !rest.is_empty())
        .ok_or(CommandError::Syntax)?;
    let end = match &rest[0] {
        word if is_word(word, "min") => Direction::Forward,
        word if is_word(word, "max") => Direction::Backward,
        _ => return Err(CommandError::Syntax),
    };
    let wanted = match &rest[1..] {
        [] => 1,
        [word, count] if is_word(word, "count") => {
            let count = resp::integer(count).filter(|count| *count > 0);
            count.ok_or(CommandError::CountNotPositive)? as u64
        }
        [word, count, ..] if is_word(word, "count") => {
            let count = resp::integer(count).filter(|count| *count > 0);
            count.ok_or(CommandError::CountNotPositive)?;
            return Err(CommandError::Syntax);
        }
        _ => return Err(CommandError::Syntax),
    };
    Ok((keys, end, wanted))
}

/// The key and the pairs, each wrapped in either protocol.
fn put_popped(reply: &mut Reply, key: &[u8], members: &[Scored]) {
    reply.array(2);
    reply.bulk(key);
    reply.array(members.len());
    for (member, score) in members {
        if reply.protocol() == Protocol::Resp2 {
            reply.array(2);
        }
        put_pair(reply, member, *score);
    }
}
