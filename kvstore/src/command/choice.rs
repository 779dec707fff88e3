//! Members chosen at random: SRANDMEMBER, HRANDFIELD, ZRANDMEMBER.

use bytes::Bytes;

use super::error::CommandError;
use super::{Read, integer, is_word};
use crate::resp::reply::{Protocol, Reply};
use crate::store::layout::Kind;

type Outcome = Result<(), CommandError>;

/// What one command draws at most when members may come more than once: no client can want more.
pub const DRAWN_BYTES_MAX: usize = 64 << 20;

/// How many to choose, and whether one may come more than once.
#[derive(Clone, Copy)]
pub enum Choice {
    Different(u64),
    Repeated(u64),
}

impl Choice {
    /// A negative count asks for repeats.
    fn parse(text: &[u8]) -> Result<Choice, CommandError> {
        match integer(text)? {
            i64::MIN => Err(CommandError::CountTooNegative(-i64::MAX)),
            count if count < 0 => Ok(Choice::Repeated(count.unsigned_abs())),
            count => Ok(Choice::Different(count as u64)),
        }
    }

    fn count(self) -> u64 {
        match self {
            Choice::Different(count) | Choice::Repeated(count) => count,
        }
    }
}

/// Writes what is stored with a member.
pub type PutValue = fn(&mut Reply, &[u8]) -> Outcome;

pub fn srandmember(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match &read.args[2..] {
        [] => one(read, reply, Kind::Set),
        [count] => many(read, reply, Kind::Set, Choice::parse(count)?, None),
        _ => Err(CommandError::Syntax),
    }
}

pub fn hrandfield(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let put_value: PutValue = |reply, value| {
        reply.bulk(value);
        Ok(())
    };
    pairs(read, reply, (Kind::Hash, "withvalues"), put_value)
}

/// `[count [option]]`, where the option asks for what is stored with the members.
pub fn pairs(
    read: &Read<'_>,
    reply: &mut Reply,
    (kind, option): (Kind, &str),
    put_value: PutValue,
) -> Outcome {
    let args: &[Bytes] = &read.args[2..];
    let Some(count) = args.first() else { return one(read, reply, kind) };
    let choice = Choice::parse(count)?;
    match &args[1..] {
        [] => many(read, reply, kind, choice, None),
        [word] if is_word(word, option) => {
            if choice.count() > i64::MAX as u64 / 2 {
                return Err(CommandError::OutOfRange);
            }
            many(read, reply, kind, choice, Some(put_value))
        }
        _ => Err(CommandError::Syntax),
    }
}

fn one(read: &Read<'_>, reply: &mut Reply, kind: Kind) -> Outcome {
    let members = read.members(kind)?;
    let random = &read.shared.random;
    let chosen = members.map(|members| members.random(read.view, random)).transpose()?;
    reply.optional_bulk(chosen.as_ref().map(|(member, _)| &member[..]));
    Ok(())
}

fn many(
    read: &Read<'_>,
    reply: &mut Reply,
    kind: Kind,
    choice: Choice,
    put_value: Option<PutValue>,
) -> Outcome {
    let Some(members) = read.members(kind)? else {
        reply.array(0);
        return Ok(());
    };
    let random = &read.shared.random;
    match choice {
        Choice::Different(wanted) => {
            let chosen = members.sample(read.view, random, wanted)?;
            begin(reply, chosen.len(), put_value);
            chosen.iter().try_for_each(|(member, value)| put(reply, member, value, put_value))
        }
        Choice::Repeated(times) => {
            begin(reply, times as usize, put_value);
            let start = reply.len();
            members.draw(read.view, random, times, &mut |member, value| {
                put(reply, member, value, put_value)?;
                match reply.len() - start > DRAWN_BYTES_MAX {
                    true => Err(CommandError::DrawnTooMuch(DRAWN_BYTES_MAX)),
                    false => Ok(()),
                }
            })
        }
    }
}

fn begin(reply: &mut Reply, members: usize, put_value: Option<PutValue>) {
    match (put_value, reply.protocol()) {
        (Some(_), Protocol::Resp2) => reply.array(2 * members),
        _ => reply.array(members),
    }
}

fn put(reply: &mut Reply, member: &[u8], value: &[u8], put_value: Option<PutValue>) -> Outcome {
    if put_value.is_some() && reply.protocol() == Protocol::Resp3 {
        reply.array(2);
    }
    reply.bulk(member);
    put_value.map_or(Ok(()), |put_value| put_value(reply, value))
}
