//! What operators and tools read: status, metrics, health, the API's description.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::errors::{ApiError, ErrorBody};
use super::messages::refused;
use super::{Api, openapi};
use crate::node::event::{Answer, AppTotals, LinkInfo, Refusal, Request, Status};

/// This node and what it knows of the cluster.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct StatusOut {
    /// This node's number: 16 hexadecimal digits.
    node: String,
    version: &'static str,
    uptime_s: u64,
    store_up: bool,
    /// Devices that are connected to the linked shards.
    sessions: u64,
    /// Messages that wait to be stored.
    pushes_waiting: u64,
    /// Devices that wait for an answer from their inbox.
    pulls_waiting: u64,
    links: Vec<LinkOut>,
    apps: Vec<AppTotalsOut>,
}

/// A linked shard.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Link)]
pub struct LinkOut {
    /// 16 hexadecimal digits.
    broker: String,
    shard: u16,
    /// Differs between two runs of the same broker: 16 hexadecimal digits.
    incarnation: String,
    sessions: u64,
}

/// What became of an app's messages, over all nodes, since it was registered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppTotals)]
pub struct AppTotalsOut {
    app_id: u32,
    name: String,
    accepted: u64,
    delivered: u64,
    expired: u64,
    collapsed: u64,
    pending: u64,
    group_accepted: u64,
    group_expired: u64,
    group_collapsed: u64,
}

/// Show this node, the linked shards and the apps' totals.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "operation",
    responses(
        (status = 200, description = "As of now; without the apps' totals while the store is away",
         body = StatusOut),
        (status = 401, description = "No valid key", body = ErrorBody),
        (status = 403, description = "Not the operator's key", body = ErrorBody),
        (status = 503, description = "Too much to do; try again", body = ErrorBody),
    )
)]
pub async fn status(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> Result<Json<StatusOut>, ApiError> {
    caller.operator()?;
    match api.node.request(Request::Status).await? {
        Answer::Status(status) => Ok(Json(StatusOut::new(&api, *status))),
        Answer::Refused(Refusal::StoreUnavailable { .. }) => {
            let status = api.node.status_without_store().await?;
            Ok(Json(StatusOut::new(&api, status)))
        }
        answer => Err(refused(answer)),
    }
}

impl StatusOut {
    fn new(api: &Api, status: Status) -> StatusOut {
        let apps = api.node.apps();
        let name_of = |totals: &AppTotals| {
            let app = apps.all().iter().find(|app| app.id == totals.app);
            app.map(|app| app.new.name.clone()).unwrap_or_default()
        };
        StatusOut {
            node: format!("{:016x}", status.node),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: api.clock.now().mono_ms / 1000,
            store_up: status.store_up,
            sessions: status.sessions,
            pushes_waiting: status.pushes_waiting,
            pulls_waiting: status.pulls_waiting,
            links: status.links.iter().map(LinkOut::from).collect(),
            apps: status
                .apps
                .iter()
                .map(|totals| AppTotalsOut::new(name_of(totals), totals))
                .collect(),
        }
    }
}

impl From<&LinkInfo> for LinkOut {
    fn from(link: &LinkInfo) -> LinkOut {
        LinkOut {
            broker: format!("{:016x}", link.broker),
            shard: link.shard,
            incarnation: format!("{:016x}", link.incarnation),
            sessions: link.sessions,
        }
    }
}

impl AppTotalsOut {
    fn new(name: String, totals: &AppTotals) -> AppTotalsOut {
        AppTotalsOut {
            app_id: totals.app.0,
            name,
            accepted: totals.accepted,
            delivered: totals.delivered,
            expired: totals.expired,
            collapsed: totals.collapsed,
            pending: totals.pending,
            group_accepted: totals.group_accepted,
            group_expired: totals.group_expired,
            group_collapsed: totals.group_collapsed,
        }
    }
}

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")),
    security(())
)]
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], openapi::document())
}

/// The node's counters for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses(
        (status = 200, description = "Text format 0.0.4", content_type = "text/plain"),
        (status = 503, description = "Too much to do; try again", body = ErrorBody),
    ),
    security(())
)]
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, ApiError> {
    let mut page = api.node.metrics().await?;
    api.metrics.api.write(&mut page);
    page.gauge("api_body_bytes", "Room that bodies under way take.", api.bodies.held_bytes());
    api.metrics.links.write(&mut page);
    api.store_metrics.write(&mut page);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], page.into_text()))
}

/// Whether the process serves. It does while the store is away; `/v1/status` tells.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operation",
    responses((status = 200, description = "It does", body = String, example = "ok")),
    security(())
)]
pub async fn health() -> &'static str {
    "ok\n"
}
