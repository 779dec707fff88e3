//! Stream ids as clients write them: `5-1`, `5`, `-`, `+`, `(5-1`, `5-*`, `*`.

use crate::command::error::CommandError;
use crate::resp::put_integer;
use crate::store::layout::StreamId;

/// Longer text is no id.
const ID_TEXT_BYTES_MAX: usize = 127;

/// The id an `XADD` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewId {
    /// `*`
    Clock,
    /// `ms-*`
    InMillisecond(u64),
    Exact(StreamId),
}

impl NewId {
    pub fn parse(text: &[u8]) -> Result<NewId, CommandError> {
        if text == b"*" {
            return Ok(NewId::Clock);
        }
        match text.strip_suffix(b"-*") {
            Some(ms) => Ok(NewId::InMillisecond(number(ms)?)),
            None => Ok(NewId::Exact(parse(text, 0)?)),
        }
    }
}

/// A complete id; without its second number, `missing_seq` is it.
pub fn parse(text: &[u8], missing_seq: u64) -> Result<StreamId, CommandError> {
    if text.len() > ID_TEXT_BYTES_MAX {
        return Err(CommandError::InvalidStreamId);
    }
    match text.iter().position(|byte| *byte == b'-') {
        None => Ok(StreamId { ms: number(text)?, seq: missing_seq }),
        Some(dash) => Ok(StreamId { ms: number(&text[..dash])?, seq: number(&text[dash + 1..])? }),
    }
}

/// An id or `-` or `+`, the smallest and the largest.
pub fn parse_bound(text: &[u8], missing_seq: u64) -> Result<StreamId, CommandError> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => parse(text, missing_seq),
    }
}

/// Where a range starts; `(` leaves the id itself out.
pub fn parse_start(text: &[u8]) -> Result<StreamId, CommandError> {
    match text.strip_prefix(b"(") {
        Some(text) => parse(text, 0)?.next().ok_or(CommandError::IntervalStart),
        None => parse_bound(text, 0),
    }
}

/// Where a range ends; `(` leaves the id itself out.
pub fn parse_end(text: &[u8]) -> Result<StreamId, CommandError> {
    match text.strip_prefix(b"(") {
        Some(text) => parse(text, u64::MAX)?.previous().ok_or(CommandError::IntervalEnd),
        None => parse_bound(text, u64::MAX),
    }
}

pub fn text(id: StreamId) -> Vec<u8> {
    let mut out = Vec::with_capacity(41);
    for number in [id.ms, id.seq] {
        match i64::try_from(number) {
            Ok(number) => put_integer(&mut out, number),
            Err(_) => out.extend_from_slice(number.to_string().as_bytes()),
        }
        out.push(b'-');
    }
    out.pop();
    out
}

/// Leading zeros are allowed here, as in Redis.
fn number(text: &[u8]) -> Result<u64, CommandError> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = if digits { std::str::from_utf8(text).ok() } else { None };
    text.and_then(|text| text.parse().ok()).ok_or(CommandError::InvalidStreamId)
}
