//! A network thread: an event loop over the sockets of its connections.
//!
//! ```text
//! letters and events ─▶ each connection goes on ─▶ what they submit, to the writer, at once ─▶ sleep
//! ```
//!
//! Everything that is ready is served before the writer hears of any of it, so it is woken once for all of
//! them, and groups grow with the load. The first thread also accepts, and deals connections out in turn.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};
use socket2::{SockRef, TcpKeepalive};

use crate::connection::{Connection, Desk, Next, Stream};
use crate::inbox::{Inbox, Letter, WAKER};
use crate::session::Session;
use crate::shared::{Alarm, Shared, Stopped};
use crate::store::writer::Jobs;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;

/// What is read from one socket at once, at most.
const READ_BYTES_MAX: usize = 256 * 1024;

/// A pause after a failed accept, which otherwise would spin while descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client whose machine is gone without a word is found after this time and three probes, as with Redis.
/// Otherwise whoever waits for a key would wait for ever.
const SILENCE: Duration = Duration::from_secs(300);
const PROBES: u32 = 3;

/// How long connections get to finish what they sent when the server stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

const TCP: Token = Token(usize::MAX);
const UNIX: Token = Token(usize::MAX - 1);

/// Where new connections come from.
#[derive(Default)]
pub struct Listeners {
    pub tcp: Option<TcpListener>,
    pub unix: Option<UnixListener>,
}

/// What all network threads of a server have in common.
#[derive(Clone)]
pub struct Common {
    pub shared: Arc<Shared>,
    pub is_stopping: Arc<AtomicBool>,
    /// To the writer.
    pub jobs: Arc<Jobs>,
    /// Of all network threads.
    pub inboxes: Arc<[Arc<Inbox>]>,
}

pub struct Network {
    common: Common,
    poll: Poll,
    inbox: Arc<Inbox>,
    listeners: Listeners,
    /// The thread that gets the next connection.
    next_thread: usize,
    /// When to accept again after that failed.
    accepts_at: Option<Instant>,
    connections: HashMap<u64, Connection>,
    /// Connections that had their turn and want another.
    again: BTreeSet<u64>,
    /// Connections that wait for a time, each once, however often it looks meanwhile.
    later: BTreeSet<(Instant, u64)>,
    desk: Desk,
    /// When connections that have not ended are closed.
    ends: Option<Instant>,
}

impl Network {
    pub fn new(
        common: Common,
        poll: Poll,
        inbox: Arc<Inbox>,
        mut listeners: Listeners,
    ) -> io::Result<Network> {
        if let Some(listener) = &mut listeners.tcp {
            poll.registry().register(listener, TCP, Interest::READABLE)?;
        }
        if let Some(listener) = &mut listeners.unix {
            poll.registry().register(listener, UNIX, Interest::READABLE)?;
        }
        let buffer = vec![0; READ_BYTES_MAX].into();
        Ok(Network {
            common,
            poll,
            inbox,
            listeners,
            next_thread: 0,
            accepts_at: None,
            connections: HashMap::new(),
            again: BTreeSet::new(),
            later: BTreeSet::new(),
            desk: Desk { buffer, jobs: Vec::new(), is_stopping: false },
            ends: None,
        })
    }

