//! Making tokens: for the command line, the load generator, and tests.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_model::IdentityId;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::Key;
use crate::verify::mac;

/// All but RFC 3986's unreserved characters, as the Python SDK escapes.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A token before its signature, for a key that never leaves the device it is in.
#[derive(Debug, Clone)]
pub struct UnsignedToken {
    /// Escaped.
    resource: String,
    /// Seconds since 1970, in decimal.
    expiry: String,
    /// Escaped.
    policy: Option<String>,
}

impl UnsignedToken {
    /// A token for `resource` (`host[/segment…]`, unescaped) until `expiry` (seconds since 1970); `policy` is `None` for an
    /// identity's own key.
    #[must_use]
    pub fn new(resource: &str, policy: Option<&str>, expiry: u64) -> Self {
        let escape = |text| utf8_percent_encode(text, STRICT).to_string();
        Self {
            resource: escape(resource),
            expiry: expiry.to_string(),
            policy: policy.map(escape),
        }
    }

    /// What the signature, HMAC-SHA256, is over.
    #[must_use]
    pub fn message(&self) -> String {
        format!("{}\n{}", self.resource, self.expiry)
    }

    /// The token with its signature.
    #[must_use]
    pub fn signed(&self, signature: &[u8]) -> String {
        let signature = STANDARD.encode(signature);
        let signature = utf8_percent_encode(&signature, STRICT);
        let mut token = format!(
            "SharedAccessSignature sr={}&sig={signature}&se={}",
            self.resource, self.expiry
        );
        if let Some(policy) = &self.policy {
            // Writing to a String cannot fail.
            let _ = write!(token, "&skn={policy}");
        }
        token
    }
}

/// Signs a token, as [`UnsignedToken::new`] describes it.
///
/// `key` is the decoded key for IoT endpoints, or the UTF-8 bytes of the key's text for the events endpoint.
#[must_use]
pub fn sign(resource: &str, key: &[u8], policy: Option<&str>, expiry: u64) -> String {
    let token = UnsignedToken::new(resource, policy, expiry);
    token.signed(&mac(key, &token.resource, &token.expiry))
}

/// What the token of a device or module is for, unescaped.
#[must_use]
pub fn identity_resource(host: &str, identity: &IdentityId) -> String {
    let mut resource = format!("{host}/devices/{}", identity.device);
    if let Some(module) = &identity.module {
        let _ = write!(resource, "/modules/{module}");
    }
    resource
}

/// Signs a token for a device or module with its own key.
#[must_use]
pub fn sign_identity(host: &str, identity: &IdentityId, key: &Key, expiry: u64) -> String {
    sign(&identity_resource(host, identity), key.as_bytes(), None, expiry)
}
