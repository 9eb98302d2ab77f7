//! A request's body as JSON (Spec rest §1.1).

use std::time::Duration;

use bytes::Bytes;
use holdfast_model::limits::MAX_HTTP_BODY_BYTES;
use holdfast_net::Body;
use holdfast_net::http_api::{BodyError, RequestBody};
use holdfast_tasks::{ByteBudget, Permit};
use http::HeaderMap;
use serde_json::Value;

use super::error::ApiError;
use super::json;

/// A body that has not been read yet.
pub(super) struct Incoming(RequestBody);

impl Incoming {
    pub(super) fn new(headers: &HeaderMap, body: Body, budget: ByteBudget, deadline: Duration) -> Self {
        Self(RequestBody::new(headers, body, budget, deadline))
    }

    /// The whole body as JSON.
    pub(super) async fn json(&mut self) -> Result<Value, ApiError> {
        let (bytes, _permit) = self.read(MAX_HTTP_BODY_BYTES).await?;
        json::parse(&bytes)
    }

    /// The whole body as JSON; `None` when it is empty.
    pub(super) async fn optional_json(&mut self) -> Result<Option<Value>, ApiError> {
        let (bytes, _permit) = self.read(MAX_HTTP_BODY_BYTES).await?;
        if bytes.is_empty() {
            Ok(None)
        } else {
            json::parse(&bytes).map(Some)
        }
    }

    /// The whole body of at most `most` bytes; the permit is held while they are.
    pub(super) async fn read(&mut self, most: usize) -> Result<(Bytes, Permit), ApiError> {
        Ok(self.0.read(most).await?)
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        Self::new(error.code, error.text)
    }
}
