//! Walking over many keys or fields: SCAN, HSCAN, KEYS, DBSIZE.
//!
//! Keys are in order here, so a walk continues after the last key it gave. A cursor must be a number,
//! so the server keeps a bounded list of where walks stopped ([`Cursors`]); a cursor that has fallen
//! out of it is refused, never guessed at. **Guarantee:** what exists during the whole walk is
//! returned exactly once.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Mutex;

use bytes::Bytes;

use super::error::CommandError;
use super::hashes::find_hash;
use super::{Read, integer, is_word};
use crate::resp::reply::Reply;
use crate::resp::unsigned;
use crate::store::database::unix_ms;
use crate::store::layout::{self, Family, Header};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// What `COUNT` is when it is not given, as in Redis.
const COUNT_DEFAULT: u64 = 10;
/// Rows one call looks at, at most.
const COUNT_MAX: u64 = 100_000;

const CURSORS_MAX: usize = 16 * 1024;
const CURSOR_BYTES_MAX: usize = 8 << 20;

/// Where walks stopped, newest last. Numbers are dense, so that a cursor is found by counting.
pub struct Cursors {
    stopped: Mutex<Stopped>,
}

struct Stopped {
    first: u64,
    at: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Default for Cursors {
    /// Numbers start at the time, so that cursors of an earlier run are recognised as old.
    fn default() -> Cursors {
        let first = unix_ms() << 16;
        Cursors { stopped: Mutex::new(Stopped { first, at: VecDeque::new(), bytes: 0 }) }
    }
}

impl Cursors {
    fn remember(&self, at: Vec<u8>) -> u64 {
        let mut stopped = self.stopped.lock().expect("not poisoned: nothing panics under it");
        stopped.bytes += at.len();
        stopped.at.push_back(at);
        while stopped.at.len() > CURSORS_MAX
            || stopped.bytes > CURSOR_BYTES_MAX && stopped.at.len() > 1
        {
            let oldest = stopped.at.pop_front().expect("more than one");
            stopped.bytes -= oldest.len();
            stopped.first += 1;
        }
        stopped.first + stopped.at.len() as u64 - 1
    }

    fn find(&self, cursor: u64) -> Result<Vec<u8>, CommandError> {
        let stopped = self.stopped.lock().expect("not poisoned: nothing panics under it");
        let index = cursor.checked_sub(stopped.first).and_then(|index| index.try_into().ok());
        index
            .and_then(|index: usize| stopped.at.get(index).cloned())
            .ok_or(CommandError::CursorGone)
    }
}

struct Options<'a> {
    cursor: u64,
    pattern: Option<&'a [u8]>,
    count: u64,
    kind: Option<&'a [u8]>,
}

impl Options<'_> {
    fn parse(args: &[Bytes], has_type: bool) -> Result<Options<'_>, CommandError> {
        let cursor = parse_cursor(&args[0])?;
        let mut found = Options { cursor, pattern: None, count: COUNT_DEFAULT, kind: None };
        for option in args[1..].chunks(2) {
            match option {
                [word, value] if is_word(word, "match") => found.pattern = Some(value),
                [word, value] if is_word(word, "count") => {
                    let count = u64::try_from(integer(value)?).ok().filter(|count| *count > 0);
                    found.count = count.ok_or(CommandError::Syntax)?.min(COUNT_MAX);
                }
                [word, value] if has_type && is_word(word, "type") => found.kind = Some(value),
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(found)
    }

    fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob(pattern, name))
    }
}

fn parse_cursor(text: &[u8]) -> Result<u64, CommandError> {
    unsigned(text).ok_or(CommandError::InvalidCursor)
}

