//! What revokes certificates: the hub's deny list, and the revocation lists of its CAs.
//!
//! Invariants: a look-up reads no list: each is a sorted array of [`SERIAL_BYTES`] bytes per entry, and a certificate costs a
//! binary search in one of them; an issuer is known by its name and key together, so that a CA is not revoked by the list of
//! another one with its name.
//! Not here: how a list is read and verified (`crl`), where lists are kept (`registry`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXUPPER;
use holdfast_model::UnixMillis;
use sha2::{Digest as _, Sha256};

use super::shown_time;

/// Bytes of a [`Serial`].
pub const SERIAL_BYTES: usize = 21;

/// Longest serial number that RFC 5280 allows, in bytes.
const MAX_PLAIN_BYTES: usize = SERIAL_BYTES - 1;

/// Marks the digest of a longer one.
const DIGEST: u8 = 0xff;

/// Identifies an issuer: the SHA-256 of its name and its public key. A renewed certificate with both is the same issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuerId(pub [u8; 32]);

impl IssuerId {
    /// That of a subject and its `SubjectPublicKeyInfo`, both in DER.
    pub(crate) fn of(subject: &[u8], key: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(u64::try_from(subject.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(subject);
        digest.update(key);
        Self(digest.finalize().into())
    }
}

/// The serial number of a certificate: its length and its bytes without leading zeros; of one that is longer than the standard
/// allows, a digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; SERIAL_BYTES]);

impl Serial {
    /// The content of an INTEGER in DER.
    #[must_use]
    pub fn of(integer: &[u8]) -> Self {
        let zeros = integer.iter().take_while(|byte| **byte == 0).count();
        let bytes = &integer[zeros..];
        let mut serial = [0; SERIAL_BYTES];
        match u8::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= MAX_PLAIN_BYTES => {
                serial[0] = length;
                serial[1..=bytes.len()].copy_from_slice(bytes);
            }
            _ => {
                serial[0] = DIGEST;
                serial[1..].copy_from_slice(&Sha256::digest(bytes)[..MAX_PLAIN_BYTES]);
            }
        }
        Self(serial)
    }

    /// From hexadecimal digits in any case, with or without colons; `None` when it is none, or longer than 20 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let digits = digits.to_ascii_uppercase();
        let digits = if digits.len() % 2 == 1 {
            format!("0{digits}")
        } else {
            digits
        };
        if digits.is_empty() || digits.len() > 4 * SERIAL_BYTES {
            return None;
        }
        let bytes = HEXUPPER.decode(digits.as_bytes()).ok()?;
        let serial = Self::of(&bytes);
        (serial.0[0] != DIGEST).then_some(serial)
    }

    /// As it is stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SERIAL_BYTES] {
        &self.0
    }

    /// From its stored form.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::from(self.0[0]) {
            0 => f.write_str("00"),
            length @ 1..=MAX_PLAIN_BYTES => f.write_str(&HEXUPPER.encode(&self.0[1..=length])),
            _ => write!(f, "digest-{}", HEXUPPER.encode(&self.0[1..])),
        }
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate of a path, as far as its revocation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathCertificate {
    /// SHA-256 of its DER form.
    pub sha256: [u8; 32],
    /// The certificate above it in the path.
    pub issuer: IssuerId,
    /// Its serial number.
    pub serial: Serial,
}

/// An entry of the deny list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Why, in the words of RFC 5280 §5.3.1.
    pub reason: String,
    /// Since when.
    pub at: UnixMillis,
}

/// The number of a revocation list, which grows with each one of an issuer: big-endian, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlNumber(Bytes);

impl CrlNumber {
    /// The content of an INTEGER in DER.
    #[must_use]
    pub fn of(integer: &[u8]) -> Self {
        let zeros = integer.iter().take_while(|byte| **byte == 0).count();
        Self(Bytes::copy_from_slice(&integer[zeros..]))
    }

    /// As it is stored.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether it is smaller than `other`.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        (self.0.len(), &self.0) < (other.0.len(), &other.0)
    }
}

impl fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = [0; 16];
        match number.len().checked_sub(self.0.len()) {
            Some(zeros) => {
                number[zeros..].copy_from_slice(&self.0);
                u128::from_be_bytes(number).fmt(f)
            }
            None => write!(f, "0x{}", HEXUPPER.encode(&self.0)),
        }
    }
}

