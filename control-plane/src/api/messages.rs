//! Messages: accept one or a thousand, and tell what became of one.
//!
//! The hot path. A body is parsed once; a payload without escapes is a slice of the body until it
//! is copied into the stored entry.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hawser_codec::ids::{DeviceId, TopicId, is_device_name, is_topic_name};
use hawser_codec::limits::PAYLOAD_BYTES_MAX;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::errors::{ApiError, ErrorBody, ErrorDetail};
use super::{Api, BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX, body, json};
use crate::metrics::ApiMetrics;
use crate::node::event::{
    Accepted, Answer, GroupInfo, MessageInfo, MessageState, Priority, Push, PushOutcome, Refusal,
    Request, To, Wake,
};
use crate::records::{App, KeyHash, MessageId, TTL_S_MAX};

/// Messages in one batch.
pub const BATCH_MAX: usize = 1000;
/// Collapse and idempotency keys.
const KEY_BYTES_MAX: usize = 128;
const TTL_S_DEFAULT: u32 = 24 * 3600;

/// Both forms of padding are read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A message to deliver.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Message)]
pub struct MessageIn<'a> {
    #[serde(borrow)]
    to: ToIn<'a>,
    /// The payload as text, at most 64 KiB of UTF-8. Either this or `payload_base64`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    payload: Option<Text<'a>>,
    /// The payload as base64, at most 64 KiB of bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    payload_base64: Option<Text<'a>>,
    /// How long the message waits for its device before it expires, in seconds.
    #[serde(default = "ttl_s_default")]
    #[schema(minimum = 1, maximum = 2592000, default = 86400)]
    ttl_s: u32,
    /// Under overload lower ones are refused first. Does not change the order of delivery.
    #[serde(default)]
    #[schema(default = "normal")]
    priority: PriorityIn,
    /// Deliver with the device's next heartbeat rather than at once.
    #[serde(default)]
    when_awake: bool,
    /// Replaces the message with the same key that still waits for the same receiver. 1 to 128
    /// bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 128)]
    collapse_key: Option<Text<'a>>,
    /// A repeat with the same key to the same receiver within 24 hours is answered with the first
    /// one's id and stores nothing. 1 to 128 bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>, max_length = 128)]
    idempotency_key: Option<Text<'a>>,
}

fn ttl_s_default() -> u32 {
    TTL_S_DEFAULT
}

/// The receiver: exactly one of these.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = To)]
pub struct ToIn<'a> {
    /// One device: 1 to 64 bytes without control characters.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    device: Option<Text<'a>>,
    /// The devices that subscribe to a topic: 1 to 128 bytes without control characters.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    topic: Option<Text<'a>>,
    /// Every device of the app; only `true` has a meaning.
    #[serde(default)]
    all: Option<bool>,
}

/// A text that borrows from the body unless it has escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Priority)]
enum PriorityIn {
    Low,
    #[default]
    Normal,
    High,
}

/// A batch: each message is accepted or refused on its own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Batch)]
pub struct BatchIn<'a> {
    /// 1 to 1000 messages. Messages to one receiver keep their order.
    #[serde(borrow, deserialize_with = "at_most_batch_max")]
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MessageIn<'a>>,
}

/// Ends at the first message too many: what is parsed takes many times the space of `{}`.
fn at_most_batch_max<'de, D>(deserializer: D) -> Result<Vec<MessageIn<'de>>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Messages;

    impl<'de> Visitor<'de> for Messages {
        type Value = Vec<MessageIn<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "1 to {BATCH_MAX} messages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut messages = Vec::new();
            while messages.len() < BATCH_MAX {
                match seq.next_element()? {
                    Some(message) => messages.push(message),
                    None => return Ok(messages),
                }
            }
            match seq.next_element::<OneTooMany>()? {
                Some(OneTooMany) => unreachable!("it is never read"),
                None => Ok(messages),
            }
        }
    }

    deserializer.deserialize_seq(Messages)
}

/// An element that may not be there, whatever it is.
struct OneTooMany;

impl<'de> Deserialize<'de> for OneTooMany {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<OneTooMany, D::Error> {
        Err(D::Error::custom(format_args!("there must be 1 to {BATCH_MAX} messages")))
    }
}

/// The message is on disk.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Accepted)]
pub struct AcceptedOut {
    id: String,
    /// Its place in the receiver's stream.
    seq: u64,
    /// The device is connected; for a topic or the whole app: at least one device of the app is.
    online: bool,
    /// The idempotency key was used before: `id` and `seq` are the first message's.
    duplicate: bool,
}

