//! Framing: `[type u8][length varint][body]`, the same for devices and links.
//!
//! ```text
//!   0x21  0x83 0x02  ..259 bytes..        a frame of type 0x21
//!   0x01  0x00                            a heartbeat: two bytes
//! ```
//!
//! The length stands in every frame, so a receiver skips types it does not know, and refuses an
//! oversized frame after at most four bytes, before it has buffered anything. What is refused, and
//! why, does not depend on how the bytes were split on their way.
//!
//! [`Framer`] resumes at any byte. Frames that arrive whole are borrowed from the input; only an
//! unfinished tail is copied, and an empty framer owns no memory.

use crate::cursor::{Reader, VARINT_BYTES_MAX, Write, varint_bytes};
use crate::error::DecodeError;
use crate::limits::LINK_BODY_BYTES_MAX;

/// One frame, not yet interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

/// Three bytes hold 21 bits, and the largest limit is 2^20.
const LENGTH_BYTES_MAX: usize = 3;

const _: () = assert!(LINK_BODY_BYTES_MAX < 1 << (7 * LENGTH_BYTES_MAX));

/// The first frame of `bytes` and what follows it, or `None` if it has not arrived whole.
#[inline]
pub fn split(
    bytes: &[u8],
    body_bytes_max: usize,
) -> Result<Option<(Frame<'_>, &[u8])>, DecodeError> {
    let Some(header) = Header::read(bytes, body_bytes_max)? else { return Ok(None) };
    let mut reader = Reader::new(header.rest);
    match reader.bytes(header.body_bytes) {
        Ok(body) => Ok(Some((Frame { kind: header.kind, body }, reader.rest()))),
        Err(_) => Ok(None),
    }
}

/// The type and the length of a frame whose body may not have arrived.
struct Header<'a> {
    kind: u8,
    body_bytes: usize,
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    #[inline]
    fn read(bytes: &'a [u8], body_bytes_max: usize) -> Result<Option<Header<'a>>, DecodeError> {
        let Some((&kind, after_kind)) = bytes.split_first() else { return Ok(None) };
        let length_end = after_kind.len().min(LENGTH_BYTES_MAX);
        let mut reader = Reader::new(after_kind);
        match Reader::new(&after_kind[..length_end]).varint() {
            Ok(length) if length > body_bytes_max as u64 => Err(DecodeError::FrameTooLarge),
            Ok(length) => {
                reader.bytes(varint_bytes(length))?;
                Ok(Some(Header { kind, body_bytes: length as usize, rest: reader.rest() }))
            }
            // A fourth byte of length would already exceed every limit.
            Err(DecodeError::Truncated) if length_end == LENGTH_BYTES_MAX => {
                Err(DecodeError::FrameTooLarge)
            }
            Err(DecodeError::Truncated) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Bytes of a frame with a body of this size.
pub fn frame_bytes(body_bytes: usize) -> usize {
    1 + varint_bytes(body_bytes as u64) + body_bytes
}

/// Appends the header of a frame whose body the caller appends next.
#[inline]
pub fn put_header(out: &mut Vec<u8>, kind: u8, body_bytes: usize) {
    out.put_u8(kind);
    out.put_varint(body_bytes as u64);
}

/// Appends a frame whose body size is not known before it is written: `body` writes it, and the
/// length is put in afterwards.
pub fn put_frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind);
    let start = out.len();
    body(out);
    let body_bytes = out.len() - start;
    // The length goes behind the body and is rotated to its front: no memory beyond the buffer.
    out.put_varint(body_bytes as u64);
    let length_bytes = out.len() - start - body_bytes;
    assert!(length_bytes <= VARINT_BYTES_MAX);
    out[start..].rotate_right(length_bytes);
}

/// A byte stream cut into frames, resumable at every byte.
#[derive(Debug, Default)]
pub struct Framer {
    /// The start of a frame whose end has not arrived. Never holds a whole frame.
    partial: Vec<u8>,
}

impl Framer {
    /// Whether no unfinished frame is held, so that the framer can be dropped.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Bytes held of an unfinished frame.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Calls `each` for every frame that `bytes` completes, in order. Stops early when `each`
    /// returns an error; the rest of the input is then lost, as the connection is.
    pub fn feed<E: From<DecodeError>>(
        &mut self,
        mut bytes: &[u8],
        body_bytes_max: usize,
        mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Finish the frame that is held, taking from the input only what it needs.
        while !self.partial.is_empty() {
            let wanted = missing_bytes(&self.partial, body_bytes_max)?;
            let taken = wanted.min(bytes.len());
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            let held = std::mem::take(&mut self.partial);
            match split(&held, body_bytes_max)? {
                Some((frame, rest)) => {
                    assert!(rest.is_empty(), "only missing bytes were taken");
                    each(frame)?;
                }
                None => {
                    self.partial = held;
                    if bytes.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
        while let Some((frame, rest)) = split(bytes, body_bytes_max)? {
            each(frame)?;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

/// How many bytes an unfinished frame still needs; at least one. While the length itself is
/// unfinished, the answer is one byte.
fn missing_bytes(partial: &[u8], body_bytes_max: usize) -> Result<usize, DecodeError> {
    let Some(header) = Header::read(partial, body_bytes_max)? else { return Ok(1) };
    assert!(header.rest.len() < header.body_bytes, "a whole frame is never held");
    Ok(header.body_bytes - header.rest.len())
}
