//! What a registration changes: the hub, the device's id there, and the identity (Spec provisioning §8.3, §8.4).
//!
//! Invariants: pure but for reads of the local replica; the write carries what it was decided by, so that it is refused when that has
//! changed; what needs another server is written as an operation in progress, and is carried on by `operations`.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{DeviceId, ErrorCode, IdentityId, InvalidId, UnixMillis};
use holdfast_registry::{
    AllocationPolicy, Authentication, AuthenticationWrite, DevicePlace, Enrollment, EnrollmentContent, EnrollmentKind,
    EnrollmentReference, Identity, IdentityContent, IdentityWrite, IfMatch, PendingRegistration, Registration,
    RegistrationOutcome, RegistrationWrite, Registry, RegistryError, ReprovisionPolicy, Status, Substatus, TwinSeed,
    WriteOperation,
};

use crate::allocation::Hubs;
use crate::attestation::Attested;
use crate::issuance::{self, At};
use crate::tpm::ProvenTpm;

/// The facts of a decision.
pub(crate) struct Decision<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) hubs: &'a Hubs,
    /// As the device sent it.
    pub(crate) registration_id: &'a str,
    pub(crate) found: Option<Registration>,
    pub(crate) attested: Attested,
    pub(crate) operation_id: String,
    /// What the device sent as payload, JSON.
    pub(crate) payload: Option<&'a str>,
    /// A request for a certificate, PKCS#10 in DER.
    pub(crate) csr: Option<&'a [u8]>,
    /// A server outside of the hub signs it.
    pub(crate) is_signed_elsewhere: bool,
    /// Without a request: a certificate that the device has stays its credential.
    pub(crate) keeps_certificate: bool,
    /// With geoLatency: the hubs that are near.
    pub(crate) nearest: &'a [String],
    pub(crate) now: UnixMillis,
}

