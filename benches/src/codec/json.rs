//! JSON objects, one after the other, with serde_json.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Format, Message};

#[derive(Default)]
pub struct Json {
    out: Vec<u8>,
}

/// One flat object rather than a tagged enum, which serde would have to buffer.
#[derive(Serialize, Deserialize)]
struct Object<'a> {
    t: Kind,
    #[serde(default, skip_serializing_if = "is_zero")]
    s: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    p: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ping,
    Pong,
    Push,
    Ack,
    Notice,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Format for Json {
    const NAME: &'static str = "json";

    fn encode(&mut self, batch: &[Message<'_>]) -> usize {
        self.out.clear();
        for message in batch {
            let (t, s, p) = match *message {
                Message::Ping => (Kind::Ping, 0, None),
                Message::Pong => (Kind::Pong, 0, None),
                Message::Push { seq, payload } => (Kind::Push, seq, Some(payload.into())),
                Message::Ack { seq } => (Kind::Ack, seq, None),
                Message::Notice { seq } => (Kind::Notice, seq, None),
            };
            let object = Object { t, s, p };
            serde_json::to_writer(&mut self.out, &object).expect("a vector takes everything");
        }
        self.out.len()
    }

    fn load(&mut self) {}

    fn decode(&mut self, mut each: impl FnMut(Message<'_>)) {
        for object in serde_json::Deserializer::from_slice(&self.out).into_iter() {
            let Object { t, s, p } = object.expect("our objects");
            each(match t {
                Kind::Ping => Message::Ping,
                Kind::Pong => Message::Pong,
                Kind::Push => Message::Push { seq: s, payload: p.as_deref().expect("a payload") },
                Kind::Ack => Message::Ack { seq: s },
                Kind::Notice => Message::Notice { seq: s },
            });
        }
    }
}
