//! The vectors of the specification (provisioning §7.5), blobs that a key of RSA opens, and hostile public areas. A software TPM opens
//! them in `tests/software_tpm.rs`.

use std::array::from_fn;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use data_encoding::HEXLOWER;

use super::activation::{credential, duplicate, hmac_key_area};
use super::cipher::{derive, encrypt};
use super::public_key::name_of;
use super::*;

fn counted(from: u8) -> [u8; 32] {
    from_fn(|at| from + u8::try_from(at).unwrap())
}

fn random() -> ActivationRandom {
    ActivationRandom {
        inner_key: from_fn(|at| 0xa0 + u8::try_from(at).unwrap()),
        credential_seed: counted(0),
        import_seed: counted(0),
        blinding: [0x22; 32],
    }
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[test]
fn the_derived_keys_are_those_of_the_vectors() {
    let name = [&[0x00, 0x0b][..], &[0x11; 32]].concat();
    assert_eq!(
        hex(&*derive::<16>(&counted(0), "STORAGE", &name)),
        "4b6977df7782a6d0312cc5f537456667"
    );
    assert_eq!(
        hex(&*derive::<32>(&counted(0), "INTEGRITY", &[])),
        "bacf689f634ece301e1f1b15b072d9c87db6a69585db42b1a0cb8f73ebe2692e"
    );
    assert_eq!(
        hex(&credential(&name, &random().inner_key, &counted(0)).unwrap()),
        "00340020b61c1341966c230675b675442a8501b2e06b8bd0c8ec2b98ef1ed8148564241f2d0d2e97f0d3b472e0856ee0b5c0ff1063a6"
    );
}

#[test]
fn the_wrapped_key_is_that_of_the_vectors() {
    let key = counted(0);
    let area = hmac_key_area(&key, &[0x22; 32]);
    assert_eq!(
        hex(&area),
        "0008000b0004044000000005000b002087f410f2f152cab3aaa1251fc6c7b2a8b0350c5c25d42085ad2370a1b0395c6d"
    );
    let name = name_of(&area);
    assert_eq!(
        hex(&name),
        "000be682296f6842b619a7d0748b573d38a9aa300b8ff55bd27d1de2e3e17f1955e2"
    );
    assert_eq!(
        hex(&duplicate(&key, &name, &random()).unwrap()),
        "008e0020096b3b7fdda5b907a91a144dae7dd670d7e67c875d30488b320f4dd0613cbb3257e00eef0c54ee0065c9ff133fef58a3b4fcc996\
         ab62b345c4d6b9614bcda34618b14264cbeb974a386d18516cd67210056f44291330b3b5a2ca4ddb399e9fdd6b1ea4ea37013b84208787d4\
         255c5070c99a7469a41b1cf7679d507924f66dc2fc72126caee3edde67735cd8"
    );
    let mut text = b"hub1.example.com".to_vec();
    encrypt(&random().inner_key, &mut text).unwrap();
    assert_eq!(hex(&text), "d0f7f3f87531bf0c3f2f249ea2521b7c");
}

/// A public area as a TPM writes it, with its size.
fn public_area(modulus: &[u8], exponent: u32) -> Vec<u8> {
    let area = [
        &[0x00, 0x01, 0x00, 0x0b][..],
        &0x0003_00b2_u32.to_be_bytes(),
        &[0x00, 0x20],
        &[0x83; 32],
        &[0x00, 0x06, 0x00, 0x80, 0x00, 0x43],
        &[0x00, 0x10, 0x08, 0x00],
        &exponent.to_be_bytes(),
        &u16::try_from(modulus.len()).unwrap().to_be_bytes(),
        modulus,
    ]
    .concat();
    [&u16::try_from(area.len()).unwrap().to_be_bytes()[..], &area].concat()
}

fn sample_area() -> Vec<u8> {
    let mut modulus = vec![0xc5; 256];
    modulus[255] = 0x01;
    public_area(&modulus, 0)
}

/// A private key, and its public part as a TPM would write it.
fn rsa_key() -> (OaepPrivateDecryptingKey, TpmPublicKey) {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let public: PublicEncryptingKey = private.public_key();
    let spki = public.as_der().unwrap();
    let spki: &[u8] = spki.as_ref();
    // SEQUENCE, algorithm, BIT STRING, SEQUENCE, INTEGER 0 ‖ modulus, INTEGER 65537.
    let modulus = &spki[spki.len() - 5 - 256..spki.len() - 5];
    let key = TpmPublicKey::parse(&public_area(modulus, 0)).unwrap();
    assert_eq!(hex(&key.spki()), hex(spki));
    (OaepPrivateDecryptingKey::new(private).unwrap(), key)
}

/// The parts of a blob, each behind its length.
fn parts(mut blob: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = blob.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
        parts.push(part);
        blob = rest;
    }
    parts
}

