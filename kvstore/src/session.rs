//! One connection without its socket: what came in, what goes out, and what to do next.
//!
//! ```text
//! input ─▶ parse ─▶ write, or a small read behind one  ─▶ pending ─▶ Submit to the writer
//!               └─▶ read                               ─▶ run here, on one view until the turn ends
//!               └─▶ about the connection               ─▶ run here
//! ```
//!
//! Invariants: answers come in the order of the commands, because nothing runs here while something is
//! pending; a read sees every write before it, and one after a WATCH nothing older than the WATCH;
//! `pending`, `input` and the answers are bounded.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use self::client::Voice;
use crate::clients::{Addresses, Client};
use crate::command::acl::{Call, acl};
use crate::command::basics::database;
use crate::command::catalogue::{self, Facts};
use crate::command::error::{CommandError, OUTCOME_OPEN};
use crate::command::table::{self, Access, Command, Known, SessionCommand};
use crate::command::{Read, integer, is_word};
use crate::inbox::Inbox;
use crate::pubsub::Subscriptions;
use crate::resp::reply::{Protocol, Reply};
use crate::resp::request::{Parser, ProtocolError, Request};
use crate::shared::{REDIS_VERSION, RanCommand, Shared};
use crate::store::database::unix_ms;
use crate::store::spaces::Selected;
use crate::store::view::Frozen;
use crate::store::writer::{Answer, Queued, Work};
use crate::users::DEFAULT;
use crate::users::denials::Denial;
use crate::users::user::{Denied, User, hash_of};
use crate::watch::WatchSet;

mod client;
mod show;
mod subscribe;

/// Answers larger than this are sent before more commands run.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Messages of others are taken out of the outbox while no more than this is to be sent, so that what is
/// not read stays in the outbox, which is bounded.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What the socket's owner has to do before the next turn.
pub enum Step {
    /// Send the answers, then read more.
    Read,
    /// Send the answers.
    Send,
    /// Give this to the writer and the answer to [`Session::answered`].
    Submit(Work),
    /// Send the answers, and go on when no pause holds the next command.
    Pause { writes: bool },
    /// Send the answers and close.
    Close,
}

/// What became of work that was given to the writer.
pub enum Outcome {
    Answered(Answer),
    /// There is no writer any more.
    NotTaken,
    /// The writer took it and ended.
    Lost,
}

pub struct Session {
    shared: Arc<Shared>,
    pub client: Arc<Client>,
    is_authenticated: bool,
    user: Arc<User>,
    /// Changes of users and namespaces that this connection has looked at.
    changes_seen: u64,
    pub input: BytesMut,
    pub reply: Reply,
    parser: Parser,
    /// Commands for the writer, in order.
    pending: Vec<Queued>,
    pending_bytes: usize,
    /// A command that must wait until what is pending is answered.
    deferred: Option<Request>,
    broken: Option<ProtocolError>,
    transaction: Option<Transaction>,
    watched: WatchSet,
    selected: Selected,
    /// What a transaction that is being run selects.
    selected_by_transaction: Option<Selected>,
    is_closing: bool,
    /// The commands about the connection of the transaction that was submitted, in order.
    own: Vec<Queued>,
    /// Those are being run, in the middle of the answer.
    is_in_answer: bool,
    subscriptions: Subscriptions,
    voice: Voice,
    /// What was submitted wants no answer.
    is_answer_unwanted: bool,
    last_command: Option<&'static str>,
}

#[derive(Default)]
struct Transaction {
    commands: Vec<Queued>,
    bytes: usize,
    is_spoilt: bool,
}

/// The moment the reads of one turn see, taken when the first of them runs, and anew after a WATCH.
type View<'a> = Option<Frozen<'a>>;

