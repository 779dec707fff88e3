//! The packets of MQTT 3.1.1 that a benchmark needs: a client's are written, a server's are read.
//!
//! ```text
//!   0x30  0x0b  00 03 'all'  ..payload..     a PUBLISH at QoS 0: kind and flags, length, body
//!   0xc0  0x00                               a PINGREQ
//! ```
//!
//! [`Stream`] cuts what arrives into packets and resumes at any byte. Packets that arrive whole are
//! borrowed from the input; only an unfinished tail is copied, and an empty stream owns no memory.
//! What is refused does not depend on how the bytes were split.
//!
//! Limits: [`BODY_BYTES_MAX`]; what a server sends to clients only at QoS 2 is refused, as is what
//! only a client may send.

/// Above what any benchmark sends; a longer packet is refused before it is buffered.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The standard allows four bytes; three hold every length that is not refused.
const LENGTH_BYTES_MAX: usize = 3;

const _: () = assert!(BODY_BYTES_MAX < 1 << (7 * LENGTH_BYTES_MAX));

/// How surely a message arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    AtMostOnce = 0,
    AtLeastOnce = 1,
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToServer<'a> {
    /// With a clean session.
    Connect {
        client_id: &'a str,
        keep_alive_s: u16,
    },
    Subscribe {
        id: u16,
        filters: &'a [(&'a str, Qos)],
    },
    Publish {
        topic: &'a str,
        delivery: Delivery,
        payload: &'a [u8],
    },
    PubAck {
        id: u16,
    },
    PingReq,
    Disconnect,
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToClient<'a> {
    /// A code other than 0 is a refusal; [`refusal`] has its meaning.
    ConnAck {
        session_present: bool,
        code: u8,
    },
    /// One code for each filter: the QoS that was granted, or [`SUBSCRIPTION_REFUSED`].
    SubAck {
        id: u16,
        codes: &'a [u8],
    },
    Publish {
        topic: &'a str,
        is_repeat: bool,
        delivery: Delivery,
        payload: &'a [u8],
    },
    PubAck {
        id: u16,
    },
    PingResp,
}

/// A QoS, with the identifier that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtMostOnce,
    AtLeastOnce { id: u16 },
}

pub const SUBSCRIPTION_REFUSED: u8 = 0x80;

/// Bytes that no MQTT 3.1.1 server sends to such a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMqtt;

/// What a CONNACK's code means.
pub fn refusal(code: u8) -> &'static str {
    match code {
        1 => "the server does not speak MQTT 3.1.1",
        2 => "the server does not allow the client identifier",
        3 => "the server is unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "refused for an unknown reason",
    }
}

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;

const QOS_SHIFT: u8 = 1;
const REPEAT: u8 = 0x08;

const PROTOCOL: &str = "MQTT";
const LEVEL: u8 = 4;
const CLEAN_SESSION: u8 = 0x02;

impl ToServer<'_> {
    /// Appends the packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            ToServer::Connect { client_id, keep_alive_s } => {
                put_header(out, CONNECT, 2 + PROTOCOL.len() + 4 + 2 + client_id.len());
                put_text(out, PROTOCOL);
                out.extend_from_slice(&[LEVEL, CLEAN_SESSION]);
                put_u16(out, keep_alive_s);
                put_text(out, client_id);
            }
            ToServer::Subscribe { id, filters } => {
                let bytes: usize = filters.iter().map(|(filter, _)| 2 + filter.len() + 1).sum();
                put_header(out, SUBSCRIBE, 2 + bytes);
                put_u16(out, id);
                for (filter, qos) in filters {
                    put_text(out, filter);
                    out.push(*qos as u8);
                }
            }
            ToServer::Publish { topic, delivery, payload } => {
                let (qos, id) = match delivery {
                    Delivery::AtMostOnce => (Qos::AtMostOnce, None),
                    Delivery::AtLeastOnce { id } => (Qos::AtLeastOnce, Some(id)),
                };
                let body_bytes = 2 + topic.len() + 2 * usize::from(id.is_some()) + payload.len();
                put_header(out, PUBLISH | (qos as u8) << QOS_SHIFT, body_bytes);
                put_text(out, topic);
                if let Some(id) = id {
                    put_u16(out, id);
                }
                out.extend_from_slice(payload);
            }
            ToServer::PubAck { id } => {
                put_header(out, PUBACK, 2);
                put_u16(out, id);
            }
            ToServer::PingReq => put_header(out, PINGREQ, 0),
            ToServer::Disconnect => put_header(out, DISCONNECT, 0),
        }
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, body_bytes: usize) {
    assert!(body_bytes <= BODY_BYTES_MAX, "a benchmark's packets are small");
    out.push(kind);
    let mut left = body_bytes;
    loop {
        let seven = (left & 0x7f) as u8;
        left >>= 7;
        if left == 0 {
            return out.push(seven);
        }
        out.push(seven | 0x80);
    }
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u16(out, u16::try_from(text.len()).expect("names and topics are short"));
    out.extend_from_slice(text.as_bytes());
}

