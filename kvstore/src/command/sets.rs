//! Sets: members without values. Their algebra reads the smallest set that decides and looks its
//! members up in the others.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::error::CommandError;
use super::members::Members;
use super::{Read, Write, is_word};
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::{self, Kind};
use crate::store::view::View;

type Outcome = Result<(), CommandError>;

pub fn scard(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let set = read.members(Kind::Set)?;
    reply.integer(set.map_or(0, |set| set.count as i64));
    Ok(())
}

pub fn sismember(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let found = match read.members(Kind::Set)? {
        Some(set) => set.contains(read.view, &read.args[2])?,
        None => false,
    };
    reply.integer(found.into());
    Ok(())
}

pub fn smismember(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let set = read.members(Kind::Set)?;
    reply.array(read.args.len() - 2);
    for member in &read.args[2..] {
        let found = match &set {
            Some(set) => set.contains(read.view, member)?,
            None => false,
        };
        reply.integer(found.into());
    }
    Ok(())
}

pub fn smembers(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(set) = read.members(Kind::Set)? else {
        reply.set(0);
        return Ok(());
    };
    reply.set(set.count as usize);
    set.each(read.view, |member, _| reply.bulk(member))
}

pub fn sadd(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let mut set = write.members_or_new(&args[1], Kind::Set)?;
    let mut new = BTreeSet::new();
    for member in &args[2..] {
        if !set.contains(write.overlay, member)? {
            new.insert(member);
        }
    }
    for member in &new {
        set.put(write.overlay, member, b"");
    }
    if !new.is_empty() {
        set.count += new.len() as u64;
        set.save(write.overlay);
    }
    reply.count(new.len());
    Ok(())
}

pub fn srem(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let Some(mut set) = write.members(&args[1], Kind::Set)? else {
        reply.integer(0);
        return Ok(());
    };
    let mut gone = BTreeSet::new();
    for member in &args[2..] {
        if set.contains(write.overlay, member)? {
            gone.insert(member);
        }
    }
    set.take_out(write.overlay, gone.iter().map(|member| &member[..]));
    reply.count(gone.len());
    Ok(())
}

pub fn smove(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let (from, to, member) = (&args[1], &args[2], &args[3]);
    let Some(mut source) = write.members(from, Kind::Set)? else {
        reply.integer(0);
        return Ok(());
    };
    let mut target = write.members_or_new(to, Kind::Set)?;
    let found = source.contains(write.overlay, member)?;
    reply.integer(found.into());
    if !found || from == to {
        return Ok(());
    }
    let is_new = !target.contains(write.overlay, member)?;
    source.take_out(write.overlay, [&member[..]].into_iter());
    if is_new {
        target.put(write.overlay, member, b"");
        target.count += 1;
        target.save(write.overlay);
    }
    Ok(())
}

