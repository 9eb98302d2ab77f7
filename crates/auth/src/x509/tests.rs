//! Chains that must be accepted, CAs, and the fixtures of the hostile cases.

/// A certificate that `openssl` made, since `rcgen` makes none of its kind.
macro_rules! fixture {
    ($name:literal) => {
        pem(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/certificates/",
            $name,
            ".pem"
        )))
    };
}

mod hostile;
mod memory;
mod ocsp;
mod revocation;
mod version_1;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{CertificateChain, RefusalReason, UnixMillis};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    SignatureAlgorithm, date_time_ymd,
};

use super::*;

/// 2030-01-01.
const NOW: UnixMillis = UnixMillis(1_893_456_000_000);

/// A CA with its key.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
}

fn name(common_name: impl Into<DnValue>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

impl Ca {
    fn root_with(params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> Self {
        let key = key(algorithm);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            params,
            key,
            certificate,
        }
    }

    fn root(common_name: &str) -> Self {
        Self::root_with(ca_params(common_name), &PKCS_ECDSA_P256_SHA256)
    }

    fn below_with(&self, params: CertificateParams) -> Self {
        let key = key(&PKCS_ECDSA_P256_SHA256);
        let certificate = self.sign(&params, &key);
        Self {
            params,
            key,
            certificate,
        }
    }

    fn below(&self, common_name: &str) -> Self {
        self.below_with(ca_params(common_name))
    }

    fn sign(&self, params: &CertificateParams, subject_key: &KeyPair) -> Certificate {
        params
            .clone()
            .signed_by(subject_key, &Issuer::from_params(&self.params, &self.key))
            .unwrap()
    }

    fn leaf_with(&self, params: &CertificateParams) -> Vec<u8> {
        self.sign(params, &key(&PKCS_ECDSA_P256_SHA256)).der().to_vec()
    }

    fn leaf(&self, common_name: &str) -> Vec<u8> {
        self.leaf_with(&leaf_params(common_name))
    }

    fn der(&self) -> Vec<u8> {
        self.certificate.der().to_vec()
    }
}

fn hub(cas: &[&Ca]) -> CaSet {
    CaSet::new(cas.iter().map(|ca| Arc::new(CaCertificate::parse(&ca.der()).unwrap())))
}

fn chain(certificates: &[Vec<u8>]) -> CertificateChain {
    CertificateChain::new(certificates.iter().map(|der| Bytes::copy_from_slice(der))).unwrap()
}

/// As the hub decides: size, name, chain.
fn decide(certificates: &[Vec<u8>], cas: &CaSet) -> Result<VerifiedChain, CertificateRefusal> {
    let chain = chain(certificates);
    check_size(&chain)?;
    let leaf = ClientCertificate::parse(chain.leaf())?;
    leaf.check_common_name("dev-1")?;
    verify_chain(&chain, &leaf, cas, &(), NOW)
}

fn pem(text: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap().1.contents
}

#[test]
fn a_chain_may_end_in_a_root_or_in_an_intermediate_of_the_hub() {
    let root = Ca::root("root");
    let upper = root.below("upper");
    let lower = upper.below("lower");
    let leaf = lower.leaf("dev-1");
    let full = [leaf.clone(), lower.der(), upper.der(), root.der()];
    for (sent, cas, anchor) in [
        (&full[..3], &[&root][..], &root),
        (&full[..], &[&root], &root),
        (&full[..1], &[&lower], &lower),
        (&full[..], &[&lower], &lower),
        (&full[..2], &[&upper], &upper),
        // Of several, the nearest one.
        (&full[..], &[&root, &upper, &lower], &lower),
    ] {
        let verified = decide(sent, &hub(cas)).unwrap();
        assert_eq!(verified.ca, CertificateFingerprints::of(&anchor.der()).sha256);
    }
    // The order of the issuers does not matter, and others in between do not either.
    let shuffled = [leaf, root.der(), Ca::root("other").der(), upper.der(), lower.der()];
    assert!(decide(&shuffled, &hub(&[&root])).is_ok());
}

#[test]
fn all_kinds_of_keys_and_signatures_that_the_page_names_are_accepted() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let root = Ca::root_with(ca_params("root"), algorithm);
        assert!(decide(&[root.leaf("dev-1")], &hub(&[&root])).is_ok());
        let leaf = root.sign(&leaf_params("dev-1"), &key(algorithm));
        assert!(decide(&[leaf.der().to_vec()], &hub(&[&root])).is_ok());
    }
    let cas = CaSet::new([Arc::new(CaCertificate::parse(&fixture!("ca")).unwrap())]);
    for leaf in [fixture!("rsa-pss"), fixture!("rsa-sha512")] {
        decide(&[leaf], &cas).unwrap();
    }
    // Without an extended key usage any purpose is allowed.
    let root = Ca::root("root");
    let mut params = leaf_params("dev-1");
    params.extended_key_usages.clear();
    assert!(decide(&[root.leaf_with(&params)], &hub(&[&root])).is_ok());
}

