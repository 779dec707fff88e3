//! Connections that do not follow the protocol. Each must end for its own reason, and none may cost
//! anybody else anything.

use hawser_broker::core::event::Now;
use hawser_codec::device::{Connect, Downlink, MAJOR, MINOR, Uplink};
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{Epoch, Seq, TopicId};
use hawser_codec::limits::{DOWNLINK_BODY_BYTES_MAX, UPLINK_BODY_BYTES_MAX};

use super::network::{Far, Wire};
use super::random::Random;
use super::scenario::UNIX_START_MS;
use super::tickets::App;
use super::trace::Trace;

/// What a rogue does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    Silence,
    Garbage,
    Oversized,
    OtherVersion,
    ExpiredTicket,
    ForgedTicket,
    MalformedTicket,
    UnknownApp,
    TooManyTopics,
    AckFirst,
    HalfFrame,
}

impl Mischief {
    pub const ALL: [Mischief; 11] = [
        Mischief::Silence,
        Mischief::Garbage,
        Mischief::Oversized,
        Mischief::OtherVersion,
        Mischief::ExpiredTicket,
        Mischief::ForgedTicket,
        Mischief::MalformedTicket,
        Mischief::UnknownApp,
        Mischief::TooManyTopics,
        Mischief::AckFirst,
        Mischief::HalfFrame,
    ];

    /// For what the broker closes it, if nothing else comes first.
    fn reason(self) -> CloseReason {
        match self {
            Mischief::Silence | Mischief::HalfFrame => CloseReason::HandshakeTimeout,
            Mischief::Garbage => CloseReason::BadFrame,
            Mischief::Oversized => CloseReason::FrameTooLarge,
            Mischief::OtherVersion => CloseReason::Version,
            Mischief::ExpiredTicket => CloseReason::TicketExpired,
            Mischief::ForgedTicket => CloseReason::TicketForged,
            Mischief::MalformedTicket => CloseReason::TicketMalformed,
            Mischief::UnknownApp => CloseReason::UnknownApp,
            Mischief::TooManyTopics => CloseReason::TooManyTopics,
            Mischief::AckFirst => CloseReason::Unexpected,
        }
    }

    fn bytes(self, app: &App, now: Now, random: &mut Random) -> Vec<u8> {
        let mut out = Vec::new();
        let good_until_s = now.unix_ms / 1000 + 86_400;
        let name = format!("rogue-{}", random.below(1000));
        match self {
            Mischief::Silence => {}
            // A ping with a body: a known type that cannot be decoded.
            Mischief::Garbage => out.extend([0x01, 0x02, 0xaa, 0xbb]),
            Mischief::Oversized => {
                hawser_codec::frame::put_header(&mut out, 0x10, UPLINK_BODY_BYTES_MAX + 1);
            }
            Mischief::OtherVersion => connect(&mut out, MAJOR + 1, b"whatever"),
            Mischief::ExpiredTicket => {
                let ticket = app.ticket(&name, UNIX_START_MS / 1000 - 86_400);
                connect(&mut out, MAJOR, &ticket);
            }
            Mischief::ForgedTicket => {
                let mut ticket = app.ticket(&name, good_until_s);
                *ticket.last_mut().expect("a ticket has bytes") ^= 1;
                connect(&mut out, MAJOR, &ticket);
            }
            Mischief::MalformedTicket => connect(&mut out, MAJOR, b"\x09not a ticket"),
            Mischief::UnknownApp => {
                let ticket = App::stranger().ticket(&name, good_until_s);
                connect(&mut out, MAJOR, &ticket);
            }
            Mischief::TooManyTopics => {
                connect(&mut out, MAJOR, &app.ticket(&name, good_until_s));
                for topic in 1..=33 {
                    Uplink::Subscribe { topic: TopicId(topic) }.encode(&mut out);
                }
            }
            Mischief::AckFirst => Uplink::Ack { seq: Seq(1) }.encode(&mut out),
            Mischief::HalfFrame => {
                connect(&mut out, MAJOR, &app.ticket(&name, good_until_s));
                out.truncate(out.len() / 2);
            }
        }
        out
    }
}

fn connect(out: &mut Vec<u8>, major: u8, ticket: &[u8]) {
    let connect = Connect {
        major,
        minor: MINOR,
        heartbeat_s: 0,
        network: 0,
        last_epoch: Epoch::ZERO,
        inbox: Seq::ZERO,
        group: None,
        ticket,
    };
    Uplink::Connect(connect).encode(out);
}

pub struct Rogue {
    mischief: Mischief,
    wire: Wire,
    framer: Framer,
    pub done: bool,
}

impl Rogue {
    pub fn new(
        mischief: Mischief,
        mut wire: Wire,
        app: &App,
        random: &mut Random,
        trace: &mut Trace,
    ) -> Rogue {
        trace.note(format_args!("a rogue does {mischief:?} to shard {}", wire.shard));
        let now = Now { mono_ms: trace.now_ms, unix_ms: UNIX_START_MS + trace.now_ms };
        wire.send(mischief.bytes(app, now, random), trace.now_ms, random);
        Rogue { mischief, wire, framer: Framer::default(), done: false }
    }

    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        self.wire.next_ms(now_ms)
    }

    /// Reads until the broker ends it, and judges why.
    pub fn step(&mut self, trace: &mut Trace) {
        let mut bytes = Vec::new();
        let far = self.wire.take(trace.now_ms, &mut bytes);
        let mut reason = None;
        let result = self.framer.feed(&bytes, DOWNLINK_BODY_BYTES_MAX, |frame| {
            if let Some(Downlink::Close(close)) = Downlink::decode(frame)? {
                reason = Some(close.reason);
            }
            Ok::<(), DecodeError>(())
        });
        result.expect("the broker speaks the protocol to rogues, too");
        if let Some(reason) = reason {
            trace.note(format_args!("the rogue of {:?} is closed: {reason}", self.mischief));
            let expected = reason == self.mischief.reason()
                || matches!(
                    reason,
                    CloseReason::NotReady | CloseReason::Overload | CloseReason::Drain
                );
            assert!(expected, "{:?} was closed for {reason:?}", self.mischief);
        }
        self.done |= reason.is_some() || far != Far::Open;
    }

    /// What is left of it: a wire to be shut down.
    pub fn into_wire(self) -> Wire {
        self.wire
    }
}
