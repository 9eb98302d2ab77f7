//! Symmetric keys: generated and sealed by the leader before they enter the log, opened for checks.
//!
//! Invariants: nothing that leaves this file for a command holds a key in clear; a nonce is never used twice (fresh
//! random 96 bits per seal, at most some billions of seals under one data key).

use std::sync::Arc;

use bytes::Bytes;
use holdfast_auth::{Key, KeyError, KeyPair};
use holdfast_model::limits::{GENERATED_KEY_BYTES, MAX_SYMMETRIC_KEY_BYTES};
use holdfast_proto::registry::v1::SealedKeys;
use holdfast_storage::{SealError, Sealer, fresh_nonce};
use rand::RngCore;
use thiserror::Error;
use zeroize::Zeroizing;

/// A stored secret that cannot be used.
#[derive(Debug, Error)]
pub enum SecretError {
    /// It was sealed under another key, or is damaged.
    #[error("the secret cannot be sealed or opened")]
    Seal(#[from] SealError),
    /// The sealed value is not text.
    #[error("the secret is not text")]
    Text,
    /// The sealed value is not a key.
    #[error("the secret is not a symmetric key")]
    Key(#[from] KeyError),
}

/// Seals, opens and generates keys.
#[derive(Clone)]
pub(crate) struct Secrets(Arc<Sealer>);

impl Secrets {
    pub(crate) fn new(sealer: Arc<Sealer>) -> Self {
        Self(sealer)
    }

    /// Two keys of 32 random bytes, sealed.
    pub(crate) fn generate(&self) -> Result<SealedKeys, SecretError> {
        Ok(SealedKeys {
            primary: self.generate_one()?,
            secondary: self.generate_one()?,
        })
    }

    /// One key of 32 random bytes, sealed.
    pub(crate) fn generate_one(&self) -> Result<Bytes, SecretError> {
        let mut key = Zeroizing::new([0; GENERATED_KEY_BYTES]);
        rand::rng().fill_bytes(&mut *key);
        self.seal(&*key)
    }

    /// Two keys of 64 random bytes, sealed: what enrollments begin with (Spec provisioning §6.2).
    pub(crate) fn generate_long(&self) -> Result<SealedKeys, SecretError> {
        let one = || {
            let mut key = Zeroizing::new([0; MAX_SYMMETRIC_KEY_BYTES]);
            rand::rng().fill_bytes(&mut *key);
            self.seal(&*key)
        };
        Ok(SealedKeys {
            primary: one()?,
            secondary: one()?,
        })
    }

    pub(crate) fn seal_pair(&self, keys: &KeyPair) -> Result<SealedKeys, SecretError> {
        Ok(SealedKeys {
            primary: self.seal(keys.primary.as_bytes())?,
            secondary: self.seal(keys.secondary.as_bytes())?,
        })
    }

    pub(crate) fn open_pair(&self, keys: &SealedKeys) -> Result<KeyPair, SecretError> {
        Ok(KeyPair {
            primary: self.open(&keys.primary)?,
            secondary: self.open(&keys.secondary)?,
        })
    }

    pub(crate) fn seal(&self, key: &[u8]) -> Result<Bytes, SecretError> {
        Ok(self.0.seal(key, fresh_nonce()?)?)
    }

    /// A secret that is text.
    pub(crate) fn open_text(&self, sealed: &[u8]) -> Result<String, SecretError> {
        String::from_utf8(self.0.open(sealed)?.to_vec()).map_err(|_| SecretError::Text)
    }

    /// Opens a secret that is no symmetric key.
    pub(crate) fn open_bytes(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        Ok(self.0.open(sealed)?)
    }

    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Key, SecretError> {
        Ok(Key::from_bytes(self.0.open(sealed)?)?)
    }
}
