//! The CAs whose devices the hub accepts, and what is revoked, as the rest of the node sees them: certificates read, verified
//! ones found by name.
//!
//! Why: every connection of a device with a CA's certificate needs them, and reading one costs more than a connection may.
//! Invariants: the view is replaced as a whole after each change, before the change is published; only verified CAs are in
//! [`Authorities::verified`].
//! Not here: chains (`auth::x509`), the rules of a change (`state::authorities`).

use std::sync::Arc;

use holdfast_auth::x509::{CaCertificate, CaSet, PathCertificate, Revocations, RevokedBy};
use holdfast_model::{ETag, ErrorCode, UnixMillis};
use holdfast_proto::registry::v1::CaRecord;

use crate::revocations::{CaCrl, DeniedCertificate};
use crate::state::Rejection;

/// Longest name of a CA, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// A CA of the hub.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Its name in the registry, found in any case.
    pub name: String,
    /// New on every write.
    pub etag: ETag,
    /// Its certificate.
    pub certificate: Arc<CaCertificate>,
    /// Whether devices with certificates of it are accepted.
    pub is_verified: bool,
    /// The common name that a certificate of it must have to prove the possession of its key; `None`: none was requested.
    pub verification_code: Option<String>,
    /// When it was added.
    pub created: UnixMillis,
    /// When it was changed last.
    pub updated: UnixMillis,
}

/// All CAs of the hub, and what is revoked.
#[derive(Debug, Default)]
pub struct Authorities {
    all: Vec<Authority>,
    verified: CaSet,
    denied: Vec<DeniedCertificate>,
    crls: Vec<CaCrl>,
    revocations: Revocations,
}

impl Authorities {
    /// The view of stored records, in the order of their keys. A certificate that this version cannot read is left out, with
    /// an error in the log: its devices are refused.
    pub(crate) fn new(
        records: impl IntoIterator<Item = CaRecord>,
        denied: Vec<DeniedCertificate>,
        crls: Vec<CaCrl>,
        before: &Self,
    ) -> Self {
        let all: Vec<Authority> = records.into_iter().filter_map(|record| read(record, before)).collect();
        let mut revocations = Revocations::default();
        for certificate in &denied {
            certificate.add_to(&mut revocations);
        }
        for crl in &crls {
            revocations.add_list(Arc::clone(&crl.list));
        }
        let verified = all.iter().filter(|authority| authority.is_verified);
        let mut verified = CaSet::new(verified.map(|authority| Arc::clone(&authority.certificate)));
        if !revocations.is_empty() {
            for authority in all.iter().filter(|authority| authority.is_verified) {
                let issuers = all.iter().map(|other| &*other.certificate);
                if let Some(by) = authority.certificate.revoked(issuers, &revocations) {
                    tracing::warn!(ca = authority.name, %by, "a CA of the hub is revoked; its devices are refused");
                    verified.revoke(authority.certificate.fingerprints().sha256, by);
                }
            }
        }
        Self {
            all,
            verified,
            denied,
            crls,
            revocations,
        }
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Authority> {
        self.all.iter()
    }

    /// The one with this name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Authority> {
        self.all
            .iter()
            .find(|authority| authority.name.eq_ignore_ascii_case(name))
    }

    /// The verified ones, for chains.
    #[must_use]
    pub fn verified(&self) -> &CaSet {
        &self.verified
    }

    /// What revokes certificates.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The deny list, in the order of its keys.
    #[must_use]
    pub fn denied(&self) -> &[DeniedCertificate] {
        &self.denied
    }

    /// The revocation lists, by the names of their CAs.
    pub fn crls(&self) -> impl Iterator<Item = &CaCrl> {
        self.crls.iter()
    }

    /// The revocation list that was given for the CA with this name, in any case.
    #[must_use]
    pub fn crl(&self, ca: &str) -> Option<&CaCrl> {
        self.crls.iter().find(|crl| crl.list.ca.eq_ignore_ascii_case(ca))
    }

    /// What revokes a certificate with this SHA-256, a certificate of its path, or the CA that the path leads to.
    #[must_use]
    pub fn revoked(&self, sha256: &[u8; 32], path: &[PathCertificate], ca: Option<&[u8; 32]>) -> Option<RevokedBy> {
        if self.revocations.is_empty() {
            return None;
        }
        let own = self.revocations.of_certificate(sha256);
        let above = || ca.and_then(|ca| self.verified.revoked(ca)).cloned();
        own.or_else(|| self.revocations.of_path(path).map(|(_, by)| by))
            .or_else(above)
    }
}

fn read(record: CaRecord, before: &Authorities) -> Option<Authority> {
    let known = before.get(&record.name).map(|known| &known.certificate);
    let certificate = match known.filter(|known| known.der() == &record.certificate) {
        Some(known) => Ok(Arc::clone(known)),
        None => CaCertificate::parse(&record.certificate).map(Arc::new),
    };
    match certificate {
        Ok(certificate) => Some(Authority {
            name: record.name,
            etag: ETag(record.etag),
            certificate,
            is_verified: record.is_verified,
            verification_code: (!record.verification_code.is_empty()).then_some(record.verification_code),
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
        }),
        Err(error) => {
            tracing::error!(name = record.name, %error, "a stored CA cannot be used; its devices are refused");
            None
        }
    }
}

/// 1–64 letters, digits and `. - _`.
pub(crate) fn check_name(name: &str) -> Result<(), Rejection> {
    let legal = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if legal {
        return Ok(());
    }
    let text = format!("a CA's name has 1 to {MAX_NAME_BYTES} ASCII letters, digits and . - _");
    Err(Rejection::new(ErrorCode::ArgumentInvalid, text))
}
