//! Reads the OCSP response about a server certificate that an operator has given the hub to staple (RFC 6960 §4.2).
//!
//! Why: a client may trust a stapled response for days, and a wrong one has clients refuse the hub; so one that a client would refuse is
//! refused here, with the reason.
//! Invariants: the size is checked before anything is parsed; only a response that says "good", about this certificate, by its
//! issuer or a responder that the issuer has appointed, within its time, is taken.
//! Not here: certificates of devices, whose revocation is in the registry (docs/decisions/0041), and fetching.

use holdfast_model::UnixMillis;
use holdfast_model::limits::MAX_CERTIFICATE_BYTES;
use sha1::{Digest as _, Sha1};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::der::{Signed, element, tagged};
use super::{millis, shown_time};

/// The largest response. One with a responder's certificate has some 2 KiB.
pub const MAX_OCSP_BYTES: usize = 16 * 1024;

/// How far the clock of a responder may be ahead of the hub's.
const MAX_AHEAD_MS: u64 = 5 * 60 * 1000;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
/// Explicit tags of the optional parts.
const FIRST: u8 = 0xa0;
const SECOND: u8 = 0xa1;
const THIRD: u8 = 0xa2;
/// `certStatus`: implicit tags.
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;

/// id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// Why a response is not stapled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OcspError {
    /// Larger than [`MAX_OCSP_BYTES`].
    #[error("the OCSP response has {0} bytes; allowed are {MAX_OCSP_BYTES}")]
    TooLarge(usize),
    /// Not the DER form of a basic response.
    #[error("it is no OCSP response in DER, as `openssl ocsp -respout FILE` writes it: {0}")]
    Unreadable(&'static str),
    /// The responder had no answer.
    #[error("the OCSP responder had no answer (responseStatus {0}): ask it again")]
    NoAnswer(u8),
    /// The chain does not hold the certificate's issuer.
    #[error(
        "the certificate's issuer is not in the chain, so that the response cannot be checked: add it to the certificate file"
    )]
    NoIssuer,
    /// About other certificates.
    #[error("the OCSP response is about another certificate: ask for one about this certificate, after each renewal")]
    Foreign,
    /// Says anything but "good".
    #[error("the OCSP response says that the certificate is {0}")]
    NotGood(&'static str),
    /// The signature is wrong, or by a responder that the issuer has not appointed.
    #[error("the OCSP response is signed neither by the certificate's issuer nor by a responder that it has appointed")]
    Signature,
    /// Made in the future.
    #[error("the OCSP response was made at {}, and the hub's time is {}", shown_time(*this_update), shown_time(*now))]
    NotYet {
        /// Its `thisUpdate`.
        this_update: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// Its time is over.
    #[error(
        "the OCSP response was valid until {}, and the hub's time is {}: ask for a new one", shown_time(*next_update), shown_time(*now)
    )]
    Ended {
        /// Its `nextUpdate`.
        next_update: UnixMillis,
        /// The hub's clock.
        now: UnixMillis,
    },
    /// Without an end it could be replayed without end.
    #[error("the OCSP response has no nextUpdate: it would never end")]
    NoEnd,
}

/// A response that may be stapled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OcspResponse {
    /// When the responder knew the status to be right.
    pub this_update: UnixMillis,
    /// When a newer response is due; from then on it must not be stapled.
    pub next_update: UnixMillis,
}

impl OcspResponse {
    /// Reads and checks `der`, which is to be stapled to the first certificate of `chain`; its issuer is among the others.
    ///
    /// # Errors
    /// [`OcspError`] names the first rule that it breaks.
    pub fn read<'a>(der: &[u8], chain: impl IntoIterator<Item = &'a [u8]>, now: UnixMillis) -> Result<Self, OcspError> {
        if der.len() > MAX_OCSP_BYTES {
            return Err(OcspError::TooLarge(der.len()));
        }
        let basic = basic(der)?;
        let (signed, mut certificates) =
            Signed::read_head(basic).ok_or(OcspError::Unreadable("its signed part is malformed"))?;
        let mut chain = chain.into_iter().filter_map(certificate);
        let leaf = chain.next().ok_or(OcspError::NoIssuer)?;
        let issuer = chain.find(|issuer| issuer.subject().as_raw() == leaf.issuer().as_raw());
        let issuer = issuer.ok_or(OcspError::NoIssuer)?;
        let answer = Answer::find(signed.message.content, &leaf, &issuer)?;
        if !signed.is_signed_by(issuer.public_key().raw) && !is_by_delegate(&signed, &mut certificates, &issuer, now) {
            return Err(OcspError::Signature);
        }
        answer.check(now)
    }
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return None;
    }
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// The basic response inside of `der`.
fn basic(mut der: &[u8]) -> Result<&[u8], OcspError> {
    let malformed = || OcspError::Unreadable("its outer form is another one");
    let mut parts = tagged(&mut der, SEQUENCE).ok_or_else(malformed)?.content;
    let status = tagged(&mut parts, ENUMERATED).ok_or_else(malformed)?.content;
    match status {
        [0] => {}
        [status] => return Err(OcspError::NoAnswer(*status)),
        _ => return Err(malformed()),
    }
    let mut bytes = tagged(&mut parts, FIRST).ok_or_else(malformed)?.content;
    let mut bytes = tagged(&mut bytes, SEQUENCE).ok_or_else(malformed)?.content;
    if tagged(&mut bytes, OID).ok_or_else(malformed)?.content != BASIC {
        return Err(OcspError::Unreadable("it is of another kind than basic"));
    }
    let basic = tagged(&mut bytes, OCTETS).ok_or_else(malformed)?.content;
    let is_whole = der.is_empty() && parts.is_empty() && bytes.is_empty();
    is_whole.then_some(basic).ok_or_else(malformed)
}

