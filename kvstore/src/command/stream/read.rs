//! Reading streams: XLEN, XRANGE, XREVRANGE, XREAD.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;

use super::{each_entry, first_entry_from, id};
use crate::command::error::CommandError;
use crate::command::wait::{Flow, Patience, Wait, timeout_ms};
use crate::command::{Read, Write, integer, is_word};
use crate::resp::reply::{Protocol, Reply};
use crate::store::layout::{self, Kind, Stream, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// Entries of each stream that somebody gets who has waited and did not say how many, as in Redis.
const COUNT_OF_WAITING: u64 = 1000;

pub fn xlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let found = read.find_stream(&read.args[1])?;
    reply.integer(found.map_or(0, |(stream, _)| stream.length as i64));
    Ok(())
}

pub fn xrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    range(read, reply, Direction::Forward)
}

pub fn xrevrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    range(read, reply, Direction::Backward)
}

fn range(read: &Read<'_>, reply: &mut Reply, direction: Direction) -> Outcome {
    let (start, end) = match direction {
        Direction::Forward => (&read.args[2], &read.args[3]),
        Direction::Backward => (&read.args[3], &read.args[2]),
    };
    let (start, end) = (id::parse_start(start)?, id::parse_end(end)?);
    let mut count = u64::MAX;
    let mut options = read.args[4..].iter();
    while let Some(word) = options.next() {
        let value =
            options.next().filter(|_| is_word(word, "count")).ok_or(CommandError::Syntax)?;
        count = integer(value)?.max(0) as u64;
    }
    let Some((stream, _)) = read.find_stream(&read.args[1])? else {
        reply.array(0);
        return Ok(());
    };
    if count == 0 {
        reply.null_array();
        return Ok(());
    }
    entries(read, reply, &read.args[1], &stream, (start, end), direction, count)
}

