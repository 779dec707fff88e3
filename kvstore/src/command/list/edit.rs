//! Changing lists anywhere: LSET, LTRIM, LREM, LINSERT.

use std::ops::{ControlFlow, Range};

use super::{Held, each_element, place, places};
use crate::command::error::CommandError;
use crate::command::{Write, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

pub fn lset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (key, element) = (&write.args[1], &write.args[3]);
    let held = write.list(key)?.ok_or(CommandError::NoSuchKey)?;
    let index = place(held.list, integer(&write.args[2])?).ok_or(CommandError::IndexOutOfRange)?;
    write.put_element(key, held.list, index, element);
    write.put_list(key, &held);
    reply.ok();
    Ok(())
}

pub fn ltrim(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let key = &write.args[1];
    let (start, stop) = (integer(&write.args[2])?, integer(&write.args[3])?);
    if let Some(mut held) = write.list(key)? {
        let kept = places(held.list, start, stop);
        (held.list.head, held.list.tail) = (kept.start, kept.end);
        write.put_list(key, &held);
    }
    reply.ok();
    Ok(())
}

pub fn lrem(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (key, unwanted) = (&write.args[1], &write.args[3]);
    let count = integer(&write.args[2])?;
    let Some(mut held) = write.list(key)? else {
        reply.integer(0);
        return Ok(());
    };
    let direction = if count < 0 { Direction::Backward } else { Direction::Forward };
    let removed_max = if count == 0 { u64::MAX } else { count.unsigned_abs() };
    let list = held.list;
    let mut removed = Vec::new();
    each_element(
        write.overlay,
        key,
        list,
        list.head..list.tail,
        direction,
        &mut |index, element| {
            if element == unwanted {
                removed.push(index);
            }
            let enough = removed.len() as u64 == removed_max;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    removed.sort_unstable();
    close_gaps(write, &mut held, &removed)?;
    reply.count(removed.len());
    Ok(())
}

/// Takes the elements at these places out, in ascending order, and moves those of one side together.
fn close_gaps(write: &mut Write<'_, '_>, held: &mut Held, removed: &[u64]) -> Outcome {
    let (Some(first), Some(last)) = (removed.first(), removed.last()) else { return Ok(()) };
    let key = &write.args[1];
    let list = held.list;
    let is_removed = |index: u64| removed.binary_search(&index).is_ok();
    let count = removed.len() as u64;
    if list.tail - first <= last + 1 - list.head {
        let kept = elements(write, held, *first..list.tail, is_removed)?;
        for (index, element) in (*first..).zip(kept) {
            write.put_element(key, list, index, &element);
        }
        held.list.tail -= count;
    } else {
        let kept = elements(write, held, list.head..last + 1, is_removed)?;
        for (index, element) in (list.head + count..).zip(kept) {
            write.put_element(key, list, index, &element);
        }
        held.list.head += count;
    }
    write.put_list(key, held);
    Ok(())
}

pub fn linsert(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let [_, key, side, pivot, element] = write.args else { return Err(CommandError::Syntax) };
    let is_after = match &side[..] {
        side if is_word(side, "after") => true,
        side if is_word(side, "before") => false,
        _ => return Err(CommandError::Syntax),
    };
    let Some(mut held) = write.list(key)? else {
        reply.integer(0);
        return Ok(());
    };
    let list = held.list;
    let mut found = None;
    let all = list.head..list.tail;
    each_element(write.overlay, key, list, all, Direction::Forward, &mut |index, element| {
        found = (element == pivot).then_some(index);
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let Some(pivot) = found else {
        reply.integer(-1);
        return Ok(());
    };
    insert_at(write, &mut held, pivot + u64::from(is_after), element)?;
    reply.integer(held.list.len() as i64);
    Ok(())
}

/// Puts an element in front of the one at `index`, or at the tail.
fn insert_at(write: &mut Write<'_, '_>, held: &mut Held, index: u64, element: &[u8]) -> Outcome {
    let key = &write.args[1];
    let list = held.list;
    let none = |_| false;
    if list.tail - index <= index - list.head {
        let moved = elements(write, held, index..list.tail, none)?;
        for (place, element) in (index + 1..).zip(moved) {
            write.put_element(key, list, place, &element);
        }
        held.list.tail += 1;
        write.put_element(key, list, index, element);
    } else {
        let moved = elements(write, held, list.head..index, none)?;
        for (place, element) in (list.head - 1..).zip(moved) {
            write.put_element(key, list, place, &element);
        }
        held.list.head -= 1;
        write.put_element(key, list, index - 1, element);
    }
    write.put_list(key, held);
    Ok(())
}

/// The elements at `places` but those left out, if they are no more than one command may change.
fn elements(
    write: &Write<'_, '_>,
    held: &Held,
    places: Range<u64>,
    is_left_out: impl Fn(u64) -> bool,
) -> Result<Vec<Vec<u8>>, CommandError> {
    let bytes_max = write.shared.config.changes_bytes_max();
    let (mut found, mut bytes) = (Vec::new(), 0);
    let visit = &mut |index: u64, element: &[u8]| {
        if !is_left_out(index) {
            // Each is written under its key, which holds the list's.
            bytes += element.len() + write.args[1].len() + 16;
            found.push(element.to_vec());
        }
        if bytes > bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    each_element(write.overlay, &write.args[1], held.list, places, Direction::Forward, visit)?;
    if bytes > bytes_max {
        return Err(CommandError::ChangesTooLarge(bytes_max));
    }
    Ok(found)
}
