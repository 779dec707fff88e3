//! hawser's own frames. Both directions are decoded as their receivers do.

use hawser_codec::device::{Downlink, Uplink};
use hawser_codec::frame::split;
use hawser_codec::ids::{Seq, Stream};
use hawser_codec::limits::DOWNLINK_BODY_BYTES_MAX;

use super::{Format, Message};

#[derive(Default)]
pub struct Hawser {
    out: Vec<u8>,
}

impl Format for Hawser {
    const NAME: &'static str = "hawser";

    fn encode(&mut self, batch: &[Message<'_>]) -> usize {
        let out = &mut self.out;
        out.clear();
        for message in batch {
            match *message {
                Message::Ping => Uplink::Ping.encode(out),
                Message::Pong => Downlink::Pong.encode(out),
                Message::Push { seq, payload } => {
                    Downlink::Push { seq: Seq(seq), payload: payload.as_bytes() }.encode(out);
                }
                Message::Ack { seq } => Uplink::Ack { seq: Seq(seq) }.encode(out),
                Message::Notice { seq } => {
                    Downlink::Notice { stream: Stream::Inbox, latest: Seq(seq) }.encode(out);
                }
            }
        }
        out.len()
    }

    fn load(&mut self) {}

    fn decode(&mut self, mut each: impl FnMut(Message<'_>)) {
        let mut rest = self.out.as_slice();
        while let Some((frame, after)) = split(rest, DOWNLINK_BODY_BYTES_MAX).expect("our frames") {
            rest = after;
            // The batch holds both directions; a receiver would know which one it reads.
            if let Some(downlink) = Downlink::decode(frame).expect("our frames") {
                each(match downlink {
                    Downlink::Pong => Message::Pong,
                    Downlink::Push { seq, payload } => {
                        let payload = std::str::from_utf8(payload).expect("text");
                        Message::Push { seq: seq.0, payload }
                    }
                    Downlink::Notice { latest, .. } => Message::Notice { seq: latest.0 },
                    other => unreachable!("not written: {other:?}"),
                });
                continue;
            }
            each(match Uplink::decode(frame).expect("our frames").expect("a type of ours") {
                Uplink::Ping => Message::Ping,
                Uplink::Ack { seq } => Message::Ack { seq: seq.0 },
                other => unreachable!("not written: {other:?}"),
            });
        }
    }
}
