//! Acknowledgements: each trims its inbox, in batches.
//!
//! What counts as delivered is what a trim removed. So a message is counted once, however often
//! it is acknowledged and to however many nodes: the second trim finds nothing.
//!
//! Acknowledgements are cumulative. Those of one device that come within a flush interval become
//! one trim, and a lost one is made good by the next, or by the next pull; so they are dropped
//! rather than waited for when too many wait. The node that is killed meanwhile loses nothing
//! but room: the entries stay until the device acknowledges again.

use hawser_codec::ids::Seq;
use hawser_codec::link::Acked;

use super::counters::Counter;
use super::event::{Actions, Now, StoreFailure, StoreOp, StoreResult, StreamId, Trim};
use super::limits::Limits;
use super::table::Table;
use super::{Node, Purpose, SeededBug};

#[derive(Debug, Default)]
pub(super) struct Acks {
    waiting: Table<StreamId, Seq>,
    /// Trim operations under way.
    trimming: usize,
    /// When the waiting ones are sent; meaningful while there are any.
    due_ms: u64,
}

impl Acks {
    pub fn deadline_ms(&self, limits: &Limits) -> Option<u64> {
        (!self.waiting.is_empty() && self.trimming < limits.trims_max).then_some(self.due_ms)
    }

    pub fn invariants(&self, node: &Node) {
        assert!(self.waiting.len() <= node.config.limits.acks_waiting_max, "bounded: acks");
        assert!(self.trimming <= node.config.limits.trims_max, "bounded: trims");
        let trimming = node.ops.purposes().filter(|p| matches!(p, Purpose::Trim(_))).count();
        assert_eq!(trimming, self.trimming);
    }
}

impl Node {
    pub(super) fn on_ack(&mut self, acked: Acked) {
        self.counters.add(Counter::Acks, 1);
        let stream = StreamId::Inbox { app: acked.app, device: acked.device };
        self.acknowledge(stream, acked.seq);
    }

    /// The device has everything up to `seq`.
    pub(super) fn acknowledge(&mut self, stream: StreamId, seq: Seq) {
        if seq == Seq::ZERO {
            return;
        }
        let is_full = self.acks.waiting.len() >= self.config.limits.acks_waiting_max;
        if let Some(waiting) = self.acks.waiting.get_mut(&stream) {
            *waiting = seq.max(*waiting);
        } else if is_full {
            self.counters.add(Counter::AcksDropped, 1);
        } else {
            if self.acks.waiting.is_empty() {
                self.acks.due_ms = self.mono_ms + self.config.limits.ack_flush_ms;
            }
            self.acks.waiting.insert(stream, seq);
        }
    }

    pub(super) fn flush_acks(&mut self, now: Now, out: &mut Actions) {
        let limits = &self.config.limits;
        while self.acks.deadline_ms(limits).is_some_and(|due_ms| due_ms <= now.mono_ms) {
            let batch: Vec<StreamId> =
                self.acks.waiting.keys().take(limits.trim_batch_max).copied().collect();
            let extra = u64::from(self.config.bug(SeededBug::TrimsOneTooMany));
            let trim = |stream| {
                let seq = self.acks.waiting.remove(&stream).expect("it was just listed");
                Trim { stream, upto: Seq(seq.0 + extra) }
            };
            let trims: Vec<Trim> = batch.into_iter().map(trim).collect();
            self.acks.trimming += 1;
            let request = StoreOp::Trim { trims: trims.clone() };
            self.ops.store(Purpose::Trim(trims), request, out);
        }
    }

    pub(super) fn on_trimmed(
        &mut self,
        trims: Vec<Trim>,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        self.acks.trimming -= 1;
        match result {
            StoreResult::Trimmed(removed) => {
                assert_eq!(removed.len(), trims.len(), "one count per trim");
                for (trim, removed) in trims.iter().zip(removed) {
                    self.appends.removed(trim.stream, removed);
                    self.accounts.delivered(trim.stream, removed, &mut self.counters);
                }
            }
            StoreResult::Failed(failure) => {
                if failure == StoreFailure::Unknown {
                    self.counters.add(Counter::CountsLost, trims.len() as u64);
                }
                for trim in trims {
                    self.acknowledge(trim.stream, trim.upto);
                }
                self.acks.due_ms = now.mono_ms + u64::from(self.retry_after_ms());
            }
            other => unreachable!("a trim is not answered with {other:?}"),
        }
        self.flush_acks(now, out);
    }
}
