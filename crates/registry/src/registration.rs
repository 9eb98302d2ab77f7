//! Registrations of devices: their state, the operation in progress, and what is left to do.
//!
//! Invariants: a registration with an operation in progress has everything that any node needs to carry it on; `Debug` shows no key.
//! Not here: what an operation does (`provisioning`), whether its enrollment is still the same (`state::provisioning`).

use std::sync::Arc;

use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::issuance::IssueWrite;
use crate::pending::{IssuedChain, PendingRegistration};
use crate::provisioning::{Enrollment, EnrollmentKind};
use crate::secrets::{SecretError, Secrets};
use crate::state::Rejection;
use crate::tpm::RegistrationTpm;
use crate::write::IdentityWrite;

/// Ends of earlier operations that a registration keeps.
const MAX_HISTORY: usize = 8;

/// Most devices to delete at other hubs that a registration keeps.
const MAX_LEFT: usize = 16;

/// Longest payload for a device, in bytes of JSON text.
pub const MAX_RETURNED_PAYLOAD_BYTES: usize = 32 * 1024;

/// Longest beginning of a webhook's answer that is kept, and longest text of a failure, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The state of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrationOutcome {
    /// An operation is in progress.
    Assigning(Box<PendingRegistration>),
    /// The device belongs to a hub: see [`Registration::place`].
    Assigned {
        /// The hub's host name.
        hub: String,
        /// The device's id there.
        device_id: DeviceId,
        /// How it came to that.
        substatus: Substatus,
    },
    /// No hub took it.
    Failed {
        /// Why, as a number of the catalogue.
        code: ErrorCode,
        /// Why, for people.
        text: String,
    },
}

/// How a device came to its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Substatus {
    /// For the first time, or again to the same one.
    InitialAssignment,
    /// With its data.
    DeviceDataMigrated,
    /// Without its data.
    DeviceDataReset,
}

impl Substatus {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InitialAssignment => "initialAssignment",
            Self::DeviceDataMigrated => "deviceDataMigrated",
            Self::DeviceDataReset => "deviceDataReset",
        }
    }
}

/// A device at a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlace {
    /// The hub's host name.
    pub hub: String,
    /// The device's id there.
    pub device_id: DeviceId,
}

/// A device at a hub where it does not belong any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftDevice {
    /// Where.
    pub place: DevicePlace,
    /// Its generation there; empty: unknown.
    pub generation: String,
}

/// The outcome of a call of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebhookAnswer {
    /// Its status; `None`: there was no answer.
    pub status: Option<u16>,
    /// The beginning of its body, or why there is none.
    pub text: String,
    /// How often it was called.
    pub attempts: u32,
    /// When the outcome was known.
    pub at: UnixMillis,
}

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastOperation {
    /// The operation.
    pub operation_id: String,
    /// When it ended.
    pub ended: UnixMillis,
    /// The hub; `None`: it failed.
    pub hub: Option<String>,
    /// Why it failed.
    pub failure: Option<(ErrorCode, String)>,
    /// The webhook's status, if it was called and answered.
    pub webhook_status: Option<u16>,
}

/// The registration of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// As the device sent it first; found in any case.
    pub id: String,
    /// New on every write.
    pub etag: String,
    /// When it was created.
    pub created: UnixMillis,
    /// When it was written last.
    pub updated: UnixMillis,
    /// Its state.
    pub outcome: RegistrationOutcome,
    /// Where the device is; during an operation and after one that failed: where it was before.
    pub place: Option<DevicePlace>,
    /// The name of the attestation that it was decided by.
    pub attestation: &'static str,
    /// The group that it was decided by; `None`: an individual enrollment.
    pub group: Option<String>,
    /// The operation that wrote it last.
    pub operation_id: String,
    /// Devices to delete at hubs where they do not belong any more.
    pub left: Vec<LeftDevice>,
    /// A JSON object for the device.
    pub payload: Option<String>,
    /// What the webhook answered last.
    pub webhook: Option<WebhookAnswer>,
    /// Ends of earlier operations, the newest first.
    pub history: Vec<PastOperation>,
    /// The TPM that it was decided by.
    pub tpm: Option<RegistrationTpm>,
    /// The certificate that the operation has issued.
    pub issued_chain: Option<IssuedChain>,
}

