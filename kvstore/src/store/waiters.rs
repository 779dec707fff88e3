//! The clients whose commands wait for a key. The writer owns them, so a client is either served or
//! told that there was nothing, never both.
//!
//! ```text
//! waiters   ticket -> command, answer, when it ends     tickets grow, so their order is that of coming
//! by_key    key in its space -> tickets
//! ready     keys that have changed and whose waiters have not been looked at since
//! ```
//!
//! A client waits for one command at a time; how many keys all of them together wait for has a limit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::writer::{Answer, Queued};
use crate::caller::Caller;
use crate::command::wait::Wait;
use crate::inbox::Post;
use crate::resp::reply::{Protocol, Reply};
use crate::store::layout::{self, Kind};
use crate::store::spaces::Selected;

/// When a client began to wait; the smaller, the earlier.
pub type Ticket = u64;

pub struct Waiter {
    pub client: u64,
    pub queued: Queued,
    /// The metadata keys, in the space where the client's database is.
    pub keys: BTreeSet<Bytes>,
    pub kind: Kind,
    pub wants_other_kinds: bool,
    pub protocol: Protocol,
    pub caller: Caller,
    ends: Option<Instant>,
}

#[derive(Default)]
pub struct Waiters {
    last: Ticket,
    waiters: BTreeMap<Ticket, Waiter>,
    by_key: HashMap<Bytes, BTreeSet<Ticket>>,
    by_client: HashMap<u64, Ticket>,
    ends: BTreeSet<(Instant, Ticket)>,
    /// Sum of the keys of all waiters.
    keys: usize,
    /// Waiters that also want other kinds.
    want_other_kinds: usize,
    ready: VecDeque<Bytes>,
    is_ready: HashSet<Bytes>,
}

impl Waiter {
    /// The arguments are copied: the originals share their memory with everything read from the socket
    /// at that time.
    pub fn new(
        client: u64,
        command: &Queued,
        space: u32,
        wait: Wait,
        (protocol, caller): (Protocol, Caller),
    ) -> Waiter {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let args = wait.args.iter().map(copy).collect();
        Waiter {
            client,
            queued: Queued { args, ..command.clone() },
            keys: wait.keys.iter().map(|key| in_space(&layout::metadata_key(key), space)).collect(),
            kind: wait.kind,
            wants_other_kinds: wait.wants_other_kinds,
            protocol,
            caller,
            ends: wait.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }

    /// Answers that there was nothing. The client may be gone.
    pub fn end_with_nil(self) {
        let mut reply = Reply::new(self.protocol);
        reply.null_array();
        self.end_with(reply);
    }

    pub fn end_with(self, reply: Reply) {
        self.caller.answer(Answer::whole(reply), &mut Post::default());
    }
}

fn in_space(key: &[u8], space: u32) -> Bytes {
    Bytes::from(layout::in_space(key, space).into_owned())
}

impl Waiters {
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Keys waited for, those that several wait for counted for each.
    pub fn keys(&self) -> usize {
        self.keys
    }

    pub fn add(&mut self, waiter: Waiter) -> Ticket {
        self.last += 1;
        self.put_back(self.last, waiter);
        self.last
    }

    /// A waiter that was removed goes on waiting in its old place.
    pub fn put_back(&mut self, ticket: Ticket, waiter: Waiter) {
        for key in &waiter.keys {
            self.by_key.entry(key.clone()).or_default().insert(ticket);
        }
        self.keys += waiter.keys.len();
        self.want_other_kinds += usize::from(waiter.wants_other_kinds);
        self.ends.extend(waiter.ends.map(|ends| (ends, ticket)));
        let before = self.by_client.insert(waiter.client, ticket);
        assert!(before.is_none(), "a connection waits for its answer before it sends more");
        self.waiters.insert(ticket, waiter);
    }

    pub fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.waiters.get(&ticket)
    }

    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        for key in &waiter.keys {
            let tickets = self.by_key.get_mut(key).expect("each key of a waiter has its ticket");
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_key.remove(key);
            }
        }
        self.keys -= waiter.keys.len();
        self.want_other_kinds -= usize::from(waiter.wants_other_kinds);
        if let Some(ends) = waiter.ends {
            self.ends.remove(&(ends, ticket));
        }
        self.by_client.remove(&waiter.client);
        Some(waiter)
    }

    pub fn remove_client(&mut self, client: u64) -> Option<Waiter> {
        let ticket = *self.by_client.get(&client)?;
        self.remove(ticket)
    }

    /// Who waits for the key and came after `ticket`, the earliest of them.
    pub fn next_at(&self, key: &[u8], after: Ticket) -> Option<Ticket> {
        self.by_key.get(key)?.range(after + 1..).next().copied()
    }

    /// Whether anybody wants to know of a key that has nothing they wait for.
    pub fn anyone_wants_other_kinds(&self) -> bool {
        self.want_other_kinds > 0
    }

    /// Those who wait for this key will be looked at.
    pub fn key_changed(&mut self, key: &[u8]) {
        if let Some((key, _)) = self.by_key.get_key_value(key)
            && self.is_ready.insert(key.clone())
        {
            self.ready.push_back(key.clone());
        }
    }

    /// Databases may be in other spaces now, where their keys are waited for.
    pub fn move_to(&mut self, space_of: impl Fn(Selected) -> u32) {
        let tickets: Vec<Ticket> = self.waiters.keys().copied().collect();
        for ticket in tickets {
            let mut waiter = self.remove(ticket).expect("it is there");
            let space = space_of(waiter.queued.selected);
            waiter.keys = waiter.keys.iter().map(|key| in_space(key, space)).collect();
            self.put_back(ticket, waiter);
        }
    }

    pub fn everything_changed(&mut self) {
        let mut keys: Vec<Bytes> = self.by_key.keys().cloned().collect();
        keys.sort_unstable();
        keys.iter().for_each(|key| self.key_changed(key));
    }

    /// What this client waits for will be looked at once more.
    pub fn look_again(&mut self, ticket: Ticket) {
        let keys = self.waiters.get(&ticket).map(|waiter| waiter.keys.clone());
        keys.iter().flatten().for_each(|key| self.key_changed(key));
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The key that has waited longest to be looked at.
    pub fn next_ready(&mut self) -> Option<Bytes> {
        let key = self.ready.pop_front()?;
        self.is_ready.remove(&key);
        Some(key)
    }

    /// Puts a key back that has not been looked at to its end.
    pub fn not_done(&mut self, key: Bytes) {
        if self.is_ready.insert(key.clone()) {
            self.ready.push_front(key);
        }
    }

    /// When the first of them has waited long enough.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    /// Answers those who have waited long enough.
    pub fn end_late(&mut self, now: Instant) {
        while let Some(&(ends, ticket)) = self.ends.first()
            && ends <= now
        {
            self.remove(ticket).expect("every end has its waiter").end_with_nil();
        }
    }
}
