//! What a handshake costs the server: full and resumed, by kind of key, version and client certificate.
//!
//! CPU time of the server's thread, system calls included, over loopback; the client has a thread of its own. `cargo bench -p holdfast-net`.
#![allow(clippy::unwrap_used, reason = "a measurement has no caller")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use holdfast_net::{ServerCertificates, ServerIdentity, TlsOptions, TlsServer, accept_tls};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt as _;

const HOST: &str = "hub.test";
const HANDSHAKES: u32 = 500;

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new([HOST.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// CPU time of one handshake of a server with `identity`, averaged.
fn measure(
    identity: &Identity,
    version: &'static SupportedProtocolVersion,
    device: Option<&Identity>,
    has_tickets: bool,
    resumes: bool,
) -> Duration {
    let certificates = ServerCertificates::new(vec![ServerIdentity {
        name: "server",
        host: None,
        chain: vec![identity.certificate.clone()],
        key: identity.key.clone_key(),
        staple: None,
    }]);
    let options = TlsOptions {
        resumption: has_tickets.then_some(Duration::from_secs(3600)),
        ..TlsOptions::default()
    };
    let server = TlsServer::new(&certificates.unwrap(), options).unwrap();
    let (address, bound) = std::sync::mpsc::sync_channel(1);
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let mut begin = Duration::ZERO;
            // The first one fills the client's store, and the caches.
            for number in 0..=HANDSHAKES {
                if number == 1 {
                    begin = thread_cpu();
                }
                let (socket, _) = listener.accept().await.unwrap();
                let mut stream = accept_tls(socket, &server, Duration::from_secs(30)).await.unwrap();
                stream.write_all(b"!").await.unwrap();
            }
            (thread_cpu() - begin) / HANDSHAKES
        })
    });
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut client = match device {
        None => client.with_no_client_auth(),
        Some(device) => client
            .with_client_auth_cert(vec![device.certificate.clone()], device.key.clone_key())
            .unwrap(),
    };
    if !resumes {
        client.resumption = Resumption::disabled();
    }
    connect(bound.recv().unwrap(), &Arc::new(client), resumes);
    serving.join().unwrap()
}

fn connect(address: SocketAddr, client: &Arc<ClientConfig>, resumes: bool) {
    for number in 0..=HANDSHAKES {
        let connection = ClientConnection::new(Arc::clone(client), HOST.try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        stream.flush().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let is_resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(is_resumed, resumes && number > 0, "handshake {number}");
    }
}

fn main() {
    let device = Identity::new(&PKCS_ECDSA_P256_SHA256);
    println!("us of server CPU per handshake, {HANDSHAKES} each\n");
    println!("| server key | TLS | client certificate | full, off | full, with ticket | resumed | resumed / off |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (key, algorithm) in [("ECDSA P-256", &PKCS_ECDSA_P256_SHA256), ("RSA 2048", &PKCS_RSA_SHA256)] {
        let identity = Identity::new(algorithm);
        for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
            for (shows, device) in [("none", None), ("ECDSA P-256", Some(&device))] {
                let off = measure(&identity, version, device, false, false);
                let full = measure(&identity, version, device, true, false);
                let resumed = measure(&identity, version, device, true, true);
                println!(
                    "| {key} | {name} | {shows} | {} | {} | {} | {:.0} % |",
                    off.as_micros(),
                    full.as_micros(),
                    resumed.as_micros(),
                    100.0 * resumed.as_secs_f64() / off.as_secs_f64(),
                );
            }
        }
    }
}
