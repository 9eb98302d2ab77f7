//! Certificates as clients and operators send them: nothing panics, and a chain without a CA of the hub is refused.
#![no_main]

use bytes::Bytes;
use holdfast_auth::x509::{CaCertificate, CaSet, ClientCertificate, read_certificate, verify_chain};
use holdfast_model::{CertificateChain, UnixMillis};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = CaCertificate::parse(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = read_certificate(text);
    }
    // Certificates of a chain, each behind its length.
    let mut rest = data;
    let mut certificates = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (one, behind) = behind.split_at(behind.len().min(usize::from(u16::from_be_bytes(*length))));
        certificates.push(Bytes::copy_from_slice(one));
        rest = behind;
    }
    let Some(chain) = CertificateChain::new(certificates) else { return };
    if let Ok(leaf) = ClientCertificate::parse(chain.leaf()) {
        let _ = leaf.check_common_name("dev-1");
        assert!(verify_chain(&chain, &leaf, &CaSet::default(), &(), UnixMillis(1_893_456_000_000)).is_err());
    }
});
