//! One device over TCP: the session of `hawser_codec` with a socket and a clock.
//!
//! It dials, talks, and dials again as the session says, until the session stops or its owner is
//! done. An idle device holds no buffer: bytes are read into one buffer per thread, and an
//! unfinished frame lives in the framer only while it is unfinished.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use hawser_codec::error::CloseReason;
use hawser_codec::frame::Framer;
use hawser_codec::session::{Backoff, Command, Event, Profile, Session};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout_at};

/// What the owner of a device provides and hears: the simulated fleet, or `hawser tail`.
pub(crate) trait Owner {
    fn backoff(&self) -> Backoff;

    /// Waits until this device may dial.
    async fn admit(&mut self);

    async fn dial(&mut self) -> io::Result<TcpStream>;

    /// Calls `greet` with the profile to introduce the device with.
    fn introduce(&mut self, greet: impl FnOnce(&Profile<'_>));

    fn hear(&mut self, event: Event<'_>);

    /// A dial failed or a connection ended.
    fn lost(&mut self);

    /// Whether the device should say goodbye.
    fn is_done(&self) -> bool;
}

/// Milliseconds since this clock was made, and the way back to the runtime's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn at(&self, ms: u64) -> tokio::time::Instant {
        // A stopped session's deadline is never; a day is as good and cannot overflow.
        let from_now = ms.saturating_sub(self.now_ms()).min(86_400_000);
        tokio::time::Instant::now() + Duration::from_millis(from_now)
    }
}

/// Runs the device until it stops; says why.
pub(crate) async fn live(
    session: &mut Session,
    owner: &mut impl Owner,
    clock: Clock,
) -> CloseReason {
    loop {
        if let Some(reason) = session.stopped() {
            return reason;
        }
        sleep_until(clock.at(session.deadline_ms())).await;
        owner.admit().await;
        if session.on_time(clock.now_ms(), &mut Vec::new()) != Command::Dial {
            continue;
        }
        if let Ok(Ok(stream)) = timeout_at(clock.at(session.deadline_ms()), owner.dial()).await {
            // How it ended is the session's knowledge; a socket's own error adds nothing to it.
            let _ = converse(session, owner, clock, &stream).await;
        }
        owner.lost();
        session.on_disconnected(owner.backoff(), clock.now_ms());
    }
}

/// One connection, from the first byte to the last.
async fn converse(
    session: &mut Session,
    owner: &mut impl Owner,
    clock: Clock,
    stream: &TcpStream,
) -> io::Result<()> {
    let mut framer = Framer::default();
    let mut unsent = Vec::new();
    owner.introduce(|profile| session.on_connected(profile, clock.now_ms(), &mut unsent));
    let mut armed_ms = session.deadline_ms();
    let timer = sleep_until(clock.at(armed_ms));
    tokio::pin!(timer);
    loop {
        flush(stream, &mut unsent)?;
        if armed_ms != session.deadline_ms() {
            armed_ms = session.deadline_ms();
            timer.as_mut().reset(clock.at(armed_ms));
        }
        let interest = match unsent.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        let command = tokio::select! {
            ready = stream.ready(interest) => match ready?.is_readable() {
                true => read(session, owner, clock, stream, &mut framer, &mut unsent)?,
                false => Command::Wait,
            },
            () = &mut timer => session.on_time(clock.now_ms(), &mut unsent),
        };
        if owner.is_done() {
            session.leave(&mut unsent);
            return flush(stream, &mut unsent);
        }
        if command == Command::HangUp {
            return flush(stream, &mut unsent);
        }
    }
}

/// Writes what the socket takes and keeps the rest.
fn flush(stream: &TcpStream, unsent: &mut Vec<u8>) -> io::Result<()> {
    if unsent.is_empty() {
        return Ok(());
    }
    match stream.try_write(unsent) {
        Ok(count) if count == unsent.len() => *unsent = Vec::new(),
        Ok(count) => drop(unsent.drain(..count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

fn read(
    session: &mut Session,
    owner: &mut impl Owner,
    clock: Clock,
    stream: &TcpStream,
    framer: &mut Framer,
    unsent: &mut Vec<u8>,
) -> io::Result<Command> {
    SCRATCH.with_borrow_mut(|scratch| match stream.try_read(scratch) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => session
            .on_bytes(framer, &scratch[..count], clock.now_ms(), unsent, |event| owner.hear(event))
            .map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Command::Wait),
        Err(error) => Err(error),
    })
}
