//! The simulated side of `trait Io`: sockets in memory, a seed, and time that stands still until
//! it is set.
//!
//! ```text
//!   simulator ── connect, write, read, close ──▶ Stream ◀── receive, send, close ── shard
//!             ── set_now ──▶ completions that are due ──▶ next
//! ```
//!
//! It takes every liberty the contract of [`Io`] leaves: it splits reads and writes, delays and
//! reorders the completions of different targets, ends watches early, runs out of buffers, resets
//! connections, and gives a slot to the next connection in the very batch that freed it. The same
//! seed and the same calls give the same run.
//!
//! It is also the guard of **quiesced-slot**: it panics when the shard closes a target that has an
//! operation outstanding, uses one that is closed, starts a second operation of a kind, sends
//! twice to one target in a call, or lets a slot's generation repeat.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::{
    Buffer, Completion, Io, IoCounters, LINK_SLOT_FIRST, Pending, Received, Target, Unsent,
};
use crate::core::event::Now;

/// Probabilities in thousandths, per operation, and the extents of what they cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A receive returns only a part of what is there.
    pub short_reads: u16,
    /// A send writes only a part of what there is room for.
    pub short_writes: u16,
    /// A completion comes up to `delay_ms_max` late.
    pub delays: u16,
    pub delay_ms_max: u64,
    /// Completions of different targets that are due together come in any order.
    pub reorder: bool,
    /// A watch ends although nobody cancelled it.
    pub watches_end: u16,
    /// A watch that ends, by itself or because it was cancelled, ends with an error.
    pub watches_fail: u16,
    /// A receive finds no buffer.
    pub no_buffers: u16,
    /// A receive or a send finds the connection reset by the network.
    pub resets: u16,
    /// A connection is lost while it is accepted.
    pub accept_errors: u16,
    /// A writable watch comes up to this late.
    pub writable_delay_ms_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimConfig {
    pub seed: u64,
    /// Device slots.
    pub slots: u32,
    /// What a socket holds in each direction before writes fall short.
    pub socket_bytes: usize,
    /// Receive buffers and their size.
    pub buffers: u16,
    pub buffer_bytes: u32,
    pub faults: Faults,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            seed: 1,
            slots: 1024,
            socket_bytes: 64 * 1024,
            buffers: 64,
            buffer_bytes: 128,
            faults: Faults::default(),
        }
    }
}

/// The far end of a connection. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// How a stream looks to the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Waits to be accepted (devices) or to be admitted (links).
    Connecting,
    Open,
    /// The shard has closed and all its bytes were read.
    Closed,
    /// Reset; bytes on the way may be lost.
    Reset,
}

/// A link that the shard dials: answer with [`SimIo::admit`] or [`SimIo::refuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    pub link: u8,
    pub address: SocketAddr,
    pub peer: PeerId,
}

pub struct SimIo {
    config: SimConfig,
    random: u64,
    now: Now,
    streams: BTreeMap<PeerId, Stream>,
    peers: u64,
    slots: Vec<Slot>,
    links: Vec<Slot>,
    free: Vec<u32>,
    backlog: VecDeque<PeerId>,
    dialled: Vec<Dialled>,
    accepting: bool,
    listening: bool,
    queued: Vec<(Target, Operation)>,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    ready: VecDeque<Completion>,
    buffers: Vec<Option<Vec<u8>>>,
    counters: IoCounters,
}

#[derive(Default)]
struct Stream {
    to_shard: VecDeque<u8>,
    to_peer: VecDeque<u8>,
    target: Option<Target>,
    accepted: bool,
    peer_closed: bool,
    shard_closed: bool,
    reset: bool,
    reading_stopped: bool,
    vanished: bool,
}

/// The shard's side of a stream, with every operation that has not given its last completion.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    peer: Option<PeerId>,
    /// Learnt from the first operation; kept after the close, to see that it changes.
    generation: Option<u16>,
    generation_before: Option<u16>,
    watch: Option<OpState>,
    writable: Option<OpState>,
    receive: bool,
    connect: Option<OpState>,
    closing: bool,
    last: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpState {
    Armed,
    /// Its last completion is scheduled.
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Watch,
    Writable,
    Receive,
    Cancel(Pending),
    Close,
}

