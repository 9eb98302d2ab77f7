//! Attestation by TPM: the challenge that only the enrolled TPM can open, and the proof that it has (Spec provisioning §7).
//!
//! Why without state: any node answers a challenge that another one has made. The nonce is derived from secrets of the enrollment, which
//! every node has, and from the last operation of the device.
//! Invariants: a nonce opens one registration, since the next one is derived from the operation that this one has made; it ends with the
//! day after it was made; the device's keys at its hub are the same as long as enrollment and TPM are; no secret leaves but encrypted to
//! the TPM.
//! Not here: the blob's structure (`auth::tpm`), and how it travels (`gateway`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use holdfast_auth::tpm::{ActivationRandom, TpmPublicKey, activation_blob};
use holdfast_auth::{Key, KeyError, KeyForm, KeyPair, SasToken, verify_signature};
use holdfast_model::{ErrorCode, RefusalReason, UnixMillis};
use holdfast_registry::{MAX_TPM_KEY_BYTES, Registration, RegistrationTpm, TpmAttestation};
use rand::RngCore as _;
use serde_json::Value;

use crate::error::ProvisioningError;

/// How long a nonce is derived alike, in milliseconds; it is accepted for one more such time.
const NONCE_MS: u64 = 24 * 3600 * 1000;

/// Longest text in a blob, in bytes: a blob with more would not fit into two frames of SASL (Spec provisioning §5.2).
const MAX_TEXT_BYTES: usize = 128;

/// The public keys that a device shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmKeys {
    endorsement: TpmPublicKey,
    storage_root: TpmPublicKey,
}

impl TpmKeys {
    /// Reads both keys, each a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// [`ErrorCode::ArgumentInvalid`] naming the key and the rule that it breaks.
    pub fn parse(endorsement: &[u8], storage_root: &[u8]) -> Result<Self, ProvisioningError> {
        let read = |name: &str, bytes: &[u8]| {
            let invalid = |text: String| ProvisioningError::new(ErrorCode::ArgumentInvalid, format!("{name}: {text}"));
            if bytes.len() > MAX_TPM_KEY_BYTES {
                return Err(invalid(format!("it has more than {MAX_TPM_KEY_BYTES} bytes")));
            }
            TpmPublicKey::parse(bytes).map_err(|error| invalid(error.to_string()))
        };
        Ok(Self {
            endorsement: read("endorsementKey", endorsement)?,
            storage_root: read("storageRootKey", storage_root)?,
        })
    }

    /// Reads the member `tpm` of a body: both keys in base64.
    pub(crate) fn of_body(member: &Value) -> Result<Self, ProvisioningError> {
        let invalid = |text: String| ProvisioningError::new(ErrorCode::ArgumentInvalid, text);
        let Value::Object(members) = member else {
            return Err(invalid("tpm must be an object".to_owned()));
        };
        let bytes = |name: &str| {
            let text = members.get(name).and_then(Value::as_str);
            let text = text.ok_or_else(|| invalid(format!("tpm.{name} must be a text")))?;
            // Longer ones are not decoded.
            if text.len() > 2 * MAX_TPM_KEY_BYTES {
                return Err(invalid(format!("tpm.{name} is too long")));
            }
            STANDARD
                .decode(text.trim())
                .map_err(|_| invalid(format!("tpm.{name} is not base64")))
        };
        Self::parse(&bytes("endorsementKey")?, &bytes("storageRootKey")?)
    }

    /// The keys of a registration; `None`: they were stored by a newer version.
    fn stored(tpm: &RegistrationTpm) -> Option<Self> {
        Self::parse(&tpm.endorsement_key, &tpm.storage_root_key).ok()
    }

    /// A challenge with a key that is forgotten at once.
    pub(crate) fn void_challenge(&self, text: &str) -> Result<Vec<u8>, ProvisioningError> {
        let mut key = vec![0; 32];
        rand::rng().fill_bytes(&mut key);
        let invalid = |error: KeyError| ProvisioningError::new(ErrorCode::ServerError, error.to_string());
        self.activate(&Key::from_bytes(key).map_err(invalid)?, text)
    }

    /// Encrypts `key` to the TPM.
    fn activate(&self, key: &Key, text: &str) -> Result<Vec<u8>, ProvisioningError> {
        let mut end = text.len().min(MAX_TEXT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let blob = activation_blob(
            &self.endorsement,
            &self.storage_root,
            key.as_bytes(),
            &text[..end],
            &random(),
        );
        blob.map_err(|error| ProvisioningError::new(ErrorCode::ArgumentInvalid, format!("tpm: {error}")))
    }
}

fn random() -> ActivationRandom {
    let mut random = ActivationRandom {
        inner_key: [0; 16],
        credential_seed: [0; 32],
        import_seed: [0; 32],
        blinding: [0; 32],
    };
    let mut source = rand::rng();
    source.fill_bytes(&mut random.inner_key);
    source.fill_bytes(&mut random.credential_seed);
    source.fill_bytes(&mut random.import_seed);
    source.fill_bytes(&mut random.blinding);
    random
}

/// What the token of a TPM is to open.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TpmUse<'a> {
    /// A registration, with the keys that the device shows.
    Register(Option<&'a TpmKeys>),
    /// The state of the registration that the same token has made.
    Read,
}

/// A TPM that has proved itself.
#[derive(Debug, Clone)]
pub(crate) struct ProvenTpm {
    keys: TpmKeys,
    nonce_salt: String,
    /// Its keys at its hub.
    pub(crate) hub_keys: KeyPair,
}

impl ProvenTpm {
    /// What the registration keeps of it.
    pub(crate) fn stored(&self) -> RegistrationTpm {
        RegistrationTpm {
            endorsement_key: Bytes::from(self.keys.endorsement.to_bytes()),
            storage_root_key: Bytes::from(self.keys.storage_root.to_bytes()),
            nonce_salt: self.nonce_salt.clone(),
        }
    }