/// Walks on from a cursor; `visit` sees every row. Answers the next cursor.
fn walk(
    read: &Read<'_>,
    family: Family,
    (lower, upper): (Vec<u8>, Vec<u8>),
    options: &Options<'_>,
    visit: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<u64, CommandError> {
    let lower = match options.cursor {
        0 => lower,
        cursor => read.shared.cursors.find(cursor)?.max(lower),
    };
    let mut seen = 0;
    let mut stopped_at = None;
    read.view.scan(family, &lower, &upper, Direction::Forward, &mut |row, value| {
        if seen == options.count {
            stopped_at = Some(row.to_vec());
            return ControlFlow::Break(());
        }
        seen += 1;
        visit(row, value);
        ControlFlow::Continue(())
    })?;
    Ok(stopped_at.map_or(0, |at| read.shared.cursors.remember(at)))
}

pub fn scan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(&read.args[1..], true)?;
    let mut found = Vec::new();
    let bounds = layout::whole_space();
    let cursor = walk(read, Family::Metadata, bounds, &options, &mut |row, metadata| {
        let key = layout::user_key(row);
        let header = live_header(metadata, read.now_ms);
        let wanted = header.is_some_and(|header| {
            options.kind.is_none_or(|kind| is_word(kind, header.kind.name()))
        });
        if wanted && options.matches(key) {
            found.push(key.to_vec());
        }
    })?;
    put_page(reply, cursor, &found);
    Ok(())
}

pub fn hscan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    // In Redis's order: a bad cursor, then the key, then bad options.
    parse_cursor(&read.args[2])?;
    let Some((hash, _)) = find_hash(read.view, read.now_ms, &read.args[1])? else {
        put_page(reply, 0, &[]);
        return Ok(());
    };
    let options = Options::parse(&read.args[2..], false)?;
    let prefix = layout::member_prefix(&read.args[1], hash.version);
    let bounds = (prefix.clone(), layout::after_prefix(&prefix));
    let mut found = Vec::new();
    let cursor = walk(read, Family::Member, bounds, &options, &mut |member, value| {
        let field = &member[prefix.len()..];
        if options.matches(field) {
            found.extend([field.to_vec(), value.to_vec()]);
        }
    })?;
    put_page(reply, cursor, &found);
    Ok(())
}

fn put_page(reply: &mut Reply, cursor: u64, found: &[Vec<u8>]) {
    reply.array(2);
    reply.bulk(cursor.to_string().as_bytes());
    reply.array(found.len());
    for item in found {
        reply.bulk(item);
    }
}

fn live_header(metadata: &[u8], now_ms: u64) -> Option<Header> {
    let (header, _) = Header::decode(metadata).ok()?;
    (!header.is_expired(now_ms)).then_some(header)
}

pub fn keys(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let open = reply.open_array();
    let mut found = 0;
    each_key(read, &mut |key| {
        if glob(&read.args[1], key) {
            reply.bulk(key);
            found += 1;
        }
    })?;
    reply.close_array(open, found);
    Ok(())
}

/// Counts, since keys vanish by expiring and nobody counts that: O(keys).
pub fn dbsize(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let mut found = 0;
    each_key(read, &mut |_| found += 1)?;
    reply.integer(found);
    Ok(())
}

fn each_key(read: &Read<'_>, visit: &mut dyn FnMut(&[u8])) -> Outcome {
    let (lower, upper) = layout::whole_space();
    let all = &mut |row: &[u8], metadata: &[u8]| {
        if live_header(metadata, read.now_ms).is_some() {
            visit(layout::user_key(row));
        }
        ControlFlow::Continue(())
    };
    read.view.scan(Family::Metadata, &lower, &upper, Direction::Forward, all)?;
    Ok(())
}

/// Redis's patterns: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a character that means itself.
///
/// Only the last `*` is ever tried again, which is enough and keeps hostile patterns quadratic.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match text.get(t) {
            None if p == pattern.len() => return true,
            None => None,
            Some(byte) => match_one(&pattern[p..], *byte),
        };
        match (step, retry) {
            (Some(bytes), _) => (p, t) = (p + bytes, t + 1),
            (None, Some((after_star, from))) if from < text.len() => {
                (p, t) = (after_star, from + 1);
                retry = Some((after_star, from + 1));
            }
            (None, _) => return false,
        }
    }
}

/// How many pattern bytes match this one byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', class @ ..] => {
            let (found, used) = match_class(class, byte);
            found.then_some(1 + used)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// Whether a class contains the byte, and how long the class is. A class that is not closed reaches to
/// the end, as in Redis.
fn match_class(class: &[u8], byte: u8) -> (bool, usize) {
    let inverted = class.first() == Some(&b'^');
    let mut at = usize::from(inverted);
    let mut found = false;
    loop {
        match &class[at.min(class.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                let (from, to) = (from.min(to), from.max(to));
                found |= (*from..=*to).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != inverted, at)
}