impl Session {
    /// `inbox` is of the thread that serves it.
    pub fn new(shared: Arc<Shared>, addresses: Addresses, inbox: Arc<Inbox>) -> Session {
        let user = shared.users.default_user();
        let client = shared.connect(addresses, inbox);
        Session {
            subscriptions: Subscriptions::new(shared.hubs.of(0), client.clone()),
            client,
            is_authenticated: user.is_on && user.needs_no_password,
            user,
            changes_seen: shared.access_changes(),
            input: BytesMut::new(),
            reply: Reply::bounded(Protocol::Resp2, shared.config.output_bytes_max),
            parser: Parser::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            deferred: None,
            broken: None,
            transaction: None,
            watched: WatchSet::new(shared.clone()),
            selected: Selected::default(),
            selected_by_transaction: None,
            is_closing: false,
            own: Vec::new(),
            is_in_answer: false,
            voice: Voice::Heard,
            is_answer_unwanted: false,
            last_command: None,
            shared,
        }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What is read ahead of the command that runs, at most.
    pub fn input_bytes_max(&self) -> usize {
        self.shared.config.request_bytes_max
    }

    /// Runs what can be run and says what is needed to go on.
    pub fn turn(&mut self) -> Step {
        // What was published before a command was sent comes before its answer.
        if self.may_go_on() {
            self.client.take_messages(&mut self.reply, MESSAGE_BYTES_MAX);
        }
        let step = self.run_on();
        self.show();
        step
    }

    fn run_on(&mut self) -> Step {
        let shared = self.shared.clone();
        let mut view = View::None;
        loop {
            if self.changes_seen != shared.access_changes() {
                self.look_at_user();
            }
            if self.reply.is_overfull() {
                return self.give_up();
            }
            if self.is_closing {
                return Step::Close;
            }
            if self.reply.len() >= ANSWER_BYTES_MAX {
                return Step::Send;
            }
            match self.next_request() {
                Some(request) => {
                    if let Some(step) = self.take(request, &shared, &mut view) {
                        return step;
                    }
                }
                None if !self.pending.is_empty() => return self.submit(),
                None => match self.broken {
                    Some(error) => self.end(error),
                    None => return Step::Read,
                },
            }
        }
    }

    /// The answers are longer than any may be, so there are none.
    fn give_up(&mut self) -> Step {
        self.shared.metrics.output_overflows_total.fetch_add(1, Relaxed);
        self.reply.clear();
        self.client.end();
        Step::Close
    }

    /// What became of the work that was submitted.
    pub fn answered(&mut self, outcome: Outcome) {
        let text = match outcome {
            Outcome::Answered(answer) => return self.take_answer(answer),
            Outcome::NotTaken => match self.shared.stopped() {
                Some(why) => format!("IOERR nothing was written: {why}"),
                None => "IOERR nothing was written: the server is stopping".to_string(),
            },
            Outcome::Lost => {
                format!("{OUTCOME_OPEN} the server stopped and nobody knows if this was done")
            }
        };
        self.reply.error(&text);
        self.is_closing = true;
    }

    /// The answers of a transaction's own commands go where they stand in it. None of them is run when
    /// the transaction was not.
    fn take_answer(&mut self, answer: Answer) {
        let is_done = is_array(&answer.bytes);
        if let Some(selected) = self.selected_by_transaction.take().filter(|_| is_done) {
            self.selected = selected;
        }
        if answer.is_overfull {
            _ = self.give_up();
            self.is_closing = true;
            return;
        }
        let start = self.reply.len();
        let mut own = std::mem::take(&mut self.own).into_iter();
        let mut sent = 0;
        self.is_in_answer = true;
        for at in answer.own {
            self.reply.append(&answer.bytes[sent..at]);
            sent = at;
            let queued = own.next().expect("the writer has counted them");
            self.run_own(queued);
        }
        self.is_in_answer = false;
        self.reply.append(&answer.bytes[sent..]);
        if self.is_answer_unwanted {
            self.reply.truncate(start);
        }
        self.pending = answer.rest;
    }

    fn next_request(&mut self) -> Option<Request> {
        if let Some(request) = self.deferred.take() {
            return Some(request);
        }
        if self.broken.is_some() {
            return None;
        }
        let limits = match self.is_authenticated {
            true => self.shared.limits,
            false => self.shared.limits.unauthenticated(),
        };
        self.parser.next(&mut self.input, &limits).unwrap_or_else(|error| {
            self.broken = Some(error);
            None
        })
    }

    fn end(&mut self, error: ProtocolError) {
        let metrics = &self.shared.metrics;
        metrics.protocol_errors_total.fetch_add(1, Relaxed);
        if error == ProtocolError::CrossProtocol {
            let earlier = metrics.cross_protocol_total.fetch_add(1, Relaxed);
            // Once, since whoever attacks would write the log; the counter has the rest.
            if earlier == 0 {
                tracing::warn!(
                    "an HTTP request came instead of commands, perhaps an attack through \
                                a browser; its connection was ended"
                );
            }
        }
        self.reply.error(&error.text());
        self.is_closing = true;
    }

    fn submit(&mut self) -> Step {
        self.pending_bytes = 0;
        self.is_answer_unwanted = self.voice != Voice::Heard;
        Step::Submit(Work::Pipeline(std::mem::take(&mut self.pending)))
    }

    fn take<'a>(
        &mut self,
        request: Request,
        shared: &'a Shared,
        view: &mut View<'a>,
    ) -> Option<Step> {
        let start = self.reply.len();
        let step = self.take_heard(request, shared, view);
        if self.deferred.is_some() || self.voice == Voice::Heard {
            self.is_answer_unwanted &= self.deferred.is_some();
            return step;
        }
        self.without_answer(start, step)
    }

