//! Renewal of a certificate over the session: `$iothub/credentials/…` (Spec provisioning §11.5).
//!
//! Invariants: one request of a connection is carried out at a time; each request is answered with 202 first, and then with the chain or
//! an error, or with an error alone; nothing is answered to a client that has not subscribed to replies.
//! Not here: what may be issued (`provisioning`), topics (`mqtt`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::{ErrorCode, UnixMillis, json};
use holdfast_mqtt::{Channel, HubTopic};
use holdfast_provisioning::{ProvisioningError, Renewal, error_body, timestamp};
use serde_json::{Value, json};

use super::connection::{Connection, State};

/// How long a client may wait for the outcome; released clients give a request as much.
const OPERATION_TIME: Duration = Duration::from_secs(120);

/// `replace` for whatever is in progress.
const ANY: &str = "*";

/// Largest body of a request: that of a registration.
const MAX_BODY_BYTES: usize = holdfast_provisioning::MAX_BODY_BYTES;

/// A request that is carried out.
pub(super) struct Issuing {
    rid: Box<str>,
    correlation_id: String,
    expires: UnixMillis,
    work: Pin<Box<dyn Future<Output = Result<Renewal, ProvisioningError>>>>,
}

/// What a client has sent.
struct Request {
    csr: String,
    replace: Option<String>,
}

impl Request {
    fn parse(payload: &[u8], device: &str) -> Result<Self, String> {
        if payload.len() > MAX_BODY_BYTES {
            return Err(format!("the request is larger than {MAX_BODY_BYTES} bytes"));
        }
        let text = std::str::from_utf8(payload).map_err(|_| "the request is not UTF-8 text".to_owned())?;
        let value = json::parse(text).map_err(|error| format!("the request is not valid JSON: {error}"))?;
        let member = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{name} must be a string")),
        };
        if member("id")?.is_some_and(|id| id != device) {
            return Err("id is not the device of this connection".to_owned());
        }
        Ok(Self {
            csr: member("csr")?.ok_or_else(|| "csr is missing".to_owned())?,
            replace: member("replace")?,
        })
    }
}

impl Connection {
    /// The client wants a certificate.
    pub(super) fn certificate_requested(&self, state: &mut State, rid: &str, payload: &[u8]) {
        let Some(identity) = state.session.as_ref().map(|session| session.identity().clone()) else {
            return;
        };
        let refuse = |text: &str| ProvisioningError::new(ErrorCode::CertificateRequestFailed, text);
        let Some(service) = self.front.provisioning.as_ref().map(Arc::clone) else {
            return self.certificate_refused(state, rid, None, &refuse("the hub issues no certificates"));
        };
        if identity.module.is_some() {
            return self.certificate_refused(state, rid, None, &refuse("modules get no certificates"));
        }
        let request = match Request::parse(payload, identity.device.as_str()) {
            Ok(request) => request,
            Err(text) => return self.certificate_refused(state, rid, None, &refuse(&text)),
        };
        let active = state.issuing.as_ref().map(|active| active.rid.clone());
        match (active.as_deref(), request.replace.as_deref()) {
            // The same one again, after a reply was lost.
            (Some(active), _) if active == rid => return self.accepted(state),
            (Some(active), Some(replaced)) if replaced == ANY || replaced == active => {}
            (Some(active), _) => {
                let text = "another request for a certificate is in progress";
                let error = ProvisioningError::new(ErrorCode::CertificateRequestActive, text);
                return self.certificate_refused(state, rid, Some(active), &error);
            }
            (None, Some(replaced)) if replaced != ANY => {
                let text = "no request with the id of replace is in progress";
                let error = ProvisioningError::new(ErrorCode::PreconditionFailed, text);
                return self.certificate_refused(state, rid, None, &error);
            }
            (None, _) => {}
        }
        let now = self.front.core.clock().now();
        let time = u64::try_from(OPERATION_TIME.as_millis()).unwrap_or(u64::MAX);
        state.issuing = Some(Box::new(Issuing {
            rid: rid.into(),
            correlation_id: format!("{:032x}", rand::random::<u128>()),
            expires: UnixMillis(now.0.saturating_add(time)),
            work: Box::pin(async move { service.renew(&identity.device, &request.csr).await }),
        }));
        self.accepted(state);
        self.transport.wake();
    }

    fn accepted(&self, state: &mut State) {
        let Some(active) = &state.issuing else { return };
        let body = json!({
            "correlationId": active.correlation_id,
            "operationExpires": timestamp(active.expires),
        });
        let rid = active.rid.clone();
        self.certificate_reply(state, 202, &rid, &body);
    }

    /// Sends the outcome of the request in progress; `cx` is woken when it is there.
    pub(super) fn poll_issuing(&self, state: &mut State, cx: &mut Context<'_>) {
        let Some(active) = &mut state.issuing else { return };
        let Poll::Ready(outcome) = active.work.as_mut().poll(cx) else {
            return;
        };
        let Some(active) = state.issuing.take() else { return };
        match outcome {
            Ok(Renewal { chain }) => {
                let certificates: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
                let body = json!({"correlationId": active.correlation_id, "certificates": certificates});
                self.certificate_reply(state, 200, &active.rid, &body);
            }
            Err(error) => {
                let number = match error.code {
                    ErrorCode::ArgumentInvalid | ErrorCode::InvalidOperation => ErrorCode::CertificateRequestFailed,
                    ErrorCode::ThrottlingException => ErrorCode::ThrottleBacklogLimitExceeded,
                    other => other,
                };
                let error = ProvisioningError::new(number, error.text);
                self.certificate_failed(state, &active.rid, Some(&active), None, &error);
            }
        }
    }

    fn certificate_refused(&self, state: &mut State, rid: &str, other: Option<&str>, error: &ProvisioningError) {
        self.certificate_failed(state, rid, None, other, error);
    }

    fn certificate_failed(
        &self,
        state: &mut State,
        rid: &str,
        active: Option<&Issuing>,
        other: Option<&str>,
        error: &ProvisioningError,
    ) {
        let tracking_id = format!("{:032x}", rand::random::<u128>());
        let mut body = error_body(error.code, &error.text, &tracking_id, self.front.core.clock().now());
        let mut info = json!({"requestId": other.unwrap_or(rid)});
        if error.code == ErrorCode::CertificateRequestFailed {
            info["credentialError"] = json!("FailedToDecodeCsr");
            info["credentialMessage"] = json!(error.text);
        }
        if let Some(active) = active {
            info["correlationId"] = json!(active.correlation_id);
            info["operationExpires"] = json!(timestamp(active.expires));
        }
        body["info"] = info;
        if let Some(after) = error.retry_after {
            body["retryAfter"] = json!(after.as_secs());
        }
        self.certificate_reply(state, error.status(), rid, &body);
    }

    fn certificate_reply(&self, state: &mut State, status: u16, rid: &str, body: &Value) {
        let Some(session) = &state.session else { return };
        if !state.machine.subscriptions().is_open(Channel::Credentials) {
            return;
        }
        let mut topic = String::new();
        HubTopic::CredentialsResponse { status, rid }.write(session.identity(), &mut topic);
        self.publish(state, &topic, body.to_string().as_bytes());
    }
}
