//! Issuing CAs, their policies, and what was issued, as the rest of the node sees them.
//!
//! Invariants: `Debug` shows no key; a write is checked as far as possible before it is proposed.
//! Not here: signatures and requests (`provisioning`), whether a record may change (`state::issuance`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_auth::x509::{CaCertificate, KeyType, Serial};
use holdfast_model::{DeviceId, ErrorCode, UnixMillis};
use holdfast_proto::registry::v1 as proto;
use zeroize::Zeroizing;

use crate::authorities::check_name;
use crate::secrets::{SecretError, Secrets};
use crate::state::Rejection;

/// Certificates of one device that are kept on the record.
pub(crate) const MAX_ISSUED: u32 = 16;

/// Certificates of an issuing CA and those above it.
const MAX_CHAIN: usize = 4;
const MAX_POLICIES: usize = 16;
const MAX_NAMES: usize = 32;
const MAX_NAME_BYTES: usize = 128;
const MAX_URL_BYTES: usize = 1024;
const MAX_NAMESPACE_BYTES: usize = 128;

/// How long certificates may be valid, in days.
const VALIDITY_DAYS: std::ops::RangeInclusive<u64> = 1..=3650;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What an issuing CA issues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuancePolicy {
    /// Found in any case.
    pub name: String,
    /// How long a certificate is valid.
    pub validity: Duration,
    /// Empty: all.
    pub key_types: Vec<KeyType>,
    /// Names that it issues for; `*` stands for any text. Empty: all.
    pub names: Vec<String>,
}

impl IssuancePolicy {
    /// Whether it issues for this name, in any case.
    #[must_use]
    pub fn allows_name(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.names.is_empty()
            || self
                .names
                .iter()
                .any(|pattern| fits(&pattern.to_ascii_lowercase(), &name))
    }

    /// Whether it issues for this kind of key.
    #[must_use]
    pub fn allows_key(&self, key: KeyType) -> bool {
        self.key_types.is_empty() || self.key_types.contains(&key)
    }

    fn read(record: proto::IssuancePolicy) -> Self {
        Self {
            name: record.name,
            validity: Duration::from_secs(record.validity_s),
            key_types: record
                .key_types
                .iter()
                .filter_map(|name| KeyType::parse(name))
                .collect(),
            names: record.names,
        }
    }

    fn to_proto(&self) -> proto::IssuancePolicy {
        proto::IssuancePolicy {
            name: self.name.clone(),
            validity_s: self.validity.as_secs(),
            key_types: self.key_types.iter().map(|key| key.as_str().to_owned()).collect(),
            names: self.names.clone(),
        }
    }

    fn check(&self) -> Result<(), Rejection> {
        check_name(&self.name)?;
        let (fewest, most) = (VALIDITY_DAYS.start(), VALIDITY_DAYS.end());
        let days = |days: &u64| DAY.saturating_mul(u32::try_from(*days).unwrap_or(u32::MAX));
        if !(days(fewest)..=days(most)).contains(&self.validity) {
            return Err(invalid(format!("validityDays of a policy is {fewest} to {most}")));
        }
        let is_bounded = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len());
        if self.names.len() > MAX_NAMES || !self.names.iter().all(is_bounded) {
            let text = format!("a policy has at most {MAX_NAMES} names, of 1 to {MAX_NAME_BYTES} bytes");
            return Err(invalid(text));
        }
        Ok(())
    }
}

/// Whether `name` is one of those that `pattern` describes. Work is bounded by the product of both lengths.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(mut last) = parts.next() else {
        return rest.is_empty();
    };
    for part in parts {
        // The leftmost place is as good as any other: what follows it may be longer.
        match rest.find(last) {
            Some(at) => rest = &rest[at + last.len()..],
            None => return false,
        }
        last = part;
    }
    rest.ends_with(last)
}