/// Whether a certificate of the response has signed it that `issuer` has issued for this purpose.
fn is_by_delegate(
    signed: &Signed<'_>,
    certificates: &mut &[u8],
    issuer: &X509Certificate<'_>,
    now: UnixMillis,
) -> bool {
    let Some(mut list) = tagged(certificates, FIRST).map(|list| list.content) else {
        return false;
    };
    let Some(mut list) = tagged(&mut list, SEQUENCE).map(|list| list.content) else {
        return false;
    };
    std::iter::from_fn(|| element(&mut list)).any(|element| {
        let Some(delegate) = certificate(element.whole) else {
            return false;
        };
        let validity = delegate.validity();
        let is_for_ocsp = delegate
            .extended_key_usage()
            .is_ok_and(|usage| usage.is_some_and(|usage| usage.value.ocsp_signing));
        delegate.issuer().as_raw() == issuer.subject().as_raw()
            && is_for_ocsp
            && millis(validity.not_before.timestamp()) <= now
            && now <= millis(validity.not_after.timestamp())
            && signed.is_signed_by(delegate.public_key().raw)
            && Signed::read(element.whole).is_some_and(|form| form.is_signed_by(issuer.public_key().raw))
    })
}

/// What a response says of one certificate.
struct Answer {
    status: u8,
    this_update: UnixMillis,
    next_update: Option<UnixMillis>,
}

impl Answer {
    /// The first answer about `leaf` in a `ResponseData`.
    fn find(mut data: &[u8], leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<Self, OcspError> {
        let malformed = || OcspError::Unreadable("its content is malformed");
        let input = &mut data;
        let _version = tagged(input, FIRST);
        let responder = element(input).ok_or_else(malformed)?;
        if !matches!(responder.tag, SECOND | THIRD) {
            return Err(malformed());
        }
        tagged(input, GENERALIZED_TIME).ok_or_else(malformed)?;
        let mut answers = tagged(input, SEQUENCE).ok_or_else(malformed)?.content;
        while !answers.is_empty() {
            let answer = tagged(&mut answers, SEQUENCE).ok_or_else(malformed)?.content;
            let (is_about, answer) = Self::read(answer, leaf, issuer).ok_or_else(malformed)?;
            if is_about {
                return Ok(answer);
            }
        }
        Err(OcspError::Foreign)
    }

    fn read(mut answer: &[u8], leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Option<(bool, Self)> {
        let input = &mut answer;
        let mut id = tagged(input, SEQUENCE)?.content;
        let mut algorithm = tagged(&mut id, SEQUENCE)?.content;
        let algorithm = tagged(&mut algorithm, OID)?.content;
        let name = tagged(&mut id, OCTETS)?.content;
        let key = tagged(&mut id, OCTETS)?.content;
        let serial = tagged(&mut id, INTEGER)?.content;
        let (issuer_name, issuer_key) = (issuer.subject().as_raw(), &*issuer.public_key().subject_public_key.data);
        let is_issuer = match algorithm {
            SHA1_OID => Sha1::digest(issuer_name).as_slice() == name && Sha1::digest(issuer_key).as_slice() == key,
            SHA256_OID => {
                Sha256::digest(issuer_name).as_slice() == name && Sha256::digest(issuer_key).as_slice() == key
            }
            _ => false,
        };
        let status = element(input)?.tag;
        let this_update = time(input)?;
        let next_update = match tagged(input, FIRST) {
            None => None,
            Some(next) => Some(time(&mut { next.content })?),
        };
        let answer = Self {
            status,
            this_update,
            next_update,
        };
        Some((is_issuer && serial == leaf.raw_serial(), answer))
    }

    fn check(&self, now: UnixMillis) -> Result<OcspResponse, OcspError> {
        match self.status {
            GOOD => {}
            REVOKED => return Err(OcspError::NotGood("revoked")),
            _ => return Err(OcspError::NotGood("unknown")),
        }
        let this_update = self.this_update;
        let next_update = self.next_update.ok_or(OcspError::NoEnd)?;
        if this_update.0 > now.0.saturating_add(MAX_AHEAD_MS) {
            return Err(OcspError::NotYet { this_update, now });
        }
        if next_update <= now {
            return Err(OcspError::Ended { next_update, now });
        }
        Ok(OcspResponse {
            this_update,
            next_update,
        })
    }
}

fn time(input: &mut &[u8]) -> Option<UnixMillis> {
    let (_, time) = ASN1Time::from_der(tagged(input, GENERALIZED_TIME)?.whole).ok()?;
    Some(millis(time.timestamp()))
}
