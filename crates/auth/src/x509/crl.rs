//! Reads the revocation list of a CA (RFC 5280 §5): whole, direct, signed by the CA.
//!
//! Invariants: the size is checked before anything is parsed, and the signature before any entry is read, so that only the
//! CA's own lists cost more than a hash; entries are read one by one, and their number is bounded.
//! Not here: whether a list is older than the one that the hub has (`registry`).

use holdfast_model::UnixMillis;
use holdfast_model::limits::MAX_CRL_BYTES;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::OID_X509_EXT_CRL_NUMBER;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::authority::CaCertificate;
use super::der::{Signed, element, tagged};
use super::revocation::{CrlNumber, SERIAL_BYTES, Serial};
use super::{millis, shown, shown_time};

/// How PEM begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN";

/// How far the clock of a CA may be ahead of the hub's.
const MAX_AHEAD_MS: u64 = 5 * 60 * 1000;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const EXTENSIONS: u8 = 0xa0;

/// Why a revocation list is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CrlError {
    /// Larger than `limits::MAX_CRL_BYTES`.
    #[error("the CRL has {0} bytes; allowed are {MAX_CRL_BYTES}")]
    TooLarge(usize),
    /// Neither PEM nor DER.
    #[error("the CRL cannot be read: {0}")]
    Unreadable(String),
    /// It holds only what has changed since another one.
    #[error("the CRL is a delta CRL, which the hub does not combine with others: give it the complete CRL")]
    Delta,
    /// It speaks for other issuers than its own.
    #[error("the CRL is an indirect one, which revokes certificates of other issuers: give each CA its own CRL")]
    Indirect,
    /// It leaves out some reasons.
    #[error("the CRL holds only some reasons of revocation: give the hub the CRL with all of them")]
    SomeReasons,
    /// Made by another issuer.
    #[error("the CRL is not of this CA: its issuer has another name")]
    Issuer,
    /// The CA's certificate does not allow it.
    #[error("the CA's certificate does not allow it to sign CRLs (key usage without cRLSign)")]
    Usage,
    /// The signature is wrong.
    #[error("the CRL is not signed by the key of this CA, or with an algorithm that is not accepted")]
    Signature,
    /// Without it, an older list could take the place of a newer one.
    #[error("the CRL has no CRL number")]
    NoNumber,
    /// Made in the future.
    #[error("the CRL was made at {}, and the hub's time is {}", shown_time(*this_update), shown_time(*now))]
    NotYet {
        /// Its `thisUpdate`.
        this_update: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// Its time is over, or ends before it begins.
    #[error(
        "the CRL was valid until {}, and the hub's time is {}: give it the current one", shown_time(*next_update), shown_time(*now)
    )]
    Ended {
        /// Its `nextUpdate`.
        next_update: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// More entries than the caller takes.
    #[error("the CRL has more than {0} entries")]
    TooMany(usize),
}

/// The DER form of a list that was given as PEM or DER.
///
/// # Errors
/// [`CrlError::TooLarge`], [`CrlError::Unreadable`], also for PEM with several lists.
pub fn read_crl(bytes: &[u8]) -> Result<Vec<u8>, CrlError> {
    // PEM is a third longer, and has line ends.
    if bytes.len() > MAX_CRL_BYTES / 2 * 3 {
        return Err(CrlError::TooLarge(bytes.len()));
    }
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    if !bytes[start..].starts_with(PEM_BEGIN) {
        return Ok(bytes.to_vec());
    }
    let mut lists = CertificateRevocationListDer::pem_slice_iter(bytes);
    match (lists.next(), lists.next()) {
        (Some(Ok(only)), None) => Ok(only.to_vec()),
        (Some(Ok(_)), Some(_)) => Err(CrlError::Unreadable("it holds more than one CRL".to_owned())),
        (Some(Err(_)), _) | (None, _) => Err(CrlError::Unreadable("it is no PEM of an X509 CRL".to_owned())),
    }
}

/// A revocation list that was read and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Its number.
    pub number: CrlNumber,
    /// When it was made.
    pub this_update: UnixMillis,
    /// When a newer one should be there.
    pub next_update: UnixMillis,
    /// The revoked serial numbers, [`SERIAL_BYTES`] bytes each, ascending, each once.
    pub serials: Vec<u8>,
}

