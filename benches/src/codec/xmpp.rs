//! XMPP stanzas (RFC 6120, 6121) with quick-xml. Notices are pubsub-style headlines; heartbeats
//! are XEP-0199 pings, since whitespace keep-alives are not answered; acknowledgements are the
//! counters of XEP-0198.

use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::{Format, Message};

const SERVICE: &str = "push.example.com";
const DEVICE: &str = "d-184220@example.com/phone";
const PING: &str = "urn:xmpp:ping";
const SM: &str = "urn:xmpp:sm:3";
const NOTICE: &str = "urn:hawser:notice";

#[derive(Default)]
pub struct Xmpp {
    out: Vec<u8>,
}

impl Format for Xmpp {
    const NAME: &'static str = "xmpp";

    fn encode(&mut self, batch: &[Message<'_>]) -> usize {
        self.out.clear();
        let mut writer = Writer::new(&mut self.out);
        for message in batch {
            write_stanza(&mut writer, message).expect("a vector takes everything");
        }
        self.out.len()
    }

    fn load(&mut self) {}

    fn decode(&mut self, mut each: impl FnMut(Message<'_>)) {
        let mut reader = Reader::from_reader(self.out.as_slice());
        loop {
            match reader.read_event().expect("our stanzas") {
                Event::Start(start) => match start.name().as_ref() {
                    b"message" => read_message(&mut reader, &start, &mut each),
                    b"iq" => {
                        assert_eq!(attribute(&start, "type").as_deref(), Some("get"));
                        assert_eq!(attribute(&start, "to").as_deref(), Some(SERVICE));
                        let Ok(Event::Empty(child)) = reader.read_event() else { panic!("a ping") };
                        assert_eq!(attribute(&child, "xmlns").as_deref(), Some(PING));
                        reader.read_event().expect("the end");
                        each(Message::Ping);
                    }
                    other => unreachable!("not written: {other:?}"),
                },
                Event::Empty(start) => match start.name().as_ref() {
                    b"iq" => {
                        assert_eq!(attribute(&start, "type").as_deref(), Some("result"));
                        assert_eq!(attribute(&start, "from").as_deref(), Some(SERVICE));
                        each(Message::Pong);
                    }
                    b"a" => {
                        assert_eq!(attribute(&start, "xmlns").as_deref(), Some(SM));
                        each(Message::Ack { seq: number(&start, "h") });
                    }
                    other => unreachable!("not written: {other:?}"),
                },
                Event::Eof => return,
                other => unreachable!("not written: {other:?}"),
            }
        }
    }
}

fn write_stanza(writer: &mut Writer<&mut Vec<u8>>, message: &Message<'_>) -> std::io::Result<()> {
    match *message {
        Message::Ping => {
            let iq = BytesStart::new("iq").with_attributes([
                ("to", SERVICE),
                ("id", "p1"),
                ("type", "get"),
            ]);
            writer.write_event(Event::Start(iq))?;
            let ping = BytesStart::new("ping").with_attributes([("xmlns", PING)]);
            writer.write_event(Event::Empty(ping))?;
            writer.write_event(Event::End(BytesEnd::new("iq")))
        }
        Message::Pong => {
            let iq = BytesStart::new("iq").with_attributes([
                ("from", SERVICE),
                ("id", "p1"),
                ("type", "result"),
            ]);
            writer.write_event(Event::Empty(iq))
        }
        Message::Push { seq, payload } => {
            write_message_start(writer, seq)?;
            writer.write_event(Event::Start(BytesStart::new("body")))?;
            let text = quick_xml::escape::partial_escape(payload);
            writer.write_event(Event::Text(BytesText::from_escaped(text)))?;
            writer.write_event(Event::End(BytesEnd::new("body")))?;
            writer.write_event(Event::End(BytesEnd::new("message")))
        }
        Message::Ack { seq } => {
            let mut ack = BytesStart::new("a");
            ack.push_attribute(("xmlns", SM));
            ack.push_attribute(("h", Decimal::of(seq).text()));
            writer.write_event(Event::Empty(ack))
        }
        Message::Notice { seq } => {
            write_message_start(writer, seq)?;
            let more = BytesStart::new("more").with_attributes([("xmlns", NOTICE)]);
            writer.write_event(Event::Empty(more))?;
            writer.write_event(Event::End(BytesEnd::new("message")))
        }
    }
}

fn write_message_start(writer: &mut Writer<&mut Vec<u8>>, seq: u64) -> std::io::Result<()> {
    let mut start = BytesStart::new("message");
    start.push_attribute(("from", SERVICE));
    start.push_attribute(("to", DEVICE));
    start.push_attribute(("id", Decimal::of(seq).text()));
    start.push_attribute(("type", "headline"));
    writer.write_event(Event::Start(start))
}

fn read_message(
    reader: &mut Reader<&[u8]>,
    start: &BytesStart<'_>,
    each: &mut impl FnMut(Message<'_>),
) {
    let seq = number(start, "id");
    assert_eq!(attribute(start, "from").as_deref(), Some(SERVICE));
    assert_eq!(attribute(start, "to").as_deref(), Some(DEVICE));
    assert_eq!(attribute(start, "type").as_deref(), Some("headline"));
    match reader.read_event().expect("our stanzas") {
        Event::Start(child) if child.name().as_ref() == b"body" => {
            let Ok(Event::Text(text)) = reader.read_event() else { panic!("a text") };
            let payload = text.decode().expect("text");
            each(Message::Push { seq, payload: &payload });
            reader.read_event().expect("the end of the body");
        }
        Event::Empty(child) => {
            assert_eq!(attribute(&child, "xmlns").as_deref(), Some(NOTICE));
            each(Message::Notice { seq });
        }
        other => unreachable!("not written: {other:?}"),
    }
    reader.read_event().expect("the end of the message");
}

fn attribute<'a>(start: &'a BytesStart<'_>, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let attribute = start.try_get_attribute(name).expect("our attributes")?;
    Some(attribute.unescape_value().expect("text"))
}

fn number(start: &BytesStart<'_>, name: &str) -> u64 {
    attribute(start, name).expect("a number").parse().expect("a number")
}

/// A number as text, without an allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn of(mut value: u64) -> Decimal {
        let (mut digits, mut start) = ([b'0'; 20], 20);
        loop {
            start -= 1;
            digits[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                return Decimal { digits, start };
            }
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.digits[self.start..]).expect("digits")
    }
}
