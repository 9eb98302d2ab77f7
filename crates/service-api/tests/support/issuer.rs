//! An issuer of bearer tokens without a server: its keys are given to the hub.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part")]

use std::sync::LazyLock;

use holdfast_auth::bearer::IssuerKeys;
use holdfast_model::Clock;
use holdfast_oidc::{Issuer, OidcConfig};
use holdfast_testkit::issuer::{SigningKey, key_set};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";

pub(crate) static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::p256("k"));

/// The issuer as the hub knows it.
pub(crate) fn issuer() -> Issuer {
    let issuer = Issuer::new(&OidcConfig {
        issuer: ISSUER.to_owned(),
        ..OidcConfig::default()
    });
    issuer.set_keys(IssuerKeys::parse(&key_set(&[&KEY])).unwrap());
    issuer
}

/// Claims of a principal, whose token expires in `seconds`.
pub(crate) fn claims(name: &str, roles: &[&str], seconds: i64) -> Value {
    json!({
        "iss": ISSUER,
        "aud": "https://iothubs.azure.net",
        "sub": name,
        "exp": Clock::system().now().seconds().checked_add_signed(seconds).unwrap(),
        "roles": roles,
    })
}

/// A token of a principal with one of Azure's roles.
pub(crate) fn bearer(name: &str, role: &str) -> String {
    format!(
        "Bearer {}",
        KEY.token(&claims(name, &[&format!("IoT Hub {role}")], 600))
    )
}
