//! Reads a request's body: bounded in bytes, in time, and over all requests together (Spec rest §1.1).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_model::ErrorCode;
use holdfast_model::limits::MAX_HTTP_BODY_BYTES;
use holdfast_tasks::{ByteBudget, Permit};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt as _;
use thiserror::Error;

use crate::Body;

/// Bytes beyond the limit that are read and discarded, so that the answer arrives: a client that is still sending when
/// the connection closes loses the answer (RFC 9112 §9.6).
const MAX_DISCARDED_BYTES: usize = 4 * MAX_HTTP_BODY_BYTES;

/// Why a body is not read: the answer to its sender.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct BodyError {
    /// The number of the answer.
    pub code: ErrorCode,
    /// The text of the answer.
    pub text: String,
}

impl BodyError {
    fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// A body that has not been read yet.
pub struct RequestBody {
    body: Option<Body>,
    length: Option<u64>,
    /// The client waits for `100 Continue` before it sends its body.
    expects_continue: bool,
    budget: ByteBudget,
    deadline: Duration,
}

impl RequestBody {
    /// The body of a request with `headers`. `budget` bounds the bodies of all requests together, `deadline` the time in which this one
    /// arrives.
    #[must_use]
    pub fn new(headers: &HeaderMap, body: Body, budget: ByteBudget, deadline: Duration) -> Self {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            body: Some(body),
            length,
            expects_continue: headers.contains_key(EXPECT),
            budget,
            deadline,
        }
    }

    /// The whole body of at most `most` bytes; the permit is held while they are.
    ///
    /// # Errors
    /// 413001 for a longer one, 503 when too many are being read, 408 and 499 when it does not arrive as a whole.
    pub async fn read(&mut self, most: usize) -> Result<(Bytes, Permit), BodyError> {
        // A body past the limit is not kept; a body far past the limit is not read at all.
        if let Some(length) = self.length.filter(|length| *length > most as u64) {
            if length <= MAX_DISCARDED_BYTES as u64
                && !self.expects_continue
                && let Some(body) = self.body.take()
            {
                // Whether the client was slow does not change the answer.
                let _ = tokio::time::timeout(self.deadline, discard(body)).await;
            }
            return Err(too_large(most));
        }
        let expected = self
            .length
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(most);
        let permit = self.budget.try_acquire(expected).map_err(|_| {
            BodyError::new(
                ErrorCode::ServerBusy,
                "too many request bodies are being read; retry after a second",
            )
        })?;
        let Some(body) = self.body.take() else {
            return Ok((Bytes::new(), permit));
        };
        match tokio::time::timeout(self.deadline, collect(body, most)).await {
            Ok(bytes) => Ok((bytes?, permit)),
            Err(_) => Err(BodyError::new(
                ErrorCode::RequestTimedOut,
                "the body did not arrive in time",
            )),
        }
    }
}

async fn collect(mut body: Body, most: usize) -> Result<Bytes, BodyError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::new(ErrorCode::RequestCanceled, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            drop(bytes);
            discard(body).await;
            return Err(too_large(most));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads the rest of the body, within bounds, and discards it.
async fn discard(mut body: Body) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
            return;
        };
        left = rest;
    }
}

fn too_large(most: usize) -> BodyError {
    BodyError::new(
        ErrorCode::MessageTooLarge,
        format!("the body is larger than {most} bytes"),
    )
}
