//! The provisioning service's calls of devices over HTTPS (Spec provisioning §3).
//!
//! Invariants: the second segment tells its paths apart from those of the hub; a registration is answered with 202, final or not, as
//! clients expect, and an operation with 202 until it is final; requests and bodies are bounded.
//! Not here: who the device is and where it belongs (`provisioning`), HTTP itself (`net`).

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_device_hub::{Credential, Protocol};
use holdfast_model::ErrorCode;
use holdfast_net::http_api::{BodyError, Reply, RequestBody, query, segments};
use holdfast_net::{Body, HttpService, Peer};
use holdfast_provisioning::{
    Answer, DeviceCall, MAX_BODY_BYTES, Provisioning, ProvisioningError, RegisterBody, check_version, error_body,
};
use holdfast_tasks::ByteBudget;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

use crate::HttpsConfig;

/// The second segment of every path.
const REGISTRATIONS: &str = "registrations";

/// First segments of the service API, whose own second segment may be anything.
const SERVICE_PATHS: [&str; 4] = ["enrollments", "enrollmentgroups", "linkedhubs", REGISTRATIONS];

/// What released clients wait before they ask for the state of an operation, in seconds.
const POLL_SECONDS: &str = "3";

/// The name that the token of a TPM has in `skn`.
const TPM_KEY_NAME: &str = "registration";

/// A token that no parser accepts, for a header that is not text.
const UNREADABLE_TOKEN: &str = "?";

/// One core's front end.
pub struct RegistrationFront {
    service: Arc<Provisioning>,
    config: HttpsConfig,
    bodies: ByteBudget,
}

/// Whether a request with this path, still escaped, is one of a device that registers.
#[must_use]
pub fn is_registration_path(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let (scope, word) = (segments.next().unwrap_or_default(), segments.next());
    !scope.is_empty()
        && SERVICE_PATHS.iter().all(|service| !service.eq_ignore_ascii_case(scope))
        && word.is_some_and(|word| word.eq_ignore_ascii_case(REGISTRATIONS))
}

impl RegistrationFront {
    /// The front end of a core.
    #[must_use]
    pub fn new(service: Arc<Provisioning>, config: HttpsConfig) -> Rc<Self> {
        Rc::new(Self {
            service,
            bodies: ByteBudget::new(config.max_body_bytes.as_usize()),
            config,
        })
    }

    /// Its handler on the HTTPS port, for the paths of [`is_registration_path`].
    #[must_use]
    pub fn handler(self: &Rc<Self>) -> Rc<dyn HttpService> {
        Rc::new(OnHttpsPort(Rc::clone(self)))
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request<Body>, peer: &Peer) -> Response<Body> {
        let (head, body) = request.into_parts();
        let id = format!("{:032x}", rand::random::<u128>());
        let reply = match self.answered(&head, body, peer).await {
            Ok(reply) => reply,
            Err(mut error) => {
                error.served().await;
                self.error(&error, &id)
            }
        };
        tracing::debug!(
            request_id = id,
            status = reply.status(),
            "request of a device that registers"
        );
        reply.header("x-ms-request-id", &id).into_response()
    }

    async fn answered(&self, head: &Parts, body: Body, peer: &Peer) -> Result<Reply, ProvisioningError> {
        let version = query(&head.uri, "api-version");
        check_version(version.as_deref())
            .map_err(|text| ProvisioningError::new(ErrorCode::InvalidProtocolVersion, text))?;
        let nothing = || ProvisioningError::new(ErrorCode::GenericNotFound, "the path does not exist");
        let segments = segments(&head.uri).ok_or_else(nothing)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let [scope, _, id, rest @ ..] = segments.as_slice() else {
            return Err(nothing());
        };
        let action = Action::of(&head.method, rest).ok_or_else(nothing)??;
        let authorization = head.headers.get(AUTHORIZATION);
        let token = authorization.map(|value| value.to_str().unwrap_or(UNREADABLE_TOKEN));
        let call = DeviceCall {
            id_scope: scope,
            registration_id: id,
            credential: Credential::new(token, peer.certificates.as_ref()),
            protocol: Protocol::Https,
            address: peer.address,
        };
        match action {
            Action::Register => {
                let body = self.body(head, body, id).await?.at_version(version.as_deref());
                // Whatever certificate its TLS may show.
                if let (None, Some(keys)) = (token, &body.tpm) {
                    return Ok(challenge(&self.service.challenge(&call, keys).await?));
                }
                let answer = self.service.register(&call, &body).await?;
                Ok(registered(&head.headers, &segments, &answer))
            }
            Action::LookUp => {
                let body = self.body(head, body, id).await?;
                let answer = self.service.look_up(&call, &body).await?;
                Ok(Reply::ok(answer.body))
            }
            Action::Operation(operation_id) => {
                let answer = self.service.operation(&call, operation_id).await?;
                Ok(match answer.retry_after {
                    Some(after) => Reply::json(202, &answer.body).header("retry-after", &after.as_secs().to_string()),
                    None => Reply::ok(answer.body),
                })
            }
        }
    }

