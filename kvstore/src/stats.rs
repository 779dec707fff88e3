//! How often each command ran, for how long, and how it failed: INFO commandstats, errorstats,
//! latencystats and LATENCY HISTOGRAM. Plain counters, one set for every command of the catalogue.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::command::catalogue::{self, Facts};
use crate::histogram::{Counts, Histogram};

/// Codes of errors that are counted apart. Codes are few and not the client's to choose; this holds
/// should a command ever quote one.
const ERROR_CODES_MAX: usize = 128;

#[derive(Default)]
struct Counters {
    /// How long those took that ran.
    times: Histogram,
    /// Refused before they ran: arity, permissions.
    rejected: AtomicU64,
    /// Answered with an error.
    failed: AtomicU64,
}

pub struct CommandStats {
    commands: Vec<Counters>,
    errors: Mutex<BTreeMap<String, u64>>,
}

/// What is known of one command at one moment.
pub struct Row {
    pub name: &'static str,
    pub times: Counts,
    pub rejected: u64,
    pub failed: u64,
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
        counters.times.took(took);
        counters.failed.fetch_add(failed.into(), Relaxed);
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
            times: counters.times.counts(),
            rejected: counters.rejected.load(Relaxed),
            failed: counters.failed.load(Relaxed),
        });
        rows.filter(|row| row.times.calls() + row.rejected > 0).collect()
    }

    pub fn reset(&self) {
        for counters in &self.commands {
            counters.times.reset();
            counters.rejected.store(0, Relaxed);
            counters.failed.store(0, Relaxed);
        }
        self.errors.lock().expect("not poisoned: nothing panics under it").clear();
    }
}
