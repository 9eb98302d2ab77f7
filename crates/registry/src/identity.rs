//! A device or module as the rest of the node sees it: keys opened, texts parsed.
//!
//! Why: stored records hold secrets sealed; credential checks and authorised calls need them open, and only in memory.
//! Invariants: `Debug` shows no key.
//! Not here: connection state, last activity, queue length: they belong to the partition's owner (Spec rest §2.1).

use std::fmt;

use holdfast_auth::KeyPair;
use holdfast_auth::x509::CertificateFingerprints;
use holdfast_model::{ETag, GenerationId, IdentityId, UnixMillis};
use thiserror::Error;

/// Whether an identity may connect. A module's is its device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// It may.
    #[default]
    Enabled,
    /// It may not, even with valid credentials.
    Disabled,
}

/// The authentication method of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// `sas`: shared access signatures made with one of two keys.
    Sas(KeyPair),
    /// `selfSigned`: a certificate known by its thumbprint.
    SelfSigned(Thumbprints),
    /// `certificateAuthority`: a certificate issued by a CA of the hub.
    CertificateAuthority,
    /// `none`: it cannot connect. Modules only.
    None,
}

impl Authentication {
    /// Its name on the wire.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Sas(_) => "sas",
            Self::SelfSigned(_) => "selfSigned",
            Self::CertificateAuthority => "certificateAuthority",
            Self::None => "none",
        }
    }
}

/// The two thumbprints of a self-signed identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbprints {
    /// Always present.
    pub primary: Thumbprint,
    /// For rolling certificates.
    pub secondary: Option<Thumbprint>,
}

impl Thumbprints {
    /// The one that names a certificate: the primary first.
    #[must_use]
    pub fn of(&self, certificate: &CertificateFingerprints) -> Option<&Thumbprint> {
        std::iter::once(&self.primary)
            .chain(&self.secondary)
            .find(|thumbprint| certificate.is_named(thumbprint.as_str()))
    }

    /// Those that are SHA-1 digests, which are deprecated.
    pub fn sha1(&self) -> impl Iterator<Item = &Thumbprint> {
        std::iter::once(&self.primary)
            .chain(&self.secondary)
            .filter(|thumbprint| thumbprint.is_sha1())
    }
}

/// A certificate's SHA-1 or SHA-256 digest: 40 or 64 upper-case hexadecimal characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbprint(String);

/// A text that is no thumbprint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a thumbprint has 40 (SHA-1) or 64 (SHA-256) hexadecimal characters, not {0}")]
pub struct InvalidThumbprint(usize);

impl Thumbprint {
    /// Reads hexadecimal text in any case, with or without spaces and colons (Spec rest §2.1).
    ///
    /// # Errors
    /// [`InvalidThumbprint`] when the rest has another length or other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidThumbprint> {
        let digits: String = text.chars().filter(|c| *c != ' ' && *c != ':').take(65).collect();
        if !matches!(digits.len(), 40 | 64) || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(InvalidThumbprint(digits.chars().count()));
        }
        Ok(Self(digits.to_ascii_uppercase()))
    }

    /// Whether it is a SHA-1 digest.
    #[must_use]
    pub fn is_sha1(&self) -> bool {
        self.0.len() == 40
    }

    /// As stored and shown: upper case without separators.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device or module of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub id: IdentityId,
    /// Distinguishes identities that had the same name one after the other.
    pub generation: GenerationId,
    /// New on every write.
    pub etag: ETag,
    /// A module's is its device's.
    pub status: Status,
    /// Free text, at most 128 characters. Devices only.
    pub status_reason: Option<String>,
    /// When the status changed last; `None` = never.
    pub status_updated: Option<UnixMillis>,
    /// Its credentials.
    pub authentication: Authentication,
    /// Whether it is an edge device, which may be the parent of others.
    pub iot_edge: bool,
    /// An edge device's own scope; another device's parent scope.
    pub device_scope: Option<String>,
    /// The scope of the edge device above it.
    pub parent_scope: Option<String>,
    /// The manager of the module; free text. Modules only.
    pub managed_by: Option<String>,
    /// When it was created.
    pub created: UnixMillis,
}

impl Identity {
    /// Whether it may connect at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.status == Status::Enabled
    }
}

/// Twin content given with a create, until the partition's owner has taken it over; JSON texts of objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TwinSeed {
    /// The tags.
    pub tags: Option<String>,
    /// The desired properties.
    pub desired: Option<String>,
    /// The reported properties, of a device that comes from another hub.
    pub reported: Option<String>,
}

impl From<holdfast_proto::registry::v1::TwinSeed> for TwinSeed {
    fn from(seed: holdfast_proto::registry::v1::TwinSeed) -> Self {
        Self {
            tags: seed.tags,
            desired: seed.desired,
            reported: seed.reported,
        }
    }
}

impl From<TwinSeed> for holdfast_proto::registry::v1::TwinSeed {
    fn from(seed: TwinSeed) -> Self {
        Self {
            tags: seed.tags,
            desired: seed.desired,
            reported: seed.reported,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use holdfast_model::DeviceId;

    pub(crate) fn sample(device: &str) -> Identity {
        Identity {
            id: IdentityId::device(DeviceId::parse(device).unwrap()),
            generation: GenerationId("1".into()),
            etag: ETag("e".to_owned()),
            status: Status::Enabled,
            status_reason: None,
            status_updated: None,
            authentication: Authentication::CertificateAuthority,
            iot_edge: false,
            device_scope: None,
            parent_scope: None,
            managed_by: None,
            created: UnixMillis(0),
        }
    }

    #[test]
    fn a_thumbprint_is_read_in_every_form_that_tools_print() {
        let sha1 = "AA:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd";
        assert_eq!(
            Thumbprint::parse(sha1).unwrap().as_str(),
            "AABBCCDDEEFF00112233445566778899AABBCCDD"
        );
        assert_eq!(Thumbprint::parse(&"ab ".repeat(32)).unwrap().as_str(), "AB".repeat(32));
        for bad in [
            "",
            "AB",
            &"g".repeat(40),
            &"a".repeat(41),
            &"a".repeat(10_000),
            &"ä".repeat(20),
        ] {
            assert!(Thumbprint::parse(bad).is_err(), "{bad}");
        }
    }
}
