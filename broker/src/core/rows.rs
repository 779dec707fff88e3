//! The rows: what a shard remembers of each connection, in memory that never moves.
//!
//! ```text
//!  slot = 3 * 4096 + 17          chunks: [0] [1] [ ] [3] ...     a chunk is made with its first slot
//!                                                 └─ row 17
//! ```
//!
//! A row is 80 bytes and its timer 16 (`wheel.rs`), together at most 96: at five million
//! connections each byte of a row is five megabytes. A connection owns no heap memory besides,
//! unless it joins topics (`topics.rs`, 20 bytes each).
//!
//! A free row keeps its generation, so that a route to an earlier session of the slot is seen for
//! what it is.

use std::ops::{Index, IndexMut};

use hawser_codec::ids::{DeviceId, Epoch, Seq, SessionRef};

use super::topics::NO_MEMBERSHIP;

const CHUNK: usize = 4096;

/// A growing table whose elements stay where they are: growing copies nothing, so no turn pays
/// for it. Indices need not be dense; an untouched chunk takes no memory.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
    /// Of all chunks.
    bytes: usize,
}

impl<T: Clone + Default> Chunks<T> {
    pub fn new() -> Chunks<T> {
        Chunks { chunks: Vec::new(), bytes: 0 }
    }

    /// Makes the chunk of `index`, if it is not there.
    pub fn make(&mut self, index: u32) {
        let chunk = index as usize / CHUNK;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, Box::default);
        }
        if self.chunks[chunk].is_empty() {
            self.chunks[chunk] = vec![T::default(); CHUNK].into_boxed_slice();
            self.bytes += CHUNK * size_of::<T>();
        }
    }

    /// The element, or `None` where no chunk has been made.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub(super) enum State {
    #[default]
    Free,
    /// Accepted, but not read from before the accept delay is over.
    Delayed,
    /// Read from; the `Connect` has not come.
    Connecting,
    /// The session exists.
    Online,
    /// Closed by us; the slot is taken until the shell says that the kernel has let go of it.
    Closing,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub device: DeviceId,
    pub epoch: Epoch,
    /// Everything of the inbox up to here was written to this connection, or acknowledged.
    pub sent: Seq,
    /// The highest inbox entry known to exist: has-more means `latest > sent`.
    pub latest: Seq,
    /// The highest inbox entry that the device's application has.
    pub acked: Seq,
    /// Everything of the group log up to here that concerns the session was written. A lower
    /// bound: entries for others do not move it.
    pub group: Seq,
    pub generation: u32,
    /// The place in the app's list of members.
    pub place: u32,
    /// The first of its memberships in topics.
    pub topics: u32,
    pub flags: Flags,
    /// The place in the table of apps.
    pub app: u16,
    /// The uses of links over which pulls are outstanding (`Links::use_of`), or 0.
    pub inbox_over: u16,
    pub group_over: u16,
    pub state: State,
    /// The step of the heartbeat ladder.
    pub step: u8,
    /// Good beats since the last step.
    pub beats: u8,
    /// Pings that came while `BLOCKED`; further ones are not counted.
    pub pongs_owed: u8,
}

const _: () = assert!(size_of::<Row>() + size_of::<super::wheel::Timer>() <= 96);

impl Default for Row {
    fn default() -> Row {
        Row {
            device: DeviceId(0),
            epoch: Epoch::ZERO,
            sent: Seq::ZERO,
            latest: Seq::ZERO,
            acked: Seq::ZERO,
            group: Seq::ZERO,
            generation: 0,
            place: 0,
            topics: NO_MEMBERSHIP,
            flags: Flags::NONE,
            app: 0,
            inbox_over: 0,
            group_over: 0,
            state: State::Free,
            step: 0,
            beats: 0,
            pongs_owed: 0,
        }
    }
}

impl Row {
    /// Whether the device or the shard's core has work left with this connection.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Delayed | State::Connecting | State::Online)
    }

    pub fn session(&self, slot: u32) -> SessionRef {
        SessionRef { slot, generation: self.generation }
    }

    /// What is true of every online session.
    pub fn invariants(&self) {
        let flags = self.flags;
        assert!(self.sent <= self.latest && self.acked <= self.latest, "{self:?}");
        let of_pull = Flags::ASKED | Flags::GREW | Flags::AGAIN | Flags::OWED;
        assert!(flags.has(Flags::PULLING) || !flags.has(of_pull), "{self:?}");
        let may_be_out = flags.has(Flags::PULLING) && !flags.has(Flags::OWED);
        assert!(self.inbox_over == 0 || may_be_out, "{self:?}");
        assert!(self.pongs_owed == 0 || flags.has(Flags::BLOCKED), "{self:?}");
        assert!(!flags.has(Flags::OWED | Flags::G_OWED) || flags.has(Flags::BLOCKED), "{self:?}");
        assert!(!flags.has(Flags::AWAKE) || self.latest > self.sent, "{self:?}");
        assert!(flags.has(Flags::G_PULLING) || !flags.has(Flags::G_OWED | Flags::G_GREW));
        assert!(!flags.has(Flags::G_AWAKE) || flags.has(Flags::G_LAG), "{self:?}");
        // accounted-push: whoever has entries waiting knows it, is about to be answered, or is
        // told with the next heartbeat or when its socket drains.
        let knows = Flags::INBOX_TOLD | Flags::AWAKE;
        assert!(self.latest == self.sent || flags.has(knows), "{self:?}");
        let knows = Flags::GROUP_TOLD | Flags::G_AWAKE;
        assert!(!flags.has(Flags::G_LAG) || flags.has(knows), "{self:?}");
    }

    /// From where to pull when the device did not say: what it has not confirmed is not yet its
    /// own, however far we have written, because a pull acknowledges.
    pub fn pull_from(&self) -> Seq {
        self.acked.min(self.sent)
    }
}

