//! When keys expire. Times are kept as absolute Unix milliseconds, whatever form they came in.

use super::error::CommandError;
use super::{Read, Write, integer, is_word};
use crate::resp::reply::Reply;
use crate::store::layout;

/// The four ways to say a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub is_seconds: bool,
    pub is_relative: bool,
}

pub const EX: Unit = Unit { is_seconds: true, is_relative: true };
pub const PX: Unit = Unit { is_seconds: false, is_relative: true };
pub const EXAT: Unit = Unit { is_seconds: true, is_relative: false };
pub const PXAT: Unit = Unit { is_seconds: false, is_relative: false };

impl Unit {
    pub fn from_option(word: &[u8]) -> Option<Unit> {
        [("ex", EX), ("px", PX), ("exat", EXAT), ("pxat", PXAT)]
            .into_iter()
            .find_map(|(name, unit)| is_word(word, name).then_some(unit))
    }

    fn absolute_ms(self, value: i64, now_ms: u64) -> Option<i64> {
        let ms = if self.is_seconds { value.checked_mul(1000)? } else { value };
        if self.is_relative { ms.checked_add(now_ms as i64) } else { Some(ms) }
    }
}

/// An expiry for a value that is being written: must be positive, and may already be past.
pub fn of_value(
    text: &[u8],
    unit: Unit,
    now_ms: u64,
    command: &'static str,
) -> Result<u64, CommandError> {
    let value = integer(text)?;
    let invalid = CommandError::InvalidExpiry(command);
    if value <= 0 {
        return Err(invalid);
    }
    let ms = unit.absolute_ms(value, now_ms).ok_or(invalid)?;
    Ok(ms as u64)
}

#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn knows(option: &[u8]) -> bool {
        ["nx", "xx", "gt", "lt"].into_iter().any(|known| is_word(option, known))
    }

    fn parse(options: &[bytes::Bytes]) -> Result<Conditions, CommandError> {
        let mut found = Conditions::default();
        for option in options {
            match () {
                () if is_word(option, "nx") => found.nx = true,
                () if is_word(option, "xx") => found.xx = true,
                () if is_word(option, "gt") => found.gt = true,
                () => found.lt = true,
            }
        }
        if found.nx && (found.xx || found.gt || found.lt) {
            return Err(CommandError::ExpireNx);
        }
        if found.gt && found.lt {
            return Err(CommandError::ExpireGtLt);
        }
        Ok(found)
    }

    /// `current_ms` is 0 for a key that never expires, which counts as an endless time.
    fn allow(&self, current_ms: u64, wanted_ms: i64) -> bool {
        let endless = current_ms == 0;
        !(self.nx && !endless
            || self.xx && endless
            || self.gt && (endless || wanted_ms <= current_ms as i64)
            || self.lt && !endless && wanted_ms >= current_ms as i64)
    }
}

pub fn expire(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<(), CommandError> {
    expire_with(write, reply, EX, "expire")
}

pub fn pexpire(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<(), CommandError> {
    expire_with(write, reply, PX, "pexpire")
}

pub fn expireat(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<(), CommandError> {
    expire_with(write, reply, EXAT, "expireat")
}

pub fn pexpireat(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<(), CommandError> {
    expire_with(write, reply, PXAT, "pexpireat")
}

fn expire_with(
    write: &mut Write<'_, '_>,
    reply: &mut Reply,
    unit: Unit,
    command: &'static str,
) -> Result<(), CommandError> {
    let (key, text) = (&write.args[1], &write.args[2]);
    let options = &write.args[3..];
    if let Some(unknown) = options.iter().find(|option| !Conditions::knows(option)) {
        let unknown = String::from_utf8_lossy(unknown);
        reply.error(&format!("ERR Unsupported option {unknown}"));
        return Ok(());
    }
    let conditions = Conditions::parse(options)?;
    let invalid = CommandError::InvalidExpiry(command);
    let wanted_ms = unit.absolute_ms(integer(text)?, write.now_ms).ok_or(invalid)?;
    let Some(live) = write.find(key)? else {
        reply.integer(0);
        return Ok(());
    };
    if !conditions.allow(live.header.expires_at_ms, wanted_ms) {
        reply.integer(0);
        return Ok(());
    }
    if wanted_ms <= write.now_ms as i64 {
        write.delete_metadata(key);
    } else {
        let metadata = layout::with_expiry(&live.metadata, wanted_ms as u64)?;
        write.put_metadata(key, metadata);
    }
    reply.integer(1);
    Ok(())
}

pub fn persist(write: &mut Write<'_, '_>, reply: &mut Reply) -> Result<(), CommandError> {
    let key = &write.args[1];
    match write.find(key)? {
        Some(live) if live.header.expires_at_ms != 0 => {
            let metadata = layout::with_expiry(&live.metadata, 0)?;
            write.put_metadata(key, metadata);
            reply.integer(1);
        }
        _ => reply.integer(0),
    }
    Ok(())
}

pub fn ttl(read: &Read<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    time_left(read, reply, |at_ms, now_ms| (at_ms - now_ms + 500) / 1000)
}

pub fn pttl(read: &Read<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    time_left(read, reply, |at_ms, now_ms| at_ms - now_ms)
}

pub fn expiretime(read: &Read<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    time_left(read, reply, |at_ms, _| ((at_ms as u64 + 500) / 1000) as i64)
}

pub fn pexpiretime(read: &Read<'_>, reply: &mut Reply) -> Result<(), CommandError> {
    time_left(read, reply, |at_ms, _| at_ms)
}

fn time_left(
    read: &Read<'_>,
    reply: &mut Reply,
    express: fn(i64, i64) -> i64,
) -> Result<(), CommandError> {
    reply.integer(match read.find(&read.args[1])? {
        None => -2,
        Some(live) if live.header.expires_at_ms == 0 => -1,
        Some(live) => express(live.header.expires_at_ms as i64, read.now_ms as i64),
    });
    Ok(())
}
