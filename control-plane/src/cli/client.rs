//! The public HTTP API as the command line sees it: `/v1` of a control node.
//!
//! Answers are read leniently (unknown fields are ignored), since a newer server may say more.
//! Errors are a closed set by what the caller can do about them.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Beyond what a control node waits for its store.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer: whether the call was done is not known.
    #[error("no answer from {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The API said no.
    #[error("{message} ({code}, HTTP {status})")]
    Refused { status: u16, code: String, message: String, retry_after_ms: Option<u64> },
    /// Something else listens there, or the versions do not fit.
    #[error("{url} answered with something that is not hawser's API: {reason}")]
    NotUnderstood { url: String, reason: String },
}

impl ApiError {
    /// Whether the same call may succeed a little later: nobody answered, 429 or 503.
    pub fn may_retry(&self) -> bool {
        match self {
            ApiError::Unreachable { .. } => true,
            ApiError::Refused { status, .. } => matches!(status, 429 | 502..=504),
            ApiError::NotUnderstood { .. } => false,
        }
    }

    /// Whether the call was certainly not done.
    pub fn is_certain(&self) -> bool {
        matches!(self, ApiError::Refused { code, .. } if code != "outcome_unknown")
    }
}

/// Who gets a message, as the API spells it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    Device(String),
    Topic(String),
    All(bool),
}

/// The body of a push.
#[derive(Clone, Debug, Serialize)]
pub struct Push {
    pub to: To,
    #[serde(flatten)]
    pub payload: Payload,
    pub ttl_s: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub when_awake: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub enum Payload {
    #[serde(rename = "payload")]
    Text(String),
    #[serde(rename = "payload_base64")]
    Base64(String),
}

/// The answer to an accepted push.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    pub id: String,
    pub seq: u64,
    pub online: bool,
    #[serde(default)]
    pub duplicate: bool,
}

/// One result of a batch.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum PushResult {
    Accepted(Accepted),
    Refused { error: ErrorBody },
}

#[derive(Debug, Deserialize)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
    pub retry_after_ms: Option<u64>,
}

/// A new app, with its secrets: the only time that they are shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewApp {
    pub app_id: u32,
    pub name: String,
    pub api_key: String,
    pub signing_key: SigningKey,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SigningKey {
    pub kid: u32,
    pub alg: String,
    pub seed: String,
    pub public: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ticket {
    pub ticket: String,
    pub expires_at: Value,
}

impl NewApp {
    /// As the API writes it, to be kept in a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers are valid JSON")
    }

    pub fn from_json(text: &str) -> serde_json::Result<NewApp> {
        serde_json::from_str(text)
    }
}

/// Quotas of a new app; what is left out has the server's default.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quota {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_per_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbox_entries_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_log_entries_max: Option<u32>,
}

impl Client {
    pub fn new(url: &str, key: &str) -> Client {
        let http = reqwest::Client::builder()
            .timeout(CALL_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .expect("a client without TLS has nothing to load");
        Client { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() }
    }

    pub fn with_key(&self, key: &str) -> Client {
        Client { key: key.to_owned(), ..self.clone() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn app_create(&self, name: &str, quota: Quota) -> Result<NewApp, ApiError> {
        self.call(Method::POST, &["apps"], Some(&json!({"name": name, "quota": quota}))).await
    }

    pub async fn apps(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, &["apps"], None::<&()>).await
    }

    pub async fn ticket(&self, app: &str, device: &str, ttl_s: u32) -> Result<Ticket, ApiError> {
        let body = json!({"device": device, "ttl_s": ttl_s});
        self.call(Method::POST, &["apps", app, "tickets"], Some(&body)).await
    }

    pub async fn push(&self, app: &str, push: &Push) -> Result<Accepted, ApiError> {
        self.call(Method::POST, &["apps", app, "messages"], Some(push)).await
    }

    pub async fn push_batch(
        &self,
        app: &str,
        pushes: &[Push],
    ) -> Result<Vec<PushResult>, ApiError> {
        #[derive(Serialize)]
        struct Batch<'a> {
            messages: &'a [Push],
        }
        #[derive(Deserialize)]
        struct Results {
            results: Vec<PushResult>,
        }
        let path = ["apps", app, "messages:batch"];
        let answer: Results =
            self.call(Method::POST, &path, Some(&Batch { messages: pushes })).await?;
        if answer.results.len() != pushes.len() {
            let reason = format!("{} results for {} messages", answer.results.len(), pushes.len());
            return Err(ApiError::NotUnderstood { url: self.url.clone(), reason });
        }
        Ok(answer.results)
    }

    pub async fn message(&self, app: &str, id: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, &["apps", app, "messages", id], None::<&()>).await
    }

