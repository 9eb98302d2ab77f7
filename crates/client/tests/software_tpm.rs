//! A software TPM (swtpm) loads what the hub has encrypted to it, and signs with it.
//!
//! Needs Debian's `swtpm` and `tpm2-tools`; without them the test says so and passes, except in continuous integration.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::array::from_fn;

use hmac::{Hmac, KeyInit as _, Mac as _};
use holdfast_auth::tpm::{ActivationRandom, TpmPublicKey, activation_blob};
use holdfast_client::software_tpm::SoftwareTpm;
use sha2::Sha256;

fn random(from: u8) -> ActivationRandom {
    ActivationRandom {
        inner_key: from_fn(|at| from ^ u8::try_from(at).unwrap()),
        credential_seed: [from; 32],
        import_seed: [from ^ 0x55; 32],
        blinding: [from ^ 0xaa; 32],
    }
}

#[test]
fn a_software_tpm_signs_with_the_key_that_was_encrypted_to_it() {
    if !SoftwareTpm::is_installed() {
        assert!(
            std::env::var_os("CI").is_none(),
            "swtpm and tpm2-tools are not installed"
        );
        eprintln!("skipped: swtpm and tpm2-tools are not installed");
        return;
    }
    let tpm = SoftwareTpm::start().unwrap();
    let keys = tpm.make_keys().unwrap();
    assert_eq!((keys.endorsement.len(), keys.storage_root.len()), (316, 284));
    let endorsement = TpmPublicKey::parse(&keys.endorsement).unwrap();
    let storage_root = TpmPublicKey::parse(&keys.storage_root).unwrap();
    let message = b"0ne00000001%2Fregistrations%2Fdev-1\n1900000000";
    // The second key replaces the first, as the hub's key replaces the nonce.
    for (from, key) in [(1, vec![0x17; 32]), (2, (0..64).collect())] {
        let blob = activation_blob(&endorsement, &storage_root, &key, "hub1.example.com", &random(from)).unwrap();
        tpm.activate(&blob).unwrap();
        let expected = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(message);
        assert_eq!(tpm.sign(message).unwrap(), expected.finalize().into_bytes().to_vec());
    }
    // A blob of another TPM.
    let other = TpmPublicKey::parse(&SoftwareTpm::start().unwrap().make_keys().unwrap().endorsement).unwrap();
    let foreign = activation_blob(&other, &storage_root, &[7; 32], "hub1.example.com", &random(3)).unwrap();
    assert!(tpm.activate(&foreign).is_err());
}
