//! The symmetric operations of a TPM: KDFa, HMAC-SHA256 and AES-128-CFB without an initial value.

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::ActivationError;

/// Bytes of an AES-128 key.
pub(super) const AES_BYTES: usize = 16;

/// HMAC-SHA256 of the parts, one behind the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// KDFa (TPM 2.0 part 1, §11.4.10.2) for up to 256 bits, which is one round of it.
pub(super) fn derive<const BYTES: usize>(key: &[u8], label: &str, context: &[u8]) -> Zeroizing<[u8; BYTES]> {
    const { assert!(BYTES <= 32) };
    let bits = (BYTES as u32 * 8).to_be_bytes();
    let round = hmac(key, &[&1_u32.to_be_bytes(), label.as_bytes(), &[0], context, &bits]);
    let mut derived = Zeroizing::new([0; BYTES]);
    derived.copy_from_slice(&round[..BYTES]);
    derived
}

/// Encrypts in place. Each key encrypts one message alone, so that an initial value of zeros is safe; the TPM knows no other.
pub(super) fn encrypt(key: &[u8; AES_BYTES], bytes: &mut [u8]) -> Result<(), ActivationError> {
    let key = UnboundCipherKey::new(&AES_128, key).map_err(|_| ActivationError::Encryption)?;
    let key = EncryptingKey::cfb128(key).map_err(|_| ActivationError::Encryption)?;
    let zeros = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(bytes, zeros)
        .map_err(|_| ActivationError::Encryption)?;
    Ok(())
}
