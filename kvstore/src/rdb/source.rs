//! Bytes that come in, counted and checksummed: the integers, lengths and strings that all else is made
//! of.
//!
//! ```text
//! length   00nnnnnn | 01nnnnnn n | 80 n n n n | 81 and eight bytes, all big-endian | 11 and an encoding
//! string   a length and so many bytes; or by encoding: an integer of 1, 2 or 4 bytes, or LZF
//! ```

use std::io::{BufRead, ErrorKind};

use super::{Problem, RdbError, crc64, lzf};
use crate::resp;

/// Room is made for so many bytes at once, until they have come.
const STEP_BYTES: u64 = 64 * 1024;

pub struct Source<R> {
    input: R,
    offset: u64,
    crc: u64,
    string_bytes_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Plain(u64),
    Encoded(u8),
}

const ENCODED_INT8: u8 = 0;
const ENCODED_INT16: u8 = 1;
const ENCODED_INT32: u8 = 2;
const ENCODED_LZF: u8 = 3;

impl<R: BufRead> Source<R> {
    pub fn new(input: R, string_bytes_max: u64) -> Source<R> {
        Source { input, offset: 0, crc: 0, string_bytes_max }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn crc(&self) -> u64 {
        self.crc
    }

    /// What comes after all that was read.
    pub fn into_rest(self) -> R {
        self.input
    }

    pub fn corrupt<T>(&self, why: &'static str) -> Result<T, RdbError> {
        Err(self.error(Problem::Corrupt(why)))
    }

    pub fn error(&self, problem: Problem) -> RdbError {
        RdbError { offset: self.offset, problem }
    }

    /// Gives what is there of the next bytes, at most so many and at least one, to `take`.
    fn some(&mut self, bytes_max: u64, mut take: impl FnMut(&[u8])) -> Result<usize, RdbError> {
        let offset = self.offset;
        let failed = |problem| RdbError { offset, problem };
        let there = loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(Problem::Io(error))),
                Ok([]) => return Err(failed(Problem::Truncated)),
                Ok(there) => break there,
            }
        };
        let bytes = there.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        take(&there[..bytes]);
        self.crc = crc64::update(self.crc, &there[..bytes]);
        self.input.consume(bytes);
        self.offset += bytes as u64;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let (mut out, mut at) = ([0; N], 0);
        while at < N {
            at += self.some((N - at) as u64, |part| {
                out[at..at + part.len()].copy_from_slice(part);
            })?;
        }
        Ok(out)
    }

    pub fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn double(&mut self) -> Result<f64, RdbError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Milliseconds since 1970; what lies before counts as 1970.
    pub fn milliseconds(&mut self) -> Result<u64, RdbError> {
        Ok(u64::try_from(i64::from_le_bytes(self.array()?)).unwrap_or(0))
    }

    pub fn bytes(&mut self, count: u64) -> Result<Vec<u8>, RdbError> {
        let mut out = Vec::with_capacity(count.min(STEP_BYTES) as usize);
        while (out.len() as u64) < count {
            self.some(count - out.len() as u64, |part| out.extend_from_slice(part))?;
        }
        Ok(out)
    }

    pub fn any_length(&mut self) -> Result<Length, RdbError> {
        let head = self.byte()?;
        Ok(match (head >> 6, head) {
            (0, _) => Length::Plain(u64::from(head)),
            (1, _) => Length::Plain(u64::from(head & 63) << 8 | u64::from(self.byte()?)),
            (3, _) => Length::Encoded(head & 63),
            (_, 0x80) => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            (_, 0x81) => Length::Plain(u64::from_be_bytes(self.array()?)),
            _ => return self.corrupt("a length starts with neither of its forms"),
        })
    }

    /// A length that is one, and no encoding.
    pub fn length(&mut self) -> Result<u64, RdbError> {
        match self.any_length()? {
            Length::Plain(length) => Ok(length),
            Length::Encoded(_) => self.corrupt("the encoding of a string in place of a length"),
        }
    }

    pub fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        let number = match self.any_length()? {
            Length::Plain(length) => {
                self.check_length(length)?;
                return self.bytes(length);
            }
            Length::Encoded(ENCODED_LZF) => return self.compressed(),
            Length::Encoded(ENCODED_INT8) => i8::from_le_bytes(self.array()?).into(),
            Length::Encoded(ENCODED_INT16) => i16::from_le_bytes(self.array()?).into(),
            Length::Encoded(ENCODED_INT32) => i32::from_le_bytes(self.array()?).into(),
            Length::Encoded(_) => {
                return self.corrupt("a string has an encoding that is not known");
            }
        };
        let mut text = Vec::with_capacity(11);
        resp::put_integer(&mut text, number);
        Ok(text)
    }

    fn check_length(&self, length: u64) -> Result<(), RdbError> {
        if length > self.string_bytes_max {
            return Err(self.error(Problem::TooLong(length, self.string_bytes_max)));
        }
        Ok(())
    }

    fn compressed(&mut self) -> Result<Vec<u8>, RdbError> {
        let packed_bytes = self.length()?;
        let bytes = self.length()?;
        self.check_length(packed_bytes)?;
        self.check_length(bytes)?;
        if !lzf::is_possible(packed_bytes, bytes) {
            return self.corrupt("a compressed string claims more than it can hold");
        }
        let packed = self.bytes(packed_bytes)?;
        match lzf::decompress(&packed, bytes as usize) {
            Some(string) => Ok(string),
            None => self.corrupt("a compressed string is damaged"),
        }
    }

    /// A score as text, as in old files.
    pub fn score_text(&mut self) -> Result<f64, RdbError> {
        match self.byte()? {
            255 => Ok(f64::NEG_INFINITY),
            254 => Ok(f64::INFINITY),
            253 => Ok(f64::NAN),
            length => {
                let text = self.bytes(length.into())?;
                match resp::double::parse(&text) {
                    Some(score) => Ok(score),
                    None => self.corrupt("a score is no number"),
                }
            }
        }
    }
}
