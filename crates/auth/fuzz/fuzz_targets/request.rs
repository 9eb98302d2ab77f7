//! Requests for certificates: no input panics, what is accepted is within its bounds, and an accepted request does not survive a changed
//! byte of what was signed.
#![no_main]

use holdfast_auth::x509::{ClientCertificate, MAX_REQUEST_BYTES, SigningRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = SigningRequest::read(data) {
        assert!(data.len() <= MAX_REQUEST_BYTES);
        assert!(!request.key().is_empty());
        let name = request.common_name();
        let at = data.windows(name.len().max(1)).position(|window| window == name.as_bytes());
        if let (Some(at), false) = (at, name.is_empty()) {
            let mut changed = data.to_vec();
            changed[at] ^= 1;
            assert!(SigningRequest::read(&changed).is_err());
        }
    }
    // The extension that such a request leads to is read out of certificates of strangers.
    if let Ok(certificate) = ClientCertificate::parse(data) {
        let _ = certificate.epoch();
    }
});
