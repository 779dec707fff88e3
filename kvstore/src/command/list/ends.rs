//! The ends of lists: pushing, popping, and moving from one to another.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use super::{End, Held, each_element, element};
use crate::command::error::CommandError;
use crate::command::wait::{self, Flow, Nil};
use crate::command::{Write, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::layout::Kind;
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

impl End {
    fn parse(word: &[u8]) -> Result<End, CommandError> {
        match word {
            _ if is_word(word, "left") => Ok(End::Head),
            _ if is_word(word, "right") => Ok(End::Tail),
            _ => Err(CommandError::Syntax),
        }
    }
}

pub fn lpush(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let held = write.list_to_change(&write.args[1])?;
    push(write, reply, held, End::Head)
}

pub fn rpush(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let held = write.list_to_change(&write.args[1])?;
    push(write, reply, held, End::Tail)
}

pub fn lpushx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    push_if_exists(write, reply, End::Head)
}

pub fn rpushx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    push_if_exists(write, reply, End::Tail)
}

fn push_if_exists(write: &mut Write<'_, '_>, reply: &mut Reply, end: End) -> Outcome {
    match write.list(&write.args[1])? {
        Some(held) => push(write, reply, held, end),
        None => {
            reply.integer(0);
            Ok(())
        }
    }
}

fn push(write: &mut Write<'_, '_>, reply: &mut Reply, mut held: Held, end: End) -> Outcome {
    let (key, elements) = (&write.args[1], &write.args[2..]);
    for element in elements {
        write.push_element(key, &mut held, end, element);
    }
    write.put_list(key, &held);
    reply.integer(held.list.len() as i64);
    Ok(())
}

pub fn lpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    pop(write, reply, End::Head, "lpop")
}

pub fn rpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    pop(write, reply, End::Tail, "rpop")
}

fn pop(write: &mut Write<'_, '_>, reply: &mut Reply, end: End, command: &'static str) -> Outcome {
    let key = &write.args[1];
    let count = match &write.args[2..] {
        [] => None,
        [count] => {
            let count = integer(count).ok().and_then(|count| u64::try_from(count).ok());
            Some(count.ok_or(CommandError::NotPositive)?)
        }
        _ => return Err(CommandError::Arguments(command)),
    };
    match (write.list(key)?, count) {
        (None, None) => reply.null(),
        (None, Some(_)) => reply.null_array(),
        (Some(_), Some(0)) => reply.array(0),
        (Some(held), Some(count)) => take_many(write, reply, key, held, end, count)?,
        (Some(mut held), None) => {
            let element = take_one(write, key, &mut held, end)?;
            write.put_list(key, &held);
            reply.bulk(&element);
        }
    }
    Ok(())
}

/// Takes one element off; the metadata is still to be written.
fn take_one(
    write: &Write<'_, '_>,
    key: &[u8],
    held: &mut Held,
    end: End,
) -> Result<Vec<u8>, CommandError> {
    let list = &mut held.list;
    let index = match end {
        End::Head => list.head,
        End::Tail => list.tail - 1,
    };
    let taken = element(write.overlay, key, *list, index)?;
    match end {
        End::Head => list.head += 1,
        End::Tail => list.tail -= 1,
    }
    Ok(taken)
}

/// Takes up to `count` elements off and answers them as an array.
fn take_many(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    key: &[u8],
    mut held: Held,
    end: End,
    count: u64,
) -> Outcome {
    let list = &mut held.list;
    let count = count.min(list.len());
    let (places, direction) = match end {
        End::Head => (list.head..list.head + count, Direction::Forward),
        End::Tail => (list.tail - count..list.tail, Direction::Backward),
    };
    reply.array(count as usize);
    each_element(write.overlay, key, *list, places, direction, &mut |_, element| {
        reply.bulk(element);
        ControlFlow::Continue(())
    })?;
    match end {
        End::Head => list.head += count,
        End::Tail => list.tail -= count,
    }
    write.put_list(key, &held);
    Ok(())
}

/// The keys, end and count of `LMPOP`, from the number of keys on.
struct ManyPop<'a> {
    keys: &'a [Bytes],
    end: End,
    count: u64,
}

