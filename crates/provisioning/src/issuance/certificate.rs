//! Certificates as bytes: of devices, and of issuing CAs that the hub makes itself (RFC 5280).
//!
//! Why by hand: the name of the issuer must be byte for byte that of its certificate, and the key that of the request, whatever a library
//! would make of them.
//! Invariants: pure; nothing of a request but its key is copied; every length is encoded in the shortest form.

use holdfast_auth::x509::EPOCH_OID;
use holdfast_model::{UnixMillis, round_trip};
use sha2::{Digest as _, Sha256};

/// Bytes of a serial number: random, so that no two are alike.
pub(super) const SERIAL_BYTES: usize = 16;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, primitive: the key identifier of an authority.
const KEY_IDENTIFIER: u8 = 0x80;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 0x0e];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// digitalSignature.
const LEAF_USAGE: &[u8] = &[BIT_STRING, 2, 7, 0x80];
/// keyCertSign and cRLSign.
const CA_USAGE: &[u8] = &[BIT_STRING, 2, 1, 0x06];

/// What a certificate says, but its signature.
pub(super) struct Contents<'a> {
    /// Positive.
    pub(super) serial: &'a [u8; SERIAL_BYTES],
    /// The identifier of the algorithm that signs it, in DER.
    pub(super) algorithm: &'a [u8],
    /// The issuer's name, in DER.
    pub(super) issuer: &'a [u8],
    /// The identifier of the issuer's key.
    pub(super) issuer_key: Option<&'a [u8]>,
    pub(super) from: UnixMillis,
    pub(super) until: UnixMillis,
    /// The subject's name, in DER.
    pub(super) subject: &'a [u8],
    /// Its key, a `SubjectPublicKeyInfo` in DER.
    pub(super) key: &'a [u8],
    pub(super) role: Role<'a>,
}

/// Whose certificate it is.
pub(super) enum Role<'a> {
    /// A device's, perhaps with its epoch.
    Device { epoch: Option<&'a [u8]> },
    /// That of a CA which issues to devices only.
    Authority,
}

impl Contents<'_> {
    /// The bytes that the issuer signs.
    pub(super) fn to_be_signed(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        match &self.role {
            Role::Device { epoch } => {
                extensions.extend(extension(BASIC_CONSTRAINTS, true, &wrap(SEQUENCE, &[])));
                extensions.extend(extension(KEY_USAGE, true, LEAF_USAGE));
                let usages = wrap(SEQUENCE, &[&wrap(OID, &[CLIENT_AUTH])]);
                extensions.extend(extension(EXTENDED_USAGE, false, &usages));
                if let Some(epoch) = epoch {
                    extensions.extend(extension(EPOCH_OID, false, &wrap(OCTET_STRING, &[epoch])));
                }
            }
            Role::Authority => {
                let constraints = wrap(SEQUENCE, &[&[BOOLEAN, 1, 0xff], &[INTEGER, 1, 0]]);
                extensions.extend(extension(BASIC_CONSTRAINTS, true, &constraints));
                extensions.extend(extension(KEY_USAGE, true, CA_USAGE));
            }
        }
        let own_key = wrap(OCTET_STRING, &[&key_identifier(self.key)]);
        extensions.extend(extension(SUBJECT_KEY, false, &own_key));
        if let Some(issuer_key) = self.issuer_key {
            let named = wrap(SEQUENCE, &[&wrap(KEY_IDENTIFIER, &[issuer_key])]);
            extensions.extend(extension(AUTHORITY_KEY, false, &named));
        }
        let validity = wrap(SEQUENCE, &[&time(self.from), &time(self.until)]);
        wrap(
            SEQUENCE,
            &[
                &wrap(VERSION, &[&[INTEGER, 1, 2]]),
                &wrap(INTEGER, &[self.serial]),
                self.algorithm,
                self.issuer,
                &validity,
                self.subject,
                self.key,
                &wrap(EXTENSIONS, &[&wrap(SEQUENCE, &[&extensions])]),
            ],
        )
    }
}

/// The certificate with its signature.
pub(super) fn signed(to_be_signed: &[u8], algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    wrap(
        SEQUENCE,
        &[to_be_signed, algorithm, &wrap(BIT_STRING, &[&[0], signature])],
    )
}

/// The name of a subject that has a common name and nothing else.
pub(super) fn name(common_name: &str) -> Vec<u8> {
    let text = wrap(UTF8_STRING, &[common_name.as_bytes()]);
    let attribute = wrap(SEQUENCE, &[&wrap(OID, &[COMMON_NAME]), &text]);
    wrap(SEQUENCE, &[&wrap(SET, &[&attribute])])
}

/// Of a `SubjectPublicKeyInfo` in DER (RFC 7093 §2, method 4).
pub(super) fn key_identifier(key: &[u8]) -> [u8; 20] {
    let digest = Sha256::digest(key);
    let mut identifier = [0; 20];
    identifier.copy_from_slice(&digest[..20]);
    identifier
}

/// A random number as a serial number: positive, and of one length.
pub(super) fn serial(mut random: [u8; SERIAL_BYTES]) -> [u8; SERIAL_BYTES] {
    random[0] = random[0] & 0x7f | 0x40;
    random
}

fn extension(oid: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if is_critical { &[BOOLEAN, 1, 0xff] } else { &[] };
    wrap(SEQUENCE, &[&wrap(OID, &[oid]), critical, &wrap(OCTET_STRING, &[value])])
}

/// UTCTime until 2049, GeneralizedTime from then on; without fractions.
fn time(at: UnixMillis) -> Vec<u8> {
    let text = i64::try_from(at.0).ok().and_then(round_trip);
    let text = text.unwrap_or_else(|| "9999-12-31T23:59:59".to_owned());
    let digits: String = text.chars().take(19).filter(char::is_ascii_digit).collect();
    match &digits[..4] < "2050" {
        true => wrap(UTC_TIME, &[&digits.as_bytes()[2..], b"Z"]),
        false => wrap(GENERALIZED_TIME, &[digits.as_bytes(), b"Z"]),
    }
}

fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 6);
    der.push(tag);
    let bytes = length.to_be_bytes();
    let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match digits {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        // At most 8 digits.
        digits => {
            der.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            der.extend_from_slice(digits);
        }
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_their_shortest_form() {
        for (length, head) in [
            (0, &[4, 0][..]),
            (127, &[4, 127]),
            (128, &[4, 0x81, 128]),
            (255, &[4, 0x81, 255]),
            (256, &[4, 0x82, 1, 0]),
            (65_536, &[4, 0x83, 1, 0, 0]),
        ] {
            let der = wrap(OCTET_STRING, &[&vec![7; length]]);
            assert_eq!(&der[..head.len()], head);
            assert_eq!(der.len(), head.len() + length);
        }
    }

    #[test]
    fn times_change_their_form_in_2050() {
        assert_eq!(
            time(UnixMillis(1_910_000_000_123)),
            b"\x17\x0d300711113320Z"[..].to_vec()
        );
        let last = time(UnixMillis(2_524_607_999_999));
        assert_eq!(last, b"\x17\x0d491231235959Z");
        assert_eq!(time(UnixMillis(2_524_608_000_000)), b"\x18\x0f20500101000000Z");
    }

    #[test]
    fn serial_numbers_are_positive() {
        for random in [[0; SERIAL_BYTES], [0xff; SERIAL_BYTES]] {
            let serial = serial(random);
            assert!((0x40..0x80).contains(&serial[0]));
        }
    }
}
