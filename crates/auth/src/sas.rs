//! Reading a shared access signature (Spec auth-and-limits §1.1, §1.2).
//!
//! Invariant: `sr` and `se` are kept byte for byte, because the signature is over those bytes and producers
//! differ in escaping and in the case of hex digits.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use holdfast_model::UnixMillis;
use holdfast_model::limits::{MAX_POLICY_NAME_BYTES, MAX_SAS_FIELDS, MAX_SAS_TOKEN_BYTES};
use percent_encoding::percent_decode_str;

use crate::{Defect, SasRefusal};

/// Length of an HMAC-SHA256.
pub(crate) const SIGNATURE_BYTES: usize = 32;

/// Base64 with or without padding, but with no bits left over: one signature has one value.
const SIGNATURE_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token that was read but not checked. `Debug` and `Display` show everything but the signature.
#[derive(Clone)]
pub struct SasToken<'a> {
    resource: &'a str,
    signature: [u8; SIGNATURE_BYTES],
    expiry: &'a str,
    expires: UnixMillis,
    policy: Option<Cow<'a, str>>,
}

impl<'a> SasToken<'a> {
    /// Reads `SharedAccessSignature sr=…&sig=…&se=…[&skn=…]`, fields in any order, names in any case.
    ///
    /// # Errors
    /// [`SasRefusal::Missing`] for an empty text, else [`SasRefusal::Malformed`] with the defect.
    pub fn parse(text: &'a str) -> Result<Self, SasRefusal> {
        if text.len() > MAX_SAS_TOKEN_BYTES {
            return Err(SasRefusal::Malformed(Defect::TooLong));
        }
        let mut words = text.split_ascii_whitespace();
        let Some(first) = words.next() else {
            return Err(SasRefusal::Missing);
        };
        let (Some(fields), None, true) = (
            words.next(),
            words.next(),
            first.eq_ignore_ascii_case("SharedAccessSignature"),
        ) else {
            return Err(SasRefusal::Malformed(Defect::Prefix));
        };
        Fields::split(fields)
            .and_then(Fields::read)
            .map_err(SasRefusal::Malformed)
    }

    /// The resource exactly as written in the token.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.resource
    }

    /// The expiry exactly as written in the token.
    #[must_use]
    pub fn expiry(&self) -> &'a str {
        self.expiry
    }

    /// When the token expires, without any allowance; never = the largest value.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// The policy that signed it; `None` (absent or empty `skn`) = the identity itself.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn flip_signature_bit(&mut self, byte: usize, bit: u8) {
        self.signature[byte] ^= 1 << bit;
    }

    pub(crate) fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }
}

impl fmt::Display for SasToken<'_> {
    /// The form for logs: `sr=… se=… skn=…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sr={} se={}", self.resource, self.expiry)?;
        self.policy().map_or(Ok(()), |policy| write!(f, " skn={policy}"))
    }
}

impl fmt::Debug for SasToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SasToken({self} sig=…)")
    }
}

/// The fields of a token, raw.
#[derive(Default)]
struct Fields<'a> {
    resource: Option<&'a str>,
    signature: Option<&'a str>,
    expiry: Option<&'a str>,
    policy: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn split(text: &'a str) -> Result<Self, Defect> {
        let mut fields = Self::default();
        for (count, field) in text.split('&').enumerate() {
            if count == MAX_SAS_FIELDS {
                return Err(Defect::TooManyFields);
            }
            // At the first `=`, so that base64 padding may be unescaped.
            let (name, value) = field.split_once('=').ok_or(Defect::Field)?;
            let slot = match name {
                _ if name.eq_ignore_ascii_case("sr") => &mut fields.resource,
                _ if name.eq_ignore_ascii_case("sig") => &mut fields.signature,
                _ if name.eq_ignore_ascii_case("se") => &mut fields.expiry,
                _ if name.eq_ignore_ascii_case("skn") => &mut fields.policy,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(Defect::Duplicate);
            }
        }
        Ok(fields)
    }

    fn read(self) -> Result<SasToken<'a>, Defect> {
        let resource = self.resource.filter(|text| !text.is_empty()).ok_or(Defect::Resource)?;
        let expiry = self.expiry.ok_or(Defect::Expiry)?;
        Ok(SasToken {
            resource,
            signature: self.signature.and_then(decode_signature).ok_or(Defect::Signature)?,
            expiry,
            expires: decode_expiry(expiry).ok_or(Defect::Expiry)?,
            policy: decode_policy(self.policy.unwrap_or(""))?,
        })
    }
}

/// Percent-decoding, then base64; `+` and a space both mean `+`.
fn decode_signature(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    // 44 characters with padding; one more shows that there are too many.
    let mut base64 = [0; 45];
    let mut length = 0;
    for byte in percent_decode_str(text) {
        *base64.get_mut(length)? = if byte == b' ' { b'+' } else { byte };
        length += 1;
    }
    let mut signature = [0; SIGNATURE_BYTES + 2];
    let decoded = SIGNATURE_BASE64.decode_slice(&base64[..length], &mut signature).ok()?;
    signature[..decoded].try_into().ok()
}

/// Seconds since 1970, perhaps with a fraction or an exponent, perhaps absurdly large (the C SDK writes 2⁶⁴ − 1).
fn decode_expiry(text: &str) -> Option<UnixMillis> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+'))
    {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(UnixMillis(text.parse().unwrap_or(u64::MAX).saturating_mul(1000)));
    }
    let seconds: f64 = text.parse().ok().filter(|_| text.as_bytes()[0].is_ascii_digit())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates"
    )]
    Some(UnixMillis((seconds * 1000.0) as u64))
}

fn decode_policy(text: &str) -> Result<Option<Cow<'_, str>>, Defect> {
    let name = percent_decode_str(text).decode_utf8().map_err(|_| Defect::Policy)?;
    match name.len() {
        0 => Ok(None),
        1..=MAX_POLICY_NAME_BYTES => Ok(Some(name)),
        _ => Err(Defect::Policy),
    }
}

#[cfg(test)]
mod tests;
