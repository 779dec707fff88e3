//! Group logs: where shards stand, and what became of each entry.
//!
//! A shard is told the end of an app's log (`GroupCursor`) after its first session of the app; it
//! counts on from there and fetches what it misses. The end is read from the store, never taken
//! from what this node is about to append: an entry that the cursor counts is not sent again.
//!
//! Every `group_check_ms` the end is read again. If the log is longer than what this node told its
//! shards, another node appended and may not have lived to deliver: the shards get the cursor and
//! fetch if they lack anything.
//!
//! An entry is kept until it expires, for devices that come later; `expiry.rs` removes it. The log
//! never drops what has not expired: when it is full, pushes are refused.
//!
//! How many sessions got an entry is added up here and stored beside the log, in intervals.

use hawser_codec::ids::{AppId, Seq};
use hawser_codec::link::{GroupAcked, to_broker};

use super::counters::Counter;
use super::event::{
    Actions, Count, CountField, CountKey, LinkId, Now, StoreOp, StoreResult, StreamId,
};
use super::table::Table;
use super::{Node, Purpose, SeededBug};
use crate::records::{TOMBSTONE_KEEP_MS, TTL_S_MAX};

/// Counts of an entry outlive it as long as its state can be asked for.
const GROUP_COUNTS_KEEP_MS: u64 = TTL_S_MAX as u64 * 1000 + TOMBSTONE_KEEP_MS;

#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Links that wait for the end of a log that is being read; empty: a check.
    reading: Table<AppId, Vec<LinkId>>,
    /// The highest entry that the links of an app were told of.
    told: Table<AppId, Seq>,
    counts: Table<(AppId, Seq), EntryCounts>,
    check_due_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryCounts {
    pub sent: u64,
    pub waiting: u64,
    pub acknowledged: u64,
}

impl Groups {
    pub fn told(&mut self, app: AppId, seq: Seq) {
        let told = self.told.entry(app).or_default();
        *told = seq.max(*told);
    }

    pub fn check_due_ms(&self) -> u64 {
        self.check_due_ms
    }

    pub fn has_counts(&self) -> bool {
        !self.counts.is_empty()
    }

    /// What is counted and not stored yet.
    pub fn unflushed(&self, app: AppId, seq: Seq) -> EntryCounts {
        self.counts.get(&(app, seq)).copied().unwrap_or_default()
    }

    fn counts(&mut self, app: AppId, seq: Seq, counts_max: usize) -> Option<&mut EntryCounts> {
        if self.counts.len() >= counts_max && !self.counts.contains_key(&(app, seq)) {
            return None;
        }
        Some(self.counts.entry((app, seq)).or_default())
    }

    /// Takes the counts of up to `entries_max` entries, as operations for the store.
    pub fn take_counts(&mut self, entries_max: usize) -> Vec<Count> {
        let taken: Vec<(AppId, Seq)> = self.counts.keys().take(entries_max).copied().collect();
        let mut counts = Vec::new();
        for (app, seq) in taken {
            let entry = self.counts.remove(&(app, seq)).expect("it was just listed");
            let fields = [
                (CountField::Sent, entry.sent),
                (CountField::Waiting, entry.waiting),
                (CountField::Acknowledged, entry.acknowledged),
            ];
            let key = CountKey::GroupEntry { app, seq };
            let keep_ms = Some(GROUP_COUNTS_KEEP_MS);
            let changed = fields.into_iter().filter(|&(_, by)| by > 0);
            counts.extend(changed.map(|(field, by)| Count { key, field, by, keep_ms }));
        }
        counts
    }

    /// Puts back what the store did not take.
    pub fn put_back(&mut self, app: AppId, seq: Seq, field: CountField, by: u64) {
        let entry = self.counts.entry((app, seq)).or_default();
        match field {
            CountField::Sent => entry.sent += by,
            CountField::Waiting => entry.waiting += by,
            CountField::Acknowledged => entry.acknowledged += by,
            _ => unreachable!("a group entry has no such count"),
        }
    }

