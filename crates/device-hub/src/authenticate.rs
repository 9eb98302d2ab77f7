//! The credential decision (Spec auth-and-limits §6.1), against the local registry replica.

use std::sync::Arc;

use holdfast_auth::{
    Grant, KeyFingerprint, ResourcePath, Rights, SasRefusal, SasToken, check_claims, verify, verify_policy,
};
use holdfast_model::{AuthMethod, AuthScope, AuthType, DeviceId, IdentityId, ModuleId, RefusalReason, UnixMillis};
use holdfast_registry::{Authentication, Identity, RegistryError};

use crate::hub::HubParts;
use crate::{Claim, Refusal};

/// An identity that has proved itself.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The identity as registered.
    pub identity: Arc<Identity>,
    /// What it proved itself with.
    pub auth: AuthMethod,
    /// When the proof ends, clock skew included.
    pub expires: Option<UnixMillis>,
    /// The policy whose token it was.
    pub policy: Option<Arc<str>>,
    /// Which key it was: enough to know later that it is still one of the identity's, never the key itself.
    pub key: KeyFingerprint,
}

fn refused(reason: RefusalReason) -> Refusal {
    Refusal::new(reason)
}

fn by_token(refusal: &SasRefusal) -> Refusal {
    Refusal::new(refusal.reason())
}

fn unavailable(_: RegistryError) -> Refusal {
    Refusal::new(RefusalReason::Unconfirmed)
}

/// The id that a claim names, if it can be one at all.
pub(crate) fn claimed_identity(claim: &Claim<'_>) -> Result<IdentityId, Refusal> {
    // An id that cannot exist is certainly unknown; nothing reveals which rule it breaks.
    let device = DeviceId::parse(claim.device).map_err(|_| refused(RefusalReason::Malformed))?;
    let module = match claim.module {
        Some(module) => Some(ModuleId::parse(module).map_err(|_| refused(RefusalReason::Malformed))?),
        None => None,
    };
    Ok(IdentityId { device, module })
}

/// Checks `claim` at `now`. What needs the leader's confirmation before the client may be told is said by
/// [`RefusalReason::needs_confirmation`].
///
/// # Errors
/// The first rule that is broken, in the order of the specification.
pub fn authenticate(parts: &HubParts, claim: &Claim<'_>, now: UnixMillis) -> Result<Verified, Refusal> {
    let id = claimed_identity(claim)?;
    if !parts.hub_names.contains(claim.host) {
        return Err(refused(RefusalReason::Host));
    }
    let resource = ResourcePath::identity(&id);
    let token = match claim.token {
        Some(text) if !text.is_empty() => {
            let token = SasToken::parse(text).map_err(|refusal| by_token(&refusal))?;
            // What the token itself shows is refused without a look at the registry (foundations 18).
            check_claims(&token, &resource, &parts.hub_names, now).map_err(|refusal| by_token(&refusal))?;
            Some(token)
        }
        _ => None,
    };
    let identity = parts
        .registry
        .identity(&id)
        .map_err(unavailable)?
        .ok_or(refused(RefusalReason::UnknownIdentity))?;
    if !identity.is_enabled() {
        return Err(refused(RefusalReason::Disabled));
    }
    let Some(token) = token else {
        return Err(refused(match identity.authentication {
            Authentication::SelfSigned(_) | Authentication::CertificateAuthority => RefusalReason::NoCertificate,
            Authentication::Sas(_) | Authentication::None => RefusalReason::Missing,
        }));
    };
    match token.policy() {
        Some(name) => {
            let policy = parts.registry.policy(name);
            let grant = verify_policy(
                &token,
                &resource,
                policy.as_deref(),
                Rights::DEVICE_CONNECT,
                &parts.hub_names,
                now,
            )
            .map_err(|refusal| by_token(&refusal))?;
            let policy = policy.map(|policy| Arc::from(policy.name.as_str()));
            Ok(verified(identity, AuthScope::Hub, &grant, policy))
        }
        None => {
            let Authentication::Sas(keys) = &identity.authentication else {
                return Err(refused(RefusalReason::AuthType));
            };
            let grant = verify(&token, &resource, keys, &parts.hub_names, now).map_err(|refusal| by_token(&refusal))?;
            let scope = if id.module.is_some() {
                AuthScope::Module
            } else {
                AuthScope::Device
            };
            Ok(verified(identity, scope, &grant, None))
        }
    }
}

fn verified(identity: Arc<Identity>, scope: AuthScope, grant: &Grant, policy: Option<Arc<str>>) -> Verified {
    Verified {
        identity,
        auth: AuthMethod {
            scope,
            kind: AuthType::Sas,
        },
        expires: Some(grant.ends()),
        policy,
        key: grant.fingerprint,
    }
}

/// Whether a session that was opened with `key` of `identity` may go on.
pub(crate) fn still_valid(identity: &Identity, key: KeyFingerprint) -> bool {
    matches!(&identity.authentication, Authentication::Sas(keys) if keys.holds(key))
}
