//! Removing what expired, for devices that do not come back.
//!
//! ```text
//!   pause ─▶ Scan (some keys) ─▶ per stream: Read, Delete, Read.. to its end ─▶ pause
//! ```
//!
//! A pull removes what it meets itself (`pulls.rs`); this walk is for streams nobody reads. It
//! goes through all streams of the store at a fixed pace, one scan step at a time and a few
//! streams at once, so that its cost does not follow the load. Every node walks: what both find is
//! deleted once, and the count is what the deletion found.
//!
//! Nothing depends on its speed: an entry whose time is over is never sent, and its state reads as
//! expired, whether or not it is still stored.

use std::collections::VecDeque;

use hawser_codec::ids::Seq;

use super::counters::Counter;
use super::event::{Actions, Expired, Now, StoreOp, StoreResult, StreamId};
use super::{Node, Purpose};
use crate::records::{Entry, TOMBSTONE_KEEP_MS};

/// Streams of one step that are read at the same time.
const SWEEPS_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Sweep {
    cursor: u64,
    /// Streams of this step that were not looked at.
    queue: VecDeque<StreamId>,
    /// Operations under way: one scan, or up to `SWEEPS_MAX` streams.
    under_way: usize,
    due_ms: u64,
}

/// A stream that is being looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sweeping {
    pub stream: StreamId,
    /// Everything up to here was looked at.
    upto: Seq,
    is_end: bool,
}

impl Sweep {
    pub fn deadline_ms(&self) -> Option<u64> {
        (self.under_way == 0).then_some(self.due_ms)
    }

    pub fn invariants(&self, node: &Node) {
        assert!(self.under_way <= SWEEPS_MAX, "bounded: sweeps");
        let under_way = node.ops.purposes().filter(|purpose| {
            matches!(purpose, Purpose::Scan | Purpose::Sweep(_) | Purpose::SweepDelete(_))
        });
        assert_eq!(under_way.count(), self.under_way);
        assert!(self.queue.is_empty() || self.under_way > 0, "a step goes on by itself");
    }
}

impl Node {
    pub(super) fn start_sweep(&mut self, out: &mut Actions) {
        self.sweep.under_way = 1;
        let (cursor, count) = (self.sweep.cursor, self.config.limits.sweep_keys);
        self.ops.store(Purpose::Scan, StoreOp::Scan { cursor, count }, out);
    }

    pub(super) fn on_scanned(&mut self, result: StoreResult, now: Now, out: &mut Actions) {
        self.sweep.under_way -= 1;
        let limits = &self.config.limits;
        self.sweep.due_ms = now.mono_ms + limits.sweep_ms;
        match result {
            StoreResult::Scanned { cursor, streams } => {
                if cursor == 0 {
                    self.sweep.due_ms = now.mono_ms + limits.sweep_cycle_ms;
                }
                self.sweep.cursor = cursor;
                self.sweep.queue.extend(streams);
                self.sweep_more(out);
            }
            StoreResult::Failed(_) => {
                self.sweep.due_ms = now.mono_ms + limits.store_retry_max_ms;
            }
            other => unreachable!("a scan is not answered with {other:?}"),
        }
    }

    fn sweep_more(&mut self, out: &mut Actions) {
        while self.sweep.under_way < SWEEPS_MAX {
            let Some(stream) = self.sweep.queue.pop_front() else { return };
            self.counters.add(Counter::SweptStreams, 1);
            self.sweep.under_way += 1;
            self.sweep_read(Sweeping { stream, upto: Seq::ZERO, is_end: false }, out);
        }
    }

    fn sweep_read(&mut self, sweeping: Sweeping, out: &mut Actions) {
        let Sweeping { stream, upto, .. } = sweeping;
        let count = self.config.limits.read_entries;
        let request = StoreOp::Read { stream, after: upto, count };
        self.ops.store(Purpose::Sweep(sweeping), request, out);
    }

    pub(super) fn on_swept(
        &mut self,
        mut sweeping: Sweeping,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        let entries = match result {
            StoreResult::Entries { entries, .. } => entries,
            StoreResult::Failed(_) => return self.swept(out),
            other => unreachable!("a read is not answered with {other:?}"),
        };
        sweeping.is_end = entries.len() < self.config.limits.read_entries as usize;
        sweeping.upto = entries.last().map_or(sweeping.upto, |&(seq, _)| seq);
        let is_over = |entry: &Entry| entry.expires_unix_ms <= now.unix_ms;
        let expired: Vec<Expired> = entries
            .iter()
            .filter(|(_, stored)| Entry::decode(stored).as_ref().is_some_and(is_over))
            .map(|&(seq, _)| Expired { seq, keep_ms: TOMBSTONE_KEEP_MS })
            .collect();
        if expired.is_empty() {
            self.sweep_on(sweeping, out);
        } else {
            let request = StoreOp::Delete { stream: sweeping.stream, entries: expired };
            self.ops.store(Purpose::SweepDelete(sweeping), request, out);
        }
    }

    pub(super) fn on_sweep_deleted(
        &mut self,
        sweeping: Sweeping,
        result: StoreResult,
        out: &mut Actions,
    ) {
        match result {
            StoreResult::Deleted(count) => {
                self.count_expired(sweeping.stream, count);
                self.sweep_on(sweeping, out);
            }
            // The next walk finds them again.
            StoreResult::Failed(_) => self.swept(out),
            other => unreachable!("a deletion is not answered with {other:?}"),
        }
    }

    fn sweep_on(&mut self, sweeping: Sweeping, out: &mut Actions) {
        if sweeping.is_end { self.swept(out) } else { self.sweep_read(sweeping, out) }
    }

    fn swept(&mut self, out: &mut Actions) {
        self.sweep.under_way -= 1;
        self.sweep_more(out);
    }

    /// Entries of a stream were deleted because their time was over.
    pub(super) fn count_expired(&mut self, stream: StreamId, count: u64) {
        self.appends.removed(stream, count);
        self.accounts.expired(stream, count, &mut self.counters);
    }
}
