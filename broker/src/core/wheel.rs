//! One timer per slot, in a hierarchical timing wheel.
//!
//! ```text
//!  level 0: 64 x 1 ms      level 1: 64 x 64 ms      level 2: 64 x 4 s      ...     level 7
//!  ┌─┬─┬─┬─┬─┐             ┌─┬─┬─┬─┬─┐              a list falls one or more levels
//!  │ │●│ │●│ │             │ │ │●│ │ │              when the cursor reaches it
//!  └─┴│┴─┴│┴─┘             └─┴─┴│┴─┴─┘
//!     └ slot 7 ⇄ slot 12        └ slot 3 ⇄ ...      lists are u32 links between the timers
//! ```
//!
//! Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987). The level of a deadline is
//! the highest group of six bits in which it differs from the cursor, so each list lies ahead of
//! the cursor, and a lower level is due before a higher one. To arm, move or cancel a timer costs
//! a few links and allocates nothing; finding the next deadline looks at one word per level.
//!
//! Timers fire at their exact millisecond. A deadline that moves later, as with each heartbeat, is
//! only written down: the timer moves when its list comes up. [`Wheel::next_ms`] is therefore the
//! time at which the wheel must be turned, and a timer need not be due by then.

use super::rows::Chunks;

const LEVELS: usize = 8;
const BITS: usize = 6;
const LISTS: usize = 1 << BITS;

/// Deadlines end here: 8,900 years after the shard started.
const DEADLINE_MAX_MS: u64 = (1 << (BITS * LEVELS)) - 1;

/// Links from here on are the heads of lists.
const HEAD_FIRST: u32 = u32::MAX - (LEVELS * LISTS) as u32;
const UNARMED: u32 = u32::MAX;

/// The largest number of slots that a wheel can serve.
pub(super) const SLOTS_MAX: u32 = HEAD_FIRST;

/// The timer of one slot.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    next: u32,
    prev: u32,
    deadline_ms: u64,
}

