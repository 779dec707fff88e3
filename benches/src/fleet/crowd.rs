//! The devices of a fleet: their sessions, their timers, and what is measured of them.
//!
//! A device is a session of `hawser_codec` and a place in a timer's list: [`DEVICE_BYTES`]. An
//! unfinished frame is kept only while it is unfinished.

use std::collections::HashMap;
use std::io;

use hawser_codec::frame::Framer;
use hawser_codec::ids::TopicId;
use hawser_codec::session::{Backoff, Command as Next, Event, Positions, Profile, Session};

use super::latency::Latency;
use super::timers::{Link, Timers};
use super::{Heard, Net};
use crate::io::monotonic_ns;
use crate::tickets::Tickets;

pub const DEVICE_BYTES: usize = size_of::<Session>() + size_of::<Link>();

/// A device whose connection ended comes back after about this.
const BACKOFF: Backoff = Backoff { first_ms: 1_000, max_ms: 30_000 };

/// What devices say of themselves.
pub struct Script {
    pub tickets: Tickets,
    pub topics: Vec<TopicId>,
}

pub struct Crowd<N> {
    pub net: N,
    script: Script,
    sessions: Vec<Session>,
    links: Vec<Link>,
    timers: Timers,
    partial: HashMap<u32, Framer>,
    pub online: u32,
    pub ready: u32,
    /// Dialled and not yet welcomed.
    pub connecting: u32,
    pub tally: Tally,
    out: Vec<u8>,
    ticket: Vec<u8>,
}

/// What is counted and timed.
#[derive(Default)]
pub struct Tally {
    /// Sessions that went offline, and how many of them were made to from here.
    offline: u64,
    left: u64,
    pub closes: HashMap<&'static str, u64>,
    pub messages: u64,
    pub repeats: u64,
    pub last_message_ns: u64,
    pub latency: Latency,
    /// Questions without an answer yet, with the time when each was due.
    pub asked: HashMap<u32, u64>,
    pub answered: u64,
    /// Dials without a welcome yet, when those are timed.
    pub dialled: Option<HashMap<u32, u64>>,
}

impl Tally {
    /// Sessions that ended without being asked to.
    pub fn lost(&self) -> u64 {
        self.offline - self.left
    }

    fn closed(&mut self, reason: &'static str) {
        *self.closes.entry(reason).or_default() += 1;
    }

    fn hear(&mut self, device: u32, event: &Event<'_>) {
        match event {
            Event::Message { payload, .. } => {
                self.messages += 1;
                self.last_message_ns = monotonic_ns();
                if let Some(sent) = payload.first_chunk::<8>() {
                    let ns = self.last_message_ns.saturating_sub(u64::from_le_bytes(*sent));
                    self.latency.record(ns);
                }
            }
            Event::Repeat { .. } => self.repeats += 1,
            Event::Pong | Event::CaughtUp { .. } => {
                if let Some(due_ns) = self.asked.remove(&device) {
                    self.answered += 1;
                    self.latency.record(monotonic_ns() - due_ns);
                }
            }
            Event::Welcomed { .. } => {
                if let Some(dialled_ns) =
                    self.dialled.as_mut().and_then(|dialled| dialled.remove(&device))
                {
                    self.latency.record(monotonic_ns() - dialled_ns);
                }
            }
            Event::Closing(close) => self.closed(close.reason.text()),
            Event::Ready | Event::Reset { .. } => {}
        }
    }
}

impl<N: Net> Crowd<N> {
    pub fn new(net: N, script: Script, now_ms: u64) -> Crowd<N> {
        Crowd {
            net,
            script,
            sessions: Vec::new(),
            links: Vec::new(),
            timers: Timers::new(now_ms),
            partial: HashMap::new(),
            online: 0,
            ready: 0,
            connecting: 0,
            tally: Tally::default(),
            out: Vec::new(),
            ticket: Vec::new(),
        }
    }

    pub fn len(&self) -> u32 {
        self.sessions.len() as u32
    }

    pub fn memory_bytes(&self) -> usize {
        let sessions = self.sessions.capacity() * size_of::<Session>();
        let links = self.links.capacity() * size_of::<Link>();
        sessions + links + self.timers.memory_bytes() + self.net.memory_bytes()
    }

