//! Client certificates of X.509 version 1, as `openssl x509 -req` makes them.

use super::*;

/// One DER element, without its head, and what follows it.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (head, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        long => {
            let bytes = usize::from(long & 0x7f);
            let length = der[2..2 + bytes]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (2 + bytes, length)
        }
    };
    (der[0], &der[head..head + length], &der[head + length..])
}

fn sequence(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82], &length[..], content].concat()
}

/// The same certificate without version and extensions. Its own signature no longer fits; the hub does not check it.
fn version_1(certificate: &[u8]) -> CertificateDer<'static> {
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    let (_, whole, _) = element(certificate);
    let (_, mut fields, signature) = element(whole);
    let mut kept = Vec::new();
    while !fields.is_empty() {
        let (tag, _, rest) = element(fields);
        if tag != VERSION && tag != EXTENSIONS {
            kept.extend(&fields[..fields.len() - rest.len()]);
        }
        fields = rest;
    }
    CertificateDer::from(sequence(&[&sequence(&kept), signature].concat()))
}

#[test]
fn a_certificate_of_version_1_is_taken_when_its_key_has_signed() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256] {
            let device = Identity::new(algorithm);
            let certificate = version_1(&device.certificate);
            let client = hub.client(version, &[], Some(device.client(vec![certificate.clone()])));
            let (_, chain) = hub.handshake(client).unwrap();
            assert_eq!(chain.unwrap().leaf(), &*certificate);
        }
    }
}

#[test]
fn a_client_without_the_key_of_a_certificate_of_version_1_is_refused() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256] {
            let (owner, thief) = (Identity::new(algorithm), Identity::new(algorithm));
            let shown = version_1(&owner.certificate);
            let refused = hub.handshake(hub.client(version, &[], Some(thief.client(vec![shown]))));
            assert!(refused.is_err(), "{version:?} {algorithm:?}");
        }
    }
}
