//! One request from its head to its answer, in the order of checks of Spec rest §1.2.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use holdfast_auth::Rights;
use holdfast_model::{ErrorCode, RefusalReason};
use holdfast_net::Peer;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Request, Response};

use super::authorize::{self, Check};
use super::error::ApiError;
use super::reply::Reply;
use super::route::{self, Call, Resolved};
use super::state::Shared;
use super::view::Caller;
use super::{body, calls, path};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const RETURN_CLIENT_REQUEST_ID: &str = "x-ms-return-client-request-id";
const METHOD_OVERRIDE: &str = "x-http-method-override";

/// Longest id of a client's that is echoed and logged, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// Answers `request`.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let id = format!("{:032x}", rand::random::<u128>());
    let client_id = client_request_id(request.headers()).cloned();
    let echo = client_id
        .as_ref()
        .filter(|_| wants_client_id(request.headers()))
        .cloned();
    let method = request.method().clone();
    let outcome = limited(&shared, request).await;
    let reply = outcome.unwrap_or_else(|error| error.reply(&id, (shared.clock)()));
    shared.metrics.answered(reply.status());
    shared.metrics.seconds.record(started.elapsed());
    tracing::debug!(
        request_id = id,
        client_request_id = client_id.as_ref().and_then(|value| value.to_str().ok()),
        %method,
        status = reply.status(),
        "service API call"
    );
    let mut response = reply.into_response();
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(value) = echo {
        response.headers_mut().insert(CLIENT_REQUEST_ID, value);
    }
    response
}

fn client_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(CLIENT_REQUEST_ID).or_else(|| headers.get("request-id"))?;
    (id.len() <= MAX_CLIENT_ID_BYTES && id.to_str().is_ok()).then_some(id)
}

fn wants_client_id(headers: &HeaderMap) -> bool {
    headers.contains_key(CLIENT_REQUEST_ID)
        && headers
            .get(RETURN_CLIENT_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Bounds how many calls are under way, and how long one takes. A body has its own deadline on top.
async fn limited(shared: &Shared, request: Request<Body>) -> Result<Reply, ApiError> {
    let Ok(_permit) = shared.requests.try_acquire() else {
        return Err(ApiError::new(
            ErrorCode::ServerBusy,
            "too many calls are under way, repeat a little later",
        ));
    };
    let limit = shared.config.request_timeout.get() + shared.config.body_timeout.get();
    match tokio::time::timeout(limit, checked(shared, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unavailable()),
    }
}

fn unavailable() -> ApiError {
    let text = "the hub did not answer in time, a write may or may not have been done";
    ApiError::new(ErrorCode::ServiceUnavailable, text)
}

async fn checked(shared: &Shared, request: Request<Body>) -> Result<Reply, ApiError> {
    let (head, body) = request.into_parts();
    let address = head
        .extensions
        .get::<Peer>()
        .map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |peer| peer.address);
    let segments = path::segments(&head.uri);
    let known = segments.as_deref().unwrap_or_default();
    let over = head.headers.get(METHOD_OVERRIDE).and_then(|value| value.to_str().ok());
    let method = route::overridden(&head.method, over, known);
    if !route::is_own(known) {
        path::check_version(&head.uri).map_err(authorize::wrong_version)?;
    }
    let resolved = match &segments {
        Some(segments) => route::resolve(&method, segments),
        None => Resolved::Nothing,
    };
    let (right, device_side) = match &resolved {
        Resolved::Call(call) => (call.right(), device_side(call)),
        // Whoever holds any valid token may learn that there is no such path.
        Resolved::Method(_) | Resolved::Nothing => (Rights::NONE, None),
    };
    let now = (shared.clock)();
    let check = Check {
        registry: &shared.registry,
        hub_names: &shared.hub_names,
        now,
        segments: known,
        right,
        device_side,
    };
    let within = shared.config.request_timeout.get();
    let authorized = tokio::time::timeout(within, authorize::authorize(&head.headers, &check)).await;
    let principal = match authorized {
        Ok(Ok(principal)) => principal,
        Ok(Err(denied)) => {
            let caller = Caller {
                principal: denied.principal,
                address,
            };
            shared.hub.refused(&caller, denied.reason, denied.error.code);
            return Err(denied.error);
        }
        Err(_) => {
            let caller = Caller {
                principal: "unconfirmed".to_owned(),
                address,
            };
            shared
                .hub
                .refused(&caller, RefusalReason::Unconfirmed, ErrorCode::ServiceUnavailable);
            return Err(unavailable());
        }
    };
    let call = match resolved {
        Resolved::Call(call) => call,
        Resolved::Method(allowed) => {
            let mut error = ApiError::new(
                ErrorCode::GenericMethodNotAllowed,
                format!("{method} is not possible here"),
            );
            error.allow = Some(allowed);
            return Err(error);
        }
        Resolved::Nothing => return Err(ApiError::new(ErrorCode::GenericNotFound, "there is no such path")),
    };
    let body = body::Incoming::new(
        &head.headers,
        body,
        shared.bodies.clone(),
        shared.config.body_timeout.get(),
    );
    let caller = Caller { principal, address };
    let request = calls::Request {
        shared,
        caller: &caller,
        uri: &head.uri,
        headers: &head.headers,
        body,
    };
    calls::run(call, request).await
}

fn device_side(call: &Call) -> Option<&(String, Option<String>)> {
    match call {
        Call::Later(later) => later.device_side.as_ref(),
        _ => None,
    }
}