/// A completion to come. Heap order: time, then the tie-breaker, then the order of cause.
struct Due {
    key: (u64, u64, u64),
    completion: Completion,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.key == other.key
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// The simulator's side: the clock, the peers, the dials.
impl SimIo {
    pub fn new(config: SimConfig) -> SimIo {
        assert!(config.socket_bytes > 0 && config.buffers > 0 && config.buffer_bytes > 0);
        SimIo {
            config,
            random: config.seed ^ 0x9e37_79b9_7f4a_7c15,
            now: Now { mono_ms: 0, unix_ms: 1_700_000_000_000 },
            streams: BTreeMap::new(),
            peers: 0,
            slots: vec![Slot::default(); config.slots as usize],
            links: vec![Slot::default(); 256],
            free: (0..config.slots).rev().collect(),
            backlog: VecDeque::new(),
            dialled: Vec::new(),
            accepting: false,
            listening: true,
            queued: Vec::new(),
            due: BinaryHeap::new(),
            order: 0,
            ready: VecDeque::new(),
            buffers: (0..config.buffers).map(|_| None).collect(),
            counters: IoCounters { rings: 1, ..IoCounters::default() },
        }
    }

    pub fn set_now(&mut self, now: Now) {
        assert!(now.mono_ms >= self.now.mono_ms, "monotonic time does not go back");
        self.now = now;
    }

    pub fn set_faults(&mut self, faults: Faults) {
        self.config.faults = faults;
    }

    /// When the next completion is due; `None` if nothing is under way.
    pub fn due_ms(&self) -> Option<u64> {
        let accepts = self.accepting && !self.backlog.is_empty() && !self.free.is_empty();
        if !self.ready.is_empty() || !self.queued.is_empty() || accepts {
            return Some(self.now.mono_ms);
        }
        self.due.peek().map(|Reverse(due)| due.key.0)
    }

    /// A device connects; it waits until the shard accepts it.
    pub fn connect(&mut self) -> PeerId {
        let peer = self.open(Stream::default());
        if self.listening {
            self.backlog.push_back(peer);
        } else {
            self.stream(peer).reset = true;
        }
        peer
    }

    /// The dials since the last call.
    pub fn dialled(&mut self) -> Vec<Dialled> {
        std::mem::take(&mut self.dialled)
    }

    /// The control node accepts the link.
    pub fn admit(&mut self, peer: PeerId) {
        self.answer(peer, true);
    }

    /// Nobody listens there.
    pub fn refuse(&mut self, peer: PeerId) {
        self.answer(peer, false);
    }

    /// Writes to the shard; returns how many bytes the socket took.
    pub fn write(&mut self, peer: PeerId, bytes: &[u8]) -> usize {
        let socket_bytes = self.config.socket_bytes;
        let stream = self.stream(peer);
        if stream.reset || stream.peer_closed || stream.shard_closed || stream.vanished {
            return 0;
        }
        let count = bytes.len().min(socket_bytes - stream.to_shard.len());
        stream.to_shard.extend(&bytes[..count]);
        if count > 0 {
            self.became_readable(peer);
        }
        count
    }

    /// Takes what the shard has sent, appends it to `out`, and says how the stream stands.
    pub fn read(&mut self, peer: PeerId, out: &mut Vec<u8>) -> PeerState {
        let stream = self.stream(peer);
        if !stream.reading_stopped && !stream.to_peer.is_empty() {
            out.extend(stream.to_peer.drain(..));
            self.became_writable(peer);
        }
        self.state(peer)
    }

    pub fn state(&self, peer: PeerId) -> PeerState {
        let stream = &self.streams[&peer];
        if stream.reset {
            PeerState::Reset
        } else if stream.shard_closed && stream.to_peer.is_empty() {
            PeerState::Closed
        } else if !stream.accepted {
            PeerState::Connecting
        } else {
            PeerState::Open
        }
    }

