//! Walking over many keys or members: SCAN, HSCAN, SSCAN, ZSCAN, KEYS, DBSIZE, RANDOMKEY.
//!
//! A cursor is the place where the walk goes on ([`layout::place`]), and nothing else: the server
//! remembers no walk, so a cursor never gets too old, a restart included. A page ends between two
//! places, so it may be a little longer than `COUNT`. **Guarantee:** what exists during the whole walk
//! is returned exactly once.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::error::CommandError;
use super::sorted_set::decode_score;
use super::{Read, integer, is_word};
use crate::resp::double;
use crate::resp::reply::Reply;
use crate::store::layout::{self, Family, Header, Kind};
use crate::store::view::Direction;

type Outcome = Result<(), CommandError>;

/// What `COUNT` is when it is not given, as in Redis.
const COUNT_DEFAULT: u64 = 10;
/// Rows one call looks at, at most, but for those that stand in one place.
const COUNT_MAX: u64 = 100_000;
/// Rows that DBSIZE counts, which takes some 30 ms; how many are behind them it concludes from their places.
const COUNTED_ROWS_MAX: u64 = 1 << 17;

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

/// As Redis reads them: leading zeros are no error.
fn parse_cursor(text: &[u8]) -> Result<u64, CommandError> {
    let digits = std::str::from_utf8(text).ok().filter(|_| text.iter().all(u8::is_ascii_digit));
    digits.and_then(|digits| digits.parse().ok()).ok_or(CommandError::InvalidCursor)
}

/// Where a page starts and where it ends.
struct Page {
    from: u32,
    count: u64,
    seen: u64,
    last: Option<u32>,
    next: u64,
}

impl Page {
    /// `None` for a cursor that no walk has given out, which is behind the last place.
    fn new(options: &Options<'_>) -> Option<Page> {
        let from = u32::try_from(options.cursor).ok()?;
        Some(Page { from, count: options.count, seen: 0, last: None, next: 0 })
    }

    /// Whether the row at this place still belongs to the page.
    fn takes(&mut self, place: u32) -> bool {
        if self.seen >= self.count && self.last != Some(place) {
            self.next = place.into();
            return false;
        }
        self.seen += 1;
        self.last = Some(place);
        true
    }
}

pub fn scan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(&read.args[1..], true)?;
    let Some(mut page) = Page::new(&options) else {
        put_page(reply, 0, &[]);
        return Ok(());
    };
    let mut found = Vec::new();
    let mut outcome = Ok(());
    let (lower, upper) = (layout::metadata_from(page.from), layout::whole_space().1);
    read.view.scan(
        Family::Metadata,
        &lower,
        &upper,
        Direction::Forward,
        &mut |row, metadata| {
            match layout::key_place(row) {
                Ok(place) if page.takes(place) => {}
                Ok(_) => return ControlFlow::Break(()),
                Err(malformed) => {
                    outcome = Err(malformed);
                    return ControlFlow::Break(());
                }
            }
            let key = layout::user_key(row);
            let header = live_header(metadata, read.now_ms);
            let wanted = header.is_some_and(|header| {
                options.kind.is_none_or(|kind| is_word(kind, header.kind.name()))
            });
            if wanted && options.matches(key) {
                found.push(key.to_vec());
            }
            ControlFlow::Continue(())
        },
    )?;
    outcome?;
    put_page(reply, page.next, &found);
    Ok(())
}

pub fn hscan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    scan_members(read, reply, Kind::Hash)
}

pub fn sscan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    scan_members(read, reply, Kind::Set)
}

pub fn zscan(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    scan_members(read, reply, Kind::SortedSet)
}

fn scan_members(read: &Read<'_>, reply: &mut Reply, kind: Kind) -> Outcome {
    // In Redis's order: a bad cursor, then the key, then bad options.
    parse_cursor(&read.args[2])?;
    let Some(members) = read.members(kind)? else {
        put_page(reply, 0, &[]);
        return Ok(());
    };
    let options = Options::parse(&read.args[2..], false)?;
    let Some(mut page) = Page::new(&options) else {
        put_page(reply, 0, &[]);
        return Ok(());
    };
    let mut found = Vec::new();
    members.each_from(read.view, page.from, &mut |name, value| {
        if !page.takes(layout::place_in(name)?) {
            return Ok(ControlFlow::Break(()));
        }
        let member = layout::placed_member(name);
        if options.matches(member) {
            found.push(member.to_vec());
            match kind {
                Kind::Hash => found.push(value.to_vec()),
                Kind::SortedSet => found.push(double::text(decode_score(value)?).into_bytes()),
                _ => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    put_page(reply, page.next, &found);
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
    each_key(read, 0, &mut |key| {
        if glob(&read.args[1], key) {
            reply.bulk(key);
            found += 1;
        }
        ControlFlow::Continue(())
    })?;
    reply.close_array(open, found);
    Ok(())
}

/// Nobody keeps count, since keys vanish by expiring. Keys lie in the order of a hash of 32 bits, so those
/// in its first part stand for all: with [`COUNTED_ROWS_MAX`] of them the error is some 0.3 %. Where nearly all
/// have expired it goes on to the first that lives, since 0 means that there is none.
pub fn dbsize(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let (mut seen, mut found, mut counted_to) = (0, 0, Ok(None));
    let (lower, upper) = layout::whole_space();
    let count = &mut |row: &[u8], metadata: &[u8]| {
        if seen >= COUNTED_ROWS_MAX && found > 0 {
            counted_to = layout::key_place(row).map(Some);
            return ControlFlow::Break(());
        }
        seen += 1;
        found += u64::from(live_header(metadata, read.now_ms).is_some());
        ControlFlow::Continue(())
    };
    read.view.scan(Family::Metadata, &lower, &upper, Direction::Forward, count)?;
    if let Some(place) = counted_to? {
        found = (u128::from(found) * (1 << 32) / u128::from(place.max(1))) as u64;
    }
    reply.integer(found as i64);
    Ok(())
}

/// Of the keys that follow a random place, one at random: the gaps between places are uneven, and their
/// mean over so many keys much less so.
pub fn randomkey(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    const FOLLOWING_KEYS: u64 = 64;
    let random = &read.shared.random;
    let mut following = Vec::new();
    for place in [random.below(1 << 32) as u32, 0] {
        each_key(read, place, &mut |key| {
            following.push(key.to_vec());
            let has_enough = following.len() as u64 >= FOLLOWING_KEYS;
            if has_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    following.truncate(FOLLOWING_KEYS as usize);
    following.sort_unstable();
    following.dedup();
    let chosen = following.get(random.below(following.len() as u64) as usize);
    reply.optional_bulk(chosen.map(Vec::as_slice));
    Ok(())
}

fn each_key(
    read: &Read<'_>,
    place: u32,
    visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Outcome {
    let (lower, upper) = (layout::metadata_from(place), layout::whole_space().1);
    let all = &mut |row: &[u8], metadata: &[u8]| match live_header(metadata, read.now_ms) {
        Some(_) => visit(layout::user_key(row)),
        None => ControlFlow::Continue(()),
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
