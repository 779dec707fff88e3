//! What apps may use and what became of their messages.
//!
//! A quota of messages per second is a token bucket that holds one second's worth, per node. What
//! became of messages is counted here as the store reports it, and added to the app's counters in
//! the store in intervals, where all nodes' counts meet.
//!
//! `accepted = delivered + expired + collapsed + pending`: the first four are counted by what an
//! operation really did, the last is computed. A node that is killed loses the counts since its
//! last flush; a flush that the store did not answer is not repeated (it would count twice).

use hawser_codec::ids::AppId;

use super::counters::{Counter, Counters};
use super::event::{
    Actions, AppTotals, Count, CountField, CountKey, Now, StoreFailure, StoreOp, StoreResult,
    StreamId,
};
use super::table::Table;
use super::{Node, Purpose};
use crate::records::{App, Quota};

/// Counters stored by one operation.
pub(super) const COUNTS_BATCH_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: Table<AppId, Account>,
    /// Counted and not stored yet.
    unflushed: Table<(AppId, CountField), u64>,
    /// One flush at a time.
    is_flushing: bool,
    due_ms: u64,
}

#[derive(Debug)]
struct Account {
    quota: Quota,
    /// Thousandths of a message.
    tokens: u64,
    filled_ms: u64,
}

const TOKEN: u64 = 1000;

impl Account {
    fn new(quota: Quota, now: Now) -> Account {
        let tokens = u64::from(quota.messages_per_s) * TOKEN;
        Account { quota, tokens, filled_ms: now.mono_ms }
    }

    /// Takes one message from the bucket, or says in how many milliseconds there will be one.
    fn take(&mut self, now: Now) -> Result<(), u32> {
        let rate = u64::from(self.quota.messages_per_s);
        if rate == 0 {
            return Ok(());
        }
        // A rate per second is as many thousandths per millisecond.
        let elapsed_ms = now.mono_ms.saturating_sub(self.filled_ms).min(1000);
        self.tokens = (self.tokens + elapsed_ms * rate).min(rate * TOKEN);
        self.filled_ms = now.mono_ms;
        if self.tokens >= TOKEN {
            self.tokens -= TOKEN;
            return Ok(());
        }
        Err((TOKEN - self.tokens).div_ceil(rate) as u32)
    }
}

impl Accounts {
    /// Takes over a new app table; buckets of known apps keep their level.
    pub fn set_apps(&mut self, apps: &[App], now: Now) {
        let mut accounts = Table::default();
        for app in apps {
            let quota = app.new.quota;
            let account = match self.accounts.remove(&app.id) {
                Some(account) if account.quota == quota => account,
                _ => Account::new(quota, now),
            };
            accounts.insert(app.id, account);
        }
        self.accounts = accounts;
    }

    pub fn quota(&self, app: AppId) -> Option<Quota> {
        self.accounts.get(&app).map(|account| account.quota)
    }

    /// Takes one message from the app's bucket. The app must be known.
    pub fn take(&mut self, app: AppId, now: Now) -> Result<(), u32> {
        self.accounts.get_mut(&app).expect("the caller knows the app").take(now)
    }

    pub fn accepted(&mut self, stream: StreamId, counters: &mut Counters) {
        let (field, counter) = match stream {
            StreamId::Inbox { .. } => (CountField::Accepted, Counter::Accepted),
            StreamId::Group { .. } => (CountField::GroupAccepted, Counter::GroupAccepted),
        };
        self.add(stream.app(), field, 1);
        counters.add(counter, 1);
    }

    pub fn delivered(&mut self, stream: StreamId, count: u64, counters: &mut Counters) {
        self.add(stream.app(), CountField::Delivered, count);
        counters.add(Counter::Delivered, count);
    }

    pub fn expired(&mut self, stream: StreamId, count: u64, counters: &mut Counters) {
        let (field, counter) = match stream {
            StreamId::Inbox { .. } => (CountField::Expired, Counter::Expired),
            StreamId::Group { .. } => (CountField::GroupExpired, Counter::GroupExpired),
        };
        self.add(stream.app(), field, count);
        counters.add(counter, count);
    }