/// What arrives on one connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// The start of a packet whose end has not arrived.
    partial: Vec<u8>,
}

impl Stream {
    /// Whether no unfinished packet is held.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Calls `each` for every packet that `bytes` completes, in order. After an error the connection
    /// is of no more use, and neither is this.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ToClient<'_>) -> Result<(), NotMqtt>,
    ) -> Result<(), NotMqtt> {
        let mut held = std::mem::take(&mut self.partial);
        let mut rest = bytes;
        if !held.is_empty() {
            held.extend_from_slice(bytes);
            rest = &held;
        }
        while let Some((packet, after)) = split(rest)? {
            each(packet)?;
            rest = after;
        }
        self.partial = rest.to_vec();
        Ok(())
    }
}

/// The first packet and what follows it; `None` if it has not arrived whole.
fn split(bytes: &[u8]) -> Result<Option<(ToClient<'_>, &[u8])>, NotMqtt> {
    let Some((&first, after_first)) = bytes.split_first() else { return Ok(None) };
    // Before its length: what is no MQTT should not be waited for.
    if !is_known(first) {
        return Err(NotMqtt);
    }
    let mut body_bytes = 0;
    for (index, &byte) in after_first.iter().enumerate() {
        if index == LENGTH_BYTES_MAX {
            return Err(NotMqtt);
        }
        body_bytes |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if body_bytes > BODY_BYTES_MAX {
                return Err(NotMqtt);
            }
            let Some((body, rest)) = after_first[index + 1..].split_at_checked(body_bytes) else {
                return Ok(None);
            };
            return Ok(Some((decode(first, Reader(body))?, rest)));
        }
    }
    Ok(None)
}

fn is_known(first: u8) -> bool {
    let is_publish = first & 0xf0 == PUBLISH && (first >> QOS_SHIFT) & 3 <= 1;
    is_publish || [CONNACK, SUBACK, PUBACK, PINGRESP].contains(&first)
}

