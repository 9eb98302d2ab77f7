//! Issuing certificates: CAs of the hub's own, and the record of what was issued.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{DeviceId, ErrorCode};
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::{Registry, first, fresh_etag, rejection};
use crate::error::RegistryError;
use crate::issuance::{DeviceCertificates, IssueWrite, Issuer, IssuerWrite, Issuers};
use crate::revocations::RevokedCertificate;
use crate::state::{ANY_ETAG, Rejection};
use crate::write::IfMatch;

impl Registry {
    /// All issuing CAs, in this node's replica.
    #[must_use]
    pub fn issuers(&self) -> Arc<Issuers> {
        self.0.local.issuers()
    }

    /// The certificates of a device, in this node's replica.
    ///
    /// # Errors
    /// [`RegistryError::State`] when they cannot be read.
    pub fn device_certificates(&self, device: &DeviceId) -> Result<Option<DeviceCertificates>, RegistryError> {
        self.0.local.device_certificates(device)
    }

    /// Creates an issuing CA, or changes the one with this name: without a condition it must not exist. It is a verified CA of the hub
    /// from then on.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with what is wrong; else as [`Self::write`].
    pub async fn put_issuer(
        &self,
        write: &IssuerWrite,
        if_match: Option<&IfMatch>,
    ) -> Result<Arc<Issuer>, RegistryError> {
        write.check(self.0.clock.now())?;
        let command = proto::PutIssuer {
            issuer: Some(write.to_proto(&self.0.local.secrets, fresh_etag())?),
            if_match: if_match.map(condition),
            ca_etag: fresh_etag(),
            max_cas: self.0.max_cas,
        };
        let answer = first(self.propose(Command::PutIssuer(command)).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        let found = self.issuers().get(&write.name).cloned();
        found.ok_or(RegistryError::OutcomeUnknown)
    }

    /// Removes an issuing CA and its key. What it has issued stays valid until the CA of the hub is removed.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name or ETag; else as [`Self::write`].
    pub async fn remove_issuer(&self, name: &str, if_match: &IfMatch) -> Result<(), RegistryError> {
        self.change(Command::RemoveIssuer(proto::RemoveIssuer {
            name: name.to_owned(),
            if_match: Some(condition(if_match)),
        }))
        .await
    }

    /// Records a certificate that was issued.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with [`ErrorCode::RegistrationConflict`] when the device has another epoch meanwhile; else as
    /// [`Self::write`].
    pub async fn record_issued(&self, write: &IssueWrite) -> Result<(), RegistryError> {
        self.change(Command::IssueCertificate(write.to_proto())).await
    }

    /// Revokes everything that was issued to a device, and closes its sessions with such certificates. Certificates that carry no epoch,
    /// those of an external signer, go to the deny list.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with [`ErrorCode::CertificateNotFound`] when nothing was issued; else as [`Self::revoke`].
    pub async fn revoke_device_certificates(&self, device: &DeviceId, reason: &str) -> Result<(), RegistryError> {
        self.read_barrier().await?;
        let Some(found) = self.device_certificates(device)? else {
            let text = format!("the hub has issued no certificate to device '{device}'");
            return Err(Rejection::new(ErrorCode::CertificateNotFound, text).into());
        };
        for issued in found.issued.iter().filter(|issued| !issued.has_epoch) {
            let certificate = RevokedCertificate::Digest(issued.sha256);
            self.revoke(
                certificate,
                reason,
                Some("revoked with its device"),
                Some(&issued.issuer),
            )
            .await?;
        }
        self.change(Command::RevokeDeviceCertificates(proto::RevokeDeviceCertificates {
            device_id: device.to_string(),
            epoch: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
        }))
        .await
    }
}

fn condition(if_match: &IfMatch) -> String {
    match if_match {
        IfMatch::Any => ANY_ETAG.to_owned(),
        IfMatch::ETag(etag) => etag.clone(),
    }
}
