//! Checks a credential without opening a session: AMQP clients present theirs before their first link, and renew it while
//! their session lives.
//!
//! Invariants: the decision is that of [`Core::connect`], made by the same rules, with the same confirmation, audit and
//! penalties; a session is renewed only with the key that opened it, so that its revocation stays right.
//! Not here: the session itself ([`Core::connect`] checks again, since the credential may have been revoked meanwhile).

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_auth::{KeyFingerprint, ResourcePath, Rights, SasToken, verify_policy};
use holdfast_model::{RefusalReason, UnixMillis};

use super::authenticate::{Verified, authenticate};
use super::connect::OwnedConnectRequest;
use super::connect_request::{ConnectRequest, Denied, Refusal};
use super::core::Core;
use super::session::Session;

/// A credential that would open a session now.
#[derive(Debug, Clone)]
pub struct CheckedCredential {
    /// When it ends, clock skew or grace included; `None` = never.
    pub ends: Option<UnixMillis>,
    key: KeyFingerprint,
    policy: Option<Arc<str>>,
}

impl From<Verified> for CheckedCredential {
    fn from(verified: Verified) -> Self {
        Self {
            ends: verified.expires,
            key: verified.key,
            policy: verified.policy,
        }
    }
}

type Decision = Result<CheckedCredential, Refusal>;

/// The decision about a credential: mostly immediate, sometimes after a call to the registry's leader or a penalty.
pub enum CredentialCheck {
    /// Decided.
    Done(Decision),
    /// Decided when this future is ready.
    Pending(Pin<Box<dyn Future<Output = Decision>>>),
}

impl Core {
    /// Checks the credential of `request`.
    pub fn check_credential(self: &Rc<Self>, request: &ConnectRequest<'_>) -> CredentialCheck {
        match authenticate(&self.hub, request, self.clock().now()) {
            Ok(verified) if self.hub.parts.registry.in_lease() => CredentialCheck::Done(Ok(verified.into())),
            Err(denied) if !denied.needs_confirmation => self.deny_check(request, denied),
            Ok(_) | Err(_) => {
                let (core, request) = (Rc::clone(self), OwnedConnectRequest::new(request));
                CredentialCheck::Pending(Box::pin(async move { core.check_confirmed(&request.borrow()).await }))
            }
        }
    }

    fn deny_check(&self, request: &ConnectRequest<'_>, denied: Denied) -> CredentialCheck {
        let refusal = self.deny(request, denied);
        match self.hub.connect_penalty(request, refusal.reason) {
            None => CredentialCheck::Done(Err(refusal)),
            Some(penalty) => CredentialCheck::Pending(Box::pin(async move {
                penalty.served().await;
                Err(refusal)
            })),
        }
    }

    async fn check_confirmed(&self, request: &ConnectRequest<'_>) -> Decision {
        match self.confirm_request(request).await {
            Ok(verified) => Ok(verified.into()),
            Err(denied) => match self.deny_check(request, denied) {
                CredentialCheck::Done(decision) => decision,
                CredentialCheck::Pending(pending) => pending.await,
            },
        }
    }

    /// Checks a policy's token that covers more than one device: its signature, its expiry, and the right to connect
    /// devices. When it ends, clock skew included.
    ///
    /// # Errors
    /// The rule that it breaks, by the local replica.
    pub fn check_device_policy(&self, token: &str) -> Result<UnixMillis, RefusalReason> {
        let parts = &self.hub.parts;
        if !parts.config.shared_policies {
            return Err(RefusalReason::SasDisabled);
        }
        let refused = |refusal: holdfast_auth::SasRefusal| refusal.reason();
        let token = SasToken::parse(token).map_err(refused)?;
        let policy = token.policy().and_then(|name| parts.registry.policy(name));
        // A token for all devices covers no less than one for the hub's devices as a whole.
        let devices = ResourcePath::HUB.then("devices");
        let (rights, now) = (Rights::DEVICE_CONNECT, self.clock().now());
        let grant = verify_policy(&token, &devices, policy.as_deref(), rights, &parts.hub_names, now);
        Ok(grant.map_err(refused)?.ends())
    }
}

impl Session {
    /// Prolongs the session by a newer credential of its identity. `false`: it was made with another key, and the session
    /// must end; a new one may begin with it.
    #[must_use]
    pub fn renew(&mut self, renewed: &CheckedCredential) -> bool {
        let same = self.info.key == renewed.key && self.info.policy == renewed.policy;
        if same {
            self.expires = renewed.ends;
        }
        same
    }
}
