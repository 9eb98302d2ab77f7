//! Revocation lists and OCSP responses: nothing panics, and only a response of the right signer may be stapled.
#![no_main]

use std::sync::LazyLock;

use holdfast_auth::x509::{CaCertificate, Crl, OcspResponse, read_certificate, read_crl};
use holdfast_model::UnixMillis;
use libfuzzer_sys::fuzz_target;

const NOW: UnixMillis = UnixMillis(1_893_456_000_000);

static CA: LazyLock<Option<CaCertificate>> = LazyLock::new(|| {
    let der = read_certificate(include_str!("../../tests/certificates/ca.pem")).ok()?;
    CaCertificate::parse(&der).ok()
});
/// The certificate, and its issuer.
static CHAIN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    const END: &str = "-----END CERTIFICATE-----";
    let parts = include_str!("../../tests/ocsp/chain.pem").split_inclusive(END);
    parts.filter_map(|pem| read_certificate(pem).ok()).collect()
});
/// The fixture may be stapled; of a changed one no byte that counts is changed.
static GOOD: &[u8] = include_bytes!("../../tests/ocsp/good.der");

fuzz_target!(|data: &[u8]| {
    if let (Some(ca), Ok(list)) = (&*CA, read_crl(data)) {
        let _ = Crl::read(&list, ca, 1000, NOW);
    }
    let chain = CHAIN.iter().map(Vec::as_slice);
    if OcspResponse::read(data, chain, NOW).is_ok() {
        assert_eq!(data.len(), GOOD.len());
    }
});
