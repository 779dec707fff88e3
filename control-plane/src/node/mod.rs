//! The sans-IO control node.

use hawser_codec::ids::HashKey;

use crate::records::App;

pub mod event;
pub mod limits;
pub mod model;

use event::{Actions, Event, Now};
use limits::Limits;

/// What a node must know. Plain values; the configuration file is the shell's.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Differs between the nodes that share a store.
    pub node: u64,
    /// The key of every `DeviceId`, kept in the store (`records::HASH_KEY_KEY`).
    pub hash_key: HashKey,
    pub limits: Limits,
    /// A deliberate mistake, for tests that must notice it.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<SeededBug>,
}

impl NodeConfig {
    pub fn new(node: u64, hash_key: HashKey) -> NodeConfig {
        NodeConfig {
            node,
            hash_key,
            limits: Limits::default(),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }
}

/// Realistic one-line mistakes, switched on one at a time.
#[cfg(feature = "seeded-bugs")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeededBug {
    /// A push is answered when its append is sent to the store, not when it is stored.
    AnswerBeforeStored,
    /// A conflict is taken for a success.
    ConflictIsSuccess,
    /// The announcement that came last wins, whatever its epoch.
    RouteIgnoresEpoch,
    /// An acknowledgement trims one entry more.
    TrimsOneTooMany,
    /// A pull does not look at expiry.
    ExpiredDelivered,
    /// The group cursor counts entries that are not stored yet.
    CursorTooEarly,
    /// The idempotency record is left out of the transaction when it is tried again.
    RecordForgottenOnRetry,
    /// A pull whose read fails is dropped.
    PullLostOnFailure,
}

#[cfg(feature = "seeded-bugs")]
impl SeededBug {
    pub const ALL: [SeededBug; 8] = [
        SeededBug::AnswerBeforeStored,
        SeededBug::ConflictIsSuccess,
        SeededBug::RouteIgnoresEpoch,
        SeededBug::TrimsOneTooMany,
        SeededBug::ExpiredDelivered,
        SeededBug::CursorTooEarly,
        SeededBug::RecordForgottenOnRetry,
        SeededBug::PullLostOnFailure,
    ];
}

/// One control node's soft state and everything decided upon it.
pub struct Node {
    config: NodeConfig,
    apps: Vec<App>,
}

impl Node {
    /// Asks for nothing yet: the first [`Node::on_time`] reads the apps.
    pub fn new(config: NodeConfig) -> Node {
        Node { config, apps: Vec::new() }
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, _event: Event<'_>, _now: Now, _out: &mut Actions) {}

    /// Does what is due. Early calls do nothing.
    pub fn on_time(&mut self, _now: Now, _out: &mut Actions) {}

    /// When `on_time` must be called next, in `Now::mono_ms`. A time that has passed means at once.
    pub fn deadline_ms(&self) -> Option<u64> {
        None
    }

    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The registered apps, in ascending order of id, as of the last read.
    pub fn apps(&self) -> &[App] {
        &self.apps
    }

    /// Asserts the whole structure; slow, for tests.
    pub fn invariants(&self) {}
}