    /// From now on `read` takes nothing, so that the socket fills up.
    pub fn stop_reading(&mut self, peer: PeerId) {
        self.stream(peer).reading_stopped = true;
    }

    pub fn resume_reading(&mut self, peer: PeerId) {
        let stream = self.stream(peer);
        stream.reading_stopped = stream.vanished;
    }

    /// The peer is gone without a word: it never reads, answers or closes again.
    pub fn vanish(&mut self, peer: PeerId) {
        self.stream(peer).reading_stopped = true;
        self.stream(peer).vanished = true;
    }

    /// The peer shuts its side down.
    pub fn close(&mut self, peer: PeerId) {
        self.stream(peer).peer_closed = true;
        self.became_readable(peer);
    }

    /// The peer, or the network, resets the connection.
    pub fn reset(&mut self, peer: PeerId) {
        let stream = self.stream(peer);
        stream.reset = true;
        stream.to_shard.clear();
        stream.to_peer.clear();
        self.became_readable(peer);
        self.became_writable(peer);
    }

    /// The slot the shard holds the peer in.
    pub fn target(&self, peer: PeerId) -> Option<Target> {
        self.streams[&peer].target
    }

    /// Forgets a peer whose stream has ended on both sides.
    pub fn forget(&mut self, peer: PeerId) {
        let stream = &self.streams[&peer];
        assert!(stream.shard_closed || stream.target.is_none(), "the shard still has it");
        self.backlog.retain(|&waiting| waiting != peer);
        self.streams.remove(&peer);
    }

    /// Operations that have not given their last completion; zero when all is quiet but watches.
    pub fn outstanding(&self) -> usize {
        let busy = |slot: &&Slot| {
            slot.receive
                || slot.closing
                || slot.writable.is_some()
                || slot.connect.is_some()
                || slot.watch.is_some()
        };
        self.slots.iter().chain(&self.links).filter(busy).count()
    }
}

/// The machinery.
impl SimIo {
    fn open(&mut self, stream: Stream) -> PeerId {
        self.peers += 1;
        let peer = PeerId(self.peers);
        self.streams.insert(peer, stream);
        peer
    }

    fn stream(&mut self, peer: PeerId) -> &mut Stream {
        self.streams.get_mut(&peer).expect("the peer exists")
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        match slot.checked_sub(LINK_SLOT_FIRST) {
            Some(link) => &mut self.links[link as usize],
            None => &mut self.slots[slot as usize],
        }
    }

