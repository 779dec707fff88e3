//! From bytes to commands, whatever pieces the bytes come in.
//!
//! The parser keeps what it has read of a command, so a large one that arrives in many pieces costs
//! no rescans. Arguments are slices of the read buffer, not copies. Error texts are Redis's; every
//! one of them ends the connection, because nobody knows where the next command starts.

use bytes::{Buf, Bytes, BytesMut};

/// A command: its name, then its arguments. Never empty.
pub type Request = Vec<Bytes>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    pub arguments_max: usize,
    pub bulk_bytes_max: usize,
    pub request_bytes_max: usize,
    pub inline_bytes_max: usize,
}

impl RequestLimits {
    /// What a client may send before it has authenticated, as Redis limits it.
    pub fn unauthenticated(self) -> RequestLimits {
        RequestLimits {
            arguments_max: self.arguments_max.min(10),
            bulk_bytes_max: self.bulk_bytes_max.min(16 * 1024),
            ..self
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    InlineTooLong,
    CountTooLong,
    BulkCountTooLong,
    CountInvalid,
    BulkInvalid,
    NoBulk(u8),
    RequestTooLarge,
    QuotesUnbalanced,
    /// The start of an HTTP request.
    CrossProtocol,
}

impl ProtocolError {
    pub fn text(self) -> String {
        let what = match self {
            ProtocolError::InlineTooLong => "too big inline request",
            ProtocolError::CountTooLong => "too big mbulk count string",
            ProtocolError::BulkCountTooLong => "too big bulk count string",
            ProtocolError::CountInvalid => "invalid multibulk length",
            ProtocolError::BulkInvalid => "invalid bulk length",
            ProtocolError::NoBulk(byte) => {
                let byte = if byte.is_ascii_graphic() { byte as char } else { ' ' };
                return format!("ERR Protocol error: expected '$', got '{byte}'");
            }
            ProtocolError::RequestTooLarge => "request larger than request_bytes_max",
            ProtocolError::QuotesUnbalanced => "unbalanced quotes in request",
            ProtocolError::CrossProtocol => "this is not HTTP",
        };
        format!("ERR Protocol error: {what}")
    }
}

/// A line with a number in it is never longer than this.
const COUNT_LINE_BYTES_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Parser {
    /// Arguments still to come of the command that is being read.
    missing: usize,
    /// Length of the argument that comes next, once its line was read.
    bulk_bytes: Option<usize>,
    arguments: Vec<Bytes>,
    request_bytes: usize,
}

impl Parser {
    /// The next command, or `None` when more bytes are needed.
    pub fn next(
        &mut self,
        input: &mut BytesMut,
        limits: &RequestLimits,
    ) -> Result<Option<Request>, ProtocolError> {
        while self.missing == 0 {
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = count_line(input, ProtocolError::CountTooLong)? else {
                        return Ok(None);
                    };
                    let count = count.ok_or(ProtocolError::CountInvalid)?;
                    if count > limits.arguments_max as i64 {
                        return Err(ProtocolError::CountInvalid);
                    }
                    // An empty or negative count is an empty command, and skipped.
                    self.missing = usize::try_from(count).unwrap_or(0);
                    self.arguments = Vec::with_capacity(self.missing.min(64));
                    self.request_bytes = 0;
                }
                Some(_) => match inline(input, limits)? {
                    None => return Ok(None),
                    Some(arguments) if arguments.is_empty() => {}
                    Some(arguments) if is_http(&arguments[0]) => {
                        return Err(ProtocolError::CrossProtocol);
                    }
                    Some(arguments) => return Ok(Some(arguments)),
                },
            }
        }
        while self.missing > 0 {
            let Some(bulk_bytes) = self.bulk_line(input, limits)? else { return Ok(None) };
            if input.len() < bulk_bytes + 2 {
                input.reserve(bulk_bytes + 2 - input.len());
                return Ok(None);
            }
            self.arguments.push(input.split_to(bulk_bytes).freeze());
            // Redis does not look at these two bytes either.
            input.advance(2);
            self.bulk_bytes = None;
            self.missing -= 1;
        }
        Ok(Some(std::mem::take(&mut self.arguments)))
    }

