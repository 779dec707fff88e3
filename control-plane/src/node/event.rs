//! A control node's vocabulary: everything that can happen to it, everything it can ask for, and
//! what the store is asked to do. All enums are closed: whoever reads this file has seen all of it.
//!
//! ```text
//!   LinkUp, LinkDown, Frame ──▶┌──────┐──▶ Send {link, bytes}
//!   Call {call, request}    ──▶│ Node │──▶ Answer {call, answer}      exactly one per call
//!   Stored {op, result}     ──▶└──────┘──▶ Store {op, request}        exactly one Stored per op
//! ```
//!
//! The node is given time and never reads it. Bytes for links are encoded into [`Actions::bytes`];
//! an action names them by range, so a group entry that goes to a hundred shards stands there once.
//! Store operations are data: `store.rs` executes them over RESP, `node/model.rs` in memory, with
//! the same meaning.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use hawser_codec::ids::{AppId, DeviceId, Seq, TopicId};
use hawser_codec::link::ToControl;

use crate::records::{App, KeyHash, MessageId, NewApp, Pointer};

/// The time of a call into the node, read once by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a monotonic clock. Timers use this one.
    pub mono_ms: u64,
    /// Milliseconds since 1970. Expiry uses this one; it may jump.
    pub unix_ms: u64,
}

/// One authenticated link of one shard. Never used again after its `LinkDown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// An API call that waits for its answer. Chosen by the caller; unique among the open ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A store operation under way. Chosen by the node; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Both ends of a link are authenticated and `Accepted` was sent. The node sends the keys.
    LinkUp { link: LinkId, broker: u64, incarnation: u64, shard: u16 },
    /// The link is lost; whatever was sent on it may be lost too.
    LinkDown { link: LinkId },
    /// A frame of an authenticated shard. `Hello`, `Proof` and `Pong` are the shell's.
    Frame { link: LinkId, frame: ToControl<'a> },
    /// An API call; it is answered by exactly one `Action::Answer`.
    Call { call: CallId, request: Request },
    /// The store has executed an operation, or failed to.
    Stored { op: OpId, result: StoreResult },
}

/// What the node wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes of [`Actions::bytes`] on a link. Dropped by the shell if the link is gone.
    Send {
        link: LinkId,
        frame: Range<u32>,
    },
    /// Execute a store operation and report it with `Event::Stored`. Operations may run at the
    /// same time and end in any order: the node waits where order matters.
    Store {
        op: OpId,
        request: StoreOp,
    },
    Answer {
        call: CallId,
        answer: Answer,
    },
    /// [`super::Node::apps`] changed: whoever keeps a copy takes a new one.
    AppsChanged,
}

/// The actions of one call and the bytes that they name. Cleared by the shell.
#[derive(Debug, Default)]
pub struct Actions {
    pub list: Vec<Action>,
    pub bytes: Vec<u8>,
}

impl Actions {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
    }

    /// Appends whatever `encode` writes and returns where it stands.
    pub fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Range<u32> {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        let end = u32::try_from(self.bytes.len()).expect("one call writes less than 4 GiB");
        start as u32..end
    }

    pub fn answer(&mut self, call: CallId, answer: Answer) {
        self.list.push(Action::Answer { call, answer });
    }

    /// Sends one frame on one link.
    pub fn send(&mut self, link: LinkId, encode: impl FnOnce(&mut Vec<u8>)) {
        let frame = self.write(encode);
        self.list.push(Action::Send { link, frame });
    }

    /// The bytes that an action names.
    pub fn frame(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }
}

/// What the API asks for. Names are checked and hashed at the API's edge, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Push(Push),
    MessageState {
        app: AppId,
        id: MessageId,
    },
    DeviceShow {
        app: AppId,
        device: DeviceId,
    },
    Status,
    /// Registers an app. The caller made the keys, since the node has no randomness.
    AppCreate(NewApp),
    /// Reads the apps from the store now: answered when [`super::Node::apps`] is fresh.
    AppsRefresh,
}

/// A message to store and deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub app: AppId,
    pub to: To,
    /// At most `PAYLOAD_BYTES_MAX`.
    pub payload: Bytes,
    /// `1..=TTL_S_MAX`.
    pub ttl_s: u32,
    pub priority: Priority,
    pub wake: Wake,
    /// Replaces the waiting message of this stream with the same key.
    pub collapse: Option<KeyHash>,
    /// A repeat of the same key to the same stream within `IDEMPOTENCY_KEEP_MS` is answered with
    /// the first one's id.
    pub idempotency: Option<KeyHash>,
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Device(DeviceId),
    Topic(TopicId),
    All,
}

