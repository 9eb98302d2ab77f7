//! An answer before its conversion to an HTTP response, and the body of one that is an error (Spec rest §1.3, §1.6).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::Body;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A body.
#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Stream(Body),
}

/// Status, body and headers.
#[derive(Debug)]
pub struct Reply {
    status: u16,
    body: Option<Content>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// With a JSON text, or what prints one.
    #[must_use]
    pub fn json(status: u16, body: impl std::fmt::Display) -> Self {
        Self {
            status,
            body: Some(Content::Whole(body.to_string().into())),
            headers: Vec::new(),
        }
    }

    /// 200 with an array of JSON texts.
    #[must_use]
    pub fn array(items: &[String]) -> Self {
        Self {
            status: 200,
            body: Some(Content::Whole(format!("[{}]", items.join(",")).into())),
            headers: Vec::new(),
        }
    }

    /// 200 with a JSON text, or what prints one.
    #[must_use]
    pub fn ok(body: impl std::fmt::Display) -> Self {
        Self::json(200, body)
    }

    /// 200 with a body that is no JSON.
    #[must_use]
    pub fn bytes(content_type: &'static str, body: Bytes) -> Self {
        Self {
            status: 200,
            body: Some(Content::Whole(body)),
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))],
        }
    }

    /// 200 with a body that is sent as it is made.
    #[must_use]
    pub fn stream(content_type: &'static str, body: Body) -> Self {
        Self {
            status: 200,
            body: Some(Content::Stream(body)),
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))],
        }
    }

    /// Without body and content type.
    #[must_use]
    pub fn no_content() -> Self {
        Self {
            status: 204,
            body: None,
            headers: Vec::new(),
        }
    }

    /// Adds a header; a value that is not valid in HTTP is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// Adds a header whose name is not fixed; a name or value that is not valid in HTTP is left out.
    #[must_use]
    pub fn named_header(mut self, name: &str, value: &[u8]) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            self.headers.push((name, value));
        }
        self
    }

    /// The entity's tag, in quotes.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
            self.headers.push((ETAG, value));
        }
        self
    }

    /// The number of its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// As `net` sends it.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let has_body = self.body.is_some();
        let whole = |body| Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let body = match self.body {
            Some(Content::Whole(body)) => whole(body),
            Some(Content::Stream(body)) => body,
            None => whole(Bytes::new()),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if has_body {
            // One of its own comes below, and replaces it.
            response.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        response
            .headers_mut()
            .extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}
