//! ZADD, ZINCRBY, ZREM.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::command::error::CommandError;
use crate::command::{Write, is_word};
use crate::resp::double;
use crate::resp::reply::Reply;
use crate::store::layout::Kind;

type Outcome = Result<(), CommandError>;

/// The options of `ZADD`.
#[derive(Clone, Copy, Default)]
struct Options {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    counts_changes: bool,
    increments: bool,
}

impl Options {
    /// The options, and the pairs after them.
    fn parse(mut args: &[Bytes]) -> Result<(Options, &[Bytes]), CommandError> {
        let mut found = Options::default();
        while let Some((word, rest)) = args.split_first() {
            match () {
                () if is_word(word, "nx") => found.nx = true,
                () if is_word(word, "xx") => found.xx = true,
                () if is_word(word, "gt") => found.gt = true,
                () if is_word(word, "lt") => found.lt = true,
                () if is_word(word, "ch") => found.counts_changes = true,
                () if is_word(word, "incr") => found.increments = true,
                () => break,
            }
            args = rest;
        }
        if args.is_empty() || !args.len().is_multiple_of(2) {
            return Err(CommandError::Syntax);
        }
        if found.nx && found.xx {
            return Err(CommandError::ZaddNxXx);
        }
        if [found.nx, found.gt, found.lt].into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err(CommandError::ZaddGtLtNx);
        }
        if found.increments && args.len() > 2 {
            return Err(CommandError::ZaddIncrements);
        }
        Ok((found, args))
    }

    /// What a member's score becomes; `None` if these options leave it as it is.
    fn score(self, before: Option<f64>, given: f64) -> Result<Option<f64>, CommandError> {
        let Some(before) = before else { return Ok((!self.xx).then_some(given)) };
        if self.nx {
            return Ok(None);
        }
        let score = if self.increments { before + given } else { given };
        if score.is_nan() {
            return Err(CommandError::ScoreNotNumber);
        }
        let is_refused = self.lt && score >= before || self.gt && score <= before;
        Ok((!is_refused).then_some(score))
    }
}

pub fn zadd(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (options, pairs) = Options::parse(&write.args[2..])?;
    add(write, reply, options, pairs)
}

pub fn zincrby(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let options = Options { increments: true, ..Options::default() };
    add(write, reply, options, &write.args[2..])
}

fn add(write: &mut Write<'_, '_>, reply: &mut Reply, options: Options, pairs: &[Bytes]) -> Outcome {
    let score_of = |text: &Bytes| double::parse(text).ok_or(CommandError::NotFloat);
    let scores = pairs.iter().step_by(2).map(score_of).collect::<Result<Vec<f64>, _>>()?;
    let args = write.args;
    let mut set = write.members_or_new(&args[1], Kind::SortedSet)?;
    // What was there before the command, and what the member has got so far.
    let mut changes: BTreeMap<&[u8], (Option<f64>, Option<f64>)> = BTreeMap::new();
    let (mut added, mut updated, mut last) = (0, 0, None);
    for (member, given) in pairs.iter().skip(1).step_by(2).zip(scores) {
        let known = match changes.get(&member[..]) {
            Some(known) => *known,
            None => {
                let before = set.score(write.overlay, member)?;
                (before, before)
            }
        };
        let (before, now) = known;
        last = options.score(now, given)?;
        let Some(score) = last else { continue };
        if now.is_none() {
            added += 1;
        } else if now != Some(score) {
            updated += 1;
        } else {
            continue;
        }
        changes.insert(member, (before, Some(score)));
    }
    for (member, (before, score)) in &changes {
        set.put_score(write.overlay, member, *before, score.expect("a change has a score"));
    }
    if !changes.is_empty() {
        set.save(write.overlay);
    }
    match (options.increments, last) {
        (true, Some(score)) => reply.double(score),
        (true, None) => reply.null(),
        (false, _) if options.counts_changes => reply.integer(added + updated),
        (false, _) => reply.integer(added),
    }
    Ok(())
}

pub fn zrem(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let Some(mut set) = write.members(&args[1], Kind::SortedSet)? else {
        reply.integer(0);
        return Ok(());
    };
    let mut gone = BTreeMap::new();
    for member in &args[2..] {
        if let Some(score) = set.score(write.overlay, member)? {
            gone.insert(member.to_vec(), score);
        }
    }
    let gone: Vec<_> = gone.into_iter().collect();
    set.take_out_scored(write.overlay, &gone);
    reply.count(gone.len());
    Ok(())
}
