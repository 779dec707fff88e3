//! Who calls, and which app a call is about.
//!
//! The operator's key may do everything; an app's key may do what concerns the app. A key is
//! compared by its SHA-256. An app that another node has registered is known here within a second;
//! a key or name that is not known makes the node read the apps now, at most every 200 ms.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use hawser_codec::ids::{AppId, is_app_name};
use tokio::sync::Mutex;

use super::Api;
use super::errors::ApiError;
use super::serve::Arrival;
use crate::node::event::Request;
use crate::records::App;
use crate::secrets::KeyDigest;

/// How often unknown keys and names may make the node read the apps.
const REFRESH_EVERY: Duration = Duration::from_millis(200);

/// Whose key a call came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    Operator,
    App(AppId),
}

impl Caller {
    async fn with_key(api: &Api, digest: KeyDigest) -> Result<Caller, ApiError> {
        if digest == api.admin_key {
            return Ok(Caller::Operator);
        }
        if let Some(app) = api.node.apps().with_key(digest) {
            return Ok(Caller::App(app.id));
        }
        if api.refresh.now(api).await
            && let Some(app) = api.node.apps().with_key(digest)
        {
            return Ok(Caller::App(app.id));
        }
        Err(ApiError::Unauthorized)
    }

    pub fn operator(self) -> Result<(), ApiError> {
        match self {
            Caller::Operator => Ok(()),
            Caller::App(_) => Err(ApiError::Forbidden),
        }
    }

    /// The app of this name, if the caller may act for it.
    pub async fn app(self, api: &Api, name: &str) -> Result<Arc<App>, ApiError> {
        let known = api.node.apps().named(name).cloned();
        let found = match (known, self) {
            (Some(app), _) => Some(app),
            (None, Caller::Operator) if is_app_name(name) && api.refresh.now(api).await => {
                api.node.apps().named(name).cloned()
            }
            (None, _) => None,
        };
        match (found, self) {
            (Some(app), Caller::Operator) => Ok(app),
            (Some(app), Caller::App(id)) if app.id == id => Ok(app),
            (Some(_), Caller::App(_)) => Err(ApiError::Forbidden),
            (None, _) => Err(crate::node::event::Refusal::UnknownApp.into()),
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Caller, ApiError> {
        let key = bearer(parts).ok_or(ApiError::Unauthorized)?;
        let caller = Caller::with_key(api, KeyDigest::new(key)).await?;
        if let Some(arrival) = parts.extensions.get::<Arrival>() {
            arrival.came_with_a_key();
        }
        Ok(caller)
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, key) = parts.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Limits how often the apps are read because of a key that nobody may have.
#[derive(Debug, Default)]
pub struct Refresh {
    last: Mutex<Option<Read>>,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    begun: Instant,
    ended: Instant,
}

impl Refresh {
    /// Reads the apps, unless that was done a moment ago. False: nothing new is known.
    async fn now(&self, api: &Api) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        match *last {
            // Another caller's read has ended since this one looked: it is worth another look.
            Some(read) if read.ended >= asked => return true,
            Some(read) if read.begun.elapsed() < REFRESH_EVERY => return false,
            _ => {}
        }
        let begun = Instant::now();
        let answer = api.node.request(Request::AppsRefresh).await;
        *last = Some(Read { begun, ended: Instant::now() });
        answer.is_ok()
    }
}
