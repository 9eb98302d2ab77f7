//! Connections between the nodes: gRPC over mutual TLS, as the [`Transport`] of everything above.
//!
//! Why: Raft, owners, sessions and control of all groups share one connection a pair of nodes and direction, so that
//! many idle groups cost one connection, and what is sent to a node while the last frame is being written leaves as the
//! next one (docs/peer-protocol.md).
//! Invariants: nobody is listened to before both sides have proved a certificate of the peer CA and agreed on cluster,
//! node and version; a call has one answer or one error that says whether it may have been carried out; what waits is
//! bounded in bytes, per node and direction, and calls to a node that cannot be reached fail at once.
//! Not here: what calls mean (the services in [`Dispatch`]), who is a member (the registry, carried here by `control`).

mod accept;
mod bodies;
mod chunks;
mod codec;
mod config;
mod dial;
mod error;
mod frame;
mod hello;
mod introduce;
mod lanes;
mod link;
mod manage;
mod metrics;
mod service;
mod session;
mod slot;
mod state;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use holdfast_consensus::transport::{Answer, Call, CallError, Chunks, Dispatch, Transport};
use holdfast_tasks::{Phase, Stop};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

pub use config::{PeerIdentity, PeersConfig};
pub use error::PeerError;
pub use tls::{PEER_DNS_NAME, PeerTls, PeerTlsError, PeerTlsFiles, node_dns_name};

use state::{Introduction, MAX_INTRODUCTIONS, Shared};

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

/// This node's connections to the others. Clones share them; usable from every thread of a tokio runtime.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    local: Option<SocketAddr>,
}

impl Peers {
    /// Listens, and calls whoever [`Peers::set_address`] names. Runs on the calling runtime until `stop` closes: calls
    /// work while the node drains.
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
        let listener = match config.listen {
            Some(address) => {
                let failed = |source| PeerError::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let local = listener.local_addr().map_err(failed)?;
                Some((listener, local))
            }
            None => None,
        };
        let (introductions, wanted) = mpsc::channel(MAX_INTRODUCTIONS);
        let shared = Arc::new(Shared::new(config, identity, tls, dispatch, stop, introductions));
        let local = listener.as_ref().map(|(_, local)| *local);
        if let Some((listener, _)) = listener {
            drop(holdfast_tasks::spawn_critical(
                "peer listener",
                accept::listen(Arc::clone(&shared), listener),
            ));
        }
        drop(holdfast_tasks::spawn_critical(
            "peer tasks",
            start_tasks(Arc::clone(&shared)),
        ));
        drop(holdfast_tasks::spawn_critical(
            "peer introductions",
            introduce::run(Arc::clone(&shared), wanted),
        ));
        drop(holdfast_tasks::spawn_critical(
            "peer certificates",
            tls::watch(Arc::clone(&shared)),
        ));
        Ok(Self { shared, local })
    }

    /// Where it listens; `None` when it was told not to.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    /// The node has become a member of `cluster`: before, it only calls addresses, and refuses who calls it.
    pub fn set_cluster(&self, cluster: &str) {
        cluster.clone_into(&mut self.shared.identity.write().cluster);
        for peer in self.shared.peers.read().values() {
            peer.changed.notify_one();
        }
    }

    /// The registry has `node` under this name: only a certificate for it, if for any, opens a connection of that node.
    pub fn set_name(&self, node: u64, name: &str) {
        self.shared.set_name(node, name);
    }

    /// `node` is a member and is reached at `address`, `host:port`. A node that introduces itself with another address has
    /// moved there; the same address said here again does not undo that, another one does.
    pub fn set_address(&self, node: u64, address: &str) {
        self.shared.set_address(node, address);
    }

    /// `node` is no member any more: its connections are closed, and it is refused until it is a member again.
    pub fn forget(&self, node: u64) {
        self.shared.forget(node);
    }

    /// Calls whoever answers at `address`, before this node is a member. The other side takes only calls for
    /// [`Service::Control`](holdfast_consensus::transport::Service::Control) this way.
    #[must_use]
    pub fn call_address(&self, address: &str, call: Call) -> Answer {
        let (answer, answered) = oneshot::channel();
        let wanted = self.shared.introductions.try_send(Introduction {
            address: address.to_owned(),
            call,
            answer,
        });
        Box::pin(async move {
            if wanted.is_err() {
                return Err(CallError::NotSent(
                    "too many calls to addresses wait, or the node is stopping".into(),
                ));
            }
            answered
                .await
                .unwrap_or_else(|_| Err(CallError::Unknown("this node is stopping".into())))
        })
    }

    /// The state of all known nodes; changes with connections, and about once a second with what was heard.
    #[must_use]
    pub fn liveness(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.shared.status.subscribe()
    }

    /// The state of all known nodes now.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.snapshot()
    }
}

/// Gives every node that becomes known a task.
async fn start_tasks(shared: Arc<Shared>) {
    loop {
        let without: Vec<_> = {
            let peers = shared.peers.read();
            let new = peers
                .values()
                .filter(|peer| !peer.has_task.swap(true, Ordering::AcqRel));
            new.cloned().collect()
        };
        for peer in without {
            drop(holdfast_tasks::spawn_critical(
                "peer",
                manage::keep(Arc::clone(&shared), peer),
            ));
        }
        tokio::select! {
            biased;
            () = shared.stop.reached(Phase::Closing) => return,
            () = shared.new_peer.notified() => {}
        }
    }
}

impl Transport for Peers {
    fn call(&self, node: u64, call: Call) -> Answer {
        self.shared.call(node, call)
    }

    fn upload(&self, node: u64, call: Call, chunks: Chunks) -> Answer {
        chunks::upload(Arc::clone(&self.shared), node, call, chunks)
    }

    fn download(&self, node: u64, call: Call) -> Chunks {
        chunks::download(Arc::clone(&self.shared), node, call)
    }
}
