//! What a registration changes: the hub, the device's id there, and the identity (Spec provisioning §8.3, §8.4).
//!
//! Invariants: pure but for reads of the local replica; the write carries what it was decided by, so that it is refused when that has
//! changed.

use std::sync::Arc;

use holdfast_auth::HubNames;
use holdfast_model::{DeviceId, ErrorCode, IdentityId, InvalidId};
use holdfast_registry::{
    AllocationPolicy, Authentication, AuthenticationWrite, Enrollment, Identity, IdentityContent, IdentityWrite,
    IfMatch, Registration, RegistrationOutcome, RegistrationWrite, Registry, RegistryError, ReprovisionPolicy,
    Substatus, WriteOperation,
};

use crate::allocation::{LinkedHub, allocate};
use crate::attestation::Attested;

/// The facts of a decision.
pub(crate) struct Decision<'a> {
    pub(crate) registry: &'a Registry,
    /// The names of this hub.
    pub(crate) hub_names: &'a HubNames,
    pub(crate) hubs: &'a [LinkedHub],
    /// As the device sent it.
    pub(crate) registration_id: &'a str,
    pub(crate) found: Option<Registration>,
    pub(crate) attested: Attested,
    pub(crate) operation_id: String,
}

impl Decision<'_> {
    /// The write of the registration.
    pub(crate) fn write(self) -> Result<RegistrationWrite, RegistryError> {
        let enrollment = Arc::clone(&self.attested.enrollment);
        let policy = enrollment.content.reprovision.unwrap_or(ReprovisionPolicy::MIGRATE);
        let before = match self.found.as_ref().map(|found| &found.outcome) {
            Some(RegistrationOutcome::Assigned { hub, device_id, .. }) => Some((hub.clone(), device_id.clone())),
            Some(RegistrationOutcome::Failed { .. }) | None => None,
        };
        let hub = match &before {
            Some((hub, _)) if !policy.update_hub_assignment => Ok(hub.clone()),
            _ => self.hub(&enrollment),
        };
        let failed = |code, text: String| (RegistrationOutcome::Failed { code, text }, Vec::new());
        let (outcome, identity) = match (hub, self.device_id(before.as_ref().map(|(_, id)| id))) {
            (Err(text), _) => failed(ErrorCode::NoHubToAssign, text),
            (_, Err(error)) => failed(ErrorCode::ArgumentInvalid, error.to_string()),
            (Ok(hub), Ok(device_id)) => {
                let resets = before.is_some() && policy.update_hub_assignment && !policy.migrate_device_data;
                let identity = self.identity(&device_id, resets)?;
                let substatus = match resets {
                    true => Substatus::DeviceDataReset,
                    false => Substatus::InitialAssignment,
                };
                let outcome = RegistrationOutcome::Assigned {
                    hub,
                    device_id,
                    substatus,
                };
                (outcome, identity)
            }
        };
        Ok(RegistrationWrite {
            id: self
                .found
                .as_ref()
                .map_or_else(|| self.registration_id.to_owned(), |found| found.id.clone()),
            outcome,
            operation_id: self.operation_id,
            found: self.found.map(Arc::new),
            enrollment,
            identity,
        })
    }

    /// The hub that the enrollment gives the device.
    fn hub(&self, enrollment: &Enrollment) -> Result<String, String> {
        let content = &enrollment.content;
        // This hub may be named by any of its names.
        let mut wanted = content.iot_hubs.clone();
        let mut policy = content.allocation.unwrap_or(AllocationPolicy::Hashed);
        if let Some(only) = &content.iot_hub_host_name
            && wanted.is_empty()
        {
            wanted.push(only.clone());
            policy = AllocationPolicy::Static;
        }
        for name in &mut wanted {
            if let Some(own) = self.hub_names.primary().filter(|_| self.hub_names.contains(name)) {
                own.clone_into(name);
            }
        }
        allocate(policy, self.hubs, &wanted, self.registration_id).map(|hub| hub.host.clone())
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

    /// The writes of the identity at this hub.
    fn identity(&self, device: &DeviceId, resets: bool) -> Result<Vec<IdentityWrite>, RegistryError> {
        let id = IdentityId::device(device.clone());
        let content = &self.attested.enrollment.content;
        let existing = self.registry.identity(&id)?;
        let write = |operation| IdentityWrite {
            id: id.clone(),
            operation,
        };
        let mut new = IdentityContent {
            authentication: Some(self.attested.authentication.clone()),
            iot_edge: Some(content.iot_edge),
            twin: content.initial_twin.clone(),
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
        if resets {
            // A new generation: twin, queue and subscriptions begin anew.
            return Ok(vec![
                write(WriteOperation::Delete(if_match)),
                write(WriteOperation::Create(new)),
            ]);
        }
        if has_credentials(&existing, &self.attested.authentication) && (existing.iot_edge || !content.iot_edge) {
            return Ok(Vec::new());
        }
        new.iot_edge = content.iot_edge.then_some(true);
        Ok(vec![write(WriteOperation::Update(if_match, new))])
    }
}

fn has_credentials(identity: &Identity, wanted: &AuthenticationWrite) -> bool {
    match (&identity.authentication, wanted) {
        (Authentication::Sas(keys), AuthenticationWrite::Sas(Some(wanted))) => keys == wanted,
        (Authentication::SelfSigned(known), AuthenticationWrite::SelfSigned(Some(wanted))) => known == wanted,
        (Authentication::CertificateAuthority, AuthenticationWrite::CertificateAuthority) => true,
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
