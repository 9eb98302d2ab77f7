//! The one error body that every SDK understands (Spec auth-and-limits §8.1, rest §1.6).

use std::time::Duration;

use holdfast_model::{ErrorCode, UnixMillis, redact};
use holdfast_registry::{RegistryError, Rejection};
use serde_json::{Map, Value};

use holdfast_net::http_api::{ErrorReply, RETRY_AFTER, Reply};

/// The error that answers a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    /// The methods of the resource, for 405.
    pub(super) allow: Option<&'static str>,
    /// When the caller may retry, for 429, 503 and a used-up quota.
    pub(super) retry_after: Duration,
    /// Further fields of the body, for calls whose clients read an error as a result.
    pub(super) fields: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: redact(&text.into()).into_owned(),
            allow: None,
            retry_after: RETRY_AFTER,
            fields: None,
        }
    }

    pub(super) fn retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after, ..self }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, text)
    }

    /// The answer. `tracking_id` is also the request's id in the log.
    pub(super) fn reply(&self, tracking_id: &str, now: UnixMillis) -> Reply {
        let reply = ErrorReply {
            code: self.code,
            text: &self.text,
            retry_after: self.retry_after,
            fields: self.fields.as_deref(),
        };
        let reply = reply.reply(tracking_id, now);
        match self.allow {
            Some(methods) => reply.header("allow", methods),
            None => reply,
        }
    }
}

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.text)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Rejected(rejection) => rejection.into(),
            // No fault: it is for the caller to read.
            RegistryError::FeatureLevel { .. } => Self::new(error.code(), error.to_string()),
            // The cause of the others goes to the log; the caller gets the meaning of the number.
            error => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a registry operation failed; the call is answered with an error"
                );
                Self::new(error.code(), error.code().meaning())
            }
        }
    }
}
