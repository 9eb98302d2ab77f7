//! The client side of a hub, for the command line and the load generator: the connection file, TLS, one HTTP/1.1
//! connection, a reader of the events endpoint, and a TPM in software.
//!
//! Why a crate: the two tools speak to a hub in the same way, and a defect of one was a defect of the other.
//! Invariant: nothing here signs tokens: they are the caller's, so that the load generator's own signatures check the
//! hub's.
//! Not here: how a hub is chosen, and how results are shown.

pub mod connection_file;
pub mod events;
pub mod http;
pub mod outbound;
pub mod software_tpm;
pub mod tls;
