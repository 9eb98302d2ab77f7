//! Limits and timeouts of peer connections (part of section `[cluster]`), and the identity of this node.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_model::ByteSize;
use holdfast_model::NodeId;

holdfast_config::section! {
    /// Connections to other nodes.
    pub struct PeersConfig = "cluster" {
        /// The most bytes of calls to one node that wait to be sent; a call beyond is refused at once.
        pub queue: ByteSize = ByteSize::mib(64), in ByteSize(1).. => "must be greater than 0";
        /// The most bytes of calls of one node for one service that are executed at once; one beyond is refused.
        pub max_in_flight was "under_way": ByteSize = ByteSize::mib(128), in ByteSize(1).. => "must be greater than 0";
        /// The most uploads and downloads (snapshots, remote readers) towards one node at once.
        pub streams: usize = 512, in 1.. => "must be greater than 0";
        /// The most connections of nodes that have not authenticated yet; one beyond is closed.
        pub handshakes: usize = 256, in 1.. => "must be greater than 0";
        /// How often a connected node is pinged.
        pub ping_interval: Duration = Duration::from_secs(1);
        /// A node that has not been heard for so long is no longer connected: calls to it end, and fail at once.
        pub silence: Duration = Duration::from_secs(4);
        /// How long it may take to be connected to a node: TCP, TLS and hello.
        pub connect_timeout: Duration = Duration::from_secs(3);
        /// The longest backoff between two attempts to connect to a node.
        pub max_connect_backoff was "retry_pause": Duration = Duration::from_secs(1);
        /// How often the files of cluster.certificate_file, key_file and ca_file are checked.
        pub reload_interval: Duration = Duration::from_secs(5), in Duration::from_millis(100).. => "must be at least 100 ms";
        /// Accept certificates that do not name their node. The holder of one may then claim to be any node.
        pub accept_unnamed_certificates: bool = false;
    }
    fixed {
        /// The address to listen on; `None`: this node only connects to others.
        pub listen: Option<SocketAddr> = None;
        /// Limit of unanswered calls to one node; further calls are refused.
        pub calls: usize = 65_536;
        /// Limit of running calls of one node to one service; further calls are refused.
        pub max_in_flight_calls: usize = 16_384;
    }
}

/// Whether certificates that name no node are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnnamedCertificates {
    Accept,
    Refuse,
}

impl PeersConfig {
    pub(crate) fn unnamed_certificates(&self) -> UnnamedCertificates {
        if self.accept_unnamed_certificates {
            UnnamedCertificates::Accept
        } else {
            UnnamedCertificates::Refuse
        }
    }
}

/// The identity of this node, sent in every hello.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// The cluster's id; empty while this node is not a member of one.
    pub cluster: String,
    /// The node's Raft id.
    pub node: NodeId,
    /// The node's name.
    pub name: String,
    /// The address at which other nodes reach it, `host:port`.
    pub address: String,
    /// The program's version.
    pub version: String,
}
