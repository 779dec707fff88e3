//! A device over a real socket: codec's session, driven by one thread that waits for what it wants.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hawser_codec::error::CloseReason;
use hawser_codec::frame::Framer;
use hawser_codec::ids::{Stream, TopicId};
use hawser_codec::session::{Backoff, Command, Event, Positions, Profile, Session};

use super::wait::{DEADLINE, wait_for};

/// Reads return after this long, so that the session's time is looked at.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

pub struct Device {
    pub session: Session,
    /// Messages in the order in which they were heard.
    pub heard: Vec<Heard>,
    pub repeats: u64,
    pub pongs: u64,
    /// Why the broker ended the connection, and where it sent the device.
    pub closed: Option<(CloseReason, Vec<String>)>,
    stream: Option<TcpStream>,
    framer: Framer,
    begin: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub stream: Stream,
    pub seq: u64,
    pub payload: String,
}

impl Device {
    /// Dials and introduces itself; see [`Device::until`] for what follows.
    pub fn connect(
        address: SocketAddr,
        ticket: &[u8],
        topics: &[TopicId],
        positions: Positions,
    ) -> Device {
        let mut device = Device {
            session: Session::new(positions, std::process::id(), 0),
            heard: Vec::new(),
            repeats: 0,
            pongs: 0,
            closed: None,
            stream: None,
            framer: Framer::default(),
            begin: Instant::now(),
        };
        device.dial(address, ticket, topics);
        device
    }

    /// Connects, again if it was connected before.
    pub fn dial(&mut self, address: SocketAddr, ticket: &[u8], topics: &[TopicId]) {
        let stream =
            wait_for(&format!("a connection to {address}"), || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(READ_TIMEOUT)).expect("a socket takes a timeout");
        stream.set_nodelay(true).expect("a socket takes the option");
        let profile =
            Profile { ticket, topics, heartbeat_s: 0, network: 0, backoff: Backoff::default() };
        let mut out = Vec::new();
        self.framer = Framer::default();
        self.closed = None;
        self.session = Session::new(self.session.positions(), std::process::id(), self.now_ms());
        assert_eq!(self.session.on_time(self.now_ms(), &mut out), Command::Dial);
        self.session.on_connected(&profile, self.now_ms(), &mut out);
        self.stream = Some(stream);
        self.write(&out);
    }

    /// Lives until `is_so`.
    ///
    /// # Panics
    ///
    /// When the deadline is over.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&Device) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < DEADLINE, "a device waited for {what}: {:?}", self.heard);
            self.live();
        }
    }

    pub fn until_ready(&mut self) {
        self.until("a welcome", |device| {
            assert_eq!(device.closed, None, "the device was refused");
            device.session.is_ready()
        });
    }

    pub fn until_heard(&mut self, count: usize) {
        self.until(&format!("{count} messages"), |device| device.heard.len() >= count);
    }

    pub fn until_closed(&mut self) -> CloseReason {
        self.until("its end", |device| device.closed.is_some());
        self.closed.as_ref().expect("waited for").0
    }

    pub fn ping(&mut self) {
        let mut out = Vec::new();
        self.session.ping(self.now_ms(), &mut out);
        self.write(&out);
    }

    /// Leaves without a word, as a device does that loses its battery.
    pub fn drop_connection(&mut self) {
        self.stream = None;
    }

    pub fn payloads(&self) -> Vec<&str> {
        self.heard.iter().map(|heard| heard.payload.as_str()).collect()
    }

    /// Reads once, and lets the session act on the time.
    pub fn live(&mut self) {
        let mut bytes = [0; 16 * 1024];
        let Some(stream) = &mut self.stream else { return };
        let count = match stream.read(&mut bytes) {
            Ok(0) => return self.end(),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            // The test was stopped for a while and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(_) => return self.end(),
        };
        let now_ms = self.now_ms();
        let mut out = Vec::new();
        let Device { session, heard, repeats, pongs, closed, framer, .. } = self;
        let on_event = |event: Event<'_>| match event {
            Event::Message { stream, seq, payload, .. } => {
                let payload = String::from_utf8_lossy(payload).into_owned();
                heard.push(Heard { stream, seq: seq.0, payload });
            }
            Event::Repeat { .. } => *repeats += 1,
            Event::Pong => *pongs += 1,
            Event::Closing(close) => {
                let addresses = close.addresses.iter().map(ToString::to_string).collect();
                *closed = Some((close.reason, addresses));
            }
            Event::Welcomed { .. }
            | Event::Ready
            | Event::CaughtUp { .. }
            | Event::Reset { .. } => {}
        };
        let command = session
            .on_bytes(framer, &bytes[..count], now_ms, &mut out, on_event)
            .expect("the broker speaks the protocol");
        let timed = self.session.on_time(now_ms, &mut out);
        self.write(&out);
        if command == Command::HangUp || timed == Command::HangUp {
            self.end();
        }
    }

    fn end(&mut self) {
        self.stream = None;
        self.closed.get_or_insert((CloseReason::Reset, Vec::new()));
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream {
            // A broker that has closed shows with the next read.
            let _written = stream.write_all(bytes);
        }
    }

    fn now_ms(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }
}
