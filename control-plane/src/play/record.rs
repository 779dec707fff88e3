//! What a fleet process tells `hawser play` over its standard output: fixed records of 24 bytes.
//!
//! ```text
//!   kind u8 | detail u8 | 0 u16 | device u32 | seq u64 | number u32 | latency_us u32
//! ```
//!
//! One record for everything that the application of a device sees, so that the comparison with
//! what the API accepted is made in one place, from what arrived and not from counters.

use hawser_codec::cursor::{Reader, Write};
use hawser_codec::error::DecodeError;
use hawser_codec::ids::Stream;

use super::mark::Kind;

pub const RECORD_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub device: u32,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Connected, with a place in both streams.
    Ready,
    /// A connection that had been welcomed ended.
    Lost,
    /// The server moved the device's position back: only a store that forgot can cause it.
    Reset,
    /// A message of this play.
    Seen { kind: Kind, stream: Stream, seq: u64, number: u32, latency_us: u32 },
    /// Any other message, such as one of `hawser push`.
    Other,
}

mod kind {
    pub const READY: u8 = 1;
    pub const LOST: u8 = 2;
    pub const RESET: u8 = 3;
    pub const SEEN: u8 = 4;
    pub const OTHER: u8 = 5;
}

impl Record {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, detail, seq, number, latency_us) = match self.what {
            What::Ready => (kind::READY, 0, 0, 0, 0),
            What::Lost => (kind::LOST, 0, 0, 0, 0),
            What::Reset => (kind::RESET, 0, 0, 0, 0),
            What::Other => (kind::OTHER, 0, 0, 0, 0),
            What::Seen { kind, stream, seq, number, latency_us } => {
                let group = u8::from(kind == Kind::Group);
                (kind::SEEN, stream as u8 | group << 1, seq, number, latency_us)
            }
        };
        out.put_u8(kind);
        out.put_u8(detail);
        out.put_u16(0);
        out.put_u32(self.device);
        out.put_u64(seq);
        out.put_u32(number);
        out.put_u32(latency_us);
    }

    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Record, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (kind, detail, _) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let device = reader.u32()?;
        let (seq, number, latency_us) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let what = match kind {
            kind::READY => What::Ready,
            kind::LOST => What::Lost,
            kind::RESET => What::Reset,
            kind::OTHER => What::Other,
            kind::SEEN => {
                let stream = Stream::from_code(detail & 1)?;
                let kind = if detail & 2 == 0 { Kind::Single } else { Kind::Group };
                What::Seen { kind, stream, seq, number, latency_us }
            }
            _ => return Err(DecodeError::BadValue),
        };
        Ok(Record { device, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_their_byte_form() {
        let seen =
            |kind, stream| What::Seen { kind, stream, seq: 1 << 40, number: 7, latency_us: 9 };
        for what in [
            What::Ready,
            What::Lost,
            What::Reset,
            What::Other,
            seen(Kind::Single, Stream::Inbox),
            seen(Kind::Group, Stream::Group),
        ] {
            let record = Record { device: 123_456, what };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes.try_into().unwrap()), Ok(record));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), Err(DecodeError::BadValue));
    }
}
