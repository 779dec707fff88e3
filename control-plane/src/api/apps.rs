//! Apps: register one, and list them. Only the operator may.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use hawser_codec::link::VerifyKey;
use hawser_codec::ticket::Algorithm;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Caller;
use super::errors::{ApiError, ErrorBody};
use super::messages::refused;
use super::{Api, BODY_BYTES_MAX, body, json};
use crate::node::event::{Answer, Refusal, Request};
use crate::records::{App, AppKey, NewApp, Quota};
use crate::secrets::{KeyDigest, new_api_key, random};

/// The number of an app's first signing key.
const FIRST_KEY_ID: u32 = 1;

/// An app to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApp)]
pub struct AppIn {
    /// 1 to 32 bytes of `a-z`, `0-9` and `-`, no hyphen at either end.
    name: String,
    #[serde(default)]
    quota: QuotaIn,
    /// Leave the signing key with the control plane, so that it can sign tickets for set-ups
    /// without a server of their own.
    #[serde(default = "keep_default")]
    #[schema(default = true)]
    keep_signing_key: bool,
}

fn keep_default() -> bool {
    true
}

/// What the app may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Quota)]
pub struct QuotaIn {
    /// Accepted messages per second and control node; 0: no limit.
    messages_per_s: u32,
    /// Messages that may wait in one device's inbox, 1 to 100000.
    inbox_entries_max: u32,
    /// Messages that the group log keeps, 1 to 1000000.
    group_log_entries_max: u32,
}

impl Default for QuotaIn {
    fn default() -> QuotaIn {
        Quota::default().into()
    }
}

/// A registered app with its secrets, which are shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppCreated)]
pub struct AppCreatedOut {
    app_id: u32,
    name: String,
    /// For `Authorization: Bearer`. Only its hash is kept.
    api_key: String,
    signing_key: SigningKeyOut,
}

/// The key that signs the app's tickets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SigningKey)]
pub struct SigningKeyOut {
    kid: u32,
    /// Always `ed25519`.
    alg: &'static str,
    /// base64url.
    seed: String,
    /// base64url.
    public: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = App)]
pub struct AppOut {
    app_id: u32,
    name: String,
    quota: QuotaIn,
    /// Whether the control plane can sign tickets for it.
    signs_tickets: bool,
    /// Unix time in seconds.
    created_at: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Apps)]
pub struct AppsOut {
    apps: Vec<AppOut>,
}

/// Register an app.
#[utoipa::path(
    post,
    path = "/v1/apps",
    tag = "apps",
    request_body = AppIn,
    responses(
        (status = 201, description = "Registered; the secrets are shown this once",
         body = AppCreatedOut),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Not the operator's key", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "The name is taken, or there are too many apps",
         body = ErrorBody),
        (status = 429, description = "Too many bodies under way; try again", body = ErrorBody),
        (status = 503, description = "The store is away; try again", body = ErrorBody),
    )
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    request: HttpRequest,
) -> Result<(StatusCode, Json<AppCreatedOut>), ApiError> {
    caller.operator()?;
    let body = body::read(&api, request, BODY_BYTES_MAX).await?;
    let AppIn { name, quota, keep_signing_key } = json::parse(&body)?;
    if !hawser_codec::ids::is_app_name(&name) {
        return Err(Refusal::BadAppName.into());
    }
    let quota = quota.checked()?;
    let api_key = new_api_key();
    let seed = random::<32>();
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let verify = VerifyKey { id: FIRST_KEY_ID, algorithm: Algorithm::Ed25519, key: public };
    let new = NewApp {
        name: name.clone(),
        quota,
        api_key_hash: KeyDigest::new(&api_key).0,
        keys: vec![AppKey { verify, seed: keep_signing_key.then_some(seed) }],
        created_unix_ms: api.clock.now().unix_ms,
    };
    let app_id = match api.node.request(Request::AppCreate(new)).await? {
        Answer::AppCreated { app } => app.0,
        answer => return Err(refused(answer)),
    };
    let signing_key = SigningKeyOut {
        kid: FIRST_KEY_ID,
        alg: "ed25519",
        seed: URL_SAFE_NO_PAD.encode(seed),
        public: URL_SAFE_NO_PAD.encode(public),
    };
    Ok((StatusCode::CREATED, Json(AppCreatedOut { app_id, name, api_key, signing_key })))
}

/// List the apps.
#[utoipa::path(
    get,
    path = "/v1/apps",
    tag = "apps",
    responses(
        (status = 200, description = "In ascending order of number", body = AppsOut),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Not the operator's key", body = ErrorBody),
        (status = 503, description = "The store is away; try again", body = ErrorBody),
    )
)]
pub async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Result<Json<AppsOut>, ApiError> {
    caller.operator()?;
    match api.node.request(Request::AppsRefresh).await? {
        Answer::AppsFresh => {}
        answer => return Err(refused(answer)),
    }
    let apps = api.node.apps().all().iter().map(|app| AppOut::from(&**app)).collect();
    Ok(Json(AppsOut { apps }))
}

impl QuotaIn {
    fn checked(self) -> Result<Quota, ApiError> {
        use crate::records::{GROUP_LOG_ENTRIES_MAX, INBOX_ENTRIES_MAX, MESSAGES_PER_S_MAX};
        let in_range = |field, value, min, max| match (min..=max).contains(&value) {
            true => Ok(value),
            false => Err(ApiError::field(field, format!("must be {min} to {max}"))),
        };
        Ok(Quota {
            messages_per_s: in_range(
                "quota.messages_per_s",
                self.messages_per_s,
                0,
                MESSAGES_PER_S_MAX,
            )?,
            inbox_entries_max: in_range(
                "quota.inbox_entries_max",
                self.inbox_entries_max,
                1,
                INBOX_ENTRIES_MAX,
            )?,
            group_log_entries_max: in_range(
                "quota.group_log_entries_max",
                self.group_log_entries_max,
                1,
                GROUP_LOG_ENTRIES_MAX,
            )?,
        })
    }
}

impl From<Quota> for QuotaIn {
    fn from(quota: Quota) -> QuotaIn {
        let Quota { messages_per_s, inbox_entries_max, group_log_entries_max } = quota;
        QuotaIn { messages_per_s, inbox_entries_max, group_log_entries_max }
    }
}

impl From<&App> for AppOut {
    fn from(app: &App) -> AppOut {
        AppOut {
            app_id: app.id.0,
            name: app.new.name.clone(),
            quota: app.new.quota.into(),
            signs_tickets: app.new.keys.iter().any(|key| key.seed.is_some()),
            created_at: app.new.created_unix_ms / 1000,
        }
    }
}
