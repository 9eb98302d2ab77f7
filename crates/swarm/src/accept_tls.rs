//! The reference for the cost of a connect: a TLS server that does nothing else.
//!
//! It accepts, completes the handshake, reads one packet, answers with a CONNACK that accepts, and closes when the client does. Its TLS is the
//! hub's: the same library and provider, all suites and versions, a P-256 key, one certificate, no tickets; one acceptor with a listener
//! of its own for each core.
//! Not here: any check of what the packet says, registries, sessions: they are what a hub adds.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::{self, DeviceCa};

/// Connections that wait to be accepted, as at the hub.
const BACKLOG: u32 = 4096;
/// Of a packet; a CONNECT has some hundred.
const LONGEST_PACKET: usize = 64 * 1024;
/// CONNACK that accepts, without an earlier session.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// The certificates that the server requests of its clients.
pub enum ClientCertificates {
    /// None.
    NotRequested,
    /// Any; the client proves that it has the key, and nothing else is checked.
    Possession,
    /// Those of this CA.
    Issuer(Box<DeviceCa>),
}

/// A server that listens.
pub struct Reference {
    /// Where.
    pub address: SocketAddr,
    /// Its acceptors, which end with the process.
    threads: Vec<thread::JoinHandle<Result<()>>>,
}

impl Reference {
    /// Listens on `address` with `acceptors` threads, under the certificate of a new CA that is written to `ca_file`.
    ///
    /// # Errors
    /// When the file cannot be written, or the port is taken.
    pub fn start(address: SocketAddr, acceptors: usize, clients: &ClientCertificates, ca_file: &Path) -> Result<Self> {
        let (ca, config) = server_config(&address.ip().to_string(), clients)?;
        std::fs::write(ca_file, certificates::pem(&ca))
            .with_context(|| format!("cannot write {}", ca_file.display()))?;
        let mut reference = Self {
            address,
            threads: Vec::new(),
        };
        for index in 0..acceptors {
            // With port 0 the first one chooses.
            let listener = bind(reference.address)?;
            reference.address = listener.local_addr()?;
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            let builder = thread::Builder::new().name(format!("accept-{index}"));
            reference
                .threads
                .push(builder.spawn(move || accept(listener, &acceptor))?);
        }
        Ok(reference)
    }

    /// Waits until an acceptor fails.
    ///
    /// # Errors
    /// Its error.
    pub fn wait(self) -> Result<()> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("an acceptor panicked"))??;
        }
        Ok(())
    }
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener> {
    // A socket of tokio can be made only inside a runtime; the acceptor's own takes the listener over.
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket
        .bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket.listen(BACKLOG)?.into_std()?)
}

fn accept(listener: std::net::TcpListener, acceptor: &TlsAcceptor) -> Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            // Errors of one connection and of too many files end it alike: the clients count them.
            let Ok((tcp, _)) = listener.accept().await else {
                continue;
            };
            let acceptor = acceptor.clone();
            let serving = async move {
                // The client has its own account of what went wrong.
                let _ = serve(tcp, &acceptor).await;
            };
            holdfast_tasks::spawn_local("connection", Box::pin(serving));
        }
    })
}

async fn serve(tcp: TcpStream, acceptor: &TlsAcceptor) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    let mut packet = Vec::new();
    while !is_whole(&packet) {
        read(&mut stream, &mut packet).await?;
    }
    stream.write_all(&CONNACK).await?;
    stream.flush().await?;
    packet.clear();
    // DISCONNECT, or the end.
    read(&mut stream, &mut packet).await?;
    stream.shutdown().await?;
    Ok(())
}

async fn read(stream: &mut TlsStream<TcpStream>, packet: &mut Vec<u8>) -> Result<()> {
    anyhow::ensure!(packet.len() < LONGEST_PACKET, "a packet that does not end");
    anyhow::ensure!(stream.read_buf(packet).await? > 0, "the client is gone");
    Ok(())
}

/// Whether `packet` has all the bytes that its head announces.
fn is_whole(packet: &[u8]) -> bool {
    let mut length = 0;
    for (at, byte) in packet.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return packet.len() > at + length;
        }
    }
    false
}

fn server_config(name: &str, clients: &ClientCertificates) -> Result<(CertificateDer<'static>, Arc<ServerConfig>)> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        ClientCertificates::NotRequested => builder.with_no_client_auth(),
        ClientCertificates::Possession => builder.with_client_cert_verifier(Arc::new(Possession(provider))),
        ClientCertificates::Issuer(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let (ca, certificate, key) = certificates::server(name)?;
    let mut config = builder.with_single_cert(vec![certificate], key)?;
    config.send_tls13_tickets = 0;
    Ok((ca, Arc::new(config)))
}

/// Checks the signature of the handshake alone.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl ClientCertVerifier for Possession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_whole_with_its_last_byte() {
        let connect = [&[0x10, 0x80, 0x01][..], &[7; 128]].concat();
        for length in 0..connect.len() {
            assert!(!is_whole(&connect[..length]), "{length}");
        }
        assert!(is_whole(&connect));
        assert!(is_whole(&[0xe0, 0]));
    }
}
