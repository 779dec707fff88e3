//! Everything that an API call can fail with, as HTTP. Nothing else maps errors to statuses.
//!
//! What the caller reads says what to change. What only an operator should know (the store's
//! words, an address) is logged where it is handled and is not in the answer.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::Busy;
use crate::node::event::Refusal;

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable; decide by this one.
    #[schema(example = "quota_exceeded")]
    pub code: &'static str,
    /// For a person.
    pub message: String,
    /// The part of the request that is wrong, such as `messages[3].ttl_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The same request may succeed after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
}

/// The codes of all errors: what programs decide by, and a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Unauthorized,
    Forbidden,
    NoSuchRoute,
    MethodNotAllowed,
    BadJson,
    BadField,
    PayloadTooLarge,
    BodyIncomplete,
    RequestTimeout,
    TooManyBodies,
    NoSigningKey,
    UnknownApp,
    UnknownMessage,
    AppNameTaken,
    TooManyApps,
    QuotaExceeded,
    InboxFull,
    GroupLogFull,
    Overloaded,
    StoreUnavailable,
    OutcomeUnknown,
}

impl Code {
    /// In the order of their declaration.
    pub const ALL: [Code; 21] = [
        Code::Unauthorized,
        Code::Forbidden,
        Code::NoSuchRoute,
        Code::MethodNotAllowed,
        Code::BadJson,
        Code::BadField,
        Code::PayloadTooLarge,
        Code::BodyIncomplete,
        Code::RequestTimeout,
        Code::TooManyBodies,
        Code::NoSigningKey,
        Code::UnknownApp,
        Code::UnknownMessage,
        Code::AppNameTaken,
        Code::TooManyApps,
        Code::QuotaExceeded,
        Code::InboxFull,
        Code::GroupLogFull,
        Code::Overloaded,
        Code::StoreUnavailable,
        Code::OutcomeUnknown,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::NoSuchRoute => "no_such_route",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::BadJson => "bad_json",
            Code::BadField => "bad_field",
            Code::PayloadTooLarge => "payload_too_large",
            Code::BodyIncomplete => "body_incomplete",
            Code::RequestTimeout => "request_timeout",
            Code::TooManyBodies => "too_many_bodies",
            Code::NoSigningKey => "no_signing_key",
            Code::UnknownApp => "unknown_app",
            Code::UnknownMessage => "unknown_message",
            Code::AppNameTaken => "app_name_taken",
            Code::TooManyApps => "too_many_apps",
            Code::QuotaExceeded => "quota_exceeded",
            Code::InboxFull => "inbox_full",
            Code::GroupLogFull => "group_log_full",
            Code::Overloaded => "overloaded",
            Code::StoreUnavailable => "store_unavailable",
            Code::OutcomeUnknown => "outcome_unknown",
        }
    }
}

/// What a call can fail with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// No key, or one that nobody has.
    Unauthorized,
    /// The key is another app's, or the operator's is needed.
    Forbidden,
    NoSuchRoute,
    MethodNotAllowed,
    /// The body is not JSON.
    BadJson {
        message: String,
    },
    /// A field has a wrong type or value, is missing, or does not exist.
    BadField {
        field: Cow<'static, str>,
        message: String,
    },
    BodyTooLarge {
        bytes_max: usize,
    },
    /// The body did not arrive.
    BodyIncomplete,
    /// The body did not arrive in time.
    RequestTimeout,
    /// As many bytes of bodies are under way as this node may hold.
    TooManyBodies,
    /// The app's server keeps the signing key.
    NoSigningKey,
    /// The node said no.
    Refused(Refusal),
    /// The owner of the node has too much to do.
    Busy,
}

impl ApiError {
    pub fn field(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        ApiError::BadField { field: field.into(), message: message.into() }
    }

