//! The devices of a fleet: their state, their timers, and what is measured of them.
//!
//! What they speak is theirs ([`Device`]). Here each has that state and a place in a timer's list: 52
//! bytes for one of hawser's. An unfinished frame is kept only while it is unfinished.

use std::collections::HashMap;
use std::io;

use hawser_codec::session::Backoff;

use super::device::{Device, Event, Next, Question, Unasked};
use super::latency::Latency;
use super::timers::{Link, Timers};
use super::{Heard, Net};
use crate::io::monotonic_ns;

/// A device whose connection ended comes back after about this.
pub const BACKOFF: Backoff = Backoff { first_ms: 1_000, max_ms: 30_000 };
/// Longer than any wait of a device that is not online, and shorter than a heartbeat interval.
const SOON_MS: u64 = 60_000;

const AT_ONCE: Backoff = Backoff { first_ms: 0, max_ms: 0 };
/// Both sides' last segments have passed by then.
const AFTER_GOODBYE: Backoff = Backoff { first_ms: 400, max_ms: 400 };

pub struct Crowd<N, D: Device> {
    pub net: N,
    script: D::Script,
    devices: Vec<D>,
    links: Vec<Link>,
    timers: Timers,
    partial: HashMap<u32, D::Partial>,
    pub online: u32,
    pub ready: u32,
    /// Dialled and not yet welcomed.
    pub connecting: u32,
    pub tally: Tally,
    /// Nobody dials any more.
    has_closed: bool,
    out: Vec<u8>,
}

/// What is counted and timed.
#[derive(Default)]
pub struct Tally {
    /// Devices that went offline, and how many of them were made to from here.
    offline: u64,
    left: u64,
    pub closes: HashMap<&'static str, u64>,
    pub messages: u64,
    pub repeats: u64,
    pub last_message_ns: u64,
    pub latency: Latency,
    /// Questions without an answer yet, with the time when each was due.
    pub asked: HashMap<u32, u64>,
    /// What is asked.
    question: Option<Question>,
    pub answered: u64,
    /// The first dials of devices without a welcome yet, when those are timed.
    pub dialled: Option<HashMap<u32, u64>>,
}

impl Tally {
    /// Connections that ended without being asked to.
    pub fn lost(&self) -> u64 {
        self.offline - self.left
    }

    fn closed(&mut self, reason: &'static str) {
        *self.closes.entry(reason).or_default() += 1;
    }

    fn hear(&mut self, device: u32, event: &Event<'_>) {
        match event {
            Event::Message { payload } => {
                self.messages += 1;
                self.last_message_ns = monotonic_ns();
                if let Some(sent) = payload.first_chunk::<8>() {
                    let ns = self.last_message_ns.saturating_sub(u64::from_le_bytes(*sent));
                    self.latency.record(ns);
                }
            }
            Event::Repeat => self.repeats += 1,
            // A device catches up by itself when it connects: that is no answer to a heartbeat.
            Event::Answered(question) => {
                if self.question == Some(*question)
                    && let Some(due_ns) = self.asked.remove(&device)
                {
                    self.answered += 1;
                    self.latency.record(monotonic_ns() - due_ns);
                }
            }
            Event::Welcomed => {
                if let Some(dialled_ns) =
                    self.dialled.as_mut().and_then(|dialled| dialled.remove(&device))
                {
                    self.latency.record(monotonic_ns() - dialled_ns);
                }
            }
            Event::Closing(reason) => self.closed(reason),
        }
    }
}

impl<N: Net, D: Device> Crowd<N, D> {
    pub fn new(net: N, script: D::Script, now_ms: u64) -> Crowd<N, D> {
        Crowd {
            net,
            script,
            devices: Vec::new(),
            links: Vec::new(),
            timers: Timers::new(now_ms),
            partial: HashMap::new(),
            online: 0,
            ready: 0,
            connecting: 0,
            tally: Tally::default(),
            has_closed: false,
            out: Vec::new(),
        }
    }

    pub fn len(&self) -> u32 {
        self.devices.len() as u32
    }

    pub fn memory_bytes(&self) -> usize {
        let devices = self.devices.capacity() * size_of::<D>();
        let links = self.links.capacity() * size_of::<Link>();
        devices + links + self.timers.memory_bytes() + self.net.memory_bytes()
    }

    /// Makes room for so many devices, exactly: growing by halves would cost half of it again.
    pub fn reserve(&mut self, devices: usize) -> io::Result<()> {
        let more = devices.saturating_sub(self.devices.len());
        let full = |_| io::Error::new(io::ErrorKind::OutOfMemory, "no memory for the devices");
        self.devices.try_reserve_exact(more).map_err(full)?;
        self.links.try_reserve_exact(more).map_err(full)?;
        self.net.reserve(devices);
        Ok(())
    }

    /// A further device, which dials now.
    pub fn add(&mut self, now_ms: u64) -> io::Result<()> {
        let device = self.len();
        self.devices.push(D::new(device, now_ms));
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
            // Its list may be one of long from now: what is due sooner comes up early again.
            let deadline_ms = self.deadline_ms(device);
            if deadline_ms < now_ms + SOON_MS {
                self.timers.hasten(device, deadline_ms);
            }
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
        let unasked = |unasked: Unasked| io::Error::new(io::ErrorKind::Unsupported, unasked.0);
        self.change(device, |_, one, _, out| one.ask(what, now_ms, out)).map_err(unasked)?;
        self.tally.question = Some(what);
        self.tally.asked.insert(device, due_ns);
        self.say(device, now_ms)?;
        Ok(true)
    }

