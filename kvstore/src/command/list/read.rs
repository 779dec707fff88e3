//! Reading lists: LLEN, LINDEX, LRANGE, LPOS.

use std::ops::ControlFlow;

use super::{Held, each_element, element, find_list, place, places};
use crate::command::error::CommandError;
use crate::command::{Read, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

impl Read<'_> {
    fn list(&self) -> Result<Option<Held>, CommandError> {
        self.counted(find_list(self.view, self.now_ms, &self.args[1]))
    }
}

pub fn llen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.integer(read.list()?.map_or(0, |held| held.list.len() as i64));
    Ok(())
}

pub fn lindex(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(Held { list, .. }) = read.list()? else {
        reply.null();
        return Ok(());
    };
    match place(list, integer(&read.args[2])?) {
        Some(index) => reply.bulk(&element(read.view, &read.args[1], list, index)?),
        None => reply.null(),
    }
    Ok(())
}

pub fn lrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let (start, stop) = (integer(&read.args[2])?, integer(&read.args[3])?);
    let Some(Held { list, .. }) = read.list()? else {
        reply.array(0);
        return Ok(());
    };
    let places = places(list, start, stop);
    reply.array((places.end - places.start) as usize);
    each_element(read.view, &read.args[1], list, places, Direction::Forward, &mut |_, element| {
        reply.bulk(element);
        ControlFlow::Continue(())
    })
}

/// The options of `LPOS`.
struct Search {
    /// Matches to pass over before the first that counts.
    skipped: u64,
    direction: Direction,
    /// How many matches to answer; `None` for one, and not as an array.
    count: Option<u64>,
    /// How many elements to look at.
    looked_at_max: u64,
}

impl Search {
    fn parse(args: &[bytes::Bytes]) -> Result<Search, CommandError> {
        let mut search = Search {
            skipped: 0,
            direction: Direction::Forward,
            count: None,
            looked_at_max: u64::MAX,
        };
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            let value = rest.next().ok_or(CommandError::Syntax)?;
            let positive =
                |error| integer(value).ok().and_then(|n| u64::try_from(n).ok()).ok_or(error);
            // No limit is written as 0.
            let limit = |number: u64| if number == 0 { u64::MAX } else { number };
            if is_word(word, "rank") {
                let rank = integer(value)?;
                search.skipped =
                    rank.unsigned_abs().checked_sub(1).ok_or(CommandError::RankZero)?;
                search.direction = if rank < 0 { Direction::Backward } else { Direction::Forward };
            } else if is_word(word, "count") {
                search.count = Some(limit(positive(CommandError::CountNegative)?));
            } else if is_word(word, "maxlen") {
                search.looked_at_max = limit(positive(CommandError::PositionMaxlenNegative)?);
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(search)
    }
}

pub fn lpos(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let wanted = &read.args[2];
    let Search { mut skipped, direction, count, looked_at_max } = Search::parse(&read.args[3..])?;
    let mut found = Vec::new();
    if let Some(Held { list, .. }) = read.list()? {
        let looked_at = looked_at_max.min(list.len());
        let places = match direction {
            Direction::Forward => list.head..list.head + looked_at,
            Direction::Backward => list.tail - looked_at..list.tail,
        };
        each_element(read.view, &read.args[1], list, places, direction, &mut |index, element| {
            if element == wanted {
                match skipped.checked_sub(1) {
                    Some(left) => skipped = left,
                    None => found.push((index - list.head) as i64),
                }
            }
            let enough = found.len() as u64 == count.unwrap_or(1);
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    match (count, found.first()) {
        (Some(_), _) => {
            reply.array(found.len());
            found.iter().for_each(|place| reply.integer(*place));
        }
        (None, Some(place)) => reply.integer(*place),
        (None, None) => reply.null(),
    }
    Ok(())
}