pub fn spop(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let wanted = match &args[2..] {
        [] => None,
        [count] => Some(resp::integer(count).and_then(|count| u64::try_from(count).ok())),
        _ => return Err(CommandError::Syntax),
    };
    let wanted = match wanted {
        Some(None) => return Err(CommandError::NotPositive),
        Some(Some(count)) => Some(count),
        None => None,
    };
    let Some(mut set) = write.members(&args[1], Kind::Set)? else {
        match wanted {
            Some(_) => reply.set(0),
            None => reply.null(),
        }
        return Ok(());
    };
    let random = &write.shared.random;
    let chosen = match wanted {
        Some(count) => set.sample(write.overlay, random, count)?,
        None => vec![set.random(write.overlay, random)?],
    };
    if wanted.is_some() {
        reply.set(chosen.len());
    }
    chosen.iter().for_each(|(member, _)| reply.bulk(member));
    set.take_out(write.overlay, chosen.iter().map(|(member, _)| &member[..]));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algebra {
    Union,
    Intersection,
    Difference,
}

/// Called with each member until it breaks or fails.
type VisitMember<'a> = dyn FnMut(&[u8]) -> Result<ControlFlow<()>, CommandError> + 'a;

/// Visits the members of a union, an intersection or a difference, each once.
fn combine(
    (view, now_ms): (&dyn View, u64),
    keys: &[Bytes],
    algebra: Algebra,
    visit: &mut VisitMember<'_>,
) -> Outcome {
    let find = |key| Members::find(view, now_ms, key, Kind::Set);
    let found = keys.iter().map(|key| find(key)).collect::<Result<Vec<_>, _>>()?;
    let is_whole = found.iter().all(Option::is_some);
    let starts = found[0].is_some();
    let mut sets: Vec<Members<'_>> = found.into_iter().flatten().collect();
    match algebra {
        Algebra::Intersection if !is_whole => return Ok(()),
        Algebra::Difference if !starts => return Ok(()),
        Algebra::Intersection => sets.sort_by_key(|set| set.count),
        Algebra::Difference => {}
        Algebra::Union => {
            let mut seen = BTreeSet::new();
            for set in &sets {
                let mut ended = false;
                set.each_from(view, 0, &mut |name, _| {
                    let member = layout::placed_member(name);
                    if sets.len() > 1 && !seen.insert(member.to_vec()) {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let flow = visit(member)?;
                    ended = flow.is_break();
                    Ok(flow)
                })?;
                if ended {
                    break;
                }
            }
            return Ok(());
        }
    }
    let Some((first, others)) = sets.split_first() else { return Ok(()) };
    first.each_from(view, 0, &mut |name, _| {
        let member = layout::placed_member(name);
        for other in others {
            if other.contains(view, member)? != (algebra == Algebra::Intersection) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        visit(member)
    })
}

fn answer(read: &Read<'_>, reply: &mut Reply, algebra: Algebra) -> Outcome {
    let mut found = 0;
    let mut members = Reply::new(reply.protocol());
    combine((read.view, read.now_ms), &read.args[1..], algebra, &mut |member| {
        found += 1;
        members.bulk(member);
        Ok(ControlFlow::Continue(()))
    })?;
    reply.set(found);
    reply.append(members.bytes());
    Ok(())
}

pub fn sunion(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Algebra::Union)
}

pub fn sinter(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Algebra::Intersection)
}

pub fn sdiff(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Algebra::Difference)
}

pub fn sintercard(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let (keys, options) = numbered_keys(&read.args[1..])?;
    let limit = limit_option(options)?;
    let mut found = 0;
    combine((read.view, read.now_ms), keys, Algebra::Intersection, &mut |_| {
        found += 1;
        Ok(if found == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    reply.integer(found);
    Ok(())
}

/// Splits `numkeys key ... option ...`.
pub fn numbered_keys(args: &[Bytes]) -> Result<(&[Bytes], &[Bytes]), CommandError> {
    let count = resp::integer(&args[0]).filter(|count| *count > 0);
    let count = count.ok_or(CommandError::NumkeysNotPositive)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    args[1..].split_at_checked(count).ok_or(CommandError::NumkeysAboveArguments)
}

/// `LIMIT n`, where 0 is none.
pub fn limit_option(options: &[Bytes]) -> Result<i64, CommandError> {
    let mut limit = 0;
    for option in options.chunks(2) {
        match option {
            [word, value] if is_word(word, "limit") => {
                let value = resp::integer(value).filter(|limit| *limit >= 0);
                limit = value.ok_or(CommandError::CardLimitNegative)?;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(limit)
}

fn store(write: &mut Write<'_, '_>, reply: &mut Reply, algebra: Algebra) -> Outcome {
    let args = write.args;
    let bytes_max = write.shared.config.changes_bytes_max();
    let mut bytes = 0;
    let mut found = Vec::new();
    combine((write.overlay, write.now_ms), &args[2..], algebra, &mut |member| {
        bytes += member.len();
        found.push(member.to_vec());
        if bytes > bytes_max {
            return Err(CommandError::ChangesTooLarge(bytes_max));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if found.is_empty() {
        write.delete(&args[1])?;
    } else {
        let mut set = Members::begin(write.overlay, &args[1], Kind::Set);
        found.iter().for_each(|member| set.put(write.overlay, member, b""));
        set.count = found.len() as u64;
        set.save(write.overlay);
    }
    reply.count(found.len());
    Ok(())
}

pub fn sunionstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Algebra::Union)
}

pub fn sinterstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Algebra::Intersection)
}

pub fn sdiffstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Algebra::Difference)
}