    /// Runs until the server stops and every connection has ended.
    pub fn run(mut self) {
        let _alarm = Alarm::new(&self.common.shared, Stopped::NetworkPanicked);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut letters = Vec::new();
        loop {
            self.read_letters(&mut letters);
            std::mem::take(&mut self.again).into_iter().for_each(|id| self.go_on(id));
            self.look_at_times();
            self.submit();
            self.look_whether_it_stops();
            if self.is_over() {
                return;
            }
            if let Err(error) = self.wait(&mut events)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "cannot wait for sockets");
                self.connections.clear();
                return;
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    TCP | UNIX => self.accept(),
                    Token(id) => {
                        if let Some(connection) = self.connections.get_mut(&(id as u64)) {
                            connection.ready(event);
                            self.go_on(id as u64);
                        }
                    }
                }
            }
            self.submit();
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let now = Instant::now();
        let times = self.later.first().map(|(at, _)| *at).into_iter();
        let next = times.chain(self.accepts_at).chain(self.ends).min();
        let mut timeout = next.map(|at| at.saturating_duration_since(now));
        // In this order: whoever stops the server sets the flag and then wakes who sleeps.
        let may_sleep = self.again.is_empty() && self.inbox.may_sleep() && !self.must_stop();
        if !may_sleep {
            timeout = Some(Duration::ZERO);
        }
        let polled = self.poll.poll(events, timeout);
        self.inbox.woke();
        polled
    }

    fn read_letters(&mut self, letters: &mut Vec<Letter>) {
        self.inbox.take(letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Accepted(stream) => self.add(stream),
                Letter::Answered(id, outcome) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.answered(outcome, &mut self.desk);
                        self.go_on(id);
                    }
                }
                Letter::Look(id) => self.go_on(id),
            }
        }
    }

    fn go_on(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.go_on(&mut self.desk) {
            Next::Wait => {}
            Next::Again => _ = self.again.insert(id),
            Next::At(at) => _ = self.later.insert((at, id)),
            // A client that goes away is no event worth a log line.
            Next::Gone => self.remove(id),
        }
    }

    fn look_at_times(&mut self) {
        if self.later.is_empty() && self.accepts_at.is_none() {
            return;
        }
        let now = Instant::now();
        if self.accepts_at.is_some_and(|at| at <= now) {
            self.accepts_at = None;
            self.accept();
        }
        let not_due = self.later.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.later, not_due);
        due.into_iter().for_each(|(_, id)| self.go_on(id));
    }

    fn submit(&mut self) {
        if self.desk.jobs.is_empty() {
            return;
        }
        let jobs = std::mem::take(&mut self.desk.jobs);
        self.desk.jobs.reserve(jobs.len());
        if let Err(jobs) = self.common.jobs.send(jobs) {
            jobs.into_iter().for_each(|job| job.caller.not_taken());
        }
    }

    /// Whether the server stops and this thread has not begun to.
    fn must_stop(&self) -> bool {
        !self.desk.is_stopping && self.common.is_stopping.load(SeqCst)
    }

    fn look_whether_it_stops(&mut self) {
        if !self.must_stop() {
            return;
        }
        self.desk.is_stopping = true;
        self.ends = Some(Instant::now() + STOP_GRACE);
        self.listeners = Listeners::default();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.stop();
                self.go_on(id);
            }
        }
        self.submit();
    }

    fn is_over(&mut self) -> bool {
        if self.ends.is_some_and(|ends| ends <= Instant::now()) && !self.connections.is_empty() {
            tracing::warn!("connections that do not take their answers are closed");
            let ids: Vec<u64> = self.connections.keys().copied().collect();
            ids.into_iter().for_each(|id| self.remove(id));
        }
        self.desk.is_stopping && self.connections.is_empty()
    }

    /// Takes every connection that waits.
    fn accept(&mut self) {
        loop {
            match self.accept_one() {
                Ok(None) => return,
                Ok(Some(stream)) => {
                    let threads = &self.common.inboxes;
                    threads[self.next_thread % threads.len()].put(Letter::Accepted(stream));
                    self.next_thread += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.accepts_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn accept_one(&self) -> io::Result<Option<Stream>> {
        let tcp = self.listeners.tcp.as_ref().and_then(|listener| {
            some_ready(listener.accept()).map(|accepted| {
                let (stream, _) = accepted?;
                // Answers are written whole; waiting for more only delays them.
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(SILENCE);
                let keepalive = keepalive.with_interval(SILENCE / PROBES).with_retries(PROBES);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok(Stream::Tcp(stream))
            })
        });
        let unix = || {
            let listener = self.listeners.unix.as_ref()?;
            some_ready(listener.accept())
                .map(|accepted| accepted.map(|(stream, _)| Stream::Unix(stream)))
        };
        tcp.or_else(unix).transpose()
    }

    fn add(&mut self, mut stream: Stream) {
        let (shared, metrics) = (&self.common.shared, &self.common.shared.metrics);
        let open = metrics.connections.fetch_add(1, Relaxed);
        if open >= shared.live.connections_max() as u64 {
            metrics.connections.fetch_sub(1, Relaxed);
            metrics.refused_total.fetch_add(1, Relaxed);
            // A new socket has room for this.
            _ = stream.write(b"-ERR max number of clients reached\r\n");
            return;
        }
        metrics.accepted_total.fetch_add(1, Relaxed);
        let addresses = stream.addresses(&shared.config.unix);
        let session = Session::new(shared.clone(), addresses, self.inbox.clone());
        let id = session.client.id;
        let token = Token(usize::try_from(id).expect("a process does not see so many"));
        let mut connection = Connection::new(stream, session);
        let registered = connection.stream.register(self.poll.registry(), token);
        self.connections.insert(id, connection);
        match registered {
            Ok(()) => self.go_on(id),
            Err(error) => {
                tracing::warn!(%error, "cannot watch a connection");
                self.remove(id);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(mut connection) = self.connections.remove(&id) {
            connection.session.client.end();
            _ = connection.stream.deregister(self.poll.registry());
            self.common.shared.metrics.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// `None` where a call would have to wait.
fn some_ready<T>(outcome: io::Result<T>) -> Option<io::Result<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        outcome => Some(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pause::Paused;
    use crate::store::database::Database;
    use crate::users::Users;
    use std::io::Write;
    use std::path::Path;

    /// Whoever is held may go on sending, and costs no more than its buffer.
    #[test]
    fn who_is_held_is_held_once() {
        const HOUR: Duration = Duration::from_secs(3600);
        let dir = std::env::temp_dir().join(format!("hkv-network-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let database = Database::open(&dir, 1 << 20, 1 << 20).expect("a database");
        let users = Users::new("", &[], Path::new("")).expect("no users");
        let shared = Arc::new(Shared::new(Config::default(), database, users));
        let poll = Poll::new().expect("a poll");
        let inbox = Arc::new(Inbox::new(&poll).expect("an inbox"));
        let (orders, _heard) = std::sync::mpsc::channel();
        let common = Common {
            shared: shared.clone(),
            is_stopping: Arc::default(),
            jobs: Arc::new(Jobs::new(orders, shared.clone())),
            inboxes: Arc::new([inbox.clone()]),
        };
        let mut network =
            Network::new(common, poll, inbox.clone(), Listeners::default()).expect("a network");
        let (mut client, stream) = mio::net::UnixStream::pair().expect("two ends");
        let until = Instant::now() + HOUR;
        shared.pause.set(Paused::All, until);
        client.write_all(b"PING\r\n").expect("there is room");
        inbox.put(Letter::Accepted(Stream::Unix(stream)));
        let mut letters = Vec::new();
        network.read_letters(&mut letters);
        let held: Vec<_> = network.later.iter().copied().collect();
        let [(at, id)] = held[..] else { panic!("it is held: {held:?}") };
        assert_eq!(at, until);
        for _ in 0..100 {
            client.write_all(b"PING\r\n").expect("there is room");
            inbox.put(Letter::Look(id));
            network.read_letters(&mut letters);
        }
        assert_eq!(network.later.len(), 1);
        shared.pause.clear();
        inbox.put(Letter::Look(id));
        network.read_letters(&mut letters);
        let mut answers = vec![0; 1 << 16];
        let count = std::io::Read::read(&mut client, &mut answers).expect("it was answered");
        assert!(answers[..count].starts_with(b"+PONG\r\n"));
        _ = std::fs::remove_dir_all(&dir);
    }
}