/// The results of a batch in the order of its messages.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BatchResults)]
pub struct BatchOut {
    results: Vec<BatchResult>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult {
    Accepted(AcceptedOut),
    Refused { error: ErrorDetail },
}

/// What became of a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageState)]
pub struct MessageOut {
    id: String,
    /// Of a message to a topic or to the whole app, `pending` means that it can still be fetched.
    state: StateOut,
    /// Unix time in seconds.
    expires_at: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    group: Option<GroupOut>,
}

/// Counts of a message to a topic or to the whole app, at least a second old.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GroupCounts)]
pub struct GroupOut {
    /// Devices to which it was sent at once.
    sent: u64,
    /// Devices that were to fetch it later.
    waiting: u64,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StateOut {
    Pending,
    Delivered,
    Expired,
    Collapsed,
}

/// Accept a message: it is durable when this answers.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/messages",
    tag = "messages",
    params(("app" = String, Path, description = "The app's name")),
    request_body = MessageIn<'_>,
    responses(
        (status = 202, description = "Stored", body = AcceptedOut),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Another app's key", body = ErrorBody),
        (status = 404, description = "No such app", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The payload exceeds 64 KiB", body = ErrorBody),
        (status = 429, description = "A quota is used up, or too many bodies are under way",
         body = ErrorBody),
        (status = 503, description = "Not stored, or not known to be; try again", body = ErrorBody),
    )
)]
pub async fn push(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(app): Path<String>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<AcceptedOut>), ApiError> {
    let app = caller.app(&api, &app).await?;
    let body = body::read(&api, request, BODY_BYTES_MAX).await?;
    let push = json::parse::<MessageIn<'_>>(&body)?.into_push(&api, &app, &body)?;
    let answer = api.node.request(Request::Push(push)).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted(answer)?)))
}

/// Accept up to 1000 messages, each with its own result.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/messages:batch",
    tag = "messages",
    params(("app" = String, Path, description = "The app's name")),
    request_body = BatchIn<'_>,
    responses(
        (status = 202, description = "One result per message, in order", body = BatchOut),
        (status = 400, description = "The document is wrong: nothing was stored", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Another app's key", body = ErrorBody),
        (status = 404, description = "No such app", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body exceeds 16 MiB", body = ErrorBody),
        (status = 429, description = "Too many bodies under way; try again", body = ErrorBody),
        (status = 503, description = "Too much to do; try again", body = ErrorBody),
    )
)]
pub async fn push_batch(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(app): Path<String>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<BatchOut>), ApiError> {
    let app = caller.app(&api, &app).await?;
    let body = body::read(&api, request, BATCH_BODY_BYTES_MAX).await?;
    let messages = json::parse::<BatchIn<'_>>(&body)?.messages;
    if messages.is_empty() {
        let message = format!("there must be 1 to {BATCH_MAX} messages");
        return Err(ApiError::field("messages", message));
    }
    let mut requests = Vec::with_capacity(messages.len());
    let mut refused = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        match message.into_push(&api, &app, &body) {
            Ok(push) => requests.push(Request::Push(push)),
            Err(error) => refused.push((index, error.in_message(index))),
        }
    }
    let answers = match requests.is_empty() {
        true => Vec::new(),
        false => api.node.requests(requests).await?,
    };
    let results = merge(answers, refused, &api.metrics.api);
    Ok((StatusCode::ACCEPTED, Json(BatchOut { results })))
}

/// The answers, with the messages that did not reach the node in between.
fn merge(
    answers: Vec<Answer>,
    refused: Vec<(usize, ApiError)>,
    metrics: &ApiMetrics,
) -> Vec<BatchResult> {
    let count = answers.len() + refused.len();
    let (mut answers, mut refused) = (answers.into_iter(), refused.into_iter().peekable());
    let results = (0..count).map(|index| {
        let result = match refused.next_if(|(at, _)| *at == index) {
            Some((_, error)) => Err(error),
            None => accepted(answers.next().expect("every message is counted once"))
                .map_err(|error| error.in_message(index)),
        };
        match result {
            Ok(accepted) => BatchResult::Accepted(accepted),
            Err(error) => {
                metrics.refused(error.code());
                BatchResult::Refused { error: error.detail() }
            }
        }
    });
    results.collect()
}

/// Tell what became of a message.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/messages/{id}",
    tag = "messages",
    params(
        ("app" = String, Path, description = "The app's name"),
        ("id" = String, Path, description = "The message's id as it was accepted"),
    ),
    responses(
        (status = 200, description = "Its state", body = MessageOut),
        (status = 400, description = "Not an id", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Another app's key", body = ErrorBody),
        (status = 404, description = "No such message, or its state is no longer kept",
         body = ErrorBody),
        (status = 503, description = "The store is away; try again", body = ErrorBody),
    )
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((app, id)): Path<(String, String)>,
) -> Result<Json<MessageOut>, ApiError> {
    let app = caller.app(&api, &app).await?;
    let id: MessageId = id.parse().map_err(|_| ApiError::field("id", "is not a message's id"))?;
    match api.node.request(Request::MessageState { app: app.id, id }).await? {
        Answer::Message(info) => Ok(Json(info.into())),
        Answer::Group(info) => Ok(Json(info.into())),
        answer => Err(refused(answer)),
    }
}