impl ManyPop<'_> {
    fn parse(args: &[Bytes]) -> Result<ManyPop<'_>, CommandError> {
        let positive = |text: &[u8], error| {
            integer(text).ok().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).ok_or(error)
        };
        let keys = positive(&args[0], CommandError::NumkeysNotPositive)?;
        let (keys, rest) = args[1..].split_at_checked(keys).ok_or(CommandError::Syntax)?;
        let (end, rest) = rest.split_first().ok_or(CommandError::Syntax)?;
        let end = End::parse(end)?;
        let count = match rest {
            [] => 1,
            [word, count] if is_word(word, "count") => {
                positive(count, CommandError::CountNotPositive)? as u64
            }
            _ => return Err(CommandError::Syntax),
        };
        Ok(ManyPop { keys, end, count })
    }

    /// Pops from the first of the lists that exists. `false` when none does.
    fn run(&self, write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<bool, CommandError> {
        for key in write.ready_keys(self.keys) {
            if let Some(held) = write.list(key)? {
                reply.array(2);
                reply.bulk(key);
                take_many(write, reply, key, held, self.end, self.count)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub fn lmpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let many = ManyPop::parse(&write.args[1..])?;
    if !many.run(write, reply)? {
        reply.null_array();
    }
    Ok(())
}

pub fn blmpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let many = ManyPop::parse(&write.args[2..])?;
    let timeout = wait::timeout_s(&write.args[1])?;
    if many.run(write, reply)? {
        return Ok(Flow::Answered);
    }
    Ok(write.wait_for(reply, many.keys, Kind::List, timeout, Nil::Array))
}

pub fn blpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    pop_or_wait(write, reply, End::Head)
}

pub fn brpop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    pop_or_wait(write, reply, End::Tail)
}

fn pop_or_wait(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    end: End,
) -> Result<Flow, CommandError> {
    let args = write.args;
    let (timeout, keys) = args[1..].split_last().ok_or(CommandError::Syntax)?;
    let timeout = wait::timeout_s(timeout)?;
    for key in write.ready_keys(keys) {
        if let Some(mut held) = write.list(key)? {
            let element = take_one(write, key, &mut held, end)?;
            write.put_list(key, &held);
            reply.array(2);
            reply.bulk(key);
            reply.bulk(&element);
            return Ok(Flow::Answered);
        }
    }
    Ok(write.wait_for(reply, keys, Kind::List, timeout, Nil::Array))
}

pub fn lmove(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (from, to) = (End::parse(&write.args[3])?, End::parse(&write.args[4])?);
    if !move_one(write, reply, from, to)? {
        reply.null();
    }
    Ok(())
}

pub fn rpoplpush(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    if !move_one(write, reply, End::Tail, End::Head)? {
        reply.null();
    }
    Ok(())
}

pub fn blmove(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let (from, to) = (End::parse(&write.args[3])?, End::parse(&write.args[4])?);
    let timeout = wait::timeout_s(&write.args[5])?;
    move_or_wait(write, reply, from, to, timeout)
}

pub fn brpoplpush(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let timeout = wait::timeout_s(&write.args[3])?;
    move_or_wait(write, reply, End::Tail, End::Head, timeout)
}

fn move_or_wait(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    from: End,
    to: End,
    timeout: Option<Duration>,
) -> Result<Flow, CommandError> {
    if move_one(write, reply, from, to)? {
        return Ok(Flow::Answered);
    }
    Ok(write.wait_for(reply, &write.args[1..2], Kind::List, timeout, Nil::Value))
}

/// Moves an element from the list at the first key to the one at the second, and answers it. `false`
/// when there is nothing to move.
fn move_one(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    from: End,
    to: End,
) -> Result<bool, CommandError> {
    let (source, target) = (&write.args[1], &write.args[2]);
    let Some(mut held) = write.list(source)? else { return Ok(false) };
    if source == target {
        let element = take_one(write, source, &mut held, from)?;
        write.push_element(source, &mut held, to, &element);
        write.put_list(source, &held);
        reply.bulk(&element);
        return Ok(true);
    }
    let mut receiver = write.list_to_change(target)?;
    let element = take_one(write, source, &mut held, from)?;
    write.push_element(target, &mut receiver, to, &element);
    write.put_list(target, &receiver);
    write.put_list(source, &held);
    reply.bulk(&element);
    Ok(true)
}
