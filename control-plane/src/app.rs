//! The owner of the node: one task that holds it and everything that happens to it.
//!
//! ```text
//!   links ─┐
//!   calls ─┼─▶ take what is there (bounded) ─▶ node.on_event ─▶ actions ─▶ store, links, answers
//!   store ─┤
//!   timer ─┘
//! ```
//!
//! A turn waits for anything to happen, then takes in what has come from every side, each up to
//! its limit, and only then applies: operations of many calls leave as one pipeline, and frames
//! for one link as one write. The owner never waits for the store or for a link.
//!
//! Bounds: calls and link chunks wait in bounded queues; a full one means 503 for a call and an
//! unread socket for a link. Operations under way are bounded by the node's limits.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hawser_codec::error::{CloseReason, DecodeError};
use hawser_codec::frame::split;
use hawser_codec::limits::LINK_BODY_BYTES_MAX;
use hawser_codec::link::ToControl;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::apps::AppTable;
use crate::clock::Clock;
use crate::link::{LinkEvent, Outbox};
use crate::metrics::{Metrics, Page};
use crate::node::Node;
use crate::node::counters::Counter;
use crate::node::event::{
    Action, Actions, Answer, CallId, Event, LinkId, OpId, Request, Status, StoreOp, StoreResult,
};
use crate::store::{Done, Store};

/// Calls that may wait for the owner; a batch is one call.
pub const CALLS_MAX: usize = 4096;
/// Chunks of link frames that may wait for the owner.
pub const LINK_EVENTS_MAX: usize = 256;

/// What one turn takes from each side at most. A batch of 1000 is one call.
const CALLS_PER_TURN: usize = 256;
const LINK_EVENTS_PER_TURN: usize = 64;
const DONE_PER_TURN: usize = 64;
/// Actions are applied early when their bytes reach this.
const ACTION_BYTES: usize = 1 << 20;

/// What the API asks the owner.
#[derive(Debug)]
pub enum Call {
    /// Requests that belong together; answered together, in their order.
    Requests { requests: Vec<Request>, reply: oneshot::Sender<Vec<Answer>> },
    /// What the node can say of itself while the store is away.
    Status { reply: oneshot::Sender<Status> },
    /// The node's part of the metrics page.
    Metrics { reply: oneshot::Sender<Page> },
}

/// The API's way to the owner.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    calls: mpsc::Sender<Call>,
    apps: watch::Receiver<Arc<AppTable>>,
}

/// The owner has too much to do, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl NodeHandle {
    pub async fn request(&self, request: Request) -> Result<Answer, Busy> {
        let mut answers = self.requests(vec![request]).await?;
        answers.pop().ok_or(Busy)
    }

    pub async fn requests(&self, requests: Vec<Request>) -> Result<Vec<Answer>, Busy> {
        let (reply, answers) = oneshot::channel();
        self.calls.try_send(Call::Requests { requests, reply }).map_err(|_| Busy)?;
        answers.await.map_err(|_| Busy)
    }

    pub async fn status_without_store(&self) -> Result<Status, Busy> {
        let (reply, status) = oneshot::channel();
        self.calls.try_send(Call::Status { reply }).map_err(|_| Busy)?;
        status.await.map_err(|_| Busy)
    }

    pub async fn metrics(&self) -> Result<Page, Busy> {
        let (reply, page) = oneshot::channel();
        self.calls.try_send(Call::Metrics { reply }).map_err(|_| Busy)?;
        page.await.map_err(|_| Busy)
    }

    pub fn apps(&self) -> Arc<AppTable> {
        self.apps.borrow().clone()
    }
}

/// The task's state.
pub struct Owner {
    node: Node,
    store: Arc<Store>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    inputs: Inputs,
    links: HashMap<LinkId, Arc<Outbox>>,
    waiters: Waiters,
    apps: watch::Sender<Arc<AppTable>>,
    actions: Actions,
    /// Operations of this turn.
    ops: Vec<(OpId, StoreOp)>,
    /// Links that overflowed while actions were applied.
    overflowed: Vec<LinkId>,
    /// Links with new bytes in this turn.
    touched: Vec<LinkId>,
}

/// Where events come from.
struct Inputs {
    calls: mpsc::Receiver<Call>,
    links: mpsc::Receiver<LinkEvent>,
    done: mpsc::Receiver<Done>,
}

impl Owner {
    pub fn new(
        node: Node,
        store: Arc<Store>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
        links: mpsc::Receiver<LinkEvent>,
        done: mpsc::Receiver<Done>,
    ) -> (Owner, NodeHandle) {
        let (calls_in, calls) = mpsc::channel(CALLS_MAX);
        let (apps, apps_out) = watch::channel(Arc::default());
        let owner = Owner {
            node,
            store,
            clock,
            metrics,
            inputs: Inputs { calls, links, done },
            links: HashMap::new(),
            waiters: Waiters::default(),
            apps,
            actions: Actions::default(),
            ops: Vec::new(),
            overflowed: Vec::new(),
            touched: Vec::new(),
        };
        (owner, NodeHandle { calls: calls_in, apps: apps_out })
    }