#[test]
fn a_session_ends_with_the_first_certificate_of_its_path() {
    let ending = |mut params: CertificateParams, year| {
        params.not_after = date_time_ymd(year, 1, 1);
        params
    };
    let at = |year| UnixMillis(u64::try_from(date_time_ymd(year, 1, 1).unix_timestamp()).unwrap() * 1000 + 1000);
    for years in [[2031, 2032, 2033], [2032, 2031, 2033], [2033, 2032, 2031]] {
        let root = Ca::root_with(ending(ca_params("root"), years[0]), &PKCS_ECDSA_P256_SHA256);
        let middle = root.below_with(ending(ca_params("middle"), years[1]));
        let leaf = middle.leaf_with(&ending(leaf_params("dev-1"), years[2]));
        let verified = decide(&[leaf, middle.der()], &hub(&[&root])).unwrap();
        assert_eq!(verified.ends, at(2031));
    }
}

#[test]
fn of_two_cas_with_one_name_the_right_one_is_found() {
    let (old, new) = (Ca::root("root"), Ca::root("root"));
    let leaf = new.leaf("dev-1");
    let both = hub(&[&old, &new]);
    assert_eq!(
        decide(std::slice::from_ref(&leaf), &both).unwrap().ca,
        CertificateFingerprints::of(&new.der()).sha256
    );
    assert_eq!(
        decide(&[leaf], &hub(&[&old])).unwrap_err().reason(),
        RefusalReason::Chain
    );
    // Renewed with the same key: the one that lives longer carries the session.
    let mut params = ca_params("root");
    params.not_after = date_time_ymd(2040, 1, 1);
    let earlier = params.self_signed(&new.key).unwrap();
    let renewed =
        CaSet::new([earlier.der().to_vec(), new.der()].map(|der| Arc::new(CaCertificate::parse(&der).unwrap())));
    let verified = decide(&[new.leaf("dev-1")], &renewed).unwrap();
    assert_eq!(verified.ca, CertificateFingerprints::of(&new.der()).sha256);
}

#[test]
fn the_path_length_of_a_ca_of_the_hub_counts() {
    let mut params = ca_params("root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = Ca::root_with(params, &PKCS_ECDSA_P256_SHA256);
    let cas = hub(&[&root]);
    assert!(decide(&[root.leaf("dev-1")], &cas).is_ok());
    let middle = root.below("middle");
    let refusal = decide(&[middle.leaf("dev-1"), middle.der()], &cas).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Chain);
    assert!(refusal.to_string().contains("path length"), "{refusal}");
}

#[test]
fn an_outdated_ca_is_named_as_such() {
    let mut params = ca_params("old root");
    params.not_after = date_time_ymd(2029, 1, 1);
    let root = Ca::root_with(params, &PKCS_ECDSA_P256_SHA256);
    let refusal = decide(&[root.leaf("dev-1")], &hub(&[&root])).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::CertificateTime);
    assert!(
        refusal.to_string().contains("the CA CN=old root ended at 2029-01-01"),
        "{refusal}"
    );
}

