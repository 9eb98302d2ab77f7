//! Sessions that are resumed: for how long, at which nodes, and with which client chain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::HandshakeKind;

use super::super::ServerNames;
use super::super::tickets::{MAX_SESSION_BYTES, TicketKeys};
use super::*;

const LIFETIME: u64 = 100;

/// A node whose clock is `time`, with the certificates of `hub`.
fn node(hub: &Hub, time: &Arc<AtomicU64>) -> TlsServer {
    let certificates = ServerCertificates::new(vec![hub.ecdsa.server(), hub.rsa.server()]).unwrap();
    let seconds = Arc::clone(time);
    let keys = TicketKeys::with_clock(
        Duration::from_secs(LIFETIME),
        Box::new(move || seconds.load(Ordering::Relaxed)),
    );
    TlsServer::with_tickets(&certificates, ServerNames::default(), Some(keys.unwrap()), false).unwrap()
}

fn kind(server: &TlsServer, client: &Arc<ClientConfig>) -> HandshakeKind {
    let (client, server) = connect(server, client, HOST).unwrap();
    assert_eq!(client.handshake_kind(), server.handshake_kind());
    server.handshake_kind().unwrap()
}

#[test]
fn a_session_is_resumed_until_it_is_a_lifetime_old_also_when_it_is_renewed() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        let time = Arc::new(AtomicU64::new(1000));
        let server = node(&hub, &time);
        let client = Arc::new(hub.client(version, &[], None));
        assert_eq!(kind(&server, &client), HandshakeKind::Full);
        for now in [1000, 1040, 1080, 1099] {
            time.store(now, Ordering::Relaxed);
            assert_eq!(kind(&server, &client), HandshakeKind::Resumed, "{version:?} at {now}");
        }
        time.store(1100, Ordering::Relaxed);
        assert_eq!(kind(&server, &client), HandshakeKind::Full, "{version:?}");
        assert_eq!(kind(&server, &client), HandshakeKind::Resumed, "{version:?}");
    }
}

#[test]
fn nothing_is_resumed_when_resumption_is_off() {
    let hub = Hub::new();
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(hub.client(version, &[], None));
        for _ in 0..3 {
            assert_eq!(kind(&hub.server, &client), HandshakeKind::Full, "{version:?}");
        }
    }
}

#[test]
fn a_ticket_of_another_node_means_a_full_handshake() {
    let hub = Hub::new();
    let time = Arc::new(AtomicU64::new(1000));
    let (first, second) = (node(&hub, &time), node(&hub, &time));
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(hub.client(version, &[], None));
        assert_eq!(kind(&first, &client), HandshakeKind::Full);
        assert_eq!(kind(&second, &client), HandshakeKind::Full);
        assert_eq!(kind(&second, &client), HandshakeKind::Resumed);
    }
}

#[test]
fn a_resumed_session_has_the_client_chain_of_its_full_handshake() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let issuer = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let shown = vec![device.certificate.clone(), issuer.certificate.clone()];
    let expected = CertificateChain::new(shown.iter().map(|der| Bytes::copy_from_slice(der)));
    for version in [&TLS12, &TLS13] {
        let server = node(&hub, &Arc::new(AtomicU64::new(1000)));
        let client = Arc::new(hub.client(version, &[], Some(device.client(shown.clone()))));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let (_, server) = connect(&server, &client, HOST).unwrap();
            assert_eq!(server.handshake_kind(), Some(kind));
            assert_eq!(chain(&server), expected, "{version:?} {kind:?}");
        }
    }
}

#[test]
fn a_chain_that_is_too_large_for_a_ticket_is_shown_in_each_handshake() {
    let hub = Hub::new();
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    let padding = CertificateDer::from(vec![0x30; MAX_SESSION_BYTES]);
    let shown = vec![device.certificate.clone(), padding];
    let expected = CertificateChain::new(shown.iter().map(|der| Bytes::copy_from_slice(der)));
    for version in [&TLS12, &TLS13] {
        let server = node(&hub, &Arc::new(AtomicU64::new(1000)));
        let client = Arc::new(hub.client(version, &[], Some(device.client(shown.clone()))));
        for _ in 0..3 {
            let (_, server) = connect(&server, &client, HOST).unwrap();
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(chain(&server), expected);
        }
    }
}
