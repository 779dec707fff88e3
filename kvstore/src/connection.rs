//! One connection's socket: feeds its [`Session`], carries its work to the writer and its answers back.
//!
//! Sending and reading go on side by side: a client may send all its commands before it reads the first
//! answer. While its answers are not taken no more of its commands are run, and what it sends is kept up
//! to `request_bytes_max`; then it is not read either.

use std::future::{Future, pending};
use std::io;
use std::path::Path;
use std::pin::pin;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, Interest, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clients::Addresses;
use crate::session::{MESSAGE_BYTES_MAX, Outcome, Session, Step};
use crate::store::writer::{Job, Work};

/// A read grows to what a busy client sends at once, and shrinks again so that an idle connection
/// costs little.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn addresses(&self, unix: &Path) -> Addresses {
        match self {
            Socket::Tcp(stream) => Addresses {
                peer: stream
                    .peer_addr()
                    .map_or_else(|_| "?:0".into(), |address| address.to_string()),
                local: stream
                    .local_addr()
                    .map_or_else(|_| "?:0".into(), |address| address.to_string()),
                is_unix: false,
            },
            Socket::Unix(_) => {
                let address = format!("{}:0", unix.display());
                Addresses { peer: address.clone(), local: address, is_unix: true }
            }
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Socket::Tcp(stream) => stream.ready(interest).await,
            Socket::Unix(stream) => stream.ready(interest).await,
        }
    }

    fn try_read(&self, into: &mut BytesMut) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_read_buf(into),
            Socket::Unix(stream) => stream.try_read_buf(into),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.try_write(bytes),
            Socket::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Sends an answer to somebody who gets no session, and closes.
    pub async fn refuse(&mut self, answer: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.write_all(answer).await,
            Socket::Unix(stream) => stream.write_all(answer).await,
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown().await,
            Socket::Unix(stream) => stream.shutdown().await,
        }
    }
}

pub struct Connection {
    pub socket: Socket,
    pub session: Session,
    pub jobs: mpsc::Sender<Job>,
    pub stop: watch::Receiver<bool>,
    read_bytes: usize,
    /// How many bytes of the session's answers are sent.
    sent: usize,
    /// The client sends no more.
    is_at_end: bool,
}

/// What an exchange of bytes goes on for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// There is something new to run.
    Input,
    /// Everything is sent.
    Sent,
    /// Something else is over.
    Done,
}

enum Ended<T> {
    Reached,
    Done(T),
    /// Close: the client is gone or ended, or the server stops.
    Gone,
}

impl Connection {
    pub fn new(
        socket: Socket,
        session: Session,
        jobs: mpsc::Sender<Job>,
        stop: watch::Receiver<bool>,
    ) -> Connection {
        let read_bytes = READ_BYTES_MIN;
        Connection { socket, session, jobs, stop, read_bytes, sent: 0, is_at_end: false }
    }

    /// Serves until the client goes, breaks the protocol or is ended, or the server stops.
    pub async fn serve(mut self) -> io::Result<()> {
        loop {
            let step = self.session.turn();
            let ended = match step {
                Step::Submit(work) => self.submit(work).await?,
                Step::Send => self.exchange(Until::Sent, pending()).await?,
                Step::Read => self.exchange(Until::Input, pending()).await?,
                Step::Pause { writes } => {
                    let shared = self.session.shared();
                    let over = shared.pause.over(writes);
                    match self.exchange(Until::Done, over).await? {
                        Ended::Done(()) => Ended::Reached,
                        ended => ended,
                    }
                }
                Step::Close => {
                    self.exchange(Until::Sent, pending::<()>()).await?;
                    return self.socket.shutdown().await;
                }
            };
            if let Ended::Gone = ended {
                return Ok(());
            }
        }
    }