#[test]
fn a_certificate_with_a_good_thumbprint_may_be_a_ca_but_not_be_over() {
    let mut params = ca_params("whatever");
    params.not_after = date_time_ymd(2031, 1, 1);
    let certificate = params.self_signed(&key(&PKCS_ECDSA_P256_SHA256)).unwrap();
    let leaf = ClientCertificate::parse(certificate.der()).unwrap();
    assert_eq!(leaf.check_time(NOW), Ok(()));
    // notAfter is the last second.
    let last = UnixMillis(leaf.ends().0 - 1);
    assert_eq!(
        (leaf.check_time(last), leaf.check_time(leaf.ends()).is_err()),
        (Ok(()), true)
    );
    let prints = leaf.fingerprints();
    for text in [
        prints.sha1_hex(),
        prints.sha256_hex(),
        prints.sha256_hex().to_lowercase(),
    ] {
        assert!(prints.is_named(&text), "{text}");
        let other = text.replacen(&text[..1], if text.starts_with('0') { "1" } else { "0" }, 1);
        assert!(!prints.is_named(&other) && !prints.is_named(&text[1..]), "{text}");
    }
    assert!(!prints.is_named("") && !prints.is_named(&"ä".repeat(20)));
}

#[test]
fn certificates_that_cannot_be_cas_are_refused_by_rule() {
    let root = Ca::root("root");
    assert_eq!(CaCertificate::parse(&root.leaf("x")), Err(CaError::NotCa));
    let mut params = ca_params("x");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(
        CaCertificate::parse(&root.below_with(params).der()),
        Err(CaError::Usage)
    );
    for weak in [fixture!("weak-ca"), fixture!("p521-ca")] {
        assert!(matches!(CaCertificate::parse(&weak), Err(CaError::Key(_))));
    }
    assert!(matches!(
        CaCertificate::parse(&[0x30; 20_000]),
        Err(CaError::TooLarge(20_000))
    ));
    assert!(matches!(CaCertificate::parse(b"x"), Err(CaError::Certificate(_))));
}

#[test]
fn the_owner_of_a_cas_key_proves_it_with_a_certificate_for_the_code() {
    let root = Ca::root("root");
    let ca = CaCertificate::parse(&root.der()).unwrap();
    let proof = root.leaf("CODE");
    assert_eq!(ca.check_possession(&proof, "CODE", NOW), Ok(()));
    assert!(matches!(
        ca.check_possession(&proof, "OTHER", NOW),
        Err(CaError::Certificate(CertificateRefusal::CommonName { .. }))
    ));
    assert!(matches!(
        ca.check_possession(&Ca::root("root").leaf("CODE"), "CODE", NOW),
        Err(CaError::NotSigned(_))
    ));
    let below = root.below("middle");
    assert!(matches!(
        ca.check_possession(&below.leaf("CODE"), "CODE", NOW),
        Err(CaError::NotSigned(_))
    ));
    assert!(matches!(
        ca.check_possession(&ca.der().clone(), "root", NOW),
        Err(CaError::Certificate(CertificateRefusal::LeafIsCa))
    ));
}

#[test]
fn a_certificate_is_read_in_every_form_that_tools_write() {
    use base64::Engine as _;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let root = Ca::root("root");
    let (der, pem) = (root.der(), root.certificate.pem());
    let broken = base64(&der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line) + "\r\n")
        .collect::<String>();
    for text in [
        pem.clone(),
        base64(&der),
        base64(pem.as_bytes()),
        broken,
        format!("subject=x\n{pem}"),
    ] {
        assert_eq!(read_certificate(&text).unwrap(), der);
    }
    for text in [
        String::new(),
        "x".to_owned(),
        format!("{pem}{pem}"),
        "-----BEGIN CERTIFICATE-----".to_owned(),
    ] {
        let read = read_certificate(&text).and_then(|der| CaCertificate::parse(&der));
        assert!(read.is_err(), "{text}");
    }
    assert!(matches!(
        read_certificate(&"A".repeat(100_000)),
        Err(CaError::TooLarge(100_000))
    ));
}
