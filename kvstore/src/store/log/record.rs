//! The bytes of a segment of the write log.
//!
//! ```text
//! header    "hawserkv-log-v3\n" [salt u64][CRC-32C u32 of all before]
//! record    [payload bytes u32][CRC-32C u32 of what follows][sequence u64][synced u64 XOR salt][payload]
//! ```
//!
//! All integers are big-endian. The salt is random and known to nobody outside: so no value that a client
//! sends can pass for a record, when what a crash has left is searched for records.

use std::hash::{BuildHasher, RandomState};

use crate::store::seeded::SeededBug;

const MAGIC: &[u8; 16] = b"hawserkv-log-v3\n";
pub const HEADER_BYTES: usize = 28;
pub const RECORD_HEADER_BYTES: usize = 24;

/// Larger than any group the writer makes; a length above it is damage.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// What is different in each segment.
#[derive(Clone, Copy)]
pub struct Salt(u64);

impl Salt {
    /// The standard library seeds its hashers from the kernel's random numbers.
    pub fn random() -> Salt {
        Salt(RandomState::new().hash_one(HEADER_BYTES))
    }

    /// With which a segment begins.
    pub fn header(self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let (said, checksum) = header.split_at_mut(HEADER_BYTES - 4);
        said[..MAGIC.len()].copy_from_slice(MAGIC);
        said[MAGIC.len()..].copy_from_slice(&self.0.to_be_bytes());
        checksum.copy_from_slice(&crc32c::crc32c(said).to_be_bytes());
        header
    }

    /// The salt of the segment that `bytes` begin, and its records; none if the header is not whole.
    pub fn of(bytes: &[u8]) -> Option<(Salt, &[u8])> {
        let (header, records) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let salt = &header[MAGIC.len()..HEADER_BYTES - 4];
        let salt = Salt(u64::from_be_bytes(salt.try_into().expect("eight bytes")));
        (salt.header() == *header).then_some((salt, records))
    }
}

pub fn encode(salt: Salt, sequence: u64, synced: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&sequence.to_be_bytes());
    record.extend_from_slice(&(synced ^ salt.0).to_be_bytes());
    record.extend_from_slice(payload);
    let checksum = crc32c::crc32c(&record[8..]);
    record[4..8].copy_from_slice(&checksum.to_be_bytes());
    record
}

/// A record as it was written.
pub struct Record<'a> {
    pub sequence: u64,
    pub payload: &'a [u8],
}

/// The record at the start of `bytes`, if it is whole, and what follows it.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let (header, rest) =
        bytes.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or("the header is not whole")?;
    let payload_bytes = u32::from_be_bytes(header[..4].try_into().expect("four bytes")) as usize;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err("the length is impossible");
    }
    let (payload, rest) = match rest.split_at_checked(payload_bytes) {
        None if SeededBug::AcceptsTornRecord.is_on() => (rest, &[][..]),
        found => found.ok_or("the record is not whole")?,
    };
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), payload);
    let is_ignored = (payload.len() < payload_bytes && SeededBug::AcceptsTornRecord.is_on())
        || SeededBug::IgnoresChecksum.is_on();
    if checksum.to_be_bytes() != header[4..8] && !is_ignored {
        return Err("the checksum is wrong");
    }
    let sequence = u64::from_be_bytes(header[8..16].try_into().expect("eight bytes"));
    Ok((Record { sequence, payload }, rest))
}

/// Whether a whole record lies anywhere in `bytes` that says that `sequence` had been synced.
pub fn is_known_as_synced(salt: Salt, bytes: &[u8], sequence: u64) -> bool {
    (1..bytes.len().saturating_sub(RECORD_HEADER_BYTES)).any(|offset| {
        let candidate = &bytes[offset..];
        let number =
            |at| u64::from_be_bytes(candidate[at..at + 8].try_into().expect("eight bytes"));
        let (later, synced) = (number(8), number(16) ^ salt.0);
        // All that were written between the two lie between them.
        let is_plausible = (sequence..later).contains(&synced)
            && (later - sequence) <= (offset / RECORD_HEADER_BYTES) as u64;
        is_plausible && decode(candidate).is_ok()
    })
}