    /// The connection breaks, as when a network is gone, and the device dials again at once.
    pub fn break_off(&mut self, device: u32, now_ms: u64) {
        self.net.reset(device);
        self.leave_of_itself(device, AT_ONCE, now_ms);
    }

    /// The device closes its connection in good order, and dials again when that is done.
    pub fn leave(&mut self, device: u32, now_ms: u64) {
        self.net.finish(device, now_ms);
        self.leave_of_itself(device, AFTER_GOODBYE, now_ms);
    }

    /// Breaks off what is not online, and dials no more: there is no memory for it, or no server.
    pub fn close(&mut self, now_ms: u64) {
        self.has_closed = true;
        for device in 0..self.len() {
            if !self.is_online(device) {
                self.net.reset(device);
                self.gone(device, BACKOFF, now_ms);
            }
        }
    }

    pub fn is_online(&self, device: u32) -> bool {
        self.devices[device as usize].standing().online
    }

    fn leave_of_itself(&mut self, device: u32, pause: Backoff, now_ms: u64) {
        self.tally.left += u64::from(self.is_online(device));
        self.gone(device, pause, now_ms);
    }

    fn on_heard(&mut self, heard: &Heard<'_>, now_ms: u64) -> io::Result<()> {
        let device = heard.device;
        if heard.connected {
            self.change(device, |script, one, _, out| {
                one.on_connected(script, device, now_ms, out);
            });
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

    /// Gives the device what came. `None`: it was not this protocol.
    fn read(&mut self, device: u32, data: &[u8], now_ms: u64) -> Option<Next> {
        let mut partial = match self.partial.is_empty() {
            true => D::Partial::default(),
            false => self.partial.remove(&device).unwrap_or_default(),
        };
        let next = self.change(device, |script, one, tally, out| {
            let hear = |event: Event<'_>| tally.hear(device, &event);
            one.on_bytes(script, &mut partial, data, now_ms, out, hear)
        });
        if !D::is_whole(&partial) {
            self.partial.insert(device, partial);
        }
        next
    }

    /// Acts on a deadline that may have come.
    fn look_after(&mut self, device: u32, now_ms: u64) -> io::Result<()> {
        if self.is_out(device) {
            return Ok(());
        }
        match self.change(device, |_, one, _, out| one.on_time(now_ms, out)) {
            Next::Wait => self.say(device, now_ms),
            Next::Dial => {
                if let Some(dialled) = &mut self.tally.dialled {
                    // One that dials again has been waiting since it dialled first.
                    dialled.entry(device).or_insert_with(monotonic_ns);
                }
                self.net.connect(device, now_ms)
            }
            // It will not come back.
            Next::HangUp if self.devices[device as usize].has_stopped() => Ok(()),
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
        self.change(device, |_, one, _, _| one.on_disconnected(backoff, now_ms));
    }

    /// Whatever happens to a device happens here, so that it is counted and its timer kept.
    fn change<R>(
        &mut self,
        device: u32,
        act: impl FnOnce(&mut D::Script, &mut D, &mut Tally, &mut Vec<u8>) -> R,
    ) -> R {
        let Crowd { script, devices, tally, out, timers, .. } = self;
        let one = &mut devices[device as usize];
        let (before, before_ms) = (one.standing(), one.deadline_ms());
        let result = act(script, one, tally, out);
        let after = one.standing();
        if one.deadline_ms() < before_ms {
            timers.hasten(device, one.deadline_ms());
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

    /// It is not online and will not be.
    fn is_out(&self, device: u32) -> bool {
        self.has_closed && !self.is_online(device)
    }

    fn deadline_ms(&self, device: u32) -> u64 {
        if self.is_out(device) { u64::MAX } else { self.devices[device as usize].deadline_ms() }
    }

    fn file(&mut self, device: u32) {
        let deadline_ms = self.deadline_ms(device);
        self.timers.file(device, deadline_ms, &mut self.links[device as usize]);
    }

    /// Writes what the device has put out.
    fn say(&mut self, device: u32, now_ms: u64) -> io::Result<()> {
        if !self.out.is_empty() {
            self.net.send(device, &self.out, now_ms)?;
            self.out.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use hawser_codec::session::Session;

    use super::super::hawser::Script;
    use super::super::sockets::Sockets;
    use super::*;
    use crate::tickets::{Issuer, Signing, Tickets};

    #[test]
    fn an_answer_counts_once_and_only_for_what_was_asked() {
        let mut tally = Tally { question: Some(Question::Ping), ..Tally::default() };
        tally.asked.insert(7, monotonic_ns());
        for (device, question, answered) in [
            (7, Question::Pull, 0),
            (8, Question::Ping, 0),
            (7, Question::Ping, 1),
            (7, Question::Ping, 1),
        ] {
            tally.hear(device, &Event::Answered(question));
            assert_eq!(tally.answered, answered, "{question:?} of {device}");
        }
    }

    /// Against a server that never answers.
    #[test]
    fn a_crowd_that_has_closed_dials_no_more() {
        const DEVICES: u32 = 10;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let net = Sockets::new(listener.local_addr().unwrap(), 0).unwrap();
        let tickets = Tickets::new(Signing::Hmac, Issuer::default(), 0, DEVICES);
        let mut crowd = Crowd::<_, Session>::new(net, Script::new(tickets, Vec::new()), 0);
        (0..DEVICES).for_each(|_| crowd.add(0).unwrap());
        assert_eq!(crowd.connecting, DEVICES);
        crowd.close(0);
        for now_ms in (0..600_000).step_by(100) {
            crowd.on_time(1_000, now_ms).unwrap();
            assert_eq!(crowd.connecting, 0, "at {now_ms}");
        }
    }
}