fn decode(first: u8, mut body: Reader<'_>) -> Result<ToClient<'_>, NotMqtt> {
    let packet = match first {
        CONNACK => {
            let [flags, code] = body.array()?;
            if flags > 1 {
                return Err(NotMqtt);
            }
            ToClient::ConnAck { session_present: flags == 1, code }
        }
        SUBACK => {
            let id = body.u16()?;
            let codes = body.rest();
            if codes.is_empty() {
                return Err(NotMqtt);
            }
            ToClient::SubAck { id, codes }
        }
        PUBACK => ToClient::PubAck { id: body.u16()? },
        PINGRESP => ToClient::PingResp,
        _ => {
            let topic = body.text()?;
            let delivery = match (first >> QOS_SHIFT) & 3 {
                0 => Delivery::AtMostOnce,
                _ => Delivery::AtLeastOnce { id: body.u16()? },
            };
            let is_repeat = first & REPEAT != 0;
            ToClient::Publish { topic, is_repeat, delivery, payload: body.rest() }
        }
    };
    if body.0.is_empty() { Ok(packet) } else { Err(NotMqtt) }
}

/// The rest of a body.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], NotMqtt> {
        let (&array, rest) = self.0.split_first_chunk().ok_or(NotMqtt)?;
        self.0 = rest;
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, NotMqtt> {
        self.array().map(u16::from_be_bytes)
    }

    fn text(&mut self) -> Result<&'a str, NotMqtt> {
        let bytes = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(bytes).ok_or(NotMqtt)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| NotMqtt)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use rumqttc::mqttbytes::QoS;
    use rumqttc::mqttbytes::v4;

    use super::*;

    /// What a stream of bytes says, as text so that it can outlive the bytes.
    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, NotMqtt> {
        let (mut stream, mut said) = (Stream::default(), Vec::new());
        for piece in pieces {
            stream.feed(piece, |packet| {
                said.push(format!("{packet:?}"));
                Ok(())
            })?;
        }
        Ok(said)
    }

    fn written(packet: ToServer<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        packet.encode(&mut out);
        out
    }

    #[test]
    fn golden_bytes() {
        let filters = [("all", Qos::AtMostOnce), ("d/7", Qos::AtLeastOnce)];
        let once = Delivery::AtLeastOnce { id: 258 };
        let publish = |delivery| ToServer::Publish { topic: "all", delivery, payload: b"hi" };
        for (packet, expected) in [
            (
                ToServer::Connect { client_id: "d-7", keep_alive_s: 600 },
                &b"\x10\x0f\0\x04MQTT\x04\x02\x02\x58\0\x03d-7"[..],
            ),
            (
                ToServer::Subscribe { id: 1, filters: &filters },
                b"\x82\x0e\0\x01\0\x03all\0\0\x03d/7\x01",
            ),
            (publish(Delivery::AtMostOnce), b"\x30\x07\0\x03allhi"),
            (publish(once), b"\x32\x09\0\x03all\x01\x02hi"),
            (ToServer::PubAck { id: 258 }, b"\x40\x02\x01\x02"),
            (ToServer::PingReq, b"\xc0\0"),
            (ToServer::Disconnect, b"\xe0\0"),
        ] {
            assert_eq!(written(packet), expected, "{packet:?}");
        }
        for (bytes, expected) in [
            (&b"\x20\x02\x01\x05"[..], ToClient::ConnAck { session_present: true, code: 5 }),
            (b"\x90\x04\0\x01\0\x80", ToClient::SubAck { id: 1, codes: &[0, 0x80] }),
            (b"\x40\x02\x01\x02", ToClient::PubAck { id: 258 }),
            (b"\xd0\0", ToClient::PingResp),
            (
                b"\x3a\x09\0\x03all\x01\x02hi",
                ToClient::Publish { topic: "all", is_repeat: true, delivery: once, payload: b"hi" },
            ),
        ] {
            assert_eq!(read(&[bytes]).unwrap(), [format!("{expected:?}")], "{bytes:?}");
        }
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x10\x0f",                // a CONNECT
            b"\x34\x06\0\x03all\0\x01", // QoS 2
            b"\x20\x03\0\0\0",          // one byte too many
            b"\x20\x02\x02\0",          // a flag that is reserved
            b"\x90\x02\0\x01",          // no code
            b"\xd0\x01\0",              // a pong with a body
            b"\x30\x03\0\x02a",         // a topic beyond the end
            b"\x30\x03\0\x01\xff",      // no text
            b"\x30\x80\x80\x05",        // 81,920 bytes
            b"\x30\x80\x80\x80\x01",    // a length of four bytes
        ] {
            assert_eq!(read(&[bytes]), Err(NotMqtt), "{bytes:?}");
        }
    }

    /// A generator with a seed (SplitMix64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) % limit as u64) as usize
        }

        fn text(&mut self) -> String {
            (0..1 + self.below(40)).map(|_| ['a', '/', '7', 'ü'][self.below(4)]).collect()
        }

        /// Around the edges of what one, two and three bytes of length hold.
        fn payload(&mut self) -> Vec<u8> {
            let bytes = [0, 1, 100, 127, 128, 16_370, 16_384, 60_000][self.below(8)];
            vec![self.below(256) as u8; bytes + self.below(20)]
        }

        fn id(&mut self) -> u16 {
            1 + self.below(65_535) as u16
        }
    }

    /// The other codec reads what this one writes.
    #[test]
    fn a_client_says_what_rumqttc_hears() {
        let mut random = Random(1);
        let qos = |qos| if qos == Qos::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        for round in 0..2_000 {
            let (text, id) = (random.text(), random.id());
            let asked = [Qos::AtMostOnce, Qos::AtLeastOnce][random.below(2)];
            let payload = random.payload();
            let (mine, theirs) = match round % 6 {
                0 => {
                    let mut connect = v4::Connect::new(text.as_str());
                    (connect.keep_alive, connect.clean_session) = (id, true);
                    let mine = ToServer::Connect { client_id: &text, keep_alive_s: id };
                    (written(mine), v4::Packet::Connect(connect))
                }
                1 => {
                    let filters = [(text.as_str(), asked), ("all", Qos::AtMostOnce)];
                    let theirs = filters.map(|(path, asked)| v4::SubscribeFilter {
                        path: path.to_owned(),
                        qos: qos(asked),
                    });
                    let mut subscribe = v4::Subscribe::new_many(theirs);
                    subscribe.pkid = id;
                    let mine = ToServer::Subscribe { id, filters: &filters };
                    (written(mine), v4::Packet::Subscribe(subscribe))
                }
                2 => {
                    let mut publish = v4::Publish::new(&text, qos(asked), payload.clone());
                    let delivery = match asked {
                        Qos::AtMostOnce => Delivery::AtMostOnce,
                        Qos::AtLeastOnce => Delivery::AtLeastOnce { id },
                    };
                    publish.pkid = if asked == Qos::AtLeastOnce { id } else { 0 };
                    let mine = ToServer::Publish { topic: &text, delivery, payload: &payload };
                    (written(mine), v4::Packet::Publish(publish))
                }
                3 => (written(ToServer::PubAck { id }), v4::Packet::PubAck(v4::PubAck::new(id))),
                4 => (written(ToServer::PingReq), v4::Packet::PingReq),
                _ => (written(ToServer::Disconnect), v4::Packet::Disconnect),
            };
            let heard = v4::Packet::read(&mut BytesMut::from(&mine[..]), BODY_BYTES_MAX);
            assert_eq!(heard.unwrap(), theirs, "round {round}");
        }
    }

    /// A packet of a server as the other codec writes it, and as this one should read it.
    fn of_a_server(random: &mut Random) -> (Vec<u8>, String) {
        let id = random.id();
        let (theirs, mine) = match random.below(5) {
            0 => {
                let code = v4::ConnectReturnCode::NotAuthorized;
                let mine = ToClient::ConnAck { session_present: false, code: 5 };
                (v4::Packet::ConnAck(v4::ConnAck::new(code, false)), format!("{mine:?}"))
            }
            1 => {
                let codes = vec![
                    v4::SubscribeReasonCode::Success(QoS::AtLeastOnce),
                    v4::SubscribeReasonCode::Failure,
                ];
                let mine = ToClient::SubAck { id, codes: &[1, SUBSCRIPTION_REFUSED] };
                (v4::Packet::SubAck(v4::SubAck::new(id, codes)), format!("{mine:?}"))
            }
            2 => {
                let mine = ToClient::PubAck { id };
                (v4::Packet::PubAck(v4::PubAck::new(id)), format!("{mine:?}"))
            }
            3 => (v4::Packet::PingResp, format!("{:?}", ToClient::PingResp)),
            _ => {
                let (topic, payload) = (random.text(), random.payload());
                let is_repeat = random.below(2) == 0;
                let mut publish = v4::Publish::from_bytes(
                    topic.as_str(),
                    QoS::AtLeastOnce,
                    Bytes::from(payload.clone()),
                );
                (publish.pkid, publish.dup) = (id, is_repeat);
                let delivery = Delivery::AtLeastOnce { id };
                let mine =
                    ToClient::Publish { topic: &topic, is_repeat, delivery, payload: &payload };
                (v4::Packet::Publish(publish), format!("{mine:?}"))
            }
        };
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes, usize::MAX).unwrap();
        (bytes.to_vec(), mine)
    }

    /// This codec reads what the other one writes, however it is split.
    #[test]
    fn a_server_of_rumqttc_is_heard_under_any_split() {
        let mut random = Random(2);
        for _ in 0..300 {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..6 {
                let (packet, said) = of_a_server(&mut random);
                bytes.extend(packet);
                expected.push(said);
            }
            let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
            let (first, second) = (a.min(b), a.max(b));
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(read(&pieces).as_ref(), Ok(&expected));
        }
    }

    /// Changed bytes are read or refused, never more than that, and a split changes neither.
    #[test]
    fn hostile_bytes_are_refused_whatever_the_split() {
        let mut random = Random(3);
        let mut refused = 0;
        for _ in 0..3_000 {
            let mut bytes = of_a_server(&mut random).0;
            bytes.extend(of_a_server(&mut random).0);
            bytes.truncate(400);
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len().min(40));
                bytes[at] = random.below(256) as u8;
            }
            let whole = read(&[&bytes]);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single), whole, "{bytes:?}");
            refused += u32::from(whole.is_err());
        }
        assert!((500..2_900).contains(&refused), "{refused} of 3,000 were refused");
    }
}