/// Under overload the lower ones are refused first. Does not change the order of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// When a device is told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Wake {
    #[default]
    Now,
    /// With the device's next heartbeat.
    WhenAwake,
}

/// What the API gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message is durable.
    Accepted(Accepted),
    Message(MessageInfo),
    Group(GroupInfo),
    Device(DeviceInfo),
    Status(Box<Status>),
    AppCreated {
        app: AppId,
    },
    AppsFresh,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub id: MessageId,
    pub seq: Seq,
    /// The device is connected; for a group, at least one session of the app is.
    pub online: bool,
    pub outcome: PushOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    Stored,
    /// The idempotency key was used before; `id` and `seq` are the first message's.
    Duplicate,
}

/// Where an inbox message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageInfo {
    pub id: MessageId,
    pub state: MessageState,
    pub expires_unix_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    Pending,
    Delivered,
    Expired,
    Collapsed,
}

/// What became of a group message. Counts are at least a flush interval old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    pub id: MessageId,
    /// `Pending` means that the log still has it.
    pub state: MessageState,
    pub expires_unix_ms: u64,
    /// Sessions it was sent to at once.
    pub sent: u64,
    /// Sessions that were to pull it.
    pub waiting: u64,
    pub acknowledged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    pub session: Option<SessionInfo>,
    pub inbox: InboxInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub broker: u64,
    pub shard: u16,
    pub since_unix_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxInfo {
    pub entries: u64,
    pub last: Seq,
    /// Nothing waits at or below this place.
    pub settled: Seq,
}

/// What `GET /v1/status` shows of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub node: u64,
    pub links: Vec<LinkInfo>,
    /// Routes of live links.
    pub sessions: u64,
    /// Pushes that wait for the store.
    pub pushes_waiting: u64,
    /// Pulls that wait for the store.
    pub pulls_waiting: u64,
    pub store_up: bool,
    /// Sums over all nodes, in ascending order of app.
    pub apps: Vec<AppTotals>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    pub link: LinkId,
    pub broker: u64,
    pub incarnation: u64,
    pub shard: u16,
    pub sessions: u64,
}

/// What became of an app's messages. A node that is killed may lose the counts of its last
/// `COUNTS_FLUSH_MS`, never messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppTotals {
    pub app: AppId,
    pub accepted: u64,
    pub delivered: u64,
    pub expired: u64,
    pub collapsed: u64,
    /// Accepted and none of the others yet.
    pub pending: u64,
    pub group_accepted: u64,
    pub group_expired: u64,
    pub group_collapsed: u64,
}

/// Why a call was not done. The API maps these to HTTP in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 404.
    UnknownApp,
    /// 404: the id is not one of this app, or was never given, or its state is no longer kept.
    UnknownMessage,
    /// 409.
    AppNameTaken,
    /// 400.
    BadAppName,
    /// 400.
    BadQuota,
    /// 409: the limit on apps is reached.
    TooManyApps,
    /// 400: `ttl_s` is not in `1..=TTL_S_MAX`.
    BadTtl,
    /// 413.
    PayloadTooLarge,
    /// 429: the app's `messages_per_s`.
    QuotaExceeded { retry_after_ms: u32 },
    /// 429: the device's inbox has `inbox_entries_max` entries that wait.
    InboxFull { retry_after_ms: u32 },
    /// 429: the app's log has `group_log_entries_max` entries that have not expired.
    GroupLogFull { retry_after_ms: u32 },
    /// 503: a limit of this node is reached.
    Overloaded { retry_after_ms: u32 },
    /// 503: the store was not reached, or too many other writers were first. Nothing was stored.
    StoreUnavailable { retry_after_ms: u32 },
    /// 503: the store did not answer. The message may have been stored: a repeat needs the same
    /// idempotency key to be safe.
    OutcomeUnknown { retry_after_ms: u32 },
}

