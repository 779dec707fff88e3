//! A control node as small as a broker will accept: it proves that it has the link key, hands out
//! one app with one key, says that every inbox is empty, and sends what the benchmark wants sent.
//! It stores nothing and knows no route.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{AppId, Epoch, HashKey, Seq, TopicId};
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::{
    AppKeys, BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Entry, EntryFlags, Hello, Keys,
    ToControl, VerifyKey, to_broker,
};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The keys protect nothing: everything is on loopback and lives as long as the run.
pub const LINK_KEY: [u8; 32] = [0x6b; 32];
const APP_KEY: [u8; 32] = [0x61; 32];
const APP: AppId = AppId(1);
const APP_NAME: &str = "bench";

/// Below the time after which a broker cuts a silent link.
const PING_EVERY: Duration = Duration::from_secs(5);

/// How long anything may take that should take milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct ControlEnd {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    link: Option<TcpStream>,
    sessions: u64,
    cursor: u64,
    /// Of the latest group entry: devices it was sent to, and devices that wait.
    sent: u64,
    waiting: u64,
    failed: Option<String>,
}

impl ControlEnd {
    pub fn start() -> anyhow::Result<ControlEnd> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        // The thread ends with the process: it waits for links and holds nothing that needs care.
        std::thread::spawn(move || {
            while let Ok((link, _)) = listener.accept() {
                let result = serve(link, &served);
                let mut state = served.lock();
                state.link = None;
                state.failed = result.err().map(|error| error.to_string());
                served.changed.notify_all();
            }
        });
        Ok(ControlEnd { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn wait_for_link(&self) -> anyhow::Result<()> {
        self.wait("the broker's link", |state| state.link.is_some())
    }

    /// Waits until the broker has this many sessions.
    pub fn wait_for_sessions(&self, count: u64) -> anyhow::Result<()> {
        self.wait("the sessions' announcements", |state| state.sessions == count)
    }

    /// Sends one group entry to the shard. Returns its number.
    pub fn push_to_topic(&self, topic: TopicId, payload: &[u8]) -> anyhow::Result<Seq> {
        let mut state = self.shared.lock();
        state.cursor += 1;
        (state.sent, state.waiting) = (0, 0);
        let seq = Seq(state.cursor);
        let mut out = Vec::new();
        let entry = Entry { seq, topic, flags: EntryFlags::NONE, payload };
        to_broker::group_deliver(&mut out, APP, &entry);
        state.link.as_mut().context("the link is down")?.write_all(&out)?;
        Ok(seq)
    }

    /// The number of the next entry.
    pub fn next_seq(&self) -> Seq {
        Seq(self.shared.lock().cursor + 1)
    }

    /// Waits for the shard's account of the latest entry: sent at once, and waiting.
    pub fn wait_for_account(&self, count: u64) -> anyhow::Result<(u64, u64)> {
        self.wait("the account of a group push", |state| state.sent + state.waiting >= count)?;
        let state = self.shared.lock();
        Ok((state.sent, state.waiting))
    }

    fn wait(&self, what: &str, done: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        while !done(&state) {
            if let Some(failed) = &state.failed {
                bail!("the link ended while waiting for {what}: {failed}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{what} did not come within {DEADLINE:?}");
            state = self.shared.changed.wait_timeout(state, left).expect("no panic").0;
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }
}

/// A ticket for a device of the benchmark's app.
pub fn ticket(device: &str, expires_s: u64) -> Vec<u8> {
    let mut ticket = Ticket::unsigned(Algorithm::HmacSha256, 1, expires_s, APP_NAME, device);
    let signature = hmac(&APP_KEY, &[SIGNATURE_CONTEXT, &ticket]);
    ticket.extend(signature);
    ticket
}

/// One link, from its hello to its end.
fn serve(mut link: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    link.set_nodelay(true)?;
    link.set_read_timeout(Some(PING_EVERY))?;
    let mut framer = Framer::default();
    let mut hello: Option<Hello> = None;
    let mut buffer = vec![0; 64 * 1024];
    let mut pinged = Instant::now();
    loop {
        let count = match link.read(&mut buffer) {
            Ok(0) => bail!("the broker closed it"),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        let mut out = Vec::new();
        framer.feed(&buffer[..count], LINK_BODY_BYTES_MAX, |frame| -> anyhow::Result<()> {
            let Some(frame) = ToControl::decode(frame)? else { return Ok(()) };
            answer(frame, &mut hello, &link, shared, &mut out)
        })?;
        if pinged.elapsed() > PING_EVERY {
            pinged = Instant::now();
            to_broker::ping(&mut out, Epoch::ZERO);
        }
        // Under the lock, so that a push is never written into the middle of an answer.
        let state = shared.lock();
        link.write_all(&out)?;
        drop(state);
        shared.changed.notify_all();
    }
}

fn answer(
    frame: ToControl<'_>,
    hello: &mut Option<Hello>,
    link: &TcpStream,
    shared: &Shared,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    const NODE: u64 = 1;
    const NONCE: [u8; 32] = [0x17; 32];
    match frame {
        ToControl::Hello(said) => {
            *hello = Some(said);
            let transcript = said.transcript(NODE, &NONCE);
            let proof = hmac(&LINK_KEY, &[CONTROL_PROOF_CONTEXT, &transcript]);
            to_broker::challenge(out, NODE, &NONCE, &proof);
        }
        ToControl::Proof { proof } => {
            let hello = hello.context("a proof without a hello")?;
            let expected =
                hmac(&LINK_KEY, &[BROKER_PROOF_CONTEXT, &hello.transcript(NODE, &NONCE)]);
            ensure!(proof == expected, "the broker does not have the link key");
            to_broker::accepted(out, Epoch::ZERO);
            let key = VerifyKey { id: 1, algorithm: Algorithm::HmacSha256, key: APP_KEY };
            let apps = vec![AppKeys { app: APP, name: APP_NAME, keys: vec![key] }];
            to_broker::keys(out, &Keys { version: 1, hash_key: HashKey([0x68; 16]), apps });
            let mut state = shared.lock();
            (state.sessions, state.failed) = (0, None);
            state.link = Some(link.try_clone()?);
        }
        ToControl::Announce(list) => {
            let mut state = shared.lock();
            if state.sessions == 0 {
                to_broker::group_cursor(out, APP, Seq(state.cursor));
            }
            state.sessions += list.count() as u64;
        }
        ToControl::Gone(list) => {
            let mut state = shared.lock();
            state.sessions = state.sessions.saturating_sub(list.count() as u64);
        }
        ToControl::Pull(list) => {
            for pulled in list.iter() {
                to_broker::entries(out, pulled.session, pulled.from, false, &[]);
            }
        }
        ToControl::GroupPull { session, .. } => {
            to_broker::group_entries(out, session, Seq(shared.lock().cursor), false, &[]);
        }
        ToControl::GroupFetch { app, .. } => {
            to_broker::group_fetched(out, app, Seq(shared.lock().cursor), false, &[]);
        }
        ToControl::GroupSent { seq, sent, waiting, .. } => {
            let mut state = shared.lock();
            if seq.0 == state.cursor {
                state.sent += u64::from(sent);
                state.waiting += u64::from(waiting);
            }
        }
        ToControl::Ack(_) | ToControl::GroupAck(_) | ToControl::Pong { .. } => {}
    }
    Ok(())
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
