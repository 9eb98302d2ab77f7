//! The one error body that every SDK understands (Spec auth-and-limits §8.1, rest §1.6).

use std::time::Duration;

use holdfast_model::{ErrorCode, UnixMillis, us_date};
use serde_json::{Map, Value, json};

use super::Reply;

/// When a refused caller may retry, unless the refusal says it.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An error before it becomes an answer.
#[derive(Debug, Clone, Copy)]
pub struct ErrorReply<'a> {
    /// Its number.
    pub code: ErrorCode,
    /// The text for the caller, without secrets.
    pub text: &'a str,
    /// When the caller may retry; sent with 429 and 503.
    pub retry_after: Duration,
    /// Further fields of the body, for calls whose clients read an error as a result.
    pub fields: Option<&'a Map<String, Value>>,
}

impl ErrorReply<'_> {
    /// The answer. `tracking_id` is also the request's id in the log.
    #[must_use]
    pub fn reply(&self, tracking_id: &str, now: UnixMillis) -> Reply {
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
            "ExceptionMessage": format!("Tracking ID:{tracking_id}-TimeStamp:{}", us_date(now)),
        });
        for (name, value) in self.fields.into_iter().flatten() {
            body[name] = value.clone();
        }
        let reply = Reply::json(self.code.http_status(), body).header("iothub-errorcode", self.code.name());
        // A used-up quota is the only 403 that ends by itself.
        if self.code == ErrorCode::IotHubQuotaExceeded || matches!(self.code.http_status(), 429 | 503) {
            return reply.header("retry-after", &self.retry_after.as_secs().max(1).to_string());
        }
        reply
    }
}