impl Refusal {
    /// The stable code of the error, also the metric label.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::UnknownApp => "unknown_app",
            Refusal::UnknownMessage => "unknown_message",
            Refusal::AppNameTaken => "app_name_taken",
            Refusal::BadAppName => "bad_app_name",
            Refusal::BadQuota => "bad_quota",
            Refusal::TooManyApps => "too_many_apps",
            Refusal::BadTtl => "bad_ttl",
            Refusal::PayloadTooLarge => "payload_too_large",
            Refusal::QuotaExceeded { .. } => "quota_exceeded",
            Refusal::InboxFull { .. } => "inbox_full",
            Refusal::GroupLogFull { .. } => "group_log_full",
            Refusal::Overloaded { .. } => "overloaded",
            Refusal::StoreUnavailable { .. } => "store_unavailable",
            Refusal::OutcomeUnknown { .. } => "outcome_unknown",
        }
    }

    /// When to come back, for those that pass.
    pub fn retry_after_ms(self) -> Option<u32> {
        match self {
            Refusal::QuotaExceeded { retry_after_ms }
            | Refusal::InboxFull { retry_after_ms }
            | Refusal::GroupLogFull { retry_after_ms }
            | Refusal::Overloaded { retry_after_ms }
            | Refusal::StoreUnavailable { retry_after_ms }
            | Refusal::OutcomeUnknown { retry_after_ms } => Some(retry_after_ms),
            Refusal::UnknownApp
            | Refusal::UnknownMessage
            | Refusal::AppNameTaken
            | Refusal::BadAppName
            | Refusal::BadQuota
            | Refusal::TooManyApps
            | Refusal::BadTtl
            | Refusal::PayloadTooLarge => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::UnknownApp => "no such app",
            Refusal::UnknownMessage => "no such message, or its state is no longer kept",
            Refusal::AppNameTaken => "an app of this name exists",
            Refusal::BadAppName => {
                "an app name is 1 to 32 bytes of a-z, 0-9 and '-', no hyphen at either end"
            }
            Refusal::BadQuota => "a quota is outside its range",
            Refusal::TooManyApps => "the cluster has as many apps as it can hold",
            Refusal::BadTtl => "ttl_s must be 1 to 2592000",
            Refusal::PayloadTooLarge => "the payload exceeds 65536 bytes",
            Refusal::QuotaExceeded { .. } => "the app's messages_per_s quota is used up",
            Refusal::InboxFull { .. } => "the device's inbox is full",
            Refusal::GroupLogFull { .. } => "the app's group log is full of live messages",
            Refusal::Overloaded { .. } => "this node has too many messages under way",
            Refusal::StoreUnavailable { .. } => "the store is not available; nothing was stored",
            Refusal::OutcomeUnknown { .. } => {
                "the store did not answer; repeat with the same idempotency key"
            }
        })
    }
}

/// One of the ordered streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamId {
    Inbox { app: AppId, device: DeviceId },
    Group { app: AppId },
}

impl StreamId {
    pub fn app(self) -> AppId {
        match self {
            StreamId::Inbox { app, .. } | StreamId::Group { app } => app,
        }
    }
}

/// What the store is asked to do. The RESP commands of each stand beside it; the key of a stream,
/// a record and so on is made by [`crate::records`]. A stream that does not exist is an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// `XADD stream seq-0 m entry` → `Appended`, or `Conflict` when the store says that the id is
    /// equal to or smaller than the top one.
    Append { stream: StreamId, seq: Seq, entry: Bytes },
    /// Appends in order, all or none, in one transaction:
    /// ```text
    ///   WATCH stream record.. collapse..  |  XINFO STREAM stream  |  GET record..  |  GET collapse..
    ///   XRANGE stream earlier-0 earlier-0      for every collapse key that names an entry
    ///   MULTI                                  then for each entry whose record does not exist:
    ///     XADD stream next-0 m entry
    ///     SET record pointer PX keep_ms        if it has an idempotency key
    ///     XDEL stream earlier-0                if the collapse key names an entry that exists
    ///     SET tombstone c PX keep_ms           the same
    ///     SET collapse pointer PX keep_ms      if it has a collapse key
    ///   EXEC
    /// ```
    /// → `AppendedAll`, or `Conflict` when EXEC answers nil. No key appears twice in one operation.
    /// If every entry is a duplicate: UNWATCH, and the outcome without a transaction. If the stream
    /// would have more than `entries_max` entries afterwards: UNWATCH, and `Full`.
    AppendAll { stream: StreamId, entries_max: u64, entries: Vec<NewEntry> },
    /// `XINFO STREAM stream` → `Tail`.
    Tail { stream: StreamId },
    /// `XINFO STREAM stream`, then `XRANGE stream (after+1)-0 + COUNT count` → `Entries`. In this
    /// order: with fewer than `count` entries nothing is missing up to the tail.
    Read { stream: StreamId, after: Seq, count: u32 },
    /// `XINFO STREAM stream`, `XRANGE stream seq-0 seq-0`, `GET tombstone` → `Found`.
    Find { stream: StreamId, seq: Seq },
    /// `XTRIM stream MINID (upto+1)-0` for each → `Trimmed`. Exact, never `~`: the answers are
    /// the count of delivered messages.
    Trim { trims: Vec<Trim> },
    /// `SET tombstone x PX keep_ms NX`, `XDEL stream seq-0` for each, as one transaction →
    /// `Deleted`.
    Delete { stream: StreamId, entries: Vec<Expired> },
    /// `SCAN cursor MATCH hw:s:* COUNT count` → `Scanned`; keys that are no stream are left out.
    Scan { cursor: u64, count: u32 },
    /// `HINCRBY key field by` for each; `PEXPIRE key keep_ms` where one is given → `Counted`.
    Count { counts: Vec<Count> },
    /// `HGETALL key` for each → `Counts`.
    ReadCounts { keys: Vec<CountKey> },
    /// `GET apps-version`, and if it differs from `known`: `HGETALL apps` → `Apps`.
    ReadApps { known: u64 },
    /// `WATCH apps-version`, `GET apps-version`; equal to `expected`: `MULTI`,
    /// `HSET apps id record`, `SET apps-version expected+1`, `EXEC` → `AppWritten`, else `Conflict`.
    WriteApp { expected: u64, app: AppId, record: Bytes },
}