    pub async fn device(&self, app: &str, device: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, &["apps", app, "devices", device], None::<&()>).await
    }

    /// How many messages wait in the device's inbox: stored and not acknowledged.
    pub async fn waiting(&self, app: &str, device: &str) -> Result<u64, ApiError> {
        let answer = self.device(app, device).await?;
        let entries = answer["inbox"]["entries"].as_u64();
        entries.ok_or_else(|| self.not_understood("a device without inbox.entries"))
    }

    pub async fn status(&self) -> Result<Value, ApiError> {
        self.call(Method::GET, &["status"], None::<&()>).await
    }

    /// Where devices of the app should connect, best first.
    pub async fn addresses(&self, app: &str) -> Result<Value, ApiError> {
        let request =
            self.http.get(format!("{}/v1/devices/addresses", self.url)).query(&[("app", app)]);
        self.answer(request).await
    }

    /// `path` holds one element per segment, so that a device name with a slash stays one.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&(impl Serialize + ?Sized)>,
    ) -> Result<T, ApiError> {
        let mut url = reqwest::Url::parse(&self.url).map_err(|error| self.not_understood(error))?;
        url.path_segments_mut()
            .map_err(|()| self.not_understood("it is not an http:// address"))?
            .pop_if_empty()
            .push("v1")
            .extend(path);
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ApiError> {
        let response = request.bearer_auth(&self.key).send().await;
        let response = response.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(error))?;
        if status.is_success() {
            serde_json::from_slice(&bytes).map_err(|error| self.not_understood(error))
        } else {
            Err(self.refusal(status, &bytes))
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ApiError {
        #[derive(Deserialize)]
        struct Refused {
            error: ErrorBody,
        }
        match serde_json::from_slice(body) {
            Ok(Refused { error: ErrorBody { code, message, retry_after_ms } }) => {
                ApiError::Refused { status: status.as_u16(), code, message, retry_after_ms }
            }
            Err(_) => self.not_understood(format!("HTTP {status}")),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> ApiError {
        ApiError::Unreachable { url: self.url.clone(), reason: root_cause(&error) }
    }

    fn not_understood(&self, reason: impl std::fmt::Display) -> ApiError {
        ApiError::NotUnderstood { url: self.url.clone(), reason: reason.to_string() }
    }
}

/// The innermost error: "connection refused" says more than "error sending request".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_have_the_documented_shape() {
        let push = Push {
            to: To::Device("phone-1".to_owned()),
            payload: Payload::Text("hi".to_owned()),
            ttl_s: 60,
            priority: None,
            when_awake: false,
            collapse_key: None,
            idempotency_key: Some("k".to_owned()),
        };
        assert_eq!(
            serde_json::to_value(&push).unwrap(),
            json!({"to": {"device": "phone-1"}, "payload": "hi", "ttl_s": 60, "idempotency_key": "k"})
        );
        let push = Push {
            to: To::All(true),
            payload: Payload::Base64("aGk".to_owned()),
            priority: Some("high"),
            when_awake: true,
            ..push
        };
        assert_eq!(
            serde_json::to_value(&push).unwrap(),
            json!({"to": {"all": true}, "payload_base64": "aGk", "ttl_s": 60, "priority": "high",
                   "when_awake": true, "idempotency_key": "k"})
        );
    }

    #[test]
    fn batch_results_are_told_apart() {
        let text = r#"[{"id":"a","seq":1,"online":true,"duplicate":false},
                       {"error":{"code":"inbox_full","message":"m","retry_after_ms":5}}]"#;
        let results: Vec<PushResult> = serde_json::from_str(text).unwrap();
        assert!(matches!(&results[0], PushResult::Accepted(accepted) if accepted.seq == 1));
        let PushResult::Refused { error } = &results[1] else { panic!("{results:?}") };
        assert_eq!((error.code.as_str(), error.retry_after_ms), ("inbox_full", Some(5)));
    }

    #[test]
    fn only_what_passes_is_retried() {
        let client = Client::new("http://127.0.0.1:1", "k");
        let body = br#"{"error":{"code":"c","message":"m"}}"#;
        for (status, expect) in [(400, false), (401, false), (404, false), (429, true), (503, true)]
        {
            let error = client.refusal(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(error.may_retry(), expect, "{status}");
        }
        assert!(!client.refusal(StatusCode::BAD_GATEWAY, b"<html>").may_retry());
        assert!(client.refusal(StatusCode::SERVICE_UNAVAILABLE, body).is_certain());
        let unknown = br#"{"error":{"code":"outcome_unknown","message":"m","retry_after_ms":9}}"#;
        assert!(!client.refusal(StatusCode::SERVICE_UNAVAILABLE, unknown).is_certain());
    }
}
