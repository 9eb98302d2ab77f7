//! The outcome of a call as it is sent: the result of a handler to outcome and body, and back. Pure.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::transport::CallError;
use holdfast_model::NodeId;

use super::frame::Outcome;

/// Longest text of an error that is sent, in bytes.
const MAX_TEXT: usize = 4096;

/// The outcome and the body to send for the result of a handler. A body of more than `limit` bytes is not sent.
pub(crate) fn encode(result: Result<Bytes, CallError>, limit: usize) -> (Outcome, Bytes) {
    match result {
        Ok(body) if body.len() > limit => (
            Outcome::Unknown,
            Bytes::from_static(b"the answer is longer than the limit"),
        ),
        Ok(body) => (Outcome::Done, body),
        Err(CallError::Refused(text)) => (Outcome::Refused, truncated(&text)),
        Err(CallError::Unknown(text)) => (Outcome::Unknown, truncated(&text)),
        Err(CallError::NotSent(text)) => (Outcome::NotExecuted, truncated(&text)),
    }
}

/// The result of a call to `node` from the outcome and the body that were received.
pub(crate) fn decode(node: NodeId, outcome: Outcome, body: Bytes) -> Result<Bytes, CallError> {
    let text = || -> Arc<str> { String::from_utf8_lossy(&body).into() };
    match outcome {
        Outcome::Done => Ok(body),
        Outcome::Refused => Err(CallError::Refused(text())),
        Outcome::Unknown => Err(CallError::Unknown(text())),
        Outcome::NotExecuted => Err(CallError::NotSent(format!("node {node}: {}", text()).into())),
    }
}

fn truncated(text: &str) -> Bytes {
    Bytes::copy_from_slice(&text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)])
}
