//! The credential decision (docs/spec/auth-and-limits.md §6.1), against the local registry replica.
//!
//! The registered authentication type decides which credential counts: a token for `sas`, the certificate of the TLS
//! handshake for the other types, whose password means nothing.

use std::sync::Arc;

use holdfast_auth::x509::{
    CaSet, CertificateRefusal, ClientCertificate, EPOCH_BYTES, PathCertificate, check_size, verify_chain,
};
use holdfast_auth::{
    Grant, KeyFingerprint, ResourcePath, Rights, SasRefusal, SasToken, check_claims, verify, verify_policy,
};
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, CertificateChain, DeviceId, IdentityId, ModuleId, RefusalReason, UnixMillis,
};
use holdfast_registry::{Authentication, Authorities, Identity, Registry, RegistryError, Thumbprint, Thumbprints};

use super::config::ExpiredCrl;
use super::connect_request::{ConnectRequest, Denied};
use super::hub::{DeviceHub, HubParts};
use crate::session_types::SessionCertificate;

/// An identity that has proved itself.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The identity as registered.
    pub identity: Arc<Identity>,
    /// The kind of proof.
    pub auth: AuthMethod,
    /// When the proof ends, clock skew or grace included.
    pub expires: Option<UnixMillis>,
    /// The policy that signed the token, if one did.
    pub policy: Option<Arc<str>>,
    /// Identifies the key without containing it: enough to see later that it is still one of the identity's.
    pub key: KeyFingerprint,
    /// The certificate that was the proof, if one was.
    pub certificate: Option<SessionCertificate>,
    /// Whether it was accepted by a SHA-1 thumbprint, which is deprecated.
    pub by_sha1: bool,
}

fn by_token(refusal: SasRefusal) -> Denied {
    match refusal {
        SasRefusal::Malformed(_) | SasRefusal::Expired { .. } => Denied::with(refusal.reason(), &refusal),
        exact => exact.reason().into(),
    }
}

/// Also a fault of the certificate itself needs confirmation: the identity may have keys by now, and a good token.
fn by_certificate(refusal: CertificateRefusal) -> Denied {
    Denied::with(refusal.reason(), &refusal).by_registered_type()
}

fn unavailable(_: RegistryError) -> Denied {
    RefusalReason::Unconfirmed.into()
}

/// The requested identity, if its name can be one at all.
pub(crate) fn requested_identity(request: &ConnectRequest<'_>) -> Result<IdentityId, Denied> {
    // An id that cannot exist is certainly unknown; nothing reveals which rule it breaks.
    let device = DeviceId::parse(request.device).map_err(|_| RefusalReason::Malformed)?;
    let module = match request.module {
        Some(module) => Some(ModuleId::parse(module).map_err(|_| RefusalReason::Malformed)?),
        None => None,
    };
    Ok(IdentityId { device, module })
}

