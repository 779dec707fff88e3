//! What is asked about single members: ZCARD, ZSCORE, ZMSCORE, ZRANK, ZREVRANK, ZRANDMEMBER.

use std::ops::ControlFlow;

use super::decode_score;
use crate::command::error::CommandError;
use crate::command::{Read, choice};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Kind};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

pub fn zcard(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let set = read.members(Kind::SortedSet)?;
    reply.integer(set.map_or(0, |set| set.count as i64));
    Ok(())
}

pub fn zscore(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let score = match read.members(Kind::SortedSet)? {
        Some(set) => set.score(read.view, &read.args[2])?,
        None => None,
    };
    put_optional(reply, score);
    Ok(())
}

pub fn zmscore(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let set = read.members(Kind::SortedSet)?;
    reply.array(read.args.len() - 2);
    for member in &read.args[2..] {
        let score = match &set {
            Some(set) => set.score(read.view, member)?,
            None => None,
        };
        put_optional(reply, score);
    }
    Ok(())
}

fn put_optional(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

pub fn zrank(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    rank(read, reply, Direction::Forward)
}

pub fn zrevrank(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    rank(read, reply, Direction::Backward)
}

/// Counts the members before this one: O(rank).
fn rank(read: &Read<'_>, reply: &mut Reply, direction: Direction) -> Outcome {
    let member = &read.args[2];
    let Some(set) = read.members(Kind::SortedSet)? else {
        reply.null();
        return Ok(());
    };
    let Some(score) = set.score(read.view, member)? else {
        reply.null();
        return Ok(());
    };
    let own = layout::scored_name(score, member);
    let bounds = match direction {
        Direction::Forward => (layout::scored_from(f64::NEG_INFINITY).to_vec(), own),
        Direction::Backward => ([&own[..], &[0]].concat(), layout::scored_end().to_vec()),
    };
    let mut rank = 0;
    set.each_scored(read.view, (&bounds.0, &bounds.1), direction, &mut |_, _| {
        rank += 1;
        ControlFlow::Continue(())
    })?;
    reply.integer(rank);
    Ok(())
}

pub fn zrandmember(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    choice::pairs(read, reply, (Kind::SortedSet, "withscores"), |reply, value| {
        reply.double(decode_score(value)?);
        Ok(())
    })
}