/// What signs for an issuing CA.
#[derive(Clone, PartialEq, Eq)]
pub enum IssuerKey {
    /// Its key, as PKCS#8 in DER.
    Own(Zeroizing<Vec<u8>>),
    /// A signer outside of the hub.
    External {
        /// Where it listens.
        url: String,
        /// A bearer token for it.
        token: Option<Zeroizing<String>>,
    },
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(_) => f.write_str("Own(…)"),
            Self::External { url, .. } => write!(f, "External({url})"),
        }
    }
}

/// An issuing CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// That of the CA of the hub that it is; found in any case.
    pub name: String,
    /// New on every write.
    pub etag: String,
    /// When it was created.
    pub created: UnixMillis,
    /// When it was changed last.
    pub updated: UnixMillis,
    /// Its certificate.
    pub certificate: Arc<CaCertificate>,
    /// Its certificate in DER, and those above it up to the root.
    pub chain: Vec<Bytes>,
    /// What signs for it.
    pub key: IssuerKey,
    /// By name.
    pub policies: Vec<IssuancePolicy>,
}

impl Issuer {
    /// The policy named `name`, in any case.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&IssuancePolicy> {
        self.policies
            .iter()
            .find(|policy| policy.name.eq_ignore_ascii_case(name))
    }

    /// `None`, with an error in the log, for a record that cannot be used.
    pub(crate) fn read(record: proto::IssuerRecord, secrets: &Secrets) -> Option<Self> {
        let name = record.name.clone();
        let certificate = record.chain.first().map(|der| CaCertificate::parse(der));
        let certificate = match certificate {
            Some(Ok(certificate)) => certificate,
            Some(Err(error)) => {
                tracing::error!(ca = name, %error, "a stored issuing CA cannot be used");
                return None;
            }
            None => return None,
        };
        let key = match read_key(&record, secrets) {
            Ok(key) => key,
            Err(error) => {
                tracing::error!(ca = name, %error, "the key of an issuing CA cannot be opened; it issues nothing");
                return None;
            }
        };
        Some(Self {
            name: record.name,
            etag: record.etag,
            created: UnixMillis(record.created_ms),
            updated: UnixMillis(record.updated_ms),
            certificate: Arc::new(certificate),
            chain: record.chain,
            key,
            policies: record.policies.into_iter().map(IssuancePolicy::read).collect(),
        })
    }
}

fn read_key(record: &proto::IssuerRecord, secrets: &Secrets) -> Result<IssuerKey, SecretError> {
    let Some(external) = &record.external else {
        return Ok(IssuerKey::Own(secrets.open_bytes(&record.sealed_key)?));
    };
    let token = match external.token.is_empty() {
        true => None,
        false => {
            let text = String::from_utf8_lossy(&secrets.open_bytes(&external.token)?).into_owned();
            Some(Zeroizing::new(text))
        }
    };
    Ok(IssuerKey::External {
        url: external.url.clone(),
        token,
    })
}

/// A write of an issuing CA.
#[derive(Debug, Clone)]
pub struct IssuerWrite {
    /// Its name.
    pub name: String,
    /// Its certificate in DER, and those above it up to the root.
    pub chain: Vec<Bytes>,
    /// `None`: what is stored.
    pub key: Option<IssuerKey>,
    /// All of them.
    pub policies: Vec<IssuancePolicy>,
}