    pub fn invariants(&self, node: &Node) {
        // Counts that the store did not take come back, whatever was counted in the meantime.
        let slack = super::accounts::COUNTS_BATCH_MAX;
        assert!(self.counts.len() <= node.config.limits.group_counts_max + slack, "bounded");
        let reading = node.ops.purposes().filter(|p| matches!(p, Purpose::GroupTail(_))).count();
        assert_eq!(reading, self.reading.len(), "one read per log at a time");
    }
}

impl Node {
    /// The link has its first session of the app.
    pub(super) fn ask_cursor(&mut self, link: LinkId, app: AppId, out: &mut Actions) {
        self.read_group_tail(app, Some(link), out);
    }

    /// One read at a time; who asks meanwhile is told the same. A link that came after the read
    /// began may be told an end that is older than its session: it finds the entries in between
    /// as a gap before the next one, and devices that have a place pull for themselves.
    fn read_group_tail(&mut self, app: AppId, asked: Option<LinkId>, out: &mut Actions) {
        let is_reading = self.groups.reading.contains_key(&app);
        let links = self.groups.reading.entry(app).or_default();
        links.extend(asked.filter(|link| !links.contains(link)));
        if !is_reading {
            let request = StoreOp::Tail { stream: StreamId::Group { app } };
            self.ops.store(Purpose::GroupTail(app), request, out);
        }
    }

    pub(super) fn check_groups(&mut self, now: Now, out: &mut Actions) {
        self.groups.check_due_ms = now.mono_ms + self.config.limits.group_check_ms;
        let mut apps: Vec<AppId> =
            self.routes.links().flat_map(|(_, link)| link.apps.keys().copied()).collect();
        apps.sort_unstable();
        apps.dedup();
        for app in apps {
            self.read_group_tail(app, None, out);
        }
    }

    pub(super) fn on_group_tail(
        &mut self,
        app: AppId,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        let asked = self.groups.reading.remove(&app).expect("a read has its entry");
        let tail = match result {
            StoreResult::Tail(tail) => tail,
            StoreResult::Failed(_) => {
                // The next check tells every link.
                self.groups.told.remove(&app);
                let retry_ms = now.mono_ms + u64::from(self.retry_after_ms());
                self.groups.check_due_ms = self.groups.check_due_ms.min(retry_ms);
                return;
            }
            other => unreachable!("a tail is not answered with {other:?}"),
        };
        let mut seq = tail.last;
        if self.bug(SeededBug::CursorTooEarly) {
            seq.0 += self.appends.unstored(StreamId::Group { app });
        }
        let is_news = self.groups.told.get(&app).is_none_or(|&told| told < tail.last);
        self.groups.told(app, tail.last);
        let links = if is_news { self.routes.links_of_app(app) } else { asked };
        for link in links {
            if self.routes.link(link).is_some() {
                self.counters.add(Counter::GroupCursors, 1);
                out.send(link, |bytes| to_broker::group_cursor(bytes, app, seq));
            }
        }
    }

    pub(super) fn on_group_sent(&mut self, app: AppId, seq: Seq, sent: u32, waiting: u32) {
        let counts_max = self.config.limits.group_counts_max;
        if let Some(counts) = self.groups.counts(app, seq, counts_max) {
            counts.sent += u64::from(sent);
            counts.waiting += u64::from(waiting);
        } else {
            self.counters.add(Counter::CountsLost, 1);
        }
    }

    pub(super) fn on_group_ack(&mut self, acked: GroupAcked) {
        let counts_max = self.config.limits.group_counts_max;
        let quota = self.accounts.quota(acked.app).unwrap_or_default();
        let told = self.groups.told.get(&acked.app).copied().unwrap_or_default();
        if acked.seq.0.saturating_add(u64::from(quota.group_log_entries_max)) < told.0 {
            // The log no longer has it: a device that is far behind, or one that makes numbers up.
            self.counters.add(Counter::CountsLost, 1);
            return;
        }
        if let Some(counts) = self.groups.counts(acked.app, acked.seq, counts_max) {
            counts.acknowledged += u64::from(acked.count);
        } else {
            self.counters.add(Counter::CountsLost, 1);
        }
    }
}