    /// Takes back what a command answered that wants no answer.
    fn without_answer(&mut self, start: usize, step: Option<Step>) -> Option<Step> {
        self.reply.truncate(start);
        let step = match step {
            // The next one may want an answer.
            None if !self.pending.is_empty() && self.voice != Voice::Off => Some(self.submit()),
            step => step,
        };
        self.is_answer_unwanted = true;
        self.voice = match self.voice {
            Voice::Skips(left @ 2..) => Voice::Skips(left - 1),
            Voice::Skips(_) => Voice::Heard,
            voice => voice,
        };
        step
    }

    fn take_heard<'a>(
        &mut self,
        request: Request,
        shared: &'a Shared,
        view: &mut View<'a>,
    ) -> Option<Step> {
        let resolved = table::resolve(&request).and_then(|(command, facts)| {
            let denied = self.check(facts, &request);
            denied.map_or(Ok((command, facts)), |denied| Err(denied.into()))
        });
        let is_open = self.is_authenticated && self.transaction.is_none();
        if let Ok((command, facts)) = resolved {
            self.last_command = Some(facts.name);
            if self.is_authenticated && self.only_subscribes() {
                return self.run_subscribed((command, facts), request, shared, view);
            }
            if self.is_authenticated && shared.is_out_of_memory() {
                if !self.pending.is_empty() {
                    self.deferred = Some(request);
                    return Some(self.submit());
                }
                if self.is_refused_for_memory(command, facts) {
                    return None;
                }
            }
            if self.is_authenticated && shared.pause.holds(self.writes(command)) {
                return Some(self.hold(command, request));
            }
        }
        if let Ok((command, facts)) = resolved
            && is_open
        {
            match command.access {
                Access::Write(_) => return self.push((command, facts), request),
                Access::Row(_) | Access::Point(_)
                    if !self.pending.is_empty() && command.name != SELECT =>
                {
                    return self.push((command, facts), request);
                }
                _ => {}
            }
        }
        if !self.pending.is_empty() {
            self.deferred = Some(request);
            return Some(self.submit());
        }
        match resolved {
            Ok(known) => return self.run(known, request, shared, view),
            Err(error) => self.reject(&error, &request),
        }
        None
    }

    /// Whether this may need memory, of which there is none to be used, and has been answered so.
    fn is_refused_for_memory(&mut self, command: &Command, facts: &Facts) -> bool {
        use SessionCommand::{Discard, Exec, Quit, Reset};
        const WHY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
        let needs_memory = |facts: &Facts| facts.has_flag("denyoom");
        match (command.access, &self.transaction) {
            (Access::Session(Discard | Quit | Reset), _) => false,
            (Access::Session(Exec), Some(all)) if !all.is_spoilt => {
                let is_refused = all.commands.iter().any(|queued| needs_memory(queued.facts));
                if is_refused {
                    self.transaction = None;
                    self.watched = WatchSet::new(self.shared.clone());
                    self.refuse(&format!("EXECABORT Transaction discarded because of: {WHY}"));
                }
                is_refused
            }
            (Access::Session(Exec), _) => false,
            (_, None) if !needs_memory(facts) => false,
            // What is queued stays in memory, whatever it is.
            _ => {
                self.refuse(WHY);
                true
            }
        }
    }

    /// Whether a pause of writes holds this.
    fn writes(&self, command: &Command) -> bool {
        let may_write = |command: &Command| match command.access {
            Access::Write(_) | Access::Waiting(_) => true,
            Access::Session(command) => matches!(command, SessionCommand::Publish(_)),
            Access::Row(_) | Access::Point(_) | Access::Scan(_) => false,
        };
        let transaction = self.transaction.as_ref().filter(|_| is_exec(command));
        may_write(command)
            || transaction.is_some_and(|all| all.commands.iter().any(|one| may_write(one.command)))
    }

    fn hold(&mut self, command: &Command, request: Request) -> Step {
        let writes = self.writes(command);
        self.deferred = Some(request);
        if self.pending.is_empty() { Step::Pause { writes } } else { self.submit() }
    }

    /// Whether its user may not run this. Who is nobody yet is told so later.
    fn check(&self, facts: &'static Facts, request: &[Bytes]) -> Option<Denied> {
        let is_free = !self.is_authenticated || self.user.is_unrestricted();
        if is_free { None } else { self.user.check(facts, request).err() }
    }

    /// Looks again at who this is, since users or namespaces have changed. Whoever is not there any
    /// more is closed.
    fn look_at_user(&mut self) {
        self.changes_seen = self.shared.access_changes();
        if self.selected.namespace != 0 {
            self.is_closing |= !self.shared.database.spaces().exists(self.selected.namespace);
            return;
        }
        match self.shared.users.find(self.user.name.as_bytes()) {
            Some(user) => {
                self.is_closing |= !self.subscriptions.are_allowed_to(&user);
                self.user = user;
            }
            None => self.is_closing = true,
        }
    }

    /// Whether this may go on, after users or namespaces have changed.
    pub fn may_go_on(&mut self) -> bool {
        if self.changes_seen != self.shared.access_changes() {
            self.look_at_user();
        }
        !self.is_closing
    }

    /// Answers why a command is not run.
    fn reject(&mut self, error: &CommandError, request: &[Bytes]) {
        let facts = catalogue::find(&request[0]).and_then(|facts| facts.of_words(request));
        if let Some(facts) = facts {
            self.shared.stats.rejected(facts);
            let is_left_out = matches!(error, CommandError::LeftOut(_));
            if is_left_out && self.transaction.is_some() && facts.has_flag("no_multi") {
                return self.refuse("ERR Command not allowed inside a transaction");
            }
            let denied = self.check(facts, request);
            if let Some(denied) = denied.filter(|_| error.is_denial()) {
                self.log_denial(Denial::of(&denied, self.transaction.is_some()), None);
            }
        }
        if matches!(error, CommandError::Arguments("exec")) {
            self.transaction = None;
            self.watched = WatchSet::new(self.shared.clone());
            return self.reply.error(
                "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' \
                 command",
            );
        }
        self.refuse(&error.to_string());
    }

    fn log_denial(&self, denial: Denial, user: Option<&[u8]>) {
        let name = user.unwrap_or(self.user.name.as_bytes());
        let user = String::from_utf8_lossy(name).into_owned();
        let client = self.client.line();
        self.shared.users.denials.add(Denial { user, client, at_ms: unix_ms(), ..denial });
    }

    fn push(&mut self, (command, facts): Known, args: Request) -> Option<Step> {
        self.tell_monitors(facts, &args);
        self.pending_bytes += request_bytes(&args);
        self.pending.push(Queued { command, facts, args, selected: self.selected });
        let full = self.pending.len() >= self.shared.config.pipeline_commands_max
            || self.pending_bytes >= self.shared.config.request_bytes_max;
        full.then(|| self.submit())
    }

    /// Answers an error, which spoils a transaction that is being queued.
    fn refuse(&mut self, text: &str) {
        if let Some(transaction) = &mut self.transaction {
            transaction.is_spoilt = true;
        }
        self.shared.stats.error(text);
        self.reply.error(text);
    }

    fn run<'a>(
        &mut self,
        (command, facts): Known,
        args: Request,
        shared: &'a Shared,
        view: &mut View<'a>,
    ) -> Option<Step> {
        use SessionCommand::{Auth, Discard, Exec, Hello, Multi, Quit, Reset, Watch};
        let is_free = matches!(command.access, Access::Session(Auth | Hello | Quit | Reset));
        if !self.is_authenticated && !is_free {
            self.refuse("NOAUTH Authentication required.");
            return None;
        }
        let is_now = matches!(
            command.access,
            Access::Session(Discard | Exec | Multi | Quit | Reset | Watch)
        );
        if self.transaction.is_some() && !is_now {
            self.queue((command, facts), args);
            return None;
        }
        let queued = self.transaction.iter().filter(|_| is_exec(command));
        queued
            .flat_map(|all| &all.commands)
            .for_each(|one| self.tell_monitors(one.facts, &one.args));
        if let Access::Session(Reset) = command.access {
            // It ends a MONITOR before that could show it.
            self.reset();
            self.tell_monitors(facts, &args);
            return None;
        }
        self.tell_monitors(facts, &args);
        match command.access {
            Access::Session(Exec) => return self.exec(),
            Access::Session(Discard) => self.discard(),
            Access::Session(Multi) => self.multi(),
            Access::Session(Watch) => {
                self.watch(&args[1..]);
                // A change before the WATCH does not break it, so what is read from here on must
                // have it.
                *view = None;
            }
            Access::Session(Quit) => {
                self.reply.ok();
                self.is_closing = true;
            }
            Access::Session(other) => return self.run_session(other, &args),
            Access::Waiting(_) => {
                let command = Queued { command, facts, args, selected: self.selected };
                return Some(Step::Submit(Work::Waiting { client: self.client.id, command }));
            }
            Access::Row(run) | Access::Point(run) | Access::Scan(run) => {
                let frozen =
                    view.get_or_insert_with(|| Frozen::new(&shared.database, self.selected));
                frozen.read_one_row(matches!(command.access, Access::Row(_)));
                let read = Read { view: &*frozen, now_ms: unix_ms(), shared, args: &args };
                let (start, began) = (self.reply.len(), Instant::now());
                let outcome = run(&read, &mut self.reply);
                shared.ran(&RanCommand {
                    facts,
                    words: &args,
                    client: Some(&self.client),
                    took: began.elapsed(),
                    has_failed: outcome.is_err(),
                });
                if let Err(error) = outcome {
                    self.reply.truncate(start);
                    self.refuse(&error.to_string());
                }
                shared.metrics.read_commands.fetch_add(1, Relaxed);
                if let Some(database) = selects(command, &args) {
                    self.selected.database = database;
                    *view = None;
                }
            }
            Access::Write(_) => unreachable!("a write is pending or in a transaction"),
        }
        None
    }

    fn run_session(&mut self, command: SessionCommand, args: &[Bytes]) -> Option<Step> {
        match command {
            SessionCommand::Acl => self.acl(args),
            SessionCommand::Auth => self.auth(&args[1..]),
            SessionCommand::Client => return self.client(args),
            SessionCommand::Hello => self.hello(&args[1..]),
            SessionCommand::Monitor if self.is_in_answer => {
                self.refuse("ERR MONITOR isn't allowed for DENY BLOCKING client");
            }
            SessionCommand::Monitor => self.monitor(),
            SessionCommand::Publish(topic) => self.publish(topic, args),
            SessionCommand::Pubsub => self.pubsub(args),
            SessionCommand::Subscribe(topic) => self.subscribe(topic, &args[1..]),
            SessionCommand::Unsubscribe(topic) => self.unsubscribe(topic, &args[1..]),
            SessionCommand::Unwatch => {
                self.watched = WatchSet::new(self.shared.clone());
                self.reply.ok();
            }
            SessionCommand::Denied
            | SessionCommand::Discard
            | SessionCommand::Exec
            | SessionCommand::Multi
            | SessionCommand::Quit
            | SessionCommand::Reset
            | SessionCommand::Watch => unreachable!("they are run before anything is queued"),
        }
        None
    }

    fn acl(&mut self, args: &[Bytes]) {
        let (shared, start) = (self.shared.clone(), self.reply.len());
        let call = Call { shared: &shared, user: &self.user, args };
        if let Err(error) = acl(&call, &mut self.reply) {
            self.reply.truncate(start);
            self.refuse(&error.to_string());
        }
        if shared.access_changes() != self.changes_seen {
            shared.clients.wake_all();
        }
    }

    /// Runs a command that stood in a transaction.
    fn run_own(&mut self, queued: Queued) {
        let Access::Session(command) = queued.command.access else {
            unreachable!("the writer runs the others");
        };
        if command == SessionCommand::Denied {
            return self.denied(&queued);
        }
        if self.run_session(command, &queued.args).is_some() {
            self.reply.error("ERR Command not allowed inside a transaction");
        }
    }

    fn multi(&mut self) {
        if self.transaction.is_some() {
            return self.reply.error("ERR MULTI calls can not be nested");
        }
        self.transaction = Some(Transaction::default());
        self.reply.ok();
    }

    fn queue(&mut self, (command, facts): Known, args: Request) {
        let config = &self.shared.config;
        let transaction = self.transaction.as_mut().expect("checked by the caller");
        transaction.bytes += request_bytes(&args);
        let full = transaction.commands.len() >= config.transaction_commands_max
            || transaction.bytes > config.request_bytes_max;
        if full {
            return self.refuse(
                "ERR transaction larger than transaction_commands_max or request_bytes_max",
            );
        }
        if !transaction.is_spoilt {
            transaction.commands.push(Queued { command, facts, args, selected: self.selected });
        }
        self.reply.simple("QUEUED");
    }

    fn exec(&mut self) -> Option<Step> {
        let Some(transaction) = self.transaction.take() else {
            self.reply.error("ERR EXEC without MULTI");
            return None;
        };
        let unwatched = WatchSet::new(self.shared.clone());
        let watched = std::mem::replace(&mut self.watched, unwatched);
        if transaction.is_spoilt {
            self.reply.error("EXECABORT Transaction discarded because of previous errors.");
            return None;
        }
        let mut commands = transaction.commands;
        self.selected_by_transaction = Some(self.settle(&mut commands));
        let is_own = |queued: &&Queued| matches!(queued.command.access, Access::Session(_));
        self.own = commands.iter().filter(is_own).cloned().collect();
        Some(Step::Submit(Work::Transaction { commands, watched }))
    }

    /// Says which commands may be run, since rights may have changed since they were queued, and where:
    /// a SELECT counts if it is run. Returns what is selected in the end.
    fn settle(&self, commands: &mut [Queued]) -> Selected {
        let mut selected = self.selected;
        for queued in commands {
            if self.check(queued.facts, &queued.args).is_some() {
                queued.command = &table::DENIED;
            }
            queued.selected = selected;
            if let Some(database) = selects(queued.command, &queued.args) {
                selected.database = database;
            }
        }
        selected
    }

    /// The answer of a command in a transaction that may no longer be run.
    fn denied(&mut self, queued: &Queued) {
        let denied = self.check(queued.facts, &queued.args);
        let why = match &denied {
            Some(Denied::Command(_)) => "no permission to execute the command or subcommand",
            Some(Denied::Key(_)) => "no permission to touch the specified keys",
            Some(Denied::Channel(_)) => {
                "no permission to access one of the channels used as arguments"
            }
            // They have changed once more.
            None => "no permission",
        };
        if let Some(denied) = denied {
            self.log_denial(Denial::of(&denied, true), None);
        }
        self.refuse(&format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the \
             EXEC call. This command is no longer allowed for the following reason: {why}"
        ));
    }

    fn discard(&mut self) {
        if self.transaction.take().is_none() {
            return self.reply.error("ERR DISCARD without MULTI");
        }
        self.watched = WatchSet::new(self.shared.clone());
        self.reply.ok();
    }

    fn watch(&mut self, keys: &[Bytes]) {
        if self.transaction.is_some() {
            return self.reply.error("ERR WATCH inside MULTI is not allowed");
        }
        if self.watched.len() + keys.len() > self.shared.config.watched_keys_max {
            return self.reply.error("ERR more watched keys than watched_keys_max");
        }
        keys.iter().for_each(|key| self.watched.add(key, self.selected));
        self.reply.ok();
    }

    fn auth(&mut self, args: &[Bytes]) {
        let (user, password) = match args {
            [password] => (None, password),
            [user, password] => (Some(user), password),
            _ => return self.reply.error("ERR syntax error"),
        };
        let is_open = self.shared.users.default_user().needs_no_password;
        if user.is_none() && is_open && !self.open_namespace(None, password) {
            return self.refuse(
                "ERR AUTH <password> called without any password configured for the default \
                 user. Are you sure your configuration is correct?",
            );
        }
        if self.authenticate(user, password, b"AUTH") {
            self.reply.ok();
        }
    }

    fn authenticate(&mut self, user: Option<&Bytes>, password: &[u8], by: &'static [u8]) -> bool {
        let name = user.map_or(DEFAULT.as_bytes(), |user| user);
        let has_opened = self.open_namespace(user, password);
        if !has_opened {
            let Some(user) = self.shared.users.authenticate(name, password) else {
                self.log_denial(Denial::of_auth(by), Some(name));
                self.refuse("WRONGPASS invalid username-password pair or user is disabled.");
                return false;
            };
            self.user = user;
            self.selected = Selected { namespace: 0, ..self.selected };
            self.subscribe_anew(0);
        }
        self.is_authenticated = true;
        true
    }

    /// A token opens its namespace, alone or behind the namespace's name.
    fn open_namespace(&mut self, user: Option<&Bytes>, token: &[u8]) -> bool {
        let spaces = self.shared.database.spaces();
        if spaces.changes() == 0 {
            return false;
        }
        let opened = spaces.opened_by(&hash_of(token));
        let is_named = |name: &str| user.is_none_or(|user| user == DEFAULT || user == name);
        let Some((name, namespace)) = opened.filter(|(name, _)| is_named(name)) else {
            return false;
        };
        self.user = Arc::new(User::of_namespace(&name));
        self.selected = Selected { namespace, database: 0 };
        self.subscribe_anew(namespace);
        true
    }

    fn hello(&mut self, args: &[Bytes]) {
        let protocol = match args.first().map(|version| integer(version)) {
            None => self.reply.protocol(),
            Some(Ok(2)) => Protocol::Resp2,
            Some(Ok(3)) => Protocol::Resp3,
            Some(Ok(_)) => return self.reply.error("NOPROTO unsupported protocol version"),
            Some(Err(_)) => {
                return self.reply.error("ERR Protocol version is not an integer or out of range");
            }
        };
        let mut name = None;
        let mut rest = args.get(1..).unwrap_or_default();
        while !rest.is_empty() {
            rest = match rest {
                [word, user, password, rest @ ..] if is_word(word, "auth") => {
                    if !self.authenticate(Some(user), password, b"HELLO") {
                        return;
                    }
                    rest
                }
                [word, wanted, rest @ ..] if is_word(word, "setname") => {
                    name = Some(wanted);
                    rest
                }
                [word, ..] => {
                    let word = String::from_utf8_lossy(word);
                    return self.reply.error(&format!("ERR Syntax error in HELLO option '{word}'"));
                }
                [] => unreachable!("not empty"),
            };
        }
        if !self.is_authenticated {
            return self.reply.error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                 the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
                 client and select the RESP protocol version at the same time",
            );
        }
        if let Some(Err(error)) = name.map(|name| self.set_name(name)) {
            return self.refuse(&error.to_string());
        }
        self.reply.set_protocol(protocol);
        // What is published from here on comes in this version.
        self.show();
        self.put_hello();
    }

    fn put_hello(&mut self) {
        let reply = &mut self.reply;
        reply.map(7);
        for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"proto");
        reply.integer(if reply.protocol() == Protocol::Resp3 { 3 } else { 2 });
        reply.bulk(b"id");
        reply.integer(self.client.id as i64);
        for (name, value) in [("mode", "standalone"), ("role", "master")] {
            reply.bulk(name.as_bytes());
            reply.bulk(value.as_bytes());
        }
        reply.bulk(b"modules");
        reply.array(0);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.clients.remove(&self.client);
    }
}

