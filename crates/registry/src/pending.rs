//! Operations in progress, as registrations hold them: what any node needs to carry one on.
//!
//! Invariants: a certificate that is signed is stored before anything depends on it, so that an operation has one; `Debug` shows no key.
//! Not here: steps of operations (`provisioning`).

use std::fmt;

use bytes::Bytes;
use holdfast_model::{DeviceId, UnixMillis};
use holdfast_proto::registry::v1 as proto;

use crate::convert;
use crate::identity::{Authentication, TwinSeed};
use crate::issuance::IssueWrite;
use crate::provisioning::EnrollmentKind;
use crate::secrets::{SecretError, Secrets};
use crate::write::AuthenticationWrite;

/// An operation in progress.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingRegistration {
    /// The kind of the enrollment that opened the way.
    pub enrollment_kind: EnrollmentKind,
    /// Its id.
    pub enrollment_id: String,
    /// Its ETag.
    pub enrollment_etag: String,
    /// How the device authenticates at its hub.
    pub authentication: AuthenticationWrite,
    /// The device's id at its hub.
    pub device_id: DeviceId,
    /// What the device sent as payload, JSON.
    pub payload: Option<String>,
    /// When it began.
    pub started: UnixMillis,
    /// The hub, once it is chosen. From then on the device may be there.
    pub target_hub: Option<String>,
    /// Content of the twin in place of that of the enrollment and of the earlier hub.
    pub twin: Option<TwinSeed>,
    /// With geoLatency: the hubs that are near to the node that was asked, the nearest first.
    pub nearest: Vec<String>,
    /// A request for a certificate, PKCS#10 in DER.
    pub csr: Option<Bytes>,
    /// The certificate for it, once it is signed.
    pub certificate: Option<PendingCertificate>,
    /// Without a request: a certificate that was issued to the device before stays its credential.
    pub keeps_certificate: bool,
    /// The device stays as it is at its hub, but for its credentials: certificates of it have been revoked.
    pub only_credentials: bool,
    /// It has overtaken an operation of that kind, which continues if this one fails.
    pub overtook_revocation: bool,
}

impl fmt::Debug for PendingRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRegistration")
            .field("enrollment_id", &self.enrollment_id)
            .field("device_id", &self.device_id)
            .field("target_hub", &self.target_hub)
            .finish_non_exhaustive()
    }
}

/// Certificates for a device, its own first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedChain {
    /// DER.
    pub certificates: Vec<Bytes>,
    /// The issuing CA whose chain follows them; `None`: they are all.
    pub issuer: Option<String>,
}

impl IssuedChain {
    pub(crate) fn to_proto(&self) -> proto::IssuedChain {
        proto::IssuedChain {
            certificates: self.certificates.clone(),
            issuer: self.issuer.clone().unwrap_or_default(),
        }
    }
}

impl From<proto::IssuedChain> for IssuedChain {
    fn from(stored: proto::IssuedChain) -> Self {
        Self {
            certificates: stored.certificates,
            issuer: (!stored.issuer.is_empty()).then_some(stored.issuer),
        }
    }
}

/// A certificate that is signed, and is neither on the record of its device nor delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingCertificate {
    /// For the device.
    pub chain: IssuedChain,
    /// Its entry on the record.
    pub issue: IssueWrite,
    /// The epoch of the device when it was signed; `None`: it had none. Another one voids it.
    pub found_epoch: Option<[u8; 16]>,
}

impl PendingCertificate {
    /// `None`: it is none that this version knows; another one is signed then.
    fn read(stored: proto::PendingCertificate) -> Option<Self> {
        let found_epoch = match stored.found_epoch.is_empty() {
            true => None,
            false => Some(stored.found_epoch[..].try_into().ok()?),
        };
        Some(Self {
            chain: stored.chain?.into(),
            issue: IssueWrite::read(stored.issue?)?,
            found_epoch,
        })
    }

    fn to_proto(&self) -> proto::PendingCertificate {
        proto::PendingCertificate {
            chain: Some(self.chain.to_proto()),
            issue: Some(self.issue.to_proto()),
            found_epoch: self
                .found_epoch
                .map(|epoch| Bytes::copy_from_slice(&epoch))
                .unwrap_or_default(),
        }
    }
}

impl PendingRegistration {
    /// `None`: its device id or authentication is none that this version knows.
    pub(crate) fn read(pending: proto::PendingRegistration, secrets: &Secrets) -> Result<Option<Self>, SecretError> {
        let authentication = match &pending.authentication {
            Some(stored) => match convert::stored_authentication(stored, secrets)? {
                Authentication::Sas(keys) => AuthenticationWrite::Sas(Some(keys)),
                Authentication::SelfSigned(thumbprints) => AuthenticationWrite::SelfSigned(Some(thumbprints)),
                Authentication::CertificateAuthority => AuthenticationWrite::CertificateAuthority,
                Authentication::None => return Ok(None),
            },
            None => return Ok(None),
        };
        let enrollment_kind = match pending.enrollment_kind() {
            proto::EnrollmentKind::Group => EnrollmentKind::Group,
            proto::EnrollmentKind::Individual | proto::EnrollmentKind::Unspecified => EnrollmentKind::Individual,
        };
        let Ok(device_id) = DeviceId::parse(&pending.device_id) else {
            return Ok(None);
        };
        Ok(Some(Self {
            enrollment_kind,
            enrollment_id: pending.enrollment_id,
            enrollment_etag: pending.enrollment_etag,
            authentication,
            device_id,
            payload: pending.payload,
            started: UnixMillis(pending.started_ms),
            target_hub: (!pending.target_hub.is_empty()).then_some(pending.target_hub),
            twin: pending.twin.map(TwinSeed::from),
            nearest: pending.nearest,
            csr: (!pending.csr.is_empty()).then_some(pending.csr),
            certificate: pending.certificate.and_then(PendingCertificate::read),
            keeps_certificate: pending.keeps_certificate,
            only_credentials: pending.only_credentials,
            overtook_revocation: pending.overtook_revocation,
        }))
    }

    pub(crate) fn to_proto(&self, secrets: &Secrets) -> Result<proto::PendingRegistration, SecretError> {
        Ok(proto::PendingRegistration {
            enrollment_kind: self.enrollment_kind.to_proto().into(),
            enrollment_id: self.enrollment_id.clone(),
            enrollment_etag: self.enrollment_etag.clone(),
            authentication: Some(convert::authentication(&self.authentication, secrets)?),
            device_id: self.device_id.to_string(),
            payload: self.payload.clone(),
            started_ms: self.started.0,
            target_hub: self.target_hub.clone().unwrap_or_default(),
            twin: self.twin.clone().map(proto::TwinSeed::from),
            nearest: self.nearest.clone(),
            csr: self.csr.clone().unwrap_or_default(),
            certificate: self.certificate.as_ref().map(PendingCertificate::to_proto),
            keeps_certificate: self.keeps_certificate,
            only_credentials: self.only_credentials,
            overtook_revocation: self.overtook_revocation,
        })
    }
}
