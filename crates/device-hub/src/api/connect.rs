//! Opens a session: authenticates the client, attaches the session at the owner of its partition, closes an older one.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{CertificateChain, PartitionId, RefusalReason, SessionKey, TlsParameters, UnixMillis};
use holdfast_spans::{Attribute, Span, SpanName, TraceContext};
use holdfast_tasks::critical;
use tokio::time::Instant;

use super::audit::Operation;
use super::authenticate::{Verified, authenticate};
use super::connect_request::{ConnectRequest, Credential, Denied, Protocol, Refusal, StoredSession};
use super::core::Core;
use super::offered::Offered;
use super::session::{CloseReason, Session, SessionTarget};
use super::trace::TraceKind;
use crate::device_state::Subscriptions;
use crate::gateway::attach::{AttachError, ImmediateAttach};
use crate::owner::subscriptions::SubscriptionAction;
use crate::session_types::{SessionInfo, SessionNumber};
use crate::throttles::class::ThrottleClass;
use crate::throttles::node::Throttled;
use crate::throttles::reservation::Reservation;

/// How long a client waits for this node's registry lease, for an owner, and for the end of its older session, before
/// it is asked to retry later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a connect request: mostly immediate, sometimes after calls to other nodes.
pub enum ConnectAttempt {
    /// Decided.
    Done(Result<Session, Refusal>),
    /// Decided when this future is ready.
    Pending(Pin<Box<dyn Future<Output = Result<Session, Refusal>>>>),
}

/// Whether a connection has had its turn in the queue of new ones. Only those with a right credential are counted, so that
/// a client without one takes no turn of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is to get one.
    Wanted,
    /// It has come.
    Had,
}

/// A request that outlives the packet that carried it.
pub(super) struct OwnedConnectRequest {
    device: String,
    module: Option<String>,
    host: String,
    token: Option<String>,
    chain: Option<CertificateChain>,
    model_id: Option<String>,
    stored_session: StoredSession,
    protocol: Protocol,
    address: std::net::SocketAddr,
    tls: Option<TlsParameters>,
    trace: Option<TraceContext>,
}

impl OwnedConnectRequest {
    pub(super) fn new(request: &ConnectRequest<'_>) -> Self {
        Self {
            device: request.device.to_owned(),
            module: request.module.map(str::to_owned),
            host: request.host.to_owned(),
            token: request.credential.token().map(str::to_owned),
            chain: request.credential.chain().cloned(),
            model_id: request.model_id.map(str::to_owned),
            stored_session: request.stored_session,
            protocol: request.protocol,
            address: request.address,
            tls: request.tls.cloned(),
            trace: request.trace,
        }
    }

    pub(super) fn borrow(&self) -> ConnectRequest<'_> {
        ConnectRequest {
            device: &self.device,
            module: self.module.as_deref(),
            host: &self.host,
            credential: Credential::new(self.token.as_deref(), self.chain.as_ref()),
            model_id: self.model_id.as_deref(),
            stored_session: self.stored_session,
            protocol: self.protocol,
            address: self.address,
            tls: self.tls.as_ref(),
            handshake: None,
            trace: self.trace,
        }
    }
}

impl Core {
    /// Opens a session for `request`. The hub closes its connection through `target`.
    pub fn connect(self: &Rc<Self>, request: &ConnectRequest<'_>, target: &Rc<dyn SessionTarget>) -> ConnectAttempt {
        let mut span = self.hub.tracer().enter(SpanName::Connect, None);
        if !span.is_recorded() {
            return self.decide(request, target);
        }
        describe(&mut span, request);
        if let Some((began, ended)) = request.handshake {
            span.began_at(began);
            let mut handshake = span.child(SpanName::TlsHandshake);
            handshake.began_at(began);
            handshake.ended_at(ended);
        }
        let request = ConnectRequest {
            trace: span.context(),
            ..*request
        };
        match self.decide(&request, target) {
            ConnectAttempt::Done(result) => {
                ended(span, &result);
                ConnectAttempt::Done(result)
            }
            ConnectAttempt::Pending(pending) => ConnectAttempt::Pending(Box::pin(async move {
                let result = pending.await;
                ended(span, &result);
                result
            })),
        }
    }

    fn decide(self: &Rc<Self>, request: &ConnectRequest<'_>, target: &Rc<dyn SessionTarget>) -> ConnectAttempt {
        if self.hub.sessions.refuses_sessions() {
            // Before the credential is checked: another node will check it.
            return ConnectAttempt::Done(Err(self.refuse(request, Refusal::new(RefusalReason::Draining))));
        }
        let now = self.clock().now();
        let checking = self.hub.tracer().child(SpanName::Authenticate, request.trace);
        let verified = authenticate(&self.hub, request, now);
        checked(checking, &verified);
        match verified {
            // Without the lease the replica may be stale: nothing is accepted (docs/decisions/0022).
            Ok(_) if !self.hub.parts.registry.in_lease() => self.confirm_later(request, target, true),
            Ok(verified) => critical(|| self.enter(request, verified, target, now, Turn::Wanted)),
            Err(denied) if denied.needs_confirmation => self.confirm_later(request, target, false),
            Err(denied) => self.deny_later(request, denied),
        }
    }