    /// The device's key at `hub`, for its TPM alone, in base64.
    pub(crate) fn authentication_key(&self, hub: &str) -> Result<String, ProvisioningError> {
        Ok(STANDARD.encode(self.keys.activate(&self.hub_keys.primary, hub)?))
    }
}

/// The enrollment of a TPM, for one registration id.
pub(crate) struct EnrolledTpm<'a> {
    pub(crate) attestation: &'a TpmAttestation,
    pub(crate) id_scope: &'a str,
    pub(crate) registration_id: &'a str,
    /// Of the device, if it has one.
    pub(crate) registration: Option<&'a Registration>,
    pub(crate) now: UnixMillis,
}

impl EnrolledTpm<'_> {
    /// Whether the enrollment names the TPM that shows `keys`.
    pub(crate) fn is_of(&self, keys: &TpmKeys) -> bool {
        let enrolled = TpmPublicKey::parse(&self.attestation.keys.endorsement_key);
        enrolled.is_ok_and(|enrolled| enrolled == keys.endorsement)
    }

    /// The nonce for the next registration, for the TPM alone.
    pub(crate) fn challenge(&self, keys: &TpmKeys, text: &str) -> Result<Vec<u8>, ProvisioningError> {
        let nonce = self.nonce(keys, self.last_operation(), self.now.0 / NONCE_MS);
        keys.activate(&nonce, text)
    }

    /// Checks the signature of a token whose claims are right.
    pub(crate) fn verify(&self, token: &SasToken<'_>, usage: TpmUse<'_>) -> Result<ProvenTpm, (RefusalReason, String)> {
        let missing = |text: &str| Err((RefusalReason::Missing, text.to_owned()));
        let (keys, salt) = match (usage, self.registration.and_then(|known| known.tpm.as_ref())) {
            (TpmUse::Register(Some(keys)), _) => (keys.clone(), self.last_operation()),
            (TpmUse::Register(None), _) => return missing("the request has no endorsementKey and storageRootKey"),
            (TpmUse::Read, None) => return missing("no TPM has registered the device"),
            (TpmUse::Read, Some(tpm)) => match TpmKeys::stored(tpm) {
                Some(keys) => (keys, tpm.nonce_salt.as_str()),
                None => return missing("the keys of the registration cannot be read"),
            },
        };
        if !self.is_of(&keys) {
            let text = "the endorsement key is not that of the individual enrollment".to_owned();
            return Err((RefusalReason::Thumbprint, text));
        }
        let day = self.now.0 / NONCE_MS;
        let mut nonces = vec![
            self.nonce(&keys, salt, day),
            self.nonce(&keys, salt, day.saturating_sub(1)),
        ];
        if matches!(usage, TpmUse::Read) {
            // Of a challenge during an operation, which its registration has joined.
            nonces.push(self.nonce(&keys, self.last_operation(), day));
        }
        let fits = nonces.into_iter().any(|nonce| {
            let pair = KeyPair {
                primary: nonce.clone(),
                secondary: nonce,
            };
            verify_signature(token, &pair, KeyForm::Decoded).is_some()
        });
        if !fits {
            let text = "the token is not signed with the nonce of the last challenge, which opens one registration";
            return Err((RefusalReason::Signature, text.to_owned()));
        }
        let hub_keys = self.hub_keys(&keys);
        Ok(ProvenTpm {
            nonce_salt: salt.to_owned(),
            keys,
            hub_keys,
        })
    }

    /// The last operation of the device: it is another one after each registration.
    fn last_operation(&self) -> &str {
        self.registration.map_or("", |known| known.operation_id.as_str())
    }

    fn nonce(&self, keys: &TpmKeys, salt: &str, day: u64) -> Key {
        let (scope, id) = (
            self.id_scope.to_ascii_lowercase(),
            self.registration_id.to_ascii_lowercase(),
        );
        let digest = HEXLOWER.encode(&keys.endorsement.digest());
        let text = format!("dps-tpm-nonce\0{scope}\0{id}\0{digest}\0{salt}\0{day}");
        self.attestation.secrets.secondary.derive(&text)
    }

    fn hub_keys(&self, keys: &TpmKeys) -> KeyPair {
        let digest = HEXLOWER.encode(&keys.endorsement.digest());
        let key = |slot: &str| {
            let text = format!("dps-tpm-hub\0{slot}\0{digest}");
            self.attestation.secrets.primary.derive(&text)
        };
        KeyPair {
            primary: key("primary"),
            secondary: key("secondary"),
        }
    }
}

#[cfg(test)]
mod tests;
