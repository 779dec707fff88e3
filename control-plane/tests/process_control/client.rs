//! A client of the HTTP API that waits for each answer.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::control::{ADMIN_KEY, Control};
use crate::running::DEADLINE;

/// Calls with one key.
pub struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    base: String,
}

/// An answer: its status, what `Retry-After` says, and its body as JSON.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Reply {
    /// The body of an answer that must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{:?}", self.body);
        self.body
    }
}

impl Client {
    pub fn new(control: &Control) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
        Client { runtime, http, base: format!("http://{}", control.api) }
    }

    pub fn send(&self, method: Method, path: &str, key: &str, body: Vec<u8>) -> Reply {
        let request = self.http.request(method, format!("{}{path}", self.base)).body(body);
        let request = if key.is_empty() { request } else { request.bearer_auth(key) };
        self.runtime.block_on(async {
            let response = request.send().await.unwrap();
            let retry_after = response.headers().get("retry-after");
            let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
            let status = response.status().as_u16();
            let bytes = response.bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            Reply { status, retry_after, body }
        })
    }

    pub fn post(&self, path: &str, key: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, key, body.to_string().into_bytes())
    }

    pub fn get(&self, path: &str, key: &str) -> Reply {
        self.send(Method::GET, path, key, Vec::new())
    }

    /// Registers an app and returns its API key.
    pub fn app(&self, name: &str, quota: Value) -> String {
        let body = json!({"name": name, "quota": quota});
        let created = self.post("/v1/apps", ADMIN_KEY, &body).expect(201);
        created["api_key"].as_str().unwrap().to_owned()
    }
}