impl IssuerWrite {
    pub(crate) fn check(&self, now: UnixMillis) -> Result<(), Rejection> {
        check_name(&self.name)?;
        if !(1..=MAX_CHAIN).contains(&self.chain.len()) {
            let text = format!("the chain of an issuing CA has 1 to {MAX_CHAIN} certificates");
            return Err(invalid(text));
        }
        for der in &self.chain {
            let certificate = CaCertificate::parse(der).map_err(|error| invalid(error.to_string()))?;
            certificate
                .check_time(now)
                .map_err(|error| invalid(error.to_string()))?;
        }
        if self.policies.len() > MAX_POLICIES {
            return Err(invalid(format!("an issuing CA has at most {MAX_POLICIES} policies")));
        }
        for (at, policy) in self.policies.iter().enumerate() {
            policy.check()?;
            let is_same = |other: &IssuancePolicy| other.name.eq_ignore_ascii_case(&policy.name);
            if self.policies[..at].iter().any(is_same) {
                return Err(invalid(format!("policy '{}' is given twice", policy.name)));
            }
        }
        match &self.key {
            Some(IssuerKey::External { url, token }) => {
                let is_long = |text: &str| text.len() > MAX_URL_BYTES;
                if is_long(url) || token.as_ref().is_some_and(|token| is_long(token)) {
                    return Err(invalid(
                        "the address of the signer, or its token, is too long".to_owned(),
                    ));
                }
                Ok(())
            }
            Some(IssuerKey::Own(_)) | None => Ok(()),
        }
    }

    pub(crate) fn to_proto(&self, secrets: &Secrets, etag: String) -> Result<proto::IssuerRecord, SecretError> {
        let mut record = proto::IssuerRecord {
            name: self.name.clone(),
            etag,
            chain: self.chain.clone(),
            policies: self.policies.iter().map(IssuancePolicy::to_proto).collect(),
            ..proto::IssuerRecord::default()
        };
        match &self.key {
            Some(IssuerKey::Own(key)) => record.sealed_key = secrets.seal(key)?,
            Some(IssuerKey::External { url, token }) => {
                record.external = Some(proto::ExternalSigner {
                    url: url.clone(),
                    token: match token {
                        Some(token) => secrets.seal(token.as_bytes())?,
                        None => Bytes::new(),
                    },
                });
            }
            None => {}
        }
        Ok(record)
    }
}

/// The fields by which a writer has named a policy (Spec provisioning §11.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IssuanceForm {
    /// `namespaceName`, `certificateAuthorityName` and `certificatePolicyName`.
    #[default]
    Names,
    /// `credentialPolicyName`, of the preview of 2025.
    CredentialPolicy,
    /// `clientCertificateIssuancePolicy`, of the preview of 2021.
    ClientCertificate,
}

/// How an enrollment names a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuanceReference {
    /// The issuing CA.
    pub issuer: String,
    /// Its policy.
    pub policy: String,
    /// For its writer.
    pub namespace: String,
    /// The fields.
    pub form: IssuanceForm,
}

impl IssuanceReference {
    pub(crate) fn read(record: proto::IssuanceReference) -> Self {
        Self {
            form: match record.form {
                1 => IssuanceForm::CredentialPolicy,
                2 => IssuanceForm::ClientCertificate,
                _ => IssuanceForm::Names,
            },
            issuer: record.issuer,
            policy: record.policy,
            namespace: record.namespace,
        }
    }

    pub(crate) fn to_proto(&self) -> proto::IssuanceReference {
        proto::IssuanceReference {
            issuer: self.issuer.clone(),
            policy: self.policy.clone(),
            namespace: self.namespace.clone(),
            form: match self.form {
                IssuanceForm::Names => 0,
                IssuanceForm::CredentialPolicy => 1,
                IssuanceForm::ClientCertificate => 2,
            },
        }
    }

    pub(crate) fn check(&self) -> Result<(), Rejection> {
        check_name(&self.issuer)?;
        check_name(&self.policy)?;
        if self.namespace.len() > MAX_NAMESPACE_BYTES {
            return Err(invalid("namespaceName is too long".to_owned()));
        }
        Ok(())
    }
}

/// All issuing CAs of the hub.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Issuer>>);

impl Issuers {
    pub(crate) fn new(all: Vec<Arc<Issuer>>) -> Self {
        Self(all)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.0.iter()
    }

    /// The one with this name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Issuer>> {
        self.0.iter().find(|issuer| issuer.name.eq_ignore_ascii_case(name))
    }
}