impl Decision<'_> {
    /// The write of the registration: its end, or the begin of an operation.
    pub(crate) fn write(self) -> Result<RegistrationWrite, RegistryError> {
        if let Some(found) = &self.found
            && let Some(pending) = found.pending().filter(|pending| !pending.only_credentials)
        {
            return Ok(self.take_over(found, pending));
        }
        let enrollment = Arc::clone(&self.attested.enrollment);
        let before = self.found.as_ref().and_then(|found| found.place.clone());
        let (outcome, identity) = match self.device_id(before.as_ref().map(|place| &place.device_id)) {
            Err(error) => (failed(ErrorCode::ArgumentInvalid, error.to_string()), Vec::new()),
            Ok(device_id) => match self.immediate(&enrollment.content, before.as_ref()) {
                Some(Err(text)) => (failed(ErrorCode::NoHubToAssign, text), Vec::new()),
                Some(Ok(hub)) if !self.is_signed_elsewhere => {
                    let mut assignment = Assignment {
                        registry: self.registry,
                        content: &enrollment.content,
                        kind: enrollment.kind,
                        authentication: self.attested.authentication.clone(),
                        before: before.as_ref(),
                        place: DevicePlace { hub, device_id },
                        twin: None,
                        has_moved: false,
                        is_disabled: false,
                        is_edge: enrollment.content.iot_edge,
                        only_credentials: false,
                    };
                    if self.keeps_certificate {
                        assignment.keep_certificate(self.registration_id, true, self.now)?;
                    }
                    (assignment.outcome(), assignment.identity()?)
                }
                Some(Ok(_)) | None => (self.begin(&enrollment, device_id), Vec::new()),
            },
        };
        let is_failed = matches!(outcome, RegistrationOutcome::Failed { .. });
        let revocation = self.revocation().filter(|_| is_failed).cloned();
        let found = self.found.map(Arc::new);
        let write = RegistrationWrite {
            id: found
                .as_ref()
                .map_or_else(|| self.registration_id.to_owned(), |found| found.id.clone()),
            outcome,
            operation_id: self.operation_id,
            enrollment: EnrollmentReference::from(&*enrollment),
            tpm: self.attested.tpm.as_ref().map(ProvenTpm::stored),
            identity,
            left: found.as_ref().map(|found| found.left.clone()).unwrap_or_default(),
            payload: None,
            webhook: None,
            issue: None,
            issued_chain: None,
            found,
        };
        Ok(match revocation {
            Some(pending) => issuance::resumed(write, pending, self.now),
            None => write,
        })
    }

    /// An operation continues with the credentials of this registration, under a new id. What is known of its hub stays: the device may be there.
    fn take_over(&self, found: &Registration, pending: &PendingRegistration) -> RegistrationWrite {
        let pending = PendingRegistration {
            authentication: self.attested.authentication.clone(),
            payload: self.payload.map(str::to_owned),
            csr: self.csr.map(Bytes::copy_from_slice),
            certificate: None,
            keeps_certificate: self.keeps_certificate,
            ..pending.clone()
        };
        RegistrationWrite {
            id: found.id.clone(),
            operation_id: self.operation_id.clone(),
            // Another one refuses the write, as it ends the operation.
            enrollment: EnrollmentReference {
                kind: pending.enrollment_kind,
                id: pending.enrollment_id.clone(),
                etag: pending.enrollment_etag.clone(),
                attestation: found.attestation,
            },
            outcome: RegistrationOutcome::Assigning(Box::new(pending)),
            tpm: self.attested.tpm.as_ref().map(ProvenTpm::stored),
            identity: Vec::new(),
            left: found.left.clone(),
            payload: found.payload.clone(),
            webhook: found.webhook.clone(),
            issue: None,
            issued_chain: None,
            found: Some(Arc::new(found.clone())),
        }
    }

    /// The hub, or why there is none, if both are known without another server.
    fn immediate(&self, content: &EnrollmentContent, before: Option<&DevicePlace>) -> Option<Result<String, String>> {
        let is_here = before.is_none_or(|before| self.hubs.is_own(&before.hub));
        if !is_here {
            return None;
        }
        if keeps_hub(content, before) {
            return before.map(|before| Ok(before.hub.clone()));
        }
        if content.allocation == Some(AllocationPolicy::Custom) {
            return None;
        }
        // Which hubs are out of service is known to the node that carries on operations.
        match self
            .hubs
            .allocate(content, self.registration_id, self.nearest, |_| false)
        {
            Ok(hub) if hub.link.is_some() => None,
            Ok(hub) => Some(Ok(hub.host.clone())),
            Err(text) => Some(Err(text)),
        }
    }

    fn begin(&self, enrollment: &Enrollment, device_id: DeviceId) -> RegistrationOutcome {
        RegistrationOutcome::Assigning(Box::new(PendingRegistration {
            enrollment_kind: enrollment.kind,
            enrollment_id: enrollment.id.clone(),
            enrollment_etag: enrollment.etag.clone(),
            authentication: self.attested.authentication.clone(),
            device_id,
            payload: self.payload.map(str::to_owned),
            started: self.now,
            target_hub: None,
            twin: None,
            nearest: match enrollment.content.allocation {
                Some(AllocationPolicy::GeoLatency) => self.nearest.to_vec(),
                _ => Vec::new(),
            },
            csr: self.csr.map(Bytes::copy_from_slice),
            certificate: None,
            keeps_certificate: self.keeps_certificate,
            only_credentials: false,
            overtook_revocation: self.revocation().is_some(),
        }))
    }

    /// A revocation that waits for the device's hub.
    fn revocation(&self) -> Option<&PendingRegistration> {
        let pending = self.found.as_ref()?.pending()?;
        pending.only_credentials.then_some(pending)
    }

    /// The device's id: that of the enrollment, else the registration id as the certificate or the device writes it. An id that
    /// differs only in case from the one that the device has is the same.
    fn device_id(&self, before: Option<&DeviceId>) -> Result<DeviceId, InvalidId> {
        let name = self.attested.certified_name.as_deref().unwrap_or(self.registration_id);
        let wanted = match &self.attested.enrollment.content.device_id {
            Some(id) => id.clone(),
            None => DeviceId::parse(name)?,
        };
        let same = before.filter(|before| before.as_str().eq_ignore_ascii_case(wanted.as_str()));
        Ok(same.cloned().unwrap_or(wanted))
    }
}

/// An outcome without a hub.
pub(crate) fn failed(code: ErrorCode, text: String) -> RegistrationOutcome {
    RegistrationOutcome::Failed { code, text }
}

/// Whether a device that has a hub stays there.
pub(crate) fn keeps_hub(content: &EnrollmentContent, before: Option<&DevicePlace>) -> bool {
    let policy = content.reprovision.unwrap_or(ReprovisionPolicy::MIGRATE);
    before.is_some() && !policy.update_hub_assignment
}

/// Whether the data of a device begin anew.
pub(crate) fn resets(content: &EnrollmentContent, before: Option<&DevicePlace>) -> bool {
    let policy = content.reprovision.unwrap_or(ReprovisionPolicy::MIGRATE);
    before.is_some() && policy.update_hub_assignment && !policy.migrate_device_data
}

/// A device and the hub that it belongs to from now on.
pub(crate) struct Assignment<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) content: &'a EnrollmentContent,
    /// Of the enrollment.
    pub(crate) kind: EnrollmentKind,
    pub(crate) authentication: AuthenticationWrite,
    pub(crate) before: Option<&'a DevicePlace>,
    pub(crate) place: DevicePlace,
    /// Content of a new twin in place of that of the enrollment.
    pub(crate) twin: Option<TwinSeed>,
    /// The device comes from another hub with its data.
    pub(crate) has_moved: bool,
    /// It was switched off there.
    pub(crate) is_disabled: bool,
    /// A new device is an edge device.
    pub(crate) is_edge: bool,
    /// Everything else stays as it is.
    pub(crate) only_credentials: bool,
}

