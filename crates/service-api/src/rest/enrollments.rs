//! The provisioning service's API for back ends (Spec provisioning §9).
//!
//! Why beside the hub's API and not in it: it has policies of its own, other api-versions and another error body, and the same port.
//! Order of checks: api-version, authentication, path, `If-Match`, body. A caller without rights does not learn which enrollments exist.
//! Invariants: requests and bodies are bounded; every refusal and every write reaches the audit log; keys leave only with the answers
//! to writes and to `attestationmechanism`.
//! Not here: the rules of a write (`registry`), registrations of devices (`gateway`).

mod calls;
mod diagnosis;
mod hubs;
mod issuing;
mod query;
mod read;
mod route;

use std::pin::Pin;
use std::sync::Arc;

use holdfast_auth::{HubNames, Policy, ResourcePath, Rights, SasRefusal, SasToken, verify_policy};
use holdfast_device_hub::{DeviceHub, Operation, Protocol, Refusal};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use holdfast_net::http_api::{Reply, query as query_parameter, segments};
use holdfast_net::{Body, HttpService, Peer};
use holdfast_provisioning::{Provisioning, check_version, error_body};
use holdfast_registry::Registry;
use holdfast_tasks::ByteBudget;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::body;
use super::config::RestConfig;
use super::error::ApiError;
use super::pipeline::{too_many, unavailable};
use route::Resolved;

pub use route::is_enrollment_path;

/// The service API of the provisioning service of a node. Clones share its limits.
#[derive(Clone)]
pub struct EnrollmentService(Arc<Shared>);

/// What all calls share.
struct Shared {
    service: Arc<Provisioning>,
    names: HubNames,
    config: RestConfig,
    requests: Semaphore,
    bodies: ByteBudget,
}

impl Shared {
    fn hub(&self) -> &Arc<DeviceHub> {
        self.service.hub()
    }

    fn registry(&self) -> &Registry {
        self.hub().registry()
    }

    fn now(&self) -> UnixMillis {
        self.hub().clock().now()
    }
}

/// One request of an authorized caller.
struct EnrollmentRequest<'a> {
    shared: &'a Shared,
    /// For the audit log.
    principal: &'a str,
    peer: &'a Peer,
    headers: &'a HeaderMap,
    body: body::Incoming,
}

impl EnrollmentService {
    /// The API of `service`.
    #[must_use]
    pub fn new(service: Arc<Provisioning>, config: RestConfig) -> Self {
        let own = service.hub().hub_names().iter().map(str::to_owned);
        let names = HubNames::new(own.chain([service.host().to_owned()]));
        Self(Arc::new(Shared {
            names,
            requests: Semaphore::new(config.max_requests),
            bodies: ByteBudget::new(config.max_body_bytes.as_usize()),
            service,
            config,
        }))
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request<Body>, peer: &Peer) -> Response<Body> {
        let (head, body) = request.into_parts();
        let id = format!("{:032x}", rand::random::<u128>());
        let reply = match checked(&self.0, &head, body, peer).await {
            Ok(reply) => reply,
            Err(error) => error_reply(&error, &id, self.0.now()),
        };
        tracing::debug!(request_id = id, method = %head.method, status = reply.status(), "call of the provisioning service API");
        reply.header("x-ms-request-id", &id).into_response()
    }
}

impl HttpService for EnrollmentService {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        let (service, peer) = (self.clone(), peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { service.answer(request, &peer).await })
    }
}

fn error_reply(error: &ApiError, id: &str, now: UnixMillis) -> Reply {
    let status = error.code.http_status();
    let reply = Reply::json(status, error_body(error.code, &error.text, id, now));
    let reply = reply.header("x-ms-error-code", &error.code.number().to_string());
    let reply = match error.allow {
        Some(methods) => reply.header("allow", methods),
        None => reply,
    };
    match status {
        429 | 503 => reply.header("retry-after", &error.retry_after.as_secs().max(1).to_string()),
        _ => reply,
    }
}

