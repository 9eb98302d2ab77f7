//! The state of a connection to another node, as it is reported.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use holdfast_model::NodeId;

/// What an address answers to a node that may create a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A member of a cluster answers.
    Member,
    /// A node answers that is not a member of a cluster: it has no data.
    WithoutCluster,
    /// Nothing can be concluded; the reason is for people.
    Silent(Arc<str>),
}

/// The state of the connection to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node.
    pub node: NodeId,
    /// Its name, from its last hello; empty before.
    pub name: String,
    /// The address at which it is called, `host:port`.
    pub address: String,
    /// Whether this node can call it now.
    pub connected: bool,
    /// When something was last received from it, in either direction.
    pub last_heard: Option<Instant>,
    /// The round-trip time of the last ping.
    pub rtt: Option<Duration>,
    /// The program version that it runs, from its last hello; empty before.
    pub version: String,
    /// When the certificate that it last presented expires.
    pub certificate_ends: Option<SystemTime>,
    /// Why it is not connected; empty while it is.
    pub problem: String,
}

impl PeerStatus {
    /// The time since something was last received from it.
    #[must_use]
    pub fn last_heard_ago(&self) -> Option<Duration> {
        self.last_heard.map(|at| at.elapsed())
    }
}
