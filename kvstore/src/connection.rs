//! One connection's socket: feeds its [`Session`], carries its work to the writer and its answers back.
//!
//! It never blocks: [`Connection::go_on`] does what can be done now, and is called again when the socket
//! is ready, an answer has come or there is something to look at. Sending and reading go on side by side:
//! a client may send all its commands before it reads the first answer. While its answers are not taken
//! no more of its commands are run, and what it sends is kept up to `request_bytes_max`; then it is not
//! read either.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::caller::Caller;
use crate::clients::Addresses;
use crate::session::{MESSAGE_BYTES_MAX, Outcome, Session, Step};
use crate::store::writer::{Job, Work};

/// Reads of one connection before others get their turn.
const READS_MAX: usize = 16;

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn addresses(&self, unix: &Path) -> Addresses {
        match self {
            Stream::Tcp(stream) => {
                let shown = |address: io::Result<std::net::SocketAddr>| {
                    address.map_or_else(|_| "?:0".into(), |address| address.to_string())
                };
                Addresses {
                    peer: shown(stream.peer_addr()),
                    local: shown(stream.local_addr()),
                    is_unix: false,
                }
            }
            Stream::Unix(_) => {
                let address = format!("{}:0", unix.display());
                Addresses { peer: address.clone(), local: address, is_unix: true }
            }
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.source().register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn end_sending(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        }
    }
}

/// What a network thread lends to the connection that it serves.
pub struct Desk {
    /// What is read goes through here, so that an idle connection has no buffer.
    pub buffer: Box<[u8]>,
    /// For the writer, together when everyone who could go on has.
    pub jobs: Vec<Job>,
    pub is_stopping: bool,
}

/// When a connection wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When there is something new.
    Wait,
    /// When others had their turn.
    Again,
    /// At this time, or when there is something new.
    At(Instant),
    /// Close it: the client is gone or ended, or the server stops.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for commands.
    Reads,
    /// Waits until its answers are taken.
    Sends,
    /// Waits for the writer, which will answer soon.
    Submitted,
    /// Waits for the writer, perhaps for ever.
    Waits,
    Paused {
        writes: bool,
    },
    /// Closes when everything is sent.
    Closes,
}

pub struct Connection {
    pub stream: Stream,
    pub session: Session,
    state: State,
    /// How many bytes of the session's answers are sent.
    sent: usize,
    /// The client sends no more.
    is_at_end: bool,
    /// Whether there may be something to read. The kernel tells once.
    is_readable: bool,
    /// The client has ended its side, which is read after all it sent.
    is_read_closed: bool,
    is_writable: bool,
}

impl Connection {
    pub fn new(stream: Stream, session: Session) -> Connection {
        Connection {
            stream,
            session,
            state: State::Reads,
            sent: 0,
            is_at_end: false,
            is_readable: true,
            is_read_closed: false,
            is_writable: true,
        }
    }

    pub fn ready(&mut self, event: &Event) {
        self.is_readable |= event.is_readable();
        self.is_read_closed |= event.is_read_closed() || event.is_error();
        self.is_writable |= event.is_writable() || event.is_error();
    }

    pub fn answered(&mut self, outcome: Outcome, desk: &mut Desk) {
        if self.state == State::Waits {
            self.session.client.facts().waits = false;
        }
        self.session.answered(outcome);
        match self.session.client.is_ended() {
            // Of what it sent no more is run.
            true => self.state = State::Closes,
            false => self.turn(desk),
        }
    }

    /// Makes sure that everything the client has sent is read before the connection closes.
    pub fn stop(&mut self) {
        self.is_readable = true;
    }

    /// Runs what can be run of what was read.
    fn turn(&mut self, desk: &mut Desk) {
        self.state = match self.session.turn() {
            Step::Read => State::Reads,
            Step::Send => State::Sends,
            Step::Pause { writes } => State::Paused { writes },
            Step::Close => State::Closes,
            Step::Submit(work) => {
                let may_wait = matches!(work, Work::Waiting { .. });
                let caller = Caller::new(self.session.client.clone());
                desk.jobs.push(Job { work, protocol: self.session.reply.protocol(), caller });
                if may_wait {
                    self.session.client.facts().waits = true;
                }
                if may_wait { State::Waits } else { State::Submitted }
            }
        };
    }

