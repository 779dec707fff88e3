//! Consumer groups: what they have delivered, and what waits for an acknowledgement.
//!
//! Everything of a group is a member of its stream, so deleting the stream deletes its groups
//! ([`layout`] has the picture). A pending entry has two rows: one in the group's order, which says who
//! has it, and one in its consumer's. **Invariant:** the rows, and the counts in the group and its
//! consumers, are changed together, by [`Change`] alone.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::find_stream;
use crate::command::Write;
use crate::command::error::CommandError;
use crate::store::layout::{self, Consumer, Family, Group, Pending, Stream, StreamId};
use crate::store::view::{Direction, View};

pub fn find_group(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    name: &[u8],
) -> Result<Option<Group>, CommandError> {
    let row = layout::member_key(key, stream.version, &layout::group_name(name));
    let found = view.get(Family::Member, &row)?;
    Ok(found.map(|value| Group::decode(&value)).transpose()?)
}

/// Called with the name and the value of each row until it breaks.
type VisitRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, CommandError> + 'a;

/// Visits the rows of a stream whose names start with `prefix`, from `from` behind it on; the names are
/// given without the prefix.
pub fn each_row(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    prefix: &[u8],
    (from, direction): (&[u8], Direction),
    visit: &mut VisitRow<'_>,
) -> Result<(), CommandError> {
    let start = layout::member_key(key, stream.version, prefix);
    let (lower, upper) = ([&start, from].concat(), layout::after_prefix(&start));
    let mut outcome = Ok(());
    view.scan(Family::Member, &lower, &upper, direction, &mut |row, value| {
        visit(&row[start.len()..], value).unwrap_or_else(|error| {
            outcome = Err(error);
            ControlFlow::Break(())
        })
    })?;
    outcome
}

/// Visits the pending entries of a group in their order.
pub fn each_pending(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    group: &Group,
    (from, direction): (StreamId, Direction),
    visit: &mut dyn FnMut(StreamId, Pending) -> Result<ControlFlow<()>, CommandError>,
) -> Result<(), CommandError> {
    let prefix = layout::pending_prefix(group.number);
    let from = from.to_bytes();
    each_row(view, key, stream, &prefix, (&from, direction), &mut |id, value| {
        visit(StreamId::from_bytes(id)?, Pending::decode(value)?)
    })
}

/// The same for those of one consumer.
pub fn each_pending_of(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    group: &Group,
    (consumer, from): (&[u8], StreamId),
    visit: &mut dyn FnMut(StreamId, Pending) -> Result<ControlFlow<()>, CommandError>,
) -> Result<(), CommandError> {
    let prefix = layout::owned_prefix(group.number, consumer);
    let from = (&from.to_bytes()[..], Direction::Forward);
    each_row(view, key, stream, &prefix, from, &mut |id, _| {
        let id = StreamId::from_bytes(id)?;
        let pending = find_pending(view, key, stream, group, id)?;
        visit(id, pending.ok_or(layout::Malformed)?)
    })
}

pub fn find_pending(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    group: &Group,
    id: StreamId,
) -> Result<Option<Pending>, CommandError> {
    let row = layout::member_key(key, stream.version, &layout::pending_name(group.number, id));
    let found = view.get(Family::Member, &row)?;
    Ok(found.map(|value| Pending::decode(&value)).transpose()?)
}

pub fn find_consumer(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    group: &Group,
    name: &[u8],
) -> Result<Option<Consumer>, CommandError> {
    let row = layout::member_key(key, stream.version, &layout::consumer_name(group.number, name));
    let found = view.get(Family::Member, &row)?;
    Ok(found.map(|value| Consumer::decode(&value)).transpose()?)
}

/// A group that a command is changing. [`finish`](Change::finish) writes what is kept here.
pub struct Change<'w, 'a, 'd> {
    pub write: &'w mut Write<'a, 'd>,
    key: &'w [u8],
    name: &'w [u8],
    pub stream: Stream,
    expires_at_ms: u64,
    pub group: Group,
    /// Consumers that were looked at, as they are now.
    consumers: BTreeMap<Vec<u8>, Consumer>,
}

