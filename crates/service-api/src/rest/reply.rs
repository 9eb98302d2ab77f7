//! An answer before its conversion to an HTTP response.

use bytes::Bytes;
use holdfast_net::Body;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Status, body and headers.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    body: Option<Bytes>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    pub(super) fn json(status: u16, body: Value) -> Self {
        Self {
            status,
            body: Some(body.to_string().into()),
            headers: Vec::new(),
        }
    }

    /// 200 with an array of JSON texts.
    pub(super) fn array(items: &[String]) -> Self {
        Self {
            status: 200,
            body: Some(format!("[{}]", items.join(",")).into()),
            headers: Vec::new(),
        }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::json(200, body)
    }

    /// Without body and content type.
    pub(super) fn no_content() -> Self {
        Self {
            status: 204,
            body: None,
            headers: Vec::new(),
        }
    }

    /// Adds a header; a value that is not valid in HTTP is left out.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// The entity's tag, in quotes.
    pub(super) fn etag(mut self, etag: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
            self.headers.push((ETAG, value));
        }
        self
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let has_body = self.body.is_some();
        let body = Full::new(self.body.unwrap_or_default())
            .map_err(|never| match never {})
            .boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if has_body {
            response.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        response
            .headers_mut()
            .extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}
