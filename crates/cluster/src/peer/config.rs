//! Limits and times of peer connections, and who this node is.

use std::net::SocketAddr;
use std::time::Duration;

/// How this node talks to the others.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    /// Where other nodes reach this one; `None` = only calls, nobody is let in.
    pub listen: Option<SocketAddr>,
    /// The most bytes of calls to one node that wait to be sent; a call beyond is refused at once.
    pub queue_bytes: usize,
    /// The most calls to one node without an answer yet; one beyond is refused at once.
    pub calls: usize,
    /// The most bytes of calls of one node for one service that are being carried out; one beyond is refused.
    pub under_way_bytes: usize,
    /// The most calls of one node for one service that are being carried out; one beyond is refused.
    pub under_way_calls: usize,
    /// The most uploads and downloads towards one node at once; one beyond is refused.
    pub streams: usize,
    /// How often a connected node is asked whether it is there.
    pub ping_interval: Duration,
    /// A node that has not been heard for so long is no longer connected: calls under way end, calls fail at once.
    pub silence: Duration,
    /// How long it may take to be connected: TCP, TLS and hello.
    pub connect_timeout: Duration,
    /// The longest pause between two attempts to connect; the first ones are shorter.
    pub retry_pause: Duration,
    /// The most connections that have not proved who they are yet; one beyond is closed.
    pub handshakes: usize,
    /// How often the certificate files are looked at.
    pub reload_interval: Duration,
    /// Whether certificates are taken that do not say which node they are for.
    pub accept_unnamed: bool,
}

/// What becomes of a certificate that does not say which node it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unnamed {
    Accept,
    Refuse,
}

impl PeersConfig {
    pub(crate) fn unnamed(&self) -> Unnamed {
        if self.accept_unnamed {
            Unnamed::Accept
        } else {
            Unnamed::Refuse
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

/// Who this node is, as it tells the others.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// The cluster's id; empty while this node is not a member of one.
    pub cluster: String,
    /// Its Raft id.
    pub node: u64,
    /// Its name, for people.
    pub name: String,
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// The program's version.
    pub version: String,
}