/// Checks `request` at `now`. Some refusals need the leader's confirmation before they may be sent to the client:
/// [`Denied::needs_confirmation`].
///
/// # Errors
/// The first rule that is broken, in the order of the specification.
pub fn authenticate(hub: &DeviceHub, request: &ConnectRequest<'_>, now: UnixMillis) -> Result<Verified, Denied> {
    let parts = &hub.parts;
    let id = requested_identity(request)?;
    if !parts.hub_names.contains(request.host) {
        return Err(RefusalReason::Host.into());
    }
    let resource = ResourcePath::identity(&id);
    let chain = request.credential.chain();
    let read = |text| -> Result<SasToken<'_>, SasRefusal> {
        let token = SasToken::parse(text)?;
        check_claims(&token, &resource, &parts.hub_names, now)?;
        Ok(token)
    };
    let token = request.credential.token().map(read);
    if let (Some(Err(refusal)), None) = (&token, chain) {
        // Faults of the token itself are refused without reading the registry: they need no confirmation.
        return Err(by_token(*refusal));
    }
    if !parts.config.shared_policies && chain.is_none() && matches!(&token, Some(Ok(token)) if token.policy().is_some())
    {
        // By the configuration of this node alone, whatever is registered.
        return Err(RefusalReason::SasDisabled.into());
    }
    let identity = parts
        .registry
        .identity(&id)
        .map_err(unavailable)?
        .ok_or(RefusalReason::UnknownIdentity)?;
    if !identity.is_enabled() {
        return Err(RefusalReason::Disabled.into());
    }
    match &identity.authentication {
        Authentication::SelfSigned(_) | Authentication::CertificateAuthority => match (chain, token) {
            (Some(chain), _) => with_certificate(hub, identity, chain, now),
            (None, Some(_)) => Err(RefusalReason::AuthType.into()),
            (None, None) => Err(RefusalReason::NoCertificate.into()),
        },
        Authentication::Sas(_) | Authentication::None => match (token, chain) {
            (Some(Ok(token)), _) => with_token(parts, identity, &token, now),
            // It may have a certificate by now, beside which the password means nothing.
            (Some(Err(refusal)), _) => Err(by_token(refusal).by_registered_type()),
            (None, Some(_)) => Err(RefusalReason::AuthType.into()),
            (None, None) => Err(RefusalReason::Missing.into()),
        },
    }
}

/// The scope of an identity's own credential.
fn own_scope(id: &IdentityId) -> AuthScope {
    if id.module.is_some() {
        AuthScope::Module
    } else {
        AuthScope::Device
    }
}

fn with_token(
    parts: &HubParts,
    identity: Arc<Identity>,
    token: &SasToken<'_>,
    now: UnixMillis,
) -> Result<Verified, Denied> {
    let resource = ResourcePath::identity(&identity.id);
    let (scope, grant, policy) = match token.policy() {
        Some(_) if !parts.config.shared_policies => return Err(RefusalReason::SasDisabled.into()),
        Some(name) => {
            let policy = parts.registry.policy(name);
            let grant = verify_policy(
                token,
                &resource,
                policy.as_deref(),
                Rights::DEVICE_CONNECT,
                &parts.hub_names,
                now,
            )
            .map_err(by_token)?;
            let policy = policy.map(|policy| Arc::from(policy.name.as_str()));
            (AuthScope::Hub, grant, policy)
        }
        None => {
            let Authentication::Sas(keys) = &identity.authentication else {
                return Err(RefusalReason::AuthType.into());
            };
            let grant = verify(token, &resource, keys, &parts.hub_names, now).map_err(by_token)?;
            (own_scope(&identity.id), grant, None)
        }
    };
    Ok(by_grant(identity, scope, &grant, policy))
}

fn by_grant(identity: Arc<Identity>, scope: AuthScope, grant: &Grant, policy: Option<Arc<str>>) -> Verified {
    Verified {
        identity,
        auth: AuthMethod {
            scope,
            kind: AuthType::Sas,
        },
        expires: Some(grant.ends()),
        policy,
        key: grant.fingerprint,
        certificate: None,
        by_sha1: false,
    }
}