/// An entry of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub entry: Bytes,
    /// When it expires; stands in the records beside the number.
    pub expires_unix_ms: u64,
    /// The idempotency record to write, or to find.
    pub record: Option<Keyed>,
    /// The collapse record to follow and to overwrite.
    pub collapse: Option<Keyed>,
}

/// A record's key and how long the record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    pub key: KeyHash,
    pub keep_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    pub stream: StreamId,
    pub upto: Seq,
}

/// An entry to delete because its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    pub seq: Seq,
    /// How long to remember that it expired.
    pub keep_ms: u64,
}

/// How an entry left its stream otherwise than by acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Expired,
    Collapsed,
}

/// A hash of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CountKey {
    App(AppId),
    GroupEntry { app: AppId, seq: Seq },
}

/// A field of such a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CountField {
    Accepted,
    Delivered,
    Expired,
    Collapsed,
    GroupAccepted,
    GroupExpired,
    GroupCollapsed,
    Sent,
    Waiting,
    Acknowledged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub key: CountKey,
    pub field: CountField,
    pub by: u64,
    /// The key goes away this long after its last change; `None`: never.
    pub keep_ms: Option<u64>,
}

/// What the store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreResult {
    Appended,
    /// Another writer was first. Nothing was done.
    Conflict,
    AppendedAll {
        /// After the transaction.
        tail: Tail,
        /// One per entry, in order.
        outcomes: Vec<Outcome>,
    },
    /// The stream has no room for the entries of an `AppendAll`. Nothing was done.
    Full(Tail),
    Tail(Tail),
    Entries {
        tail: Tail,
        /// Ascending. As stored: not yet decoded.
        entries: Vec<(Seq, Bytes)>,
    },
    Found {
        tail: Tail,
        entry: Option<Bytes>,
        removal: Option<Removal>,
    },
    /// How many entries each trim removed, in order.
    Trimmed(Vec<u64>),
    /// How many of the entries existed.
    Deleted(u64),
    Scanned {
        /// 0: the scan is complete.
        cursor: u64,
        streams: Vec<StreamId>,
    },
    Counted,
    /// One per key, in order; absent fields are left out.
    Counts(Vec<Vec<(CountField, u64)>>),
    Apps {
        version: u64,
        /// `None`: the version is the known one.
        apps: Option<Vec<App>>,
    },
    AppWritten,
    Failed(StoreFailure),
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tail {
    /// `last-generated-id`: the highest number ever given, even if its entry is gone.
    pub last: Seq,
    /// `length`.
    pub entries: u64,
    /// The number in `first-entry`.
    pub first: Option<Seq>,
}

/// What a transaction did with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stored {
        seq: Seq,
    },
    /// Stored, and the earlier entry of its collapse key was removed.
    Collapsed {
        seq: Seq,
        earlier: Seq,
    },
    /// Not stored: its idempotency record points here.
    Duplicate(Pointer),
}

/// Why the store did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreFailure {
    /// It was certainly not done.
    NotDone,
    /// The connection broke or the time was over: it may have been done.
    Unknown,
}
