//! Reading a JSON Web Token in the compact form (RFC 7515 §7.1), before anything about it is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_model::UnixMillis;
use holdfast_model::json;
use holdfast_model::limits::MAX_BEARER_TOKEN_BYTES;
use serde_json::{Map, Value};

use super::{Algorithm, BearerDefect, BearerRefusal};

/// Longest `kid`, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// Header parameters that change the meaning of a token.
const NOT_DONE: [&str; 5] = ["crit", "enc", "zip", "b64", "cty"];

/// A token that was read but not checked. `Debug` shows neither the signature nor the claims.
pub struct BearerToken<'a> {
    /// Header and claims as they are signed.
    pub(super) signed: &'a str,
    /// Base64.
    pub(super) signature: &'a str,
    /// `None`: one that does not exist here, such as `none` and HMAC.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) key_id: Option<String>,
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) expires: UnixMillis,
    pub(super) not_before: Option<UnixMillis>,
    pub(super) claims: Map<String, Value>,
}

impl std::fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BearerToken(alg={:?} kid={:?} …)", self.algorithm, self.key_id)
    }
}

impl<'a> BearerToken<'a> {
    /// Reads the text behind the word `Bearer`.
    ///
    /// # Errors
    /// [`BearerRefusal::Malformed`] with the defect.
    pub fn parse(text: &'a str) -> Result<Self, BearerRefusal> {
        Self::read(text).map_err(BearerRefusal::Malformed)
    }

    fn read(text: &'a str) -> Result<Self, BearerDefect> {
        if text.len() > MAX_BEARER_TOKEN_BYTES {
            return Err(BearerDefect::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(BearerDefect::Parts)?;
        let (header, claims) = signed.split_once('.').ok_or(BearerDefect::Parts)?;
        if claims.contains('.') || [header, claims, signature].contains(&"") {
            return Err(BearerDefect::Parts);
        }
        // The library decodes it later; what is no base64 is refused as such here.
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| BearerDefect::Base64)?;
        let header = object(header)?;
        let algorithm = algorithm(&header)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= MAX_KEY_ID_BYTES => Some(id.clone()),
            Some(_) => return Err(BearerDefect::Header),
        };
        let claims = object(claims)?;
        let Some(Value::String(issuer)) = claims.get("iss") else {
            return Err(BearerDefect::Claim);
        };
        if claims.get("sub").is_some_and(|subject| !subject.is_string()) {
            return Err(BearerDefect::Claim);
        }
        Ok(Self {
            signed,
            signature,
            algorithm,
            key_id,
            issuer: issuer.clone(),
            audiences: texts(claims.get("aud")).ok_or(BearerDefect::Claim)?,
            expires: claims.get("exp").and_then(time).ok_or(BearerDefect::Claim)?,
            not_before: match claims.get("nbf") {
                None => None,
                Some(value) => Some(time(value).ok_or(BearerDefect::Claim)?),
            },
            claims,
        })
    }
}

fn algorithm(header: &Map<String, Value>) -> Result<Option<Algorithm>, BearerDefect> {
    let Some(Value::String(algorithm)) = header.get("alg") else {
        return Err(BearerDefect::Header);
    };
    let is_signed_token = match header.get("typ") {
        None => true,
        Some(Value::String(kind)) => {
            let kind = kind.to_ascii_lowercase();
            matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
        }
        Some(_) => false,
    };
    if !is_signed_token || NOT_DONE.iter().any(|name| header.contains_key(*name)) {
        return Err(BearerDefect::Header);
    }
    Ok(Algorithm::parse(algorithm))
}

fn object(part: &str) -> Result<Map<String, Value>, BearerDefect> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| BearerDefect::Base64)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| BearerDefect::Json)?;
    match json::parse(text) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(BearerDefect::Json),
    }
}

/// One text, or a list of texts.
pub(super) fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519 §2).
fn time(value: &Value) -> Option<UnixMillis> {
    if let Some(seconds) = value.as_u64() {
        return Some(UnixMillis(seconds.saturating_mul(1000)));
    }
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates; a time before 1970 is 1970"
    )]
    Some(UnixMillis((seconds * 1000.0) as u64))
}
