//! Jobs that are run together: in order over one overlay, with everything that their changes wake.
//!
//! After each command, or transaction, the clients that wait for a key it changed are served, in the
//! order of the changes and then of their coming, before anything else runs; serving one may wake more.
//! When the group is full the rest of them are the first of the next group, so no other command comes
//! between.

use std::time::Instant;

use super::commit::Committer;
use super::database::unix_ms;
use super::layout::{self, Kind};
use super::overlay::{Overlay, Savepoint};
use super::waiters::{Ticket, Waiter, Waiters};
use super::writer::{Answer, Job, Queued, Work};
use crate::caller::Caller;
use crate::command::error::CommandError;
use crate::command::table::Access;
use crate::command::wait::{Flow, Patience, Wait};
use crate::command::{Read, Write, find};
use crate::config::Durability;
use crate::inbox::Post;
use crate::resp::reply::Reply;
use crate::shared::{RanCommand, Shared};

/// A group ends when it holds so much; all are soft, the first by at most one job and the others by what
/// one transaction or one command may change or answer. So a record has a limit, which the log asserts.
/// Few commands, so that in pipelines the first ones are applied and answered while the next ones run.
pub const GROUP_COMMANDS_MAX: usize = 256;
pub const GROUP_BYTES_MAX: usize = 16 << 20;
const GROUP_ANSWER_BYTES_MAX: usize = 64 << 20;

/// A pipeline whose answers grow larger goes back to its connection, which sends the rest again; so
/// does one that fills its group.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub struct Group<'d, 'w> {
    shared: &'d Shared,
    /// Says what readers see by now.
    committer: &'d Committer,
    waiters: &'w mut Waiters,
    overlay: Overlay<'d>,
    executed: Vec<Executed>,
    commands: usize,
    answer_bytes: usize,
    began_to_wait: Vec<Ticket>,
    /// What the most careful of those who changed anything wants.
    durability: Durability,
    /// The time as the job that runs sees it, all of it the same.
    now_ms: u64,
}

/// What there is when a group ends: to be made durable, and then to be answered.
pub struct Ran<'d> {
    pub overlay: Overlay<'d>,
    pub executed: Vec<Executed>,
    pub commands: usize,
    /// Who found nothing in this group, and waits.
    pub began_to_wait: Vec<Ticket>,
    pub durability: Durability,
}

/// A job that was run and waits for its group to be durable.
pub struct Executed {
    caller: Caller,
    reply: Reply,
    rest: Vec<Queued>,
    own: Vec<usize>,
    /// How many answers `reply` holds.
    answers: usize,
}

impl Executed {
    pub fn new(caller: Caller, reply: Reply, answers: usize) -> Executed {
        Executed { caller, reply, rest: Vec::new(), own: Vec::new(), answers }
    }

    pub fn waiter(waiter: Waiter, reply: Reply) -> Executed {
        Executed::new(waiter.caller, reply, 1)
    }

    /// The connection may be gone; its commands have happened all the same.
    pub fn send(self, post: &mut Post) {
        let answer = Answer { rest: self.rest, own: self.own, ..Answer::whole(self.reply) };
        self.caller.answer(answer, post);
    }

    pub fn refuse(mut self, text: &str, post: &mut Post) {
        self.own.clear();
        self.reply.clear();
        for _ in 0..self.answers {
            self.reply.error(text);
        }
        self.send(post);
    }
}

impl<'d, 'w> Group<'d, 'w> {
    pub fn new(
        (shared, committer): (&'d Shared, &'d Committer),
        overlay: Overlay<'d>,
        waiters: &'w mut Waiters,
    ) -> Group<'d, 'w> {
        Group {
            shared,
            committer,
            waiters,
            overlay,
            durability: Durability::None,
            executed: Vec::new(),
            commands: 0,
            answer_bytes: 0,
            began_to_wait: Vec::new(),
            now_ms: unix_ms(),
        }
    }

    pub fn is_full(&self) -> bool {
        self.commands >= GROUP_COMMANDS_MAX
            || self.overlay.bytes() >= GROUP_BYTES_MAX
            || self.answer_bytes >= GROUP_ANSWER_BYTES_MAX
            || self.waiters.has_ready()
    }

    /// When the first of those who wait has waited long enough.
    pub fn next_end(&self) -> Option<Instant> {
        self.waiters.next_end()
    }

