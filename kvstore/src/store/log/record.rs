//! The bytes of a record of the write log.

use crate::store::seeded::SeededBug;

pub const MAGIC: &[u8; 16] = b"hawserkv-log-v2\n";
pub const RECORD_HEADER_BYTES: usize = 24;

/// Larger than any group the writer makes; a length above it is damage.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

pub fn encode(sequence: u64, synced: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    record.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&sequence.to_be_bytes());
    record.extend_from_slice(&synced.to_be_bytes());
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