    /// Turns until every handle to the API's side is dropped.
    pub async fn run(mut self) {
        let mut turn = Turn::default();
        loop {
            if !self.wait(&mut turn).await {
                return;
            }
            self.gather(&mut turn);
            for done in turn.done.drain(..) {
                self.on_done(done);
            }
            for event in turn.links.drain(..) {
                self.on_link(event);
            }
            for call in turn.calls.drain(..) {
                self.on_call(call);
            }
            if self.deadline_passed() {
                self.node.on_time(self.clock.now(), &mut self.actions);
            }
            self.apply();
            self.flush();
        }
    }

    /// Waits until anything happens. False: nobody can call any more.
    async fn wait(&mut self, turn: &mut Turn) -> bool {
        let deadline = self.node.deadline_ms().map(|ms| self.clock.instant(ms));
        let timer = async {
            match deadline {
                Some(instant) => sleep_until(instant.into()).await,
                None => std::future::pending().await,
            }
        };
        let Inputs { calls, links, done } = &mut self.inputs;
        tokio::select! {
            count = calls.recv_many(&mut turn.calls, CALLS_PER_TURN) => count > 0,
            _ = links.recv_many(&mut turn.links, LINK_EVENTS_PER_TURN), if !links.is_closed() => true,
            _ = done.recv_many(&mut turn.done, DONE_PER_TURN) => true,
            () = timer => true,
        }
    }

    /// Takes what has come from the other sides too.
    fn gather(&mut self, turn: &mut Turn) {
        fill(&mut self.inputs.calls, &mut turn.calls, CALLS_PER_TURN);
        fill(&mut self.inputs.links, &mut turn.links, LINK_EVENTS_PER_TURN);
        fill(&mut self.inputs.done, &mut turn.done, DONE_PER_TURN);
    }

    fn deadline_passed(&self) -> bool {
        self.node.deadline_ms().is_some_and(|deadline| deadline <= self.clock.now().mono_ms)
    }

    fn on_done(&mut self, done: Vec<(OpId, StoreResult)>) {
        let now = self.clock.now();
        for (op, result) in done {
            self.node.on_event(Event::Stored { op, result }, now, &mut self.actions);
            self.apply_early();
        }
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Requests { requests, reply } => {
                let now = self.clock.now();
                let calls = self.waiters.open(requests.len(), reply);
                for (call, request) in calls.zip(requests) {
                    self.node.on_event(Event::Call { call, request }, now, &mut self.actions);
                    self.apply_early();
                }
            }
            Call::Status { reply } => {
                let _ = reply.send(self.node.status());
            }
            Call::Metrics { reply } => {
                let mut page = Page::default();
                let counters = self.node.counters();
                for &counter in Counter::ALL {
                    page.node_counter(counter.name(), counter.help(), counters.get(counter));
                }
                let _ = reply.send(page);
            }
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, hello, outbox } => {
                self.links.insert(link, outbox);
                let up = Event::LinkUp {
                    link,
                    broker: hello.broker,
                    incarnation: hello.incarnation,
                    shard: hello.shard,
                };
                self.node.on_event(up, self.clock.now(), &mut self.actions);
            }
            LinkEvent::Frames { link, bytes } => self.on_frames(link, &bytes),
            LinkEvent::Down { link } => self.end_link(link, CloseReason::Reset),
        }
        self.apply_early();
    }

    fn on_frames(&mut self, link: LinkId, bytes: &Bytes) {
        // Frames that came before the link was cut off are not worth looking at.
        if !self.links.contains_key(&link) {
            return;
        }
        if let Err((error, reason)) = self.decode_frames(link, bytes) {
            self.metrics.links.decode_error(error);
            self.end_link(link, reason);
        }
    }

    fn decode_frames(
        &mut self,
        link: LinkId,
        bytes: &[u8],
    ) -> Result<(), (DecodeError, CloseReason)> {
        let bad = |error| (error, CloseReason::BadFrame);
        let now = self.clock.now();
        let mut rest = bytes;
        while let Some((frame, after)) = split(rest, LINK_BODY_BYTES_MAX).map_err(bad)? {
            rest = after;
            match ToControl::decode(frame).map_err(bad)? {
                Some(ToControl::Hello(_) | ToControl::Proof { .. }) => {
                    return Err((DecodeError::BadValue, CloseReason::Unexpected));
                }
                Some(ToControl::Pong { epoch }) => {
                    self.clock.hear(epoch);
                }
                Some(frame) => {
                    self.node.on_event(Event::Frame { link, frame }, now, &mut self.actions);
                }
                // A type of a newer minor version.
                None => {}
            }
        }
        assert!(rest.is_empty(), "the link's task passes on whole frames");
        Ok(())
    }

    /// Forgets a link and tells the node, once.
    fn end_link(&mut self, link: LinkId, reason: CloseReason) {
        if let Some(outbox) = self.links.remove(&link) {
            outbox.close(reason);
            self.node.on_event(Event::LinkDown { link }, self.clock.now(), &mut self.actions);
        }
    }

    fn apply_early(&mut self) {
        if self.actions.bytes.len() >= ACTION_BYTES {
            self.apply();
        }
    }

    /// Applies the actions, and those that follow from links which could not take them.
    fn apply(&mut self) {
        while !self.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.list.drain(..) {
                match action {
                    Action::Send { link, frame } => {
                        let start = frame.start as usize;
                        self.send(link, &actions.bytes[start..frame.end as usize]);
                    }
                    Action::Store { op, request } => self.ops.push((op, request)),
                    Action::Answer { call, answer } => self.waiters.answer(call, answer),
                    Action::AppsChanged => {
                        self.apps.send_replace(Arc::new(AppTable::new(self.node.apps())));
                    }
                }
            }
            actions.clear();
            self.actions = actions;
            for link in std::mem::take(&mut self.overflowed) {
                self.end_link(link, CloseReason::LinkOverflow);
            }
        }
    }

    fn send(&mut self, link: LinkId, frame: &[u8]) {
        let Some(outbox) = self.links.get(&link) else { return };
        if outbox.push(frame).is_err() {
            self.overflowed.push(link);
        } else if self.touched.last() != Some(&link) {
            self.touched.push(link);
        }
    }

    /// Lets go of what the turn has gathered.
    fn flush(&mut self) {
        if !self.ops.is_empty() {
            self.store.execute(std::mem::take(&mut self.ops));
        }
        for link in self.touched.drain(..) {
            if let Some(outbox) = self.links.get(&link) {
                outbox.flush();
            }
        }
    }
}

