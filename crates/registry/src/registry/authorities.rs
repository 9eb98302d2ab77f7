//! The hub's CAs: adding, proving, removing (Spec auth-and-limits §3).

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXUPPER;
use holdfast_auth::x509::{CaCertificate, CaError, CertificateRefusal};
use holdfast_model::ErrorCode;
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::{Registry, first, fresh_etag, rejection};
use crate::authorities::{Authorities, Authority, check_name};
use crate::error::RegistryError;
use crate::state::{ANY_ETAG, Rejection};
use crate::write::IfMatch;

/// Random bytes of a verification code, which is twice as many hexadecimal digits.
const CODE_BYTES: usize = 24;

impl Registry {
    /// The hub's CAs in this node's replica.
    #[must_use]
    pub fn authorities(&self) -> Arc<Authorities> {
        self.0.local.authorities()
    }

    /// The CA named `name`, no older than the call.
    ///
    /// # Errors
    /// As [`Self::read_barrier`]; [`RegistryError::Rejected`] with [`ErrorCode::CertificateNotFound`].
    pub async fn authority(&self, name: &str) -> Result<Authority, RegistryError> {
        self.read_barrier().await?;
        self.authority_here(name)
    }

    /// Adds a CA by its certificate in DER, or replaces the one with this name: without a condition it must not exist.
    /// `is_verified` = `None` keeps what is known of the same certificate. Returns whether it is new.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it cannot be a CA of the hub, exists, or differs from the condition; else as
    /// [`Self::write`].
    pub async fn put_authority(
        &self,
        name: &str,
        der: &[u8],
        is_verified: Option<bool>,
        if_match: Option<&IfMatch>,
    ) -> Result<(bool, Authority), RegistryError> {
        check_name(name)?;
        let certificate = CaCertificate::parse(der).map_err(unusable)?;
        // One whose time has not begun may be registered for later.
        if let Err(ended @ CertificateRefusal::Ended { .. }) = certificate.check_time(self.0.clock.now()) {
            return Err(unusable(ended.into()).into());
        }
        let command = proto::PutCa {
            name: name.to_owned(),
            if_match: if_match.map(condition),
            etag: fresh_etag(),
            certificate: certificate.der().clone(),
            is_verified,
            max_cas: self.0.max_cas,
        };
        let answer = first(self.propose(Command::PutCa(command)).await?)?;
        if let Some(rejection) = rejection(&answer)? {
            return Err(rejection.into());
        }
        Ok((answer.created, self.authority_here(name)?))
    }

    /// Removes a CA; sessions that it carried are closed.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name or ETag; else as [`Self::write`].
    pub async fn remove_authority(&self, name: &str, if_match: &IfMatch) -> Result<(), RegistryError> {
        self.change(Command::RemoveCa(proto::RemoveCa {
            name: name.to_owned(),
            if_match: Some(condition(if_match)),
        }))
        .await
    }

    /// Gives a CA a new verification code, in place of an earlier one.
    ///
    /// # Errors
    /// As [`Self::remove_authority`].
    pub async fn new_verification_code(&self, name: &str, if_match: &IfMatch) -> Result<Authority, RegistryError> {
        self.change(Command::SetCaCode(proto::SetCaCode {
            name: name.to_owned(),
            if_match: Some(condition(if_match)),
            etag: fresh_etag(),
            code: HEXUPPER.encode(&rand::random::<[u8; CODE_BYTES]>()),
        }))
        .await?;
        self.authority_here(name)
    }

    /// Makes a CA verified: `proof`, in DER, is a certificate of it whose common name is its verification code.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with the fault of the proof; else as [`Self::remove_authority`].
    pub async fn verify_authority(
        &self,
        name: &str,
        if_match: &IfMatch,
        proof: &[u8],
    ) -> Result<Authority, RegistryError> {
        let authority = self.authority(name).await?;
        let Some(code) = authority.verification_code else {
            let text = format!("CA '{name}' has no verification code: generate one first");
            return Err(Rejection::new(ErrorCode::InvalidOperation, text).into());
        };
        authority
            .certificate
            .check_possession(proof, &code, self.0.clock.now())
            .map_err(unusable)?;
        self.change(Command::VerifyCa(proto::VerifyCa {
            name: name.to_owned(),
            if_match: Some(condition(if_match)),
            etag: fresh_etag(),
            code,
            certificate: Bytes::clone(authority.certificate.der()),
        }))
        .await?;
        self.authority_here(name)
    }

    fn authority_here(&self, name: &str) -> Result<Authority, RegistryError> {
        let authorities = self.authorities();
        let found = authorities.get(name).cloned();
        found
            .ok_or_else(|| Rejection::new(ErrorCode::CertificateNotFound, format!("CA '{name}' does not exist")).into())
    }
}

fn condition(if_match: &IfMatch) -> String {
    match if_match {
        IfMatch::Any => ANY_ETAG.to_owned(),
        IfMatch::ETag(etag) => etag.clone(),
    }
}

fn unusable(error: CaError) -> Rejection {
    Rejection::new(ErrorCode::ArgumentInvalid, error.to_string())
}
