//! Every connection as the others see it: what `CLIENT LIST` shows, what others put in front of it, and
//! how they end it.
//!
//! ```text
//! PUBLISH, MONITOR ─▶ outbox of each receiver ─▶ its connection sends it between two answers
//! CLIENT KILL      ─▶ is_ended                ─▶ its connection closes
//! ```
//!
//! An outbox is bounded as Redis bounds it: a client that lets more than `outbox_bytes_max` pile up, or
//! more than `outbox_soft_bytes_max` for as long as `outbox_soft_seconds`, is ended. Others never wait
//! for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::inbox::{Inbox, Letter};
use crate::resp::reply::{Protocol, Reply};

/// What an outbox may hold; the numbers of Redis's `client-output-buffer-limit pubsub`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    pub bytes_max: usize,
    pub soft_bytes_max: usize,
    pub soft: Duration,
}

/// Both ends of a connection.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub peer: String,
    pub local: String,
    pub is_unix: bool,
}

/// One connection.
pub struct Client {
    pub id: u64,
    pub addresses: Addresses,
    pub since: Instant,
    pub facts: Mutex<Facts>,
    outbox: Mutex<Outbox>,
    /// Whether there may be something in the outbox, so that nobody pays for the lock while there is not.
    has_messages: AtomicBool,
    /// Of the thread that serves it.
    pub inbox: Arc<Inbox>,
    is_ended: AtomicBool,
}

/// What changes while a connection goes on. The connection writes it, others read it.
pub struct Facts {
    pub name: Bytes,
    pub user: String,
    pub last_active: Instant,
    /// Its full name, as in `client|list`.
    pub last_command: Option<&'static str>,
    pub protocol: Protocol,
    pub channels: usize,
    pub patterns: usize,
    pub shard_channels: usize,
    /// Commands queued since MULTI, and their bytes.
    pub queued: Option<usize>,
    pub queued_bytes: usize,
    pub input_bytes: usize,
    pub input_room: usize,
    pub output_bytes: usize,
    pub database: u64,
    pub waits: bool,
    pub monitors: bool,
    pub is_kept: bool,
}

impl Facts {
    pub fn is_subscribed(&self) -> bool {
        self.channels + self.patterns + self.shard_channels > 0
    }
}

#[derive(Default)]
struct Outbox {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// Since when there is more than the soft limit.
    over_soft: Option<Instant>,
}

impl Client {
    fn new(id: u64, addresses: Addresses, inbox: Arc<Inbox>) -> Client {
        let since = Instant::now();
        let facts = Facts {
            name: Bytes::new(),
            user: "default".into(),
            last_active: since,
            last_command: None,
            protocol: Protocol::Resp2,
            channels: 0,
            patterns: 0,
            shard_channels: 0,
            queued: None,
            queued_bytes: 0,
            input_bytes: 0,
            input_room: 0,
            output_bytes: 0,
            database: 0,
            waits: false,
            monitors: false,
            is_kept: false,
        };
        Client {
            id,
            addresses,
            since,
            facts: Mutex::new(facts),
            outbox: Mutex::default(),
            has_messages: AtomicBool::new(false),
            inbox,
            is_ended: AtomicBool::new(false),
        }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("not poisoned: nothing panics under it")
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("not poisoned: nothing panics under it")
    }

    /// Puts a message in front of the connection. `false` when that was too much, and it is ended.
    pub fn put(&self, message: Bytes, limits: OutboxLimits) -> bool {
        if self.is_ended() {
            return true;
        }
        let mut outbox = self.outbox();
        outbox.bytes += message.len();
        outbox.messages.push_back(message);
        let is_over_soft = outbox.bytes > limits.soft_bytes_max;
        let since = is_over_soft.then(|| outbox.over_soft.unwrap_or_else(Instant::now));
        outbox.over_soft = since;
        let is_too_long = since.is_some_and(|since| since.elapsed() >= limits.soft);
        if outbox.bytes > limits.bytes_max || is_too_long {
            *outbox = Outbox::default();
            drop(outbox);
            self.end();
            return false;
        }
        let is_first = !self.has_messages.swap(true, SeqCst);
        drop(outbox);
        if is_first {
            self.look();
        }
        true
    }

    /// Moves messages behind the answers, whole ones, until these are `bytes_max` long.
    pub fn take_messages(&self, reply: &mut Reply, bytes_max: usize) {
        if !self.has_messages.load(SeqCst) {
            return;
        }
        let mut outbox = self.outbox();
        while reply.len() < bytes_max
            && let Some(message) = outbox.messages.pop_front()
        {
            outbox.bytes -= message.len();
            reply.append(&message);
        }
        if outbox.messages.is_empty() {
            outbox.over_soft = None;
            outbox.messages.shrink_to(64);
            self.has_messages.store(false, SeqCst);
        }
    }

