//! A control node as small as a broker will accept: it proves that it has the link key, hands out
//! one app with one key, answers pulls, and sends what the benchmark wants sent. Of
//! each session it knows where to reach it and what its inbox got last, in 8 bytes; it stores nothing.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hawser_codec::frame::Framer;
use hawser_codec::ids::{AppId, Epoch, HashKey, Seq, SessionRef, TopicId};
use hawser_codec::limits::{LINK_BODY_BYTES_MAX, PULL_ENTRIES_MAX};
use hawser_codec::link::{
    AppKeys, BROKER_PROOF_CONTEXT, CONTROL_PROOF_CONTEXT, Entry, EntryFlags, Hello, Keys, Pulled,
    ToControl, to_broker,
};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::io::monotonic_ns;
use crate::tickets::{APP_NAME, Signing};

/// The keys protect nothing: everything is on loopback and lives as long as the run.
const LINK_KEY: [u8; 32] = [0x6b; 32];
const APP: AppId = AppId(1);

/// The key as servers take it from their environment.
pub fn link_key_hex() -> String {
    LINK_KEY.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Below the time after which a broker cuts a silent link.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Messages are written to the link in pieces of about this.
const PUSH_WRITE_BYTES: usize = 64 * 1024;

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
    routes: Routes,
    cursor: u64,
    /// The latest group entries, the last one with the number `cursor`.
    group: VecDeque<(TopicId, Vec<u8>)>,
    /// Of the latest group entry: devices it was sent to, and devices that wait.
    sent: u64,
    waiting: u64,
    failed: Option<String>,
}