impl<'w, 'a, 'd> Change<'w, 'a, 'd> {
    /// `None` when there is no such stream or no such group.
    pub fn of(
        write: &'w mut Write<'a, 'd>,
        key: &'w [u8],
        name: &'w [u8],
    ) -> Result<Option<Change<'w, 'a, 'd>>, CommandError> {
        let Some((stream, expires_at_ms)) = find_stream(write.overlay, write.now_ms, key)? else {
            return Ok(None);
        };
        let Some(group) = find_group(write.overlay, key, &stream, name)? else { return Ok(None) };
        let consumers = BTreeMap::new();
        Ok(Some(Change { write, key, name, stream, expires_at_ms, group, consumers }))
    }

    fn put(&mut self, name: &[u8], value: Vec<u8>) {
        let row = layout::member_key(self.key, self.stream.version, name);
        self.write.overlay.put(Family::Member, row, value);
    }

    fn delete(&mut self, name: &[u8]) {
        let row = layout::member_key(self.key, self.stream.version, name);
        self.write.overlay.delete(Family::Member, row);
    }

    fn consumer(&mut self, name: &[u8]) -> Result<Option<&mut Consumer>, CommandError> {
        if !self.consumers.contains_key(name) {
            let found =
                find_consumer(self.write.overlay, self.key, &self.stream, &self.group, name)?;
            let Some(found) = found else { return Ok(None) };
            self.consumers.insert(name.to_vec(), found);
        }
        Ok(self.consumers.get_mut(name))
    }

    pub fn has_consumer(&mut self, name: &[u8]) -> Result<bool, CommandError> {
        Ok(self.consumer(name)?.is_some())
    }

    /// The consumer does something now; it is created when it is new.
    pub fn see_consumer(&mut self, name: &[u8]) -> Result<(), CommandError> {
        let seen_ms = self.write.now_ms;
        if let Some(consumer) = self.consumer(name)? {
            consumer.seen_ms = seen_ms;
        } else {
            self.consumers.insert(name.to_vec(), Consumer { seen_ms, pending: 0 });
            self.group.consumers += 1;
        }
        Ok(())
    }

    /// Takes the consumer and all that is pending for it out of the group; returns how much that was.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Result<u64, CommandError> {
        let Some(consumer) = self.consumer(name)?.map(|consumer| *consumer) else { return Ok(0) };
        let mut ids = Vec::new();
        let (view, from) = (&*self.write.overlay, (name, StreamId::MIN));
        each_pending_of(view, self.key, &self.stream, &self.group, from, &mut |id, _| {
            ids.push(id);
            Ok(ControlFlow::Continue(()))
        })?;
        for id in ids {
            self.delete(&layout::pending_name(self.group.number, id));
            self.delete(&layout::owned_name(self.group.number, name, id));
        }
        self.delete(&layout::consumer_name(self.group.number, name));
        self.consumers.remove(name);
        self.group.consumers -= 1;
        self.group.pending -= consumer.pending;
        Ok(consumer.pending)
    }

    pub fn pending(&self, id: StreamId) -> Result<Option<Pending>, CommandError> {
        find_pending(self.write.overlay, self.key, &self.stream, &self.group, id)
    }

    /// Gives an entry to a consumer that was seen. `before` is who has it now, if anybody.
    pub fn assign(
        &mut self,
        id: StreamId,
        pending: &Pending,
        before: Option<&[u8]>,
    ) -> Result<(), CommandError> {
        let number = self.group.number;
        if before != Some(&pending.consumer) {
            match before {
                Some(before) => self.release(id, before)?,
                None => self.group.pending += 1,
            }
            self.put(&layout::owned_name(number, &pending.consumer, id), Vec::new());
            let owner = self.consumer(&pending.consumer)?;
            owner.expect("seen by the caller").pending += 1;
        }
        self.put(&layout::pending_name(number, id), pending.encode());
        Ok(())
    }

    fn release(&mut self, id: StreamId, consumer: &[u8]) -> Result<(), CommandError> {
        self.delete(&layout::owned_name(self.group.number, consumer, id));
        self.consumer(consumer)?.ok_or(layout::Malformed)?.pending -= 1;
        Ok(())
    }

    /// Nobody has this entry any more.
    pub fn remove_pending(&mut self, id: StreamId, pending: &Pending) -> Result<(), CommandError> {
        self.release(id, &pending.consumer)?;
        self.delete(&layout::pending_name(self.group.number, id));
        self.group.pending -= 1;
        Ok(())
    }

    pub fn finish(mut self) {
        for (name, consumer) in std::mem::take(&mut self.consumers) {
            self.put(&layout::consumer_name(self.group.number, &name), consumer.encode());
        }
        let group = self.group.encode();
        self.put(&layout::group_name(self.name), group);
        let metadata = self.stream.encode(self.expires_at_ms);
        self.write.put_metadata(self.key, metadata);
    }

    /// Deletes the group with all its rows. They are changes like others, so a group with very much
    /// pending is refused by the limit of changes, and its entries are acknowledged first.
    pub fn destroy(mut self) -> Result<(), CommandError> {
        let mut names = vec![layout::group_name(self.name)];
        for prefix in layout::group_prefixes(self.group.number) {
            let (view, from) = (&*self.write.overlay, (&b""[..], Direction::Forward));
            each_row(view, self.key, &self.stream, &prefix, from, &mut |rest, _| {
                names.push([&prefix, rest].concat());
                Ok(ControlFlow::Continue(()))
            })?;
        }
        names.iter().for_each(|name| self.delete(name));
        self.stream.groups -= 1;
        let metadata = self.stream.encode(self.expires_at_ms);
        self.write.put_metadata(self.key, metadata);
        Ok(())
    }
}

/// How many entries were added up to this one; `None` when it cannot be known without counting.
pub fn entries_up_to(stream: &Stream, id: StreamId) -> Option<u64> {
    if stream.added == 0 {
        return Some(0);
    }
    if stream.length == 0 && id <= stream.last || id == stream.last {
        return Some(stream.added);
    }
    let is_dense = stream.max_deleted == StreamId::MIN || stream.max_deleted < stream.first;
    if id > stream.last || !is_dense || id > stream.first {
        return None;
    }
    Some(stream.added - stream.length + u64::from(id == stream.first))
}

/// Whether an entry at or after this one was deleted from the middle.
fn has_gap_from(stream: &Stream, id: StreamId) -> bool {
    stream.length > 0
        && stream.max_deleted != StreamId::MIN
        && stream.first <= stream.max_deleted
        && id <= stream.max_deleted
}

/// Entries a group has not delivered yet, when that is known.
pub fn lag(stream: &Stream, group: &Group) -> Option<i64> {
    let read = match group.entries_read {
        _ if stream.added == 0 => return Some(0),
        Some(read) if !has_gap_from(stream, group.last) => Some(read),
        _ => entries_up_to(stream, group.last),
    };
    read.map(|read| stream.added as i64 - read as i64)
}

/// The group has delivered this entry, one after all it had delivered.
pub fn advance(stream: &Stream, group: &mut Group, id: StreamId) {
    match group.entries_read {
        Some(read) if !has_gap_from(stream, id) => group.entries_read = Some(read + 1),
        _ if stream.added > 0 => group.entries_read = entries_up_to(stream, id),
        _ => {}
    }
    group.last = id;
}
