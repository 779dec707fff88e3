//! Events that took longer than a threshold, by kind: LATENCY. Nothing is kept while the threshold is 0,
//! as it is until `latency-monitor-threshold` is set. How long the log and the database take is counted
//! all the same, for the metrics.
//!
//! ```text
//! command       running one command
//! fast-command  the same for one whose time should not depend on the data
//! log-sync      writing and syncing one group
//! db-apply      applying one group to the database
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use crate::histogram::Histogram;
use crate::live::Live;
use crate::store::database::unix_ms;

/// Samples of one event, as in Redis.
const SAMPLES_MAX: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Command,
    FastCommand,
    LogSync,
    DbApply,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Event::Command => "command",
            Event::FastCommand => "fast-command",
            Event::LogSync => "log-sync",
            Event::DbApply => "db-apply",
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Unix seconds and milliseconds, oldest first; the worst of each second.
    pub samples: VecDeque<(u64, u64)>,
    pub worst_ms: u64,
}

#[derive(Default)]
pub struct Latencies {
    events: Mutex<BTreeMap<&'static str, Series>>,
    pub log_sync: Histogram,
    pub db_apply: Histogram,
}

impl Latencies {
    pub fn took(&self, live: &Live, event: Event, took: Duration) {
        match event {
            Event::LogSync => self.log_sync.took(took),
            Event::DbApply => self.db_apply.took(took),
            Event::Command | Event::FastCommand => {}
        }
        let threshold_ms = live.latency_threshold_ms();
        let ms = took.as_millis() as u64;
        if threshold_ms > 0 && ms >= threshold_ms {
            self.add(event, unix_ms() / 1000, ms);
        }
    }

    fn add(&self, event: Event, at_s: u64, ms: u64) {
        let mut events = self.events.lock().expect("not poisoned: nothing panics under it");
        let series = events.entry(event.name()).or_default();
        series.worst_ms = series.worst_ms.max(ms);
        match series.samples.back_mut() {
            Some((second, worst)) if *second == at_s => *worst = (*worst).max(ms),
            _ => series.samples.push_back((at_s, ms)),
        }
        if series.samples.len() > SAMPLES_MAX {
            series.samples.pop_front();
        }
    }

    pub fn all(&self) -> BTreeMap<&'static str, Series> {
        self.events.lock().expect("not poisoned: nothing panics under it").clone()
    }

    /// Forgets some events, or all; returns how many there were.
    pub fn reset(&self, names: &[impl AsRef<[u8]>]) -> usize {
        let mut events = self.events.lock().expect("not poisoned: nothing panics under it");
        let before = events.len();
        let is_named = |event: &str| names.iter().any(|name| name.as_ref() == event.as_bytes());
        events.retain(|event, _| !names.is_empty() && !is_named(event));
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_keeps_the_worst_of_each_second_and_is_bounded() {
        let latencies = Latencies::default();
        for second in 0..=SAMPLES_MAX as u64 {
            latencies.add(Event::Command, second, 5);
            latencies.add(Event::Command, second, 9);
            latencies.add(Event::Command, second, 7);
        }
        let series = &latencies.all()["command"];
        assert_eq!(series.samples.len(), SAMPLES_MAX);
        assert_eq!(series.samples.front(), Some(&(1, 9)));
        assert_eq!(series.worst_ms, 9);
        assert_eq!(latencies.reset(&["other"]), 0);
        assert_eq!(latencies.reset(&[] as &[&str]), 1);
        assert!(latencies.all().is_empty());
    }
}
