//! Public areas of TPMs: what is read is written again as it was, and a blob can be made for it, or not, without a panic.
#![no_main]

use holdfast_auth::tpm::{ActivationRandom, TpmPublicKey, activation_blob};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(key) = TpmPublicKey::parse(input) else { return };
    let again = key.to_bytes();
    assert_eq!(TpmPublicKey::parse(&again).expect("written here"), key);
    assert!(again.ends_with(input) || again == input);
    let random = ActivationRandom {
        inner_key: [1; 16],
        credential_seed: [2; 32],
        import_seed: [3; 32],
        blinding: [4; 32],
    };
    if let Ok(blob) = activation_blob(&key, &key, &[5; 32], "hub1.example.com", &random) {
        assert_eq!(blob.len(), 766 + 16);
    }
});
