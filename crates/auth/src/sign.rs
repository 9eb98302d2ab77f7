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

/// Signs a token for `resource` (`host[/segment…]`, unescaped) until `expiry` (seconds since 1970).
///
/// `key` is the decoded key for IoT endpoints, or the UTF-8 bytes of the key's text for the events endpoint; `policy` is
/// `None` for an identity's own key.
#[must_use]
pub fn sign(resource: &str, key: &[u8], policy: Option<&str>, expiry: u64) -> String {
    let resource = utf8_percent_encode(resource, STRICT).to_string();
    let expiry = expiry.to_string();
    let signature = STANDARD.encode(mac(key, &resource, &expiry));
    let signature = utf8_percent_encode(&signature, STRICT);
    let mut token = format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}");
    if let Some(policy) = policy {
        // Writing to a String cannot fail.
        let _ = write!(token, "&skn={}", utf8_percent_encode(policy, STRICT));
    }
    token
}

/// Signs a token for a device or module with its own key.
#[must_use]
pub fn sign_identity(host: &str, identity: &IdentityId, key: &Key, expiry: u64) -> String {
    let mut resource = format!("{host}/devices/{}", identity.device);
    if let Some(module) = &identity.module {
        let _ = write!(resource, "/modules/{module}");
    }
    sign(&resource, key.as_bytes(), None, expiry)
}
