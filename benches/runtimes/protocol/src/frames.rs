//! What a bare server says to devices: one welcome for all, pongs, and pushes with the time in them.

use hawser_codec::device::{Downlink, PushKind, Welcome, put_push_header};
use hawser_codec::ids::{Epoch, Seq};

/// The time at the start of a payload: CLOCK_MONOTONIC in nanoseconds, little-endian.
pub const STAMP_BYTES: usize = 8;

/// What the rest of a payload consists of.
const FILL: u8 = b'm';

/// The answer to the first bytes of a connection. Devices that measure are silent for longer than a
/// run, so the interval is half an hour.
pub fn welcome() -> Vec<u8> {
    let mut out = Vec::new();
    let welcome = Welcome { epoch: Epoch(1), heartbeat_s: 1800, group: Some(Seq::ZERO) };
    Downlink::Welcome(welcome).encode(&mut out);
    out
}

/// That many pongs, one after another.
pub fn pongs(count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    (0..count).for_each(|_| Downlink::Pong.encode(&mut out));
    out
}

/// Appends a push with the stamp and `payload_bytes - STAMP_BYTES` bytes of filling.
pub fn put_push(out: &mut Vec<u8>, seq: u64, stamp_ns: u64, payload_bytes: usize) {
    assert!(payload_bytes >= STAMP_BYTES, "a payload holds its stamp");
    put_push_header(out, PushKind::Inbox, Seq(seq), payload_bytes);
    out.extend_from_slice(&stamp_ns.to_le_bytes());
    out.resize(out.len() + payload_bytes - STAMP_BYTES, FILL);
}

#[cfg(test)]
mod tests {
    use hawser_codec::frame::split;
    use hawser_codec::limits::DOWNLINK_BODY_BYTES_MAX;

    use super::*;

    #[test]
    fn a_push_reads_as_one() {
        let mut out = Vec::new();
        put_push(&mut out, 300, 0x0102_0304, 16);
        let (frame, rest) = split(&out, DOWNLINK_BODY_BYTES_MAX).unwrap().unwrap();
        assert!(rest.is_empty());
        let payload = b"\x04\x03\x02\x01\0\0\0\0mmmmmmmm";
        assert_eq!(Downlink::decode(frame), Ok(Some(Downlink::Push { seq: Seq(300), payload })));
    }
}