impl Assignment<'_> {
    /// Whether the device's data begin anew.
    pub(crate) fn resets(&self) -> bool {
        !self.only_credentials && resets(self.content, self.before)
    }

    /// Leaves a device that stays where it is the certificate that it has. `is_own`: it is at this hub.
    pub(crate) fn keep_certificate(
        &mut self,
        registration_id: &str,
        is_own: bool,
        now: UnixMillis,
    ) -> Result<(), RegistryError> {
        let stays = self.before.is_some_and(|before| is_same_place(before, &self.place)) && !self.resets();
        if !stays {
            return Ok(());
        }
        let at = At {
            registry: self.registry,
            registration_id,
            place: &self.place,
            is_own,
            now,
        };
        if let Some(authentication) = issuance::kept(&at, self.content)? {
            self.authentication = authentication;
        }
        Ok(())
    }

    /// The registration's state.
    pub(crate) fn outcome(&self) -> RegistrationOutcome {
        RegistrationOutcome::Assigned {
            hub: self.place.hub.clone(),
            device_id: self.place.device_id.clone(),
            substatus: match (self.has_moved, self.resets()) {
                (true, _) => Substatus::DeviceDataMigrated,
                (false, true) => Substatus::DeviceDataReset,
                (false, false) => Substatus::InitialAssignment,
            },
        }
    }

    /// The writes of the identity at this hub.
    pub(crate) fn identity(&self) -> Result<Vec<IdentityWrite>, RegistryError> {
        let id = IdentityId::device(self.place.device_id.clone());
        let content = self.content;
        let existing = self.registry.identity(&id)?;
        let write = |operation| IdentityWrite {
            id: id.clone(),
            operation,
        };
        let mut new = IdentityContent {
            authentication: Some(self.authentication.clone()),
            iot_edge: Some(self.is_edge),
            status: match self.is_disabled {
                true => Status::Disabled,
                false => Status::Enabled,
            },
            twin: self.twin.clone().unwrap_or_else(|| content.initial_twin.clone()),
            ..IdentityContent::default()
        };
        let Some(existing) = existing else {
            // Created meanwhile by someone else: then the decision is made anew.
            return Ok(vec![write(WriteOperation::Create(new))]);
        };
        // What an operator has switched off stays off.
        new.status = existing.status;
        new.status_reason.clone_from(&existing.status_reason);
        let if_match = IfMatch::ETag(existing.etag.0.clone());
        if self.resets() {
            // A new generation: twin, queue and subscriptions begin anew.
            return Ok(vec![
                write(WriteOperation::Delete(if_match)),
                write(WriteOperation::Create(new)),
            ]);
        }
        if has_credentials(&existing, &self.authentication, self.kind) && (existing.iot_edge || !content.iot_edge) {
            return Ok(Vec::new());
        }
        new.iot_edge = content.iot_edge.then_some(true);
        Ok(vec![write(WriteOperation::Update(if_match, new))])
    }
}

/// Whether two places are the same device.
pub(crate) fn is_same_place(a: &DevicePlace, b: &DevicePlace) -> bool {
    a.hub.eq_ignore_ascii_case(&b.hub) && a.device_id == b.device_id
}

/// Whether the device gets in by what it has registered with. The chain of a group's device ends at a CA of the hub, so that
/// `certificateAuthority`, which the hub or an operator has chosen for it, admits it, too.
fn has_credentials(identity: &Identity, wanted: &AuthenticationWrite, kind: EnrollmentKind) -> bool {
    match (&identity.authentication, wanted) {
        (Authentication::Sas(keys), AuthenticationWrite::Sas(Some(wanted))) => keys == wanted,
        (Authentication::SelfSigned(known), AuthenticationWrite::SelfSigned(Some(wanted))) => known == wanted,
        (Authentication::CertificateAuthority, AuthenticationWrite::CertificateAuthority) => true,
        (Authentication::CertificateAuthority, AuthenticationWrite::SelfSigned(_)) => kind == EnrollmentKind::Group,
        _ => false,
    }
}

/// Whether a refused write may succeed when it is decided anew: something had changed since the decision.
pub(crate) fn is_conflict(error: &RegistryError) -> bool {
    matches!(
        error.code(),
        ErrorCode::RegistrationConflict
            | ErrorCode::PreconditionFailed
            | ErrorCode::DeviceAlreadyExists
            | ErrorCode::DeviceNotFound
    ) && matches!(error, RegistryError::Rejected(_))
}