/// The revocation list of one issuer, ready for look-ups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// The hub's name for the CA.
    pub ca: String,
    /// The issuer.
    pub issuer: IssuerId,
    /// Its number.
    pub number: CrlNumber,
    /// When it was made.
    pub this_update: UnixMillis,
    /// When a newer one should be there.
    pub next_update: UnixMillis,
    /// Serial numbers of [`SERIAL_BYTES`] bytes each, ascending.
    pub serials: Bytes,
}

impl RevocationList {
    /// How many certificates it revokes.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.serials.len() / SERIAL_BYTES
    }

    /// Whether its time has ended at `now`.
    #[must_use]
    pub fn has_ended(&self, now: UnixMillis) -> bool {
        now >= self.next_update
    }

    fn holds(&self, serial: &Serial) -> bool {
        let (serials, _) = self.serials.as_chunks::<SERIAL_BYTES>();
        serials.binary_search(&serial.0).is_ok()
    }
}

/// Why a certificate is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokedBy {
    /// An operator has put it on the deny list.
    DenyList(Denied),
    /// The revocation list of its CA names it.
    List {
        /// The hub's name for the CA.
        ca: String,
        /// The list's number.
        number: CrlNumber,
    },
}

impl fmt::Display for RevokedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DenyList(denied) => {
                write!(
                    f,
                    "the hub's deny list, since {} ({})",
                    shown_time(denied.at),
                    denied.reason
                )
            }
            Self::List { ca, number } => write!(f, "the CRL of CA {ca} with number {number}"),
        }
    }
}

/// All that revokes certificates.
#[derive(Debug, Default)]
pub struct Revocations {
    certificates: HashMap<[u8; 32], Denied>,
    serials: HashMap<(IssuerId, Serial), Denied>,
    lists: HashMap<IssuerId, Arc<RevocationList>>,
}

impl Revocations {
    /// Denies the certificate with this SHA-256.
    pub fn deny_certificate(&mut self, sha256: [u8; 32], denied: Denied) {
        self.certificates.insert(sha256, denied);
    }

    /// Denies the certificate of `issuer` with this serial number.
    pub fn deny_serial(&mut self, issuer: IssuerId, serial: Serial, denied: Denied) {
        self.serials.insert((issuer, serial), denied);
    }

    /// Adds a list. Of two with one issuer, the one with the greater number counts.
    pub fn add_list(&mut self, list: Arc<RevocationList>) {
        let earlier = self.lists.get(&list.issuer);
        if earlier.is_none_or(|earlier| earlier.number.is_before(&list.number)) {
            self.lists.insert(list.issuer, list);
        }
    }

    /// The lists, in no order.
    pub fn lists(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.lists.values()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.serials.is_empty() && self.lists.is_empty()
    }

    /// What revokes the certificate with this SHA-256.
    #[must_use]
    pub fn of_certificate(&self, sha256: &[u8; 32]) -> Option<RevokedBy> {
        self.certificates.get(sha256).cloned().map(RevokedBy::DenyList)
    }

    /// What revokes the certificate of `issuer` with this serial number.
    #[must_use]
    pub fn of_serial(&self, issuer: IssuerId, serial: Serial) -> Option<RevokedBy> {
        if let Some(denied) = self.serials.get(&(issuer, serial)) {
            return Some(RevokedBy::DenyList(denied.clone()));
        }
        let list = self.lists.get(&issuer).filter(|list| list.holds(&serial))?;
        Some(RevokedBy::List {
            ca: list.ca.clone(),
            number: list.number.clone(),
        })
    }

    /// The first certificate of a path that is revoked, counted from the client's own, and what revokes it.
    #[must_use]
    pub fn of_path(&self, path: &[PathCertificate]) -> Option<(usize, RevokedBy)> {
        path.iter().enumerate().find_map(|(at, certificate)| {
            let by = self.of_certificate(&certificate.sha256);
            let by = by.or_else(|| self.of_serial(certificate.issuer, certificate.serial))?;
            Some((at, by))
        })
    }

    /// The first list that a path depends on and whose time has ended.
    #[must_use]
    pub fn ended_list(&self, path: &[PathCertificate], now: UnixMillis) -> Option<&Arc<RevocationList>> {
        let mut lists = path
            .iter()
            .filter_map(|certificate| self.lists.get(&certificate.issuer));
        lists.find(|list| list.has_ended(now))
    }
}
