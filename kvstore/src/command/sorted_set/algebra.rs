//! ZUNION, ZINTER, ZDIFF, what stores them, and ZINTERCARD. Sets take part with scores of 1.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Scored, decode_score, put_names, put_scored, range};
use crate::command::error::CommandError;
use crate::command::members::Members;
use crate::command::{Read, Write, find, integer, is_word};
use crate::resp::double;
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::{self, Kind};
use crate::store::view::View;

type Outcome = Result<(), CommandError>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, left: f64, right: f64) -> f64 {
        match self {
            Aggregate::Sum => zero_if_nan(left + right),
            // A right side that is not a number loses either comparison.
            Aggregate::Min if right < left => right,
            Aggregate::Max if right > left => right,
            Aggregate::Min | Aggregate::Max => left,
        }
    }
}

/// Infinity minus infinity, and infinity times nothing, are nothing here.
fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// What a command may be told besides its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Answer,
    Store,
    Count,
}

/// A set or a sorted set that takes part; `None` if the key does not exist.
struct Source<'k> {
    members: Option<Members<'k>>,
    weight: f64,
}

impl<'k> Source<'k> {
    fn find(view: &dyn View, now_ms: u64, key: &'k [u8]) -> Result<Source<'k>, CommandError> {
        let kind = find(view, now_ms, key)?.map(|live| live.header.kind);
        let members = match kind {
            None => None,
            Some(kind @ (Kind::Set | Kind::SortedSet)) => Members::find(view, now_ms, key, kind)?,
            Some(_) => return Err(CommandError::WrongType),
        };
        Ok(Source { members, weight: 1.0 })
    }

    fn count(&self) -> u64 {
        self.members.as_ref().map_or(0, |members| members.count)
    }

    fn score(&self, view: &dyn View, member: &[u8]) -> Result<Option<f64>, CommandError> {
        let Some(members) = &self.members else { return Ok(None) };
        members.get(view, member)?.map(|value| score_of(members, &value)).transpose()
    }

    /// Visits all members with their scores.
    fn each(&self, view: &dyn View, visit: &mut dyn FnMut(&[u8], f64) -> Flow) -> Outcome {
        let Some(members) = &self.members else { return Ok(()) };
        members.each_from(view, 0, &mut |name, value| {
            visit(layout::placed_member(name), score_of(members, value)?)
        })
    }
}

type Flow = Result<ControlFlow<()>, CommandError>;

fn score_of(members: &Members<'_>, value: &[u8]) -> Result<f64, CommandError> {
    if members.kind == Kind::Set { Ok(1.0) } else { decode_score(value) }
}

struct Query<'k> {
    operator: Operator,
    sources: Vec<Source<'k>>,
    aggregate: Aggregate,
    with_scores: bool,
    /// 0 is none.
    limit: u64,
}

