//! OCSP responses as openssl 3.0 makes them (tests/ocsp): a P-256 and an RSA chain of serial number 0x1001, responses that end in 2126.

use super::super::{MAX_OCSP_BYTES, OcspError, OcspResponse};
use super::*;

/// A second after the responses were made.
const MADE: UnixMillis = UnixMillis(1_795_983_169_000);
const DAY_MS: u64 = 24 * 3600 * 1000;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/ocsp/", $name))
    };
}

const CHAIN: &[u8] = file!("chain.pem");
const RSA_CHAIN: &[u8] = file!("rsa-chain.pem");

fn read(response: &[u8], chain: &[u8], now: UnixMillis) -> Result<OcspResponse, OcspError> {
    let chain: Vec<Vec<u8>> = x509_parser::pem::Pem::iter_from_buffer(chain)
        .map(|pem| pem.unwrap().contents)
        .collect();
    OcspResponse::read(response, chain.iter().map(Vec::as_slice), now)
}

#[test]
fn a_response_of_the_issuer_or_its_responder_about_the_certificate_is_taken() {
    for (response, chain) in [
        (&file!("good.der")[..], CHAIN),
        (file!("sha256.der"), CHAIN),
        (file!("delegated.der"), CHAIN),
        (file!("rsa-delegated.der"), RSA_CHAIN),
    ] {
        let taken = read(response, chain, MADE).unwrap();
        assert_eq!(taken.this_update.0 / 10_000, MADE.0 / 10_000);
        assert_eq!(taken.next_update.0 - taken.this_update.0, 36_500 * DAY_MS);
    }
}

#[test]
fn what_a_client_would_refuse_is_refused() {
    use OcspError::*;
    for (response, chain, expected) in [
        (&file!("stranger.der")[..], CHAIN, Signature),
        (file!("revoked.der"), CHAIN, NotGood("revoked")),
        (file!("unknown.der"), CHAIN, NotGood("unknown")),
        (file!("foreign.der"), CHAIN, Foreign),
        (file!("good.der"), RSA_CHAIN, Foreign),
        (file!("endless.der"), CHAIN, NoEnd),
        (file!("good.der"), file!("leaf-alone.pem"), NoIssuer),
        (&[0; MAX_OCSP_BYTES + 1], CHAIN, TooLarge(MAX_OCSP_BYTES + 1)),
        // What a responder answers that knows nothing of the CA.
        (&[0x30, 3, 0x0a, 1, 6], CHAIN, NoAnswer(6)),
    ] {
        assert_eq!(read(response, chain, MADE), Err(expected));
    }
}

#[test]
fn a_response_counts_from_its_begin_to_its_end() {
    let good = read(file!("good.der"), CHAIN, MADE).unwrap();
    let at = |now| read(file!("good.der"), CHAIN, now);
    assert!(at(UnixMillis(good.next_update.0 - 1)).is_ok());
    assert!(matches!(at(good.next_update), Err(OcspError::Ended { .. })));
    assert!(at(UnixMillis(good.this_update.0 - 299_000)).is_ok());
    let early = UnixMillis(good.this_update.0 - DAY_MS);
    assert!(matches!(at(early), Err(OcspError::NotYet { .. })));
}

#[test]
fn a_changed_or_cut_response_is_refused_without_a_panic() {
    let good = file!("good.der");
    // The certificates behind the signature are not signed by it, and not needed here.
    let taken = (0..good.len())
        .flat_map(|at| [1, 0x80].map(|bit| (at, bit)))
        .filter(|(at, bit)| {
            let mut changed = good.to_vec();
            changed[*at] ^= bit;
            read(&changed, CHAIN, MADE).is_ok()
        })
        .map(|(at, _)| at)
        .min();
    let end_of_signature = 262;
    assert!(
        taken.is_some_and(|at| at >= end_of_signature),
        "{taken:?} of {}",
        good.len()
    );
    for length in 0..good.len() {
        assert!(read(&good[..length], CHAIN, MADE).is_err(), "{length}");
    }
}
