//! Strings. The value lies in the key's metadata, so everything here is one lookup.

use bytes::Bytes;

use super::error::CommandError;
use super::expiry::{self, EX, PX, Unit};
use super::{Live, Read, Write, find, integer, is_word};
use crate::resp::extended::Extended;
use crate::resp::reply::Reply;
use crate::resp::{self};
use crate::store::layout::{self, Kind};

type Outcome = Result<(), CommandError>;

pub fn get(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    match read.find(&read.args[1])? {
        Some(live) => reply.bulk(live.expect(Kind::String)?),
        None => reply.null(),
    }
    Ok(())
}

pub fn strlen(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let live = read.find(&read.args[1])?;
    let value = live.as_ref().map(|live| live.expect(Kind::String)).transpose()?;
    reply.count(value.map_or(0, <[u8]>::len));
    Ok(())
}

pub fn mget(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    reply.array(read.args.len() - 1);
    for key in &read.args[1..] {
        let live = read.find(key)?;
        reply.optional_bulk(live.as_ref().and_then(|live| live.expect(Kind::String).ok()));
    }
    Ok(())
}

/// The options of `SET` and `GETEX`.
#[derive(Default)]
struct Options {
    nx: bool,
    xx: bool,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    expiry: Option<(Unit, Bytes)>,
}

impl Options {
    fn has_expiry(&self) -> bool {
        self.keep_ttl || self.persist || self.expiry.is_some()
    }

    fn parse(args: &[Bytes], is_set: bool) -> Result<Options, CommandError> {
        let mut found = Options::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            match Unit::from_option(word) {
                Some(unit) if !found.has_expiry() => {
                    let value = rest.next().ok_or(CommandError::Syntax)?;
                    found.expiry = Some((unit, value.clone()));
                }
                Some(_) => return Err(CommandError::Syntax),
                None if is_set && is_word(word, "nx") && !found.xx => found.nx = true,
                None if is_set && is_word(word, "xx") && !found.nx => found.xx = true,
                None if is_set && is_word(word, "get") => found.get = true,
                None if is_set && is_word(word, "keepttl") && found.expiry.is_none() => {
                    found.keep_ttl = true;
                }
                None if !is_set && is_word(word, "persist") && found.expiry.is_none() => {
                    found.persist = true;
                }
                None => return Err(CommandError::Syntax),
            }
        }
        Ok(found)
    }

    fn expires_at_ms(&self, now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
        match &self.expiry {
            Some((unit, text)) => expiry::of_value(text, *unit, now_ms, command),
            None => Ok(0),
        }
    }
}

pub fn set(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(&write.args[3..], true)?;
    let mut expires_at_ms = options.expires_at_ms(write.now_ms, "set")?;
    let (key, value) = (&write.args[1], &write.args[2]);
    let plain = !(options.nx || options.xx || options.get || options.keep_ttl);
    let live = if plain { None } else { write.find(key)? };
    if options.get {
        reply.optional_bulk(live.as_ref().map(|live| live.expect(Kind::String)).transpose()?);
    }
    if options.nx && live.is_some() || options.xx && live.is_none() {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    if options.keep_ttl {
        expires_at_ms = live.map_or(0, |live| live.header.expires_at_ms);
    }
    write.put_metadata(key, layout::string(value, expires_at_ms));
    if !options.get {
        reply.ok();
    }
    Ok(())
}

pub fn setex(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    set_expiring(write, reply, EX, "setex")
}

pub fn psetex(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    set_expiring(write, reply, PX, "psetex")
}

fn set_expiring(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    unit: Unit,
    command: &'static str,
) -> Outcome {
    let expires_at_ms = expiry::of_value(&write.args[2], unit, write.now_ms, command)?;
    write.put_metadata(&write.args[1], layout::string(&write.args[3], expires_at_ms));
    reply.ok();
    Ok(())
}

pub fn setnx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let is_new = write.find(&write.args[1])?.is_none();
    if is_new {
        write.put_metadata(&write.args[1], layout::string(&write.args[2], 0));
    }
    reply.integer(is_new.into());
    Ok(())
}

pub fn getset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let live = write.find(&write.args[1])?;
    reply.optional_bulk(live.as_ref().map(|live| live.expect(Kind::String)).transpose()?);
    write.put_metadata(&write.args[1], layout::string(&write.args[2], 0));
    Ok(())
}

pub fn getdel(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    match write.find(&write.args[1])? {
        Some(live) => {
            reply.bulk(live.expect(Kind::String)?);
            write.delete_metadata(&write.args[1]);
        }
        None => reply.null(),
    }
    Ok(())
}

pub fn getex(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let key = &write.args[1];
    let options = Options::parse(&write.args[2..], false)?;
    let Some(live) = write.find(key)? else {
        reply.null();
        return Ok(());
    };
    let value = live.expect(Kind::String)?;
    let expires_at_ms = options.expires_at_ms(write.now_ms, "getex")?;
    reply.bulk(value);
    if options.expiry.is_some() && expires_at_ms <= write.now_ms {
        write.delete_metadata(key);
    } else if options.expiry.is_some() || options.persist && live.header.expires_at_ms != 0 {
        write.put_metadata(key, layout::string(value, expires_at_ms));
    }
    Ok(())
}