/// What a turn has taken from each side.
#[derive(Default)]
struct Turn {
    calls: Vec<Call>,
    links: Vec<LinkEvent>,
    done: Vec<Done>,
}

fn fill<T>(from: &mut mpsc::Receiver<T>, into: &mut Vec<T>, limit: usize) {
    while into.len() < limit {
        match from.try_recv() {
            Ok(one) => into.push(one),
            Err(_) => return,
        }
    }
}

/// Calls that wait for the node's answers. A call's id is its waiter's slot and its place there.
#[derive(Default)]
struct Waiters {
    slots: Vec<Option<Waiter>>,
    free: Vec<u32>,
}

struct Waiter {
    answers: Vec<Option<Answer>>,
    missing: usize,
    reply: oneshot::Sender<Vec<Answer>>,
}

impl Waiters {
    /// The ids of `count` calls whose answers go to `reply` together.
    fn open(
        &mut self,
        count: usize,
        reply: oneshot::Sender<Vec<Answer>>,
    ) -> impl Iterator<Item = CallId> + use<> {
        assert!(count > 0, "a call asks for something");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let waiter = Waiter { answers: vec![None; count], missing: count, reply };
        self.slots[slot as usize] = Some(waiter);
        (0..count as u64).map(move |place| CallId(u64::from(slot) << 32 | place))
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        let (slot, place) = ((call.0 >> 32) as usize, (call.0 & 0xffff_ffff) as usize);
        let waiter = self.slots[slot].as_mut().expect("a call is answered once");
        let before = waiter.answers[place].replace(answer);
        assert!(before.is_none(), "a call is answered once");
        waiter.missing -= 1;
        if waiter.missing == 0 {
            let waiter = self.slots[slot].take().expect("looked at above");
            self.free.push(slot as u32);
            // The client may have hung up; what it asked for is done all the same.
            let _ = waiter.reply.send(waiter.answers.into_iter().flatten().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::event::Refusal;

    #[test]
    fn answers_come_together_in_the_order_of_the_requests() {
        let mut waiters = Waiters::default();
        let (reply, mut answers) = oneshot::channel();
        let calls: Vec<CallId> = waiters.open(3, reply).collect();
        let (other, mut other_answers) = oneshot::channel();
        let other_calls: Vec<CallId> = waiters.open(1, other).collect();
        let refused = |refusal| Answer::Refused(refusal);
        waiters.answer(calls[2], refused(Refusal::BadTtl));
        waiters.answer(other_calls[0], Answer::AppsFresh);
        waiters.answer(calls[0], refused(Refusal::UnknownApp));
        assert!(answers.try_recv().is_err());
        waiters.answer(calls[1], Answer::AppsFresh);
        let expect =
            vec![refused(Refusal::UnknownApp), Answer::AppsFresh, refused(Refusal::BadTtl)];
        assert_eq!(answers.try_recv().unwrap(), expect);
        assert_eq!(other_answers.try_recv().unwrap(), vec![Answer::AppsFresh]);
        let (again, _) = oneshot::channel();
        assert_eq!(waiters.open(1, again).count(), 1);
        assert_eq!(waiters.slots.len(), 2, "slots are used again");
    }
}
