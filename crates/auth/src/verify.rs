//! The decision on a token: claims first, which need no key, then the signature (Spec auth-and-limits §1, §6.1 step 7).

use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_model::UnixMillis;
use holdfast_model::limits::SAS_CLOCK_SKEW;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::key::MAX_KEY_TEXT_BYTES;
use crate::sas::SIGNATURE_BYTES;
use crate::{
    HubNames, Key, KeyFingerprint, KeyPair, KeySlot, Policy, ResourcePath, ResourceScope, Rights, SasRefusal, SasToken,
};

/// Which bytes of a key sign a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// The base64-decoded bytes: every IoT SDK.
    Decoded,
    /// The UTF-8 bytes of the base64 text: every Event Hubs client (Spec amqp §5).
    Text,
}

/// An accepted token. A session keeps this, never the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The token's own expiry; see [`Grant::ends`].
    pub expires: UnixMillis,
    /// The key that signed it.
    pub slot: KeySlot,
    /// Its fingerprint, to detect a later change of the key.
    pub fingerprint: KeyFingerprint,
}

impl Grant {
    /// When a live connection loses the grant: the expiry plus the allowance for clocks (Spec auth-and-limits §1.3).
    #[must_use]
    pub fn ends(&self) -> UnixMillis {
        end(self.expires)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "five minutes in milliseconds")]
const SKEW_MS: u64 = SAS_CLOCK_SKEW.as_millis() as u64;

fn end(expires: UnixMillis) -> UnixMillis {
    UnixMillis(expires.0.saturating_add(SKEW_MS))
}

/// Checks the claims of a token, which needs no key: expiry, host, scope, in this order. Returns its expiry.
///
/// A front end calls it before it looks up an identity, so that stale and foreign tokens cost no lookup.
///
/// # Errors
/// [`SasRefusal::Expired`] once `se` + 300 s lies before `now` (hub clock), [`SasRefusal::Host`], [`SasRefusal::Scope`],
/// or [`SasRefusal::Malformed`] when `sr` cannot be decoded.
pub fn check_claims(
    token: &SasToken<'_>,
    resource: &ResourcePath<'_>,
    hub_names: &HubNames,
    now: UnixMillis,
) -> Result<UnixMillis, SasRefusal> {
    let scope = ResourceScope::parse(token.resource())?;
    let expires = token.expires();
    if end(expires) < now {
        return Err(SasRefusal::Expired { at: expires, now });
    }
    if !hub_names.contains(scope.host()) {
        return Err(SasRefusal::Host);
    }
    if !scope.covers(resource) {
        return Err(SasRefusal::Scope);
    }
    Ok(expires)
}

/// Which of the keys signed the token, if any: primary first. The comparison takes the same time wherever it differs.
#[must_use]
pub fn verify_signature(token: &SasToken<'_>, keys: &KeyPair, form: KeyForm) -> Option<KeySlot> {
    KeySlot::BOTH
        .into_iter()
        .find(|slot| is_signed_by(token, keys.get(*slot), form))
}

/// Whether `key` signed the token. The comparison takes the same time wherever it differs.
#[must_use]
pub fn is_signed_by(token: &SasToken<'_>, key: &Key, form: KeyForm) -> bool {
    let expected = with_key(key, form, |key| mac(key, token.resource(), token.expiry()));
    expected.ct_eq(token.signature()).into()
}

/// Checks a token that an identity signed with its own key (no `skn`), against `resource` and at `now` (hub clock).
///
/// # Errors
/// As [`check_claims`]; then [`SasRefusal::UnknownPolicy`] when a policy is named after all, [`SasRefusal::Signature`].
pub fn verify(
    token: &SasToken<'_>,
    resource: &ResourcePath<'_>,
    keys: &KeyPair,
    hub_names: &HubNames,
    now: UnixMillis,
) -> Result<Grant, SasRefusal> {
    let expires = check_claims(token, resource, hub_names, now)?;
    if token.policy().is_some() {
        return Err(SasRefusal::UnknownPolicy);
    }
    grant(token, keys, &[KeyForm::Decoded], expires)
}

