//! Why the peer connections cannot be started.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// The peer connections cannot be started.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}
