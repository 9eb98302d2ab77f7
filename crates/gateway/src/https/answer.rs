//! One request from its head to its answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_device_hub::{
    CloudQueueError, ConnectRequest, Credential, Protocol, Refusal, StoredSession, Throttled, TraceKind,
};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis, redact, round_trip};
use holdfast_net::http_api::{BodyError, ErrorReply, RETRY_AFTER, Reply, check_version, segments};
use holdfast_net::{Body, Peer};
use http::header::{AUTHORIZATION, CONNECTION, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Response};

use super::HttpsFront;
use super::call::{self, Request};
use super::route::{Resolved, route};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");

/// A token that no parser accepts, for a header that is not text.
const UNREADABLE_TOKEN: &str = "?";

/// The error that answers a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsError {
    pub(super) code: ErrorCode,
    pub(super) text: String,
    retry_after: Duration,
    /// The methods of the path, for 405.
    allow: Option<&'static str>,
    /// The next request shall come over another connection, which may reach another node.
    closes: bool,
}

impl HttpsError {
    pub(super) fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: redact(&text.into()).into_owned(),
            retry_after: RETRY_AFTER,
            allow: None,
            closes: false,
        }
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, text)
    }

    /// The refusal of a credential. Of a token that has ended it says both times, so that the client can compare clocks.
    fn denied(refusal: Refusal, token: Option<&str>, now: UnixMillis) -> Self {
        let mut error = Self::from(refusal);
        let time = |at: i64| round_trip(at).unwrap_or_default();
        if refusal.reason == RefusalReason::Expired
            && let Some(end) = token.and_then(expiry)
        {
            let (at, now) = (time(end), time(i64::try_from(now.0).unwrap_or(i64::MAX)));
            error.text = format!("the token expired at {at}, the hub's time is {now}");
        }
        error
    }

    fn reply(&self, id: &str, front: &HttpsFront) -> Reply {
        let error = ErrorReply {
            code: self.code,
            text: &self.text,
            retry_after: self.retry_after,
            fields: None,
        };
        let reply = error.reply(id, front.core.clock().now());
        match self.allow {
            Some(methods) => reply.header("allow", methods),
            None => reply,
        }
    }
}

/// The end of a token that the session API has read, in milliseconds since 1970.
fn expiry(token: &str) -> Option<i64> {
    let seconds = token.split(['&', ' ']).find_map(|part| part.strip_prefix("se="))?;
    seconds.parse::<i64>().ok()?.checked_mul(1000)
}

impl From<BodyError> for HttpsError {
    fn from(error: BodyError) -> Self {
        Self::new(error.code, error.text)
    }
}

impl From<CloudQueueError> for HttpsError {
    fn from(error: CloudQueueError) -> Self {
        let code = match error {
            CloudQueueError::LockLost => ErrorCode::DeviceMessageLockLost,
            CloudQueueError::Gone => ErrorCode::DeviceNotFound,
            CloudQueueError::Full { .. } => ErrorCode::DeviceMaximumQueueDepthExceeded,
            CloudQueueError::Busy => ErrorCode::ServerBusy,
            CloudQueueError::NoOwner
            | CloudQueueError::DiskFull
            | CloudQueueError::Unreadable
            | CloudQueueError::Unknown => ErrorCode::ServiceUnavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Throttled> for HttpsError {
    fn from(throttled: Throttled) -> Self {
        Self {
            retry_after: Duration::from_secs(throttled.retry_after_seconds()),
            ..Self::new(throttled.code, throttled.to_string())
        }
    }
}

impl From<Refusal> for HttpsError {
    /// The client learns no more than its own credential tells it (Spec rest §1.2).
    fn from(refusal: Refusal) -> Self {
        let text = match refusal.reason {
            RefusalReason::Missing => "the request has neither an Authorization header nor a client certificate",
            RefusalReason::Malformed => "the Authorization header is no shared access signature",
            RefusalReason::Expired => "the token has expired",
            RefusalReason::Host => "the token is for another host",
            RefusalReason::Scope => "the token is for another resource",
            RefusalReason::Draining => "this node is being drained; retry over a new connection",
            _ if !refusal.is_certain() => "the hub could not decide about the credential in time; retry",
            _ => "the credential does not open this device or module",
        };
        Self {
            closes: refusal.reason == RefusalReason::Draining,
            ..Self::new(refusal.code, text)
        }
    }
}

/// Answers a request of `peer`.
pub(super) async fn answer(front: &Rc<HttpsFront>, head: &Parts, body: Body, peer: &Peer) -> Response<Body> {
    let started = Instant::now();
    let id = format!("{:032x}", rand::random::<u128>());
    let (label, outcome) = checked(front, head, body, peer).await;
    let closes = outcome.as_ref().is_err_and(|error| error.closes);
    let reply = outcome.unwrap_or_else(|error| error.reply(&id, front));
    front.metrics.answered(label, reply.status(), started.elapsed());
    tracing::debug!(
        request_id = id,
        call = label,
        status = reply.status(),
        "request of a device"
    );
    let mut response = reply.into_response();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The label of the call for metrics, and the answer.
async fn checked(
    front: &Rc<HttpsFront>,
    head: &Parts,
    body: Body,
    peer: &Peer,
) -> (&'static str, Result<Reply, HttpsError>) {
    let refused = |error| ("refused", Err(error));
    let Ok(permit) = front.requests.try_acquire() else {
        let text = "too many requests of devices are in progress; retry after a second";
        return refused(HttpsError::new(ErrorCode::ServerBusy, text));
    };
    if let Err(text) = check_version(&head.uri) {
        return refused(HttpsError::new(ErrorCode::InvalidProtocolVersion, text));
    }
    let nothing = || HttpsError::new(ErrorCode::GenericNotFound, "the path does not exist");
    let Some(segments) = segments(&head.uri) else {
        return refused(nothing());
    };
    let Some(route) = route(&head.method, &head.uri, &segments) else {
        return refused(nothing());
    };
    let authorization = head.headers.get(AUTHORIZATION);
    let token = authorization.map(|value| value.to_str().unwrap_or(UNREADABLE_TOKEN));
    let hub = front.core.hub();
    let request = ConnectRequest {
        device: &route.device,
        module: route.module.as_deref(),
        // `Host` need not name the hub (Spec rest §1.1); the token does.
        host: hub.hub_names().primary().unwrap_or_default(),
        credential: Credential::new(token, peer.certificates.as_ref()),
        model_id: None,
        stored_session: StoredSession::Unused,
        protocol: Protocol::Https,
        address: peer.address,
        tls: peer.tls.as_ref(),
        handshake: None,
        trace: None,
    };
    let requester = match front.core.authenticate_request(&request).await {
        Ok(requester) => requester,
        Err(refusal) => return refused(HttpsError::denied(refusal, token, front.core.clock().now())),
    };
    if hub.is_tracing() {
        let text = || format!("{} {}", head.method, redact(head.uri.path()));
        hub.trace(&requester.identity().to_string(), TraceKind::Received, &text, None);
    }
    let call = match route.call {
        Resolved::Call(call) => call,
        Resolved::Method(allowed) => {
            let error = HttpsError {
                allow: Some(allowed),
                ..HttpsError::new(
                    ErrorCode::GenericMethodNotAllowed,
                    format!("method {} is not allowed for this path", head.method),
                )
            };
            return refused(error);
        }
        Resolved::Nothing => return refused(nothing()),
    };
    let label = call.label();
    let request = Request {
        front,
        requester,
        headers: &head.headers,
        body,
        permit: Some(permit),
    };
    let outcome = call::run(call, request).await;
    (label, outcome)
}
