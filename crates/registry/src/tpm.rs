//! TPMs in enrollments and registrations (Spec provisioning §7).
//!
//! Invariants: `Debug` shows no secret; what an enrollment holds is public but for its secrets, which the leader generates and seals.
//! Not here: whether the bytes are keys of a TPM (`auth::tpm`), nonces and challenges (`provisioning`).

use bytes::Bytes;
use holdfast_auth::KeyPair;
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1 as proto;

use crate::state::Rejection;

/// Longest public key of a TPM, in bytes; those of the clients' templates have 316.
pub const MAX_TPM_KEY_BYTES: usize = 1024;

/// Attestation by a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmAttestation {
    /// The keys that the enrollment names.
    pub keys: TpmEnrollmentKeys,
    /// What nonces and the keys of the device at its hub are derived from. New with every enrollment.
    pub secrets: KeyPair,
}

/// The public keys of an enrollment, each a `TPM2B_PUBLIC`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmEnrollmentKeys {
    /// Identifies the TPM.
    pub endorsement_key: Bytes,
    /// Kept for its writer.
    pub storage_root_key: Option<Bytes>,
}

/// The TPM that a registration was decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationTpm {
    /// A `TPM2B_PUBLIC`.
    pub endorsement_key: Bytes,
    /// A `TPM2B_PUBLIC`.
    pub storage_root_key: Bytes,
    /// What its nonce was derived from.
    pub nonce_salt: String,
}

impl TpmEnrollmentKeys {
    pub(crate) fn check(&self) -> Result<(), Rejection> {
        let longest = self
            .storage_root_key
            .iter()
            .chain([&self.endorsement_key])
            .map(Bytes::len)
            .max();
        if self.endorsement_key.is_empty() || longest.is_some_and(|length| length > MAX_TPM_KEY_BYTES) {
            let text = format!("a public key of a TPM has 1 to {MAX_TPM_KEY_BYTES} bytes");
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text));
        }
        Ok(())
    }

    pub(crate) fn to_proto(&self) -> proto::TpmAttestation {
        proto::TpmAttestation {
            endorsement_key: self.endorsement_key.clone(),
            storage_root_key: self.storage_root_key.clone().unwrap_or_default(),
        }
    }
}

impl From<proto::TpmAttestation> for TpmEnrollmentKeys {
    fn from(stored: proto::TpmAttestation) -> Self {
        Self {
            endorsement_key: stored.endorsement_key,
            storage_root_key: (!stored.storage_root_key.is_empty()).then_some(stored.storage_root_key),
        }
    }
}

impl RegistrationTpm {
    pub(crate) fn to_proto(&self) -> proto::RegistrationTpm {
        proto::RegistrationTpm {
            endorsement_key: self.endorsement_key.clone(),
            storage_root_key: self.storage_root_key.clone(),
            nonce_salt: self.nonce_salt.clone(),
        }
    }
}

impl From<proto::RegistrationTpm> for RegistrationTpm {
    fn from(stored: proto::RegistrationTpm) -> Self {
        Self {
            endorsement_key: stored.endorsement_key,
            storage_root_key: stored.storage_root_key,
            nonce_salt: stored.nonce_salt,
        }
    }
}
