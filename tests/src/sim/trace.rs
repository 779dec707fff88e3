//! What a run leaves behind: a hash of everything that happened, for the proof that a seed replays;
//! lines for a person, when asked; and counts of what was reached, so that a simulator that has
//! stopped to exercise something is noticed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::Hasher;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    pub now_ms: u64,
    pub verbose: bool,
    lines: u64,
    hasher: DefaultHasher,
    reached: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub fn new(verbose: bool) -> Trace {
        Trace { verbose, ..Trace::default() }
    }

    /// Notes that something happened. Formatted into the hash without a copy.
    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        self.lines += 1;
        self.hasher.write_u64(self.now_ms);
        Feed(&mut self.hasher).write_fmt(line).expect("hashing does not fail");
        if self.verbose {
            println!("{:>9.3} {line}", self.now_ms as f64 / 1000.0);
        }
    }

    /// Counts that a kind of thing happened.
    pub fn reach(&mut self, what: &'static str) {
        self.reach_by(what, 1);
    }

    pub fn reach_by(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.reached.entry(what).or_default() += count;
        }
    }

    pub fn reached(&self) -> &BTreeMap<&'static str, u64> {
        &self.reached
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

struct Feed<'a>(&'a mut DefaultHasher);

impl Write for Feed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
