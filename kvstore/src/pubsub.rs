//! Publish and subscribe: who gets what is published to a channel.
//!
//! A message goes into the outbox of each subscriber, encoded once for each version of the protocol.
//! Nothing is kept: who is not subscribed at that moment does not get it. Shard channels are a third
//! table of their own, as they are in a single node of Redis.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;

use crate::clients::Client;
use crate::command::scan::glob;
use crate::resp::reply::{Protocol, Reply};
use crate::shared::Shared;
use crate::users::user::User;

/// What one can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Channel,
    Pattern,
    ShardChannel,
}

impl Topic {
    pub const ALL: [Topic; 3] = [Topic::Channel, Topic::Pattern, Topic::ShardChannel];

    pub fn subscribed(self) -> &'static str {
        match self {
            Topic::Channel => "subscribe",
            Topic::Pattern => "psubscribe",
            Topic::ShardChannel => "ssubscribe",
        }
    }

    pub fn unsubscribed(self) -> &'static str {
        match self {
            Topic::Channel => "unsubscribe",
            Topic::Pattern => "punsubscribe",
            Topic::ShardChannel => "sunsubscribe",
        }
    }
}

/// Subscribers by id, so that one is found and taken out without a walk.
type Subscribers = BTreeMap<u64, Arc<Client>>;

#[derive(Default)]
pub struct PubSub {
    channels: RwLock<HashMap<Bytes, Subscribers>>,
    patterns: RwLock<HashMap<Bytes, Subscribers>>,
    shard_channels: RwLock<HashMap<Bytes, Subscribers>>,
}

impl PubSub {
    fn table(&self, topic: Topic) -> &RwLock<HashMap<Bytes, Subscribers>> {
        match topic {
            Topic::Channel => &self.channels,
            Topic::Pattern => &self.patterns,
            Topic::ShardChannel => &self.shard_channels,
        }
    }

    fn add(&self, topic: Topic, name: Bytes, client: &Arc<Client>) {
        let mut table = self.table(topic).write().expect(NOT_POISONED);
        table.entry(name).or_default().insert(client.id, client.clone());
    }

    fn remove(&self, topic: Topic, name: &Bytes, id: u64) {
        let mut table = self.table(topic).write().expect(NOT_POISONED);
        remove_from(&mut table, name, id);
    }

    /// How many got it.
    pub fn publish(&self, topic: Topic, channel: &[u8], message: &[u8], shared: &Shared) -> usize {
        let mut receivers = 0;
        let mut give = |subscribers: &Subscribers, words: &[&[u8]]| {
            let mut encoded = [None, None];
            for client in subscribers.values() {
                let protocol = client.facts().protocol;
                let bytes =
                    encoded[protocol as usize].get_or_insert_with(|| encode(protocol, words));
                shared.put(client, bytes.clone());
                receivers += 1;
            }
        };
        let kind: &[u8] = if topic == Topic::ShardChannel { b"smessage" } else { b"message" };
        let table = self.table(topic).read().expect(NOT_POISONED);
        if let Some(subscribers) = table.get(channel) {
            give(subscribers, &[kind, channel, message]);
        }
        drop(table);
        if topic == Topic::Channel {
            let patterns = self.patterns.read().expect(NOT_POISONED);
            for (pattern, subscribers) in patterns.iter() {
                if glob(pattern, channel) {
                    give(subscribers, &[b"pmessage", pattern, channel, message]);
                }
            }
        }
        receivers
    }

    /// Channels with subscribers that match the pattern.
    pub fn names(&self, topic: Topic, pattern: Option<&[u8]>) -> Vec<Bytes> {
        let table = self.table(topic).read().expect(NOT_POISONED);
        let matches = |name: &&Bytes| pattern.is_none_or(|pattern| glob(pattern, name));
        table.keys().filter(matches).cloned().collect()
    }

    pub fn count(&self, topic: Topic) -> usize {
        self.table(topic).read().expect(NOT_POISONED).len()
    }

    pub fn subscribers(&self, topic: Topic, name: &[u8]) -> usize {
        let table = self.table(topic).read().expect(NOT_POISONED);
        table.get(name).map_or(0, Subscribers::len)
    }
}

const NOT_POISONED: &str = "not poisoned: nothing panics under it";

fn remove_from<K: Eq + Hash>(table: &mut HashMap<K, Subscribers>, name: &K, id: u64) {
    if let Some(subscribers) = table.get_mut(name) {
        subscribers.remove(&id);
        if subscribers.is_empty() {
            table.remove(name);
        }
    }
}

fn encode(protocol: Protocol, words: &[&[u8]]) -> Bytes {
    let mut reply = Reply::new(protocol);
    reply.push(words.len());
    words.iter().for_each(|word| reply.bulk(word));
    Bytes::from(reply.into_bytes())
}

/// The tables of each namespace, since one does not hear the other. They are made when somebody first
/// needs them, so there are no more than namespaces.
#[derive(Default)]
pub struct Hubs(Mutex<HashMap<u32, Arc<PubSub>>>);

impl Hubs {
    pub fn of(&self, namespace: u32) -> Arc<PubSub> {
        self.0.lock().expect(NOT_POISONED).entry(namespace).or_default().clone()
    }
}

/// What one connection is subscribed to. It is taken out of the tables when this is dropped.
pub struct Subscriptions {
    pub hub: Arc<PubSub>,
    client: Arc<Client>,
    names: [BTreeSet<Bytes>; 3],
}

impl Subscriptions {
    pub fn new(hub: Arc<PubSub>, client: Arc<Client>) -> Subscriptions {
        Subscriptions { hub, client, names: Default::default() }
    }

    /// Of all three sorts.
    pub fn len(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number that confirmations have: shard channels are counted apart from the others.
    pub fn counted_with(&self, topic: Topic) -> usize {
        match topic {
            Topic::ShardChannel => self.names[Topic::ShardChannel as usize].len(),
            _ => self.len() - self.names[Topic::ShardChannel as usize].len(),
        }
    }

    pub fn names(&self, topic: Topic) -> Vec<Bytes> {
        self.names[topic as usize].iter().cloned().collect()
    }

    pub fn are_allowed_to(&self, user: &User) -> bool {
        Topic::ALL.into_iter().all(|topic| {
            let is_pattern = topic == Topic::Pattern;
            self.names[topic as usize].iter().all(|name| user.may_use_channel(name, is_pattern))
        })
    }

    pub fn contains(&self, topic: Topic, name: &[u8]) -> bool {
        self.names[topic as usize].contains(name)
    }

    pub fn add(&mut self, topic: Topic, name: &[u8]) {
        if self.contains(topic, name) {
            return;
        }
        // A copy: the original shares its memory with everything read from the socket at that time.
        let name = Bytes::copy_from_slice(name);
        self.names[topic as usize].insert(name.clone());
        self.hub.add(topic, name, &self.client);
        self.show();
    }

    pub fn remove(&mut self, topic: Topic, name: &Bytes) {
        if self.names[topic as usize].remove(name) {
            self.hub.remove(topic, name, self.client.id);
            self.show();
        }
    }

    pub fn clear(&mut self) {
        for topic in Topic::ALL {
            self.names(topic).iter().for_each(|name| self.remove(topic, name));
        }
    }

    fn show(&self) {
        let [channels, patterns, shard_channels] = self.names.each_ref().map(BTreeSet::len);
        let mut facts = self.client.facts();
        (facts.channels, facts.patterns, facts.shard_channels) =
            (channels, patterns, shard_channels);
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.clear();
    }
}
