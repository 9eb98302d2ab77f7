//! The activation blob: an HMAC key that only one TPM can load (Spec provisioning §7.2, §7.3).

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::cipher::{AES_BYTES, derive, encrypt, hmac};
use super::public_key::{ALG_SHA256, TpmPublicKey, name_of};

/// Longest key that a TPM imports for HMAC-SHA256, in bytes: its block.
pub const MAX_ACTIVATED_KEY_BYTES: usize = 64;

/// Longest text in the blob, in bytes.
const MAX_TEXT_BYTES: usize = 255;

/// `TPM_ALG_KEYEDHASH`.
const ALG_KEYED_HASH: u16 = 0x0008;
/// `TPM_ALG_HMAC`.
const ALG_HMAC: u16 = 0x0005;
/// userWithAuth, noDA, sign: a key for signatures that needs no authorization. TPMs refuse fixedTPM at an import.
const ATTRIBUTES: u32 = 0x0004_0440;

/// Why no blob can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ActivationError {
    /// No TPM takes it.
    #[error("the key has {0} bytes; a TPM takes 1 to {MAX_ACTIVATED_KEY_BYTES}")]
    Key(usize),
    /// No TPM decrypts an empty text, and none needs a long one.
    #[error("the text has {0} bytes; allowed are 1 to {MAX_TEXT_BYTES}")]
    Text(usize),
    /// The numbers of the TPM's key are no RSA key.
    #[error("the public key is no RSA key that can encrypt")]
    PublicKey,
    /// The library refused.
    #[error("the encryption failed")]
    Encryption,
}

/// The random numbers of one blob; never used twice.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ActivationRandom {
    /// Encrypts the HMAC key; only the TPM can decrypt it.
    pub inner_key: [u8; AES_BYTES],
    /// Of the credential, for the endorsement key.
    pub credential_seed: [u8; 32],
    /// Of the import, for the storage root key.
    pub import_seed: [u8; 32],
    /// Blinds the public digest of the HMAC key.
    pub blinding: [u8; 32],
}

/// Encrypts `key` so that only the TPM with these two keys can load it for HMAC-SHA256. `text` comes along, encrypted: the hub's name.
///
/// # Errors
/// [`ActivationError`].
pub fn activation_blob(
    endorsement: &TpmPublicKey,
    storage_root: &TpmPublicKey,
    key: &[u8],
    text: &str,
    random: &ActivationRandom,
) -> Result<Vec<u8>, ActivationError> {
    if key.is_empty() || key.len() > MAX_ACTIVATED_KEY_BYTES {
        return Err(ActivationError::Key(key.len()));
    }
    if text.is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(ActivationError::Text(text.len()));
    }
    let area = hmac_key_area(key, &random.blinding);
    let mut encrypted_text = text.as_bytes().to_vec();
    encrypt(&random.inner_key, &mut encrypted_text)?;
    Ok([
        credential(&storage_root.name(), &random.inner_key, &random.credential_seed)?,
        sized(&seal(endorsement, &random.credential_seed, b"IDENTITY\0")?),
        duplicate(key, &name_of(&area), random)?,
        sized(&seal(storage_root, &random.import_seed, b"DUPLICATE\0")?),
        sized(&area),
        sized(&encrypted_text),
    ]
    .concat())
}

/// `TPM2B_ID_OBJECT`: gives `inner_key` to the TPM that has the object `name` and the seed (part 1, §24).
pub(super) fn credential(
    name: &[u8],
    inner_key: &[u8; AES_BYTES],
    seed: &[u8; 32],
) -> Result<Vec<u8>, ActivationError> {
    let mut identity = Zeroizing::new(sized(inner_key));
    encrypt(&derive(seed, "STORAGE", name), &mut identity)?;
    let integrity = derive::<32>(seed, "INTEGRITY", &[]);
    let outer = hmac(&*integrity, &[&identity, name]);
    Ok(sized(&[&*sized(&*outer), &*identity].concat()))
}

/// `TPMT_PUBLIC` of the HMAC key.
pub(super) fn hmac_key_area(key: &[u8], blinding: &[u8; 32]) -> Vec<u8> {
    let unique = Sha256::new().chain_update(blinding).chain_update(key).finalize();
    [
        &ALG_KEYED_HASH.to_be_bytes()[..],
        &ALG_SHA256.to_be_bytes(),
        &ATTRIBUTES.to_be_bytes(),
        // No policy.
        &sized(&[]),
        &ALG_HMAC.to_be_bytes(),
        &ALG_SHA256.to_be_bytes(),
        &sized(&unique),
    ]
    .concat()
}

/// `TPM2B_PRIVATE` of the HMAC key, wrapped twice for an import: by the inner key, and by the seed (part 1, annex on duplication).
pub(super) fn duplicate(key: &[u8], name: &[u8], random: &ActivationRandom) -> Result<Vec<u8>, ActivationError> {
    let sensitive = Zeroizing::new(sized(&Zeroizing::new(
        [
            &ALG_KEYED_HASH.to_be_bytes()[..],
            // No authorization.
            &sized(&[]),
            &sized(&random.blinding),
            &Zeroizing::new(sized(key)),
        ]
        .concat(),
    )));
    let digest = Sha256::new().chain_update(&*sensitive).chain_update(name).finalize();
    let mut wrapped = Zeroizing::new([&*sized(&digest), &*sensitive].concat());
    encrypt(&random.inner_key, &mut wrapped)?;
    encrypt(&derive(&random.import_seed, "STORAGE", name), &mut wrapped)?;
    let integrity = derive::<32>(&random.import_seed, "INTEGRITY", &[]);
    let outer = hmac(&*integrity, &[&wrapped, name]);
    Ok(sized(&[&*sized(&*outer), &*wrapped].concat()))
}

/// Encrypts a seed to a key of the TPM (RSAES-OAEP with SHA-256; the label ends with a NUL).
fn seal(to: &TpmPublicKey, seed: &[u8; 32], label: &[u8]) -> Result<Vec<u8>, ActivationError> {
    let key = PublicEncryptingKey::from_der(&to.spki()).map_err(|_| ActivationError::PublicKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| ActivationError::PublicKey)?;
    let mut sealed = vec![0; key.ciphertext_size()];
    let length = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, seed, &mut sealed, Some(label))
        .map_err(|_| ActivationError::Encryption)?
        .len();
    sealed.truncate(length);
    Ok(sealed)
}

/// Bytes behind their length; all that are put here are shorter than 64 KiB.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