    pub fn collapsed(&mut self, stream: StreamId, counters: &mut Counters) {
        let (field, counter) = match stream {
            StreamId::Inbox { .. } => (CountField::Collapsed, Counter::Collapsed),
            StreamId::Group { .. } => (CountField::GroupCollapsed, Counter::GroupCollapsed),
        };
        self.add(stream.app(), field, 1);
        counters.add(counter, 1);
    }

    fn add(&mut self, app: AppId, field: CountField, by: u64) {
        if by > 0 {
            *self.unflushed.entry((app, field)).or_default() += by;
        }
    }

    /// Takes up to `counts_max` counts, as operations for the store.
    fn take_counts(&mut self, counts_max: usize) -> Vec<Count> {
        let taken: Vec<(AppId, CountField)> =
            self.unflushed.keys().take(counts_max).copied().collect();
        let count = |(app, field)| {
            let by = self.unflushed.remove(&(app, field)).expect("it was just listed");
            Count { key: CountKey::App(app), field, by, keep_ms: None }
        };
        taken.into_iter().map(count).collect()
    }

    /// What the store has of an app, and what this node has not stored yet.
    pub fn totals(&self, app: AppId, stored: &[(CountField, u64)]) -> AppTotals {
        let sum = |field| {
            let stored = stored.iter().filter(|(of, _)| *of == field).map(|(_, value)| value);
            stored.sum::<u64>() + self.unflushed.get(&(app, field)).copied().unwrap_or_default()
        };
        let (accepted, delivered) = (sum(CountField::Accepted), sum(CountField::Delivered));
        let (expired, collapsed) = (sum(CountField::Expired), sum(CountField::Collapsed));
        AppTotals {
            app,
            accepted,
            delivered,
            expired,
            collapsed,
            // Counts of several nodes are stored at different times.
            pending: accepted.saturating_sub(delivered + expired + collapsed),
            group_accepted: sum(CountField::GroupAccepted),
            group_expired: sum(CountField::GroupExpired),
            group_collapsed: sum(CountField::GroupCollapsed),
        }
    }
}

impl Node {
    pub(super) fn counts_deadline_ms(&self) -> Option<u64> {
        let is_idle = self.accounts.unflushed.is_empty() && !self.groups.has_counts();
        (!is_idle && !self.accounts.is_flushing).then_some(self.accounts.due_ms)
    }

    pub(super) fn flush_counts(&mut self, now: Now, out: &mut Actions) {
        self.accounts.due_ms = now.mono_ms + self.config.limits.counts_flush_ms;
        let mut counts = self.accounts.take_counts(COUNTS_BATCH_MAX);
        // A group entry has up to three counts.
        let room = (COUNTS_BATCH_MAX - counts.len()) / 3;
        counts.extend(self.groups.take_counts(room));
        if counts.is_empty() {
            return;
        }
        self.accounts.is_flushing = true;
        let request = StoreOp::Count { counts: counts.clone() };
        self.ops.store(Purpose::Counts(counts), request, out);
    }

    pub(super) fn on_counted(
        &mut self,
        counts: Vec<Count>,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        self.accounts.is_flushing = false;
        match result {
            // A full batch left others behind.
            StoreResult::Counted if counts.len() >= COUNTS_BATCH_MAX / 2 => {
                self.flush_counts(now, out);
            }
            StoreResult::Counted => {}
            StoreResult::Failed(StoreFailure::Unknown) => {
                self.counters.add(Counter::CountsLost, counts.len() as u64);
            }
            StoreResult::Failed(StoreFailure::NotDone) => {
                for count in counts {
                    match count.key {
                        CountKey::App(app) => self.accounts.add(app, count.field, count.by),
                        CountKey::GroupEntry { app, seq } => {
                            self.groups.put_back(app, seq, count.field, count.by);
                        }
                    }
                }
            }
            other => unreachable!("counting is not answered with {other:?}"),
        }
    }
}
