//! Which processor the threads run on that every write passes through.
//!
//! The first network thread, the writer and the committer hand each other work many times a millisecond. With
//! them on one of two processors, which both the kernel and a client's program want too, a durable SET took 22 us
//! of processor time instead of 26, since nobody had to wake the other processor, and 50 clients got
//! 1.3 times as much done. Where there are more processors the kernel spreads them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Whether those threads share a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OneProcessor {
    /// Where the process may use two.
    Auto,
    Always,
    Never,
}

impl OneProcessor {
    /// The processor they share, of those that the process may use: the one that devices interrupt least, since
    /// the disk is busy for as long as they are. `interrupts` is `/proc/interrupts`.
    pub fn choose(self, allowed: &[usize], interrupts: &str) -> Option<usize> {
        let is_shared = match self {
            OneProcessor::Auto => allowed.len() == 2,
            OneProcessor::Always => true,
            OneProcessor::Never => false,
        };
        let least = |processor: &&usize| device_interrupts(interrupts, **processor);
        allowed.iter().filter(|_| is_shared).min_by_key(least).copied()
    }
}

/// How often devices have interrupted a processor; 0 when that is not told.
fn device_interrupts(interrupts: &str, processor: usize) -> u64 {
    let mut lines = interrupts.lines();
    let name = format!("CPU{processor}");
    let names = lines.next().unwrap_or_default().split_whitespace();
    let Some(column) = names.into_iter().position(|each| each == name) else { return 0 };
    // Timers, calls between processors and the like have names instead of numbers.
    let is_device = |label: &str| label.trim_end_matches(':').parse::<u32>().is_ok();
    let counts = lines.filter_map(|line| {
        let mut fields = line.split_whitespace();
        fields.next().filter(|label| is_device(label))?;
        fields.nth(column)?.parse::<u64>().ok()
    });
    counts.sum()
}

/// The processors this process may use. Fewer of them may be its share, which is no reason to stay on one.
fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect())
}

/// Where a thread runs: on the processor that is shared, or on any.
#[derive(Clone)]
pub struct Place {
    shared: Option<usize>,
    allowed: Vec<usize>,
    is_shared: bool,
}

impl Place {
    /// On any, for good.
    pub fn anywhere() -> Place {
        Place { shared: None, allowed: Vec::new(), is_shared: false }
    }

    /// What the process may use, and what is wanted of it.
    pub fn of(wish: OneProcessor) -> Place {
        let allowed = allowed().unwrap_or_default();
        let interrupts = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let shared = wish.choose(&allowed, &interrupts);
        Place { shared, allowed, is_shared: false }
    }

    /// Keeps the calling thread on the processor that is shared, if one is.
    pub fn share(&mut self) {
        if let Some(shared) = self.shared.filter(|_| !self.is_shared) {
            self.is_shared = true;
            stay_on(&[shared]);
        }
    }

    /// Lets the calling thread go to the others.
    pub fn leave(&mut self) {
        if self.is_shared {
            self.is_shared = false;
            stay_on(&self.allowed);
        }
    }
}

/// Without the right to that the thread goes on where it is.
fn stay_on(processors: &[usize]) {
    let mut set = CpuSet::new();
    processors.iter().for_each(|processor| set.set(*processor));
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, ?processors, "a thread cannot be bound to processors");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "            CPU2       CPU5       CPU7
  1:          9          0          1   IO-APIC   1-edge      i8042
 36:          1         70          0   PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
LOC:          0          0        999   Local timer interrupts
ERR:          0
";

    #[test]
    fn one_of_two_and_of_more_if_wanted() {
        use OneProcessor::{Always, Auto, Never};
        assert_eq!(Auto.choose(&[2, 5], INTERRUPTS), Some(2));
        assert_eq!(Auto.choose(&[5, 7], INTERRUPTS), Some(7), "its timer does not count");
        assert_eq!(Auto.choose(&[5, 7], ""), Some(5));
        assert_eq!(Auto.choose(&[2], INTERRUPTS), None);
        assert_eq!(Auto.choose(&[2, 5, 7], INTERRUPTS), None);
        assert_eq!(Always.choose(&[2, 5, 7], INTERRUPTS), Some(7));
        assert_eq!(Always.choose(&[], INTERRUPTS), None);
        assert_eq!(Never.choose(&[2, 5], INTERRUPTS), None);
    }

    #[test]
    fn a_thread_stays_where_it_is_told_and_leaves() {
        let before = allowed().expect("this system tells");
        let place = Place::of(OneProcessor::Always);
        let shared = place.shared.expect("it runs somewhere");
        let there = std::thread::spawn(move || {
            let (mut place, here) = (place, || allowed().expect("this system tells"));
            place.leave();
            let first = here();
            place.share();
            place.share();
            let then = here();
            place.leave();
            (first, then, here())
        });
        assert_eq!(there.join().expect("no panic"), (before.clone(), vec![shared], before.clone()));
        assert_eq!(allowed().expect("this system tells"), before, "only that thread");
    }
}
