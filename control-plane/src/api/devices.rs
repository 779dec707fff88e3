//! Devices: sign a ticket for one, show one, and tell them where the brokers are.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request as HttpRequest, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use hawser_codec::ids::{DeviceId, is_app_name, is_device_name};
use hawser_codec::ticket::{Algorithm, SIGNATURE_CONTEXT, Ticket};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::errors::{ApiError, ErrorBody};
use super::messages::refused;
use super::{Api, BODY_BYTES_MAX, body, json};
use crate::node::event::{Answer, DeviceInfo, Request};
use crate::records::App;
use crate::secrets::random;

/// The longest and the usual life of a ticket.
const TICKET_TTL_S_MAX: u32 = 30 * 24 * 3600;
const TICKET_TTL_S_DEFAULT: u32 = 24 * 3600;

/// A ticket to sign.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TicketRequest)]
pub struct TicketIn {
    /// 1 to 64 bytes without control characters.
    device: String,
    /// How long the ticket admits the device, in seconds. A connection outlives its ticket.
    #[serde(default = "ticket_ttl_s_default")]
    #[schema(minimum = 1, maximum = 2592000, default = 86400)]
    ttl_s: u32,
}

fn ticket_ttl_s_default() -> u32 {
    TICKET_TTL_S_DEFAULT
}

/// Permission for a device to connect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Ticket)]
pub struct TicketOut {
    /// base64url.
    ticket: String,
    /// Unix time in seconds.
    expires_at: u64,
}

/// A device as it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Device)]
pub struct DeviceOut {
    online: bool,
    /// The broker that holds its connection: 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u16>,
    /// When it connected: Unix time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    inbox: InboxOut,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Inbox)]
pub struct InboxOut {
    /// Messages that wait.
    entries: u64,
    /// The number of the last message ever stored.
    last_seq: u64,
    /// Nothing waits at or below this number.
    acked: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AddressesIn {
    /// The app's name.
    app: String,
}

/// Where a device may connect, to be tried in this order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Addresses)]
pub struct AddressesOut {
    addresses: Vec<String>,
    retry: RetryOut,
}

/// How to wait between attempts: from `base_ms` on, `factor` times as long after each failure, at
/// most `max_ms`, each shifted at random by a half.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Retry)]
pub struct RetryOut {
    base_ms: u32,
    factor: f32,
    max_ms: u32,
}

const RETRY: RetryOut = RetryOut { base_ms: 3_000, factor: 1.8, max_ms: 300_000 };

/// Sign a ticket for a device.
#[utoipa::path(
    post,
    path = "/v1/apps/{app}/tickets",
    tag = "devices",
    params(("app" = String, Path, description = "The app's name")),
    request_body = TicketIn,
    responses(
        (status = 200, description = "Signed", body = TicketOut),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Another app's key", body = ErrorBody),
        (status = 404, description = "No such app", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "The app keeps its signing key itself", body = ErrorBody),
        (status = 429, description = "Too many bodies under way; try again", body = ErrorBody),
    )
)]
pub async fn ticket(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(app): Path<String>,
    request: HttpRequest,
) -> Result<Json<TicketOut>, ApiError> {
    let app = caller.app(&api, &app).await?;
    let body = body::read(&api, request, BODY_BYTES_MAX).await?;
    let TicketIn { device, ttl_s } = json::parse(&body)?;
    if !is_device_name(&device) {
        return Err(bad_device("device"));
    }
    if !(1..=TICKET_TTL_S_MAX).contains(&ttl_s) {
        return Err(ApiError::field("ttl_s", format!("must be 1 to {TICKET_TTL_S_MAX}")));
    }
    let expires_at = api.clock.now().unix_ms / 1000 + u64::from(ttl_s);
    let ticket = sign(&app, &device, expires_at).ok_or(ApiError::NoSigningKey)?;
    Ok(Json(TicketOut { ticket: URL_SAFE_NO_PAD.encode(ticket), expires_at }))
}

/// With the newest of the app's keys whose signing half is here.
fn sign(app: &App, device: &str, expires_s: u64) -> Option<Vec<u8>> {
    let mut keys = app.new.keys.iter().rev();
    let (id, seed) = keys.find_map(|key| match key.verify.algorithm {
        Algorithm::Ed25519 => Some((key.verify.id, key.seed?)),
        Algorithm::HmacSha256 => None,
    })?;
    let mut ticket = Ticket::unsigned(Algorithm::Ed25519, id, expires_s, &app.new.name, device);
    let signed = [SIGNATURE_CONTEXT, &ticket].concat();
    ticket.extend_from_slice(&SigningKey::from_bytes(&seed).sign(&signed).to_bytes());
    Some(ticket)
}

/// Show a device's connection and inbox.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/devices/{device}",
    tag = "devices",
    params(
        ("app" = String, Path, description = "The app's name"),
        ("device" = String, Path, description = "The device's id as the app knows it"),
    ),
    responses(
        (status = 200, description = "As this node knows it; a device that never connected has an \
         empty inbox", body = DeviceOut),
        (status = 400, description = "Not a device id", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Another app's key", body = ErrorBody),
        (status = 404, description = "No such app", body = ErrorBody),
        (status = 503, description = "The store is away; try again", body = ErrorBody),
    )
)]
pub async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((app, device)): Path<(String, String)>,
) -> Result<Json<DeviceOut>, ApiError> {
    let app = caller.app(&api, &app).await?;
    if !is_device_name(&device) {
        return Err(bad_device("device"));
    }
    let device = DeviceId::new(&api.hash_key, &app.new.name, &device);
    match api.node.request(Request::DeviceShow { app: app.id, device }).await? {
        Answer::Device(info) => Ok(Json(info.into())),
        answer => Err(refused(answer)),
    }
}

/// Tell a device where to connect. Needs no key.
#[utoipa::path(
    get,
    path = "/v1/devices/addresses",
    tag = "devices",
    params(AddressesIn),
    responses(
        (status = 200, description = "In an order that differs from answer to answer",
         body = AddressesOut),
        (status = 400, description = "No app is named", body = ErrorBody),
    ),
    security(())
)]
pub async fn addresses(
    State(api): State<Arc<Api>>,
    query: Result<Query<AddressesIn>, QueryRejection>,
) -> Result<Json<AddressesOut>, ApiError> {
    // Whether the app exists is not told to those without a key.
    match query {
        Ok(Query(AddressesIn { app })) if is_app_name(&app) => {}
        _ => {
            return Err(ApiError::field(
                "app",
                "must be the app's name, and nothing else beside it",
            ));
        }
    }
    Ok(Json(AddressesOut { addresses: shuffled(&api.broker_addresses), retry: RETRY }))
}

/// A rotation by chance: each address is the first one equally often, and the load of one that is
/// down is shared by its successor only until the next answer.
fn shuffled(addresses: &[String]) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    if !addresses.is_empty() {
        let by = u32::from_le_bytes(random()) as usize % addresses.len();
        addresses.rotate_left(by);
    }
    addresses
}

fn bad_device(field: &'static str) -> ApiError {
    ApiError::field(field, "must be 1 to 64 bytes without control characters")
}

impl From<DeviceInfo> for DeviceOut {
    fn from(info: DeviceInfo) -> DeviceOut {
        let session = info.session;
        DeviceOut {
            online: session.is_some(),
            broker: session.map(|session| format!("{:016x}", session.broker)),
            shard: session.map(|session| session.shard),
            since: session.map(|session| session.since_unix_ms / 1000),
            inbox: InboxOut {
                entries: info.inbox.entries,
                last_seq: info.inbox.last.0,
                acked: info.inbox.settled.0,
            },
        }
    }
}
