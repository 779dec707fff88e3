//! Reading streams: XLEN, XRANGE, XREVRANGE, XREAD, XINFO STREAM.

use std::ops::ControlFlow;

use super::{each_entry, find_stream, first_entry_from, id};
use crate::command::error::CommandError;
use crate::command::{Read, integer, is_word};
use crate::resp::reply::{Protocol, Reply};
use crate::store::layout::{self, Stream, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

pub fn xlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let found = find_stream(read.view, read.now_ms, &read.args[1])?;
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
    let Some((stream, _)) = find_stream(read.view, read.now_ms, &read.args[1])? else {
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
fn entries(
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

fn put_entry(reply: &mut Reply, id: StreamId, entry: &[u8]) -> Outcome {
    let fields = layout::decode_fields(entry)?;
    reply.array(2);
    reply.bulk(&id::text(id));
    reply.array(fields.len());
    for field in fields {
        reply.bulk(field);
    }
    Ok(())
}

pub fn xread(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let mut count = u64::MAX;
    let mut at = 1;
    let streams = loop {
        let word = read.args.get(at).ok_or(CommandError::Syntax)?;
        let value = read.args.get(at + 1).ok_or(CommandError::Syntax)?;
        if is_word(word, "streams") {
            break &read.args[at + 1..];
        } else if is_word(word, "count") {
            // As in Redis, no positive count means all.
            count = u64::try_from(integer(value)?).ok().filter(|n| *n > 0).unwrap_or(u64::MAX);
        } else if is_word(word, "block") {
            return Err(CommandError::BlockUnsupported);
        } else {
            return Err(CommandError::Syntax);
        }
        at += 2;
    };
    if !streams.len().is_multiple_of(2) {
        return Err(CommandError::UnbalancedStreams);
    }
    let (keys, ids) = streams.split_at(streams.len() / 2);
    let mut found = Vec::new();
    for (key, text) in keys.iter().zip(ids) {
        let stream = find_stream(read.view, read.now_ms, key)?.map(|(stream, _)| stream);
        let after = match &text[..] {
            b"$" => StreamId::MAX,
            text => id::parse(text, 0)?,
        };
        let Some((stream, from)) = stream.zip(after.next()) else { continue };
        if first_entry_from(read.view, key, &stream, from)?.is_some() {
            found.push((key, stream, from));
        }
    }
    if found.is_empty() {
        reply.null_array();
        return Ok(());
    }
    match reply.protocol() {
        Protocol::Resp2 => reply.array(found.len()),
        Protocol::Resp3 => reply.map(found.len()),
    }
    for (key, stream, from) in found {
        if reply.protocol() == Protocol::Resp2 {
            reply.array(2);
        }
        reply.bulk(key);
        let to_end = (from, StreamId::MAX);
        entries(read, reply, key, &stream, to_end, Direction::Forward, count)?;
    }
    Ok(())
}

pub fn xinfo(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.args {
        [_, what, _, ..] if is_word(what, "stream") => xinfo_stream(read, reply),
        [_, what, ..] if is_word(what, "stream") => Err(CommandError::Arguments("xinfo|stream")),
        _ => Err(CommandError::XinfoUnsupported),
    }
}

/// `XINFO STREAM key`, without `FULL`. There are no consumer groups and no radix tree here, so their
/// counts are 0.
fn xinfo_stream(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let key = &read.args[2];
    let Some((stream, _)) = find_stream(read.view, read.now_ms, key)? else {
        return Err(CommandError::NoSuchKey);
    };
    if read.args.len() > 3 {
        let full = is_word(&read.args[3], "full");
        return Err(if full { CommandError::FullUnsupported } else { CommandError::Syntax });
    }
    reply.map(10);
    let mut count = |name: &str, value: u64| {
        reply.bulk(name.as_bytes());
        reply.integer(value as i64);
    };
    count("length", stream.length);
    count("radix-tree-keys", 0);
    count("radix-tree-nodes", 0);
    let mut id = |name: &str, value: StreamId| {
        reply.bulk(name.as_bytes());
        reply.bulk(&id::text(value));
    };
    id("last-generated-id", stream.last);
    id("max-deleted-entry-id", stream.max_deleted);
    reply.bulk(b"entries-added");
    reply.integer(stream.added as i64);
    reply.bulk(b"recorded-first-entry-id");
    reply.bulk(&id::text(stream.first));
    reply.bulk(b"groups");
    reply.integer(0);
    for (name, direction) in
        [("first-entry", Direction::Forward), ("last-entry", Direction::Backward)]
    {
        reply.bulk(name.as_bytes());
        let mut found = false;
        let all = (StreamId::MIN, StreamId::MAX);
        each_entry(read.view, key, &stream, all.0, all.1, direction, &mut |id, entry| {
            found = true;
            put_entry(reply, id, entry)?;
            Ok(ControlFlow::Break(()))
        })?;
        if !found {
            reply.null();
        }
    }
    Ok(())
}