    /// Refuses, at once or after a penalty.
    fn deny_later(&self, request: &ConnectRequest<'_>, denied: Denied) -> ConnectAttempt {
        let refusal = self.deny(request, denied);
        match self.hub.connect_penalty(request, refusal.reason) {
            None => ConnectAttempt::Done(Err(refusal)),
            Some(penalty) => ConnectAttempt::Pending(Box::pin(async move {
                penalty.served().await;
                Err(refusal)
            })),
        }
    }

    /// Decides when the replica can be trusted: accepts once its lease is back, refuses once the leader has confirmed it.
    fn confirm_later(
        self: &Rc<Self>,
        request: &ConnectRequest<'_>,
        target: &Rc<dyn SessionTarget>,
        needs_lease: bool,
    ) -> ConnectAttempt {
        let Some(permit) = self.hub.try_connect_permit() else {
            return ConnectAttempt::Done(Err(self.refuse(request, Refusal::new(RefusalReason::Unconfirmed))));
        };
        let (core, request, target) = (Rc::clone(self), OwnedConnectRequest::new(request), Rc::clone(target));
        ConnectAttempt::Pending(Box::pin(async move {
            let _permit = permit;
            core.confirm(&request.borrow(), &target, needs_lease, Turn::Wanted)
                .await
        }))
    }

    /// Decides again when the turn of the connection comes: its credential may have been revoked by then.
    fn enter_later(
        self: &Rc<Self>,
        request: &ConnectRequest<'_>,
        reservation: Reservation,
        target: &Rc<dyn SessionTarget>,
    ) -> ConnectAttempt {
        let Some(permit) = self.hub.try_connect_permit() else {
            return ConnectAttempt::Done(Err(self.refuse(request, Refusal::new(RefusalReason::Unconfirmed))));
        };
        let (core, request, target) = (Rc::clone(self), OwnedConnectRequest::new(request), Rc::clone(target));
        ConnectAttempt::Pending(Box::pin(async move {
            let _permit = permit;
            reservation.come().await;
            core.confirm(&request.borrow(), &target, true, Turn::Had).await
        }))
    }

    /// Decides when the replica can be trusted, and begins the session.
    async fn confirm(
        self: &Rc<Self>,
        request: &ConnectRequest<'_>,
        target: &Rc<dyn SessionTarget>,
        needs_lease: bool,
        turn: Turn,
    ) -> Result<Session, Refusal> {
        let attempt = match self.authenticate_confirmed(request, needs_lease).await {
            Ok(verified) => critical(|| self.enter(request, verified, target, self.clock().now(), turn)),
            Err(denied) => self.deny_later(request, denied),
        };
        match attempt {
            ConnectAttempt::Done(result) => result,
            ConnectAttempt::Pending(pending) => pending.await,
        }
    }

    /// The decision about one request, once the replica can be trusted.
    pub(super) async fn confirm_request(&self, request: &ConnectRequest<'_>) -> Result<Verified, Denied> {
        let Some(_permit) = self.hub.try_connect_permit() else {
            return Err(RefusalReason::Unconfirmed.into());
        };
        let needs_lease = !self.hub.parts.registry.in_lease();
        self.authenticate_confirmed(request, needs_lease).await
    }

    /// Accepts inside the lease, refuses once the leader has confirmed the replica.
    async fn authenticate_confirmed(
        &self,
        request: &ConnectRequest<'_>,
        needs_lease: bool,
    ) -> Result<Verified, Denied> {
        let unconfirmed = || Err(RefusalReason::Unconfirmed.into());
        let registry = &self.hub.parts.registry;
        if needs_lease {
            let mut lease = registry.lease_watch();
            if tokio::time::timeout(CONNECT_TIMEOUT, lease.held()).await.is_err() {
                return unconfirmed();
            }
        }
        // The lease alone does not make a refusal certain.
        let mut confirms = !needs_lease;
        loop {
            if confirms && let Err(error) = registry.read_barrier().await {
                tracing::debug!(%error, "a refusal was not confirmed by the registry's leader; the client is asked to retry later");
                return unconfirmed();
            }
            let checking = self.hub.tracer().child(SpanName::Authenticate, request.trace);
            let verified = authenticate(&self.hub, request, self.clock().now());
            checked(checking, &verified);
            return match verified {
                Ok(_) if !registry.in_lease() => unconfirmed(),
                // Checked again after the confirmation: an earlier read proves nothing.
                Err(denied) if !confirms && denied.needs_confirmation => {
                    confirms = true;
                    continue;
                }
                decided => decided,
            };
        }
    }