/// What is true of an online session, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// The socket is full; the shell holds a remainder.
    pub const BLOCKED: Flags = Flags(1);

    /// An inbox pull is outstanding at a control node, or waits for a link or for `OWED`.
    pub const PULLING: Flags = Flags(1 << 1);
    /// The device itself asked, so it waits for a `CaughtUp`.
    pub const ASKED: Flags = Flags(1 << 2);
    /// Entries were announced while `PULLING`; the answer may lack them.
    pub const GREW: Flags = Flags(1 << 3);
    /// The device was told that it must pull.
    pub const NOTICED: Flags = Flags(1 << 4);
    /// Everything that waits is when-awake.
    pub const AWAKE: Flags = Flags(1 << 5);
    /// The answer came while `BLOCKED` and was dropped, or was not asked for: pull when drained.
    pub const OWED: Flags = Flags(1 << 6);
    /// The answer under way may be older than what it is about: pull again after it.
    pub const AGAIN: Flags = Flags(1 << 15);

    /// The session has no place in the group log yet.
    pub const G_UNKNOWN: Flags = Flags(1 << 7);
    /// Group entries wait for the session to pull them; nothing newer may overtake them.
    pub const G_LAG: Flags = Flags(1 << 8);
    pub const G_PULLING: Flags = Flags(1 << 9);
    pub const G_GREW: Flags = Flags(1 << 10);
    pub const G_NOTICED: Flags = Flags(1 << 11);
    pub const G_AWAKE: Flags = Flags(1 << 12);
    pub const G_OWED: Flags = Flags(1 << 13);
    /// Connected a moment ago: the rest of its topics may still be on their way.
    pub const SETTLING: Flags = Flags(1 << 14);

    /// What keeps an inbox entry from being sent at once.
    pub const INBOX_HELD: Flags = Flags(Self::BLOCKED.0 | Self::PULLING.0);
    /// What keeps an inbox notice from being sent.
    pub const INBOX_TOLD: Flags = Flags(Self::INBOX_HELD.0 | Self::NOTICED.0);
    /// What keeps a group entry from being sent at once.
    pub const GROUP_HELD: Flags =
        Flags(Self::BLOCKED.0 | Self::G_UNKNOWN.0 | Self::G_LAG.0 | Self::G_PULLING.0);
    /// What keeps a group notice from being sent.
    pub const GROUP_TOLD: Flags =
        Flags(Self::BLOCKED.0 | Self::G_PULLING.0 | Self::G_NOTICED.0 | Self::G_UNKNOWN.0);

    #[inline]
    pub fn has(self, any: Flags) -> bool {
        self.0 & any.0 != 0
    }

    #[inline]
    pub fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    #[inline]
    pub fn clear(&mut self, flags: Flags) {
        self.0 &= !flags.0;
    }

    pub fn put(&mut self, flags: Flags, on: bool) {
        if on { self.set(flags) } else { self.clear(flags) }
    }

    /// Clears the flags; whether one of them was set.
    pub fn take(&mut self, flags: Flags) -> bool {
        let had = self.has(flags);
        self.clear(flags);
        had
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_made_with_their_first_index_and_never_move() {
        let mut chunks: Chunks<u64> = Chunks::new();
        assert_eq!(chunks.get(0), None);
        chunks.make(3 * CHUNK as u32);
        assert_eq!(chunks.get(CHUNK as u32), None, "an untouched chunk takes no memory");
        assert_eq!(chunks.bytes(), CHUNK * 8);
        let first: *const u64 = &chunks[3 * CHUNK as u32];
        chunks[4 * CHUNK as u32 - 1] = 7;
        for chunk in 0..100u32 {
            chunks.make(chunk * CHUNK as u32);
        }
        assert_eq!(first, &chunks[3 * CHUNK as u32] as *const u64);
        assert_eq!(chunks[4 * CHUNK as u32 - 1], 7);
        assert_eq!(chunks.get(100 * CHUNK as u32), None);
        assert_eq!(chunks.bytes(), 100 * CHUNK * 8);
    }

    #[test]
    fn every_flag_has_its_own_bit() {
        let all = [
            Flags::BLOCKED,
            Flags::PULLING,
            Flags::ASKED,
            Flags::GREW,
            Flags::NOTICED,
            Flags::AWAKE,
            Flags::OWED,
            Flags::G_UNKNOWN,
            Flags::G_LAG,
            Flags::G_PULLING,
            Flags::G_GREW,
            Flags::G_NOTICED,
            Flags::G_AWAKE,
            Flags::G_OWED,
            Flags::SETTLING,
        ];
        let mut seen = Flags::NONE;
        for flag in all {
            assert!(!seen.has(flag), "{flag:?}");
            seen.set(flag);
            assert!(seen.take(flag) && !seen.has(flag));
            seen.set(flag);
        }
    }
}
