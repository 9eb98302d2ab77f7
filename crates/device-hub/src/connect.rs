//! Opening a session: authenticate, take over, enter.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{RefusalReason, UnixMillis};
use tokio::sync::oneshot;

use crate::authenticate::{Verified, authenticate};
use crate::core::Core;
use crate::session::{CloseReason, Session, SessionTarget};
use crate::sessions::Entry;
use crate::{Claim, Operation, Protocol, Refusal};

/// How long a new session waits for what the older one on another core has sent to be decided.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a claim: mostly at once, sometimes after asking the registry's leader or the older session's core.
pub enum Attempt {
    /// Decided.
    Done(Result<Session, Refusal>),
    /// Poll this.
    Later(Pin<Box<dyn Future<Output = Result<Session, Refusal>>>>),
}

/// A claim that outlives the packet it came in.
struct OwnedClaim {
    device: String,
    module: Option<String>,
    host: String,
    token: Option<String>,
    model_id: Option<String>,
    protocol: Protocol,
    address: std::net::SocketAddr,
}

impl OwnedClaim {
    fn new(claim: &Claim<'_>) -> Self {
        Self {
            device: claim.device.to_owned(),
            module: claim.module.map(str::to_owned),
            host: claim.host.to_owned(),
            token: claim.token.map(str::to_owned),
            model_id: claim.model_id.map(str::to_owned),
            protocol: claim.protocol,
            address: claim.address,
        }
    }

    fn borrow(&self) -> Claim<'_> {
        Claim {
            device: &self.device,
            module: self.module.as_deref(),
            host: &self.host,
            token: self.token.as_deref(),
            model_id: self.model_id.as_deref(),
            protocol: self.protocol,
            address: self.address,
        }
    }
}

impl Core {
    /// Opens a session for `claim`, whose connection `target` then gets closed by the hub when its time has come.
    pub fn connect(self: &Rc<Self>, claim: &Claim<'_>, target: &Rc<dyn SessionTarget>) -> Attempt {
        let now = self.clock().now();
        match authenticate(&self.hub.parts, claim, now) {
            Ok(verified) => self.enter(claim, verified, target, now),
            Err(refusal) if refusal.reason.needs_confirmation() => {
                let (core, claim, target) = (Rc::clone(self), OwnedClaim::new(claim), Rc::clone(target));
                Attempt::Later(Box::pin(async move { core.confirm(&claim.borrow(), &target).await }))
            }
            Err(refusal) => Attempt::Done(Err(self.refuse(claim, refusal))),
        }
    }

    /// Asks the leader before a refusal that a stale replica could have caused (foundations 18).
    async fn confirm(self: &Rc<Self>, claim: &Claim<'_>, target: &Rc<dyn SessionTarget>) -> Result<Session, Refusal> {
        if let Err(error) = self.hub.parts.registry.confirm().await {
            tracing::debug!(%error, "a refusal could not be confirmed");
            return Err(self.refuse(claim, Refusal::new(RefusalReason::Unconfirmed)));
        }
        let now = self.clock().now();
        match authenticate(&self.hub.parts, claim, now) {
            Ok(verified) => match self.enter(claim, verified, target, now) {
                Attempt::Done(result) => result,
                Attempt::Later(later) => later.await,
            },
            Err(refusal) => Err(self.refuse(claim, refusal)),
        }
    }

    fn refuse(&self, claim: &Claim<'_>, refusal: Refusal) -> Refusal {
        self.hub
            .audit
            .refused(Operation::Connect, claim, refusal, self.clock().now());
        refusal
    }

    fn enter(
        self: &Rc<Self>,
        claim: &Claim<'_>,
        verified: Verified,
        target: &Rc<dyn SessionTarget>,
        now: UnixMillis,
    ) -> Attempt {
        let identity = verified.identity.id.clone();
        let partition = self.hub.parts.partitions.count().partition_of(&identity.device);
        let session = Session {
            generation: verified.identity.generation.clone(),
            auth: verified.auth,
            model_id: claim.model_id.filter(|id| !id.is_empty()).map(Arc::from),
            partition,
            number: self.hub.sessions.next_number(),
            expires: verified.expires,
            identity,
        };
        self.targets.borrow_mut().insert(session.number, Rc::downgrade(target));
        let entry = Entry {
            number: session.number,
            core: self.index(),
            generation: session.generation.clone(),
            key: verified.key,
            policy: verified.policy,
            protocol: claim.protocol,
            since: now,
            expires: verified.expires,
        };
        self.hub.audit.connected(claim);
        let Some(old) = self.hub.sessions.attach(partition, &session.identity, entry) else {
            return Attempt::Done(Ok(session));
        };
        self.hub.metrics.taken_over.increment(1);
        if old.core == self.index() {
            // What the older connection has sent waits in this core's lane, before anything that the new one sends.
            let target = self.targets.borrow_mut().remove(&old.number);
            if let Some(target) = target {
                crate::session::close(&target, CloseReason::TakenOver);
            }
            return Attempt::Done(Ok(session));
        }
        let (drained, has_drained) = oneshot::channel();
        self.hub
            .close_session(&old, partition, CloseReason::TakenOver, Some(drained));
        Attempt::Later(Box::pin(async move {
            // The sender is dropped when all is decided; a core that is stuck must not keep the device out.
            if tokio::time::timeout(TAKEOVER_PATIENCE, has_drained).await.is_err() {
                tracing::warn!(identity = %session.identity, "took over a session whose core does not answer");
            }
            Ok(session)
        }))
    }
}