    pub(super) fn refuse(&self, request: &ConnectRequest<'_>, refusal: Refusal) -> Refusal {
        self.deny(request, refusal.into())
    }

    fn throttle(&self, request: &ConnectRequest<'_>, throttled: &Throttled) -> Refusal {
        let mut denied = Denied::with(RefusalReason::Throttled, throttled);
        denied.refusal.code = throttled.code;
        self.deny(request, denied)
    }

    /// Records a session that has begun.
    fn connected(&self, request: &ConnectRequest<'_>) {
        self.hub.audit.connected(request);
        self.trace_decision(request, &|| "connect accepted".to_owned());
    }

    fn trace_decision(&self, request: &ConnectRequest<'_>, outcome: &dyn Fn() -> String) {
        if !self.hub.is_tracing() {
            return;
        }
        let identity = match request.module {
            Some(module) => format!("{}/{module}", request.device),
            None => request.device.to_owned(),
        };
        let offered = Offered::of(request).kind.as_str();
        let (protocol, address) = (request.protocol, request.address);
        let text = || format!("{}; credential {offered}, {protocol} from {address}", outcome());
        self.hub.trace(&identity, TraceKind::Decided, &text, None);
    }

    pub(super) fn deny(&self, request: &ConnectRequest<'_>, denied: Denied) -> Refusal {
        let refusal = denied.refusal;
        self.trace_decision(request, &|| {
            let detail = denied.detail.as_deref().map(|detail| format!(": {detail}"));
            format!("connect refused: {}{}", refusal.reason, detail.unwrap_or_default())
        });
        self.hub
            .audit
            .refused(Operation::Connect, request, denied, self.clock().now());
        refusal
    }

    /// Begins the session, or the wait for it. A panic that left it half attached would leave a session without a
    /// connection.
    fn enter(
        self: &Rc<Self>,
        request: &ConnectRequest<'_>,
        verified: Verified,
        target: &Rc<dyn SessionTarget>,
        now: UnixMillis,
        turn: Turn,
    ) -> ConnectAttempt {
        let identity = verified.identity.id.clone();
        if let Some(refusal) = self.hub.injected_faults.refusal(&identity) {
            return ConnectAttempt::Done(Err(self.refuse(request, refusal)));
        }
        if turn == Turn::Wanted {
            match self.hub.admit(ThrottleClass::Connects, 1, request.protocol) {
                Ok(None) => {}
                Ok(Some(reservation)) => return self.enter_later(request, reservation, target),
                Err(throttled) => return ConnectAttempt::Done(Err(self.throttle(request, &throttled))),
            }
        }
        if verified.by_sha1 {
            self.hub.metrics.sha1_connects.increment(1);
        }
        let partition = self.hub.partition_of(&identity);
        let info = Arc::new(SessionInfo {
            identity,
            generation: verified.identity.generation.clone(),
            key: verified.key,
            certificate: verified.certificate.map(Box::new),
            policy: verified.policy,
            protocol: request.protocol,
            address: Some(request.address),
            since: now,
            expires: verified.expires,
        });
        let key = self.hub.sessions.next_key();
        self.targets.borrow_mut().insert(key, Rc::downgrade(target));
        let activity_due = self.hub.next_activity(now);
        let session = {
            let (info, auth) = (Arc::clone(&info), verified.auth);
            let model_id = request.model_id.filter(|id| !id.is_empty()).map(Arc::from);
            let expires = info.expires;
            move |(number, subscriptions)| Session {
                info,
                expires,
                auth,
                model_id,
                partition,
                key,
                number,
                subscriptions,
                activity_due: Cell::new(activity_due),
            }
        };
        let mut attaching = self.hub.tracer().child(SpanName::AttachSession, request.trace);
        attaching.set(Attribute::Partition, || partition.0.to_string());
        let mut attached = None;
        if let ImmediateAttach::Ready(number, older) = self.hub.attach_now(partition, &info, key, self.index()) {
            holdfast_tasks::panic_point("attach", request.model_id.unwrap_or_default().as_bytes());
            // Messages of the older connections are in this core's pipeline before any of the new one.
            for older in older {
                self.close_target(older, CloseReason::TakenOver);
            }
            self.catch_up(key);
            if let Some(subscriptions) = self.stored_session_now(partition, &info, request.stored_session) {
                self.connected(request);
                return ConnectAttempt::Done(Ok(session((number, subscriptions))));
            }
            attached = Some(number);
        }
        let attaching = Attaching {
            core: Rc::clone(self),
            partition,
            info,
            key,
            is_done: false,
            span: attaching,
        };
        let Some(permit) = self.hub.try_connect_permit() else {
            return ConnectAttempt::Done(Err(self.refuse(request, Refusal::new(RefusalReason::Unconfirmed))));
        };
        let request = OwnedConnectRequest::new(request);
        ConnectAttempt::Pending(Box::pin(async move {
            let _permit = permit;
            let core = Rc::clone(&attaching.core);
            match attaching.run(attached, request.stored_session).await {
                Ok(begun) => {
                    core.connected(&request.borrow());
                    Ok(session(begun))
                }
                Err(error) => {
                    tracing::debug!(device = request.device, %error, "a session could not be attached; the client is asked to retry later");
                    // Whatever the cause: the next attempt reports it.
                    Err(core.refuse(&request.borrow(), Refusal::new(RefusalReason::Unconfirmed)))
                }
            }
        }))
    }

