//! Connections between the nodes: gRPC over mutual TLS, as the [`Transport`] of the crates above.
//!
//! Why: Raft, owners, sessions and control of all groups share one connection per pair of nodes and direction, so that many
//! idle groups cost one connection, and everything that is queued for a node while a frame is written is sent in the next
//! frame (docs/peer-protocol.md).
//! Invariants: no call is served before both nodes have presented a certificate of the peer CA and agreed on cluster, node
//! and version; a call has one answer, or one error that says whether it may have been executed; queues are bounded in
//! bytes, per node and direction, and calls to a node that cannot be reached fail at once.
//! Not here: the meaning of calls (the services in [`Dispatch`]), the list of members (the registry; `control` passes it on).
//! Start at [`Peers`]; `protocol` defines what is sent, `outbound` and `inbound` are the two directions of a connection.

mod certificate_watch;
mod chunk_reader;
mod config;
mod error;
mod error_text;
mod inbound;
mod metrics;
mod outbound;
mod peer_table;
mod protocol;
mod status;
#[cfg(test)]
mod tests;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_consensus::transport::{Answer, Call, CallError, Chunks, Dispatch, Transport};
use holdfast_model::NodeId;
use holdfast_tasks::{Phase, Stop};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

pub use config::{PeerIdentity, PeersConfig};
pub use error::PeerError;
pub use metrics::METRICS;
pub use protocol::names::{PEER_DNS_NAME, node_dns_name};
pub use status::{PeerStatus, Standing};
pub use transport::tls::{PeerTls, PeerTlsError, PeerTlsFiles};

use inbound::listener;
use outbound::{anonymous_call, connector, streaming};
use peer_table::{AnonymousCall, ByAddress, MAX_ANONYMOUS_CALLS, PeerTable};

/// This node's connections to the others. Clones share them; usable from every thread of a tokio runtime.
#[derive(Clone)]
pub struct Peers {
    table: Arc<PeerTable>,
    local: Option<SocketAddr>,
}

impl Peers {
    /// Listens, and connects to the nodes that [`Peers::set_address`] adds. Runs on the calling runtime until `stop` is
    /// closing: calls work while the node drains.
    ///
    /// # Errors
    /// [`PeerError`] if listening on the address fails.
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
        let (anonymous_calls, queued) = mpsc::channel(MAX_ANONYMOUS_CALLS);
        let table = Arc::new(PeerTable::new(config, identity, tls, dispatch, stop, anonymous_calls));
        let local = listener.as_ref().map(|(_, local)| *local);
        if let Some((listener, _)) = listener {
            drop(holdfast_tasks::spawn_critical(
                "peer listener",
                listener::run(Arc::clone(&table), listener),
            ));
        }
        drop(holdfast_tasks::spawn_critical(
            "peer tasks",
            start_tasks(Arc::clone(&table)),
        ));
        drop(holdfast_tasks::spawn_critical(
            "peer anonymous calls",
            anonymous_call::run(Arc::clone(&table), queued),
        ));
        drop(holdfast_tasks::spawn_critical(
            "peer certificates",
            certificate_watch::run(Arc::clone(&table)),
        ));
        Ok(Self { table, local })
    }

    /// The address on which it listens; `None` if it does not.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    /// This node has become a member of `cluster`. Before, it only calls addresses, and refuses all callers.
    pub fn set_cluster(&self, cluster: &str) {
        cluster.clone_into(&mut self.table.identity.write().cluster);
        for peer in self.table.peers.read().values() {
            peer.changed.notify_one();
        }
    }

    /// Sets the name of `node` in the registry. A certificate that names nodes must name this one.
    pub fn set_name(&self, node: NodeId, name: &str) {
        self.table.set_name(node, name);
    }

    /// Adds the member `node`, which is reached at `address`, `host:port`. A node whose hello has another address has moved
    /// there; setting the same address again does not override that, setting another one does.
    pub fn set_address(&self, node: NodeId, address: &str) {
        self.table.set_address(node, address);
    }

    /// Removes `node`, which is not a member any more: its connections are closed, and it is refused until it is added
    /// again.
    pub fn remove(&self, node: NodeId) {
        self.table.remove(node);
    }

    /// Whether a member has refused this node as one that was removed.
    #[must_use]
    pub fn removal(&self) -> watch::Receiver<bool> {
        self.table.own_removal.subscribe()
    }

    /// Calls the node that answers at `address`, before this node is a member. That node serves only calls for
    /// [`Service::Control`](holdfast_consensus::transport::Service::Control) this way.
    #[must_use]
    pub fn call_address(&self, address: &str, call: Call) -> Answer {
        let (answer, answered) = oneshot::channel();
        let queued = self.table.anonymous_calls.try_send(ByAddress::Call(AnonymousCall {
            address: address.to_owned(),
            call,
            answer,
        }));
        Box::pin(async move {
            if queued.is_err() {
                return Err(CallError::NotSent(
                    "too many calls to addresses are queued, or the node is stopping".into(),
                ));
            }
            answered
                .await
                .unwrap_or_else(|_| Err(CallError::Unknown("this node is stopping".into())))
        })
    }

    /// Whether the node that answers at `address` is a member of a cluster, for a node that may create one.
    pub async fn probe(&self, address: &str) -> Standing {
        let (answer, answered) = oneshot::channel();
        let queued = self.table.anonymous_calls.try_send(ByAddress::Probe {
            address: address.to_owned(),
            answer,
        });
        if queued.is_err() {
            return Standing::Silent("too many calls to addresses are queued, or this node is stopping".into());
        }
        answered
            .await
            .unwrap_or_else(|_| Standing::Silent("this node is stopping".into()))
    }

    /// The state of all known nodes; updated when connections change, and about once a second.
    #[must_use]
    pub fn liveness(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.table.status.subscribe()
    }

    /// The current state of all known nodes.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.table.snapshot()
    }
}

/// Spawns the connector of every node that is added.
async fn start_tasks(table: Arc<PeerTable>) {
    loop {
        let added: Vec<_> = {
            let peers = table.peers.read();
            let new = peers
                .values()
                .filter(|peer| !peer.has_task.swap(true, Ordering::AcqRel));
            new.cloned().collect()
        };
        for peer in added {
            drop(holdfast_tasks::spawn_critical(
                "peer",
                connector::run(Arc::clone(&table), peer),
            ));
        }
        tokio::select! {
            biased;
            () = table.stop.reached(Phase::Closing) => return,
            () = table.new_peer.notified() => {}
        }
    }
}

impl Transport for Peers {
    fn call(&self, node: NodeId, call: Call) -> Answer {
        self.table.call(node, call)
    }

    fn upload(&self, node: NodeId, call: Call, chunks: Chunks) -> Answer {
        streaming::upload(Arc::clone(&self.table), node, call, chunks)
    }

    fn download(&self, node: NodeId, call: Call) -> Chunks {
        streaming::download(Arc::clone(&self.table), node, call)
    }
}