/// Checks a token that a shared access policy signed, with `needed` rights. `policy` is the one that the token names, or
/// `None` when no policy has that name; both key forms are accepted.
///
/// The signature is checked before the right: a caller without the key does not learn the rights of the policy.
///
/// # Errors
/// As [`check_claims`]; then [`SasRefusal::UnknownPolicy`], [`SasRefusal::Signature`], [`SasRefusal::Right`].
pub fn verify_policy(
    token: &SasToken<'_>,
    resource: &ResourcePath<'_>,
    policy: Option<&Policy>,
    needed: Rights,
    hub_names: &HubNames,
    now: UnixMillis,
) -> Result<Grant, SasRefusal> {
    let expires = check_claims(token, resource, hub_names, now)?;
    let policy = policy
        .filter(|policy| {
            token
                .policy()
                .is_some_and(|name| name.eq_ignore_ascii_case(&policy.name))
        })
        .ok_or(SasRefusal::UnknownPolicy)?;
    let granted = grant(token, &policy.keys, &[KeyForm::Decoded, KeyForm::Text], expires)?;
    check_rights(policy, needed)?;
    Ok(granted)
}

/// Checks a policy's key that a client presents itself instead of a token, with `needed` rights. The grant does not expire.
///
/// # Errors
/// [`SasRefusal::UnknownPolicy`], [`SasRefusal::Signature`] for another key, [`SasRefusal::Right`].
pub fn verify_policy_key(key: &str, policy: Option<&Policy>, needed: Rights) -> Result<Grant, SasRefusal> {
    let policy = policy.ok_or(SasRefusal::UnknownPolicy)?;
    let key = Key::from_base64(key).map_err(|_| SasRefusal::Signature)?;
    let slot = KeySlot::BOTH
        .into_iter()
        .find(|slot| *policy.keys.get(*slot) == key)
        .ok_or(SasRefusal::Signature)?;
    check_rights(policy, needed)?;
    Ok(Grant {
        expires: UnixMillis(u64::MAX),
        slot,
        fingerprint: key.fingerprint(),
    })
}

/// Names only the rights that are missing: a caller with some of the needed ones learns the others.
fn check_rights(policy: &Policy, needed: Rights) -> Result<(), SasRefusal> {
    match policy.rights.missing(needed) {
        Rights::NONE => Ok(()),
        missing => Err(SasRefusal::Right(missing)),
    }
}

fn grant(token: &SasToken<'_>, keys: &KeyPair, forms: &[KeyForm], expires: UnixMillis) -> Result<Grant, SasRefusal> {
    let slot = forms
        .iter()
        .find_map(|form| verify_signature(token, keys, *form))
        .ok_or(SasRefusal::Signature)?;
    Ok(Grant {
        expires,
        slot,
        fingerprint: keys.get(slot).fingerprint(),
    })
}

/// HMAC-SHA256 over `<resource>\n<expiry>`, both byte for byte as in the token.
pub(crate) fn mac(key: &[u8], resource: &str, expiry: &str) -> [u8; SIGNATURE_BYTES] {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.chain_update(resource)
        .chain_update(b"\n")
        .chain_update(expiry)
        .finalize()
        .into_bytes()
        .into()
}

fn with_key<R>(key: &Key, form: KeyForm, f: impl FnOnce(&[u8]) -> R) -> R {
    use base64::Engine as _;
    match form {
        KeyForm::Decoded => f(key.as_bytes()),
        KeyForm::Text => {
            let mut text = [0; MAX_KEY_TEXT_BYTES];
            let length = base64::engine::general_purpose::STANDARD
                .encode_slice(key.as_bytes(), &mut text)
                .unwrap_or_default();
            let result = f(&text[..length]);
            text.zeroize();
            result
        }
    }
}

#[cfg(test)]
mod tests;
