//! Small collections that lie in one string, read element by element.
//!
//! ```text
//! ziplist   [bytes u32][tail u32][elements u16] ([bytes of the one before 1|5][element])... ff
//! listpack  [bytes u32][elements u16] ([element][its bytes backwards 1..5])... ff
//! intset    [width u32][elements u32] (integer)...
//! zipmap    [pairs u8] ([bytes 1|5][key][bytes 1|5][free u8][value][free bytes])... ff
//! ```
//!
//! Integers are little-endian. Each element is checked when it is reached: that it lies within the string,
//! that what is said of it twice is the same, and at the end that there are as many as was said.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Ziplist,
    Listpack,
    Intset,
    Zipmap,
}

/// An element: text, or an integer that stands for its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Atom<'a> {
    Text(&'a [u8]),
    Integer(i64),
}

impl Atom<'_> {
    pub fn to_text(self) -> Vec<u8> {
        match self {
            Atom::Text(text) => text.to_vec(),
            Atom::Integer(number) => {
                let mut text = Vec::with_capacity(20);
                crate::resp::put_integer(&mut text, number);
                text
            }
        }
    }

    pub fn to_integer(self) -> Option<i64> {
        match self {
            Atom::Text(text) => crate::resp::integer(text),
            Atom::Integer(number) => Some(number),
        }
    }
}

/// Why a packed collection makes no sense.
pub type Malformed = &'static str;

const END: u8 = 0xff;
/// A count of elements that says only that there are more than it can say.
const UNCOUNTED: u64 = 0xffff;

/// A collection and how far it was read.
#[derive(Debug)]
pub struct Packed {
    form: Form,
    bytes: Vec<u8>,
    at: usize,
    read: u64,
    /// Elements that it claims to have, if it does.
    claimed: Option<u64>,
    /// Bytes of the element before, for a ziplist.
    before: usize,
    /// Bytes of each element of an intset.
    width: usize,
    /// The last one of an intset.
    last: i64,
}

enum Found {
    Text(Range<usize>),
    Integer(i64),
}

impl Packed {
    pub fn open(form: Form, bytes: Vec<u8>) -> Result<Packed, Malformed> {
        let short = "a packed collection is shorter than its head";
        let (at, claimed) = match form {
            Form::Ziplist => (10, u64::from(u16_at(&bytes, 8).ok_or(short)?)),
            Form::Listpack => (6, u64::from(u16_at(&bytes, 4).ok_or(short)?)),
            Form::Intset => (8, u64::from(u32_at(&bytes, 4).ok_or(short)?)),
            Form::Zipmap => (1, 2 * u64::from(*bytes.first().ok_or(short)?)),
        };
        let claimed = match form {
            Form::Intset => Some(claimed),
            Form::Zipmap => Some(claimed).filter(|claimed| *claimed < 2 * 254),
            Form::Ziplist | Form::Listpack => Some(claimed).filter(|claimed| *claimed != UNCOUNTED),
        };
        let width = if form == Form::Intset { u32_at(&bytes, 0).ok_or(short)? as usize } else { 0 };
        match form {
            Form::Intset => {
                let elements = claimed.unwrap_or(0) as usize;
                if !matches!(width, 2 | 4 | 8) || bytes.len() - 8 != elements * width {
                    return Err("an intset does not have the size that it claims");
                }
            }
            Form::Ziplist | Form::Listpack => {
                if u32_at(&bytes, 0).map(|size| size as usize) != Some(bytes.len()) {
                    return Err("a packed collection does not have the size that it claims");
                }
            }
            Form::Zipmap => {}
        }
        let last = i64::MIN;
        Ok(Packed { form, bytes, at, read: 0, claimed, before: 0, width, last })
    }

