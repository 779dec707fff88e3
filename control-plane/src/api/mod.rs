//! The HTTP API under `/v1`: the only place that knows HTTP.
//!
//! ```text
//!   request ─▶ key ─▶ app ─▶ body (parsed once) ─▶ owner of the node ─▶ answer or ApiError
//! ```
//!
//! `errors.rs` maps everything that can go wrong to a status and a code; `json.rs` says where in a
//! document the mistake is; the other files are the endpoints. Names are checked and hashed here,
//! so the node sees numbers only.
//!
//! Bounds: connections and their time (`serve.rs`), bodies (`body.rs`), calls that wait (`app.rs`).
//! There is no TLS.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use hawser_codec::ids::HashKey;

use crate::app::NodeHandle;
use crate::clock::Clock;
use crate::metrics::{Metrics, StoreMetrics};
use crate::secrets::KeyDigest;

pub mod apps;
pub mod auth;
pub mod body;
pub mod devices;
pub mod errors;
pub mod json;
pub mod messages;
pub mod openapi;
pub mod pages;
pub mod serve;

use errors::{ApiError, Code};

/// A payload of 64 KiB in which every byte is written as `\u0000`, and what stands around it.
pub const BODY_BYTES_MAX: usize = 6 * 64 * 1024 + 16 * 1024;
/// The body of a batch.
pub const BATCH_BODY_BYTES_MAX: usize = 16 << 20;

/// What the endpoints need.
pub struct Api {
    pub node: NodeHandle,
    pub node_id: u64,
    pub hash_key: HashKey,
    pub admin_key: KeyDigest,
    pub broker_addresses: Vec<String>,
    pub clock: Arc<Clock>,
    pub metrics: Arc<Metrics>,
    pub store_metrics: Arc<StoreMetrics>,
    pub refresh: auth::Refresh,
    pub bodies: body::Budget,
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/apps", post(apps::create).get(apps::list))
        .route("/v1/apps/{app}/tickets", post(devices::ticket))
        .route("/v1/apps/{app}/messages", post(messages::push))
        .route("/v1/apps/{app}/messages:batch", post(messages::push_batch))
        .route("/v1/apps/{app}/messages/{id}", get(messages::show))
        .route("/v1/apps/{app}/devices/{device}", get(devices::show))
        .route("/v1/devices/addresses", get(devices::addresses))
        .route("/v1/status", get(pages::status))
        .route("/v1/openapi.json", get(pages::openapi))
        .route("/metrics", get(pages::metrics))
        .route("/health", get(pages::health))
        .fallback(|| async { ApiError::NoSuchRoute })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(axum::middleware::from_fn_with_state(api.clone(), measure))
        .with_state(api)
}

async fn measure(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = next.run(request).await.into_response();
    api.metrics.api.request(response.status().as_u16(), started.elapsed());
    if let Some(&code) = response.extensions().get::<Code>() {
        api.metrics.api.refused(code);
    }
    response
}