    async fn submit(&mut self, work: Work) -> io::Result<Ended<()>> {
        let may_wait = matches!(work, Work::Waiting { .. });
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(self.job(work, answer)).await.is_err() {
            self.session.answered(Outcome::NotTaken);
            return Ok(Ended::Reached);
        }
        // Most work is done in a moment; only where it may take for ever is the client looked at.
        let answer = match may_wait {
            false => Ended::Done(answered.await),
            true => {
                self.session.client.facts().waits = true;
                let ended = self.exchange(Until::Done, answered).await?;
                self.session.client.facts().waits = false;
                ended
            }
        };
        match answer {
            Ended::Done(answer) => {
                self.session.answered(answer.map_or(Outcome::Lost, Outcome::Answered));
                Ok(Ended::Reached)
            }
            _ => {
                let client = self.session.client.id;
                let (unread, _) = oneshot::channel();
                _ = self.jobs.send(self.job(Work::Forget { client }, unread)).await;
                Ok(Ended::Gone)
            }
        }
    }

    fn job(&self, work: Work, answer: oneshot::Sender<crate::store::writer::Answer>) -> Job {
        Job { work, protocol: self.session.reply.protocol(), answer }
    }

    /// Sends and reads until there is what is wanted, or `done` is.
    async fn exchange<T>(
        &mut self,
        until: Until,
        done: impl Future<Output = T>,
    ) -> io::Result<Ended<T>> {
        let mut done = pin!(done);
        let client = self.session.client.clone();
        loop {
            let is_expelled = until != Until::Sent && !self.session.may_go_on();
            if client.is_ended() || is_expelled {
                return Ok(Ended::Gone);
            }
            self.send_some()?;
            if until != Until::Sent && self.session.reply.is_empty() && self.take_messages() {
                continue;
            }
            let all_is_sent = self.session.reply.is_empty();
            match until {
                Until::Sent if all_is_sent => return Ok(Ended::Reached),
                Until::Input if self.is_at_end && all_is_sent => return Ok(Ended::Gone),
                Until::Done if self.is_at_end => return Ok(Ended::Gone),
                _ => {}
            }
            let interest = self.interest(until);
            let ready = tokio::select! {
                biased;
                value = &mut done => return Ok(Ended::Done(value)),
                ready = ready(&self.socket, interest) => ready?,
                () = client.wake.notified() => continue,
                () = stopped(&mut self.stop), if all_is_sent => return Ok(Ended::Gone),
            };
            if ready.is_readable() && self.read()? && until == Until::Input {
                return Ok(Ended::Reached);
            }
        }
    }

    /// Messages of others go between two answers. Whether there were any.
    fn take_messages(&mut self) -> bool {
        let before = self.session.reply.len();
        self.session.client.take_messages(&mut self.session.reply, MESSAGE_BYTES_MAX);
        self.session.reply.len() > before
    }

    fn interest(&self, until: Until) -> Option<Interest> {
        let is_wanted =
            until == Until::Input || self.session.input.len() < self.session.input_bytes_max();
        let read = (is_wanted && !self.is_at_end).then_some(Interest::READABLE);
        let write = (!self.session.reply.is_empty()).then_some(Interest::WRITABLE);
        match (read, write) {
            (Some(read), Some(write)) => Some(read | write),
            (read, write) => read.or(write),
        }
    }

    /// Sends what the socket takes.
    fn send_some(&mut self) -> io::Result<()> {
        while !self.session.reply.is_empty() {
            match self.socket.try_write(&self.session.reply.bytes()[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
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
    fn read(&mut self) -> io::Result<bool> {
        let input = &mut self.session.input;
        if input.is_empty() {
            *input = BytesMut::with_capacity(self.read_bytes);
        } else {
            input.reserve(self.read_bytes);
        }
        let count = match self.socket.try_read(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            read => read?,
        };
        self.is_at_end = count == 0;
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if count < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
        }
        Ok(count > 0)
    }
}

/// Waits until the server stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stopping| *stopping).await;
}

/// Waits for the socket; for ever when nothing is wanted of it.
async fn ready(socket: &Socket, interest: Option<Interest>) -> io::Result<Ready> {
    match interest {
        Some(interest) => socket.ready(interest).await,
        None => pending().await,
    }
}
