//! DUMP: a value in the form that RESTORE takes, here and in Redis from 7.0 on.

use std::ops::ControlFlow;

use super::Read;
use super::error::CommandError;
use super::list::{each_element, find_list};
use super::members::Members;
use super::sorted_set::decode_score;
use super::stream::group::{each_pending, each_pending_of, each_row};
use super::stream::{each_entry, find_stream};
use crate::rdb::stream::Facts;
use crate::rdb::{payload, types, writer};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Consumer, Group, Kind, Malformed, Stream, StreamId};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;
type Flow = Result<ControlFlow<()>, CommandError>;

const NEXT: Flow = Ok(ControlFlow::Continue(()));

pub fn dump(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let Some(live) = read.find(&read.args[1])? else {
        reply.null();
        return Ok(());
    };
    let bytes_max = read.shared.config.output_bytes_max;
    let mut dump = Dump { read, key: &read.args[1], out: Vec::new(), bytes_max };
    match live.header.kind {
        Kind::String => {
            dump.out.push(types::STRING);
            writer::put_string(&mut dump.out, live.body());
        }
        Kind::List => dump.list()?,
        Kind::Stream => dump.stream()?,
        kind @ (Kind::Hash | Kind::Set | Kind::SortedSet) => dump.members(kind)?,
    }
    dump.check(0)?;
    payload::end(&mut dump.out);
    reply.bulk(&dump.out);
    Ok(())
}

struct Dump<'a> {
    read: &'a Read<'a>,
    key: &'a [u8],
    out: Vec<u8>,
    bytes_max: usize,
}

impl Dump<'_> {
    /// Fails when it gets longer than any answer may be, by so many bytes that are elsewhere yet.
    fn check(&self, more: usize) -> Outcome {
        match self.out.len() + more > self.bytes_max {
            true => Err(CommandError::DumpTooLarge(self.bytes_max)),
            false => Ok(()),
        }
    }

    fn begin(&mut self, type_code: u8, items: u64) {
        self.out.push(type_code);
        writer::put_length(&mut self.out, items);
    }

    fn members(&mut self, kind: Kind) -> Outcome {
        let view = self.read.view;
        let found = Members::find(view, self.read.now_ms, self.key, kind)?.ok_or(Malformed)?;
        let type_code = match kind {
            Kind::Hash => types::HASH,
            Kind::Set => types::SET,
            _ => types::ZSET_2,
        };
        self.begin(type_code, found.count);
        let mut seen = 0;
        found.each_from(view, 0, &mut |name, value| {
            writer::put_string(&mut self.out, layout::placed_member(name));
            match kind {
                Kind::Hash => writer::put_string(&mut self.out, value),
                Kind::SortedSet => writer::put_score(&mut self.out, decode_score(value)?),
                _ => {}
            }
            seen += 1;
            self.check(0)?;
            NEXT
        })?;
        // Another number than was said would be a payload that nobody can read.
        if seen == found.count { Ok(()) } else { Err(Malformed.into()) }
    }

    fn list(&mut self) -> Outcome {
        let view = self.read.view;
        let list = find_list(view, self.read.now_ms, self.key)?.ok_or(Malformed)?.list;
        self.begin(types::LIST, list.len());
        let places = list.head..list.tail;
        let mut outcome = Ok(());
        each_element(view, self.key, list, places, Direction::Forward, &mut |_, element| {
            writer::put_string(&mut self.out, element);
            outcome = self.check(0);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    fn stream(&mut self) -> Outcome {
        let view = self.read.view;
        let (stream, _) = find_stream(view, self.read.now_ms, self.key)?.ok_or(Malformed)?;
        let mut entries = writer::Entries::default();
        let mut length = 0;
        let all = (StreamId::MIN, StreamId::MAX);
        each_entry(view, self.key, &stream, all.0, all.1, Direction::Forward, &mut |id, entry| {
            entries.add(id, &layout::decode_fields(entry)?);
            length += 1;
            self.check(entries.bytes())?;
            NEXT
        })?;
        if length != stream.length {
            return Err(Malformed.into());
        }
        let Stream { last, max_deleted, added, .. } = stream;
        entries.put(&mut self.out, &Facts { length, last, max_deleted, added });
        writer::put_length(&mut self.out, stream.groups);
        let mut groups = Vec::new();
        let from = (&b""[..], Direction::Forward);
        each_row(view, self.key, &stream, layout::GROUPS, from, &mut |name, value| {
            groups.push((name.to_vec(), Group::decode(value)?));
            NEXT
        })?;
        groups.iter().try_for_each(|(name, group)| self.group(&stream, name, group))
    }

    fn group(&mut self, stream: &Stream, name: &[u8], group: &Group) -> Outcome {
        let (view, key) = (self.read.view, self.key);
        writer::put_string(&mut self.out, name);
        writer::put_id(&mut self.out, group.last);
        writer::put_length(&mut self.out, group.entries_read.unwrap_or(u64::MAX));
        writer::put_length(&mut self.out, group.pending);
        let from = (StreamId::MIN, Direction::Forward);
        each_pending(view, key, stream, group, from, &mut |id, pending| {
            self.out.extend_from_slice(&id.to_bytes());
            writer::put_milliseconds(&mut self.out, pending.delivered_ms);
            writer::put_length(&mut self.out, pending.deliveries);
            self.check(0)?;
            NEXT
        })?;
        let mut consumers = Vec::new();
        let prefix = layout::consumers_prefix(group.number);
        let from = (&b""[..], Direction::Forward);
        each_row(view, key, stream, &prefix, from, &mut |name, value| {
            consumers.push((name.to_vec(), Consumer::decode(value)?));
            NEXT
        })?;
        writer::put_length(&mut self.out, consumers.len() as u64);
        for (name, consumer) in consumers {
            writer::put_string(&mut self.out, &name);
            writer::put_milliseconds(&mut self.out, consumer.seen_ms);
            writer::put_length(&mut self.out, consumer.pending);
            let of = (&name[..], StreamId::MIN);
            each_pending_of(view, key, stream, group, of, &mut |id, _| {
                self.out.extend_from_slice(&id.to_bytes());
                self.check(0)?;
                NEXT
            })?;
        }
        Ok(())
    }
}
