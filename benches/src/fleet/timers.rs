//! When each device must be looked at next, for 4 bytes a device.
//!
//! Each device stands in exactly one bucket of a wheel, as a link of a list. A bucket whose time
//! has come is emptied, and its devices are asked for their deadlines and put where those are: a
//! deadline that moved later costs nothing when it moves. One that moves earlier is noted in a heap
//! besides, which few ever are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How exact the wheel is.
const TICK_MS: u64 = 64;
/// Nine minutes; what is due later is looked at then and put back.
const BUCKETS: usize = 8192;

/// Room for early ones that is not given back.
const EARLY_KEPT: usize = 1 << 16;

const NONE: u32 = u32::MAX;

pub struct Timers {
    heads: Vec<u32>,
    /// The tick that comes next.
    tick: u64,
    early: BinaryHeap<Reverse<(u64, u32)>>,
    due: Vec<u32>,
}

/// A device's place in its list.
#[derive(Clone, Copy)]
pub struct Link(u32);

impl Default for Link {
    fn default() -> Link {
        Link(NONE)
    }
}

impl Timers {
    pub fn new(now_ms: u64) -> Timers {
        Timers {
            heads: vec![NONE; BUCKETS],
            tick: now_ms / TICK_MS,
            early: BinaryHeap::new(),
            due: Vec::new(),
        }
    }

    /// Puts a device that stands in no list into the one of its deadline.
    pub fn file(&mut self, device: u32, deadline_ms: u64, link: &mut Link) {
        let farthest = self.tick + BUCKETS as u64 - 1;
        let tick = deadline_ms.div_ceil(TICK_MS).clamp(self.tick, farthest);
        let head = &mut self.heads[tick as usize % BUCKETS];
        *link = Link(std::mem::replace(head, device));
    }

    /// The deadline of a device that stands in a list has come closer.
    pub fn hasten(&mut self, device: u32, deadline_ms: u64) {
        self.early.push(Reverse((deadline_ms, device)));
    }

    /// A device that may be due before its turn in the wheel. It stays in its list.
    pub fn next_early(&mut self, now_ms: u64) -> Option<u32> {
        let &Reverse((deadline_ms, device)) = self.early.peek()?;
        (deadline_ms <= now_ms).then(|| self.early.pop())?;
        if self.early.capacity() > EARLY_KEPT && self.early.len() < self.early.capacity() / 4 {
            self.early.shrink_to(self.early.len() * 2);
        }
        Some(device)
    }

    /// Takes the devices of every bucket whose time has come out of their lists. Each must be filed
    /// again.
    pub fn take(&mut self, now_ms: u64, next: impl Fn(u32) -> Link) -> Vec<u32> {
        let mut due = std::mem::take(&mut self.due);
        while self.tick * TICK_MS <= now_ms {
            let mut device = std::mem::replace(&mut self.heads[self.tick as usize % BUCKETS], NONE);
            while device != NONE {
                due.push(device);
                device = next(device).0;
            }
            self.tick += 1;
        }
        due
    }

    /// Gives the list of [`Timers::take`] back, for its memory.
    pub fn give_back(&mut self, mut due: Vec<u32>) {
        due.clear();
        due.shrink_to(1 << 16);
        self.due = due;
    }

    pub fn memory_bytes(&self) -> usize {
        4 * (self.heads.capacity() + self.due.capacity()) + 16 * self.early.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_comes_up_at_its_time_and_once() {
        let deadlines_ms: Vec<u64> = vec![0, 1, 64, 65, 1_000, 1_000, 500_000, 5_000_000, 64];
        let mut links = vec![Link::default(); deadlines_ms.len()];
        let mut timers = Timers::new(0);
        for (device, &deadline_ms) in deadlines_ms.iter().enumerate() {
            timers.file(device as u32, deadline_ms, &mut links[device]);
        }
        let mut seen = vec![None; deadlines_ms.len()];
        for now_ms in (0..6_000_000).step_by(32) {
            let due = timers.take(now_ms, |device| links[device as usize]);
            for &device in &due {
                let at = device as usize;
                if deadlines_ms[at] <= now_ms {
                    assert_eq!(seen[at].replace(now_ms), None);
                } else {
                    timers.file(device, deadlines_ms[at], &mut links[at]);
                }
            }
            timers.give_back(due);
        }
        for (seen, deadline_ms) in seen.into_iter().zip(deadlines_ms) {
            let late_ms = seen.expect("it came up") - deadline_ms;
            assert!(late_ms <= TICK_MS + 32, "{late_ms}");
        }
    }

    #[test]
    fn a_hastened_device_comes_up_early_and_stays_filed() {
        let mut links = [Link::default(); 1];
        let mut timers = Timers::new(0);
        timers.file(0, 10_000, &mut links[0]);
        timers.hasten(0, 500);
        assert_eq!(timers.next_early(499), None);
        assert_eq!(timers.next_early(500), Some(0));
        assert_eq!(timers.next_early(500), None);
        assert_eq!(timers.take(10_000 + TICK_MS, |_| links[0]), [0]);
    }
}
