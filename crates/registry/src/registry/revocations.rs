//! Revoking certificates: the deny list, and the CAs' revocation lists.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_auth::x509::{CaCertificate, Crl, CrlError};
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;
use sha2::{Digest as _, Sha256};

use super::{Registry, first, rejection};
use crate::error::RegistryError;
use crate::revocations::{CaCrl, DeniedCertificate, RevokedCertificate, check_reason};
use crate::state::Rejection;

impl Registry {
    /// Puts a certificate on the deny list; sessions that it carries, as a device's or as an issuer, are closed. `ca` is the name
    /// of its issuer, for people. One that is there stays as it is. Returns whether it is new.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when the reason is unknown, the comment too long, or the list full; else as
    /// [`Self::write`].
    pub async fn revoke(
        &self,
        certificate: RevokedCertificate,
        reason: &str,
        comment: Option<&str>,
        ca: Option<&str>,
    ) -> Result<(bool, DeniedCertificate), RegistryError> {
        check_reason(reason, comment)?;
        let command = proto::PutRevocation {
            certificate: Some(certificate.record()),
            reason: reason.to_owned(),
            comment: comment.unwrap_or_default().to_owned(),
            ca: ca.unwrap_or_default().to_owned(),
            max_revoked: self.0.max_revoked,
        };
        let answer = first(self.propose(Command::PutRevocation(command)).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        let authorities = self.authorities();
        let found = authorities
            .denied()
            .iter()
            .find(|entry| entry.certificate == certificate);
        // Another caller may have removed it meanwhile.
        let found = found.cloned().ok_or(RegistryError::OutcomeUnknown)?;
        Ok((answer.created, found))
    }

    /// Takes a certificate off the deny list.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with [`ErrorCode::CertificateNotFound`] when it is not there; else as [`Self::write`].
    pub async fn unrevoke(&self, certificate: RevokedCertificate) -> Result<(), RegistryError> {
        self.change(Command::RemoveRevocation(proto::RemoveRevocation {
            certificate: Some(certificate.record()),
        }))
        .await
    }

    /// Replaces the revocation list of the CA named `ca`: `der` must be signed by it, current, and newer than the one that the hub
    /// has. `source` is where it was fetched from. Returns whether the CA had none. The same list once more is no change.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with the fault of the list, or when there is no such CA; else as [`Self::write`].
    pub async fn put_crl(&self, ca: &str, der: Bytes, source: Option<&str>) -> Result<(bool, CaCrl), RegistryError> {
        let authority = self.authority(ca).await?;
        let sha256 = Bytes::copy_from_slice(&Sha256::digest(&der));
        let issuer = authority.certificate.issuer_id();
        if let Some(same) = self.authorities().crl(ca)
            && same.sha256 == sha256
            && same.list.issuer == issuer
        {
            return Ok((false, same.clone()));
        }
        let certificate = Bytes::clone(authority.certificate.der());
        let crl = self.read_crl(der, authority.certificate).await?;
        let command = proto::PutCrl {
            ca: ca.to_owned(),
            certificate,
            issuer: Bytes::copy_from_slice(&issuer.0),
            number: Bytes::clone(crl.number.as_bytes()),
            this_update_ms: crl.this_update.0,
            next_update_ms: crl.next_update.0,
            sha256,
            serials: crl.serials.into(),
            source: source.unwrap_or_default().to_owned(),
            max_entries: self.0.max_crl_entries,
        };
        let answer = first(self.propose(Command::PutCrl(command)).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        let found = self.authorities().crl(ca).cloned();
        Ok((answer.created, found.ok_or(RegistryError::OutcomeUnknown)?))
    }

    /// Removes the revocation list of a CA: what it has revoked is accepted again.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with [`ErrorCode::CertificateNotFound`] when it has none; else as [`Self::write`].
    pub async fn remove_crl(&self, ca: &str) -> Result<(), RegistryError> {
        self.change(Command::RemoveCrl(proto::RemoveCrl { ca: ca.to_owned() }))
            .await
    }

    /// Reads and verifies a list away from the cores: a large one takes tens of milliseconds.
    async fn read_crl(&self, der: Bytes, ca: Arc<CaCertificate>) -> Result<Crl, RegistryError> {
        let most = usize::try_from(self.0.max_crl_entries).unwrap_or(usize::MAX);
        let now = self.0.clock.now();
        let read = holdfast_tasks::spawn_blocking(move || Crl::read(&der, &ca, most, now)).await;
        Ok(read.map_err(unusable)?)
    }
}

fn unusable(error: CrlError) -> Rejection {
    Rejection::new(ErrorCode::ArgumentInvalid, error.to_string())
}