async fn checked(shared: &Shared, head: &Parts, body: Body, peer: &Peer) -> Result<Reply, ApiError> {
    let Ok(permit) = shared.requests.try_acquire() else {
        return Err(too_many());
    };
    let version = query_parameter(&head.uri, "api-version");
    check_version(version.as_deref()).map_err(|text| ApiError::new(ErrorCode::InvalidProtocolVersion, text))?;
    let segments = segments(&head.uri);
    let segments = segments.as_deref().unwrap_or_default();
    let principal = match authorized(shared, &head.headers, segments).await {
        Ok(principal) => principal,
        Err(denied) => {
            let (operation, protocol) = (Operation::Service, Protocol::Https);
            let code = denied.error.code;
            let refusal = Refusal {
                code,
                reason: denied.reason,
            };
            let (principal, hub) = (&denied.principal, shared.hub());
            hub.audit()
                .refused_identity(operation, principal, protocol, peer.address, refusal, shared.now());
            let credential = head.headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
            let credential = [credential.unwrap_or_default()];
            let penalty = hub.penalty(operation, principal, protocol, peer.address, &credential, denied.reason);
            if let Some(penalty) = penalty {
                // Another call may be worked on meanwhile.
                drop(permit);
                penalty.served().await;
            }
            return Err(denied.error);
        }
    };
    let call = match route::resolve(&head.method, segments) {
        Resolved::Call(call) => call,
        Resolved::Method(allowed) => {
            let text = format!("method {} is not allowed for this path", head.method);
            let mut error = ApiError::new(ErrorCode::GenericMethodNotAllowed, text);
            error.allow = Some(allowed);
            return Err(error);
        }
        Resolved::Nothing => return Err(ApiError::new(ErrorCode::GenericNotFound, "the path does not exist")),
    };
    let deadline = shared.config.body_timeout.get();
    let request = EnrollmentRequest {
        shared,
        principal: &principal,
        peer,
        headers: &head.headers,
        body: body::Incoming::new(&head.headers, body, shared.bodies.clone(), deadline),
    };
    let limit = shared.config.request_timeout.get() + deadline;
    match tokio::time::timeout(limit, calls::run(call, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unavailable()),
    }
}

/// A caller without valid credentials.
struct Denied {
    principal: String,
    reason: RefusalReason,
    error: ApiError,
}

/// The caller's name for the audit log. A refusal that a stale replica could cause is confirmed.
async fn authorized(shared: &Shared, headers: &HeaderMap, segments: &[String]) -> Result<String, Denied> {
    let denied = |principal: &str, refusal: SasRefusal| Denied {
        principal: principal.to_owned(),
        reason: refusal.reason(),
        error: ApiError::new(refusal.code(), refusal.to_string()),
    };
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Err(denied("nobody", SasRefusal::Missing));
    };
    let text = header.to_str().unwrap_or("?");
    let token = SasToken::parse(text).map_err(|refusal| denied("unreadable token", refusal))?;
    let name = token.policy().unwrap_or_default();
    let principal = format!("provisioning policy {}", name.chars().take(64).collect::<String>());
    let path: ResourcePath<'_> = segments.iter().map(String::as_str).collect();
    let mut is_confirmed = false;
    loop {
        let settings = shared.registry().provisioning();
        let policy: Option<Arc<Policy>> = settings.and_then(|settings| settings.policy(name).cloned());
        let checked = verify_policy(
            &token,
            &path,
            policy.as_deref(),
            Rights::NONE,
            &shared.names,
            shared.now(),
        );
        match checked {
            Ok(_) => return Ok(principal),
            Err(refusal) if is_confirmed || !refusal.reason().needs_confirmation() => {
                return Err(denied(&principal, refusal));
            }
            Err(_) => {}
        }
        if let Err(error) = shared.registry().read_barrier().await {
            return Err(Denied {
                principal,
                reason: RefusalReason::Unconfirmed,
                error: error.into(),
            });
        }
        is_confirmed = true;
    }
}
