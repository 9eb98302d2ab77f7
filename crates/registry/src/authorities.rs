//! The CAs whose devices the hub accepts, as the rest of the node sees them: certificates read, verified ones found by name.
//!
//! Why: every connection of a device with a CA's certificate needs them, and reading one costs more than a connection may.
//! Invariants: the view is replaced as a whole after each change, before the change is published; only verified CAs are in
//! [`Authorities::verified`].
//! Not here: chains (`auth::x509`), the rules of a change (`state::authorities`).

use std::sync::Arc;

use holdfast_auth::x509::{CaCertificate, CaSet};
use holdfast_model::{ETag, ErrorCode, UnixMillis};
use holdfast_proto::registry::v1::CaRecord;

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

/// All CAs of the hub.
#[derive(Debug, Default)]
pub struct Authorities {
    all: Vec<Authority>,
    verified: CaSet,
}

impl Authorities {
    /// The view of stored records, in the order of their keys. A certificate that this version cannot read is left out, with
    /// an error in the log: its devices are refused.
    pub(crate) fn new(records: impl IntoIterator<Item = CaRecord>) -> Self {
        let all: Vec<Authority> = records.into_iter().filter_map(read).collect();
        let verified = all.iter().filter(|authority| authority.is_verified);
        Self {
            verified: CaSet::new(verified.map(|authority| Arc::clone(&authority.certificate))),
            all,
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
}

fn read(record: CaRecord) -> Option<Authority> {
    match CaCertificate::parse(&record.certificate) {
        Ok(certificate) => Some(Authority {
            name: record.name,
            etag: ETag(record.etag),
            certificate: Arc::new(certificate),
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
