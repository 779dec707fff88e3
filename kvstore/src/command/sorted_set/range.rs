//! Ranges of a sorted set, by rank, score or name: what they are called and what is done with them.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Scored, VisitScored, put_names, put_scored};
use crate::command::error::CommandError;
use crate::command::members::Members;
use crate::command::{Read, Write, integer, is_word};
use crate::resp::double;
use crate::resp::reply::Reply;
use crate::store::layout::{self, Kind};
use crate::store::view::{Direction, View};

type Outcome = Result<(), CommandError>;

#[derive(Clone, Copy)]
pub struct ScoreBound {
    score: f64,
    is_exclusive: bool,
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Result<ScoreBound, CommandError> {
        let (text, is_exclusive) = match text.strip_prefix(b"(") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let score = double::parse_bound(text).ok_or(CommandError::RangeNotFloat)?;
        Ok(ScoreBound { score, is_exclusive })
    }
}

#[derive(Clone, Copy)]
pub enum NameBound<'a> {
    BeforeAll,
    AfterAll,
    Included(&'a [u8]),
    Excluded(&'a [u8]),
}

impl NameBound<'_> {
    fn parse(text: &[u8]) -> Result<NameBound<'_>, CommandError> {
        match text {
            b"-" => Ok(NameBound::BeforeAll),
            b"+" => Ok(NameBound::AfterAll),
            [b'[', name @ ..] => Ok(NameBound::Included(name)),
            [b'(', name @ ..] => Ok(NameBound::Excluded(name)),
            _ => Err(CommandError::RangeNotNames),
        }
    }
}

impl NameBound<'_> {
    fn is_at_or_before(self, name: &[u8]) -> bool {
        match self {
            NameBound::BeforeAll => true,
            NameBound::AfterAll => false,
            NameBound::Included(bound) => bound <= name,
            NameBound::Excluded(bound) => bound < name,
        }
    }

    fn is_at_or_after(self, name: &[u8]) -> bool {
        match self {
            NameBound::BeforeAll => false,
            NameBound::AfterAll => true,
            NameBound::Included(bound) => bound >= name,
            NameBound::Excluded(bound) => bound > name,
        }
    }
}

#[derive(Clone, Copy)]
pub enum Range<'a> {
    /// First and last; negative ones count from the end.
    Ranks(i64, i64),
    Scores(ScoreBound, ScoreBound),
    /// Meant for members that have one score.
    Names(NameBound<'a>, NameBound<'a>),
}

/// How the limits of a range are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Rank,
    Score,
    Name,
}

impl Range<'_> {
    fn parse<'a>(
        measure: Measure,
        min: &'a [u8],
        max: &'a [u8],
    ) -> Result<Range<'a>, CommandError> {
        Ok(match measure {
            Measure::Rank => Range::Ranks(integer(min)?, integer(max)?),
            Measure::Score => Range::Scores(ScoreBound::parse(min)?, ScoreBound::parse(max)?),
            Measure::Name => Range::Names(NameBound::parse(min)?, NameBound::parse(max)?),
        })
    }
}

/// Which part of a range, and from which end.
#[derive(Clone, Copy)]
pub struct Part {
    direction: Direction,
    /// A negative one leaves nothing.
    offset: i64,
    /// A negative one is none.
    limit: i64,
}

const WHOLE: Part = Part { direction: Direction::Forward, offset: 0, limit: -1 };