    fn bulk_line(
        &mut self,
        input: &mut BytesMut,
        limits: &RequestLimits,
    ) -> Result<Option<usize>, ProtocolError> {
        if self.bulk_bytes.is_none() {
            match input.first() {
                None => return Ok(None),
                Some(b'$') => {}
                Some(&byte) => return Err(ProtocolError::NoBulk(byte)),
            }
            let Some(count) = count_line(input, ProtocolError::BulkCountTooLong)? else {
                return Ok(None);
            };
            let bulk_bytes = count
                .and_then(|count| usize::try_from(count).ok())
                .filter(|count| *count <= limits.bulk_bytes_max)
                .ok_or(ProtocolError::BulkInvalid)?;
            self.request_bytes += bulk_bytes;
            if self.request_bytes > limits.request_bytes_max {
                return Err(ProtocolError::RequestTooLarge);
            }
            self.bulk_bytes = Some(bulk_bytes);
        }
        Ok(self.bulk_bytes)
    }
}

/// Takes a line `?number\r\n`. The inner `None` is a number that is none.
fn count_line(
    input: &mut BytesMut,
    too_long: ProtocolError,
) -> Result<Option<Option<i64>>, ProtocolError> {
    let window = &input[..input.len().min(COUNT_LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\r') else {
        return if window.len() == COUNT_LINE_BYTES_MAX { Err(too_long) } else { Ok(None) };
    };
    if input.len() < end + 2 {
        return Ok(None);
    }
    let number = super::integer(&input[1..end]);
    input.advance(end + 2);
    Ok(Some(number))
}

/// A command typed by hand: words on a line, with quotes as in a shell.
fn inline(
    input: &mut BytesMut,
    limits: &RequestLimits,
) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
        let too_long = input.len() > limits.inline_bytes_max;
        return if too_long { Err(ProtocolError::InlineTooLong) } else { Ok(None) };
    };
    if end > limits.inline_bytes_max {
        return Err(ProtocolError::InlineTooLong);
    }
    let line = input.split_to(end + 1).freeze();
    let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
    words(line).map(Some).ok_or(ProtocolError::QuotesUnbalanced)
}

/// A web page can make a browser send such a line to any port it reaches, and commands in the lines
/// after it. Redis ends the connection at the same two words.
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:")
}

fn words(line: &[u8]) -> Option<Vec<Bytes>> {
    let mut rest = line;
    let mut words = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        let Some(&first) = rest.first() else { return Some(words) };
        let mut word = Vec::new();
        if first == b'"' || first == b'\'' {
            rest = quoted(&rest[1..], first, &mut word)?;
        } else {
            while let Some((&byte, tail)) =
                rest.split_first().filter(|(b, _)| !b.is_ascii_whitespace())
            {
                if byte == b'"' || byte == b'\'' {
                    rest = quoted(tail, byte, &mut word)?;
                    break;
                }
                word.push(byte);
                rest = tail;
            }
        }
        words.push(Bytes::from(word));
    }
}

/// The rest of a quoted word and what follows it; a closing quote must end the word.
fn quoted<'a>(mut rest: &'a [u8], quote: u8, word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            b'\\' if quote == b'"' => {
                let (&escaped, tail) = rest.split_first()?;
                let hex = (escaped == b'x').then(|| tail.split_first_chunk::<2>()).flatten();
                let hex = hex.and_then(|(digits, tail)| Some((hex_byte(digits)?, tail)));
                (rest, _) = match hex {
                    Some((value, tail)) => (tail, word.push(value)),
                    None => (tail, word.push(unescape(escaped))),
                };
            }
            b'\\' if rest.first() == Some(&b'\'') => {
                word.push(b'\'');
                rest = &rest[1..];
            }
            _ if byte == quote => {
                let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
                return ends.then_some(rest);
            }
            _ => word.push(byte),
        }
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn hex_byte(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as u8)
}
