//! Limits and timeouts of peer connections, and the identity of this node.

use std::net::SocketAddr;
use std::time::Duration;

/// Limits and timeouts of peer connections.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    /// The address to listen on; `None`: this node only connects to others.
    pub listen: Option<SocketAddr>,
    /// Limit of queued bytes of calls to one node; further calls are refused.
    pub queue_bytes: usize,
    /// Limit of unanswered calls to one node; further calls are refused.
    pub calls: usize,
    /// Limit of bytes of running calls of one node to one service; further calls are refused.
    pub under_way_bytes: usize,
    /// Limit of running calls of one node to one service; further calls are refused.
    pub under_way_calls: usize,
    /// Limit of concurrent uploads and downloads to one node; further ones are refused.
    pub streams: usize,
    /// Interval of pings on a connection.
    pub ping_interval: Duration,
    /// A connection on which nothing is received for this time is closed: running calls end, further calls fail.
    pub silence: Duration,
    /// Timeout of connecting: TCP, TLS and hello.
    pub connect_timeout: Duration,
    /// Longest backoff between two attempts to connect; the first ones are shorter.
    pub retry_pause: Duration,
    /// Limit of accepted connections before their hello; further ones are closed.
    pub handshakes: usize,
    /// Interval at which the certificate files are checked for changes.
    pub reload_interval: Duration,
    /// Whether certificates that name no node are accepted.
    pub accept_unnamed: bool,
}

/// Whether certificates that name no node are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnnamedCertificates {
    Accept,
    Refuse,
}

impl PeersConfig {
    pub(crate) fn unnamed_certificates(&self) -> UnnamedCertificates {
        if self.accept_unnamed {
            UnnamedCertificates::Accept
        } else {
            UnnamedCertificates::Refuse
        }
    }
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            listen: None,
            queue_bytes: 64 << 20,
            calls: 65_536,
            under_way_bytes: 128 << 20,
            under_way_calls: 16_384,
            streams: 512,
            ping_interval: Duration::from_secs(1),
            silence: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(3),
            retry_pause: Duration::from_secs(1),
            handshakes: 256,
            reload_interval: Duration::from_secs(5),
            accept_unnamed: false,
        }
    }
}

/// The identity of this node, sent in every hello.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// The cluster's id; empty while this node is not a member of one.
    pub cluster: String,
    /// The node's Raft id.
    pub node: u64,
    /// The node's name.
    pub name: String,
    /// The address at which other nodes reach it, `host:port`.
    pub address: String,
    /// The program's version.
    pub version: String,
}
