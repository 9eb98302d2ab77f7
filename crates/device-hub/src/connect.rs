//! Opening a session: authenticate, attach at the owner of its partition, take over.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{PartitionId, RefusalReason, UnixMillis};
use tokio::time::Instant;

use crate::attach::{NotAttached, Now};
use crate::authenticate::{Verified, authenticate};
use crate::core::Core;
use crate::session::{Session, SessionTarget};
use crate::sessions::{Facts, SessionNumber};
use crate::{Claim, Operation, Protocol, Refusal};

/// How long a client waits for this node's registry lease, for an owner, and for the end of its older session, before
/// it is told to come again.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a claim: mostly at once, sometimes after asking others.
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
        if self.hub.local.turns_away() {
            // Before anything is looked at: another node will look.
            return Attempt::Done(Err(self.refuse(claim, Refusal::new(RefusalReason::Draining))));
        }
        let now = self.clock().now();
        match authenticate(&self.hub.parts, claim, now) {
            // Without the lease the replica may be old: nobody is let in (foundations 16).
            Ok(_) if !self.hub.parts.registry.in_lease() => self.later(claim, target, true),
            Ok(verified) => self.enter(claim, verified, target, now),
            Err(refusal) if refusal.reason.needs_confirmation() => self.later(claim, target, false),
            Err(refusal) => Attempt::Done(Err(self.refuse(claim, refusal))),
        }
    }

    /// Goes on when the replica can be trusted: with accepting after its lease is back, with refusing after the leader
    /// has confirmed it (foundations 18).
    fn later(self: &Rc<Self>, claim: &Claim<'_>, target: &Rc<dyn SessionTarget>, wants_lease: bool) -> Attempt {
        let Some(waiting) = self.hub.wait_in_line() else {
            return Attempt::Done(Err(self.refuse(claim, Refusal::new(RefusalReason::Unconfirmed))));
        };
        let (core, claim, target) = (Rc::clone(self), OwnedClaim::new(claim), Rc::clone(target));
        Attempt::Later(Box::pin(async move {
            let _waiting = waiting;
            core.confirm(&claim.borrow(), &target, wants_lease).await
        }))
    }

    async fn confirm(
        self: &Rc<Self>,
        claim: &Claim<'_>,
        target: &Rc<dyn SessionTarget>,
        wants_lease: bool,
    ) -> Result<Session, Refusal> {
        let unconfirmed = || self.refuse(claim, Refusal::new(RefusalReason::Unconfirmed));
        let registry = &self.hub.parts.registry;
        if wants_lease {
            let mut lease = registry.lease_watch();
            if tokio::time::timeout(CONNECT_PATIENCE, lease.held()).await.is_err() {
                return Err(unconfirmed());
            }
        }
        // The lease alone does not make a refusal certain.
        let mut confirms = !wants_lease;
        loop {
            if confirms && let Err(error) = registry.confirm().await {
                tracing::debug!(%error, "a refusal could not be confirmed");
                return Err(unconfirmed());
            }
            let now = self.clock().now();
            return match authenticate(&self.hub.parts, claim, now) {
                Ok(_) if !registry.in_lease() => Err(unconfirmed()),
                Ok(verified) => match self.enter(claim, verified, target, now) {
                    Attempt::Done(result) => result,
                    Attempt::Later(later) => later.await,
                },
                // Looked at again afterwards: what was read before the leader's word says nothing.
                Err(refusal) if !confirms && refusal.reason.needs_confirmation() => {
                    confirms = true;
                    continue;
                }
                Err(refusal) => Err(self.refuse(claim, refusal)),
            };
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
        let partition = self.hub.partition_of(&identity);
        let facts = Arc::new(Facts {
            identity,
            generation: verified.identity.generation.clone(),
            key: verified.key,
            policy: verified.policy,
            protocol: claim.protocol,
            since: now,
            expires: verified.expires,
        });
        let key = self.hub.local.next_key();
        self.targets.borrow_mut().insert(key, Rc::downgrade(target));
        let session = {
            let (facts, auth) = (Arc::clone(&facts), verified.auth);
            let model_id = claim.model_id.filter(|id| !id.is_empty()).map(Arc::from);
            move |number| Session {
                facts,
                auth,
                model_id,
                partition,
                key,
                number,
            }
        };
        match self.hub.attach_now(partition, &facts, key, self.index()) {
            Now::Ready(number, older) => {
                // What the older connections have sent waits in this core's lane, before anything that the new one sends.
                for older in older {
                    let target = self.targets.borrow_mut().remove(&older);
                    if let Some(target) = target {
                        crate::session::close(&target, crate::CloseReason::TakenOver);
                    }
                }
                self.catch_up(key);
                self.hub.audit.connected(claim);
                Attempt::Done(Ok(session(number)))
            }
            Now::Later => {
                let Some(waiting) = self.hub.wait_in_line() else {
                    self.targets.borrow_mut().remove(&key);
                    self.hub.abandon(partition, &facts, key);
                    return Attempt::Done(Err(self.refuse(claim, Refusal::new(RefusalReason::Unconfirmed))));
                };
                let entering = Entering {
                    core: Rc::clone(self),
                    partition,
                    facts,
                    key,
                    is_over: false,
                };
                let claim = OwnedClaim::new(claim);
                Attempt::Later(Box::pin(async move {
                    let _waiting = waiting;
                    let core = Rc::clone(&entering.core);
                    match entering.attach().await {
                        Ok(number) => {
                            core.catch_up(key);
                            core.hub.audit.connected(&claim.borrow());
                            Ok(session(number))
                        }
                        Err(error) => {
                            tracing::debug!(device = claim.device, ?error, "a session could not be attached");
                            // Whatever it was, the client may come again, and is told the cause then.
                            Err(core.refuse(&claim.borrow(), Refusal::new(RefusalReason::Unconfirmed)))
                        }
                    }
                }))
            }
        }
    }
}

/// A session that is being attached. Dropped before it is, because its connection has gone, it leaves nothing behind.
struct Entering {
    core: Rc<Core>,
    partition: PartitionId,
    facts: Arc<Facts>,
    key: u64,
    is_over: bool,
}

impl Entering {
    async fn attach(mut self) -> Result<SessionNumber, NotAttached> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        let hub = Arc::clone(&self.core.hub);
        let attached = hub.attach(self.partition, &self.facts, self.key, self.core.index());
        let attached = tokio::time::timeout_at(deadline, attached).await;
        let attached = attached.unwrap_or(Err(NotAttached::TooLate));
        self.is_over = attached.is_ok();
        attached
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        if !self.is_over {
            self.core.targets.borrow_mut().remove(&self.key);
            self.core.hub.abandon(self.partition, &self.facts, self.key);
        }
    }
}
