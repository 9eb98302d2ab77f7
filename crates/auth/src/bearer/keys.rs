//! The issuer's public keys (RFC 7517), and the signatures that they check.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::{BearerRefusal, BearerToken};

/// Most keys of an issuer that are looked at.
const MAX_KEYS: usize = 100;
/// Keys with one name that are tried.
const MAX_TRIES: usize = 2;
/// Length of an RSA modulus, in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// An algorithm of a signature with a public key (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS 1 with SHA-256.
    Rs256,
    /// RSA PKCS 1 with SHA-384.
    Rs384,
    /// RSA PKCS 1 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    /// All of them, with their names in a token.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Rs256, "RS256"),
        (Self::Rs384, "RS384"),
        (Self::Rs512, "RS512"),
        (Self::Ps256, "PS256"),
        (Self::Ps384, "PS384"),
        (Self::Ps512, "PS512"),
        (Self::Es256, "ES256"),
        (Self::Es384, "ES384"),
        (Self::EdDsa, "EdDSA"),
    ];

    /// Reads a name of [`Self::ALL`], case-sensitively (RFC 7515 §4.1.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(algorithm, _)| algorithm)
    }

    fn key_type(self) -> KeyType {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => KeyType::Rsa,
            Self::Es256 => KeyType::P256,
            Self::Es384 => KeyType::P384,
            Self::EdDsa => KeyType::Ed25519,
        }
    }

    fn of_library(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm as A;
        match self {
            Self::Rs256 => A::RS256,
            Self::Rs384 => A::RS384,
            Self::Rs512 => A::RS512,
            Self::Ps256 => A::PS256,
            Self::Ps384 => A::PS384,
            Self::Ps512 => A::PS512,
            Self::Es256 => A::ES256,
            Self::Es384 => A::ES384,
            Self::EdDsa => A::EdDSA,
        }
    }
}

/// A document that is no set of keys for tokens.
#[derive(Debug, Error)]
pub enum KeySetError {
    /// It is not `{"keys":[…]}`.
    #[error("the key set is not JSON with a list of keys")]
    Json(#[from] serde_json::Error),
    /// No key in it can check signatures.
    #[error("none of the {0} keys of the key set can check a signature of a token")]
    Unusable(usize),
}

struct Key {
    id: Option<String>,
    kind: KeyType,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

/// The keys of an issuer.
pub struct IssuerKeys(Vec<Key>);

impl std::fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl IssuerKeys {
    /// Reads a JSON Web Key Set. Keys that are for encryption, of another type or too weak are left out: an issuer may have them
    /// for others.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        let Document { keys } = serde_json::from_slice(document)?;
        let count = keys.len();
        let keys: Vec<Key> = keys.into_iter().take(MAX_KEYS).filter_map(read).collect();
        if keys.is_empty() {
            return Err(KeySetError::Unusable(count));
        }
        Ok(Self(keys))
    }

    /// How many can be used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Checks the signature of a token whose algorithm is allowed.
    pub(super) fn verify(&self, token: &BearerToken<'_>, algorithm: Algorithm) -> Result<(), BearerRefusal> {
        let name = KeyAlgorithm::from(algorithm.of_library());
        let fits = |key: &&Key| {
            key.kind == algorithm.key_type()
                && key.algorithm.is_none_or(|only| only == name)
                && (token.key_id.is_none() || token.key_id == key.id)
        };
        let fitting: Vec<&Key> = self.0.iter().filter(fits).collect();
        // Without a name, the choice must be clear.
        if fitting.is_empty() || (token.key_id.is_none() && fitting.len() > 1) {
            return Err(BearerRefusal::UnknownKey);
        }
        let verifies = |key: &&Key| {
            let message = token.signed.as_bytes();
            jsonwebtoken::crypto::verify(token.signature, message, &key.key, algorithm.of_library()).unwrap_or(false)
        };
        match fitting.into_iter().take(MAX_TRIES).any(|key| verifies(&key)) {
            true => Ok(()),
            false => Err(BearerRefusal::Signature),
        }
    }
}

/// The key, if it can check signatures of tokens.
fn read(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let length = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().map(|bytes| bytes.len());
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => length(&rsa.n)
            .is_some_and(|bytes| RSA_BYTES.contains(&bytes))
            .then_some(KeyType::Rsa)?,
        AlgorithmParameters::EllipticCurve(point) => match point.curve {
            EllipticCurve::P256 => KeyType::P256,
            EllipticCurve::P384 => KeyType::P384,
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => KeyType::Ed25519,
        // A symmetric key in a public document is no secret.
        _ => return None,
    };
    let common = jwk.common.clone();
    let is_for_signatures = common
        .public_key_use
        .is_none_or(|purpose| purpose == PublicKeyUse::Signature)
        && common
            .key_operations
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    is_for_signatures.then_some(())?;
    Some(Key {
        kind,
        id: common.key_id,
        algorithm: common.key_algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    })
}
