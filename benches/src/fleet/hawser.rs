//! A device that speaks hawser's protocol: the session of `hawser_codec`, with a ticket.

use hawser_codec::frame::Framer;
use hawser_codec::ids::TopicId;
use hawser_codec::session::{Backoff, Command, Event as Told, Positions, Profile, Session};

use super::crowd::BACKOFF;
use super::device::{Device, Event, Next, Question, Standing, Unasked};
use super::timers::Link;
use crate::tickets::Tickets;

/// What the crowd keeps of each.
pub const DEVICE_BYTES: usize = size_of::<Session>() + size_of::<Link>();

const _: () = assert!(DEVICE_BYTES == 48 + 4);

/// What devices say of themselves.
pub struct Script {
    pub tickets: Tickets,
    pub topics: Vec<TopicId>,
    /// For the ticket that is being said.
    ticket: Vec<u8>,
}

impl Script {
    pub fn new(tickets: Tickets, topics: Vec<TopicId>) -> Script {
        Script { tickets, topics, ticket: Vec::new() }
    }
}

impl Device for Session {
    type Script = Script;
    type Partial = Framer;

    fn new(place: u32, now_ms: u64) -> Session {
        Session::new(Positions::default(), place, now_ms)
    }

    fn is_whole(partial: &Framer) -> bool {
        partial.is_empty()
    }

    fn standing(&self) -> Standing {
        Standing {
            connecting: self.is_connecting(),
            online: self.is_online(),
            ready: self.is_ready(),
        }
    }

    fn deadline_ms(&self) -> u64 {
        Session::deadline_ms(self)
    }

    fn has_stopped(&self) -> bool {
        self.stopped().is_some()
    }

    fn on_connected(&mut self, script: &mut Script, place: u32, now_ms: u64, out: &mut Vec<u8>) {
        let Script { tickets, topics, ticket } = script;
        tickets.put(place, ticket);
        let profile = Profile { ticket, topics, heartbeat_s: 0, network: 0, backoff: BACKOFF };
        Session::on_connected(self, &profile, now_ms, out);
    }

    fn on_bytes(
        &mut self,
        _script: &mut Script,
        partial: &mut Framer,
        bytes: &[u8],
        now_ms: u64,
        out: &mut Vec<u8>,
        mut hear: impl FnMut(Event<'_>),
    ) -> Option<Next> {
        let told = |told: Told<'_>| match told {
            Told::Message { payload, .. } => hear(Event::Message { payload }),
            Told::Repeat { .. } => hear(Event::Repeat),
            Told::Pong => hear(Event::Answered(Question::Ping)),
            Told::CaughtUp { .. } => hear(Event::Answered(Question::Pull)),
            Told::Welcomed { .. } => hear(Event::Welcomed),
            Told::Closing(close) => hear(Event::Closing(close.reason.text())),
            Told::Ready | Told::Reset { .. } => {}
        };
        Session::on_bytes(self, partial, bytes, now_ms, out, told).ok().map(next)
    }

    fn on_disconnected(&mut self, backoff: Backoff, now_ms: u64) {
        Session::on_disconnected(self, backoff, now_ms);
    }

    fn on_time(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Next {
        next(Session::on_time(self, now_ms, out))
    }

    fn ask(&mut self, what: Question, now_ms: u64, out: &mut Vec<u8>) -> Result<(), Unasked> {
        match what {
            Question::Ping => self.ping(now_ms, out),
            Question::Pull => self.pull_inbox(out),
        }
        Ok(())
    }
}

fn next(command: Command) -> Next {
    match command {
        Command::Wait => Next::Wait,
        Command::Dial => Next::Dial,
        Command::HangUp => Next::HangUp,
    }
}
