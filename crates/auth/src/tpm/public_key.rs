//! A TPM's public RSA key, as the TPM writes it.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Bits of the keys that clients make: endorsement and storage root keys of the default templates.
const KEY_BITS: u16 = 2048;
const KEY_BYTES: usize = KEY_BITS as usize / 8;

/// The exponent that 0 stands for.
const DEFAULT_EXPONENT: u32 = 65_537;

/// `TPM_ALG_RSA`.
const ALG_RSA: u16 = 0x0001;
/// `TPM_ALG_SHA256`.
pub(super) const ALG_SHA256: u16 = 0x000b;
/// `TPM_ALG_NULL`.
const ALG_NULL: u16 = 0x0010;

/// Why bytes are no public key of a TPM that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TpmPublicKeyError {
    /// They end before the structure does.
    #[error("it ends within the {0}")]
    Short(&'static str),
    /// More follows behind it.
    #[error("{0} bytes follow it")]
    Trailing(usize),
    /// Of another algorithm.
    #[error("it is of type {0:#06x}; an RSA key (0x0001) is needed")]
    NotRsa(u16),
    /// Its name would be of another digest.
    #[error("its name algorithm is {0:#06x}; SHA-256 (0x000b) is needed")]
    NameAlgorithm(u16),
    /// It signs, or encrypts in one way alone.
    #[error("it has the scheme {0:#06x}; a decryption key without a scheme (0x0010) is needed")]
    Scheme(u16),
    /// Too weak, or of a size that the clients' templates do not have.
    #[error("it has {0} bits; {KEY_BITS} are needed")]
    Bits(u16),
    /// Its number is not of the size that it claims.
    #[error("its modulus is no number of {KEY_BITS} bits that is odd")]
    Modulus,
}

/// A public RSA key of a TPM with its area, by which the TPM names it.
#[derive(Clone, PartialEq, Eq)]
pub struct TpmPublicKey {
    /// `TPMT_PUBLIC`, without its size.
    area: Box<[u8]>,
    modulus: [u8; KEY_BYTES],
    exponent: u32,
}

impl std::fmt::Debug for TpmPublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TpmPublicKey(sha256 {})", HEXLOWER.encode(&self.digest()))
    }
}

impl TpmPublicKey {
    /// Reads a `TPM2B_PUBLIC`, or a `TPMT_PUBLIC` without the size before it.
    ///
    /// # Errors
    /// [`TpmPublicKeyError`] names the first rule that it breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmPublicKeyError> {
        let mut rest = bytes;
        let first = number(&mut rest, "type")?;
        // A size of 1 is impossible, so that the first number is either the type or the size.
        let area = if first == ALG_RSA {
            bytes
        } else {
            match rest.len().checked_sub(usize::from(first)) {
                None => return Err(TpmPublicKeyError::Short("public area")),
                Some(0) => rest,
                Some(behind) => return Err(TpmPublicKeyError::Trailing(behind)),
            }
        };
        Self::parse_area(area)
    }

    fn parse_area(area: &[u8]) -> Result<Self, TpmPublicKeyError> {
        let mut rest = area;
        let kind = number(&mut rest, "type")?;
        if kind != ALG_RSA {
            return Err(TpmPublicKeyError::NotRsa(kind));
        }
        let name_algorithm = number(&mut rest, "name algorithm")?;
        if name_algorithm != ALG_SHA256 {
            return Err(TpmPublicKeyError::NameAlgorithm(name_algorithm));
        }
        take(&mut rest, 4, "attributes")?;
        let policy = number(&mut rest, "size of the policy")?;
        take(&mut rest, usize::from(policy), "policy")?;
        if number(&mut rest, "symmetric algorithm")? != ALG_NULL {
            take(&mut rest, 4, "symmetric algorithm")?;
        }
        let scheme = number(&mut rest, "scheme")?;
        if scheme != ALG_NULL {
            return Err(TpmPublicKeyError::Scheme(scheme));
        }
        let bits = number(&mut rest, "number of bits")?;
        if bits != KEY_BITS {
            return Err(TpmPublicKeyError::Bits(bits));
        }
        let exponent = take(&mut rest, 4, "exponent")?;
        let exponent = exponent.iter().fold(0, |sum, byte| (sum << 8) | u32::from(*byte));
        let length = number(&mut rest, "size of the modulus")?;
        let modulus = take(&mut rest, usize::from(length), "modulus")?;
        if !rest.is_empty() {
            return Err(TpmPublicKeyError::Trailing(rest.len()));
        }
        let modulus: [u8; KEY_BYTES] = modulus.try_into().map_err(|_| TpmPublicKeyError::Modulus)?;
        if modulus[0] & 0x80 == 0 || modulus[KEY_BYTES - 1] & 1 == 0 {
            return Err(TpmPublicKeyError::Modulus);
        }
        Ok(Self {
            area: area.into(),
            modulus,
            exponent: if exponent == 0 { DEFAULT_EXPONENT } else { exponent },
        })
    }

    /// Its `TPM2B_PUBLIC`: the area behind its size.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // An area that was read is far shorter than 64 KiB.
        let size = u16::try_from(self.area.len()).unwrap_or_default();
        [&size.to_be_bytes()[..], &self.area].concat()
    }

    /// SHA-256 of its area: what tells one key from another.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.area).into()
    }

    /// Its name in the TPM: the algorithm and the digest.
    pub(super) fn name(&self) -> Vec<u8> {
        name_of(&self.area)
    }

    /// Its `SubjectPublicKeyInfo` in DER (RFC 8017 §A.1.1).
    pub(super) fn spki(&self) -> Vec<u8> {
        /// The identifier of rsaEncryption, with its NULL.
        const RSA_ENCRYPTION: &[u8] = &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
        ];
        let exponent = self.exponent.to_be_bytes();
        let zeros = exponent.iter().take_while(|byte| **byte == 0).count();
        let numbers = [integer(&self.modulus), integer(&exponent[zeros..])].concat();
        let bits = [&[0], &*element(0x30, &numbers)].concat();
        element(0x30, &[RSA_ENCRYPTION, &element(0x03, &bits)].concat())
    }
}

/// The name of an object with this public area.
pub(super) fn name_of(area: &[u8]) -> Vec<u8> {
    [&ALG_SHA256.to_be_bytes()[..], &Sha256::digest(area)].concat()
}

fn take<'a>(rest: &mut &'a [u8], length: usize, what: &'static str) -> Result<&'a [u8], TpmPublicKeyError> {
    let (taken, behind) = rest.split_at_checked(length).ok_or(TpmPublicKeyError::Short(what))?;
    *rest = behind;
    Ok(taken)
}

fn number(rest: &mut &[u8], what: &'static str) -> Result<u16, TpmPublicKeyError> {
    let (first, behind) = rest.split_first_chunk().ok_or(TpmPublicKeyError::Short(what))?;
    *rest = behind;
    Ok(u16::from_be_bytes(*first))
}

/// A positive number in DER.
fn integer(digits: &[u8]) -> Vec<u8> {
    match digits.first() {
        Some(first) if first & 0x80 != 0 => element(0x02, &[&[0], digits].concat()),
        _ => element(0x02, digits),
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let digits = &length[zeros..];
    match digits {
        [] => vec![tag, 0],
        [short @ 0..=0x7f] => [&[tag, *short], content].concat(),
        // At most eight digits.
        _ => [&[tag, 0x80 | digits.len() as u8], digits, content].concat(),
    }
}