pub fn mset(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    set_pairs(write, "mset")?;
    reply.ok();
    Ok(())
}

pub fn msetnx(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    if write.args.len().is_multiple_of(2) {
        return Err(CommandError::Arguments("msetnx"));
    }
    for pair in write.args[1..].chunks_exact(2) {
        if write.find(&pair[0])?.is_some() {
            reply.integer(0);
            return Ok(());
        }
    }
    set_pairs(write, "msetnx")?;
    reply.integer(1);
    Ok(())
}

fn set_pairs(write: &mut Write<'_, '_>, command: &'static str) -> Outcome {
    if write.args.len().is_multiple_of(2) {
        return Err(CommandError::Arguments(command));
    }
    for pair in write.args[1..].chunks_exact(2) {
        write.put_metadata(&pair[0], layout::string(&pair[1], 0));
    }
    Ok(())
}

pub fn append(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (key, tail) = (&write.args[1], &write.args[2]);
    let live = find(write.overlay, write.now_ms, key)?;
    let head = live.as_ref().map(|live| live.expect(Kind::String)).transpose()?;
    let value = [head.unwrap_or_default(), tail].concat();
    if value.len() > write.shared.limits.bulk_bytes_max {
        return Err(CommandError::StringTooLong);
    }
    write.put_metadata(key, layout::string(&value, expiry_of(live.as_ref())));
    reply.count(value.len());
    Ok(())
}

pub fn incr(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    increase(write, reply, 1)
}

pub fn decr(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    increase(write, reply, -1)
}

pub fn incrby(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let by = integer(&write.args[2])?;
    increase(write, reply, by)
}

pub fn decrby(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let by = integer(&write.args[2])?.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    increase(write, reply, by)
}

fn increase(write: &mut Write<'_, '_>, reply: &mut Reply, by: i64) -> Outcome {
    let key = &write.args[1];
    let live = write.find(key)?;
    let current = match &live {
        Some(live) => integer(live.expect(Kind::String)?)?,
        None => 0,
    };
    let value = current.checked_add(by).ok_or(CommandError::Overflow)?;
    let mut text = Vec::with_capacity(20);
    resp::put_integer(&mut text, value);
    write.put_metadata(key, layout::string(&text, expiry_of(live.as_ref())));
    reply.integer(value);
    Ok(())
}

pub fn incrbyfloat(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let key = &write.args[1];
    let live = write.find(key)?;
    let stored = live.as_ref().map(|live| live.expect(Kind::String)).transpose()?;
    let current = Extended::parse(stored.unwrap_or(b"0")).ok_or(CommandError::NotFloat)?;
    let by = Extended::parse(&write.args[2]).ok_or(CommandError::NotFloat)?;
    let text = current.plus(by).ok_or(CommandError::IncrementInfinite)?.text();
    write.put_metadata(key, layout::string(text.as_bytes(), expiry_of(live.as_ref())));
    reply.bulk(text.as_bytes());
    Ok(())
}

pub fn getrange(read: &Read<'_>, reply: &mut Reply) -> Outcome {
    let (first, last) = (integer(&read.args[2])?, integer(&read.args[3])?);
    let live = read.find(&read.args[1])?;
    let value = live.as_ref().map(|live| live.expect(Kind::String)).transpose()?;
    reply.bulk(part(value.unwrap_or_default(), first, last));
    Ok(())
}

/// The bytes from `first` to `last`; negative ones count from the end.
fn part(value: &[u8], first: i64, last: i64) -> &[u8] {
    if first < 0 && last < 0 && first > last {
        return &[];
    }
    let bytes = value.len() as i64;
    let from_start =
        |index: i64| if index < 0 { (bytes + index.max(-bytes)).max(0) } else { index };
    let (first, last) = (from_start(first), from_start(last).min(bytes - 1));
    if first > last { &[] } else { &value[first as usize..=last as usize] }
}

pub fn setrange(write: &mut Write<'_, '_>, reply: &mut Reply) -> Outcome {
    let (key, patch) = (&write.args[1], &write.args[3]);
    let offset = integer(&write.args[2])?;
    let offset = usize::try_from(offset).map_err(|_| CommandError::OffsetOutOfRange)?;
    let live = write.find(key)?;
    let stored = live.as_ref().map(|live| live.expect(Kind::String)).transpose()?;
    let mut value = stored.unwrap_or_default().to_vec();
    if !patch.is_empty() {
        let end = offset.saturating_add(patch.len());
        if end > write.shared.limits.bulk_bytes_max {
            return Err(CommandError::StringTooLong);
        }
        value.resize(value.len().max(end), 0);
        value[offset..end].copy_from_slice(patch);
        write.put_metadata(key, layout::string(&value, expiry_of(live.as_ref())));
    }
    reply.count(value.len());
    Ok(())
}

fn expiry_of(live: Option<&Live>) -> u64 {
    live.map_or(0, |live| live.header.expires_at_ms)
}