impl MessageIn<'_> {
    /// Checks what the node does not see, and hashes the names.
    fn into_push(self, api: &Api, app: &App, body: &Bytes) -> Result<Push, ApiError> {
        let payload = payload(self.payload, self.payload_base64, body)?;
        if !(1..=TTL_S_MAX).contains(&self.ttl_s) {
            return Err(Refusal::BadTtl.into());
        }
        Ok(Push {
            app: app.id,
            to: self.to.receiver(api, app)?,
            payload,
            ttl_s: self.ttl_s,
            priority: match self.priority {
                PriorityIn::Low => Priority::Low,
                PriorityIn::Normal => Priority::Normal,
                PriorityIn::High => Priority::High,
            },
            wake: if self.when_awake { Wake::WhenAwake } else { Wake::Now },
            collapse: key_hash("collapse_key", self.collapse_key)?,
            idempotency: key_hash("idempotency_key", self.idempotency_key)?,
        })
    }
}

impl ToIn<'_> {
    fn receiver(&self, api: &Api, app: &App) -> Result<To, ApiError> {
        match (&self.device, &self.topic, self.all) {
            (Some(Text(device)), None, None) if is_device_name(device) => {
                Ok(To::Device(DeviceId::new(&api.hash_key, &app.new.name, device)))
            }
            (None, Some(Text(topic)), None) if is_topic_name(topic) => {
                Ok(To::Topic(TopicId::new(topic)))
            }
            (None, None, Some(true)) => Ok(To::All),
            (Some(_), None, None) => Err(ApiError::field(
                "to.device",
                "must be 1 to 64 bytes without control characters",
            )),
            (None, Some(_), None) => Err(ApiError::field(
                "to.topic",
                "must be 1 to 128 bytes without control characters",
            )),
            (None, None, Some(false)) => {
                Err(ApiError::field("to.all", "must be true if it is there"))
            }
            _ => Err(ApiError::field("to", "must have exactly one of device, topic, all")),
        }
    }
}

fn payload(
    text: Option<Text<'_>>,
    base64: Option<Text<'_>>,
    body: &Bytes,
) -> Result<Bytes, ApiError> {
    let payload = match (text, base64) {
        (Some(Text(Cow::Borrowed(text))), None) => body.slice_ref(text.as_bytes()),
        (Some(Text(Cow::Owned(text))), None) => Bytes::from(text),
        (None, Some(Text(base64))) => match BASE64.decode(base64.as_bytes()) {
            Ok(bytes) => Bytes::from(bytes),
            Err(_) => return Err(ApiError::field("payload_base64", "is not valid base64")),
        },
        (Some(_), Some(_)) => {
            return Err(ApiError::field("payload_base64", "cannot stand beside payload"));
        }
        (None, None) => {
            return Err(ApiError::field("payload", "is missing; payload_base64 would do too"));
        }
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::PayloadTooLarge.into());
    }
    Ok(payload)
}

fn key_hash(field: &'static str, key: Option<Text<'_>>) -> Result<Option<KeyHash>, ApiError> {
    match key {
        None => Ok(None),
        Some(Text(key)) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(KeyHash::new(&key))),
        Some(_) => Err(ApiError::field(field, format!("must be 1 to {KEY_BYTES_MAX} bytes"))),
    }
}

fn accepted(answer: Answer) -> Result<AcceptedOut, ApiError> {
    match answer {
        Answer::Accepted(Accepted { id, seq, online, outcome }) => Ok(AcceptedOut {
            id: id.to_string(),
            seq: seq.0,
            online,
            duplicate: outcome == PushOutcome::Duplicate,
        }),
        answer => Err(refused(answer)),
    }
}

/// The refusal that an answer must be when it is not what was asked for.
pub fn refused(answer: Answer) -> ApiError {
    match answer {
        Answer::Refused(refusal) => refusal.into(),
        other => unreachable!("the node answers what it is asked, not {other:?}"),
    }
}

impl From<MessageInfo> for MessageOut {
    fn from(info: MessageInfo) -> MessageOut {
        MessageOut {
            id: info.id.to_string(),
            state: info.state.into(),
            expires_at: info.expires_unix_ms / 1000,
            group: None,
        }
    }
}

impl From<GroupInfo> for MessageOut {
    fn from(info: GroupInfo) -> MessageOut {
        let GroupInfo { sent, waiting, acknowledged, .. } = info;
        MessageOut {
            id: info.id.to_string(),
            state: info.state.into(),
            expires_at: info.expires_unix_ms / 1000,
            group: Some(GroupOut { sent, waiting, acknowledged }),
        }
    }
}

impl From<MessageState> for StateOut {
    fn from(state: MessageState) -> StateOut {
        match state {
            MessageState::Pending => StateOut::Pending,
            MessageState::Delivered => StateOut::Delivered,
            MessageState::Expired => StateOut::Expired,
            MessageState::Collapsed => StateOut::Collapsed,
        }
    }
}
