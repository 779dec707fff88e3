//! Streams. Entries are members named by their id, so ranges are ranges of the store.
//!
//! ```text
//! id      ids as clients write them
//! add     XADD, XTRIM, XDEL, XSETID
//! read    XLEN, XRANGE, XREVRANGE, XREAD
//! group   what a consumer group is made of
//! xgroup  XGROUP
//! deliver XREADGROUP, XACK
//! claim   XCLAIM, XAUTOCLAIM
//! pending XPENDING
//! info    XINFO
//! ```
//!
//! **Invariant:** the metadata of a stream stays when its last entry goes, so the last id given out
//! never goes back and entries can be numbered without gaps.

pub mod add;
pub mod claim;
pub mod deliver;
pub mod group;
pub mod id;
pub mod info;
pub mod pending;
pub mod read;
pub mod xgroup;

use std::ops::ControlFlow;

use super::error::CommandError;
use super::{Read, find};
use crate::store::layout::{self, Family, Kind, Stream, StreamId};
use crate::store::view::{Direction, View};

pub fn find_stream(
    view: &dyn View,
    now_ms: u64,
    key: &[u8],
) -> Result<Option<(Stream, u64)>, CommandError> {
    let Some(live) = find(view, now_ms, key)? else { return Ok(None) };
    Ok(Some((Stream::decode(live.expect(Kind::Stream)?)?, live.header.expires_at_ms)))
}

impl Read<'_> {
    pub fn find_stream(&self, key: &[u8]) -> Result<Option<(Stream, u64)>, CommandError> {
        self.counted(find_stream(self.view, self.now_ms, key))
    }
}

/// Called with each entry until it breaks.
pub type VisitEntry<'a> = dyn FnMut(StreamId, &[u8]) -> Result<ControlFlow<()>, CommandError> + 'a;

/// Visits the entries with `from <= id <= to`.
pub fn each_entry(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    from: StreamId,
    to: StreamId,
    direction: Direction,
    visit: &mut VisitEntry<'_>,
) -> Result<(), CommandError> {
    let from = from.max(stream.first);
    let to = to.min(stream.last);
    if stream.length == 0 || from > to {
        return Ok(());
    }
    let lower = layout::member_key(key, stream.version, &layout::entry_name(from));
    let mut upper = layout::member_key(key, stream.version, &layout::entry_name(to));
    upper.push(0);
    let name_starts = lower.len() - 16;
    let mut outcome = Ok(());
    view.scan(Family::Member, &lower, &upper, direction, &mut |member, entry| {
        let id = StreamId::from_bytes(&member[name_starts..]).map_err(CommandError::from);
        match id.and_then(|id| visit(id, entry)) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    outcome
}

/// The oldest entry at or after `from`.
fn first_entry_from(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    from: StreamId,
) -> Result<Option<StreamId>, CommandError> {
    let mut found = None;
    each_entry(view, key, stream, from, StreamId::MAX, Direction::Forward, &mut |id, _| {
        found = Some(id);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// One entry.
fn find_entry(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
    id: StreamId,
) -> Result<Option<Vec<u8>>, CommandError> {
    let row = layout::member_key(key, stream.version, &layout::entry_name(id));
    Ok(view.get(Family::Member, &row)?)
}

/// The newest entry.
fn last_entry(
    view: &dyn View,
    key: &[u8],
    stream: &Stream,
) -> Result<Option<StreamId>, CommandError> {
    let mut found = None;
    let all = (StreamId::MIN, StreamId::MAX);
    each_entry(view, key, stream, all.0, all.1, Direction::Backward, &mut |id, _| {
        found = Some(id);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