    /// Messages and bytes that wait.
    pub fn outbox_size(&self) -> (usize, usize) {
        let outbox = self.outbox();
        (outbox.messages.len(), outbox.bytes)
    }

    /// The connection closes as soon as it can, whatever it does.
    pub fn end(&self) {
        if !self.is_ended.swap(true, SeqCst) {
            self.look();
        }
    }

    /// The connection looks at what has changed for it.
    fn look(&self) {
        self.inbox.put(Letter::Look(self.id));
    }

    pub fn is_ended(&self) -> bool {
        self.is_ended.load(SeqCst)
    }

    /// A line of `CLIENT LIST`, as Redis has it. What this server has no counterpart of is 0 or -1.
    pub fn line(&self) -> String {
        let facts = self.facts();
        let (messages, outbox_bytes) = self.outbox_size();
        let mut flags = String::new();
        for (flag, is_set) in [
            ('O', facts.monitors),
            ('P', facts.is_subscribed()),
            ('x', facts.queued.is_some()),
            ('b', facts.waits),
            ('A', self.is_ended()),
            ('U', self.addresses.is_unix),
            ('e', facts.is_kept),
        ] {
            if is_set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let memory = facts.input_bytes + facts.input_room + facts.output_bytes + outbox_bytes;
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub={} psub={} \
             ssub={} multi={} qbuf={} qbuf-free={} argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} \
             oll={messages} omem={outbox_bytes} tot-mem={memory} events=r cmd={} user={} redir=-1 \
             resp={}",
            self.id,
            self.addresses.peer,
            self.addresses.local,
            String::from_utf8_lossy(&facts.name),
            self.since.elapsed().as_secs(),
            facts.last_active.elapsed().as_secs(),
            facts.database,
            facts.channels,
            facts.patterns,
            facts.shard_channels,
            facts.queued.map_or(-1, |count| count as i64),
            facts.input_bytes,
            facts.input_room,
            facts.output_bytes,
            facts.last_command.unwrap_or("NULL"),
            facts.user,
            if facts.protocol == Protocol::Resp3 { 3 } else { 2 },
        )
    }
}

/// What all connections have together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub subscribed: u64,
    /// Buffers of what was read, with their room.
    pub input_bytes: u64,
    pub input_bytes_largest: u64,
    pub output_bytes: u64,
    pub output_bytes_largest: u64,
    pub outbox_bytes: u64,
    pub queued_bytes: u64,
}

/// All connections, by id.
#[derive(Default)]
pub struct Clients {
    all: Mutex<BTreeMap<u64, Arc<Client>>>,
    monitors: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// Size of `monitors`, so that nobody pays for the lock while nobody looks.
    monitor_count: AtomicUsize,
}

impl Clients {
    pub fn add(&self, id: u64, addresses: Addresses, inbox: Arc<Inbox>) -> Arc<Client> {
        let client = Arc::new(Client::new(id, addresses, inbox));
        self.lock().insert(id, client.clone());
        client
    }

    pub fn remove(&self, client: &Client) {
        self.lock().remove(&client.id);
        self.set_monitors(client.id, None);
    }

    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.lock().get(&id).cloned()
    }

    /// Every connection looks at what has changed for it, also those that wait for their clients.
    pub fn wake_all(&self) {
        self.lock().values().for_each(|client| client.look());
    }

    /// In the order they came.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for client in self.all() {
            let outbox_bytes = client.outbox_size().1 as u64;
            let facts = client.facts();
            let input_bytes = (facts.input_bytes + facts.input_room) as u64;
            let output_bytes = facts.output_bytes as u64;
            totals.subscribed += u64::from(facts.is_subscribed());
            totals.input_bytes += input_bytes;
            totals.input_bytes_largest = totals.input_bytes_largest.max(input_bytes);
            totals.output_bytes += output_bytes;
            totals.output_bytes_largest =
                totals.output_bytes_largest.max(output_bytes + outbox_bytes);
            totals.outbox_bytes += outbox_bytes;
            totals.queued_bytes += facts.queued_bytes as u64;
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.all.lock().expect("not poisoned: nothing panics under it")
    }

    pub fn set_monitors(&self, id: u64, client: Option<Arc<Client>>) {
        let mut monitors = self.monitors.lock().expect("not poisoned: nothing panics under it");
        match client {
            Some(client) => _ = monitors.insert(id, client),
            None => _ = monitors.remove(&id),
        }
        self.monitor_count.store(monitors.len(), SeqCst);
    }

    pub fn has_monitors(&self) -> bool {
        self.monitor_count.load(SeqCst) > 0
    }

    /// Those that MONITOR.
    pub fn monitors(&self) -> Vec<Arc<Client>> {
        let monitors = self.monitors.lock().expect("not poisoned: nothing panics under it");
        monitors.values().cloned().collect()
    }
}
