//! Publishing and subscribing on one connection.

use std::sync::Arc;

use bytes::Bytes;

use super::client::Voice;
use super::{Session, Step, View};
use crate::command::error::{CommandError, shown};
use crate::command::table::{Access, Known, SessionCommand};
use crate::command::{put_help, subcommand};
use crate::pubsub::{Subscriptions, Topic};
use crate::resp::reply::{Protocol, Reply};
use crate::resp::request::Request;
use crate::shared::Shared;

type Run = fn(&mut Session, &[Bytes]);

const COMMANDS: &[(&str, i16, Run)] = &[
    ("pubsub|channels", -2, |session, args| session.put_names(Topic::Channel, args)),
    ("pubsub|help", 2, |session, _| put_help(&mut session.reply, "PUBSUB", HELP)),
    ("pubsub|numpat", 2, |session, _| {
        session.reply.count(session.subscriptions.hub.count(Topic::Pattern));
    }),
    ("pubsub|numsub", -2, |session, args| session.put_counts(Topic::Channel, args)),
    ("pubsub|shardchannels", -2, |session, args| session.put_names(Topic::ShardChannel, args)),
    ("pubsub|shardnumsub", -2, |session, args| session.put_counts(Topic::ShardChannel, args)),
];

impl Session {
    /// Whether the old protocol allows no more than subscribing on this connection, since it cannot tell
    /// messages from answers.
    pub(super) fn only_subscribes(&self) -> bool {
        self.reply.protocol() == Protocol::Resp2 && !self.subscriptions.is_empty()
    }

    /// Runs what is allowed then.
    pub(super) fn run_subscribed<'a>(
        &mut self,
        known: Known,
        args: Request,
        shared: &'a Shared,
        view: &mut View<'a>,
    ) -> Option<Step> {
        use SessionCommand::{Quit, Reset, Subscribe, Unsubscribe};
        let (command, facts) = known;
        match command.access {
            Access::Session(Quit | Reset | Subscribe(_) | Unsubscribe(_)) => {
                return self.run(known, args, shared, view);
            }
            _ if command.name == "ping" && args.len() > 2 => {
                self.refuse(&CommandError::Arguments("ping").to_string());
            }
            _ if command.name == "ping" && self.transaction.is_none() => self.ping_as_message(&args),
            _ if command.name == "ping" => return self.run(known, args, shared, view),
            _ => self.refuse(&format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET \
                 are allowed in this context",
                facts.name
            )),
        }
        None
    }

    /// Another namespace has channels of its own.
    pub(super) fn subscribe_anew(&mut self, namespace: u32) {
        let hub = self.shared.hubs.of(namespace);
        if !Arc::ptr_eq(&hub, &self.subscriptions.hub) {
            self.subscriptions = Subscriptions::new(hub, self.client.clone());
        }
    }

    pub(super) fn subscribe(&mut self, topic: Topic, names: &[Bytes]) {
        let max = self.shared.config.subscriptions_max;
        let new = names.iter().filter(|name| !self.subscriptions.contains(topic, name)).count();
        if self.subscriptions.len() + new > max {
            return self.refuse(&CommandError::Subscriptions.to_string());
        }
        for name in names {
            self.subscriptions.add(topic, name);
            self.confirm(topic, topic.subscribed(), Some(name));
        }
    }

    /// Without names from all of them.
    pub(super) fn unsubscribe(&mut self, topic: Topic, names: &[Bytes]) {
        let all = match names {
            [] => self.subscriptions.names(topic),
            names => names.to_vec(),
        };
        if all.is_empty() {
            self.confirm(topic, topic.unsubscribed(), None);
        }
        for name in &all {
            self.subscriptions.remove(topic, name);
            // What was published before this comes before it.
            self.take_messages();
            self.confirm(topic, topic.unsubscribed(), Some(name));
        }
    }

    fn confirm(&mut self, topic: Topic, kind: &str, name: Option<&Bytes>) {
        let mut message = Reply::new(self.reply.protocol());
        message.push(3);
        message.bulk(kind.as_bytes());
        message.optional_bulk(name.map(|name| &name[..]));
        message.count(self.subscriptions.counted_with(topic));
        match self.voice {
            Voice::Heard => self.reply.append(message.bytes()),
            // These are no answers, and come even where none are wanted.
            _ => self.shared.put(&self.client, message.into_bytes().into()),
        }
    }

    /// Messages that are there go before the next answer.
    fn take_messages(&mut self) {
        self.client.take_messages(&mut self.reply, usize::MAX);
    }

    pub(super) fn publish(&mut self, topic: Topic, args: &[Bytes]) {
        let receivers = self.subscriptions.hub.publish(topic, &args[1], &args[2], &self.shared);
        // In a transaction this is the middle of an answer.
        if !self.is_in_answer && !self.subscriptions.is_empty() {
            self.take_messages();
        }
        self.reply.count(receivers);
    }

    pub(super) fn pubsub(&mut self, args: &[Bytes]) {
        match subcommand(args, COMMANDS) {
            Ok(run) => run(self, args),
            Err(error) => self.refuse(&error.to_string()),
        }
    }

    fn put_names(&mut self, topic: Topic, args: &[Bytes]) {
        if args.len() > 3 {
            let error = CommandError::SubcommandSyntax(shown(&args[1]), "PUBSUB");
            return self.refuse(&error.to_string());
        }
        let pattern = args.get(2).map(|pattern| &pattern[..]);
        let names = self.subscriptions.hub.names(topic, pattern);
        self.reply.array(names.len());
        names.iter().for_each(|name| self.reply.bulk(name));
    }

    fn put_counts(&mut self, topic: Topic, args: &[Bytes]) {
        self.reply.array(2 * (args.len() - 2));
        for name in &args[2..] {
            self.reply.bulk(name);
            self.reply.count(self.subscriptions.hub.subscribers(topic, name));
        }
    }

    /// PING, where the old protocol needs it to look like a message.
    pub(super) fn ping_as_message(&mut self, args: &[Bytes]) {
        self.reply.array(2);
        self.reply.bulk(b"pong");
        self.reply.bulk(args.get(1).map_or(&b""[..], |message| message));
    }
}

const HELP: &[&str] = &[
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
];