pub(crate) const SYMMETRIC_KEY: &str = "symmetricKey";
pub(crate) const X509: &str = "x509";
pub(crate) const TPM: &str = "tpm";

impl Registration {
    pub(crate) fn read(record: proto::RegistrationRecord, secrets: &Secrets) -> Result<Self, SecretError> {
        let substatus = match record.substatus() {
            proto::RegistrationSubstatus::DeviceDataMigrated => Substatus::DeviceDataMigrated,
            proto::RegistrationSubstatus::DeviceDataReset => Substatus::DeviceDataReset,
            proto::RegistrationSubstatus::InitialAssignment | proto::RegistrationSubstatus::Unspecified => {
                Substatus::InitialAssignment
            }
        };
        let attestation = match record.attestation() {
            proto::AttestationType::X509 => X509,
            proto::AttestationType::Tpm => TPM,
            proto::AttestationType::SymmetricKey | proto::AttestationType::Unspecified => SYMMETRIC_KEY,
        };
        let place = place(&record.assigned_hub, &record.device_id);
        let pending = match record.pending.clone() {
            Some(pending) => PendingRegistration::read(pending, secrets)?,
            None => None,
        };
        let outcome = match (record.status(), &place, pending) {
            (proto::RegistrationStatus::Assigning, _, Some(pending)) => {
                RegistrationOutcome::Assigning(Box::new(pending))
            }
            (proto::RegistrationStatus::Assigned, Some(place), _) => RegistrationOutcome::Assigned {
                hub: place.hub.clone(),
                device_id: place.device_id.clone(),
                substatus,
            },
            _ => RegistrationOutcome::Failed {
                code: ErrorCode::from_number(record.error_code).unwrap_or(ErrorCode::ServerError),
                text: record.error_text,
            },
        };
        Ok(Self {
            id: record.registration_id,
            etag: record.etag,
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
            outcome,
            place,
            attestation,
            group: (!record.group.is_empty()).then_some(record.group),
            operation_id: record.operation_id,
            left: record.left.into_iter().filter_map(left_from_proto).collect(),
            payload: record.payload,
            webhook: record.webhook.map(|answer| WebhookAnswer {
                status: status(answer.status),
                text: answer.text,
                attempts: answer.attempts,
                at: UnixMillis(answer.at_ms),
            }),
            history: record.history.into_iter().map(past_from_proto).collect(),
            tpm: record.tpm.map(RegistrationTpm::from),
            issued_chain: record.issued_chain.map(IssuedChain::from),
        })
    }

    /// The operation in progress.
    #[must_use]
    pub fn pending(&self) -> Option<&PendingRegistration> {
        match &self.outcome {
            RegistrationOutcome::Assigning(pending) => Some(pending),
            RegistrationOutcome::Assigned { .. } | RegistrationOutcome::Failed { .. } => None,
        }
    }

    /// Why the operation has failed, also while a revocation that it has overtaken continues.
    #[must_use]
    pub fn failure(&self) -> Option<(ErrorCode, &str)> {
        match &self.outcome {
            RegistrationOutcome::Failed { code, text } => Some((*code, text)),
            RegistrationOutcome::Assigned { .. } => None,
            RegistrationOutcome::Assigning(_) => {
                let last = self.history.first()?;
                let of_this = last.failure.as_ref().filter(|_| last.operation_id == self.operation_id);
                of_this.map(|(code, text)| (*code, text.as_str()))
            }
        }
    }