impl ControlEnd {
    /// One that hands out the key for tickets signed so.
    pub fn start(signing: Signing) -> anyhow::Result<ControlEnd> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        // The thread ends with the process: it waits for links and holds nothing that needs care.
        std::thread::spawn(move || {
            while let Ok((link, _)) = listener.accept() {
                let result = serve(link, signing, &served);
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
        self.wait("the sessions' announcements", |state| state.sessions >= count)
    }

    /// Sends one group entry to the shard. Returns its number.
    pub fn push_to_topic(&self, topic: TopicId, payload: &[u8]) -> anyhow::Result<Seq> {
        let mut state = self.shared.lock();
        state.cursor += 1;
        (state.sent, state.waiting) = (0, 0);
        let seq = Seq(state.cursor);
        let mut out = Vec::new();
        if state.group.len() == PULL_ENTRIES_MAX {
            state.group.pop_front();
        }
        state.group.push_back((topic, payload.to_vec()));
        let entry = Entry { seq, topic, flags: EntryFlags::NONE, payload };
        to_broker::group_deliver(&mut out, APP, &entry);
        state.link()?.write_all(&out)?;
        Ok(seq)
    }

    pub fn sessions(&self) -> u64 {
        self.shared.lock().sessions
    }

    /// Sends `count` messages of `payload_bytes`, each to the next of all sessions in an order that
    /// jumps about: `rate` a second whatever becomes of them, or as fast as the link takes them for
    /// 0. The first eight bytes of a payload are when it was due, on the monotonic clock.
    pub fn push(&self, count: u64, rate: u64, payload_bytes: usize) -> anyhow::Result<()> {
        let begun_ns = monotonic_ns();
        let mut payload = vec![b'm'; payload_bytes.max(8)];
        let mut out = Vec::with_capacity(2 * PUSH_WRITE_BYTES);
        let mut sent = 0;
        while sent < count {
            let now_ns = monotonic_ns();
            let due = match rate {
                0 => count,
                _ => count
                    .min(((now_ns - begun_ns) as u128 * rate as u128 / 1_000_000_000) as u64 + 1),
            };
            if sent >= due {
                let next_ns = begun_ns + sent * 1_000_000_000 / rate;
                std::thread::sleep(Duration::from_nanos((next_ns - now_ns).min(200_000)));
                continue;
            }
            let mut state = self.shared.lock();
            while sent < due && out.len() < PUSH_WRITE_BYTES {
                let due_ns = match rate {
                    0 => monotonic_ns(),
                    _ => begun_ns + sent * 1_000_000_000 / rate,
                };
                payload[..8].copy_from_slice(&due_ns.to_le_bytes());
                let (session, seq) = state.routes.next().context("no device is online")?;
                to_broker::deliver(&mut out, session, seq, EntryFlags::NONE, &payload);
                sent += 1;
            }
            state.link()?.write_all(&out)?;
            out.clear();
        }
        Ok(())
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

impl State {
    fn link(&mut self) -> anyhow::Result<&mut TcpStream> {
        let State { link, failed, .. } = self;
        let why = || format!("the link is down: {}", failed.as_deref().unwrap_or("not up yet"));
        link.as_mut().with_context(why)
    }

    /// The group entries behind a place, as far back as they are remembered.
    fn group_after(&self, from: Seq) -> Vec<Entry<'_>> {
        let first = self.cursor + 1 - self.group.len() as u64;
        let numbered = (first..).zip(&self.group).filter(|&(seq, _)| seq > from.0);
        numbered
            .map(|(seq, (topic, payload))| {
                let (topic, flags) = (*topic, EntryFlags::NONE);
                Entry { seq: Seq(seq), topic, flags, payload }
            })
            .collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }
}

/// The sessions by slot, each with the last number of its inbox.
#[derive(Default)]
struct Routes {
    slots: Vec<Option<Route>>,
    at: usize,
}

#[derive(Clone, Copy)]
struct Route {
    generation: u32,
    seq: NonZeroU32,
}

const _: () = assert!(size_of::<Option<Route>>() == 8);

/// How far the next one to be pushed to is: a prime, so that all are visited.
const STRIDE: usize = 7_919;

impl Routes {
    /// The session is there, and its device has its inbox up to `seq`.
    fn put(&mut self, session: SessionRef, seq: Seq) {
        let slot = session.slot as usize;
        if slot >= self.slots.len() {
            // Exactly, in steps: growing by halves would cost half of it again.
            self.slots.reserve_exact(slot + 65_536 - self.slots.len());
            // A multiple of the stride would be walked in circles.
            let slots = slot + 1 + usize::from((slot + 1).is_multiple_of(STRIDE));
            self.slots.resize(slots, None);
        }
        let seq = NonZeroU32::new(seq.0 as u32 + 1).expect("one more than something");
        self.slots[slot] = Some(Route { generation: session.generation, seq });
    }

    fn remove(&mut self, session: SessionRef) {
        if let Some(route) = self.slots.get_mut(session.slot as usize)
            && route.is_some_and(|route| route.generation == session.generation)
        {
            *route = None;
        }
    }

    /// What a session's inbox has after a place. Nothing was stored: an entry is made again, with
    /// the present as its time.
    fn answer(&self, pulled: &Pulled, out: &mut Vec<u8>) {
        let Pulled { session, from, .. } = *pulled;
        let route = self.slots.get(session.slot as usize).copied().flatten();
        let last = route
            .filter(|route| route.generation == session.generation)
            .map_or(from, |route| Seq(u64::from(route.seq.get()) - 1).max(from));
        let upto = Seq(last.0.min(from.0 + PULL_ENTRIES_MAX as u64));
        let mut payload = [b'm'; 64];
        payload[..8].copy_from_slice(&monotonic_ns().to_le_bytes());
        let entry = |seq| {
            let (topic, flags) = (TopicId::ALL, EntryFlags::NONE);
            Entry { seq: Seq(seq), topic, flags, payload: &payload }
        };
        let entries: Vec<Entry<'_>> = (from.0 + 1..=upto.0).map(entry).collect();
        to_broker::entries(out, session, upto, upto < last, &entries);
    }

    /// The next session in turn, and the number of its next entry.
    fn next(&mut self) -> Option<(SessionRef, Seq)> {
        for _ in 0..2 * self.slots.len() {
            self.at = (self.at + STRIDE) % self.slots.len();
            if let Some(route) = &mut self.slots[self.at] {
                let seq = Seq(route.seq.get().into());
                route.seq = route.seq.saturating_add(1);
                let slot = self.at as u32;
                return Some((SessionRef { slot, generation: route.generation }, seq));
            }
        }
        None
    }
}

/// One link, from its hello to its end.
fn serve(mut link: TcpStream, signing: Signing, shared: &Shared) -> anyhow::Result<()> {
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
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(error) => return Err(error.into()),
        };
        let mut out = Vec::new();
        framer.feed(&buffer[..count], LINK_BODY_BYTES_MAX, |frame| -> anyhow::Result<()> {
            let Some(frame) = ToControl::decode(frame)? else { return Ok(()) };
            answer(frame, &mut hello, &link, signing, shared, &mut out)
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
    signing: Signing,
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
            let apps = vec![AppKeys { app: APP, name: APP_NAME, keys: vec![signing.key()] }];
            to_broker::keys(out, &Keys { version: 1, hash_key: HashKey([0x68; 16]), apps });
            let mut state = shared.lock();
            (state.sessions, state.failed) = (0, None);
            state.routes = Routes::default();
            state.link = Some(link.try_clone()?);
        }
        ToControl::Announce(list) => {
            let mut state = shared.lock();
            if state.sessions == 0 {
                to_broker::group_cursor(out, APP, Seq(state.cursor));
            }
            state.sessions += list.count() as u64;
            for announced in list.iter() {
                state.routes.put(announced.session, announced.acked);
            }
        }
        ToControl::Gone(list) => {
            let mut state = shared.lock();
            state.sessions = state.sessions.saturating_sub(list.count() as u64);
            for gone in list.iter() {
                state.routes.remove(gone.session);
            }
        }
        ToControl::Pull(list) => {
            let state = shared.lock();
            for pulled in list.iter() {
                state.routes.answer(&pulled, out);
            }
        }
        ToControl::GroupPull { session, from, .. } => {
            let state = shared.lock();
            let entries = state.group_after(from);
            to_broker::group_entries(out, session, Seq(state.cursor), false, &entries);
        }
        ToControl::GroupFetch { app, from } => {
            let state = shared.lock();
            let entries = state.group_after(from);
            to_broker::group_fetched(out, app, Seq(state.cursor), false, &entries);
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
