//! Chains for the clients of single host names.

use super::*;

const OLD_HOST: &str = "old.test";

fn identity(host: Option<&str>, algorithm: &'static SignatureAlgorithm) -> (Identity, ServerIdentity) {
    let identity = Identity::new(algorithm);
    let server = ServerIdentity {
        host: host.map(str::to_owned),
        ..identity.server()
    };
    (identity, server)
}

/// The certificate that a client that trusts all of `roots` is shown for `host`.
fn shown(
    server: &TlsServer,
    roots: &[&Identity],
    version: &'static SupportedProtocolVersion,
    groups: &[&'static dyn SupportedKxGroup],
    host: &'static str,
) -> CertificateDer<'static> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.certificate.clone()).unwrap();
    }
    let mut provider = aws_lc_rs::default_provider();
    if !groups.is_empty() {
        provider.kx_groups = groups.to_vec();
    }
    let client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let (client, _) = connect(server, &Arc::new(client), host).unwrap();
    client.peer_certificates().unwrap()[0].clone()
}

#[test]
fn a_client_of_a_host_name_with_chains_of_its_own_gets_one_of_them_and_others_do_not() {
    let (new, first) = identity(None, &PKCS_ECDSA_P256_SHA256);
    let (old_ecdsa, second) = identity(Some(OLD_HOST), &PKCS_ECDSA_P256_SHA256);
    let (old_rsa, third) = identity(Some(OLD_HOST), &PKCS_RSA_SHA256);
    let certificates = ServerCertificates::new(vec![second, first, third]).unwrap();
    let server = TlsServer::new(&certificates, TlsOptions::default()).unwrap();
    let roots = [&new, &old_ecdsa, &old_rsa];
    for version in [&TLS12, &TLS13] {
        assert!(shown(&server, &roots, version, &[], HOST) == new.certificate);
        assert!(shown(&server, &roots, version, &[], OLD_HOST) == old_ecdsa.certificate);
    }
    // Of the chains of the name, the one that fits the client.
    let x25519 = [aws_lc_rs::kx_group::X25519];
    assert!(shown(&server, &roots, &TLS12, &x25519, OLD_HOST) == old_rsa.certificate);
    // A chain of the name goes before one that fits better.
    let (old, only) = identity(Some(OLD_HOST), &PKCS_ECDSA_P256_SHA256);
    let (rsa, default) = identity(None, &PKCS_RSA_SHA256);
    let certificates = ServerCertificates::new(vec![default, only]).unwrap();
    let server = TlsServer::new(&certificates, TlsOptions::default()).unwrap();
    assert!(shown(&server, &[&old, &rsa], &TLS13, &x25519, OLD_HOST) == old.certificate);
    assert!(shown(&server, &[&old, &rsa], &TLS13, &x25519, HOST) == rsa.certificate);
}

#[test]
fn chains_for_host_names_alone_are_no_certificate_for_all_others() {
    let (_, only) = identity(Some(OLD_HOST), &PKCS_ECDSA_P256_SHA256);
    let refused = ServerCertificates::new(vec![only]);
    assert!(matches!(refused, Err(super::super::TlsError::NoCertificate)));
}
