//! The shared state of all calls: the hub, the cluster's control, limits and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use holdfast_cluster::control::Control;
use holdfast_device_hub::{DeviceHub, Operation, Penalty, Protocol, Refusal};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use holdfast_oidc::Issuer;
use holdfast_registry::Registry;
use holdfast_tasks::ByteBudget;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Semaphore;

use super::config::RestConfig;
use super::metrics::Metrics;

/// The shared state of one node's service API.
pub(super) struct Shared {
    pub(super) hub: Arc<DeviceHub>,
    pub(super) control: Control,
    pub(super) issuer: Option<Issuer>,
    pub(super) config: RestConfig,
    pub(super) requests: Semaphore,
    pub(super) bodies: ByteBudget,
    pub(super) metrics: Metrics,
}

/// The caller of a request, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The policy that signed the token (`policy iothubowner`), the principal of a bearer token (`bearer alice`), or a placeholder for
    /// a caller without either.
    pub(super) principal: String,
    /// Whether it may have the keys of policies.
    pub(super) sees_policy_keys: bool,
    /// The peer's address.
    pub(super) address: SocketAddr,
}

impl Shared {
    pub(super) fn new(hub: Arc<DeviceHub>, control: Control, issuer: Option<Issuer>, config: RestConfig) -> Self {
        Self {
            hub,
            control,
            issuer,
            requests: Semaphore::new(config.max_requests),
            bodies: ByteBudget::new(config.max_body_bytes.as_usize()),
            metrics: Metrics::new(),
            config,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        self.hub.registry()
    }

    pub(super) fn now(&self) -> UnixMillis {
        self.hub.clock().now()
    }

    /// Writes a refused caller to the audit log.
    pub(super) fn refused(&self, caller: &Caller, reason: RefusalReason, code: ErrorCode) {
        self.hub.audit().refused_identity(
            Operation::Service,
            &caller.principal,
            Protocol::Https,
            caller.address,
            Refusal { code, reason },
            self.now(),
        );
    }

    /// The penalty before a wrong credential is answered.
    pub(super) fn penalty(&self, caller: &Caller, headers: &HeaderMap, reason: RefusalReason) -> Option<Penalty> {
        let credential = headers.get(AUTHORIZATION)?.as_bytes();
        let (operation, protocol) = (Operation::Service, Protocol::Https);
        self.hub.penalty(
            operation,
            &caller.principal,
            protocol,
            caller.address,
            &[credential],
            reason,
        )
    }

    /// Writes a change to the audit log; `code` is the error of a change that was refused.
    pub(super) fn changed(&self, caller: &Caller, operation: &'static str, subject: &str, code: Option<ErrorCode>) {
        self.hub
            .audit()
            .changed(operation, subject, &caller.principal, caller.address, code);
    }
}
