//! MQTT 5 packets with the codec of rumqttc: pushes are QoS 1 publishes to the device's topic,
//! acknowledged by packet identifier. A notice is a publish to another topic.

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PingReq, PingResp, PubAck, Publish};

use super::{Format, Message};

const TOPIC: &[u8] = b"d/d-184220";
const NOTICE_TOPIC: &[u8] = b"n/d-184220";

#[derive(Default)]
pub struct Mqtt {
    out: BytesMut,
    stream: BytesMut,
}

impl Format for Mqtt {
    const NAME: &'static str = "mqtt5";

    fn encode(&mut self, batch: &[Message<'_>]) -> usize {
        self.out.clear();
        for message in batch {
            packet(message).write(&mut self.out, None).expect("small packets");
        }
        self.out.len()
    }

    fn load(&mut self) {
        self.stream.clear();
        self.stream.extend_from_slice(&self.out);
    }

    fn decode(&mut self, mut each: impl FnMut(Message<'_>)) {
        while !self.stream.is_empty() {
            match Packet::read(&mut self.stream, None).expect("our packets") {
                Packet::PingReq(_) => each(Message::Ping),
                Packet::PingResp(_) => each(Message::Pong),
                Packet::PubAck(ack) => each(Message::Ack { seq: u64::from(ack.pkid) }),
                Packet::Publish(publish) => {
                    let seq = u64::from(publish.pkid);
                    if publish.topic == TOPIC {
                        let payload = std::str::from_utf8(&publish.payload).expect("text");
                        each(Message::Push { seq, payload });
                    } else {
                        assert_eq!(publish.topic, NOTICE_TOPIC);
                        each(Message::Notice { seq });
                    }
                }
                other => unreachable!("not written: {other:?}"),
            }
        }
    }
}

fn packet(message: &Message<'_>) -> Packet {
    let publish = |topic: &'static [u8], seq: u64, payload: Bytes| {
        Packet::Publish(Publish {
            qos: QoS::AtLeastOnce,
            topic: Bytes::from_static(topic),
            pkid: seq as u16,
            payload,
            ..Publish::default()
        })
    };
    match *message {
        Message::Ping => Packet::PingReq(PingReq),
        Message::Pong => Packet::PingResp(PingResp),
        // The packet owns its payload, so a caller who has borrowed it must copy.
        Message::Push { seq, payload } => {
            publish(TOPIC, seq, Bytes::copy_from_slice(payload.as_bytes()))
        }
        Message::Ack { seq } => Packet::PubAck(PubAck::new(seq as u16, None)),
        Message::Notice { seq } => publish(NOTICE_TOPIC, seq, Bytes::new()),
    }
}
