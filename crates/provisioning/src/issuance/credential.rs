//! By what a device gets in at its hub that has certificates of this service (docs/decisions/0057).
//!
//! Invariants: at this hub it is the CA, so that a certificate is valid beside the one before; at a linked hub, which does not have the CA, it is
//! the thumbprints of the newest certificate and of the one before, so that a renewal whose answer is lost does not shut the device out.
//! Not here: the write of an identity (`registering`), requests to hubs (`remote_hub`).

use data_encoding::HEXUPPER;
use holdfast_model::{IdentityId, UnixMillis};
use holdfast_registry::{
    Authentication, AuthenticationWrite, Authorities, DeviceCertificates, DevicePlace, EnrollmentContent,
    IssuedCertificate, Registry, RegistryError, Thumbprint, Thumbprints,
};

/// Where a device is, and who it is for the service.
pub(crate) struct At<'a> {
    pub(crate) registry: &'a Registry,
    /// Its registration id, in any case.
    pub(crate) registration_id: &'a str,
    pub(crate) place: &'a DevicePlace,
    /// The place is this hub.
    pub(crate) is_own: bool,
    pub(crate) now: UnixMillis,
}

/// The certificates on the record that are neither at an end nor revoked, the newest first.
fn valid<'a>(
    found: Option<&'a DeviceCertificates>,
    authorities: &'a Authorities,
    now: UnixMillis,
) -> impl Iterator<Item = &'a IssuedCertificate> {
    let issued = found.map_or(&[][..], |found| &found.issued[..]);
    issued
        .iter()
        .rev()
        .filter(move |issued| issued.until > now && authorities.revocations().of_certificate(&issued.sha256).is_none())
}

fn thumbprint(certificate: &IssuedCertificate) -> Option<Thumbprint> {
    Thumbprint::parse(&HEXUPPER.encode(&certificate.sha256)).ok()
}

/// How a device authenticates that has just got `newest`.
///
/// # Errors
/// The record cannot be read.
pub(crate) fn by_certificates(at: &At<'_>, newest: &IssuedCertificate) -> Result<AuthenticationWrite, RegistryError> {
    if at.is_own {
        return Ok(AuthenticationWrite::CertificateAuthority);
    }
    let found = at.registry.device_certificates(&at.place.device_id)?;
    let authorities = at.registry.authorities();
    let before = valid(found.as_ref(), &authorities, at.now).find(|issued| issued.sha256 != newest.sha256);
    Ok(AuthenticationWrite::SelfSigned(thumbprint(newest).map(|primary| {
        Thumbprints {
            primary,
            secondary: before.and_then(thumbprint),
        }
    })))
}

/// How a device authenticates that stays where it is and registers without a request, by a client that knows certificates; `None`: by what it
/// registers with, since it has no certificate that opens its hub.
///
/// # Errors
/// The record or the identity cannot be read.
pub(crate) fn kept(at: &At<'_>, content: &EnrollmentContent) -> Result<Option<AuthenticationWrite>, RegistryError> {
    if content.issuance.is_none() {
        return Ok(None);
    }
    let found = at.registry.device_certificates(&at.place.device_id)?;
    let registered = found.as_ref().and_then(|found| found.registration_id.as_deref());
    if !registered.is_some_and(|id| id.eq_ignore_ascii_case(at.registration_id)) {
        return Ok(None);
    }
    let authorities = at.registry.authorities();
    let mut valid = valid(found.as_ref(), &authorities, at.now);
    let Some(newest) = valid.next() else {
        return Ok(None);
    };
    if at.is_own {
        let identity = at.registry.identity(&IdentityId::device(at.place.device_id.clone()))?;
        let is_by_ca = identity.is_some_and(|found| found.authentication == Authentication::CertificateAuthority);
        return Ok(is_by_ca.then_some(AuthenticationWrite::CertificateAuthority));
    }
    Ok(thumbprint(newest).map(|primary| {
        AuthenticationWrite::SelfSigned(Some(Thumbprints {
            primary,
            secondary: valid.next().and_then(thumbprint),
        }))
    }))
}
