//! TLS on the listeners.
//!
//! Spec auth-and-limits §3.1, §3.3 and §4: TLS 1.2 and 1.3, an ECDSA and an RSA certificate with ECDSA preferred, a
//! client certificate requested but not required.

mod certificates;
mod client;
mod greeting;
mod handshake;
mod lazy;
mod reload;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod tickets;

pub use certificates::{ServerCertificates, ServerIdentity, Staple};
pub(crate) use client::{chain, parameters};
pub use greeting::{NameKind, ServerNames};
pub(crate) use handshake::Handshake;
pub use handshake::HandshakeTime;
pub(crate) use lazy::TlsSocket;
pub use reload::{CertificateReload, FileStamps, ReloadOutcome};
pub use server::{TlsOptions, TlsServer, accept_tls};
use thiserror::Error;

/// A TLS configuration could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No certificate was given.
    #[error("no server certificate is configured")]
    NoCertificate,
    /// A key does not fit its certificate, or its kind is unknown.
    #[error("a server certificate or its key cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The system gives no randomness.
    #[error("no key for session tickets can be made: the system gives no randomness")]
    TicketKey,
}