    /// Makes room for so many devices, exactly: growing by halves would cost half of it again.
    pub fn reserve(&mut self, devices: usize) -> io::Result<()> {
        let more = devices.saturating_sub(self.sessions.len());
        let full = |_| io::Error::new(io::ErrorKind::OutOfMemory, "no memory for the devices");
        self.sessions.try_reserve_exact(more).map_err(full)?;
        self.links.try_reserve_exact(more).map_err(full)?;
        self.net.reserve(devices);
        Ok(())
    }

    /// A further device, which dials now.
    pub fn add(&mut self, now_ms: u64) -> io::Result<()> {
        let device = self.len();
        self.sessions.push(Session::new(Positions::default(), device, now_ms));
        self.links.push(Link::default());
        self.look_after(device, now_ms)?;
        self.file(device);
        Ok(())
    }

    /// Takes up to `limit` things that have happened; whether there may be more.
    pub fn listen(&mut self, buffer: &mut [u8], limit: usize, now_ms: u64) -> io::Result<bool> {
        for _ in 0..limit {
            match self.net.next(buffer, now_ms)? {
                Some(heard) => self.on_heard(&heard, now_ms)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Runs the timers; of those that came up early, up to `limit`.
    pub fn on_time(&mut self, limit: usize, now_ms: u64) -> io::Result<()> {
        for _ in 0..limit {
            let Some(device) = self.timers.next_early(now_ms) else { break };
            self.look_after(device, now_ms)?;
        }
        let links = &self.links;
        let due = self.timers.take(now_ms, |device| links[device as usize]);
        for &device in &due {
            self.look_after(device, now_ms)?;
            self.file(device);
        }
        self.timers.give_back(due);
        Ok(())
    }

    /// Asks something of the server, if the device is online and waits for no answer; whether so.
    pub fn ask(
        &mut self,
        device: u32,
        what: Question,
        due_ns: u64,
        now_ms: u64,
    ) -> io::Result<bool> {
        if !self.is_online(device) || self.tally.asked.contains_key(&device) {
            return Ok(false);
        }
        self.change(device, |session, _, out| match what {
            Question::Ping => session.ping(now_ms, out),
            Question::Pull => session.pull_inbox(out),
        });
        self.tally.asked.insert(device, due_ns);
        self.say(device, now_ms)?;
        Ok(true)
    }

    /// The connection breaks, as when a network is gone, and the device dials again at once.
    pub fn break_off(&mut self, device: u32, now_ms: u64) {
        self.net.reset(device);
        self.leave_of_itself(device, now_ms);
    }

    /// The device closes its connection in good order, and dials again at once.
    pub fn leave(&mut self, device: u32, now_ms: u64) {
        self.net.finish(device, now_ms);
        self.leave_of_itself(device, now_ms);
    }

    pub fn is_online(&self, device: u32) -> bool {
        self.sessions[device as usize].is_online()
    }

    fn leave_of_itself(&mut self, device: u32, now_ms: u64) {
        self.tally.left += u64::from(self.is_online(device));
        self.gone(device, Backoff { first_ms: 0, max_ms: 0 }, now_ms);
    }

    fn on_heard(&mut self, heard: &Heard<'_>, now_ms: u64) -> io::Result<()> {
        let device = heard.device;
        if heard.connected {
            self.introduce(device, now_ms);
        }
        if !heard.data.is_empty() {
            match self.read(device, heard.data, now_ms) {
                Some(Next::HangUp) => {
                    self.say(device, now_ms)?;
                    self.net.finish(device, now_ms);
                    self.gone(device, BACKOFF, now_ms);
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    self.tally.closed("broken protocol");
                    self.out.clear();
                    self.net.reset(device);
                    self.gone(device, BACKOFF, now_ms);
                    return Ok(());
                }
            }
        }
        if heard.ended {
            self.out.clear();
            self.tally.closed("connection ended");
            self.gone(device, BACKOFF, now_ms);
        } else if self.out.is_empty() {
            self.net.silent(device);
        } else {
            self.say(device, now_ms)?;
        }
        Ok(())
    }

    fn introduce(&mut self, device: u32, now_ms: u64) {
        let mut ticket = std::mem::take(&mut self.ticket);
        self.script.tickets.put(device, &mut ticket);
        let topics = std::mem::take(&mut self.script.topics);
        let profile = Profile {
            ticket: &ticket,
            topics: &topics,
            heartbeat_s: 0,
            network: 0,
            backoff: BACKOFF,
        };
        self.change(device, |session, _, out| session.on_connected(&profile, now_ms, out));
        (self.ticket, self.script.topics) = (ticket, topics);
    }

    /// Gives the session what came. `None`: it was not this protocol.
    fn read(&mut self, device: u32, data: &[u8], now_ms: u64) -> Option<Next> {
        let mut framer = match self.partial.is_empty() {
            true => Framer::default(),
            false => self.partial.remove(&device).unwrap_or_default(),
        };
        let next = self.change(device, |session, tally, out| {
            let hear = |event: Event<'_>| tally.hear(device, &event);
            session.on_bytes(&mut framer, data, now_ms, out, hear).ok()
        });
        if !framer.is_empty() {
            self.partial.insert(device, framer);
        }
        next
    }

    /// Acts on a deadline that may have come.
    fn look_after(&mut self, device: u32, now_ms: u64) -> io::Result<()> {
        let next = self.change(device, |session, _, out| session.on_time(now_ms, out));
        let session = &self.sessions[device as usize];
        match next {
            Next::Wait => self.say(device, now_ms),
            Next::Dial => {
                if let Some(dialled) = &mut self.tally.dialled {
                    dialled.insert(device, monotonic_ns());
                }
                self.net.connect(device, now_ms)
            }
            // It will not come back.
            Next::HangUp if session.stopped().is_some() => Ok(()),
            Next::HangUp => {
                self.tally.closed("no answer");
                self.net.reset(device);
                self.gone(device, BACKOFF, now_ms);
                Ok(())
            }
        }
    }

    fn gone(&mut self, device: u32, backoff: Backoff, now_ms: u64) {
        self.partial.remove(&device);
        self.tally.asked.remove(&device);
        self.change(device, |session, _, _| session.on_disconnected(backoff, now_ms));
    }

    /// Whatever happens to a session happens here, so that it is counted and its timer kept.
    fn change<R>(
        &mut self,
        device: u32,
        act: impl FnOnce(&mut Session, &mut Tally, &mut Vec<u8>) -> R,
    ) -> R {
        let Crowd { sessions, tally, out, timers, .. } = self;
        let session = &mut sessions[device as usize];
        let (before, before_ms) = (Standing::of(session), session.deadline_ms());
        let result = act(session, tally, out);
        let after = Standing::of(session);
        if session.deadline_ms() < before_ms {
            timers.hasten(device, session.deadline_ms());
        }
        tally.offline += u64::from(before.online && !after.online);
        let count = |count: &mut u32, was: bool, is: bool| {
            *count = *count + u32::from(is) - u32::from(was);
        };
        count(&mut self.online, before.online, after.online);
        count(&mut self.ready, before.ready, after.ready);
        count(&mut self.connecting, before.connecting, after.connecting);
        result
    }

    fn file(&mut self, device: u32) {
        let deadline_ms = self.sessions[device as usize].deadline_ms();
        self.timers.file(device, deadline_ms, &mut self.links[device as usize]);
    }

    /// Writes what the session has put out.
    fn say(&mut self, device: u32, now_ms: u64) -> io::Result<()> {
        if !self.out.is_empty() {
            self.net.send(device, &self.out, now_ms)?;
            self.out.clear();
        }
        Ok(())
    }
}

/// How far a session has come.
#[derive(Clone, Copy)]
struct Standing {
    connecting: bool,
    online: bool,
    ready: bool,
}

impl Standing {
    fn of(session: &Session) -> Standing {
        Standing {
            connecting: session.is_connecting(),
            online: session.is_online(),
            ready: session.is_ready(),
        }
    }
}

/// What a device may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Ping,
    Pull,
}
