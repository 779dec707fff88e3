//! How long something took, in powers of two of microseconds: counters that any thread adds to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Powers of two that are told apart: up to 17 minutes.
pub const BUCKETS: usize = 30;

pub struct Histogram {
    micros: AtomicU64,
    /// Those that took less than 1, 2, 4, … microseconds, each counted once.
    buckets: [AtomicU64; BUCKETS],
}

/// A histogram at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub micros: u64,
    buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Histogram {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Histogram { micros: AtomicU64::new(0), buckets }
    }
}

impl Histogram {
    pub fn took(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.micros.fetch_add(micros, Relaxed);
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            micros: self.micros.load(Relaxed),
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
        }
    }

    pub fn reset(&self) {
        self.micros.store(0, Relaxed);
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

impl Counts {
    pub fn calls(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Ends of buckets in microseconds, and how many took less.
    pub fn below(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().scan(0, |below, (bucket, count)| {
            *below += count;
            Some((1 << bucket, *below))
        })
    }

    /// The same for those buckets that have something in them.
    pub fn steps(&self) -> Vec<(u64, u64)> {
        let grew = self.below().zip(self.buckets).filter(|(_, count)| *count > 0);
        grew.map(|(step, _)| step).collect()
    }

    /// Microseconds that so many of 100 did not exceed: the end of a bucket.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = (self.calls() as f64 * percent / 100.0).ceil() as u64;
        let reached = self.steps().into_iter().find(|(_, below)| *below >= wanted);
        reached.map_or(0, |(micros, _)| micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_bucket_that_ends_above_them() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().percentile(99.0), 0);
        for micros in [0, 1, 3, 4, 1000] {
            histogram.took(Duration::from_micros(micros));
        }
        histogram.took(Duration::from_secs(1 << 40));
        let counts = histogram.counts();
        assert_eq!(counts.calls(), 6);
        assert_eq!(counts.steps(), [(1, 1), (2, 2), (4, 3), (8, 4), (1024, 5), (1 << 29, 6)]);
        assert_eq!((counts.percentile(50.0), counts.percentile(100.0)), (4, 1 << 29));
        assert_eq!(counts.below().nth(3), Some((8, 4)));
        histogram.reset();
        assert_eq!(histogram.counts(), Counts::default());
    }
}