    async fn body(&self, head: &Parts, body: Body, id: &str) -> Result<RegisterBody, ProvisioningError> {
        if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
            let essence = content_type
                .to_str()
                .unwrap_or_default()
                .split(';')
                .next()
                .unwrap_or_default();
            if !essence.trim().eq_ignore_ascii_case("application/json") {
                let text = "the content type must be application/json";
                return Err(ProvisioningError::new(ErrorCode::GenericUnsupportedMediaType, text));
            }
        }
        let deadline = self.config.body_timeout.get();
        let mut body = RequestBody::new(&head.headers, body, self.bodies.clone(), deadline);
        let refused = |error: BodyError| ProvisioningError::new(error.code, error.text);
        let (bytes, _held) = body.read(MAX_BODY_BYTES).await.map_err(refused)?;
        RegisterBody::parse(&bytes, id)
    }

    fn error(&self, error: &ProvisioningError, id: &str) -> Reply {
        let now = self.service.hub().clock().now();
        let number = error.code.number().to_string();
        let reply = Reply::json(error.status(), error_body(error.code, &error.text, id, now));
        let reply = reply.header("x-ms-error-code", &number);
        match error.retry_after {
            Some(after) => reply.header("retry-after", &after.as_secs().to_string()),
            None => reply,
        }
    }
}

/// The reply to a registration: 202 also when it is final, since the C# client takes nothing else.
fn registered(headers: &HeaderMap, segments: &[&str], answer: &Answer) -> Reply {
    let after = answer.retry_after.map(|after| after.as_secs().to_string());
    let reply = Reply::json(202, &answer.body).header("retry-after", after.as_deref().unwrap_or(POLL_SECONDS));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match host {
        Some(host) => reply.header("location", &format!("https://{host}/{}", segments.join("/"))),
        None => reply,
    }
}

/// The challenge of a TPM: clients read it from a 401 (Spec provisioning §7.1).
fn challenge(activation_blob: &[u8]) -> Reply {
    let body = json!({
        "message": "sign the next request with the key in the TPM",
        "authenticationKey": STANDARD.encode(activation_blob),
        "keyName": TPM_KEY_NAME,
    });
    Reply::json(401, body)
}

/// What a method and a path below the registration ask for.
enum Action<'a> {
    Register,
    LookUp,
    Operation(&'a str),
}

impl<'a> Action<'a> {
    /// `None`: the path does not exist.
    fn of(method: &Method, rest: &[&'a str]) -> Option<Result<Self, ProvisioningError>> {
        let (action, allowed) = match rest {
            [] => (Self::LookUp, Method::POST),
            [word] if word.eq_ignore_ascii_case("register") => (Self::Register, Method::PUT),
            [word, operation] if word.eq_ignore_ascii_case("operations") => (Self::Operation(operation), Method::GET),
            _ => return None,
        };
        if *method == allowed {
            return Some(Ok(action));
        }
        let text = format!("method {method} is not allowed for this path; {allowed} is");
        Some(Err(ProvisioningError::new(ErrorCode::GenericMethodNotAllowed, text)))
    }
}

struct OnHttpsPort(Rc<RegistrationFront>);

impl HttpService for OnHttpsPort {
    fn call(&self, request: Request<Incoming>, peer: &Peer) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        let (front, peer) = (Rc::clone(&self.0), peer.clone());
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { front.answer(request, &peer).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_devices_that_register_and_of_the_service_api_are_separate() {
        for path in [
            "/0ne00000001/registrations/dev-1/register",
            "/0ne1/Registrations/dev-1",
            "/x/registrations",
            "/devices/registrations/x",
        ] {
            assert!(is_registration_path(path), "{path}");
        }
        for path in [
            "/",
            "/registrations/dev-1",
            "/registrations/registrations/query",
            "/enrollments/registrations",
            "/enrollmentGroups/registrations/attestationmechanism",
            "//registrations/x",
            "/0ne1/registrationsX/dev-1",
        ] {
            assert!(!is_registration_path(path), "{path}");
        }
    }
}
