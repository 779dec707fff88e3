//! Finds heartbeats in what a device says, and skips the rest. It resumes at any byte and takes four
//! bytes for a connection, so that it fits beside millions of them.

use hawser_codec::error::DecodeError;

/// The type byte of a `Ping`; its length is zero.
const PING: u8 = 0x01;

/// The lengths of what devices send take two bytes at most.
const LOW_BITS: u32 = 7;
const MORE: u8 = 0x80;

/// Where in a frame the bytes of a connection stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skim {
    phase: Phase,
    /// The length's low bits in `LengthEnd`, the bytes of body to come in `Body`.
    left: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Kind,
    PingLength,
    Length,
    LengthEnd,
    Body,
}

impl Skim {
    /// How many heartbeats end in these bytes. A frame longer than a device's can be is an error.
    pub fn pings(&mut self, mut bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut pings = 0;
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            self.phase = match self.phase {
                Phase::Kind if byte == PING => Phase::PingLength,
                Phase::Kind => Phase::Length,
                Phase::PingLength if byte == 0 => {
                    pings += 1;
                    Phase::Kind
                }
                Phase::PingLength | Phase::Length => {
                    self.left = u16::from(byte & !MORE);
                    if byte & MORE == 0 { self.body() } else { Phase::LengthEnd }
                }
                Phase::LengthEnd if byte & MORE != 0 => return Err(DecodeError::FrameTooLarge),
                Phase::LengthEnd => {
                    self.left |= u16::from(byte) << LOW_BITS;
                    self.body()
                }
                Phase::Body => {
                    let skipped = usize::from(self.left - 1).min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.left -= 1 + skipped as u16;
                    self.body()
                }
            };
        }
        Ok(pings)
    }

    /// What follows when `left` bytes of body are to come.
    fn body(&self) -> Phase {
        if self.left == 0 { Phase::Kind } else { Phase::Body }
    }
}

const _: () = assert!(size_of::<Skim>() == 4);

#[cfg(test)]
mod tests {
    use hawser_codec::device::{Connect, MAJOR, MINOR, Uplink};
    use hawser_codec::ids::{Epoch, Seq, TopicId};

    use super::*;

    fn said(frames: &[Uplink]) -> Vec<u8> {
        let mut out = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        out
    }

    #[test]
    fn heartbeats_are_found_however_the_bytes_are_cut() {
        let connect = |ticket| {
            Uplink::Connect(Connect {
                major: MAJOR,
                minor: MINOR,
                heartbeat_s: 0,
                network: 0,
                last_epoch: Epoch(0x0100_0100_0100_0100),
                inbox: Seq(1),
                group: None,
                ticket,
            })
        };
        // A short length, one of two bytes, and bodies full of what looks like heartbeats.
        let (short, long) = (connect(&[1, 0, 1, 0]), connect(&[1; 200]));
        let topic = TopicId(0x0001_0001_0001_0001);
        let bytes = said(&[
            Uplink::Ping,
            short,
            Uplink::Ping,
            Uplink::Ping,
            long,
            Uplink::Subscribe { topic },
            Uplink::Bye,
            Uplink::Ping,
        ]);
        for chunk_bytes in 1..=bytes.len() {
            let mut skim = Skim::default();
            let pings: usize =
                bytes.chunks(chunk_bytes).map(|chunk| skim.pings(chunk).unwrap()).sum();
            assert_eq!((pings, skim.phase), (4, Phase::Kind), "in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn a_length_of_three_bytes_is_refused() {
        let mut skim = Skim::default();
        assert_eq!(skim.pings(&[0x15, 0x80, 0x80, 0x01]), Err(DecodeError::FrameTooLarge));
    }
}
