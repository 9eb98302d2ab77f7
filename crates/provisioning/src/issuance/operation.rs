//! Certificates that an operation issues: signed when the hub is known, stored with the operation, recorded and delivered by its end.
//!
//! Invariants: an operation has one certificate, whatever crashes; one that was signed for an epoch that has passed is void, and is never
//! delivered.
//! Not here: when an operation issues (`crate::operation`).

use bytes::Bytes;
use holdfast_model::ErrorCode;
use holdfast_registry::{
    Enrollment, IssuedChain, Issuers, PendingCertificate, PendingRegistration, Registration, Registry, RegistryError,
};

use super::{CheckedRequest, IssuingNode};
use crate::error::ProvisioningError;

/// Has the request of an operation signed. `begins_anew`: the device is deleted before it gets the certificate.
///
/// # Errors
/// What the registration fails with.
pub(crate) async fn sign(
    node: &IssuingNode<'_>,
    registration: &Registration,
    pending: &PendingRegistration,
    enrollment: &Enrollment,
    is_own_hub: bool,
    begins_anew: bool,
) -> Result<PendingCertificate, ProvisioningError> {
    let request = CheckedRequest::read(pending.csr.as_deref().unwrap_or_default(), enrollment)?;
    let device = &pending.device_id;
    let mut order = request.order(node.registry, device, Some(&registration.id), is_own_hub)?;
    order.operation_id = Some(registration.operation_id.clone());
    let issuer = std::sync::Arc::clone(&order.issuer);
    let found = node.registry.device_certificates(device)?;
    let issued = node.issued(order, found.as_ref().filter(|_| !begins_anew)).await;
    let issued = issued.map_err(|text| {
        let text = format!("issuing CA '{}': {text}", issuer.name);
        ProvisioningError::new(ErrorCode::ServiceUnavailable, text)
    })?;
    let mut certificates: Vec<Bytes> = issued.chain.into_iter().map(Bytes::from).collect();
    // A million registrations need not hold the chain of the same CA.
    let is_followed_by_ca = certificates.get(1..).is_some_and(|rest| rest == issuer.chain);
    if is_followed_by_ca {
        certificates.truncate(1);
    }
    Ok(PendingCertificate {
        chain: IssuedChain {
            certificates,
            issuer: is_followed_by_ca.then(|| issuer.name.clone()),
        },
        issue: issued.write,
        found_epoch: found.map(|found| found.epoch),
    })
}

/// Whether what was signed is not to be delivered any more: the device's certificates have been revoked meanwhile, or others issued first.
///
/// # Errors
/// The record cannot be read.
pub(crate) fn is_void(registry: &Registry, certificate: &PendingCertificate) -> Result<bool, RegistryError> {
    let found = registry.device_certificates(&certificate.issue.device)?;
    Ok(found.map(|found| found.epoch) != certificate.found_epoch)
}

/// The whole chain, for the device.
pub(crate) fn delivered(chain: &IssuedChain, issuers: &Issuers) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = chain.certificates.iter().map(|der| der.to_vec()).collect();
    if let Some(issuer) = chain.issuer.as_deref().and_then(|name| issuers.get(name)) {
        all.extend(issuer.chain.iter().map(|der| der.to_vec()));
    }
    all
}