/// Answers an array of at most `count` entries.
pub fn entries(
    read: &Read<'_>,
    reply: &mut Reply,
    key: &[u8],
    stream: &Stream,
    (from, to): (StreamId, StreamId),
    direction: Direction,
    count: u64,
) -> Outcome {
    let open = reply.open_array();
    let mut found = 0u64;
    each_entry(read.view, key, stream, from, to, direction, &mut |id, entry| {
        put_entry(reply, id, entry)?;
        found += 1;
        Ok(if found == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    reply.close_array(open, found as usize);
    Ok(())
}

pub fn put_entry(reply: &mut Reply, id: StreamId, entry: &[u8]) -> Outcome {
    let fields = layout::decode_fields(entry)?;
    reply.array(2);
    reply.bulk(&id::text(id));
    reply.array(fields.len());
    for field in fields {
        reply.bulk(field);
    }
    Ok(())
}

/// The options of XREAD and XREADGROUP.
pub struct Request<'a> {
    pub group: Option<(&'a Bytes, &'a Bytes)>,
    /// [`u64::MAX`] for all.
    pub count: u64,
    /// Whether it waits, and how long; `None` inside for ever.
    pub block: Option<Option<Duration>>,
    pub no_ack: bool,
    keys: &'a [Bytes],
    ids: &'a [Bytes],
}

impl<'a> Request<'a> {
    pub fn parse(args: &'a [Bytes], has_group: bool) -> Result<Request<'a>, CommandError> {
        let (count, keys, ids) = (u64::MAX, &args[..0], &args[..0]);
        let mut found = Request { group: None, count, block: None, no_ack: false, keys, ids };
        let mut rest = &args[1..];
        loop {
            rest = match rest {
                [word, streams @ ..] if is_word(word, "streams") && !streams.is_empty() => {
                    if !streams.len().is_multiple_of(2) {
                        return Err(CommandError::UnbalancedStreams);
                    }
                    (found.keys, found.ids) = streams.split_at(streams.len() / 2);
                    break;
                }
                [word, value, rest @ ..] if is_word(word, "count") => {
                    // As in Redis, no positive count means all.
                    let count = u64::try_from(integer(value)?).ok().filter(|count| *count > 0);
                    found.count = count.unwrap_or(u64::MAX);
                    rest
                }
                [word, value, rest @ ..] if is_word(word, "block") => {
                    found.block = Some(timeout_ms(value)?);
                    rest
                }
                [word, group, consumer, rest @ ..] if is_word(word, "group") => {
                    found.group = Some((group, consumer));
                    if !has_group {
                        return Err(CommandError::OnlyInXreadgroup("GROUP"));
                    }
                    rest
                }
                [word, rest @ ..] if is_word(word, "noack") => {
                    found.no_ack = true;
                    if !has_group {
                        return Err(CommandError::OnlyInXreadgroup("NOACK"));
                    }
                    rest
                }
                _ => return Err(CommandError::Syntax),
            };
        }
        match found.group {
            None if has_group => Err(CommandError::NoGroupOption),
            _ => Ok(found),
        }
    }

    /// Each stream with the id after which it is read.
    pub fn streams(&self) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> + use<'a> {
        self.keys.iter().zip(self.ids)
    }

    /// The streams to look at: all, or the one that has changed.
    pub fn ready(&self, patience: Patience<'_>) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        let is_ready = move |key: &Bytes| match patience {
            Patience::Woken(woken) => key == woken,
            Patience::Never | Patience::Waits => true,
        };
        // The same stream twice is answered once to those who wait, as Redis does.
        let count = if let Patience::Woken(_) = patience { 1 } else { usize::MAX };
        self.streams().filter(move |(key, _)| is_ready(key)).take(count)
    }

    /// Once it waits it gets no more at a time than this, unless it says how many itself.
    pub fn count_for(&self, patience: Patience<'_>) -> u64 {
        match patience {
            Patience::Woken(_) if self.count == u64::MAX => COUNT_OF_WAITING,
            _ => self.count,
        }
    }

    /// There is nothing: waits, or answers so. `args` is what to run then.
    pub fn wait(&self, patience: Patience<'_>, args: Vec<Bytes>, reply: &mut Reply) -> Flow {
        let Some(timeout) = self.block.filter(|_| !matches!(patience, Patience::Never)) else {
            reply.null_array();
            return Flow::Answered;
        };
        // Those who read for a group are told when there is none any more.
        let (kind, wants_other_kinds) = (Kind::Stream, self.group.is_some());
        Flow::Waits(Wait { keys: self.keys.to_vec(), kind, wants_other_kinds, timeout, args })
    }
}

/// Whether an XREAD has a BLOCK, and so may wait.
pub fn may_wait(args: &[Bytes]) -> bool {
    let options = args[1..].iter().take_while(|word| !is_word(word, "streams"));
    options.into_iter().any(|word| is_word(word, "block"))
}

/// XREAD with a BLOCK. `$` is the last id from when it began to wait.
pub fn xread_waiting(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let (args, patience) = (write.args, write.patience);
    let request = Request::parse(args, false)?;
    let read = Read { view: write.overlay, now_ms: write.now_ms, shared: write.shared, args };
    let found = find_streams(&read, request.ready(patience))?;
    if !found.is_empty() {
        put_found(&read, reply, found, request.count_for(patience))?;
        return Ok(Flow::Answered);
    }
    let mut args = args.to_vec();
    let first_id = args.len() - request.ids.len();
    for (place, (key, text)) in request.streams().enumerate() {
        if text == "$" {
            let stream = read.find_stream(key)?;
            let last = stream.map_or(StreamId::MIN, |(stream, _)| stream.last);
            args[first_id + place] = Bytes::from(id::text(last));
        }
    }
    Ok(request.wait(patience, args, reply))
}

pub fn xread(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let request = Request::parse(read.args, false)?;
    let found = find_streams(read, request.streams())?;
    if found.is_empty() {
        reply.null_array();
        return Ok(());
    }
    put_found(read, reply, found, request.count)
}

type Found<'a> = Vec<(&'a Bytes, Stream, StreamId)>;

/// The streams that have something after their ids.
fn find_streams<'a>(
    read: &Read<'_>,
    streams: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
) -> Result<Found<'a>, CommandError> {
    let mut found = Vec::new();
    for (key, text) in streams {
        let stream = read.find_stream(key)?.map(|(stream, _)| stream);
        let after = match &text[..] {
            b"$" => StreamId::MAX,
            b">" => return Err(CommandError::NewInXread),
            text => id::parse(text, 0)?,
        };
        let Some((stream, from)) = stream.zip(after.next()) else { continue };
        if first_entry_from(read.view, key, &stream, from)?.is_some() {
            found.push((key, stream, from));
        }
    }
    Ok(found)
}

fn put_found(read: &Read<'_>, reply: &mut Reply, found: Found<'_>, count: u64) -> Outcome {
    let mut answers = Vec::new();
    for (key, stream, from) in found {
        let mut answer = Reply::new(reply.protocol());
        let to_end = (from, StreamId::MAX);
        entries(read, &mut answer, key, &stream, to_end, Direction::Forward, count)?;
        answers.push((key, answer));
    }
    put_streams(reply, answers);
    Ok(())
}

/// Streams by their names, with their entries.
pub fn put_streams(reply: &mut Reply, answers: Vec<(&Bytes, Reply)>) {
    match reply.protocol() {
        _ if answers.is_empty() => return reply.null_array(),
        Protocol::Resp2 => reply.array(answers.len()),
        Protocol::Resp3 => reply.map(answers.len()),
    }
    for (key, answer) in answers {
        if reply.protocol() == Protocol::Resp2 {
            reply.array(2);
        }
        reply.bulk(key);
        reply.append(answer.bytes());
    }
}