impl Members<'_> {
    /// The bounds of a range of scores or names, as names.
    fn bounds(
        &self,
        view: &dyn View,
        range: &Range<'_>,
    ) -> Result<(Vec<u8>, Vec<u8>), CommandError> {
        Ok(match *range {
            Range::Ranks(..) => {
                (layout::scored_from(f64::NEG_INFINITY).to_vec(), layout::scored_end().to_vec())
            }
            Range::Scores(min, max) => {
                let bound = |bound: ScoreBound, is_after: bool| match is_after {
                    true => layout::scored_after(bound.score).to_vec(),
                    false => layout::scored_from(bound.score).to_vec(),
                };
                (bound(min, min.is_exclusive), bound(max, !max.is_exclusive))
            }
            Range::Names(min, max) => {
                let score = self.end(view, Direction::Forward)?.map_or(0.0, |(_, score)| score);
                let bound = |bound: NameBound<'_>, is_end: bool| match bound {
                    NameBound::BeforeAll => layout::scored_from(f64::NEG_INFINITY).to_vec(),
                    NameBound::AfterAll => layout::scored_end().to_vec(),
                    NameBound::Included(name) | NameBound::Excluded(name) => {
                        let is_after = matches!(bound, NameBound::Included(_)) == is_end;
                        let mut row = layout::scored_name(score, name);
                        // Nothing lies between a name and the same with a zero at its end.
                        if is_after {
                            row.push(0);
                        }
                        row
                    }
                };
                (bound(min, false), bound(max, true))
            }
        })
    }

    /// The first member in this direction.
    fn end(&self, view: &dyn View, direction: Direction) -> Result<Option<Scored>, CommandError> {
        let mut found = None;
        let from = layout::scored_from(f64::NEG_INFINITY);
        let bounds = (&from[..], &layout::scored_end()[..]);
        self.each_scored(view, bounds, direction, &mut |member, score| {
            found = Some((member.to_vec(), score));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Visits a range of scores or names.
    fn each_in(
        &self,
        view: &dyn View,
        range: &Range<'_>,
        direction: Direction,
        visit: &mut VisitScored<'_>,
    ) -> Outcome {
        if let Range::Names(min, max) = *range {
            let lowest = self.end(view, Direction::Forward)?;
            let highest = self.end(view, Direction::Backward)?;
            if let (Some(lowest), Some(highest)) = (lowest, highest)
                && lowest.1 != highest.1
            {
                if !max.is_at_or_after(&lowest.0) || !min.is_at_or_before(&highest.0) {
                    return Ok(());
                }
                return self.each_between(view, (min, max), direction, visit);
            }
        }
        let (from, to) = self.bounds(view, range)?;
        self.each_scored(view, (&from, &to), direction, visit)
    }

    /// A range of names where scores differ. It says little, but Redis answers too: it starts at the
    /// first name in the range and ends before the next one that is not.
    fn each_between(
        &self,
        view: &dyn View,
        (min, max): (NameBound<'_>, NameBound<'_>),
        direction: Direction,
        visit: &mut VisitScored<'_>,
    ) -> Outcome {
        let from = layout::scored_from(f64::NEG_INFINITY);
        let bounds = (&from[..], &layout::scored_end()[..]);
        let mut has_begun = false;
        self.each_scored(view, bounds, direction, &mut |member, score| {
            let (is_above, is_below) = (min.is_at_or_before(member), max.is_at_or_after(member));
            let (begins, goes_on) = match direction {
                Direction::Forward => (is_above, is_below),
                Direction::Backward => (is_below, is_above),
            };
            has_begun |= begins;
            match (has_begun, goes_on) {
                (false, _) => ControlFlow::Continue(()),
                (true, true) => visit(member, score),
                (true, false) => ControlFlow::Break(()),
            }
        })
    }

    fn select(
        &self,
        view: &dyn View,
        range: &Range<'_>,
        part: Part,
    ) -> Result<Vec<Scored>, CommandError> {
        if let Range::Ranks(first, last) = *range {
            return self.by_rank(view, first, last, part.direction);
        }
        let mut found = Vec::new();
        let Ok(mut skip) = u64::try_from(part.offset) else { return Ok(found) };
        let limit = usize::try_from(part.limit).unwrap_or(usize::MAX);
        if limit == 0 || skip > 0 && skip >= self.count {
            return Ok(found);
        }
        self.each_in(view, range, part.direction, &mut |member, score| {
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            found.push((member.to_vec(), score));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Ranks are counted from the end that is nearer.
    fn by_rank(
        &self,
        view: &dyn View,
        first: i64,
        last: i64,
        direction: Direction,
    ) -> Result<Vec<Scored>, CommandError> {
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        let from_start = |rank: i64| if rank < 0 { count.saturating_add(rank) } else { rank };
        let (first, last) = (from_start(first).max(0), from_start(last).min(count - 1));
        if first > last {
            return Ok(Vec::new());
        }
        let is_nearer_behind = count - first < last + 1;
        let (walk, skip) = match is_nearer_behind {
            true => (opposite(direction), count - 1 - last),
            false => (direction, first),
        };
        let (mut skip, wanted) = (skip, (last - first + 1) as usize);
        let mut found = Vec::new();
        self.each_in(view, &Range::Ranks(0, -1), walk, &mut |member, score| {
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            found.push((member.to_vec(), score));
            if found.len() < wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if is_nearer_behind {
            found.reverse();
        }
        Ok(found)
    }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Forward => Direction::Backward,
        Direction::Backward => Direction::Forward,
    }
}

/// What a command of this family asks for.
struct Query<'a> {
    range: Range<'a>,
    part: Part,
    with_scores: bool,
}

/// What the name of a command says already, and its arguments cannot.
struct Given {
    measure: Option<Measure>,
    direction: Option<Direction>,
    is_store: bool,
}

impl Query<'_> {
    /// `args` are the range and what follows it.
    fn parse<'a>(args: &'a [Bytes], given: &Given) -> Result<Query<'a>, CommandError> {
        let mut part = WHOLE;
        let (mut measure, mut direction, mut with_scores) = (given.measure, given.direction, false);
        let mut rest = &args[2..];
        while let Some((word, tail)) = rest.split_first() {
            rest = tail;
            match rest {
                _ if !given.is_store && is_word(word, "withscores") => with_scores = true,
                [offset, limit, tail @ ..] if is_word(word, "limit") => {
                    (part.offset, part.limit) = (integer(offset)?, integer(limit)?);
                    rest = tail;
                }
                _ if direction.is_none() && is_word(word, "rev") => {
                    direction = Some(Direction::Backward);
                }
                _ if measure.is_none() && is_word(word, "bylex") => measure = Some(Measure::Name),
                _ if measure.is_none() && is_word(word, "byscore") => {
                    measure = Some(Measure::Score);
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        let measure = measure.unwrap_or(Measure::Rank);
        part.direction = direction.unwrap_or(Direction::Forward);
        if part.limit != -1 && measure == Measure::Rank {
            return Err(CommandError::LimitByRank);
        }
        if with_scores && measure == Measure::Name {
            return Err(CommandError::ScoresByName);
        }
        let turned = part.direction == Direction::Backward && measure != Measure::Rank;
        let (min, max) = if turned { (&args[1], &args[0]) } else { (&args[0], &args[1]) };
        Ok(Query { range: Range::parse(measure, min, max)?, part, with_scores })
    }
}

fn answer(
    read: &Read<'_>,
    reply: &mut Reply,
    measure: Option<Measure>,
    direction: Option<Direction>,
) -> Outcome {
    let query = Query::parse(&read.args[2..], &Given { measure, direction, is_store: false })?;
    let Some(set) = read.members(Kind::SortedSet)? else {
        reply.array(0);
        return Ok(());
    };
    let found = set.select(read.view, &query.range, query.part)?;
    match query.with_scores {
        true => put_scored(reply, &found),
        false => put_names(reply, &found),
    }
    Ok(())
}

pub fn zrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, None, None)
}

pub fn zrevrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Some(Measure::Rank), Some(Direction::Backward))
}

pub fn zrangebyscore(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Some(Measure::Score), Some(Direction::Forward))
}

