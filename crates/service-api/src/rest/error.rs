//! The one error body that every SDK understands (Spec auth-and-limits §8.1, rest §1.6).

use std::time::Duration;

use holdfast_model::{ErrorCode, UnixMillis, redact};
use holdfast_registry::{RegistryError, Rejection};
use serde_json::{Map, Value, json};

use super::reply::Reply;
use super::timestamps;

/// When a refused caller may retry, unless the refusal says it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The error that answers a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    /// The methods of the resource, for 405.
    pub(super) allow: Option<&'static str>,
    /// When the caller may retry, for 429 and 503.
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
        // Node splits the message at `;`; a text that lists the character still has to name it.
        let text: String = self
            .text
            .replace(" ; ", " (semicolon) ")
            .chars()
            .map(|c| if c == ';' || c.is_control() { ',' } else { c })
            .collect();
        // C# and Node want name and number to agree.
        let mut body = json!({
            "errorCode": self.code.number(),
            "Message": format!("ErrorCode:{};{text}", self.code.name()),
            "ExceptionMessage": format!("Tracking ID:{tracking_id}-TimeStamp:{}", timestamps::us_date(now)),
        });
        for (name, value) in self.fields.iter().flat_map(|fields| fields.iter()) {
            body[name] = value.clone();
        }
        let mut reply = Reply::json(self.code.http_status(), body).header("iothub-errorcode", self.code.name());
        if matches!(self.code.http_status(), 429 | 503) {
            reply = reply.header("retry-after", &self.retry_after.as_secs().max(1).to_string());
        }
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