    /// The same error inside the message of a batch.
    pub fn in_message(self, index: usize) -> ApiError {
        match self {
            ApiError::BadField { field, message } => {
                ApiError::field(format!("messages[{index}].{field}"), message)
            }
            other => other,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden => StatusCode::FORBIDDEN,
            ApiError::NoSuchRoute => StatusCode::NOT_FOUND,
            ApiError::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::BadJson { .. } | ApiError::BadField { .. } | ApiError::BodyIncomplete => {
                StatusCode::BAD_REQUEST
            }
            ApiError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            ApiError::TooManyBodies => StatusCode::TOO_MANY_REQUESTS,
            ApiError::NoSigningKey => StatusCode::CONFLICT,
            ApiError::Refused(refusal) => status_of(*refusal),
            ApiError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub fn detail(&self) -> ErrorDetail {
        let mut detail = ErrorDetail {
            code: self.code().label(),
            message: self.message(),
            field: None,
            retry_after_ms: None,
        };
        match self {
            ApiError::BadField { field, .. } => detail.field = Some(field.clone().into_owned()),
            ApiError::Refused(refusal) => {
                detail.retry_after_ms = refusal.retry_after_ms();
                detail.field = field_of(*refusal).map(str::to_owned);
            }
            ApiError::Busy | ApiError::TooManyBodies => detail.retry_after_ms = Some(1_000),
            _ => {}
        }
        detail
    }

    pub fn code(&self) -> Code {
        match self {
            ApiError::Unauthorized => Code::Unauthorized,
            ApiError::Forbidden => Code::Forbidden,
            ApiError::NoSuchRoute => Code::NoSuchRoute,
            ApiError::MethodNotAllowed => Code::MethodNotAllowed,
            ApiError::BadJson { .. } => Code::BadJson,
            ApiError::BadField { .. } => Code::BadField,
            ApiError::BodyTooLarge { .. } => Code::PayloadTooLarge,
            ApiError::BodyIncomplete => Code::BodyIncomplete,
            ApiError::RequestTimeout => Code::RequestTimeout,
            ApiError::TooManyBodies => Code::TooManyBodies,
            ApiError::NoSigningKey => Code::NoSigningKey,
            ApiError::Refused(refusal) => code_of(*refusal),
            ApiError::Busy => Code::Overloaded,
        }
    }

    fn message(&self) -> String {
        match self {
            ApiError::Unauthorized => {
                "send a valid key as \"Authorization: Bearer KEY\"".to_owned()
            }
            ApiError::Forbidden => "this key may not do this".to_owned(),
            ApiError::NoSuchRoute => "no such path; see /v1/openapi.json".to_owned(),
            ApiError::MethodNotAllowed => "this path has other methods".to_owned(),
            ApiError::BadJson { message } => format!("the body is not valid JSON: {message}"),
            ApiError::BadField { field, message } => format!("{field}: {message}"),
            ApiError::BodyTooLarge { bytes_max } => format!("the body exceeds {bytes_max} bytes"),
            ApiError::BodyIncomplete => "the body did not arrive whole".to_owned(),
            ApiError::RequestTimeout => "the body did not arrive in time".to_owned(),
            ApiError::TooManyBodies => "this node has too many bodies under way".to_owned(),
            ApiError::NoSigningKey => {
                "the app keeps its signing key itself; its own server signs tickets".to_owned()
            }
            ApiError::Refused(refusal) => refusal.to_string(),
            ApiError::Busy => "this node has too many calls under way".to_owned(),
        }
    }
}

fn status_of(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::UnknownApp | Refusal::UnknownMessage => StatusCode::NOT_FOUND,
        Refusal::AppNameTaken | Refusal::TooManyApps => StatusCode::CONFLICT,
        Refusal::BadAppName | Refusal::BadQuota | Refusal::BadTtl => StatusCode::BAD_REQUEST,
        Refusal::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::QuotaExceeded { .. }
        | Refusal::InboxFull { .. }
        | Refusal::GroupLogFull { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Overloaded { .. }
        | Refusal::StoreUnavailable { .. }
        | Refusal::OutcomeUnknown { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn code_of(refusal: Refusal) -> Code {
    match refusal {
        Refusal::UnknownApp => Code::UnknownApp,
        Refusal::UnknownMessage => Code::UnknownMessage,
        Refusal::AppNameTaken => Code::AppNameTaken,
        Refusal::BadAppName | Refusal::BadQuota | Refusal::BadTtl => Code::BadField,
        Refusal::TooManyApps => Code::TooManyApps,
        Refusal::PayloadTooLarge => Code::PayloadTooLarge,
        Refusal::QuotaExceeded { .. } => Code::QuotaExceeded,
        Refusal::InboxFull { .. } => Code::InboxFull,
        Refusal::GroupLogFull { .. } => Code::GroupLogFull,
        Refusal::Overloaded { .. } => Code::Overloaded,
        Refusal::StoreUnavailable { .. } => Code::StoreUnavailable,
        Refusal::OutcomeUnknown { .. } => Code::OutcomeUnknown,
    }
}

/// The field that a refusal is about, where it is about one.
fn field_of(refusal: Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::BadAppName => Some("name"),
        Refusal::BadQuota => Some("quota"),
        Refusal::BadTtl => Some("ttl_s"),
        _ => None,
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        ApiError::Refused(refusal)
    }
}

impl From<Busy> for ApiError {
    fn from(_: Busy) -> ApiError {
        ApiError::Busy
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let detail = self.detail();
        let retry_after_ms = detail.retry_after_ms;
        let body = axum::Json(ErrorBody { error: detail });
        let mut response = (self.status(), body).into_response();
        if let Some(ms) = retry_after_ms {
            let seconds = HeaderValue::from(ms.div_ceil(1000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(self.code());
        if matches!(
            self,
            ApiError::BodyTooLarge { .. }
                | ApiError::BodyIncomplete
                | ApiError::RequestTimeout
                | ApiError::TooManyBodies
        ) {
            // The rest of the body is not read, so nothing can follow it.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if self == ApiError::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