    /// Does what can be done now.
    pub fn go_on(&mut self, desk: &mut Desk) -> Next {
        let next = self.advance(desk).unwrap_or(Next::Gone);
        if next == Next::Gone {
            // Whoever is about to give it something need not.
            self.session.client.end();
            if self.state == State::Waits {
                let client = self.session.client.id;
                let (work, protocol) = (Work::Forget { client }, self.session.reply.protocol());
                desk.jobs.push(Job { work, protocol, caller: Caller::nobody() });
                // Whoever looks before the writer has come to it should not see it as blocked.
                let blocked = &self.session.shared().metrics.blocked_clients;
                _ = blocked.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
            }
        }
        next
    }

    fn advance(&mut self, desk: &mut Desk) -> io::Result<Next> {
        let mut reads = 0;
        loop {
            // What was given to the writer will be answered, whatever has become of the client.
            if self.state == State::Submitted {
                return Ok(Next::Wait);
            }
            let is_leaving = matches!(self.state, State::Sends | State::Closes);
            if self.session.client.is_ended() || !is_leaving && !self.session.may_go_on() {
                return Ok(Next::Gone);
            }
            self.send()?;
            let all_is_sent = self.session.reply.is_empty();
            if all_is_sent && !is_leaving && self.take_messages() {
                continue;
            }
            let mut until = None;
            match self.state {
                State::Sends if all_is_sent => {
                    self.turn(desk);
                    continue;
                }
                State::Closes if all_is_sent => {
                    self.stream.end_sending()?;
                    return Ok(Next::Gone);
                }
                State::Reads if self.is_at_end && all_is_sent => return Ok(Next::Gone),
                State::Waits | State::Paused { .. } if self.has_left() => return Ok(Next::Gone),
                State::Paused { writes } => {
                    until = self.session.shared().pause.held_until(writes);
                    if until.is_none() {
                        self.turn(desk);
                        continue;
                    }
                }
                _ => {}
            }
            if !self.may_read() {
                let is_over = desk.is_stopping && all_is_sent;
                return Ok(if is_over { Next::Gone } else { until.map_or(Next::Wait, Next::At) });
            }
            if reads == READS_MAX {
                return Ok(Next::Again);
            }
            reads += 1;
            if self.read(desk)? && self.state == State::Reads {
                self.turn(desk);
            }
        }
    }

    fn may_read(&self) -> bool {
        self.has_room() && (self.is_readable || self.is_read_closed) && !self.is_at_end
    }

    fn has_room(&self) -> bool {
        self.state == State::Reads || self.session.input.len() < self.session.input_bytes_max()
    }

    /// Whether the client sends no more, even if there is no room to read all that it has sent.
    fn has_left(&self) -> bool {
        self.is_at_end || self.is_read_closed && !self.has_room()
    }

    /// Messages of others go between two answers. Whether there were any.
    fn take_messages(&mut self) -> bool {
        self.session.client.take_messages(&mut self.session.reply, MESSAGE_BYTES_MAX);
        !self.session.reply.is_empty()
    }

    /// Sends what the socket takes.
    fn send(&mut self) -> io::Result<()> {
        while self.is_writable && !self.session.reply.is_empty() {
            match self.stream.write(&self.session.reply.bytes()[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.sent == self.session.reply.len() {
                self.session.reply.clear();
                self.sent = 0;
            }
        }
        Ok(())
    }

    /// Whether anything came.
    fn read(&mut self, desk: &mut Desk) -> io::Result<bool> {
        let count = match self.stream.read(&mut desk.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                (self.is_readable, self.is_read_closed) = (false, false);
                return Ok(false);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            read => read?,
        };
        self.is_at_end = count == 0;
        // Less than there was room for is everything there was; more is told.
        self.is_readable = count == desk.buffer.len();
        self.session.input.extend_from_slice(&desk.buffer[..count]);
        Ok(count > 0)
    }
}