    /// The slot of a target that may be used, or a panic that names the broken rule.
    fn live(&mut self, target: Target) -> &mut Slot {
        let slot = self.slot(target.slot);
        assert!(slot.peer.is_some(), "quiesced-slot: slot {} is not open", target.slot);
        assert!(!slot.closing, "quiesced-slot: slot {} is closed", target.slot);
        match slot.generation {
            None => {
                assert_ne!(
                    slot.generation_before,
                    Some(target.generation),
                    "slot {} was given the generation of its last use",
                    target.slot
                );
                slot.generation = Some(target.generation);
            }
            Some(generation) => assert_eq!(
                generation, target.generation,
                "slot {} is used with a stale generation",
                target.slot
            ),
        }
        slot
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..=max`.
    fn up_to(&mut self, max: u64) -> u64 {
        self.random() % (max + 1)
    }

    fn strikes(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.random() % 1000 < u64::from(per_mille)
    }

    fn schedule(&mut self, target: Target, completion: Completion) {
        let faults = self.config.faults;
        let delay = if self.strikes(faults.delays) { self.up_to(faults.delay_ms_max) } else { 0 };
        self.schedule_after(target, completion, delay);
    }

    fn schedule_after(&mut self, target: Target, completion: Completion, delay_ms: u64) {
        self.order += 1;
        let order = self.order;
        let tie = if self.config.faults.reorder { self.random() } else { order };
        let at = (self.now.mono_ms + delay_ms, tie);
        let slot = self.slot(target.slot);
        // One target's completions keep the order of their cause.
        slot.last = slot.last.max(at);
        let (at_ms, tie) = slot.last;
        self.due.push(Reverse(Due { key: (at_ms, tie, order), completion }));
    }

    fn became_readable(&mut self, peer: PeerId) {
        let stream = &self.streams[&peer];
        let hangup = stream.peer_closed || stream.reset;
        let Some(target) = stream.target.filter(|_| !stream.shard_closed) else { return };
        if self.slot(target.slot).watch != Some(OpState::Armed) {
            return;
        }
        let ends = self.config.faults.watches_end;
        let armed = !self.strikes(ends);
        if armed {
            self.schedule(target, Completion::Readable { target, hangup, armed });
        } else {
            self.end_watch(target, hangup);
        }
    }

    /// The watch's last completion.
    fn end_watch(&mut self, target: Target, hangup: bool) {
        self.slot(target.slot).watch = Some(OpState::Ending);
        let end = if self.strikes(self.config.faults.watches_fail) {
            Completion::WatchFailed { target }
        } else {
            Completion::Readable { target, hangup, armed: false }
        };
        self.schedule(target, end);
    }

    fn became_writable(&mut self, peer: PeerId) {
        let stream = &self.streams[&peer];
        // As Linux does, only when a third is free.
        let room = stream.to_peer.len() * 3 <= self.config.socket_bytes * 2 || stream.reset;
        let Some(target) = stream.target.filter(|_| !stream.shard_closed) else { return };
        if room {
            self.finish_writable(target);
        }
    }

    fn finish_writable(&mut self, target: Target) {
        if self.slot(target.slot).writable != Some(OpState::Armed) {
            return;
        }
        self.slot(target.slot).writable = Some(OpState::Ending);
        let delay = self.up_to(self.config.faults.writable_delay_ms_max);
        self.schedule_after(target, Completion::Writable { target }, delay);
    }

    fn answer(&mut self, peer: PeerId, connected: bool) {
        let stream = self.stream(peer);
        let Some(target) = stream.target else { return };
        if stream.shard_closed || stream.accepted {
            return;
        }
        stream.accepted = connected;
        stream.reset = !connected;
        self.finish_connect(target, connected);
    }

    fn finish_connect(&mut self, target: Target, connected: bool) {
        if self.slot(target.slot).connect != Some(OpState::Armed) {
            return;
        }
        self.slot(target.slot).connect = Some(OpState::Ending);
        self.schedule(target, Completion::Connected { target, connected });
    }

    fn execute(&mut self, target: Target, operation: Operation) {
        let slot = *self.slot(target.slot);
        let Some(peer) = slot.peer else { return };
        match operation {
            Operation::Watch => {
                let stream = &self.streams[&peer];
                if !stream.to_shard.is_empty() || stream.peer_closed || stream.reset {
                    self.became_readable(peer);
                }
            }
            Operation::Writable => self.became_writable(peer),
            Operation::Receive => self.execute_receive(target, peer),
            Operation::Cancel(Pending::Watch) => {
                if slot.watch == Some(OpState::Armed) {
                    self.end_watch(target, false);
                }
            }
            Operation::Cancel(Pending::Writable) => self.finish_writable(target),
            Operation::Cancel(Pending::Connect) => self.finish_connect(target, false),
            Operation::Close => {
                let lost = self.random().is_multiple_of(2);
                let stream = self.stream(peer);
                stream.shard_closed = true;
                // Input that nobody read turns the close into a reset, which may overtake bytes.
                if !stream.to_shard.is_empty() && !stream.peer_closed {
                    stream.reset = true;
                    if lost {
                        stream.to_peer.clear();
                    }
                }
                self.schedule(target, Completion::Closed { target });
            }
        }
    }

    fn execute_receive(&mut self, target: Target, peer: PeerId) {
        let faults = self.config.faults;
        if self.strikes(faults.resets) {
            self.reset(peer);
        }
        let starved = self.strikes(faults.no_buffers);
        let short = self.strikes(faults.short_reads);
        let free = self.buffers.iter().position(Option::is_none);
        let bytes_max = self.config.buffer_bytes as usize;
        let stream = self.streams.get_mut(&peer).expect("the peer exists");
        let available = stream.to_shard.len().min(bytes_max);
        let result = if stream.reset {
            Received::Failed
        } else if available == 0 {
            if stream.peer_closed { Received::End } else { Received::Empty }
        } else if let (Some(id), false) = (free, starved) {
            let count = if short { 1 + (self.random as usize) % available } else { available };
            let taken: Vec<u8> = stream.to_shard.drain(..count).collect();
            let more = !stream.to_shard.is_empty() || stream.peer_closed;
            self.buffers[id] = Some(taken);
            let buffer = Buffer { ring: 0, id: id as u16, bytes: count as u32 };
            Received::Bytes { buffer, more }
        } else {
            self.counters.no_buffers += 1;
            // A delayed completion may hold the last buffer: trying again takes time, or virtual
            // time would stand still.
            let result = Received::NoBuffers;
            return self.schedule_after(target, Completion::Received { target, result }, 1);
        };
        self.schedule(target, Completion::Received { target, result });
    }

    /// Executes what is queued, then moves what is due to `ready`.
    fn pump(&mut self) {
        for (target, operation) in std::mem::take(&mut self.queued) {
            self.execute(target, operation);
        }
        self.accept_waiting();
        while let Some(Reverse(due)) = self.due.peek()
            && due.key.0 <= self.now.mono_ms
        {
            let Some(Reverse(due)) = self.due.pop() else { return };
            let freed = matches!(due.completion, Completion::Closed { .. });
            if let Completion::Closed { target } = due.completion {
                self.free_slot(target);
            }
            self.ready.push_back(due.completion);
            if freed {
                // The slot's next use begins at once.
                self.accept_waiting();
            }
        }
    }

    fn free_slot(&mut self, target: Target) {
        let slot = self.slot(target.slot);
        let before = slot.generation;
        *slot = Slot { generation_before: before, last: slot.last, ..Slot::default() };
        if target.as_link().is_none() {
            self.counters.slots_in_use -= 1;
            self.free.push(target.slot);
        }
    }

    fn accept_waiting(&mut self) {
        while self.accepting && !self.free.is_empty() {
            let Some(peer) = self.backlog.pop_front() else { return };
            if self.strikes(self.config.faults.accept_errors) {
                self.counters.accept_errors += 1;
                self.stream(peer).reset = true;
                continue;
            }
            let number = self.free.pop().expect("checked above");
            self.counters.slots_in_use += 1;
            self.slot(number).peer = Some(peer);
            // The generation is not known yet; the first operation fills it in.
            let stream = self.stream(peer);
            stream.accepted = true;
            self.ready.push_back(Completion::Accepted { slot: number });
        }
    }

    fn queue(&mut self, target: Target, operation: Operation) {
        let peer = self.live(target).peer.expect("live");
        self.stream(peer).target = Some(target);
        self.queued.push((target, operation));
    }
}

impl Io for SimIo {
    fn now(&mut self) -> Now {
        self.now
    }

    fn fill_random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.random() as u8;
        }
    }

    fn wait(&mut self, _timeout_ms: Option<u64>) {
        self.counters.enters += 1;
        self.pump();
    }

    fn submit(&mut self) {
        self.counters.enters += 1;
        self.pump();
    }

    fn next(&mut self) -> Option<Completion> {
        let completion = self.ready.pop_front()?;
        match completion {
            Completion::Readable { target, armed: false, .. }
            | Completion::WatchFailed { target } => self.slot(target.slot).watch = None,
            Completion::Received { target, .. } => self.slot(target.slot).receive = false,
            Completion::Writable { target } => self.slot(target.slot).writable = None,
            Completion::Connected { target, .. } => self.slot(target.slot).connect = None,
            Completion::Accepted { .. }
            | Completion::Readable { .. }
            | Completion::Closed { .. } => {}
        }
        Some(completion)
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.buffers[usize::from(buffer.id)].as_deref().expect("the buffer is the holder's")
    }

    fn give_back(&mut self, buffer: Buffer) {
        let taken = self.buffers[usize::from(buffer.id)].take();
        assert!(taken.is_some_and(|bytes| bytes.len() == buffer.bytes as usize));
    }

    fn accept_start(&mut self) {
        self.accepting = self.listening;
    }

    fn accept_pause(&mut self) {
        self.accepting = false;
    }

    fn accept_end(&mut self) {
        self.accepting = false;
        self.listening = false;
        for peer in std::mem::take(&mut self.backlog) {
            self.stream(peer).reset = true;
        }
    }

    fn connect(&mut self, target: Target, address: SocketAddr) {
        let link = target.as_link().expect("only links are dialled");
        assert!(self.slot(target.slot).peer.is_none(), "quiesced-slot: link {link} is open");
        let peer = self.open(Stream { target: Some(target), ..Stream::default() });
        self.slot(target.slot).peer = Some(peer);
        self.live(target).connect = Some(OpState::Armed);
        self.dialled.push(Dialled { link, address, peer });
    }

    fn watch(&mut self, target: Target) {
        let slot = self.live(target);
        assert!(slot.watch.is_none(), "slot {} is watched already", target.slot);
        slot.watch = Some(OpState::Armed);
        self.queue(target, Operation::Watch);
    }

    fn watch_writable(&mut self, target: Target) {
        let slot = self.live(target);
        assert!(slot.writable.is_none(), "slot {} has a writable watch already", target.slot);
        slot.writable = Some(OpState::Armed);
        self.queue(target, Operation::Writable);
    }

    fn receive(&mut self, target: Target) {
        let slot = self.live(target);
        assert!(!slot.receive, "slot {} receives already", target.slot);
        slot.receive = true;
        self.queue(target, Operation::Receive);
    }

    fn send<'a>(
        &mut self,
        sends: impl Iterator<Item = (Target, &'a [u8])>,
        unsent: &mut Vec<Unsent>,
    ) {
        let mut seen = std::collections::BTreeSet::new();
        for (target, bytes) in sends {
            assert!(seen.insert(target.slot), "slot {} is sent to twice at once", target.slot);
            assert!(!bytes.is_empty());
            let peer = self.live(target).peer.expect("live");
            let faults = self.config.faults;
            if self.strikes(faults.resets) {
                self.reset(peer);
            }
            let short = self.strikes(faults.short_writes);
            let cut = self.up_to(bytes.len() as u64) as usize;
            let socket_bytes = self.config.socket_bytes;
            let stream = self.stream(peer);
            stream.target = Some(target);
            if stream.reset {
                unsent.push(Unsent { target, written: 0, failed: true });
                continue;
            }
            let mut count = bytes.len().min(socket_bytes - stream.to_peer.len());
            if short {
                count = count.min(cut);
            }
            stream.to_peer.extend(&bytes[..count]);
            if count < bytes.len() {
                unsent.push(Unsent { target, written: count as u32, failed: false });
            }
        }
    }

    fn cancel(&mut self, target: Target, pending: Pending) {
        self.queue(target, Operation::Cancel(pending));
    }

    fn close(&mut self, target: Target) {
        let slot = self.live(target);
        assert!(
            slot.watch.is_none()
                && slot.writable.is_none()
                && slot.connect.is_none()
                && !slot.receive,
            "quiesced-slot: slot {} is closed with an operation outstanding: {slot:?}",
            target.slot
        );
        self.queue(target, Operation::Close);
        self.live(target).closing = true;
    }

    fn counters(&self) -> IoCounters {
        self.counters
    }
}
