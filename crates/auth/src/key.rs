//! Symmetric keys: wiped from memory when dropped, never printed by accident.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_model::limits::{MAX_SYMMETRIC_KEY_BYTES, MIN_SYMMETRIC_KEY_BYTES};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest base64 text of a key, in bytes.
pub(crate) const MAX_KEY_TEXT_BYTES: usize = MAX_SYMMETRIC_KEY_BYTES.div_ceil(3) * 4;

/// Why a text is not a symmetric key (Spec rest §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not canonical, padded base64. Strict, because Event Hubs clients sign with the text itself: two texts of one key
    /// would be two keys.
    #[error("the key is not base64 with padding")]
    Base64,
    /// Too short or too long.
    #[error(
        "the key has {0} bytes after base64 decoding; allowed are {MIN_SYMMETRIC_KEY_BYTES} to {MAX_SYMMETRIC_KEY_BYTES}"
    )]
    Length(usize),
}

/// A symmetric key: 16–64 bytes. Equality takes the same time wherever two keys differ.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Takes the decoded bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`].
    pub fn from_bytes(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        if (MIN_SYMMETRIC_KEY_BYTES..=MAX_SYMMETRIC_KEY_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(KeyError::Length(bytes.len()))
        }
    }

    /// Reads the base64 text of a registry document or connection string.
    ///
    /// # Errors
    /// [`KeyError`] names the rule that the text breaks; it never repeats the text.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_TEXT_BYTES {
            return Err(KeyError::Length(text.len() / 4 * 3));
        }
        let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError::Base64)?);
        Self::from_bytes(bytes)
    }

    /// The decoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text form, as registry documents and connection strings carry it.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.as_bytes()))
    }

    /// The key that this one, a group's, gives the device named `id`: HMAC-SHA256 over the name (Spec provisioning §6.2).
    #[must_use]
    pub fn derive(&self, id: &str) -> Self {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let derived = mac.chain_update(id).finalize().into_bytes();
        Self(Zeroizing::new(derived.to_vec()))
    }

    /// Identifies a key without disclosing it: a session keeps the fingerprint to detect a change of its key.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        let digest = Sha256::new_with_prefix(b"holdfast key fingerprint\0")
            .chain_update(self.as_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        KeyFingerprint(first)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The first bytes of a hash over a key; see [`Key::fingerprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyFingerprint(pub [u8; 8]);

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeySlot {
    /// The primary key.
    Primary,
    /// The secondary key.
    Secondary,
}

impl KeySlot {
    /// Both, in the order in which keys are tried: most clients have the primary one.
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Secondary];

    /// As in logs and documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// The two keys of an identity or policy; both are valid at any time, so that one can be changed while the other serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// Tried first.
    pub primary: Key,
    /// Tried second.
    pub secondary: Key,
}

impl KeyPair {
    /// The key in a slot.
    #[must_use]
    pub fn get(&self, slot: KeySlot) -> &Key {
        match slot {
            KeySlot::Primary => &self.primary,
            KeySlot::Secondary => &self.secondary,
        }
    }

    /// Whether the pair still holds the key that a session was accepted with.
    #[must_use]
    pub fn holds(&self, fingerprint: KeyFingerprint) -> bool {
        self.primary.fingerprint() == fingerprint || self.secondary.fingerprint() == fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let key = Key::from_base64(text).unwrap();
        assert_eq!(key.as_bytes(), (0..32).collect::<Vec<u8>>());
        assert_eq!(*key.to_base64(), text);
    }

    #[test]
    fn a_group_key_gives_each_device_its_own_as_the_sdks_compute_it() {
        // The vectors of Spec provisioning §6.2; the second one is published.
        for (group, id, device) in [
            (
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                "dev-1",
                "uPrGCZtSCJ9Nt+iY0r7te47dbsu7OCYEU9tz7kQloUs=",
            ),
            (
                "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==",
                "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6",
                "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=",
            ),
        ] {
            let key = Key::from_base64(group).unwrap().derive(id);
            assert_eq!(*key.to_base64(), device, "{id}");
        }
    }

    #[test]
    fn texts_that_are_no_key_are_refused_by_rule() {
        assert_eq!(Key::from_base64(""), Err(KeyError::Length(0)));
        assert_eq!(Key::from_base64("not base64!"), Err(KeyError::Base64));
        // Padding is missing; the last character has bits that belong to no byte.
        assert_eq!(Key::from_base64("AAECAwQFBgcICQoLDA0ODw"), Err(KeyError::Base64));
        assert_eq!(Key::from_base64("AAECAwQFBgcICQoLDA0ODx=="), Err(KeyError::Base64));
        assert_eq!(Key::from_base64("AAECAwQFBgcICQoLDA0O"), Err(KeyError::Length(15)));
        assert!(Key::from_base64(&STANDARD.encode([7; 64])).is_ok());
        assert_eq!(Key::from_base64(&STANDARD.encode([7; 65])), Err(KeyError::Length(65)));
        assert!(matches!(
            Key::from_base64(&"A".repeat(1 << 20)),
            Err(KeyError::Length(_))
        ));
    }

    #[test]
    fn debug_shows_no_key_and_fingerprints_tell_keys_apart() {
        let pair = KeyPair {
            primary: Key::from_bytes(vec![1; 32]).unwrap(),
            secondary: Key::from_bytes(vec![2; 32]).unwrap(),
        };
        assert_eq!(format!("{pair:?}"), "KeyPair { primary: Key(…), secondary: Key(…) }");
        assert!(pair.holds(pair.secondary.fingerprint()));
        assert!(!pair.holds(Key::from_bytes(vec![3; 32]).unwrap().fingerprint()));
    }
}
