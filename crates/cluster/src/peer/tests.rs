//! Nodes in one process that call each other over real sockets and TLS.

mod authority;
mod calls;
mod hellos;
mod hostile;
mod names;
mod queues;
mod reconnect;
mod renewal;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use holdfast_consensus::transport::{
    Answer, Call, CallError, Chunks, Dispatch, Handler, MAX_CHUNK_BYTES, Service, Transport,
};
use holdfast_model::NodeId;
use holdfast_tasks::{Phase, Stop};

use super::{PeerIdentity, PeerStatus, PeerTls, Peers, PeersConfig};
use authority::Authority;

const CLUSTER: &str = "3f2b";

/// Returns the body of each call; some bodies request other answers.
#[derive(Default)]
struct Echo {
    /// Calls that have started.
    begun: AtomicUsize,
    /// The first bytes of each call, in order.
    seen: holdfast_tasks::sync::Mutex<Vec<Bytes>>,
}

impl Handler for Echo {
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().push(body.slice(..body.len().min(16)));
        if body.starts_with(b"refuse") {
            return Box::pin(async { Err(CallError::Refused("as asked".into())) });
        }
        if body.starts_with(b"never") {
            return Box::pin(std::future::pending());
        }
        if body.starts_with(b"who") {
            let answer = format!("{from} {target}");
            return Box::pin(async move { Ok(answer.into()) });
        }
        if let Some(size) = body.strip_prefix(b"size ") {
            let size = String::from_utf8_lossy(size).parse().unwrap();
            return Box::pin(async move { Ok(vec![7; size].into()) });
        }
        Box::pin(async move { Ok(body) })
    }

    fn upload(&self, _from: NodeId, _target: u32, body: Bytes, mut chunks: Chunks) -> Answer {
        let stop_early = body.starts_with(b"stop");
        Box::pin(async move {
            let mut all = body.to_vec();
            let mut count = 0;
            while let Some(chunk) = chunks.next().await {
                all.extend_from_slice(&chunk?);
                count += 1;
                if stop_early {
                    return Err(CallError::Refused("enough".into()));
                }
            }
            Ok(format!("{count} {}", all.len()).into())
        })
    }

    fn download(&self, _from: NodeId, _target: u32, body: Bytes) -> Chunks {
        let count: usize = String::from_utf8_lossy(&body).parse().unwrap_or(0);
        if body.starts_with(b"none") {
            return Box::pin(stream::iter([Err(CallError::Refused("nothing there".into()))]));
        }
        Box::pin(stream::iter(0..count).map(|i| Ok(vec![i as u8; MAX_CHUNK_BYTES].into())))
    }
}

/// A node of a test; stops when dropped.
struct Node {
    id: NodeId,
    peers: Peers,
    echo: Arc<Echo>,
    dispatch: Dispatch,
    stop: Stop,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.enter(Phase::Closing);
    }
}

/// Short timeouts, so that tests do not wait long.
fn quick() -> PeersConfig {
    PeersConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ping_interval: Duration::from_millis(50),
        silence: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(2),
        max_connect_backoff: Duration::from_millis(100),
        reload_interval: Duration::from_millis(50),
        // Most tests use one certificate for all nodes.
        accept_unnamed_certificates: true,
        ..PeersConfig::default()
    }
}

fn identity(id: NodeId) -> PeerIdentity {
    PeerIdentity {
        cluster: CLUSTER.to_owned(),
        node: id,
        name: format!("node-{id}"),
        // Unknown before it listens; `connect` passes it on.
        address: String::new(),
        version: "1.2.3".to_owned(),
    }
}

impl Node {
    async fn start(id: NodeId, tls: PeerTls) -> Self {
        Self::start_with(quick(), identity(id), tls).await
    }

    async fn start_with(config: PeersConfig, identity: PeerIdentity, tls: PeerTls) -> Self {
        let echo = Arc::new(Echo::default());
        let dispatch = Dispatch::new();
        for service in [Service::Raft, Service::Partition, Service::Control] {
            dispatch.enter(service, Arc::clone(&echo) as _);
        }
        let stop = Stop::new();
        let id = identity.node;
        let peers = Peers::start(config, identity, tls, dispatch.clone(), stop.clone())
            .await
            .unwrap();
        Self {
            id,
            peers,
            echo,
            dispatch,
            stop,
        }
    }

    fn address(&self) -> String {
        self.peers.local_address().unwrap().to_string()
    }

    /// Adds `other` as a peer of this node, and waits until it is connected.
    async fn connect(&self, other: &Node) {
        self.peers.set_address(other.id, &other.address());
        self.until(other.id, |status| status.connected).await;
    }

    /// Waits until this node's status of `node` satisfies `wanted`.
    async fn until(&self, node: NodeId, wanted: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let mut liveness = self.peers.liveness();
        let all = liveness.wait_for(|all| all.iter().any(|status| status.node == node && wanted(status)));
        let found = tokio::time::timeout(Duration::from_secs(20), all).await;
        match found {
            Ok(Ok(all)) => all.iter().find(|status| status.node == node).cloned().unwrap(),
            _ => panic!("the status was not reached: {:?}", self.peers.status()),
        }
    }

    async fn ask(&self, node: NodeId, body: &[u8]) -> Result<Bytes, CallError> {
        self.peers.call(node, call(body)).await
    }
}

fn call(body: &[u8]) -> Call {
    Call {
        service: Service::Raft,
        target: 5,
        body: vec![Bytes::copy_from_slice(body)],
        timeout: Duration::from_secs(10),
    }
}

/// Two nodes, the first of which is connected to the second.
async fn pair() -> (Authority, Node, Node) {
    let authority = Authority::new();
    let one = Node::start(NodeId(1), authority.node()).await;
    let two = Node::start(NodeId(2), authority.node()).await;
    one.connect(&two).await;
    (authority, one, two)
}
