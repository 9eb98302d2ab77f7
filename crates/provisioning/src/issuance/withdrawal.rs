//! Revocations that reach a linked hub: it knows a device by thumbprints, and not which certificates have been revoked here.
//!
//! Invariants: the certificate is revoked at this hub first; nothing but the credentials of the device changes at its hub, and no device is
//! created there; a revocation waits for a hub that is down, and continues when a registration that has overtaken it fails.
//! Not here: the call of the linked hub (`crate::operation`).

use std::sync::Arc;

use data_encoding::HEXUPPER;
use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_registry::{
    AuthenticationWrite, DevicePlace, Enrollment, EnrollmentReference, PendingRegistration, Registration,
    RegistrationOutcome, RegistrationWrite, Thumbprint, Thumbprints,
};

use super::enrollment_of;
use crate::error::ProvisioningError;
use crate::registering::{failed, is_conflict};
use crate::service::{MAX_DECISIONS, Provisioning, operation_id};

impl Provisioning {
    /// Begins an operation that leaves a device of a linked hub the certificates that still count; without any, it is shut out until it
    /// registers again.
    pub(super) async fn withdraw(&self, device: &DeviceId) -> Result<(), ProvisioningError> {
        let registry = self.registry();
        for _ in 0..MAX_DECISIONS {
            registry.read_barrier().await?;
            let certificates = registry.device_certificates(device)?;
            let Some(id) = certificates.and_then(|certificates| certificates.registration_id) else {
                return Ok(());
            };
            let Some(registration) = registry.registration(&id)? else {
                return Ok(());
            };
            let Some(place) = registration.place.clone().filter(|place| place.device_id == *device) else {
                return Ok(());
            };
            let is_linked = self.hubs().find(&place.hub).is_some_and(|hub| hub.link.is_some());
            if !is_linked {
                return Ok(());
            }
            if registration.pending().is_some_and(|pending| !pending.only_credentials) {
                let text = format!(
                    "revoked; an operation of the device is in progress: repeat the call, so that the hub {} learns of it",
                    place.hub
                );
                return Err(ProvisioningError::new(ErrorCode::RegistrationConflict, text));
            }
            let Some(enrollment) = enrollment_of(registry, &registration)? else {
                let text = format!(
                    "revoked here; the enrollment of the device is gone: disable the device at the hub {}",
                    place.hub
                );
                return Err(ProvisioningError::new(ErrorCode::InvalidOperation, text));
            };
            let pending = pending_at(place, &enrollment, self.hub().clock().now());
            let write = RegistrationWrite {
                id: registration.id.clone(),
                outcome: RegistrationOutcome::Assigning(Box::new(pending)),
                operation_id: operation_id(),
                enrollment: EnrollmentReference::from(&*enrollment),
                identity: Vec::new(),
                left: registration.left.clone(),
                payload: registration.payload.clone(),
                webhook: registration.webhook.clone(),
                tpm: registration.tpm.clone(),
                issue: None,
                issued_chain: None,
                found: Some(Arc::new(registration)),
            };
            match registry.put_registration(&write).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let text = "revoked here; another registration of the device is in progress: repeat the call for its hub";
        Err(ProvisioningError::new(ErrorCode::RegistrationConflict, text))
    }
}

/// What a revocation has to do at the hub where the device is.
pub(crate) fn pending_at(place: DevicePlace, enrollment: &Enrollment, now: UnixMillis) -> PendingRegistration {
    PendingRegistration {
        enrollment_kind: enrollment.kind,
        enrollment_id: enrollment.id.clone(),
        enrollment_etag: enrollment.etag.clone(),
        authentication: shut_out(),
        device_id: place.device_id,
        payload: None,
        started: now,
        target_hub: Some(place.hub),
        twin: None,
        nearest: Vec::new(),
        csr: None,
        certificate: None,
        keeps_certificate: true,
        only_credentials: true,
        overtook_revocation: false,
    }
}

/// The end of a revocation, which leaves the state of the registration as it was: the operation that has overtaken it stays failed.
pub(crate) fn settled(write: RegistrationWrite) -> RegistrationWrite {
    let Some(found) = write.found.as_deref() else {
        return write;
    };
    let Some((code, text)) = found.failure() else {
        return write;
    };
    let outcome = failed(code, text.to_owned());
    // The operation is the current one again.
    let history = found.history.iter().skip(1).cloned().collect();
    let found = Some(Arc::new(Registration {
        history,
        ..found.clone()
    }));
    RegistrationWrite {
        outcome,
        found,
        ..write
    }
}

/// Ends a failed operation with the revocation that it has overtaken: `failure` becomes the last one in the history.
pub(crate) fn resumed(failure: RegistrationWrite, pending: PendingRegistration, now: UnixMillis) -> RegistrationWrite {
    let found = failure.found.as_deref().map(|found| {
        Arc::new(Registration {
            outcome: failure.outcome.clone(),
            operation_id: failure.operation_id.clone(),
            webhook: failure.webhook.clone(),
            updated: now,
            ..found.clone()
        })
    });
    RegistrationWrite {
        outcome: RegistrationOutcome::Assigning(Box::new(pending)),
        found,
        ..failure
    }
}

/// Credentials that no certificate has.
fn shut_out() -> AuthenticationWrite {
    let digest: [u8; 32] = rand::random();
    AuthenticationWrite::SelfSigned(
        Thumbprint::parse(&HEXUPPER.encode(&digest))
            .ok()
            .map(|primary| Thumbprints {
                primary,
                secondary: None,
            }),
    )
}
