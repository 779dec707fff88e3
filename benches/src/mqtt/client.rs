//! A device that speaks MQTT, as a state machine: the counterpart of `hawser_codec::session` for the
//! crowd of a fleet. It owns no socket, no clock and no buffer.
//!
//! ```text
//!            on_connected        CONNACK        SUBACK       ping due
//!  Waiting ─▶ Dialling ─▶ Greeting ───▶ Joining ───▶ Online ──────▶ Pinged
//!     ▲          │            │            │           ▲  ◀─ anything ─┘ │
//!     └──────────┴────────────┴────────────┴───────────┴── hang up ◀─────┘
//! ```
//!
//! It is subscribed to [`ALL`](super::ALL) and to its own topic. A message at QoS 1 is acknowledged.
//! With a clean session nothing is delivered again on a new connection, so a message with the repeat
//! flag is one that this connection had before.

use hawser_codec::session::Backoff;

use super::packet::{Delivery, NotMqtt, Qos, SUBSCRIPTION_REFUSED, ToClient, ToServer, refusal};
use super::{ALL, topic_of};
use crate::fleet::device::{Device, Event, Next, Question, Standing, Unasked};
use crate::mqtt::packet::Stream;

/// How long a dial, an acknowledgement or a pong may take before the device hangs up.
const ANSWER_TIMEOUT_MS: u64 = 20_000;

const KEEP_ALIVE_S: u16 = 600;

/// Before the interval is over, in which the server must hear something.
const PING_EVERY_MS: u64 = KEEP_ALIVE_S as u64 * 1000 * 3 / 4;

const SUBSCRIPTION: u16 = 1;

/// What the devices of a fleet have in common.
pub struct Script {
    /// The number of the first device.
    pub first: u32,
    /// At which they subscribe.
    pub qos: Qos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Dialling,
    Greeting,
    Joining,
    Online,
    Pinged,
    /// Refused, or an answer is overdue; the caller hangs up.
    Closing,
}

#[derive(Clone, Debug)]
pub struct Client {
    deadline_ms: u64,
    /// Its place in the fleet.
    place: u32,
    phase: Phase,
    /// Reconnects since the last CONNACK.
    attempt: u8,
}

const _: () = assert!(size_of::<Client>() <= 16);

impl Device for Client {
    type Script = Script;
    type Partial = Stream;

    fn new(place: u32, now_ms: u64) -> Client {
        Client { deadline_ms: now_ms, place, phase: Phase::Waiting, attempt: 0 }
    }

    fn is_whole(partial: &Stream) -> bool {
        partial.is_empty()
    }

    fn standing(&self) -> Standing {
        Standing {
            connecting: matches!(self.phase, Phase::Dialling | Phase::Greeting),
            online: matches!(self.phase, Phase::Joining | Phase::Online | Phase::Pinged),
            ready: matches!(self.phase, Phase::Online | Phase::Pinged),
        }
    }

    fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    fn has_stopped(&self) -> bool {
        false
    }

    fn on_connected(&mut self, script: &mut Script, _place: u32, now_ms: u64, out: &mut Vec<u8>) {
        let client_id = format!("d-{}", script.first + self.place);
        ToServer::Connect { client_id: &client_id, keep_alive_s: KEEP_ALIVE_S }.encode(out);
        self.await_answer(Phase::Greeting, now_ms);
    }

    fn on_bytes(
        &mut self,
        script: &mut Script,
        partial: &mut Stream,
        bytes: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
        mut hear: impl FnMut(Event<'_>),
    ) -> Option<Next> {
        let on_packet = |packet: ToClient<'_>| {
            // After a refusal nothing counts.
            if self.phase == Phase::Closing {
                return Ok(());
            }
            self.on_packet(packet, script, now_ms, out, &mut hear)
        };
        partial.feed(bytes, on_packet).ok()?;
        Some(self.next())
    }

    fn on_disconnected(&mut self, backoff: Backoff, now_ms: u64) {
        if self.phase != Phase::Waiting {
            self.phase = Phase::Waiting;
            self.deadline_ms = now_ms + self.reconnect_delay_ms(backoff);
            self.attempt = self.attempt.saturating_add(1);
        }
    }

