//! The only index arithmetic of the crate.
//!
//! A [`Reader`] is consumed by each read, so a wrong offset cannot be written down; the [`Write`]
//! extension appends to a `Vec`. Integers are little-endian; lengths and sequence numbers are
//! varints (LEB128, seven bits a byte, shortest form only).

use crate::error::DecodeError;

/// Unread bytes of one frame body.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses leftovers: a body must end with its last field.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A varint of at most nine bytes (63 bits), in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(VARINT_BYTES_MAX) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(DecodeError::BadVarint);
                }
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < VARINT_BYTES_MAX {
            Err(DecodeError::Truncated)
        } else {
            Err(DecodeError::BadVarint)
        }
    }

    /// A varint length and that many bytes, at most `bytes_max`.
    #[inline]
    pub fn prefixed(&mut self, bytes_max: usize) -> Result<&'a [u8], DecodeError> {
        let count = self.varint()?;
        if count > bytes_max as u64 {
            return Err(DecodeError::BadValue);
        }
        self.bytes(count as usize)
    }

    /// Prefixed UTF-8.
    pub fn text(&mut self, bytes_max: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.prefixed(bytes_max)?).map_err(|_| DecodeError::BadText)
    }
}

/// Nine bytes hold 63 bits, more than any length or sequence number here.
pub const VARINT_BYTES_MAX: usize = 9;

/// Bytes that `value` takes as a varint.
#[inline]
pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appending writes, the mirror of [`Reader`].
pub trait Write {
    fn put(&mut self, bytes: &[u8]);

    #[inline]
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    #[inline]
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    #[inline]
    fn put_u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    /// Writes the shortest form. `value` must be below 2^63.
    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        assert!(value >> 63 == 0, "varints hold 63 bits");
        let mut bytes = [0u8; VARINT_BYTES_MAX];
        let mut count = 0;
        while value >= 0x80 {
            bytes[count] = value as u8 | 0x80;
            value >>= 7;
            count += 1;
        }
        bytes[count] = value as u8;
        self.put(&bytes[..=count]);
    }

    #[inline]
    fn put_prefixed(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Write for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