#[test]
fn the_seeds_are_for_the_keys_of_the_tpm() {
    let ((endorsement, endorsement_public), (root, root_public)) = (rsa_key(), rsa_key());
    let random = ActivationRandom {
        credential_seed: counted(1),
        import_seed: counted(2),
        ..random()
    };
    let blob = activation_blob(&endorsement_public, &root_public, &[7; 32], "hub1.example.com", &random).unwrap();
    assert_eq!(blob.len(), 766 + "hub1.example.com".len());
    let parts = parts(&blob);
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [52, 256, 142, 256, 48, 16]);
    let open = |key: &OaepPrivateDecryptingKey, sealed: &[u8], label: &[u8]| {
        let mut opened = vec![0; key.min_output_size()];
        let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, sealed, &mut opened, Some(label));
        opened.map(|seed| seed.to_vec()).ok()
    };
    assert_eq!(open(&endorsement, parts[1], b"IDENTITY\0").unwrap(), counted(1));
    assert_eq!(open(&root, parts[3], b"DUPLICATE\0").unwrap(), counted(2));
    assert_eq!(open(&root, parts[1], b"IDENTITY\0"), None);
    assert_eq!(open(&endorsement, parts[1], b"DUPLICATE\0"), None);
}

#[test]
fn keys_and_texts_that_no_tpm_takes_are_refused() {
    let (_, key) = rsa_key();
    let blob = |secret: &[u8], text: &str| activation_blob(&key, &key, secret, text, &random());
    assert_eq!(blob(&[], "hub"), Err(ActivationError::Key(0)));
    assert_eq!(blob(&[1; 65], "hub"), Err(ActivationError::Key(65)));
    assert!(blob(&[1; 64], "hub").is_ok());
    assert_eq!(blob(&[1], ""), Err(ActivationError::Text(0)));
    assert_eq!(blob(&[1], &"x".repeat(256)), Err(ActivationError::Text(256)));
}

#[test]
fn a_public_area_is_read_with_and_without_its_size() {
    let sized = sample_area();
    let key = TpmPublicKey::parse(&sized).unwrap();
    assert_eq!(TpmPublicKey::parse(&sized[2..]).unwrap(), key);
    assert_eq!(key.name()[..2], [0x00, 0x0b]);
}

#[test]
fn a_public_area_of_another_kind_is_refused_by_rule() {
    let good = sample_area();
    let changed = |at: usize, bytes: &[u8]| {
        let mut area = good.clone();
        area[2 + at..2 + at + bytes.len()].copy_from_slice(bytes);
        TpmPublicKey::parse(&area).unwrap_err()
    };
    use TpmPublicKeyError::*;
    assert_eq!(changed(0, &[0x00, 0x23]), NotRsa(0x23));
    assert_eq!(changed(2, &[0x00, 0x04]), NameAlgorithm(4));
    assert_eq!(changed(48, &[0x00, 0x14]), Scheme(0x14));
    assert_eq!(changed(50, &[0x04, 0x00]), Bits(1024));
    assert_eq!(changed(56, &[0x00, 0xff]), Trailing(1));
    assert_eq!(changed(58, &[0x45]), Modulus);
    assert_eq!(TpmPublicKey::parse(&public_area(&[0xc5; 255], 0)).unwrap_err(), Modulus);
    // Every cut, and everything behind.
    for length in 0..good.len() {
        assert!(TpmPublicKey::parse(&good[..length]).is_err(), "{length}");
        assert!(
            TpmPublicKey::parse(&good[2..2 + length.saturating_sub(2)]).is_err(),
            "{length}"
        );
    }
    for area in [[&good[..], &[0]].concat(), [&good[2..], &[0]].concat()] {
        assert_eq!(TpmPublicKey::parse(&area), Err(Trailing(1)));
    }
    // Numbers that no RSA key has.
    let even = TpmPublicKey::parse(&public_area(&[0xc5; 256], 4)).unwrap();
    let blob = activation_blob(&even, &even, &[1; 32], "hub", &random());
    assert_eq!(blob, Err(ActivationError::PublicKey));
}
