//! Any text as a bearer token, and any bytes as a key set: no panic, and nothing is granted without the issuer's private key.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_auth::bearer::{Algorithm, BearerToken, IssuerKeys, IssuerRules, Role, bearer_text};
use holdfast_model::UnixMillis;
use libfuzzer_sys::fuzz_target;

/// A P-256 key: the generator of the curve (FIPS 186-4, D.1.2.3), whose private key is 1. No fuzzer finds a signature with it.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

static ISSUER: LazyLock<IssuerKeys> = LazyLock::new(|| IssuerKeys::parse(KEYS.as_bytes()).expect("a key set"));

fuzz_target!(|text: &str| {
    // Whatever an issuer's document has, it is read or refused.
    let _ = IssuerKeys::parse(text.as_bytes());
    let token = bearer_text(text).unwrap_or(text);
    assert!(text.contains(token));
    let Ok(token) = BearerToken::parse(token) else { return };
    assert!(!format!("{token:?}").is_empty());
    let rules = IssuerRules {
        issuer: "i".to_owned(),
        audiences: vec!["a".to_owned()],
        algorithms: Algorithm::ALL.map(|(algorithm, _)| algorithm).to_vec(),
        clock_skew: Duration::from_secs(300),
        role_claim: "roles".to_owned(),
        roles: vec![("r".to_owned(), Role::DataReader)],
        subjects: Vec::new(),
    };
    if rules.check(&token, Some(&ISSUER), UnixMillis(1_700_000_000_000)).is_ok() {
        panic!("granted without the private key");
    }
});
