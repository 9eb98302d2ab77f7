//! Attestation by TPM 2.0: what a device's TPM shows, and what only that TPM can open (Spec provisioning §7).
//!
//! Why: a device with a TPM needs no secret from its factory. The enrollment holds the public endorsement key of the TPM; the
//! service encrypts an HMAC key to it, and the device proves itself by signatures with that key, which stays in the TPM.
//! Structures and formulas: TPM 2.0 Library, parts 1 (§24, annexes B and C) and 2.
//! Invariants: pure but for the padding of RSA, whose randomness is the library's; nothing of what a device sends is trusted; secrets
//! are wiped when dropped.
//! Not here: the nonce and its life, enrollments, and the messages that carry the blob (`provisioning`).

mod activation;
mod cipher;
mod public_key;

pub use activation::{ActivationError, ActivationRandom, MAX_ACTIVATED_KEY_BYTES, activation_blob};
pub use public_key::{TpmPublicKey, TpmPublicKeyError};

#[cfg(test)]
mod tests;
