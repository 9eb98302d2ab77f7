//! Keys of issuing CAs: P-256, P-384 and RSA.
//!
//! Invariants: a key leaves this file only as PKCS#8, to be sealed; `Debug` shows none.

use std::fmt;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use zeroize::Zeroizing;

/// ecdsa-with-SHA256, ecdsa-with-SHA384, and sha256WithRSAEncryption.
const ECDSA_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const RSA_SHA256: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0b, 5, 0];

/// A key that can sign certificates.
pub(super) enum CaKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaKey(…)")
    }
}

impl CaKey {
    /// A new key on P-384, as PKCS#8.
    ///
    /// # Errors
    /// The library cannot make one.
    pub(super) fn generate() -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| "a key cannot be made")?;
        Ok(Zeroizing::new(made.as_ref().to_vec()))
    }

    /// Reads PKCS#8 in DER.
    ///
    /// # Errors
    /// It is none, or of another kind.
    pub(super) fn read(pkcs8: &[u8]) -> Result<Self, &'static str> {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8) {
            return Ok(Self::P384(key));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8) {
            return Ok(Self::P256(key));
        }
        let rsa = rsa::KeyPair::from_pkcs8(pkcs8).map(Self::Rsa);
        rsa.map_err(|_| "the key is no PKCS#8 of P-256, P-384, or RSA with 2048 to 8192 bits")
    }

    /// Its public part, a `SubjectPublicKeyInfo` in DER.
    pub(super) fn public(&self) -> Option<Vec<u8>> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::P256(key) | Self::P384(key) => key.public_key().as_der().ok()?,
            Self::Rsa(key) => key.public_key().as_der().ok()?,
        };
        Some(der.as_ref().to_vec())
    }

    /// The identifier of the algorithm that it signs with, in DER.
    pub(super) const fn algorithm(&self) -> &'static [u8] {
        match self {
            Self::P256(_) => ECDSA_SHA256,
            Self::P384(_) => ECDSA_SHA384,
            Self::Rsa(_) => RSA_SHA256,
        }
    }

    /// # Errors
    /// The library cannot sign.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let random = SystemRandom::new();
        let failed = "the signature cannot be made";
        match self {
            Self::P256(key) | Self::P384(key) => {
                let signature = key.sign(&random, message).map_err(|_| failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| failed)?;
                Ok(signature)
            }
        }
    }
}