impl<'k> Query<'k> {
    /// `args` are the number of keys and what follows it.
    fn parse(
        (view, now_ms): (&dyn View, u64),
        args: &'k [Bytes],
        (operator, purpose): (Operator, Purpose),
        command: &'static str,
    ) -> Result<Query<'k>, CommandError> {
        let count = integer(&args[0])?;
        let count = usize::try_from(count).ok().filter(|count| *count > 0);
        let count = count.ok_or(CommandError::NoInputKey(command))?;
        let (keys, mut rest) = args[1..].split_at_checked(count).ok_or(CommandError::Syntax)?;
        let sources = keys.iter().map(|key| Source::find(view, now_ms, key));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let (aggregate, with_scores, limit) = (Aggregate::Sum, false, 0);
        let mut query = Query { operator, sources, aggregate, with_scores, limit };
        while let Some((word, tail)) = rest.split_first() {
            rest = query.option(word, tail, purpose)?;
        }
        Ok(query)
    }

    /// Takes one option and returns what follows it.
    fn option<'a>(
        &mut self,
        word: &[u8],
        tail: &'a [Bytes],
        purpose: Purpose,
    ) -> Result<&'a [Bytes], CommandError> {
        let is_weighted = self.operator != Operator::Difference && purpose != Purpose::Count;
        if is_weighted && is_word(word, "weights") && tail.len() >= self.sources.len() {
            let (weights, rest) = tail.split_at(self.sources.len());
            for (source, weight) in self.sources.iter_mut().zip(weights) {
                source.weight = double::parse(weight).ok_or(CommandError::WeightNotFloat)?;
            }
            return Ok(rest);
        }
        match tail {
            [name, rest @ ..] if is_weighted && is_word(word, "aggregate") => {
                self.aggregate = match () {
                    () if is_word(name, "sum") => Aggregate::Sum,
                    () if is_word(name, "min") => Aggregate::Min,
                    () if is_word(name, "max") => Aggregate::Max,
                    () => return Err(CommandError::Syntax),
                };
                Ok(rest)
            }
            rest if purpose == Purpose::Answer && is_word(word, "withscores") => {
                self.with_scores = true;
                Ok(rest)
            }
            [limit, rest @ ..] if purpose == Purpose::Count && is_word(word, "limit") => {
                let limit = resp::integer(limit).and_then(|limit| u64::try_from(limit).ok());
                self.limit = limit.ok_or(CommandError::CardLimitNegative)?;
                Ok(rest)
            }
            _ => Err(CommandError::Syntax),
        }
    }

    /// The result, by score and then by name.
    fn run(&mut self, view: &dyn View) -> Result<Vec<Scored>, CommandError> {
        // The order in which scores are added up is that of Redis, so that sums are too.
        if self.operator != Operator::Difference {
            self.sources.sort_by_key(Source::count);
        }
        let mut found: Vec<Scored> = match self.operator {
            Operator::Union => self.union(view)?,
            Operator::Intersection | Operator::Difference => {
                let mut found = Vec::new();
                self.each(view, &mut |member, score| {
                    found.push((member.to_vec(), score));
                    Ok(ControlFlow::Continue(()))
                })?;
                found
            }
        };
        found.sort_by(|(name, score), (other_name, other_score)| {
            let by_score = score.partial_cmp(other_score).expect("no score is NaN");
            by_score.then_with(|| name.cmp(other_name))
        });
        Ok(found)
    }

    fn union(&self, view: &dyn View) -> Result<Vec<Scored>, CommandError> {
        let mut found: BTreeMap<Vec<u8>, f64> = BTreeMap::new();
        for source in &self.sources {
            source.each(view, &mut |member, score| {
                let score = zero_if_nan(source.weight * score);
                match found.get_mut(member) {
                    Some(sum) => *sum = self.aggregate.of(*sum, score),
                    None => _ = found.insert(member.to_vec(), score),
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(found.into_iter().collect())
    }

    /// Visits the members of an intersection or a difference.
    fn each(&self, view: &dyn View, visit: &mut dyn FnMut(&[u8], f64) -> Flow) -> Outcome {
        let Some((first, others)) = self.sources.split_first() else { return Ok(()) };
        let is_difference = self.operator == Operator::Difference;
        first.each(view, &mut |member, score| {
            let mut sum = if is_difference { score } else { zero_if_nan(first.weight * score) };
            for other in others {
                match other.score(view, member)? {
                    Some(_) if is_difference => return Ok(ControlFlow::Continue(())),
                    Some(score) => sum = self.aggregate.of(sum, score * other.weight),
                    None if is_difference => {}
                    None => return Ok(ControlFlow::Continue(())),
                }
            }
            visit(member, sum)
        })
    }
}

fn answer(
    read: &Read<'_>,
    reply: &mut Reply,
    operator: Operator,
    command: &'static str,
) -> Outcome {
    let wanted = (operator, Purpose::Answer);
    let mut query = Query::parse((read.view, read.now_ms), &read.args[1..], wanted, command)?;
    let found = query.run(read.view)?;
    match query.with_scores {
        true => put_scored(reply, &found),
        false => put_names(reply, &found),
    }
    Ok(())
}

pub fn zunion(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Operator::Union, "zunion")
}

pub fn zinter(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Operator::Intersection, "zinter")
}

pub fn zdiff(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Operator::Difference, "zdiff")
}

pub fn zintercard(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let wanted = (Operator::Intersection, Purpose::Count);
    let source = (read.view, read.now_ms);
    let mut query = Query::parse(source, &read.args[1..], wanted, "zintercard")?;
    query.sources.sort_by_key(Source::count);
    let mut found = 0;
    query.each(read.view, &mut |_, _| {
        found += 1;
        let is_enough = found == query.limit;
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    reply.integer(found as i64);
    Ok(())
}

fn store(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    operator: Operator,
    command: &'static str,
) -> Outcome {
    let args = write.args;
    let wanted = (operator, Purpose::Store);
    let source: (&dyn View, u64) = (write.overlay, write.now_ms);
    let found = Query::parse(source, &args[2..], wanted, command)?.run(write.overlay)?;
    range::store(write, &found)?;
    reply.count(found.len());
    Ok(())
}

pub fn zunionstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Operator::Union, "zunionstore")
}

pub fn zinterstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Operator::Intersection, "zinterstore")
}

pub fn zdiffstore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    store(write, reply, Operator::Difference, "zdiffstore")
}