    /// The ends of operations, this one's among them if it has ended, the newest first.
    #[must_use]
    pub fn past_operations(&self) -> Vec<PastOperation> {
        let (hub, failure) = match &self.outcome {
            RegistrationOutcome::Assigning(_) => return self.history.clone(),
            RegistrationOutcome::Assigned { hub, .. } => (Some(hub.clone()), None),
            RegistrationOutcome::Failed { code, text } => (None, Some((*code, text.clone()))),
        };
        let last = PastOperation {
            operation_id: self.operation_id.clone(),
            ended: self.updated,
            hub,
            failure,
            webhook_status: self.webhook.as_ref().and_then(|answer| answer.status),
        };
        std::iter::once(last)
            .chain(self.history.iter().cloned())
            .take(MAX_HISTORY)
            .collect()
    }
}

fn place(hub: &str, device_id: &str) -> Option<DevicePlace> {
    let device_id = DeviceId::parse(device_id).ok().filter(|_| !hub.is_empty())?;
    Some(DevicePlace {
        hub: hub.to_owned(),
        device_id,
    })
}

fn left_from_proto(left: proto::LeftDevice) -> Option<LeftDevice> {
    Some(LeftDevice {
        place: place(&left.hub, &left.device_id)?,
        generation: left.generation,
    })
}

fn past_from_proto(past: proto::PastOperation) -> PastOperation {
    let is_failed = past.status() != proto::RegistrationStatus::Assigned;
    let code = ErrorCode::from_number(past.error_code).unwrap_or(ErrorCode::ServerError);
    PastOperation {
        operation_id: past.operation_id,
        ended: UnixMillis(past.ended_ms),
        hub: (!past.hub.is_empty()).then_some(past.hub),
        failure: is_failed.then_some((code, past.error_text)),
        webhook_status: status(past.webhook_status),
    }
}

fn past_to_proto(past: &PastOperation) -> proto::PastOperation {
    let (code, text) = match &past.failure {
        Some((code, text)) => (code.number(), text.clone()),
        None => (0, String::new()),
    };
    proto::PastOperation {
        operation_id: past.operation_id.clone(),
        ended_ms: past.ended.0,
        status: match past.failure {
            Some(_) => proto::RegistrationStatus::Failed,
            None => proto::RegistrationStatus::Assigned,
        }
        .into(),
        hub: past.hub.clone().unwrap_or_default(),
        error_code: code,
        error_text: text,
        webhook_status: past.webhook_status.unwrap_or(0).into(),
    }
}

fn status(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|status| *status > 0)
}

/// A decided registration, and what it was decided by.
#[derive(Debug, Clone)]
pub struct RegistrationWrite {
    /// As the device sent it, or as it is stored.
    pub id: String,
    /// The new state.
    pub outcome: RegistrationOutcome,
    /// The operation.
    pub operation_id: String,
    /// The registration that was found: its ETag is checked, and place and history are taken from it.
    pub found: Option<Arc<Registration>>,
    /// The enrollment that opened the way.
    pub enrollment: EnrollmentReference,
    /// Writes of the identity at this hub; none where it belongs to another hub, or to none.
    pub identity: Vec<IdentityWrite>,
    /// Devices to delete at hubs where they do not belong any more.
    pub left: Vec<LeftDevice>,
    /// A JSON object for the device.
    pub payload: Option<String>,
    /// What the webhook answered.
    pub webhook: Option<WebhookAnswer>,
    /// The TPM that has proved itself.
    pub tpm: Option<RegistrationTpm>,
    /// The certificate that the device gets with it.
    pub issue: Option<IssueWrite>,
    /// The same, for the device that asks how its operation has ended.
    pub issued_chain: Option<IssuedChain>,
}

/// The enrollment that a registration is decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollmentReference {
    /// Its kind.
    pub kind: EnrollmentKind,
    /// Its id.
    pub id: String,
    /// Its ETag.
    pub etag: String,
    /// The name of its attestation.
    pub attestation: &'static str,
}

impl From<&Enrollment> for EnrollmentReference {
    fn from(enrollment: &Enrollment) -> Self {
        Self {
            kind: enrollment.kind,
            id: enrollment.id.clone(),
            etag: enrollment.etag.clone(),
            attestation: enrollment.attestation.type_name(),
        }
    }
}

