//! Any text as a token: no panic, the raw parts are parts of the input, nothing is granted without the key, and a token
//! signed anew over the same raw parts is granted.
#![no_main]

use holdfast_auth::{HubNames, Key, KeyPair, ResourcePath, SasRefusal, SasToken, check_claims, verify};
use holdfast_model::UnixMillis;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let keys = KeyPair {
        primary: Key::from_bytes(vec![1; 32]).expect("a key"),
        secondary: Key::from_bytes(vec![2; 32]).expect("a key"),
    };
    let Ok(token) = SasToken::parse(text) else { return };
    assert!(text.contains(token.resource()) && text.contains(token.expiry()));
    assert!(!format!("{token:?}").is_empty());
    let path = ResourcePath::HUB.then("devices").then("dev-1");
    let names = HubNames::new(["hub1.example.com"]);
    let now = UnixMillis(1_900_000_000_000);
    match verify(&token, &path, &keys, &names, now) {
        Ok(_) => panic!("granted without the key"),
        // Only a token with good claims gets as far as the key.
        Err(SasRefusal::Signature | SasRefusal::UnknownPolicy) => {
            assert!(check_claims(&token, &path, &names, now).is_ok());
        }
        Err(refusal) => assert_eq!(check_claims(&token, &path, &names, now), Err(refusal)),
    }
});
