//! Changing streams: XADD, XTRIM, XDEL, XSETID.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::id::{self, NewId};
use super::{each_entry, find_stream, first_entry_from, last_entry};
use crate::command::error::CommandError;
use crate::command::{Write, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::layout::{self, Family, Stream, StreamId};
use crate::store::view::{Direction, View};

type Outcome = Result<(), CommandError>;

/// Nodes an approximate trim removes at once unless `LIMIT` says otherwise, as in Redis. A node is what
/// a stream of Redis is made of; here it is so many entries that came one after another.
const TRIM_NODES_MAX: u64 = 100;

#[derive(Clone, Copy, Debug)]
enum Keep {
    Newest(u64),
    From(StreamId),
}

#[derive(Clone, Copy, Debug)]
struct Trim {
    keep: Keep,
    approximate: bool,
    limit: Option<u64>,
}

/// The options of XADD and XTRIM, and where they end.
struct Options {
    no_make: bool,
    trim: Option<Trim>,
    id: Option<NewId>,
    rest: usize,
}

impl Options {
    fn parse(write: &Write<'_, '_>, is_add: bool) -> Result<Options, CommandError> {
        let args = write.args;
        let mut found = Options { no_make: false, trim: None, id: None, rest: args.len() };
        let mut limit = None;
        let mut at = 2;
        while at < args.len() {
            let word = &args[at];
            let has_more = at + 1 < args.len();
            if is_add && word == "*" {
                (found.id, found.rest) = (Some(NewId::Clock), at + 1);
                break;
            } else if has_more && (is_word(word, "maxlen") || is_word(word, "minid")) {
                if found.trim.is_some() {
                    return Err(CommandError::TwoTrims);
                }
                let mut approximate = false;
                if at + 2 < args.len() && matches!(&args[at + 1][..], b"~" | b"=") {
                    approximate = &args[at + 1][..] == b"~";
                    at += 1;
                }
                let keep = Keep::parse(is_word(word, "maxlen"), &args[at + 1])?;
                found.trim = Some(Trim { keep, approximate, limit: None });
                at += 2;
            } else if has_more && is_word(word, "limit") {
                let value = integer(&args[at + 1])?;
                limit = Some(u64::try_from(value).map_err(|_| CommandError::LimitNegative)?);
                at += 2;
            } else if is_add && is_word(word, "nomkstream") {
                found.no_make = true;
                at += 1;
            } else if is_add {
                (found.id, found.rest) = (Some(NewId::parse(word)?), at + 1);
                break;
            } else {
                return Err(CommandError::Syntax);
            }
        }
        let node_entries = write.shared.live.stream_node_entries();
        found.set_limit(limit, is_add, node_entries)?;
        Ok(found)
    }

    fn set_limit(&mut self, limit: Option<u64>, is_add: bool, node_entries: u64) -> Outcome {
        match &mut self.trim {
            None if limit.is_some() => Err(CommandError::LimitWithoutTrim),
            None if !is_add => Err(CommandError::NoTrim),
            None => Ok(()),
            Some(trim) if limit.is_some() && !trim.approximate => {
                Err(CommandError::LimitWithoutApproximate)
            }
            Some(trim) => {
                let trimmed_max = node_entries.saturating_mul(TRIM_NODES_MAX);
                let default = trim.approximate.then_some(trimmed_max);
                trim.limit = limit.or(default).filter(|limit| *limit > 0);
                Ok(())
            }
        }
    }
}

impl Keep {
    fn parse(is_length: bool, text: &[u8]) -> Result<Keep, CommandError> {
        if !is_length {
            return Ok(Keep::From(id::parse(text, 0)?));
        }
        let length = integer(text)?;
        Ok(Keep::Newest(u64::try_from(length).map_err(|_| CommandError::MaxlenNegative)?))
    }
}

pub fn xadd(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let options = Options::parse(write, true)?;
    let fields = &args[options.rest..];
    let Some(new_id) = options.id.filter(|_| fields.len() >= 2 && fields.len().is_multiple_of(2))
    else {
        return Err(CommandError::Arguments("xadd"));
    };
    if new_id == NewId::Exact(StreamId::MIN) {
        return Err(CommandError::StreamIdZero);
    }
    let (mut stream, expires_at_ms) = match find_stream(write.overlay, write.now_ms, &args[1])? {
        Some(found) => found,
        None if options.no_make => {
            reply.null();
            return Ok(());
        }
        None => (Stream { version: write.overlay.next_version(), ..Stream::default() }, 0),
    };
    let id = next_id(&stream, new_id, write.now_ms)?;
    let entry = layout::encode_fields(fields.iter().map(|field| &field[..]));
    // Trimming reads, so it comes before the first change; the new entry is the newest and counts.
    let mut after =
        Stream { last: id, length: stream.length + 1, added: stream.added + 1, ..stream };
    if stream.length == 0 {
        after.first = id;
    }
    let gone = match options.trim {
        Some(trim) => entries_to_trim(write, &stream, &after, trim)?,
        None => Vec::new(),
    };
    stream = after;
    let member = layout::member_key(&args[1], stream.version, &layout::entry_name(id));
    write.overlay.put(Family::Member, member, entry);
    write.remove_oldest(&mut stream, &gone)?;
    write.put_metadata(&args[1], stream.encode(expires_at_ms));
    reply.bulk(&id::text(id));
    Ok(())
}

fn next_id(stream: &Stream, wanted: NewId, now_ms: u64) -> Result<StreamId, CommandError> {
    let exhausted = CommandError::StreamExhausted;
    let too_small = CommandError::StreamIdTooSmall;
    let following = stream.last.next().ok_or(exhausted)?;
    let id = match wanted {
        NewId::Clock => following.max(StreamId { ms: now_ms, seq: 0 }),
        NewId::InMillisecond(ms) if ms == stream.last.ms => {
            if following.ms == ms {
                following
            } else {
                return Err(too_small);
            }
        }
        NewId::InMillisecond(ms) => StreamId { ms, seq: 0 },
        NewId::Exact(id) => id,
    };
    if id > stream.last { Ok(id) } else { Err(too_small) }
}

/// The oldest entries that a trim removes. `after` is the stream it is applied to, which may have one
/// entry more than the store has so far.
fn entries_to_trim(
    write: &Write<'_, '_>,
    stored: &Stream,
    after: &Stream,
    trim: Trim,
) -> Result<Vec<StreamId>, CommandError> {
    let mut count_max = match trim.keep {
        Keep::Newest(length) => after.length.saturating_sub(length),
        Keep::From(_) => after.length,
    };
    count_max = count_max.min(trim.limit.unwrap_or(u64::MAX));
    let mut gone = Vec::new();
    let is_kept = |id| matches!(trim.keep, Keep::From(from) if id >= from);
    if count_max > 0 {
        let all = (StreamId::MIN, StreamId::MAX);
        let visit = &mut |id, _: &[u8]| {
            if is_kept(id) {
                return Ok(ControlFlow::Break(()));
            }
            gone.push(id);
            let full = gone.len() as u64 == count_max;
            Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let key = &write.args[1];
        each_entry(write.overlay, key, stored, all.0, all.1, Direction::Forward, visit)?;
        if (gone.len() as u64) < count_max && after.last != stored.last && !is_kept(after.last) {
            gone.push(after.last);
        }
    }
    if trim.approximate {
        let node_entries = write.shared.live.stream_node_entries();
        gone.truncate(in_whole_nodes(after, gone.len() as u64, node_entries) as usize);
    }
    Ok(gone)
}

/// How many of the oldest `count` entries are in nodes that go as a whole. Redis trims no others when it
/// may trim approximately: a node that an exact trim or XDEL has made smaller goes before others.
fn in_whole_nodes(stream: &Stream, count: u64, node_entries: u64) -> u64 {
    if count == stream.length {
        return count;
    }
    let gone_before = stream.added.saturating_sub(stream.length);
    let end = (gone_before + count) / node_entries * node_entries;
    end.saturating_sub(gone_before)
}

impl Write<'_, '_> {
    /// Removes entries that are the oldest of the stream, in order.
    fn remove_oldest(&mut self, stream: &mut Stream, gone: &[StreamId]) -> Outcome {
        let Some(newest_gone) = gone.last() else { return Ok(()) };
        for id in gone {
            let member =
                layout::member_key(&self.args[1], stream.version, &layout::entry_name(*id));
            self.overlay.delete(Family::Member, member);
        }
        stream.length -= gone.len() as u64;
        stream.first = match newest_gone.next() {
            Some(next) => first_entry_from(self.overlay, &self.args[1], stream, next)?,
            None => None,
        }
        .unwrap_or(StreamId::MIN);
        Ok(())
    }
}

pub fn xtrim(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let options = Options::parse(write, false)?;
    let (Some(trim), Some((mut stream, expires_at_ms))) =
        (options.trim, find_stream(write.overlay, write.now_ms, &args[1])?)
    else {
        reply.integer(0);
        return Ok(());
    };
    let gone = entries_to_trim(write, &stream, &stream, trim)?;
    if !gone.is_empty() {
        write.remove_oldest(&mut stream, &gone)?;
        write.put_metadata(&args[1], stream.encode(expires_at_ms));
    }
    reply.count(gone.len());
    Ok(())
}

pub fn xdel(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let Some((mut stream, expires_at_ms)) = find_stream(write.overlay, write.now_ms, &args[1])?
    else {
        reply.integer(0);
        return Ok(());
    };
    let ids: BTreeSet<StreamId> =
        args[2..].iter().map(|text| id::parse(text, 0)).collect::<Result<_, _>>()?;
    let mut gone = Vec::new();
    for id in ids {
        let member = layout::member_key(&args[1], stream.version, &layout::entry_name(id));
        if write.overlay.get(Family::Member, &member)?.is_some() {
            write.overlay.delete(Family::Member, member);
            gone.push(id);
        }
    }
    if let Some(largest) = gone.last() {
        stream.max_deleted = stream.max_deleted.max(*largest);
        stream.length -= gone.len() as u64;
        if stream.length == 0 {
            stream.first = StreamId::MIN;
        } else if gone.contains(&stream.first) {
            let first = first_entry_from(write.overlay, &args[1], &stream, stream.first)?;
            stream.first = first.unwrap_or(StreamId::MIN);
        }
        write.put_metadata(&args[1], stream.encode(expires_at_ms));
    }
    reply.count(gone.len());
    Ok(())
}

pub fn xsetid(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let args = write.args;
    let last = id::parse(&args[2], 0)?;
    let mut added = None;
    let mut max_deleted = StreamId::MIN;
    for option in args[3..].chunks(2) {
        match option {
            [word, value] if is_word(word, "entriesadded") => {
                let value = integer(value)?;
                added = Some(u64::try_from(value).map_err(|_| CommandError::SetIdAddedNegative)?);
            }
            [word, value] if is_word(word, "maxdeletedid") => {
                max_deleted = id::parse(value, 0)?;
                if last < max_deleted {
                    return Err(CommandError::SetIdBelowDeleted);
                }
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let found = find_stream(write.overlay, write.now_ms, &args[1])?;
    let (mut stream, expires_at_ms) = found.ok_or(CommandError::NoSuchKey)?;
    if let Some(newest) = last_entry(write.overlay, &args[1], &stream)? {
        if last < newest {
            return Err(CommandError::SetIdTooSmall);
        }
        if added.is_some_and(|added| added < stream.length) {
            return Err(CommandError::SetIdAddedTooSmall);
        }
    }
    stream.last = last;
    stream.added = added.unwrap_or(stream.added);
    if max_deleted != StreamId::MIN {
        stream.max_deleted = max_deleted;
    }
    write.put_metadata(&args[1], stream.encode(expires_at_ms));
    reply.ok();
    Ok(())
}