    fn on_time(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Next {
        if now_ms < self.deadline_ms {
            return self.next();
        }
        match self.phase {
            Phase::Waiting => {
                self.await_answer(Phase::Dialling, now_ms);
                return Next::Dial;
            }
            Phase::Online => self.ping(now_ms, out),
            _ => self.phase = Phase::Closing,
        }
        self.next()
    }

    fn ask(&mut self, what: Question, now_ms: u64, out: &mut Vec<u8>) -> Result<(), Unasked> {
        match what {
            Question::Ping => self.ping(now_ms, out),
            Question::Pull => return Err(Unasked("a device that speaks MQTT cannot pull")),
        }
        Ok(())
    }
}

impl Client {
    fn on_packet(
        &mut self,
        packet: ToClient<'_>,
        script: &Script,
        now_ms: u64,
        out: &mut Vec<u8>,
        hear: &mut impl FnMut(Event<'_>),
    ) -> Result<(), NotMqtt> {
        if self.phase == Phase::Pinged {
            // Whatever arrives proves the path; the pong need not come first.
            (self.phase, self.deadline_ms) = (Phase::Online, now_ms + PING_EVERY_MS);
        }
        match (packet, self.phase) {
            (ToClient::ConnAck { code: 0, .. }, Phase::Greeting) => {
                let own = topic_of(script.first + self.place);
                let filters = [(ALL, script.qos), (own.as_str(), script.qos)];
                ToServer::Subscribe { id: SUBSCRIPTION, filters: &filters }.encode(out);
                self.attempt = 0;
                self.await_answer(Phase::Joining, now_ms);
                hear(Event::Welcomed);
            }
            (ToClient::ConnAck { code, .. }, Phase::Greeting) => {
                hear(Event::Closing(refusal(code)));
                self.phase = Phase::Closing;
            }
            (ToClient::SubAck { id: SUBSCRIPTION, codes }, Phase::Joining) => {
                if codes.len() != 2 || codes.contains(&SUBSCRIPTION_REFUSED) {
                    hear(Event::Closing("subscription refused"));
                    self.phase = Phase::Closing;
                } else {
                    (self.phase, self.deadline_ms) = (Phase::Online, now_ms + PING_EVERY_MS);
                }
            }
            (
                ToClient::Publish { is_repeat, delivery, payload, .. },
                Phase::Joining | Phase::Online,
            ) => {
                if let Delivery::AtLeastOnce { id } = delivery {
                    ToServer::PubAck { id }.encode(out);
                }
                hear(if is_repeat { Event::Repeat } else { Event::Message { payload } });
            }
            (ToClient::PingResp, Phase::Online) => hear(Event::Answered(Question::Ping)),
            _ => return Err(NotMqtt),
        }
        Ok(())
    }

    fn ping(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        ToServer::PingReq.encode(out);
        if self.phase == Phase::Online {
            // A further ping does not give the first one's answer more time.
            self.await_answer(Phase::Pinged, now_ms);
        }
    }

    fn await_answer(&mut self, phase: Phase, now_ms: u64) {
        (self.phase, self.deadline_ms) = (phase, now_ms + ANSWER_TIMEOUT_MS);
    }

    fn next(&self) -> Next {
        if self.phase == Phase::Closing { Next::HangUp } else { Next::Wait }
    }

    /// As hawser's devices do it, with the place in the fleet for a seed: the upper half of
    /// `first_ms * 1.8^attempt` differs between devices.
    fn reconnect_delay_ms(&self, backoff: Backoff) -> u64 {
        let most = f64::from(backoff.first_ms) * 1.8f64.powi(i32::from(self.attempt));
        let half = most.min(backoff.max_ms.into()) as u64 / 2;
        let mixed = (u64::from(self.place) << 8 | u64::from(self.attempt))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        half + (mixed >> 32) % (half + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first_ms: 1_000, max_ms: 30_000 };

    fn script() -> Script {
        Script { first: 40, qos: Qos::AtMostOnce }
    }

    /// What a server's bytes make a device say, be told and do.
    fn hears(
        client: &mut Client,
        bytes: &[u8],
        now_ms: u64,
    ) -> (Vec<u8>, Vec<String>, Option<Next>) {
        let (mut out, mut events) = (Vec::new(), Vec::new());
        let next = client.on_bytes(
            &mut script(),
            &mut Stream::default(),
            bytes,
            now_ms,
            &mut out,
            |event| events.push(format!("{event:?}")),
        );
        (out, events, next)
    }

    fn online(now_ms: u64) -> Client {
        let (mut client, mut out) = (Client::new(2, now_ms), Vec::new());
        assert_eq!(client.on_time(now_ms, &mut out), Next::Dial);
        client.on_connected(&mut script(), 2, now_ms, &mut out);
        assert!(out.ends_with(b"\0\x04d-42"), "{out:?}");
        let (subscribe, events, _) = hears(&mut client, b"\x20\x02\0\0", now_ms);
        assert!(subscribe.ends_with(b"\0\x03all\0\0\x04d/42\0"), "{subscribe:?}");
        assert_eq!(events, ["Welcomed"]);
        assert!(client.standing().online && !client.standing().ready);
        assert_eq!(hears(&mut client, b"\x90\x04\0\x01\0\0", now_ms).2, Some(Next::Wait));
        assert!(client.standing().ready);
        client
    }

    #[test]
    fn messages_are_reported_and_acknowledged_as_their_qos_says() {
        let mut client = online(0);
        for (bytes, said, told) in [
            (&b"\x30\x07\0\x03allhi"[..], &b""[..], "Message { payload: [104, 105] }"),
            (b"\x32\x09\0\x03all\0\x09hi", b"\x40\x02\0\x09", "Message { payload: [104, 105] }"),
            (b"\x3a\x09\0\x03all\0\x09hi", b"\x40\x02\0\x09", "Repeat"),
            (b"\xd0\0", b"", "Answered(Ping)"),
        ] {
            let (out, events, next) = hears(&mut client, bytes, 0);
            assert_eq!(
                (&out[..], &events[..], next),
                (said, &[told.to_owned()][..], Some(Next::Wait))
            );
        }
        assert_eq!(hears(&mut client, b"\x20\x02\0\0", 0).2, None, "a second CONNACK");
    }

    #[test]
    fn a_refusal_is_told_and_ends_the_connection() {
        let mut client = Client::new(2, 0);
        client.on_time(0, &mut Vec::new());
        client.on_connected(&mut script(), 2, 0, &mut Vec::new());
        let (_, events, next) = hears(&mut client, b"\x20\x02\0\x05", 0);
        assert_eq!(
            (events[0].as_str(), next),
            (r#"Closing("not authorized")"#, Some(Next::HangUp))
        );
        client.on_disconnected(BACKOFF, 0);
        assert!((500..=1_000).contains(&client.deadline_ms()), "{}", client.deadline_ms());
    }

    #[test]
    fn it_pings_before_the_keep_alive_is_over_and_hangs_up_without_an_answer() {
        let (mut client, mut out) = (online(1_000), Vec::new());
        let due_ms = client.deadline_ms();
        assert!(due_ms < 1_000 + 600_000);
        assert_eq!(client.on_time(due_ms - 1, &mut out), Next::Wait);
        assert!(out.is_empty());
        assert_eq!(client.on_time(due_ms, &mut out), Next::Wait);
        assert_eq!(out, [0xc0, 0]);
        assert_eq!(client.on_time(due_ms + ANSWER_TIMEOUT_MS, &mut out), Next::HangUp);
        assert!(client.ask(Question::Pull, 0, &mut out).is_err());
    }

    #[test]
    fn delays_grow_to_their_limit_and_differ() {
        let delay = |place, attempt| {
            let client = Client { attempt, ..Client::new(place, 0) };
            client.reconnect_delay_ms(BACKOFF)
        };
        assert!((15_000..=30_000).contains(&delay(1, 255)));
        assert!(delay(1, 0) <= 1_000 && delay(1, 0) != delay(2, 0));
    }
}