    pub fn end(self) -> Ran<'d> {
        Ran {
            overlay: self.overlay,
            executed: self.executed,
            commands: self.commands,
            began_to_wait: self.began_to_wait,
            durability: self.durability,
        }
    }

    pub fn run(&mut self, job: Job) {
        self.now_ms = unix_ms();
        self.commands += job.work.commands();
        let reply = Reply::bounded(job.protocol, self.shared.config.output_bytes_max);
        match job.work {
            Work::Pipeline(commands) => self.pipeline(commands, reply, job.caller),
            Work::Transaction { commands, watched } => {
                let settled = self.committer.settled();
                if watched.is_unchanged(&mut self.overlay, settled, self.now_ms) {
                    self.transaction(&commands, reply, job.caller);
                } else {
                    self.nothing_done(reply, job.caller);
                }
            }
            Work::Waiting { client, command } => self.may_wait(client, &command, reply, job.caller),
            Work::Unblock { client, with_error } => {
                self.unblock(client, with_error, reply, job.caller);
            }
            Work::Forget { client } => _ = self.waiters.remove_client(client),
        }
    }

    fn done(&mut self, executed: Executed) {
        self.answer_bytes += executed.reply.len();
        self.executed.push(executed);
    }

    fn pipeline(&mut self, mut commands: Vec<Queued>, mut reply: Reply, caller: Caller) {
        let mut run = 0;
        let is_full = |group: &Group<'_, '_>| {
            group.overlay.bytes() >= GROUP_BYTES_MAX || group.waiters.has_ready()
        };
        while run < commands.len() && reply.len() < ANSWER_BYTES_MAX && !is_full(self) {
            let start = self.overlay.start(self.shared.config.changes_bytes_max());
            self.execute(&commands[run], &caller, Patience::Never, &mut reply);
            self.wake(start);
            run += 1;
        }
        let rest = commands.split_off(run);
        self.done(Executed { rest, ..Executed::new(caller, reply, run) });
    }

    fn transaction(&mut self, commands: &[Queued], mut reply: Reply, caller: Caller) {
        let bytes_max = self.shared.config.changes_bytes_max();
        let start = self.overlay.start(bytes_max);
        let mut own = Vec::new();
        reply.array(commands.len());
        for queued in commands {
            if let Access::Session(_) = queued.command.access {
                own.push(reply.len());
                continue;
            }
            self.execute(queued, &caller, Patience::Never, &mut reply);
            if self.overlay.is_overfull() {
                self.overlay.undo_to(start);
                own.clear();
                reply.clear();
                reply.error(&format!(
                    "EXECABORT Transaction discarded because it would change more than \
                     {bytes_max} bytes at once; do it in parts"
                ));
                break;
            }
        }
        self.wake(start);
        self.done(Executed { own, ..Executed::new(caller, reply, 1) });
    }

    fn nothing_done(&mut self, mut reply: Reply, caller: Caller) {
        reply.null_array();
        self.done(Executed::new(caller, reply, 1));
    }

    fn may_wait(&mut self, client: u64, command: &Queued, mut reply: Reply, caller: Caller) {
        let start = self.overlay.start(self.shared.config.changes_bytes_max());
        match self.execute(command, &caller, Patience::Waits, &mut reply) {
            Flow::Answered => {}
            Flow::HandsOver(order) => {
                let answer =
                    move |reply| Executed::new(caller, reply, 1).send(&mut Post::default());
                return self.shared.checkpoints.order(order, reply, Box::new(answer));
            }
            Flow::Waits(wait) => {
                let keys_max = self.shared.config.waiting_keys_max;
                if self.waiters.keys() + wait.keys.len() <= keys_max {
                    return self.wait(client, command, wait, reply, caller);
                }
                reply.error(&CommandError::WaitingKeys.to_string());
            }
        }
        self.wake(start);
        self.done(Executed::new(caller, reply, 1));
    }

    fn wait(&mut self, client: u64, command: &Queued, wait: Wait, reply: Reply, caller: Caller) {
        // It may have gone before its turn came.
        if !caller.is_gone() {
            let space = self.overlay.space_of(command.selected);
            let waiter = Waiter::new(client, command, space, wait, (reply.protocol(), caller));
            let ticket = self.waiters.add(waiter);
            self.began_to_wait.push(ticket);
        }
    }

    fn unblock(&mut self, client: u64, with_error: bool, mut reply: Reply, caller: Caller) {
        let found = self.waiters.remove_client(client);
        reply.integer(found.is_some().into());
        match found {
            Some(waiter) if with_error => {
                let mut reply = Reply::new(waiter.protocol);
                reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
                waiter.end_with(reply);
            }
            Some(waiter) => waiter.end_with_nil(),
            None => {}
        }
        self.done(Executed::new(caller, reply, 1));
    }

    /// Serves those who wait for what was changed since `start`.
    fn wake(&mut self, start: Savepoint) {
        if self.waiters.is_empty() {
            return;
        }
        match self.overlay.changed_since(start) {
            Some(keys) => keys.iter().for_each(|key| self.waiters.key_changed(key)),
            None => {
                self.waiters.move_to(|selected| self.overlay.space_of(selected));
                self.waiters.everything_changed();
            }
        }
        self.serve();
    }

    /// Looks at everybody whose key has changed, until the group is full.
    pub fn serve(&mut self) {
        while self.has_room()
            && let Some(key) = self.waiters.next_ready()
        {
            if !self.serve_at(&key) {
                self.waiters.not_done(key);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.commands < GROUP_COMMANDS_MAX
            && self.overlay.bytes() < GROUP_BYTES_MAX
            && self.answer_bytes < GROUP_ANSWER_BYTES_MAX
    }

    /// `false` when there was no room for all.
    fn serve_at(&mut self, key: &[u8]) -> bool {
        let first = self.waiters.next_at(key, 0).and_then(|ticket| self.waiters.get(ticket));
        let Some(selected) = first.map(|waiter| waiter.queued.selected) else { return true };
        self.overlay.select(selected);
        let mut kind = self.kind_of(key);
        let mut last = 0;
        while kind.is_some() || self.waiters.anyone_wants_other_kinds() {
            if !self.has_room() {
                return false;
            }
            let Some(ticket) = self.waiters.next_at(key, last) else { return true };
            last = ticket;
            let waiter = self.waiters.get(ticket).expect("every ticket at a key has its waiter");
            if waiter.caller.is_gone() {
                self.waiters.remove(ticket);
            } else if kind == Some(waiter.kind) || waiter.wants_other_kinds {
                self.serve_one(ticket, key);
                kind = self.kind_of(key);
            }
        }
        true
    }

    fn kind_of(&self, key: &[u8]) -> Option<Kind> {
        // A key that cannot be read wakes nobody; whoever asks for it is told.
        let key = layout::user_key(key);
        let live = find(&self.overlay, self.now_ms, key).ok().flatten();
        live.map(|live| live.header.kind)
    }

    fn serve_one(&mut self, ticket: Ticket, key: &[u8]) {
        // Out of the table while it runs, and back under the same ticket if it goes on waiting.
        let waiter = self.waiters.remove(ticket).expect("the caller has seen it");
        let mut reply = Reply::bounded(waiter.protocol, self.shared.config.output_bytes_max);
        let start = self.overlay.start(self.shared.config.changes_bytes_max());
        let patience = Patience::Woken(layout::user_key(key));
        let flow = self.execute(&waiter.queued, &waiter.caller, patience, &mut reply);
        if let Flow::Waits(_) = flow {
            return self.waiters.put_back(ticket, waiter);
        }
        self.commands += 1;
        if let Some(keys) = self.overlay.changed_since(start) {
            // The waiters of this key are being looked at as it is.
            let others = keys.iter().filter(|changed| *changed != key);
            others.for_each(|key| self.waiters.key_changed(key));
        }
        self.done(Executed::waiter(waiter, reply));
    }

    /// Runs one command. What it would answer beyond its result, it does not keep.
    fn execute(
        &mut self,
        queued: &Queued,
        caller: &Caller,
        patience: Patience<'_>,
        reply: &mut Reply,
    ) -> Flow {
        let (start, before) = (reply.len(), self.overlay.savepoint());
        let (now_ms, shared, args) = (self.now_ms, self.shared, &queued.args[..]);
        let (overlay, began) = (&mut self.overlay, Instant::now());
        overlay.select(queued.selected);
        let outcome = match queued.command.access {
            Access::Write(run) => {
                let write = &mut Write { overlay, now_ms, shared, args, patience };
                run(write, reply).map(|()| Flow::Answered)
            }
            Access::Waiting(run) => {
                run(&mut Write { overlay, now_ms, shared, args, patience }, reply)
            }
            Access::Row(run) | Access::Point(run) | Access::Scan(run) => {
                let read = &Read { view: overlay, now_ms, shared, args };
                run(read, reply).map(|()| Flow::Answered)
            }
            Access::Session(_) => unreachable!("the connection runs these itself"),
        };
        let outcome = match self.overlay.is_overfull() {
            true => Err(CommandError::ChangesTooLarge(self.shared.config.changes_bytes_max())),
            false => outcome,
        };
        if !matches!(outcome, Ok(Flow::Waits(_))) {
            shared.ran(&RanCommand {
                facts: queued.facts,
                words: args,
                client: caller.client(),
                took: began.elapsed(),
                has_failed: outcome.is_err(),
            });
        }
        if self.overlay.bytes() != before.bytes() {
            let wanted = shared.durability_of(queued.selected.namespace);
            self.durability = self.durability.min(wanted);
        }
        outcome.unwrap_or_else(|error| {
            self.overlay.undo_to(before);
            reply.truncate(start);
            let text = error.to_string();
            shared.stats.error(&text);
            reply.error(&text);
            Flow::Answered
        })
    }
}