impl Crl {
    /// Reads a list of `ca` in DER with at most `most` entries, and verifies it.
    ///
    /// # Errors
    /// [`CrlError`] names the first rule that it breaks.
    pub fn read(der: &[u8], ca: &CaCertificate, most: usize, now: UnixMillis) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLarge(der.len()));
        }
        let list = webpki::BorrowedCertRevocationList::from_der(der).map_err(|error| unreadable(&error))?;
        let malformed = || CrlError::Unreadable("it is no CRL of version 2".to_owned());
        let signed = Signed::read(der).ok_or_else(malformed)?;
        let head = Head::read(signed.message.content).ok_or_else(malformed)?;
        if head.issuer != ca.subject_der() {
            return Err(CrlError::Issuer);
        }
        if !ca.may_sign_crls() {
            return Err(CrlError::Usage);
        }
        if !ca.has_signed(&signed) {
            return Err(CrlError::Signature);
        }
        let number = head.number.ok_or(CrlError::NoNumber)?;
        let (this_update, next_update) = (head.this_update, head.next_update);
        if this_update.0 > now.0.saturating_add(MAX_AHEAD_MS) {
            return Err(CrlError::NotYet { this_update, now });
        }
        if next_update <= now || next_update <= this_update {
            return Err(CrlError::Ended { next_update, now });
        }
        let mut serials = Vec::new();
        for entry in &list {
            if serials.len() >= most {
                return Err(CrlError::TooMany(most));
            }
            let entry = entry.map_err(|error| unreadable(&error))?;
            serials.push(Serial::of(entry.serial_number));
        }
        serials.sort_unstable();
        serials.dedup();
        let mut bytes = Vec::with_capacity(serials.len() * SERIAL_BYTES);
        for serial in &serials {
            bytes.extend_from_slice(serial.as_bytes());
        }
        Ok(Self {
            number,
            this_update,
            next_update,
            serials: bytes,
        })
    }

    /// How many certificates it revokes.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.serials.len() / SERIAL_BYTES
    }
}

/// What stands around the entries.
struct Head<'a> {
    issuer: &'a [u8],
    this_update: UnixMillis,
    next_update: UnixMillis,
    number: Option<CrlNumber>,
}

impl<'a> Head<'a> {
    fn read(mut content: &'a [u8]) -> Option<Self> {
        let input = &mut content;
        tagged(input, INTEGER)?;
        tagged(input, SEQUENCE)?;
        let issuer = tagged(input, SEQUENCE)?.whole;
        let this_update = time(input)?;
        let next_update = time(input)?;
        let _entries = tagged(input, SEQUENCE);
        let mut extensions = tagged(input, EXTENSIONS)?.content;
        let mut extensions = tagged(&mut extensions, SEQUENCE)?.content;
        let mut number = None;
        while !extensions.is_empty() {
            let (rest, extension) = X509Extension::from_der(extensions).ok()?;
            extensions = rest;
            if extension.oid == OID_X509_EXT_CRL_NUMBER {
                let mut value = extension.value;
                let again = number.replace(CrlNumber::of(tagged(&mut value, INTEGER)?.content));
                // Of two numbers, another reader could take the other one.
                if again.is_some() {
                    return None;
                }
            }
        }
        content.is_empty().then_some(Self {
            issuer,
            this_update,
            next_update,
            number,
        })
    }
}

fn time(input: &mut &[u8]) -> Option<UnixMillis> {
    let (_, time) = ASN1Time::from_der(element(input)?.whole).ok()?;
    Some(millis(time.timestamp()))
}

fn unreadable(error: &webpki::Error) -> CrlError {
    use webpki::Error;
    match error {
        Error::UnsupportedDeltaCrl => CrlError::Delta,
        Error::UnsupportedIndirectCrl => CrlError::Indirect,
        Error::UnsupportedRevocationReasonsPartitioning => CrlError::SomeReasons,
        Error::UnsupportedCrlVersion => CrlError::Unreadable("it is not of version 2".to_owned()),
        other => CrlError::Unreadable(shown(&other.to_string())),
    }
}
