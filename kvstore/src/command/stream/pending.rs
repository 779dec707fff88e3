//! XPENDING: what a group has delivered and nobody has acknowledged.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::group::{each_pending, each_pending_of, each_row, find_consumer, find_group};
use super::id;
use crate::command::error::{CommandError, shown};
use crate::command::{Read, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Consumer, Group, Pending, Stream, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// Which pending entries are wanted.
struct Range<'a> {
    min_idle_ms: i64,
    from: StreamId,
    to: StreamId,
    count: u64,
    consumer: Option<&'a Bytes>,
}

impl Range<'_> {
    /// `None` asks for a summary. Checks in Redis's order.
    fn parse(args: &[Bytes]) -> Result<Option<Range<'_>>, CommandError> {
        match args.len() {
            3 => return Ok(None),
            6..=9 => {}
            _ => return Err(CommandError::Syntax),
        }
        let (mut min_idle_ms, mut at) = (0, 3);
        if is_word(&args[3], "idle") {
            min_idle_ms = integer(&args[4])?;
            at = 5;
        }
        let [start, end, count, ..] = &args[at..] else { return Err(CommandError::Syntax) };
        let count = integer(count)?.max(0) as u64;
        let (from, to) = (id::parse_start(start)?, id::parse_end(end)?);
        Ok(Some(Range { min_idle_ms, from, to, count, consumer: args.get(at + 3) }))
    }
}

pub fn xpending(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let range = Range::parse(read.args)?;
    let (key, name) = (&read.args[1], &read.args[2]);
    let missing = || CommandError::NoGroup(shown(key), shown(name));
    let (stream, _) = read.find_stream(key)?.ok_or_else(missing)?;
    let group = find_group(read.view, key, &stream, name)?.ok_or_else(missing)?;
    match range {
        Some(range) => put_range(read, reply, (&stream, &group), &range),
        None => put_summary(read, reply, &stream, &group),
    }
}

fn put_summary(read: &Read<'_>, reply: &mut Reply, stream: &Stream, group: &Group) -> Outcome {
    let key = &read.args[1];
    reply.array(4);
    reply.integer(group.pending as i64);
    if group.pending == 0 {
        reply.null();
        reply.null();
        reply.null_array();
        return Ok(());
    }
    for from in [(StreamId::MIN, Direction::Forward), (StreamId::MIN, Direction::Backward)] {
        each_pending(read.view, key, stream, group, from, &mut |id, _| {
            reply.bulk(&id::text(id));
            Ok(ControlFlow::Break(()))
        })?;
    }
    let open = reply.open_array();
    let mut found = 0;
    let prefix = layout::consumers_prefix(group.number);
    let from = (&b""[..], Direction::Forward);
    each_row(read.view, key, stream, &prefix, from, &mut |name, value| {
        let pending = Consumer::decode(value)?.pending;
        if pending > 0 {
            reply.array(2);
            reply.bulk(name);
            reply.bulk(pending.to_string().as_bytes());
            found += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reply.close_array(open, found);
    Ok(())
}

fn put_range(
    read: &Read<'_>,
    reply: &mut Reply,
    (stream, group): (&Stream, &Group),
    range: &Range<'_>,
) -> Outcome {
    let key = &read.args[1];
    let open = reply.open_array();
    let mut found = 0;
    let visit = &mut |id, pending: Pending| {
        if id > range.to || found == range.count {
            return Ok(ControlFlow::Break(()));
        }
        let idle_ms = read.now_ms as i64 - pending.delivered_ms as i64;
        if range.min_idle_ms == 0 || idle_ms >= range.min_idle_ms {
            reply.array(4);
            reply.bulk(&id::text(id));
            reply.bulk(&pending.consumer);
            reply.integer(idle_ms.max(0));
            reply.integer(pending.deliveries as i64);
            found += 1;
        }
        Ok(ControlFlow::Continue(()))
    };
    match range.consumer {
        None => {
            let from = (range.from, Direction::Forward);
            each_pending(read.view, key, stream, group, from, visit)?;
        }
        Some(consumer) => {
            if find_consumer(read.view, key, stream, group, consumer)?.is_some() {
                let from = (&consumer[..], range.from);
                each_pending_of(read.view, key, stream, group, from, visit)?;
            }
        }
    }
    reply.close_array(open, found as usize);
    Ok(())
}