    /// The next element, if there is one more.
    pub fn element(&mut self) -> Result<Option<Atom<'_>>, Malformed> {
        let is_end = match self.form {
            Form::Intset => self.at == self.bytes.len(),
            _ => *self.bytes.get(self.at).ok_or("a packed collection has no end")? == END,
        };
        if is_end {
            return self.end().map(|()| None);
        }
        let found = match self.form {
            Form::Ziplist => self.ziplist(),
            Form::Listpack => self.listpack(),
            Form::Intset => self.intset(),
            Form::Zipmap => self.zipmap(),
        };
        self.read += 1;
        Ok(Some(match found? {
            Found::Text(range) => {
                Atom::Text(self.bytes.get(range).ok_or("a packed element is cut off")?)
            }
            Found::Integer(number) => Atom::Integer(number),
        }))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.form != Form::Intset && self.at + 1 != self.bytes.len() {
            return Err("a packed collection ends before its bytes do");
        }
        if self.form == Form::Zipmap && !self.read.is_multiple_of(2) {
            return Err("a packed collection ends before its bytes do");
        }
        match self.claimed {
            Some(claimed) if claimed != self.read => {
                Err("a packed collection does not have as many elements as it claims")
            }
            _ => Ok(()),
        }
    }

    fn ziplist(&mut self) -> Result<Found, Malformed> {
        let cut = "an element of a ziplist is cut off";
        let begins = self.at;
        let (before, mut at) = match self.bytes[self.at] {
            254 => (u32_at(&self.bytes, self.at + 1).ok_or(cut)? as usize, self.at + 5),
            before => (usize::from(before), self.at + 1),
        };
        if before != self.before {
            return Err("an element of a ziplist claims another size of the one before");
        }
        let head = *self.bytes.get(at).ok_or(cut)?;
        let byte = |at: usize| self.bytes.get(at).copied().map(usize::from).ok_or(cut);
        let (text_head, text_bytes) = match head >> 6 {
            0 => (1, usize::from(head & 63)),
            1 => (2, usize::from(head & 63) << 8 | byte(at + 1)?),
            2 => (5, u32_at(&self.bytes, at + 1).ok_or(cut)?.swap_bytes() as usize),
            _ => (0, 0),
        };
        let found = if head >> 6 == 3 {
            let width = match head {
                0xc0 => 2,
                0xd0 => 4,
                0xe0 => 8,
                0xf0 => 3,
                0xfe => 1,
                0xf1..=0xfd => 0,
                _ => return Err("an element of a ziplist has a form that is not known"),
            };
            at += 1 + width;
            match width {
                0 => Found::Integer(i64::from(head & 15) - 1),
                _ => Found::Integer(signed(self.bytes.get(at - width..at).ok_or(cut)?)),
            }
        } else {
            let start = at + text_head;
            at = start.checked_add(text_bytes).filter(|end| *end < self.bytes.len()).ok_or(cut)?;
            Found::Text(start..at)
        };
        self.before = at - begins;
        self.at = at;
        Ok(found)
    }

    fn listpack(&mut self) -> Result<Found, Malformed> {
        let cut = "an element of a listpack is cut off";
        let begins = self.at;
        let head = self.bytes[self.at];
        let byte = |at: usize| self.bytes.get(at).copied().ok_or(cut);
        let integer = |width: usize| {
            let bytes = self.bytes.get(begins + 1..begins + 1 + width).ok_or(cut)?;
            Ok((Found::Integer(signed(bytes)), begins + 1 + width))
        };
        let text = |head_bytes: usize, text_bytes: usize| {
            let start = begins + head_bytes;
            let end = start.checked_add(text_bytes).filter(|end| *end < self.bytes.len());
            end.map(|end| (Found::Text(start..end), end)).ok_or(cut)
        };
        let (found, end) = match head {
            0..=0x7f => (Found::Integer(head.into()), begins + 1),
            0x80..=0xbf => text(1, usize::from(head & 63))?,
            0xc0..=0xdf => {
                let bits = i64::from(head & 31) << 8 | i64::from(byte(begins + 1)?);
                let number = if bits >= 1 << 12 { bits - (1 << 13) } else { bits };
                (Found::Integer(number), begins + 2)
            }
            0xe0..=0xef => text(2, usize::from(head & 15) << 8 | usize::from(byte(begins + 1)?))?,
            0xf0 => text(5, u32_at(&self.bytes, begins + 1).ok_or(cut)? as usize)?,
            0xf1 => integer(2)?,
            0xf2 => integer(3)?,
            0xf3 => integer(4)?,
            0xf4 => integer(8)?,
            _ => return Err("an element of a listpack has a form that is not known"),
        };
        let (backwards, backwards_bytes) = backwards(end - begins);
        if self.bytes.get(end..end + backwards_bytes) != Some(&backwards[..backwards_bytes]) {
            return Err("an element of a listpack does not end with its size");
        }
        self.at = end + backwards_bytes;
        Ok(found)
    }

    fn intset(&mut self) -> Result<Found, Malformed> {
        let number = signed(&self.bytes[self.at..self.at + self.width]);
        if self.read > 0 && number <= self.last {
            return Err("an intset is not in order");
        }
        self.last = number;
        self.at += self.width;
        Ok(Found::Integer(number))
    }

    fn zipmap(&mut self) -> Result<Found, Malformed> {
        let cut = "an element of a zipmap is cut off";
        let (bytes, mut start) = match self.bytes[self.at] {
            254 => (u32_at(&self.bytes, self.at + 1).ok_or(cut)? as usize, self.at + 5),
            bytes => (usize::from(bytes), self.at + 1),
        };
        let mut free = 0;
        if !self.read.is_multiple_of(2) {
            free = usize::from(*self.bytes.get(start).ok_or(cut)?);
            start += 1;
        }
        let end =
            start.checked_add(bytes).filter(|end| end + free < self.bytes.len()).ok_or(cut)?;
        self.at = end + free;
        Ok(Found::Text(start..end))
    }
}

/// How a listpack says the size of an element behind it: seven bits a byte, the last ones first, and how
/// many bytes that takes.
pub fn backwards(bytes: usize) -> ([u8; 5], usize) {
    let width = match bytes {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    };
    let mut out = [0; 5];
    for (place, byte) in out[..width].iter_mut().enumerate() {
        let more = if place == 0 { 0 } else { 0x80 };
        *byte = (bytes >> (7 * (width - 1 - place)) & 127) as u8 | more;
    }
    (out, width)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A little-endian integer of up to eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let mut wide = [0; 8];
    wide[8 - bytes.len()..].copy_from_slice(bytes);
    i64::from_le_bytes(wide) >> (64 - 8 * bytes.len())
}
