//! A TCP connection between a shard and whoever is at the other end: a device or a control node.
//!
//! ```text
//!   far end ── send ──▶ [to_shard: bytes with arrival times] ── write ──▶ SimIo
//!           ◀─ take ─── [to_far: bytes with arrival times] ◀─── read ──── SimIo
//! ```
//!
//! Bytes keep their order and take time. A held wire carries nothing in either direction, and
//! nobody is told: that is a partition. What a killed shard had in its sockets is lost.

use std::collections::VecDeque;

use hawser_broker::io::sim::{PeerId, PeerState, SimIo};

use super::random::Random;

/// How a wire looks to its far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    Open,
    /// The shard has closed and everything it sent was taken.
    Closed,
    /// Reset: what was on the way is lost.
    Reset,
}

/// How long bytes travel, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    pub least_ms: u64,
    pub most_ms: u64,
}

pub struct Wire {
    /// The run of a shard that holds the near end.
    pub run: u64,
    /// The shard, by its place in the world.
    pub shard: usize,
    peer: PeerId,
    delay: Delay,
    to_shard: Lane,
    to_far: Lane,
    held_until_ms: u64,
    /// The far end does not read before this time.
    reads_from_ms: u64,
    ended: Option<Far>,
    /// The shard's end of stream is on its way.
    shard_closed: bool,
}

/// Bytes on their way, in order. A chunk of none is the end of the stream.
#[derive(Default)]
struct Lane {
    chunks: VecDeque<(u64, Vec<u8>)>,
    last_ms: u64,
}

impl Lane {
    fn push(&mut self, at_ms: u64, bytes: Vec<u8>) {
        self.last_ms = self.last_ms.max(at_ms);
        self.chunks.push_back((self.last_ms, bytes));
    }

    fn next_ms(&self) -> Option<u64> {
        self.chunks.front().map(|chunk| chunk.0)
    }

    fn is_due(&self, now_ms: u64) -> bool {
        self.next_ms().is_some_and(|at| at <= now_ms)
    }
}

impl Wire {
    pub fn new(shard: usize, run: u64, peer: PeerId, delay: Delay) -> Wire {
        Wire {
            run,
            shard,
            peer,
            delay,
            to_shard: Lane::default(),
            to_far: Lane::default(),
            held_until_ms: 0,
            reads_from_ms: 0,
            ended: None,
            shard_closed: false,
        }
    }

    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The far end writes.
    pub fn send(&mut self, bytes: Vec<u8>, now_ms: u64, random: &mut Random) {
        if self.ended.is_none() && !bytes.is_empty() {
            let travel = random.between(self.delay.least_ms, self.delay.most_ms);
            self.to_shard.push(now_ms + travel, bytes);
        }
    }

    /// The far end shuts down, after what it has sent. Call [`Wire::exchange`] until it has ended.
    pub fn finish(&mut self, now_ms: u64, random: &mut Random) {
        if self.ended.is_none() {
            let travel = random.between(self.delay.least_ms, self.delay.most_ms);
            self.to_shard.push(now_ms + travel, Vec::new());
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_some() || self.shard_closed
    }

    /// Nothing passes before `until_ms`.
    pub fn hold(&mut self, until_ms: u64) {
        self.held_until_ms = self.held_until_ms.max(until_ms);
    }

    pub fn is_held(&self, now_ms: u64) -> bool {
        self.held_until_ms > now_ms
    }

    pub fn release(&mut self) {
        self.held_until_ms = 0;
        self.reads_from_ms = 0;
    }

    /// The far end reads nothing before `until_ms`, so that the shard's socket fills up.
    pub fn stop_reading(&mut self, until_ms: u64) {
        self.reads_from_ms = self.reads_from_ms.max(until_ms);
    }

    /// Moves what is due between the wire and the shard's socket.
    pub fn exchange(&mut self, io: &mut SimIo, now_ms: u64, random: &mut Random) {
        if self.ended.is_some() || self.is_held(now_ms) {
            return;
        }
        while self.to_shard.is_due(now_ms) {
            let Some((_, bytes)) = self.to_shard.chunks.front_mut() else { break };
            if bytes.is_empty() {
                io.close(self.peer);
            }
            let taken = io.write(self.peer, bytes);
            if taken < bytes.len() {
                // The socket is full (or gone): the rest waits for room.
                bytes.drain(..taken);
                break;
            }
            self.to_shard.chunks.pop_front();
        }
        if self.reads_from_ms > now_ms {
            return;
        }
        let mut bytes = Vec::new();
        let state = io.read(self.peer, &mut bytes);
        let travel = random.between(self.delay.least_ms, self.delay.most_ms);
        if !bytes.is_empty() {
            self.to_far.push(now_ms + travel, bytes);
        }
        match state {
            PeerState::Reset => self.break_off(),
            PeerState::Closed if !self.shard_closed => {
                self.shard_closed = true;
                // The end of the stream travels behind its bytes.
                self.to_far.push(now_ms + travel, Vec::new());
            }
            PeerState::Closed | PeerState::Connecting | PeerState::Open => {}
        }
    }

    /// The near end is gone: whatever is on the way is lost.
    pub fn break_off(&mut self) {
        self.to_shard = Lane::default();
        self.to_far = Lane::default();
        self.ended = Some(Far::Reset);
    }

    /// The machine at the near end is gone: nothing comes any more, and nobody says so.
    pub fn fall_silent(&mut self) {
        self.to_shard = Lane::default();
        self.to_far = Lane::default();
        self.run = u64::MAX;
    }

    /// What has arrived at the far end, and how the wire stands after it.
    pub fn take(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Far {
        while self.to_far.is_due(now_ms) && !self.is_held(now_ms) {
            match self.to_far.chunks.pop_front() {
                Some((_, bytes)) if bytes.is_empty() => self.ended = Some(Far::Closed),
                Some((_, bytes)) => out.extend_from_slice(&bytes),
                None => break,
            }
        }
        self.ended.unwrap_or(Far::Open)
    }

    /// When something arrives next at either end.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        if self.is_held(now_ms) {
            return Some(self.held_until_ms);
        }
        let reads = (self.reads_from_ms > now_ms).then_some(self.reads_from_ms);
        // What the socket did not take waits for the shard's next turn, not for a time.
        let to_shard = self.to_shard.next_ms().filter(|&at| at > now_ms);
        [to_shard, self.to_far.next_ms(), reads].into_iter().flatten().min()
    }
}