impl Default for Timer {
    fn default() -> Timer {
        Timer { next: UNARMED, prev: UNARMED, deadline_ms: 0 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(super) struct Wheel {
    timers: Chunks<Timer>,
    heads: Box<[Head]>,
    /// Which lists of a level are not empty.
    occupied: [u64; LEVELS],
    /// Everything before this time has fired.
    cursor_ms: u64,
}

impl Wheel {
    pub fn new() -> Wheel {
        let heads = (0..(LEVELS * LISTS) as u32)
            .map(|list| Head { first: HEAD_FIRST + list, last: HEAD_FIRST + list })
            .collect();
        Wheel { timers: Chunks::new(), heads, occupied: [0; LEVELS], cursor_ms: 0 }
    }

    /// Makes room for the timer of `slot`.
    pub fn make(&mut self, slot: u32) {
        self.timers.make(slot);
    }

    /// Sets the one timer of `slot`. A deadline that has passed fires at the next turn.
    pub fn arm(&mut self, slot: u32, deadline_ms: u64) {
        let deadline_ms = deadline_ms.clamp(self.cursor_ms, DEADLINE_MAX_MS);
        if self.is_armed(slot) {
            if deadline_ms >= self.timers[slot].deadline_ms {
                self.timers[slot].deadline_ms = deadline_ms;
                return;
            }
            self.unlink(slot);
        }
        self.timers[slot].deadline_ms = deadline_ms;
        self.link(slot);
    }

    pub fn cancel(&mut self, slot: u32) {
        if self.is_armed(slot) {
            self.unlink(slot);
        }
    }

    pub fn is_armed(&self, slot: u32) -> bool {
        self.timers[slot].next != UNARMED
    }

    /// The deadline last given to `slot`.
    pub fn deadline_ms(&self, slot: u32) -> u64 {
        self.timers[slot].deadline_ms
    }

    /// When the wheel must be turned next.
    pub fn next_ms(&self) -> Option<u64> {
        self.next_list().map(|(_, _, at_ms)| at_ms)
    }

    /// A slot whose deadline is at or before `now_ms`; its timer is then unarmed. Earlier
    /// deadlines come first. `None`: nothing more is due.
    pub fn pop(&mut self, now_ms: u64) -> Option<u32> {
        while let Some((level, list, at_ms)) = self.next_list() {
            if at_ms > now_ms {
                break;
            }
            self.cursor_ms = at_ms;
            if level > 0 {
                self.lower(level, list);
                continue;
            }
            let slot = self.heads[list].first;
            self.unlink(slot);
            if self.timers[slot].deadline_ms <= at_ms {
                return Some(slot);
            }
            self.link(slot);
        }
        self.cursor_ms = self.cursor_ms.max(now_ms);
        None
    }

    pub fn bytes(&self) -> usize {
        self.timers.bytes()
    }

    /// The first list that is not empty: level, list, and the time at which it comes up.
    fn next_list(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let list = self.occupied[level].trailing_zeros() as usize;
        let below = BITS * (level + 1);
        let at_ms = (self.cursor_ms >> below << below) | (list as u64) << (BITS * level);
        // A list at the cursor itself comes up now.
        Some((level, list, at_ms.max(self.cursor_ms)))
    }

    /// Moves the timers of a list that came up to where they belong now: lower, or at level 0.
    fn lower(&mut self, level: usize, list: usize) {
        let head = HEAD_FIRST + (level * LISTS + list) as u32;
        loop {
            let slot = self.heads[level * LISTS + list].first;
            if slot == head {
                break;
            }
            self.unlink(slot);
            self.link(slot);
        }
    }

    fn link(&mut self, slot: u32) {
        let deadline_ms = self.timers[slot].deadline_ms;
        let differs = (deadline_ms ^ self.cursor_ms) | (LISTS as u64 - 1);
        let level = (63 - differs.leading_zeros() as usize) / BITS;
        let list = (deadline_ms >> (BITS * level)) as usize % LISTS;
        let head = HEAD_FIRST + (level * LISTS + list) as u32;
        let last = self.heads[level * LISTS + list].last;
        self.set_next(last, slot);
        self.set_prev(head, slot);
        let timer = &mut self.timers[slot];
        (timer.prev, timer.next) = (last, head);
        self.occupied[level] |= 1 << list;
    }

    fn unlink(&mut self, slot: u32) {
        let Timer { next, prev, .. } = self.timers[slot];
        self.set_next(prev, next);
        self.set_prev(next, prev);
        self.timers[slot].next = UNARMED;
        if next == prev && next >= HEAD_FIRST {
            let list = (next - HEAD_FIRST) as usize;
            self.occupied[list / LISTS] &= !(1 << (list % LISTS));
        }
    }

    fn set_next(&mut self, at: u32, next: u32) {
        match at.checked_sub(HEAD_FIRST) {
            Some(list) => self.heads[list as usize].first = next,
            None => self.timers[at].next = next,
        }
    }

    fn set_prev(&mut self, at: u32, prev: u32) {
        match at.checked_sub(HEAD_FIRST) {
            Some(list) => self.heads[list as usize].last = prev,
            None => self.timers[at].prev = prev,
        }
    }

    /// Asserts every list; returns how many timers are armed.
    pub fn invariants(&self) -> u32 {
        let mut armed = 0;
        for (index, head) in self.heads.iter().enumerate() {
            let id = HEAD_FIRST + index as u32;
            let (level, list) = (index / LISTS, index % LISTS);
            assert_eq!(head.first != id, self.occupied[level] >> list & 1 == 1);
            let (mut at, mut prev) = (head.first, id);
            while at != id {
                let timer = &self.timers[at];
                assert_eq!(timer.prev, prev, "the links of slot {at} agree");
                assert!(timer.deadline_ms >= self.cursor_ms, "slot {at} has not been missed");
                (prev, at) = (at, timer.next);
                armed += 1;
            }
            assert_eq!(head.last, prev);
        }
        armed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arm { slot: u32, after_ms: u64 },
        Cancel { slot: u32 },
        Turn { after_ms: u64 },
    }

    fn delays() -> impl Strategy<Value = u64> {
        prop_oneof![0..3u64, 0..200u64, 0..20_000u64, 0..5_000_000u64, 0..1u64 << 40]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..40u32, delays()).prop_map(|(slot, after_ms)| Step::Arm { slot, after_ms }),
            1 => (0..40u32).prop_map(|slot| Step::Cancel { slot }),
            3 => delays().prop_map(|after_ms| Step::Turn { after_ms }),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Against a sorted map: the same timers fire, in the order of their deadlines, and the
        /// next deadline is never later than the map's first.
        #[test]
        fn fires_like_a_sorted_map(steps in steps()) {
            let mut wheel = Wheel::new();
            wheel.make(0);
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now_ms = 0;
            for step in steps {
                match step {
                    Step::Arm { slot, after_ms } => {
                        wheel.arm(slot, now_ms + after_ms);
                        oracle.insert(slot, now_ms + after_ms);
                    }
                    Step::Cancel { slot } => {
                        wheel.cancel(slot);
                        oracle.remove(&slot);
                    }
                    Step::Turn { after_ms } => {
                        now_ms += after_ms;
                        let due: BTreeSet<(u64, u32)> = oracle
                            .iter()
                            .filter(|&(_, &at_ms)| at_ms <= now_ms)
                            .map(|(&slot, &at_ms)| (at_ms, slot))
                            .collect();
                        let mut fired = Vec::new();
                        while let Some(slot) = wheel.pop(now_ms) {
                            fired.push((oracle.remove(&slot).expect("armed"), slot));
                        }
                        prop_assert!(fired.is_sorted_by_key(|&(at_ms, _)| at_ms));
                        prop_assert_eq!(fired.into_iter().collect::<BTreeSet<_>>(), due);
                    }
                }
                prop_assert_eq!(wheel.invariants() as usize, oracle.len());
                let first = oracle.values().min().copied();
                prop_assert_eq!(wheel.next_ms().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next_ms(), first) {
                    prop_assert!(next <= first, "turned at {next}, due at {first}");
                    prop_assert!(next >= now_ms);
                }
            }
        }

        /// Whoever sleeps until `next_ms` each time wakes at every deadline, after few wake-ups.
        #[test]
        fn sleeping_until_the_next_deadline_misses_none(after in 0..1u64 << 40) {
            let mut wheel = Wheel::new();
            wheel.make(0);
            wheel.arm(5, after);
            let mut wakes = 0;
            loop {
                let now_ms = wheel.next_ms().expect("the timer is armed");
                wakes += 1;
                if let Some(slot) = wheel.pop(now_ms) {
                    prop_assert_eq!((slot, now_ms), (5, after));
                    break;
                }
                prop_assert!(wakes <= LEVELS);
            }
            prop_assert_eq!(wheel.next_ms(), None);
        }
    }
}