fn with_certificate(
    hub: &DeviceHub,
    identity: Arc<Identity>,
    chain: &CertificateChain,
    now: UnixMillis,
) -> Result<Verified, Denied> {
    let parts = &hub.parts;
    check_size(chain).map_err(by_certificate)?;
    let leaf = ClientCertificate::parse(chain.leaf()).map_err(by_certificate)?;
    let fingerprints = *leaf.fingerprints();
    let authorities = parts.registry.authorities();
    let (ends, ca, path, epoch, by_sha1) = match &identity.authentication {
        Authentication::SelfSigned(thumbprints) => {
            let named = thumbprints.of(&fingerprints);
            let named = named.ok_or_else(|| by_certificate(mismatch(&leaf, thumbprints)))?;
            leaf.check_time(now).map_err(by_certificate)?;
            if let Some(by) = authorities.revocations().of_certificate(&fingerprints.sha256) {
                return Err(by_certificate(CertificateRefusal::revoked_in_path(0, by)));
            }
            (leaf.ends(), None, Vec::new(), None, named.is_sha1())
        }
        _ => {
            leaf.check_common_name(&identity.id.to_string())
                .map_err(by_certificate)?;
            let verified =
                verify_chain(chain, &leaf, authorities.verified(), &hub.verified_paths, now).map_err(by_certificate)?;
            check_revocation(parts, &authorities, &verified.path, now).map_err(by_certificate)?;
            let epoch = check_epoch(&parts.registry, &leaf, &identity.id.device)?;
            (verified.ends, Some(verified.ca), verified.path, epoch, false)
        }
    };
    let grace = u64::try_from(parts.config.certificate_grace.get().as_millis()).unwrap_or(u64::MAX);
    Ok(Verified {
        auth: AuthMethod {
            scope: own_scope(&identity.id),
            kind: AuthType::X509,
        },
        identity,
        expires: Some(UnixMillis(ends.0.saturating_add(grace))),
        policy: None,
        key: fingerprints.key(),
        certificate: Some(SessionCertificate {
            fingerprints,
            ca,
            path: path.into(),
            epoch,
        }),
        by_sha1,
    })
}

/// The epoch of a certificate that the hub has issued, if it is still that of the device; `None`: it carries none.
fn check_epoch(
    registry: &Registry,
    leaf: &ClientCertificate<'_>,
    device: &DeviceId,
) -> Result<Option<[u8; EPOCH_BYTES]>, Denied> {
    let Some(epoch) = leaf.epoch().map_err(by_certificate)? else {
        return Ok(None);
    };
    match is_current_epoch(registry, device, &epoch).map_err(unavailable)? {
        true => Ok(Some(epoch)),
        false => Err(by_certificate(CertificateRefusal::Epoch)),
    }
}

/// Whether certificates that were issued to `device` for `epoch` count, by this node's replica.
pub(crate) fn is_current_epoch(
    registry: &Registry,
    device: &DeviceId,
    epoch: &[u8; EPOCH_BYTES],
) -> Result<bool, RegistryError> {
    let certificates = registry.device_certificates(device)?;
    Ok(certificates.is_some_and(|certificates| certificates.epoch == *epoch))
}

/// Checks every certificate of a path below its CA against the deny list and the revocation lists.
fn check_revocation(
    parts: &HubParts,
    authorities: &Authorities,
    path: &[PathCertificate],
    now: UnixMillis,
) -> Result<(), CertificateRefusal> {
    let revocations = authorities.revocations();
    if let Some((at, by)) = revocations.of_path(path) {
        return Err(CertificateRefusal::revoked_in_path(at, by));
    }
    match revocations.ended_list(path, now) {
        Some(list) if parts.config.expired_crl == ExpiredCrl::Refuse => Err(CertificateRefusal::crl_ended(list, now)),
        _ => Ok(()),
    }
}

fn mismatch(leaf: &ClientCertificate<'_>, registered: &Thumbprints) -> CertificateRefusal {
    CertificateRefusal::Thumbprint {
        sha1: leaf.fingerprints().sha1_hex(),
        sha256: leaf.fingerprints().sha256_hex(),
        primary: registered.primary.to_string(),
        secondary: registered.secondary.as_ref().map(Thumbprint::to_string),
    }
}

/// Whether a session that was opened with a key or a certificate of `identity` may stay.
pub(crate) fn still_valid(
    identity: &Identity,
    key: KeyFingerprint,
    certificate: Option<&SessionCertificate>,
    authorities: &CaSet,
) -> bool {
    match (&identity.authentication, certificate) {
        (Authentication::Sas(keys), None) => keys.holds(key),
        (Authentication::SelfSigned(thumbprints), Some(shown)) => {
            shown.ca.is_none() && thumbprints.of(&shown.fingerprints).is_some()
        }
        (Authentication::CertificateAuthority, Some(shown)) => shown.ca.is_some_and(|ca| authorities.holds(&ca)),
        _ => false,
    }
}
