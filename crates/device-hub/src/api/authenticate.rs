//! The credential decision (docs/spec/auth-and-limits.md §6.1), against the local registry replica.

use std::sync::Arc;

use holdfast_auth::{
    Grant, KeyFingerprint, ResourcePath, Rights, SasRefusal, SasToken, check_claims, verify, verify_policy,
};
use holdfast_model::{AuthMethod, AuthScope, AuthType, DeviceId, IdentityId, ModuleId, RefusalReason, UnixMillis};
use holdfast_registry::{Authentication, Identity, RegistryError};

use super::connect_request::{ConnectRequest, Credential, Refusal};
use super::hub::HubParts;

/// An identity that has proved itself.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The identity as registered.
    pub identity: Arc<Identity>,
    /// The kind of proof.
    pub auth: AuthMethod,
    /// When the proof ends, clock skew included.
    pub expires: Option<UnixMillis>,
    /// The policy that signed the token, if one did.
    pub policy: Option<Arc<str>>,
    /// Identifies the key without containing it: enough to see later that it is still one of the identity's.
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

/// The requested identity, if its name can be one at all.
pub(crate) fn requested_identity(request: &ConnectRequest<'_>) -> Result<IdentityId, Refusal> {
    // An id that cannot exist is certainly unknown; nothing reveals which rule it breaks.
    let device = DeviceId::parse(request.device).map_err(|_| refused(RefusalReason::Malformed))?;
    let module = match request.module {
        Some(module) => Some(ModuleId::parse(module).map_err(|_| refused(RefusalReason::Malformed))?),
        None => None,
    };
    Ok(IdentityId { device, module })
}

/// Checks `request` at `now`. Some refusals need the leader's confirmation before they may be sent to the client:
/// [`RefusalReason::needs_confirmation`].
///
/// # Errors
/// The first rule that is broken, in the order of the specification.
pub fn authenticate(parts: &HubParts, request: &ConnectRequest<'_>, now: UnixMillis) -> Result<Verified, Refusal> {
    let id = requested_identity(request)?;
    if !parts.hub_names.contains(request.host) {
        return Err(refused(RefusalReason::Host));
    }
    let resource = ResourcePath::identity(&id);
    let token = match request.credential {
        Credential::SasToken(text) => {
            let token = SasToken::parse(text).map_err(|refusal| by_token(&refusal))?;
            // Faults of the token itself are refused without reading the registry: they need no confirmation.
            check_claims(&token, &resource, &parts.hub_names, now).map_err(|refusal| by_token(&refusal))?;
            Some(token)
        }
        // Certificates are not accepted yet (docs/compatibility.md).
        Credential::CertificateChain(_) | Credential::None => None,
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

/// Whether a session that was opened with `key` of `identity` may stay.
pub(crate) fn still_valid(identity: &Identity, key: KeyFingerprint) -> bool {
    matches!(&identity.authentication, Authentication::Sas(keys) if keys.holds(key))
}
