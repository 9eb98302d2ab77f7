//! Certificates of version 1, as `openssl x509 -req` makes them.

use rcgen::{GeneralSubtree, NameConstraints};

use super::*;

fn fixture_ca() -> CaCertificate {
    CaCertificate::parse(&fixture!("ca")).unwrap()
}

/// The parameters of a CA with the name of the fixtures' CA.
fn same_name() -> CertificateParams {
    let params = ca_params("fixture-ca");
    let made = Ca::root_with(params.clone(), &PKCS_ECDSA_P256_SHA256);
    let made = CaCertificate::parse(&made.der()).unwrap();
    assert_eq!(made.subject_der(), fixture_ca().subject_der());
    params
}

/// The public key of the fixtures' CA.
struct FixtureKey(Vec<u8>);

impl rcgen::PublicKeyData for FixtureKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

#[test]
fn a_certificate_of_version_1_by_a_ca_of_the_hub_is_accepted() {
    let cas = CaSet::new([Arc::new(fixture_ca())]);
    let leaf = fixture!("version-1");
    let verified = decide(std::slice::from_ref(&leaf), &cas).unwrap();
    assert_eq!(verified.ca, fixture_ca().fingerprints().sha256);
    assert_eq!(verified.path.len(), 1);
    // Another CA of the same name does not hide the right one.
    let other = Ca::root_with(same_name(), &PKCS_ECDSA_P256_SHA256);
    let both = [other.der(), fixture!("ca")].map(|der| Arc::new(CaCertificate::parse(&der).unwrap()));
    assert_eq!(decide(&[leaf], &CaSet::new(both)).unwrap().ca, verified.ca);
}

#[test]
fn a_certificate_of_version_1_proves_possession() {
    let proof = fixture!("version-1");
    assert_eq!(fixture_ca().check_possession(&proof, "dev-1", NOW), Ok(()));
    let other = CaCertificate::parse(&Ca::root("other").der()).unwrap();
    let refused = other.check_possession(&proof, "dev-1", NOW);
    assert!(matches!(refused, Err(CaError::NotSigned(_))), "{refused:?}");
}

#[test]
fn an_issuer_that_the_client_sends_may_not_issue_version_1() {
    let root = Ca::root("root");
    let der = fixture!("ca");
    let (_, fixture) = x509_parser::parse_x509_certificate(&der).unwrap();
    let key = FixtureKey(fixture.public_key().subject_public_key.data.to_vec());
    let issuer = Issuer::from_params(&root.params, &root.key);
    let cross = same_name().signed_by(&key, &issuer).unwrap();
    let refusal = decide(&[fixture!("version-1"), cross.der().to_vec()], &hub(&[&root])).unwrap_err();
    assert_eq!(refusal.reason(), RefusalReason::Chain);
    assert!(refusal.to_string().contains("version 1"), "{refusal}");
}

#[test]
fn a_ca_with_name_constraints_may_not_issue_version_1() {
    let mut params = same_name();
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let constrained = Ca::root_with(params, &PKCS_ECDSA_P256_SHA256);
    let refusal = decide(&[fixture!("version-1")], &hub(&[&constrained])).unwrap_err();
    assert!(refusal.to_string().contains("name constraints"), "{refusal}");
}
