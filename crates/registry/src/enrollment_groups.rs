//! All enrollment groups in memory, with their keys opened, and the certificates by which they are found.
//!
//! Why: a device names no group, so that its first registration searches among all of them.
//! Invariants: the table is replaced as a whole after each change, before the proposer is answered; a group whose keys cannot be
//! opened is left out, with an error in the log: its devices are refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use holdfast_auth::x509::CertificateFingerprints;

use crate::provisioning::{Attestation, CertificateSource, Enrollment};

/// The groups of the service.
#[derive(Debug, Default)]
pub struct EnrollmentGroups {
    /// By id in lower case.
    all: BTreeMap<String, Arc<Enrollment>>,
    symmetric: Vec<Arc<Enrollment>>,
    by_certificate: HashMap<[u8; 32], Arc<Enrollment>>,
    by_ca: HashMap<String, Arc<Enrollment>>,
}

impl EnrollmentGroups {
    pub(crate) fn new(all: BTreeMap<String, Arc<Enrollment>>) -> Self {
        let mut groups = Self::default();
        for group in all.values() {
            match &group.attestation {
                Attestation::SymmetricKey(_) => groups.symmetric.push(Arc::clone(group)),
                // There are no such groups.
                Attestation::Tpm(_) => {}
                Attestation::X509(x509) => {
                    for certificate in x509.iter() {
                        // Of two groups with one certificate, the first one by id counts.
                        if x509.source == CertificateSource::CaReferences {
                            let name = String::from_utf8_lossy(certificate).to_ascii_lowercase();
                            groups.by_ca.entry(name).or_insert_with(|| Arc::clone(group));
                        } else {
                            let digest = CertificateFingerprints::sha256(certificate);
                            groups.by_certificate.entry(digest).or_insert_with(|| Arc::clone(group));
                        }
                    }
                }
            }
        }
        groups.all = all;
        groups
    }

    /// The same table with `changed`, by ids in lower case: `None` for one that does not exist any more.
    pub(crate) fn with(&self, changed: impl IntoIterator<Item = (String, Option<Arc<Enrollment>>)>) -> Self {
        let mut all = self.all.clone();
        for (id, group) in changed {
            match group {
                Some(group) => all.insert(id, group),
                None => all.remove(&id),
            };
        }
        Self::new(all)
    }

    /// The one with this id, in any case.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Enrollment>> {
        self.all.get(&id.to_ascii_lowercase())
    }

    /// Those with symmetric keys, by id.
    #[must_use]
    pub fn symmetric(&self) -> &[Arc<Enrollment>] {
        &self.symmetric
    }

    /// The one that holds the certificate with this SHA-256.
    #[must_use]
    pub fn of_certificate(&self, sha256: &[u8; 32]) -> Option<&Arc<Enrollment>> {
        self.by_certificate.get(sha256)
    }

    /// The one that names this CA of the hub, in any case.
    #[must_use]
    pub fn of_ca(&self, name: &str) -> Option<&Arc<Enrollment>> {
        self.by_ca.get(&name.to_ascii_lowercase())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