impl RegistrationWrite {
    /// Checks the values that need no state.
    ///
    /// # Errors
    /// [`Rejection`] naming the first value that is wrong.
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        if self.left.len() > MAX_LEFT {
            let text = "the device is still to be deleted at too many hubs: make them reachable, or remove them";
            return Err(Rejection::new(ErrorCode::RegistrationConflict, text));
        }
        if self
            .payload
            .as_ref()
            .is_some_and(|payload| payload.len() > MAX_RETURNED_PAYLOAD_BYTES)
        {
            let text = format!("the payload for the device is larger than {MAX_RETURNED_PAYLOAD_BYTES} bytes");
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        }
        self.identity.iter().try_for_each(IdentityWrite::check)
    }

    pub(crate) fn to_proto(&self, etag: String, secrets: &Secrets) -> Result<proto::PutRegistration, SecretError> {
        let enrollment = &self.enrollment;
        let mut record = proto::RegistrationRecord {
            registration_id: self.id.clone(),
            etag,
            operation_id: self.operation_id.clone(),
            group: match enrollment.kind {
                EnrollmentKind::Individual => String::new(),
                EnrollmentKind::Group => enrollment.id.clone(),
            },
            left: self
                .left
                .iter()
                .map(|left| proto::LeftDevice {
                    hub: left.place.hub.clone(),
                    device_id: left.place.device_id.to_string(),
                    generation: left.generation.clone(),
                })
                .collect(),
            tpm: self.tpm.as_ref().map(RegistrationTpm::to_proto),
            issued_chain: self.issued_chain.as_ref().map(IssuedChain::to_proto),
            payload: self.payload.clone(),
            webhook: self.webhook.as_ref().map(|answer| proto::WebhookAnswer {
                status: answer.status.unwrap_or(0).into(),
                text: beginning(&answer.text),
                attempts: answer.attempts,
                at_ms: answer.at.0,
            }),
            ..proto::RegistrationRecord::default()
        };
        if let Some(found) = &self.found {
            record.history = found.past_operations().iter().map(past_to_proto).collect();
        }
        record.set_attestation(match enrollment.attestation {
            X509 => proto::AttestationType::X509,
            TPM => proto::AttestationType::Tpm,
            _ => proto::AttestationType::SymmetricKey,
        });
        // Where it was before, unless it is assigned.
        if let Some(before) = self.found.as_ref().and_then(|found| found.place.as_ref()) {
            record.assigned_hub.clone_from(&before.hub);
            record.device_id = before.device_id.to_string();
        }
        match &self.outcome {
            RegistrationOutcome::Assigning(pending) => {
                record.set_status(proto::RegistrationStatus::Assigning);
                record.pending = Some(pending.to_proto(secrets)?);
            }
            RegistrationOutcome::Assigned {
                hub,
                device_id,
                substatus,
            } => {
                record.set_status(proto::RegistrationStatus::Assigned);
                record.assigned_hub.clone_from(hub);
                record.device_id = device_id.to_string();
                record.set_substatus(match substatus {
                    Substatus::InitialAssignment => proto::RegistrationSubstatus::InitialAssignment,
                    Substatus::DeviceDataMigrated => proto::RegistrationSubstatus::DeviceDataMigrated,
                    Substatus::DeviceDataReset => proto::RegistrationSubstatus::DeviceDataReset,
                });
            }
            RegistrationOutcome::Failed { code, text } => {
                record.set_status(proto::RegistrationStatus::Failed);
                record.error_code = code.number();
                record.error_text = beginning(text);
            }
        }
        Ok(proto::PutRegistration {
            registration: Some(record),
            found_etag: self.found.as_ref().map(|found| found.etag.clone()),
            enrollment_kind: enrollment.kind.to_proto().into(),
            enrollment_id: enrollment.id.clone(),
            enrollment_etag: enrollment.etag.clone(),
            identity: Vec::new(),
            issue: self.issue.as_ref().map(IssueWrite::to_proto),
        })
    }
}

/// As much of a text as is kept.
fn beginning(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