fn is_exec(command: &Command) -> bool {
    matches!(command.access, Access::Session(SessionCommand::Exec))
}

const SELECT: &str = "select";

/// The database that this command selects.
fn selects(command: &Command, args: &[Bytes]) -> Option<u8> {
    if command.name == SELECT { database(&args[1]).ok() } else { None }
}

/// Whether an answer is an array that is there: those of a transaction that was run.
fn is_array(answer: &[u8]) -> bool {
    answer.starts_with(b"*") && !answer.starts_with(b"*-")
}

fn request_bytes(args: &[Bytes]) -> usize {
    args.iter().map(|arg| arg.len() + 32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::database::Database;
    use crate::store::layout::{self, Family};
    use crate::store::overlay::Overlay;
    use crate::users::Users;
    use std::path::Path;

    fn request(words: &str) -> Request {
        words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    /// Three commands of one turn, and a write of somebody else between the first two.
    #[test]
    fn a_read_after_a_watch_is_no_older_than_the_watch() {
        let dir = std::env::temp_dir().join(format!("hkv-session-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let database = Database::open(&dir, 1 << 20, 1 << 20).expect("a database");
        let users = Users::new("", &[], Path::new("")).expect("no users");
        let shared = Arc::new(Shared::new(Config::default(), database, users));
        let set = |sequence: u64, value: &[u8]| {
            let mut group = Overlay::new(&shared.database, sequence);
            group.put(Family::Metadata, layout::metadata_key(b"k"), layout::string(value, 0));
            shared.database.apply(sequence, &group.encode()).expect("applied");
            shared.watches.mark(group.into_layer().changed_keys(), &[]);
        };
        set(1, b"old");
        let poll = mio::Poll::new().expect("a poll");
        let inbox = Arc::new(Inbox::new(&poll).expect("an inbox"));
        let mut session = Session::new(shared.clone(), Addresses::default(), inbox);
        let mut view = View::None;
        assert!(session.take(request("GET a"), &shared, &mut view).is_none());
        set(2, b"new");
        assert!(session.take(request("WATCH k"), &shared, &mut view).is_none());
        assert!(session.take(request("GET k"), &shared, &mut view).is_none());
        assert_eq!(session.reply.bytes(), b"$-1\r\n+OK\r\n$3\r\nnew\r\n");
        let mut group = Overlay::new(&shared.database, 3);
        assert!(
            session.watched.is_unchanged(&mut group, 2, unix_ms()),
            "nothing came after the WATCH"
        );
        drop(view);
        _ = std::fs::remove_dir_all(&dir);
    }
}
