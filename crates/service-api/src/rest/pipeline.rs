//! One request from its head to its answer, in the order of checks of Spec rest §1.2.

use std::time::{Duration, Instant};

use holdfast_auth::Rights;
use holdfast_model::{ErrorCode, RefusalReason};
use holdfast_net::http_api::{Reply, check_version, segments};
use holdfast_net::{Body, Peer};
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};

use super::authorize::{self, Check};
use super::error::ApiError;
use super::route::{self, Call, IdentityPath, Resolved};
use super::state::{Caller, Shared};
use super::{body, calls};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const RETURN_CLIENT_REQUEST_ID: &str = "x-ms-return-client-request-id";
const METHOD_OVERRIDE: &str = "x-http-method-override";

/// Longest client request id that is echoed and logged, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// Answers a request of `peer`.
pub(super) async fn answer(shared: &Shared, head: &Parts, body: Body, peer: &Peer) -> Response<Body> {
    let started = Instant::now();
    let id = format!("{:032x}", rand::random::<u128>());
    let client_id = client_request_id(&head.headers).cloned();
    let echo = client_id.as_ref().filter(|_| wants_client_id(&head.headers)).cloned();
    let outcome = checked(shared, head, body, peer).await;
    let reply = outcome.unwrap_or_else(|error| error.reply(&id, shared.now()));
    shared.metrics.answered(reply.status());
    shared.metrics.seconds.record(started.elapsed());
    tracing::debug!(
        request_id = id,
        client_request_id = client_id.as_ref().and_then(|value| value.to_str().ok()),
        method = %head.method,
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

/// The node works on as many calls as it may.
pub(super) fn too_many() -> ApiError {
    ApiError::new(
        ErrorCode::ServerBusy,
        "too many calls are in progress; retry after a second",
    )
}

pub(super) fn unavailable() -> ApiError {
    let text = "the hub did not answer in time; whether a write took effect is not known";
    ApiError::new(ErrorCode::ServiceUnavailable, text)
}

/// Bounds the number of concurrent calls and the time of each step. Reading a body has its own deadline on top, and so has
/// waiting for a device.
async fn checked(shared: &Shared, head: &Parts, body: Body, peer: &Peer) -> Result<Reply, ApiError> {
    let Ok(permit) = shared.requests.try_acquire() else {
        return Err(too_many());
    };
    let address = peer.address;
    let segments = segments(&head.uri);
    let known = segments.as_deref().unwrap_or_default();
    let over = head.headers.get(METHOD_OVERRIDE).and_then(|value| value.to_str().ok());
    let method = route::overridden(&head.method, over, known);
    if !route::is_holdfast_api(known) {
        check_version(&head.uri).map_err(authorize::wrong_version)?;
    }
    let resolved = match &segments {
        Some(segments) => route::resolve(&method, segments),
        None => Resolved::Nothing,
    };
    let (right, actions, device_side) = match &resolved {
        Resolved::Call(call) => (call.right(), call.actions(), device_side(call)),
        // Any valid token suffices to learn that a path does not exist.
        Resolved::Method(_) | Resolved::Nothing => (Rights::NONE, Some(&[][..]), None),
    };
    let check = Check {
        registry: shared.registry(),
        hub_names: shared.hub.hub_names(),
        issuer: shared.issuer.as_ref(),
        accepts_policies: shared.hub.accepts_shared_policies(),
        now: shared.now(),
        method: method.as_str(),
        segments: known,
        right,
        actions,
        device_side,
    };
    let within = shared.config.request_timeout.get();
    let authorized = tokio::time::timeout(within, authorize::authorize(&head.headers, &check)).await;
    let (principal, sees_policy_keys) = match authorized {
        Ok(Ok(authorized)) => (authorized.principal, authorized.sees_policy_keys),
        Ok(Err(denied)) => {
            let caller = Caller {
                principal: denied.principal,
                sees_policy_keys: false,
                address,
            };
            shared.refused(&caller, denied.reason, denied.error.code);
            if let Some(penalty) = shared.penalty(&caller, &head.headers, denied.reason) {
                // Another call may be worked on meanwhile.
                drop(permit);
                penalty.served().await;
            }
            return Err(denied.error);
        }
        Err(_) => {
            let caller = Caller {
                principal: "unconfirmed".to_owned(),
                sees_policy_keys: false,
                address,
            };
            shared.refused(&caller, RefusalReason::Unconfirmed, ErrorCode::ServiceUnavailable);
            return Err(unavailable());
        }
    };
    let call = match resolved {
        Resolved::Call(call) => call,
        Resolved::Method(allowed) => {
            let mut error = ApiError::new(
                ErrorCode::GenericMethodNotAllowed,
                format!("method {method} is not allowed for this path"),
            );
            error.allow = Some(allowed);
            return Err(error);
        }
        Resolved::Nothing => return Err(ApiError::new(ErrorCode::GenericNotFound, "the path does not exist")),
    };
    let body = body::Incoming::new(
        &head.headers,
        body,
        shared.bodies.clone(),
        shared.config.body_timeout.get(),
    );
    let caller = Caller {
        principal,
        sees_policy_keys,
        address,
    };
    let request = calls::Request {
        shared,
        caller: &caller,
        uri: &head.uri,
        headers: &head.headers,
        body,
        permit: Some(permit),
    };
    let turn = call.meter().class();
    let turn = turn.map_or(Duration::ZERO, |class| shared.hub.longest_turn(class));
    let limit = shared.config.request_timeout.get() + shared.config.body_timeout.get() + call.device_wait() + turn;
    match tokio::time::timeout(limit, calls::run(call, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unavailable()),
    }
}

fn device_side(call: &Call) -> Option<&IdentityPath> {
    match call {
        Call::Unimplemented(missing) => missing.device_side.as_ref(),
        _ => None,
    }
}
