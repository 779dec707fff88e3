//! API calls: the checks of a push, and the questions about messages, devices and the node.
//!
//! Checks come in the order in which they cost: app, time to live, size, room on this node, the
//! app's rate. A push that passes goes to `append.rs` and is answered there; a question reads the
//! store once or twice and is answered here. No index is kept for either: a message's id says
//! where the message stands.

use hawser_codec::ids::{DeviceId, Seq, TopicId};
use hawser_codec::limits::PAYLOAD_BYTES_MAX;

use super::append::Waiting;
use super::counters::Counter;
use super::event::{
    Actions, Answer, CallId, CountField, CountKey, DeviceInfo, GroupInfo, InboxInfo, Keyed,
    LinkInfo, MessageInfo, MessageState, NewEntry, Now, Priority, Push, Refusal, Removal, Request,
    SessionInfo, Status, StoreOp, StoreResult, StreamId, Tail, To,
};
use super::{Node, Purpose};
use crate::records::{Entry, IDEMPOTENCY_KEEP_MS, MessageId, TOMBSTONE_KEEP_MS, TTL_S_MAX};

impl Node {
    pub(super) fn on_call(&mut self, call: CallId, request: Request, now: Now, out: &mut Actions) {
        if let Request::Push(push) = request {
            return self.on_push(call, push, now, out);
        }
        if self.calls_waiting >= self.config.limits.calls_waiting_max {
            let retry_after_ms = self.retry_after_ms();
            return self.refuse(call, Refusal::Overloaded { retry_after_ms }, out);
        }
        self.calls_waiting += 1;
        match request {
            Request::Push(_) => unreachable!("pushes were taken out above"),
            Request::MessageState { app, id } => {
                if self.accounts.quota(app).is_none() {
                    return self.refuse_call(call, Refusal::UnknownApp, out);
                }
                if id.stream.app() != app {
                    return self.refuse_call(call, Refusal::UnknownMessage, out);
                }
                let request = StoreOp::Find { stream: id.stream, seq: id.seq };
                self.ops.store(Purpose::Find { call, id }, request, out);
            }
            Request::DeviceShow { app, device } => {
                if self.accounts.quota(app).is_none() {
                    return self.refuse_call(call, Refusal::UnknownApp, out);
                }
                let stream = StreamId::Inbox { app, device };
                self.ops.store(Purpose::Device { call, device }, StoreOp::Tail { stream }, out);
            }
            Request::Status => {
                let keys = self.apps.list().iter().map(|app| CountKey::App(app.id)).collect();
                self.ops.store(Purpose::Status { call }, StoreOp::ReadCounts { keys }, out);
            }
            Request::AppCreate(new) => self.on_app_create(call, new, out),
            Request::AppsRefresh => self.refresh_apps(call, now, out),
        }
    }

    fn on_push(&mut self, call: CallId, push: Push, now: Now, out: &mut Actions) {
        let stream = match push.to {
            To::Device(device) => StreamId::Inbox { app: push.app, device },
            To::Topic(_) | To::All => StreamId::Group { app: push.app },
        };
        match self.check_push(&push, stream, now) {
            Ok(()) => self.append(stream, Waiting { call, new: new_entry(&push, now) }, now, out),
            Err(refusal) => self.refuse(call, refusal, out),
        }
    }

