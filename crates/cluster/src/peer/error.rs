//! Errors of starting the peer connections.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// The peer connections cannot be started.
#[derive(Debug, Error)]
pub enum PeerError {
    /// Listening on the address failed.
    #[error("cannot listen for other nodes on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