    /// The stored subscriptions of a session that has begun, if nothing has to be waited for.
    fn stored_session_now(
        &self,
        partition: PartitionId,
        info: &SessionInfo,
        wanted: StoredSession,
    ) -> Option<Option<Subscriptions>> {
        if wanted == StoredSession::Unused {
            return Some(None);
        }
        let stored = self.hub.subscriptions_in_memory(partition, info)?;
        (wanted == StoredSession::Resume || stored.is_none()).then_some(stored)
    }
}

/// A session that is being attached. When it is dropped before that, because its connection has gone, it leaves nothing
/// behind.
struct Attaching {
    core: Rc<Core>,
    partition: PartitionId,
    info: Arc<SessionInfo>,
    key: SessionKey,
    is_done: bool,
    span: Span,
}

impl Attaching {
    /// Attaches the session unless it is `attached`, and reads or removes what its identity has stored.
    async fn run(
        mut self,
        attached: Option<SessionNumber>,
        wanted: StoredSession,
    ) -> Result<(SessionNumber, Option<Subscriptions>), AttachError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let (core, hub) = (Rc::clone(&self.core), Arc::clone(&self.core.hub));
        let (partition, info, key) = (self.partition, Arc::clone(&self.info), self.key);
        let trace = self.span.context();
        let begin = async {
            let number = match attached {
                Some(number) => number,
                None => {
                    let number = hub.attach(partition, &info, key, core.index(), trace).await?;
                    core.catch_up(key);
                    number
                }
            };
            let action = match wanted {
                StoredSession::Unused => return Ok((number, None)),
                StoredSession::Resume => SubscriptionAction::Load,
                StoredSession::Discard => SubscriptionAction::Discard,
            };
            let stored = hub.request_subscriptions(partition, &info, key, action).await?;
            Ok((number, stored))
        };
        let begun = tokio::time::timeout_at(deadline, begin).await;
        let begun = begun.unwrap_or(Err(AttachError::TimedOut));
        self.is_done = begun.is_ok();
        if let Err(error) = &begun {
            self.span.fail("attach", || error.to_string());
        }
        begun
    }
}

/// The attributes of a client whose request is not checked yet.
fn describe(span: &mut Span, request: &ConnectRequest<'_>) {
    span.set(Attribute::Identity, || match request.module {
        Some(module) => format!("{}/{module}", request.device),
        None => request.device.to_owned(),
    });
    span.set(Attribute::Protocol, || request.protocol.as_str());
    span.set(Attribute::ClientAddress, || request.address.ip().to_string());
    span.set(Attribute::ClientPort, || usize::from(request.address.port()));
    span.set(Attribute::Credential, || Offered::of(request).kind.as_str());
    if let Some(tls) = request.tls {
        span.set(Attribute::TlsVersion, || tls.version.to_string());
    }
}

fn checked(mut span: Span, verified: &Result<Verified, Denied>) {
    if let Err(denied) = verified {
        let refusal = denied.refusal;
        span.fail(refusal.reason.as_str(), || {
            denied.detail.as_deref().unwrap_or(refusal.reason.as_str()).to_owned()
        });
    }
}

fn ended(mut span: Span, result: &Result<Session, Refusal>) {
    match result {
        Ok(session) => span.set(Attribute::Partition, || session.partition.0.to_string()),
        Err(refusal) => span.fail(refusal.reason.as_str(), || refusal.reason.to_string()),
    }
}

impl Drop for Attaching {
    fn drop(&mut self) {
        if !self.is_done {
            self.core.targets.borrow_mut().remove(&self.key);
            self.core.hub.abandon(self.partition, &self.info, self.key);
        }
    }
}