    fn check_push(&mut self, push: &Push, stream: StreamId, now: Now) -> Result<(), Refusal> {
        let retry_after_ms = self.retry_after_ms();
        if !self.apps.is_known() {
            return Err(Refusal::StoreUnavailable { retry_after_ms });
        }
        if self.accounts.quota(push.app).is_none() {
            return Err(Refusal::UnknownApp);
        }
        if !(1..=TTL_S_MAX).contains(&push.ttl_s) {
            return Err(Refusal::BadTtl);
        }
        if push.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Refusal::PayloadTooLarge);
        }
        if !self.has_room(push, stream) {
            return Err(Refusal::Overloaded { retry_after_ms });
        }
        self.accounts
            .take(push.app, now)
            .map_err(|retry_after_ms| Refusal::QuotaExceeded { retry_after_ms })
    }

    /// The lower a message's priority, the earlier it is refused: at half, at three quarters.
    fn has_room(&self, push: &Push, stream: StreamId) -> bool {
        let limits = &self.config.limits;
        let share = |max: usize| match push.priority {
            Priority::Low => max / 2,
            Priority::Normal => max - max / 4,
            Priority::High => max,
        };
        let bytes = self.appends.waiting_bytes() + push.payload.len();
        self.appends.waiting() < share(limits.pushes_waiting_max)
            && bytes <= share(limits.pushes_waiting_bytes_max)
            && self.appends.waiting_of(stream) < share(limits.stream_waiting_max)
    }

    pub(super) fn on_found(
        &mut self,
        call: CallId,
        id: MessageId,
        result: StoreResult,
        now: Now,
        out: &mut Actions,
    ) {
        let StoreResult::Found { tail, entry, removal } = result else {
            return self.refuse_failed(call, result, out);
        };
        if id.seq > tail.last {
            return self.refuse_call(call, Refusal::UnknownMessage, out);
        }
        let entry = entry.as_ref().and_then(Entry::decode);
        let expires_unix_ms =
            entry.as_ref().map_or(id.expires_unix_ms(), |entry| entry.expires_unix_ms);
        let is_over = expires_unix_ms <= now.unix_ms;
        let state = match (&entry, removal, id.stream) {
            (Some(_), _, _) if is_over => MessageState::Expired,
            (Some(_), _, _) => MessageState::Pending,
            (None, Some(Removal::Expired), _) => MessageState::Expired,
            (None, Some(Removal::Collapsed), _) => MessageState::Collapsed,
            (None, None, _) if expires_unix_ms + TOMBSTONE_KEEP_MS <= now.unix_ms => {
                return self.refuse_call(call, Refusal::UnknownMessage, out);
            }
            (None, None, StreamId::Inbox { .. }) => MessageState::Delivered,
            (None, None, StreamId::Group { .. }) => MessageState::Expired,
        };
        match id.stream {
            StreamId::Inbox { .. } => {
                let info = MessageInfo { id, state, expires_unix_ms };
                self.answer(call, Answer::Message(info), out);
            }
            StreamId::Group { app } => {
                let info =
                    GroupInfo { id, state, expires_unix_ms, sent: 0, waiting: 0, acknowledged: 0 };
                let keys = vec![CountKey::GroupEntry { app, seq: id.seq }];
                let purpose = Purpose::GroupCounts { call, info };
                self.ops.store(purpose, StoreOp::ReadCounts { keys }, out);
            }
        }
    }

    pub(super) fn on_group_counts(
        &mut self,
        call: CallId,
        mut info: GroupInfo,
        result: StoreResult,
        out: &mut Actions,
    ) {
        let StoreResult::Counts(counts) = result else {
            return self.refuse_failed(call, result, out);
        };
        let unflushed = self.groups.unflushed(info.id.stream.app(), info.id.seq);
        (info.sent, info.waiting, info.acknowledged) =
            (unflushed.sent, unflushed.waiting, unflushed.acknowledged);
        for (field, value) in counts.into_iter().flatten() {
            match field {
                CountField::Sent => info.sent += value,
                CountField::Waiting => info.waiting += value,
                CountField::Acknowledged => info.acknowledged += value,
                _ => {}
            }
        }
        self.answer(call, Answer::Group(info), out);
    }

    pub(super) fn on_device(
        &mut self,
        call: CallId,
        device: DeviceId,
        result: StoreResult,
        out: &mut Actions,
    ) {
        let StoreResult::Tail(tail) = result else {
            return self.refuse_failed(call, result, out);
        };
        let session = self.routes.get(device).and_then(|route| {
            let link = self.routes.link(route.link)?;
            let since_unix_ms = route.epoch.unix_ms();
            Some(SessionInfo { broker: link.broker, shard: link.shard, since_unix_ms })
        });
        let inbox = InboxInfo { entries: tail.entries, last: tail.last, settled: settled(tail) };
        self.answer(call, Answer::Device(DeviceInfo { session, inbox }), out);
    }

    pub(super) fn on_status(&mut self, call: CallId, result: StoreResult, out: &mut Actions) {
        let StoreResult::Counts(counts) = result else {
            return self.refuse_failed(call, result, out);
        };
        // Apps are only added, at the end: the counts are of the first ones.
        let apps = self.apps.list().iter().zip(&counts);
        let apps = apps.map(|(app, counts)| self.accounts.totals(app.id, counts)).collect();
        let status = Status { apps, ..self.status() };
        self.answer(call, Answer::Status(Box::new(status)), out);
    }

    /// What can be said without the store: everything but the apps' totals.
    pub fn status(&self) -> Status {
        let mut links: Vec<LinkInfo> = self
            .routes
            .links()
            .map(|(link, of)| LinkInfo {
                link,
                broker: of.broker,
                incarnation: of.incarnation,
                shard: of.shard,
                sessions: of.sessions,
            })
            .collect();
        links.sort_unstable_by_key(|info| (info.broker, info.shard));
        Status {
            node: self.config.node,
            links,
            sessions: self.routes.sessions(),
            pushes_waiting: self.appends.waiting() as u64,
            pulls_waiting: self.pulls.waiting() as u64,
            store_up: self.is_store_up,
            apps: Vec::new(),
        }
    }

    /// Answers a call other than a push.
    pub(super) fn answer(&mut self, call: CallId, answer: Answer, out: &mut Actions) {
        self.calls_waiting -= 1;
        out.answer(call, answer);
    }

    pub(super) fn refuse_call(&mut self, call: CallId, refusal: Refusal, out: &mut Actions) {
        self.calls_waiting -= 1;
        self.refuse(call, refusal, out);
    }

    pub(super) fn refuse(&mut self, call: CallId, refusal: Refusal, out: &mut Actions) {
        self.counters.add(Counter::Refused, 1);
        out.answer(call, Answer::Refused(refusal));
    }

    fn refuse_failed(&mut self, call: CallId, result: StoreResult, out: &mut Actions) {
        assert!(matches!(result, StoreResult::Failed(_)), "a read is not answered so: {result:?}");
        let retry_after_ms = self.retry_after_ms();
        self.refuse_call(call, Refusal::StoreUnavailable { retry_after_ms }, out);
    }
}

fn new_entry(push: &Push, now: Now) -> NewEntry {
    let ttl_ms = u64::from(push.ttl_s) * 1000;
    let expires_unix_ms = now.unix_ms + ttl_ms;
    let topic = match push.to {
        To::Topic(topic) => topic,
        To::Device(_) | To::All => TopicId::ALL,
    };
    let entry = Entry {
        expires_unix_ms,
        priority: push.priority,
        wake: push.wake,
        topic,
        payload: push.payload.clone(),
    };
    NewEntry {
        entry: entry.encode(),
        expires_unix_ms,
        record: push.idempotency.map(|key| Keyed { key, keep_ms: IDEMPOTENCY_KEEP_MS }),
        // A tombstone of what it replaces lives as long as the record that pointed to it.
        collapse: push.collapse.map(|key| Keyed { key, keep_ms: ttl_ms + TOMBSTONE_KEEP_MS }),
    }
}

/// Nothing waits at or below this place.
fn settled(tail: Tail) -> Seq {
    match tail.first {
        Some(first) => Seq(first.0 - 1),
        None => tail.last,
    }
}
