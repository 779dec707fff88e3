//! How often each command ran, for how long, and how it failed: INFO commandstats, errorstats,
//! latencystats and LATENCY HISTOGRAM. Plain counters, one set for every command of the catalogue.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::command::catalogue::{self, Facts};

/// Powers of two of microseconds that are told apart: up to 17 minutes.
const BUCKETS: usize = 30;

/// Codes of errors that are counted apart. Codes are few and not the client's to choose; this holds
/// should a command ever quote one.
const ERROR_CODES_MAX: usize = 128;

struct Counters {
    calls: AtomicU64,
    micros: AtomicU64,
    /// Refused before they ran: arity, permissions.
    rejected: AtomicU64,
    /// Answered with an error.
    failed: AtomicU64,
    /// Calls that took less than 1, 2, 4, … microseconds, each counted once.
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = || AtomicU64::new(0);
        let buckets = std::array::from_fn(|_| zero());
        Counters { calls: zero(), micros: zero(), rejected: zero(), failed: zero(), buckets }
    }
}

pub struct CommandStats {
    commands: Vec<Counters>,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// What is known of one command at one moment.
pub struct Row {
    pub name: &'static str,
    pub calls: u64,
    pub micros: u64,
    pub rejected: u64,
    pub failed: u64,
    buckets: [u64; BUCKETS],
}

impl Default for CommandStats {
    fn default() -> CommandStats {
        let commands = catalogue::all().iter().map(|_| Counters::default()).collect();
        CommandStats { commands, errors: Mutex::default() }
    }
}

impl CommandStats {
    pub fn ran(&self, facts: &Facts, took: Duration, failed: bool) {
        let counters = &self.commands[facts.index];
        let micros = took.as_micros() as u64;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        counters.calls.fetch_add(1, Relaxed);
        counters.micros.fetch_add(micros, Relaxed);
        counters.failed.fetch_add(failed.into(), Relaxed);
        counters.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    pub fn rejected(&self, facts: &Facts) {
        self.commands[facts.index].rejected.fetch_add(1, Relaxed);
    }

    /// Counts an error by its code, the first word of its text.
    pub fn error(&self, text: &str) {
        let code = text.split(' ').next().unwrap_or_default();
        let mut errors = self.errors.lock().expect("not poisoned: nothing panics under it");
        if let Some(count) = errors.get_mut(code) {
            *count += 1;
        } else if errors.len() < ERROR_CODES_MAX {
            errors.insert(code.to_string(), 1);
        }
    }

    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().expect("not poisoned: nothing panics under it").clone()
    }

    /// The commands that were called or refused.
    pub fn rows(&self) -> Vec<Row> {
        let all = catalogue::all().iter().zip(&self.commands);
        let rows = all.map(|(facts, counters)| Row {
            name: facts.name,
            calls: counters.calls.load(Relaxed),
            micros: counters.micros.load(Relaxed),
            rejected: counters.rejected.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            buckets: std::array::from_fn(|bucket| counters.buckets[bucket].load(Relaxed)),
        });
        rows.filter(|row| row.calls + row.rejected > 0).collect()
    }

    pub fn reset(&self) {
        for counters in &self.commands {
            let Counters { calls, micros, rejected, failed, buckets } = counters;
            let all = [calls, micros, rejected, failed];
            all.into_iter().chain(buckets).for_each(|counter| counter.store(0, Relaxed));
        }
        self.errors.lock().expect("not poisoned: nothing panics under it").clear();
    }
}

impl Row {
    /// Upper ends in microseconds, and how many calls took less, for those where it grows.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        let mut below = 0;
        let mut found = Vec::new();
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if *count > 0 {
                found.push((1 << bucket, below));
            }
        }
        found
    }

    /// Microseconds that so many of 100 calls did not exceed: the end of a bucket.
    pub fn percentile(&self, percent: f64) -> u64 {
        let total: u64 = self.buckets.iter().sum();
        let wanted = (total as f64 * percent / 100.0).ceil() as u64;
        let reached = self.histogram().into_iter().find(|(_, below)| *below >= wanted);
        reached.map_or(0, |(micros, _)| micros)
    }
}
