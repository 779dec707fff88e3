//! Lists. Elements are members named by their index, so both ends and any place are one lookup away.
//!
//! ```text
//! read    LLEN, LINDEX, LRANGE, LPOS
//! ends    pushing, popping, moving
//! edit    LSET, LTRIM, LREM, LINSERT
//! ```
//!
//! What changes the middle of a list moves the elements of its shorter side by one place, so it costs
//! as much, and is refused when that is more than one command may change.

pub mod edit;
pub mod ends;
pub mod read;

use std::ops::{ControlFlow, Range};

use super::error::CommandError;
use super::{Write, find};
use crate::store::database::StoreError;
use crate::store::layout::{self, Family, Kind, List, Malformed};
use crate::store::view::{Direction, View};

/// A list and when it expires.
#[derive(Clone, Copy)]
pub struct Held {
    pub list: List,
    pub expires_at_ms: u64,
}

/// The two ends: the head is left, the tail is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Head,
    Tail,
}

pub fn find_list(view: &dyn View, now_ms: u64, key: &[u8]) -> Result<Option<Held>, CommandError> {
    let Some(live) = find(view, now_ms, key)? else { return Ok(None) };
    let list = List::decode(live.expect(Kind::List)?)?;
    Ok(Some(Held { list, expires_at_ms: live.header.expires_at_ms }))
}

/// Where a client's index points to: from the head, or back from the tail if negative.
fn place(list: List, index: i64) -> Option<u64> {
    let from_head = match u64::try_from(index) {
        Ok(index) => index,
        Err(_) => list.len().checked_sub(index.unsigned_abs())?,
    };
    (from_head < list.len()).then(|| list.head + from_head)
}

/// The indices from `start` to `stop` as `LRANGE` means them: both inclusive, cut to what there is.
fn places(list: List, start: i64, stop: i64) -> Range<u64> {
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let from_head = |index: i64| if index < 0 { (length + index).max(-1) } else { index };
    let start = from_head(start).max(0);
    let stop = from_head(stop).min(length - 1);
    if start > stop {
        return list.head..list.head;
    }
    list.head + start as u64..list.head + stop as u64 + 1
}

/// Called with the index and value of each element until it breaks.
pub type VisitElement<'a> = dyn FnMut(u64, &[u8]) -> ControlFlow<()> + 'a;

/// Visits the elements at `places`, which must be within the list.
pub fn each_element(
    view: &dyn View,
    key: &[u8],
    list: List,
    places: Range<u64>,
    direction: Direction,
    visit: &mut VisitElement<'_>,
) -> Result<(), CommandError> {
    let lower = layout::member_key(key, list.version, &places.start.to_be_bytes());
    let upper = layout::member_key(key, list.version, &places.end.to_be_bytes());
    let name_starts = lower.len() - 8;
    let (mut missing, mut ended) = (places.end - places.start, false);
    view.scan(Family::Member, &lower, &upper, direction, &mut |member, element| {
        let Ok(index) = member[name_starts..].try_into() else { return ControlFlow::Break(()) };
        missing -= 1;
        let flow = visit(u64::from_be_bytes(index), element);
        ended = flow.is_break();
        flow
    })?;
    // Every index of the range has an element; answering fewer would be silent loss.
    if missing > 0 && !ended { Err(Malformed.into()) } else { Ok(()) }
}

fn element(view: &dyn View, key: &[u8], list: List, index: u64) -> Result<Vec<u8>, CommandError> {
    let member = layout::member_key(key, list.version, &index.to_be_bytes());
    let found = view.get(Family::Member, &member)?;
    found.ok_or_else(|| StoreError::Malformed.into())
}

impl Write<'_, '_> {
    fn list(&self, key: &[u8]) -> Result<Option<Held>, CommandError> {
        find_list(self.overlay, self.now_ms, key)
    }

    /// The list to change, an empty one if there is none. Nothing is written yet.
    fn list_to_change(&mut self, key: &[u8]) -> Result<Held, CommandError> {
        match self.list(key)? {
            Some(held) => Ok(held),
            None => {
                let version = self.overlay.next_version();
                Ok(Held { list: List::new(version), expires_at_ms: 0 })
            }
        }
    }

    fn put_element(&mut self, key: &[u8], list: List, index: u64, element: &[u8]) {
        let member = layout::member_key(key, list.version, &index.to_be_bytes());
        self.overlay.put(Family::Member, member, element.to_vec());
    }

    /// Adds one element in front of the head or behind the tail.
    fn push_element(&mut self, key: &[u8], held: &mut Held, end: End, element: &[u8]) {
        let list = &mut held.list;
        let index = match end {
            End::Head => {
                list.head -= 1;
                list.head
            }
            End::Tail => {
                list.tail += 1;
                list.tail - 1
            }
        };
        self.put_element(key, held.list, index, element);
    }

    /// Writes the metadata of the changed list; an empty one does not exist.
    fn put_list(&mut self, key: &[u8], held: &Held) {
        if held.list.is_empty() {
            self.delete_metadata(key);
        } else {
            self.put_metadata(key, held.list.encode(held.expires_at_ms));
        }
    }
}
