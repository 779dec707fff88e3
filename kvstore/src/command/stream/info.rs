//! XINFO: what a stream, its groups and their consumers are.

use std::ops::ControlFlow;

use super::group::{each_pending, each_pending_of, each_row, find_group, lag};
use super::read::{entries, put_entry};
use super::{each_entry, id};
use crate::command::error::{CommandError, shown};
use crate::command::{Read, integer, is_word, put_help, subcommand};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Consumer, Group, Stream, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;
type Run = fn(&Read<'_>, &mut Reply) -> Outcome;

const COMMANDS: &[(&str, i16, Run)] = &[
    ("xinfo|consumers", 4, consumers),
    ("xinfo|groups", 3, groups),
    ("xinfo|help", 2, help),
    ("xinfo|stream", -3, stream),
];

/// Entries of each list in a FULL answer.
const FULL_COUNT_DEFAULT: u64 = 10;

const ALL: (StreamId, StreamId) = (StreamId::MIN, StreamId::MAX);

pub fn xinfo(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    subcommand(read.args, COMMANDS)?(read, reply)
}

fn found_stream(read: &Read<'_>) -> Result<Stream, CommandError> {
    let found = read.find_stream(&read.args[2])?;
    found.map(|(stream, _)| stream).ok_or(CommandError::NoSuchKey)
}

fn consumers(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let (stream, key, name) = (found_stream(read)?, &read.args[2], &read.args[3]);
    let missing = || CommandError::NoGroupOfKey(shown(name), shown(key));
    let group = find_group(read.view, key, &stream, name)?.ok_or_else(missing)?;
    reply.array(group.consumers as usize);
    each_consumer(read, &stream, &group, &mut |name, consumer| {
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"pending");
        reply.integer(consumer.pending as i64);
        reply.bulk(b"idle");
        reply.integer((read.now_ms as i64 - consumer.seen_ms as i64).max(0));
        Ok(())
    })
}

