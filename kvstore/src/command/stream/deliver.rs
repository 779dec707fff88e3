//! XREADGROUP and XACK: entries to consumers, and off the list of what is pending.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::group::{Change, advance, each_pending_of};
use super::read::{Request, put_entry, put_streams};
use super::{each_entry, find_entry, id, last_entry};
use crate::command::Write;
use crate::command::error::{CommandError, shown};
use crate::command::wait::{Flow, Patience};
use crate::resp::reply::Reply;
use crate::store::layout::{Kind, Pending, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// What `>` stands for: entries nobody has had.
const NEW: StreamId = StreamId::MAX;

pub fn xreadgroup(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<Flow, CommandError> {
    let (args, patience) = (write.args, write.patience);
    let mut request = Request::parse(args, true)?;
    request.count = request.count_for(patience);
    let (group, _) = request.group.ok_or(CommandError::NoGroupOption)?;
    let mut wanted = Vec::new();
    for (key, text) in request.ready(patience) {
        if let Patience::Woken(_) = patience
            && !is_stream(write, key)?
        {
            return Err(CommandError::StreamGone);
        }
        if Change::of(write, key, group)?.is_none() {
            if let Patience::Woken(_) = patience {
                return Err(CommandError::GroupGone);
            }
            return Err(CommandError::NoGroupToRead(shown(key), shown(group)));
        }
        wanted.push((key, parse_after(text)?));
    }
    let mut answers = Vec::new();
    for (key, after) in wanted {
        if let Some(answer) = read_stream(write, &request, key, after, reply)? {
            answers.push((key, answer));
        }
    }
    if answers.is_empty() {
        return Ok(request.wait(patience, args.to_vec(), reply));
    }
    put_streams(reply, answers);
    Ok(Flow::Answered)
}

/// A client that waits for a group is told when the stream is gone.
fn is_stream(write: &Write<'_, '_>, key: &[u8]) -> Result<bool, CommandError> {
    let live = write.find(key)?;
    Ok(live.is_some_and(|live| live.header.kind == Kind::Stream))
}

fn parse_after(text: &[u8]) -> Result<StreamId, CommandError> {
    match text {
        b">" => Ok(NEW),
        b"$" => Err(CommandError::DollarInGroup),
        text => id::parse(text, 0),
    }
}

/// The answer for one stream, `None` when it has nothing new.
fn read_stream(
    write: &mut Write<'_, '_>,
    request: &Request<'_>,
    key: &Bytes,
    after: StreamId,
    reply: &Reply,
) -> Result<Option<Reply>, CommandError> {
    let (group, consumer) = request.group.ok_or(CommandError::NoGroupOption)?;
    let Some(mut change) = Change::of(write, key, group)? else { return Ok(None) };
    let mut answer = Reply::new(reply.protocol());
    if after != NEW {
        change.see_consumer(consumer)?;
        put_history(&mut change, key, consumer, (after, request.count), &mut answer)?;
    } else {
        let newest = last_entry(change.write.overlay, key, &change.stream)?;
        if newest.is_none_or(|newest| newest <= change.group.last) {
            return Ok(None);
        }
        change.see_consumer(consumer)?;
        deliver(&mut change, key, consumer, request, &mut answer)?;
    }
    change.finish();
    Ok(Some(answer))
}

/// New entries, which become pending unless nobody wants to acknowledge them.
fn deliver(
    change: &mut Change<'_, '_, '_>,
    key: &[u8],
    consumer: &[u8],
    request: &Request<'_>,
    answer: &mut Reply,
) -> Outcome {
    let Some(from) = change.group.last.next() else { return Ok(()) };
    let (stream, mut group) = (change.stream, change.group);
    let mut delivered = Vec::new();
    let open = answer.open_array();
    let visit = &mut |id, entry: &[u8]| {
        advance(&stream, &mut group, id);
        put_entry(answer, id, entry)?;
        delivered.push(id);
        let full = delivered.len() as u64 == request.count;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let to = StreamId::MAX;
    each_entry(change.write.overlay, key, &stream, from, to, Direction::Forward, visit)?;
    answer.close_array(open, delivered.len());
    change.group = group;
    if request.no_ack {
        return Ok(());
    }
    let delivered_ms = change.write.now_ms;
    let new = Pending { delivered_ms, deliveries: 1, consumer: consumer.to_vec() };
    for id in delivered {
        // Somebody has it when the group was set back by hand.
        let before = change.pending(id)?.map(|pending| pending.consumer);
        change.assign(id, &new, before.as_deref())?;
    }
    Ok(())
}

/// What the consumer has had and not acknowledged, after an id.
fn put_history(
    change: &mut Change<'_, '_, '_>,
    key: &[u8],
    consumer: &[u8],
    (after, count): (StreamId, u64),
    answer: &mut Reply,
) -> Outcome {
    let from = after.next().unwrap_or(StreamId::MAX);
    let mut found = Vec::new();
    let visit = &mut |id, pending| {
        found.push((id, pending));
        let full = found.len() as u64 == count;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    let view = &*change.write.overlay;
    each_pending_of(view, key, &change.stream, &change.group, (consumer, from), visit)?;
    answer.array(found.len());
    for (id, mut pending) in found {
        match find_entry(change.write.overlay, key, &change.stream, id)? {
            Some(entry) => {
                put_entry(answer, id, &entry)?;
                pending.delivered_ms = change.write.now_ms;
                pending.deliveries += 1;
                change.assign(id, &pending, Some(consumer))?;
            }
            None => {
                answer.array(2);
                answer.bulk(&id::text(id));
                answer.null_array();
            }
        }
    }
    Ok(())
}

pub fn xack(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let Some(mut change) = Change::of(write, &args[1], &args[2])? else {
        reply.integer(0);
        return Ok(());
    };
    let ids: Vec<StreamId> =
        args[3..].iter().map(|text| id::parse(text, 0)).collect::<Result<_, _>>()?;
    let mut acknowledged = 0;
    for id in ids {
        if let Some(pending) = change.pending(id)? {
            change.remove_pending(id, &pending)?;
            acknowledged += 1;
        }
    }
    if acknowledged > 0 {
        change.finish();
    }
    reply.integer(acknowledged);
    Ok(())
}