pub fn zrevrangebyscore(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Some(Measure::Score), Some(Direction::Backward))
}

pub fn zrangebylex(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Some(Measure::Name), Some(Direction::Forward))
}

pub fn zrevrangebylex(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    answer(read, reply, Some(Measure::Name), Some(Direction::Backward))
}

pub fn zrangestore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let given = Given { measure: None, direction: None, is_store: true };
    let query = Query::parse(&args[3..], &given)?;
    let found = match write.members(&args[2], Kind::SortedSet)? {
        Some(set) => set.select(write.overlay, &query.range, query.part)?,
        None => Vec::new(),
    };
    store(write, &found)?;
    reply.count(found.len());
    Ok(())
}

/// Makes the sorted set `args[1]` of these members; without any, the key goes.
pub fn store(write: &mut Write<'_, '_>, members: &[Scored]) -> Outcome {
    let key = &write.args[1];
    if members.is_empty() {
        write.delete(key)?;
        return Ok(());
    }
    let mut set = Members::begin(write.overlay, key, Kind::SortedSet);
    for (member, score) in members {
        set.put_score(write.overlay, member, None, *score);
    }
    set.save(write.overlay);
    Ok(())
}

fn count(read: &Read<'_>, reply: &mut Reply, measure: Measure) -> Outcome {
    let range = Range::parse(measure, &read.args[2], &read.args[3])?;
    let mut found = 0;
    if let Some(set) = read.members(Kind::SortedSet)? {
        set.each_in(read.view, &range, Direction::Forward, &mut |_, _| {
            found += 1;
            ControlFlow::Continue(())
        })?;
    }
    reply.integer(found);
    Ok(())
}

pub fn zcount(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    count(read, reply, Measure::Score)
}

pub fn zlexcount(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    count(read, reply, Measure::Name)
}

fn remove(write: &mut Write<'_, '_>, reply: &mut Reply, measure: Measure) -> Outcome {
    let args = write.args;
    let range = Range::parse(measure, &args[2], &args[3])?;
    let Some(mut set) = write.members(&args[1], Kind::SortedSet)? else {
        reply.integer(0);
        return Ok(());
    };
    let found = set.select(write.overlay, &range, WHOLE)?;
    set.take_out_scored(write.overlay, &found);
    reply.count(found.len());
    Ok(())
}

pub fn zremrangebyrank(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    remove(write, reply, Measure::Rank)
}

pub fn zremrangebyscore(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    remove(write, reply, Measure::Score)
}

pub fn zremrangebylex(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    remove(write, reply, Measure::Name)
}
