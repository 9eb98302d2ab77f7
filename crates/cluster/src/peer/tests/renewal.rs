//! Certificates: refused when loaded, refused by other nodes, and renewed.

use super::authority::Wanted;
use super::*;
use crate::peer::PeerTlsFiles;
use rcgen::ExtendedKeyUsagePurpose;

#[test]
fn a_certificate_that_others_would_refuse_is_refused_when_loaded() {
    let authority = Authority::new();
    let says = |wanted: Wanted, text: &str| {
        let error = authority.load(&wanted).err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    };
    says(
        Wanted {
            name: "node-1.example",
            ..Wanted::default()
        },
        "does not carry the DNS name peer.holdfast",
    );
    says(
        Wanted {
            ends: 2021,
            ..Wanted::default()
        },
        "has expired",
    );
    says(
        Wanted {
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
            ..Wanted::default()
        },
        "both server and client",
    );
    let (certificate, key) = Authority::new().issue(&Wanted::default());
    let foreign = PeerTls::from_pem(authority.pem.as_bytes(), certificate.as_bytes(), key.as_bytes());
    assert!(foreign.err().unwrap().to_string().contains("cluster.ca_file"));
    let (certificate, _) = authority.issue(&Wanted::default());
    let other_key = PeerTls::from_pem(authority.pem.as_bytes(), certificate.as_bytes(), key.as_bytes());
    assert!(other_key.is_err());
    assert!(PeerTls::from_pem(b"", certificate.as_bytes(), key.as_bytes()).is_err());
    assert!(PeerTls::from_pem(authority.pem.as_bytes(), b"garbage", key.as_bytes()).is_err());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (_authority, one, two) = pair().await;
    let stranger = Node::start(NodeId(3), Authority::new().node()).await;
    stranger.peers.set_address(NodeId(2), &two.address());
    let status = stranger.until(NodeId(2), |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("cluster.ca_file"), "{}", status.problem);
    two.peers.set_address(NodeId(3), &stranger.address());
    let status = two.until(NodeId(3), |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("cluster.ca_file"), "{}", status.problem);
    assert_eq!(
        one.ask(NodeId(2), b"hello").await.unwrap(),
        "hello",
        "other connections are not affected"
    );
}

#[tokio::test]
async fn renewed_certificates_are_used_for_new_connections_and_old_ones_stay() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let files = PeerTlsFiles {
        ca: dir.path().join("ca.pem"),
        certificate: dir.path().join("node.pem"),
        key: dir.path().join("node.key"),
    };
    let write = |ca: &str, (certificate, key): (String, String)| {
        std::fs::write(&files.ca, ca).unwrap();
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
    };
    assert!(PeerTls::load(files.clone()).is_err(), "the files are missing");
    write(
        &authority.pem,
        authority.issue(&Wanted {
            ends: 2050,
            ..Wanted::default()
        }),
    );
    let tls = PeerTls::load(files.clone()).unwrap();
    let before = tls.expires().unwrap();
    let two = Node::start_with(quick(), identity(NodeId(2)), tls.clone()).await;
    let one = Node::start(NodeId(1), authority.node()).await;
    one.connect(&two).await;

    // Half a renewal: the key does not match. The old certificate stays in use.
    let (certificate, _) = authority.issue(&Wanted::default());
    std::fs::write(&files.certificate, certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(tls.expires(), Some(before));

    // The complete renewal.
    write(&authority.pem, authority.issue(&Wanted::default()));
    while tls.expires() == Some(before) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(one.ask(NodeId(2), b"hello").await.unwrap(), "hello");
    let status = one.until(NodeId(2), |status| status.connected).await;
    assert_eq!(
        status.certificate_ends,
        Some(before),
        "the open connection is not affected"
    );
    let three = Node::start(NodeId(3), authority.node()).await;
    three.connect(&two).await;
    let status = three.until(NodeId(2), |status| status.connected).await;
    assert_eq!(status.certificate_ends, tls.expires());
}