/// The certificates of a device, as they are on the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCertificates {
    /// What its certificates carry.
    pub epoch: [u8; 16],
    /// Those that had not ended when the last one was issued, oldest first.
    pub issued: Vec<IssuedCertificate>,
    /// The registration by which it was let in last.
    pub registration_id: Option<String>,
}

impl DeviceCertificates {
    pub(crate) fn read(record: proto::DeviceCertificatesRecord) -> Option<Self> {
        Some(Self {
            epoch: record.epoch[..].try_into().ok()?,
            issued: record.issued.into_iter().filter_map(IssuedCertificate::read).collect(),
            registration_id: (!record.registration_id.is_empty()).then_some(record.registration_id),
        })
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Its serial number.
    pub serial: Serial,
    /// SHA-256 of its DER form.
    pub sha256: [u8; 32],
    /// When it begins.
    pub from: UnixMillis,
    /// When it ends.
    pub until: UnixMillis,
    /// The name of the CA.
    pub issuer: String,
    /// The name of the policy.
    pub policy: String,
    /// Whether a new epoch of the device ends it.
    pub has_epoch: bool,
}

impl IssuedCertificate {
    fn read(record: proto::IssuedCertificate) -> Option<Self> {
        Some(Self {
            serial: Serial::from_bytes(&record.serial)?,
            sha256: record.sha256[..].try_into().ok()?,
            from: UnixMillis(record.not_before_ms),
            until: UnixMillis(record.not_after_ms),
            issuer: record.issuer,
            policy: record.policy,
            has_epoch: record.has_epoch,
        })
    }

    fn to_proto(&self) -> proto::IssuedCertificate {
        proto::IssuedCertificate {
            serial: Bytes::copy_from_slice(self.serial.as_bytes()),
            sha256: Bytes::copy_from_slice(&self.sha256),
            not_before_ms: self.from.0,
            not_after_ms: self.until.0,
            issuer: self.issuer.clone(),
            policy: self.policy.clone(),
            has_epoch: self.has_epoch,
        }
    }
}

/// A certificate to be recorded, and the epoch that it was issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueWrite {
    /// The device.
    pub device: DeviceId,
    /// The registration; `None`: an operator has issued it.
    pub registration_id: Option<String>,
    /// The epoch that the device has, or gets.
    pub epoch: [u8; 16],
    /// The device had no epoch.
    pub is_first: bool,
    /// The certificate.
    pub certificate: IssuedCertificate,
}

impl IssueWrite {
    /// `None`: it is none that this version knows.
    pub(crate) fn read(stored: proto::IssueCertificate) -> Option<Self> {
        Some(Self {
            device: DeviceId::parse(&stored.device_id).ok()?,
            registration_id: (!stored.registration_id.is_empty()).then_some(stored.registration_id),
            epoch: stored.epoch[..].try_into().ok()?,
            is_first: stored.is_first,
            certificate: IssuedCertificate::read(stored.certificate?)?,
        })
    }

    pub(crate) fn to_proto(&self) -> proto::IssueCertificate {
        proto::IssueCertificate {
            device_id: self.device.to_string(),
            registration_id: self.registration_id.clone().unwrap_or_default(),
            epoch: Bytes::copy_from_slice(&self.epoch),
            is_first: self.is_first,
            certificate: Some(self.certificate.to_proto()),
            max_issued: MAX_ISSUED,
        }
    }
}

fn invalid(text: String) -> Rejection {
    Rejection::new(ErrorCode::ArgumentInvalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_policy_are_patterns() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("line-7-*", "line-7-0001", true),
            ("line-7-*", "line-70001", false),
            ("*-sn*-x", "a-sn1-x", true),
            ("*-sn*-x", "a-sn1-x-y", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aba", false),
            ("dev", "dev", true),
            ("dev", "dev1", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