fn each_consumer(
    read: &Read<'_>,
    stream: &Stream,
    group: &Group,
    visit: &mut dyn FnMut(&[u8], Consumer) -> Outcome,
) -> Outcome {
    let prefix = layout::consumers_prefix(group.number);
    let from = (&b""[..], Direction::Forward);
    each_row(read.view, &read.args[2], stream, &prefix, from, &mut |name, value| {
        visit(name, Consumer::decode(value)?)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn each_group(
    read: &Read<'_>,
    stream: &Stream,
    visit: &mut dyn FnMut(&[u8], Group) -> Outcome,
) -> Outcome {
    let from = (&b""[..], Direction::Forward);
    each_row(read.view, &read.args[2], stream, layout::GROUPS, from, &mut |name, value| {
        visit(name, Group::decode(value)?)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn groups(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let stream = found_stream(read)?;
    reply.array(stream.groups as usize);
    each_group(read, &stream, &mut |name, group| {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"consumers");
        reply.integer(group.consumers as i64);
        reply.bulk(b"pending");
        reply.integer(group.pending as i64);
        put_place(reply, &stream, &group);
        Ok(())
    })
}

/// How far a group is.
fn put_place(reply: &mut Reply, stream: &Stream, group: &Group) {
    reply.bulk(b"last-delivered-id");
    reply.bulk(&id::text(group.last));
    let read = group.entries_read.map(|read| read as i64);
    for (name, value) in [("entries-read", read), ("lag", lag(stream, group))] {
        reply.bulk(name.as_bytes());
        match value {
            Some(value) => reply.integer(value),
            None => reply.null(),
        }
    }
}

/// The number of entries a FULL answer has of each list, 0 for all; `None` when it is not FULL.
fn full_count(read: &Read<'_>) -> Result<Option<u64>, CommandError> {
    let syntax = || CommandError::SubcommandSyntax(shown(&read.args[1]), "XINFO");
    match &read.args[3..] {
        [] => Ok(None),
        [full] if is_word(full, "full") => Ok(Some(FULL_COUNT_DEFAULT)),
        [full, word, count] if is_word(full, "full") && is_word(word, "count") => {
            Ok(Some(u64::try_from(integer(count)?).unwrap_or(FULL_COUNT_DEFAULT)))
        }
        _ => Err(syntax()),
    }
}

/// What one key of Redis's radix tree holds unless it is configured otherwise. There is no such tree here;
/// clients that wait for it to grow are told of the size that a freshly filled one would have.
const ENTRIES_PER_TREE_KEY: u64 = 100;

fn stream(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let stream = found_stream(read)?;
    let full = full_count(read)?;
    reply.map(if full.is_some() { 9 } else { 10 });
    let mut count = |name: &str, value: u64| {
        reply.bulk(name.as_bytes());
        reply.integer(value as i64);
    };
    count("length", stream.length);
    let tree_keys = stream.length.div_ceil(ENTRIES_PER_TREE_KEY);
    count("radix-tree-keys", tree_keys);
    count("radix-tree-nodes", tree_keys + 1);
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
    match full {
        Some(count) => put_full(read, reply, &stream, count),
        None => put_ends(read, reply, &stream),
    }
}

fn put_ends(read: &Read<'_>, reply: &mut Reply, stream: &Stream) -> Outcome {
    reply.bulk(b"groups");
    reply.integer(stream.groups as i64);
    for (name, direction) in
        [("first-entry", Direction::Forward), ("last-entry", Direction::Backward)]
    {
        reply.bulk(name.as_bytes());
        let mut found = false;
        let visit = &mut |id, entry: &[u8]| {
            found = true;
            put_entry(reply, id, entry)?;
            Ok(ControlFlow::Break(()))
        };
        each_entry(read.view, &read.args[2], stream, ALL.0, ALL.1, direction, visit)?;
        if !found {
            reply.null();
        }
    }
    Ok(())
}

fn put_full(read: &Read<'_>, reply: &mut Reply, stream: &Stream, count: u64) -> Outcome {
    reply.bulk(b"entries");
    let count = if count == 0 { u64::MAX } else { count };
    entries(read, reply, &read.args[2], stream, ALL, Direction::Forward, count)?;
    reply.bulk(b"groups");
    reply.array(stream.groups as usize);
    each_group(read, stream, &mut |name, group| {
        reply.map(7);
        reply.bulk(b"name");
        reply.bulk(name);
        put_place(reply, stream, &group);
        reply.bulk(b"pel-count");
        reply.integer(group.pending as i64);
        reply.bulk(b"pending");
        put_pending(read, reply, (stream, &group), None, count)?;
        reply.bulk(b"consumers");
        reply.array(group.consumers as usize);
        each_consumer(read, stream, &group, &mut |name, consumer| {
            reply.map(4);
            reply.bulk(b"name");
            reply.bulk(name);
            reply.bulk(b"seen-time");
            reply.integer(consumer.seen_ms as i64);
            reply.bulk(b"pel-count");
            reply.integer(consumer.pending as i64);
            reply.bulk(b"pending");
            put_pending(read, reply, (stream, &group), Some(name), count)
        })
    })
}

/// What is pending for one consumer, or for all and then with their names.
fn put_pending(
    read: &Read<'_>,
    reply: &mut Reply,
    (stream, group): (&Stream, &Group),
    consumer: Option<&[u8]>,
    count: u64,
) -> Outcome {
    let (key, open, mut found) = (&read.args[2], reply.open_array(), 0);
    let visit = &mut |id, pending: layout::Pending| {
        reply.array(if consumer.is_some() { 3 } else { 4 });
        reply.bulk(&id::text(id));
        if consumer.is_none() {
            reply.bulk(&pending.consumer);
        }
        reply.integer(pending.delivered_ms as i64);
        reply.integer(pending.deliveries as i64);
        found += 1;
        Ok(if found == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    match consumer {
        Some(consumer) => {
            let from = (consumer, StreamId::MIN);
            each_pending_of(read.view, key, stream, group, from, visit)?;
        }
        None => {
            let from = (StreamId::MIN, Direction::Forward);
            each_pending(read.view, key, stream, group, from, visit)?;
        }
    }
    reply.close_array(open, found as usize);
    Ok(())
}

fn help(_: &Read<'_>, reply: &mut Reply) -> Outcome {
    put_help(
        reply,
        "XINFO",
        &[
            "CONSUMERS <key> <group>",
            "    Show the consumers of a group.",
            "GROUPS <key>",
            "    Show the groups of a stream.",
            "STREAM <key> [FULL [COUNT <count>]]",
            "    Show a stream; FULL with its entries and groups.",
        ],
    );
    Ok(())
}
