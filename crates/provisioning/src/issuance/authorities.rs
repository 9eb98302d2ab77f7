//! What operators do: create issuing CAs, issue by hand, revoke.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_auth::x509::{CaCertificate, Serial, SigningRequest};
use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_registry::{
    IfMatch, IssuanceForm, IssuancePolicy, IssuanceReference, Issuer, IssuerKey, IssuerWrite, RevokedCertificate,
};
use zeroize::Zeroizing;

use super::order::{check_key, new_authority};
use super::{CheckedRequest, IssuingNode, decode_csr, invalid};
use crate::error::ProvisioningError;
use crate::service::Provisioning;

/// A CA that is to issue.
#[derive(Debug)]
pub struct NewCa {
    /// Its name at the hub.
    pub name: String,
    /// What it issues.
    pub policies: Vec<IssuancePolicy>,
    /// Where its key comes from.
    pub source: CaKeySource,
}

/// Where the key of an issuing CA comes from.
pub enum CaKeySource {
    /// The hub makes it, and a self-signed certificate with this common name.
    Generated {
        /// The common name.
        common_name: String,
        /// How long the certificate is valid.
        validity: Duration,
    },
    /// It was made elsewhere.
    Imported {
        /// DER: its certificate, and those above it.
        chain: Vec<Vec<u8>>,
        /// PKCS#8 in DER.
        key: Zeroizing<Vec<u8>>,
    },
    /// It stays elsewhere.
    External {
        /// DER: its certificate, and those above it.
        chain: Vec<Vec<u8>>,
        /// Where the signer listens.
        url: String,
        /// A bearer token for it.
        token: Option<Zeroizing<String>>,
    },
}

impl std::fmt::Debug for CaKeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Generated { .. } => "Generated",
            Self::Imported { .. } => "Imported",
            Self::External { .. } => "External",
        })
    }
}

impl Provisioning {
    /// Creates an issuing CA, which is a verified CA of the hub from then on.
    ///
    /// # Errors
    /// [`ErrorCode::ArgumentInvalid`], [`ErrorCode::GenericConflict`] when the name is taken; else as registry writes.
    pub async fn create_ca(&self, new: NewCa) -> Result<Arc<Issuer>, ProvisioningError> {
        let (chain, key) = match new.source {
            CaKeySource::Generated { common_name, validity } => {
                let now = self.hub().clock().now();
                let validity = u64::try_from(validity.as_millis()).unwrap_or(u64::MAX);
                let until = UnixMillis(now.0.saturating_add(validity));
                let made = new_authority(&common_name, now, until);
                let (certificate, key) = made.map_err(|text| ProvisioningError::new(ErrorCode::ServerError, text))?;
                (vec![certificate], IssuerKey::Own(key))
            }
            CaKeySource::Imported { chain, key } => {
                let first = chain.first().ok_or_else(|| invalid("the chain is missing"))?;
                let ca = CaCertificate::parse(first).map_err(|error| invalid(error.to_string()))?;
                check_key(&key, &ca).map_err(invalid)?;
                (chain, IssuerKey::Own(key))
            }
            CaKeySource::External { chain, url, token } => (chain, IssuerKey::External { url, token }),
        };
        let write = IssuerWrite {
            name: new.name,
            chain: chain.into_iter().map(Bytes::from).collect(),
            key: Some(key),
            policies: new.policies,
        };
        Ok(self.hub().registry().put_issuer(&write, None).await?)
    }

    /// Replaces the policies of an issuing CA; what they have issued stays.
    ///
    /// # Errors
    /// [`ErrorCode::CertificateNotFound`], [`ErrorCode::PreconditionFailed`]; else as registry writes.
    pub async fn set_policies(
        &self,
        issuer: &Issuer,
        policies: Vec<IssuancePolicy>,
    ) -> Result<Arc<Issuer>, ProvisioningError> {
        let write = IssuerWrite {
            name: issuer.name.clone(),
            chain: issuer.chain.clone(),
            key: None,
            policies,
        };
        let if_match = IfMatch::ETag(issuer.etag.clone());
        Ok(self.hub().registry().put_issuer(&write, Some(&if_match)).await?)
    }

    /// Issues a certificate for an operator: one that a factory puts into a device before its first boot. It outlives the device's
    /// epochs, and is revoked by its serial number. Returns DER, the device's first.
    ///
    /// # Errors
    /// [`ErrorCode::ArgumentInvalid`], [`ErrorCode::InvalidOperation`] without such a policy; else as registry writes.
    pub async fn issue_by_hand(&self, ca: &str, policy: &str, csr: &str) -> Result<Vec<Vec<u8>>, ProvisioningError> {
        let csr = decode_csr(csr)?;
        let request = SigningRequest::read(&csr).map_err(|error| invalid(error.to_string()))?;
        let device = DeviceId::parse(request.common_name()).map_err(|error| invalid(error.to_string()))?;
        let registry = self.hub().registry();
        registry.read_barrier().await?;
        let found = registry.device_certificates(&device)?;
        let request = CheckedRequest {
            csr,
            request,
            reference: IssuanceReference {
                issuer: ca.to_owned(),
                policy: policy.to_owned(),
                namespace: String::new(),
                form: IssuanceForm::Names,
            },
        };
        let order = request.order(registry, &device, None, false)?;
        let node = IssuingNode {
            registry,
            call: self.signer(),
            now: self.hub().clock().now(),
        };
        let issued = node.issued(order, found.as_ref()).await;
        let issued = issued.map_err(|text| ProvisioningError::new(ErrorCode::ServiceUnavailable, text))?;
        registry.record_issued(&issued.write).await?;
        Ok(issued.chain)
    }

    /// Revokes one certificate that the hub has issued to a device, by its serial number; sessions that it carries are closed.
    ///
    /// # Errors
    /// [`ErrorCode::CertificateNotFound`] when it is not on the record; [`ErrorCode::RegistrationConflict`] and
    /// [`ErrorCode::InvalidOperation`] when it is revoked, and the linked hub of the device cannot be reached through an operation; else as
    /// registry writes.
    pub async fn revoke_issued(
        &self,
        device: &DeviceId,
        serial: &str,
        reason: &str,
        comment: Option<&str>,
    ) -> Result<(), ProvisioningError> {
        let serial = Serial::parse(serial).ok_or_else(|| invalid("a serial number has hexadecimal digits"))?;
        let registry = self.hub().registry();
        registry.read_barrier().await?;
        let found = registry.device_certificates(device)?;
        let issued = found.and_then(|found| found.issued.into_iter().find(|issued| issued.serial == serial));
        let Some(issued) = issued else {
            let text = format!("no certificate with this serial number is on the record of device '{device}'");
            return Err(ProvisioningError::new(ErrorCode::CertificateNotFound, text));
        };
        let certificate = RevokedCertificate::Digest(issued.sha256);
        registry
            .revoke(certificate, reason, comment, Some(&issued.issuer))
            .await?;
        self.withdraw(device).await
    }

    /// Revokes everything that the hub has issued to a device; sessions that such certificates carry are closed.
    ///
    /// # Errors
    /// [`ErrorCode::CertificateNotFound`] when nothing was issued; else as [`Self::revoke_issued`].
    pub async fn revoke_all_issued(&self, device: &DeviceId, reason: &str) -> Result<(), ProvisioningError> {
        let registry = self.hub().registry();
        registry.revoke_device_certificates(device, reason).await?;
        self.withdraw(device).await
    }
}
