//! The state that all tasks of the peer connections share: this node's identity, the known nodes, and the connections in
//! both directions.
//!
//! Locks are held for look-ups and small changes only, and one at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use holdfast_consensus::transport::{Answer, Call, CallError, Dispatch};
use holdfast_model::NodeId;
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::config::{PeerIdentity, PeersConfig};
use super::metrics::PeerMetrics;
use super::outbound::call_queue::CallQueue;
use super::protocol::hello::HelloRefused;
use super::status::{PeerStatus, Standing};
use super::transport::http2::Sender;
use super::transport::tls::PeerTls;

/// Limit of remembered removed nodes.
const MAX_REMOVED: usize = 10_000;

/// Limit of connections of nodes that are not members.
const MAX_JOINING: usize = 64;

/// A call to an address whose node is not known, waiting to be made.
pub(crate) struct AnonymousCall {
    pub(crate) address: String,
    pub(crate) call: Call,
    pub(crate) answer: tokio::sync::oneshot::Sender<Result<bytes::Bytes, CallError>>,
}

/// What a node without data does with an address whose node is not known.
pub(crate) enum ByAddress {
    /// Calls it.
    Call(AnonymousCall),
    /// Asks whether it is a member of a cluster.
    Probe {
        address: String,
        answer: tokio::sync::oneshot::Sender<Standing>,
    },
}

/// Limit of queued calls to addresses.
pub(crate) const MAX_ANONYMOUS_CALLS: usize = 16;

/// A node that has connected to this one and whose hello was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    /// Not a member: it may call only the control service.
    pub(crate) joins: bool,
}

/// See the module.
pub(crate) struct PeerTable {
    pub(crate) config: PeersConfig,
    pub(crate) identity: RwLock<PeerIdentity>,
    pub(crate) tls: PeerTls,
    pub(crate) dispatch: Dispatch,
    pub(crate) stop: Stop,
    /// Sent in every hello: identifies this process.
    pub(crate) instance: u64,
    pub(crate) metrics: PeerMetrics,
    pub(crate) peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    /// The members' names in the registry. Bounded by the number of members.
    names: RwLock<HashMap<NodeId, String>>,
    /// Notified when a node without a task was added.
    pub(crate) new_peer: Notify,
    pub(crate) anonymous_calls: mpsc::Sender<ByAddress>,
    pub(crate) status: watch::Sender<Vec<PeerStatus>>,
    inbound: Mutex<HashMap<NodeId, InboundConnections>>,
    removed: Mutex<HashSet<NodeId>>,
    /// A member has refused this node as one that was removed.
    pub(crate) own_removal: watch::Sender<bool>,
    /// Connections of nodes that are not members.
    joining: AtomicUsize,
    started: Instant,
}

/// The connections of a node that has connected to this one.
struct InboundConnections {
    instance: u64,
    address: String,
    /// Closes the connection for calls.
    calls: CloseSender,
    /// Closes the connection for streams.
    streams: Option<CloseSender>,
    heard: Arc<AtomicU64>,
}

/// Closes a connection, with the reason.
pub(crate) type CloseSender = watch::Sender<Option<Arc<str>>>;

/// Whether a node can be called.
#[derive(Clone)]
pub(crate) enum ConnectionState {
    /// No; the reason.
    Down(Arc<str>),
    /// Yes: it is connected, or it is being connected and calls wait for a moment.
    Up(Arc<CallQueue>),
}

/// Information about a node besides its connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerInfo {
    pub(crate) address: String,
    /// The address last given to [`PeerTable::set_address`]. Setting the same address again does not override the address
    /// that the node itself has announced since.
    registered: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) rtt: Option<Duration>,
    pub(crate) certificate_ends: Option<SystemTime>,
    pub(crate) connected: bool,
}

/// Another node that this one calls.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) info: Mutex<PeerInfo>,
    pub(crate) state: RwLock<ConnectionState>,
    /// Notified when its address has changed or it was removed.
    pub(crate) changed: Notify,
    pub(crate) removed: AtomicBool,
    /// When something was last received from it, in [`PeerTable::now_ms`]; 0 = never.
    pub(crate) heard: AtomicU64,
    pub(crate) has_task: AtomicBool,
    /// The connection for uploads and downloads, opened on demand.
    pub(crate) streams: watch::Sender<Option<Sender>>,
    pub(crate) streams_requested: Notify,
    pub(crate) stream_permits: Arc<Semaphore>,
}

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.info.lock().address.clone()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }
}

impl PeerTable {
    pub(crate) fn new(
        config: PeersConfig,
        identity: PeerIdentity,
        tls: PeerTls,
        dispatch: Dispatch,
        stop: Stop,
        anonymous_calls: mpsc::Sender<ByAddress>,
    ) -> Self {
        Self {
            config,
            identity: RwLock::new(identity),
            tls,
            dispatch,
            stop,
            instance: rand::random(),
            metrics: PeerMetrics::new(),
            peers: RwLock::new(HashMap::new()),
            names: RwLock::new(HashMap::new()),
            new_peer: Notify::new(),
            anonymous_calls,
            status: watch::Sender::new(Vec::new()),
            inbound: Mutex::new(HashMap::new()),
            removed: Mutex::new(HashSet::new()),
            own_removal: watch::Sender::new(false),
            joining: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }

    /// Milliseconds since the start, never 0.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn instant(&self, ms: u64) -> Option<Instant> {
        (ms > 0).then(|| self.started + Duration::from_millis(ms - 1))
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&node).cloned()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.identity.read().node
    }

    /// Adds the member `node`, or changes its address.
    pub(crate) fn set_address(&self, node: NodeId, address: &str) {
        self.removed.lock().remove(&node);
        self.record_address(node, address, true);
    }

    /// Sets the name of `node` in the registry.
    pub(crate) fn set_name(&self, node: NodeId, name: &str) {
        let mut names = self.names.write();
        if names.get(&node).is_none_or(|known| known != name) {
            names.insert(node, name.to_owned());
        }
    }

    /// The name of `node` in the registry, if it is a known member.
    pub(crate) fn registered_name(&self, node: NodeId) -> Option<String> {
        self.names.read().get(&node).cloned()
    }

    fn record_address(&self, node: NodeId, address: &str, registered: bool) {
        if node == self.node() || node == NodeId(0) {
            return;
        }
        let peer = {
            let mut peers = self.peers.write();
            Arc::clone(peers.entry(node).or_insert_with(|| {
                Arc::new(Peer {
                    node,
                    info: Mutex::new(PeerInfo::default()),
                    state: RwLock::new(ConnectionState::Down("it is not connected yet".into())),
                    changed: Notify::new(),
                    removed: AtomicBool::new(false),
                    heard: AtomicU64::new(0),
                    has_task: AtomicBool::new(false),
                    streams: watch::Sender::new(None),
                    streams_requested: Notify::new(),
                    stream_permits: Arc::new(Semaphore::new(self.config.streams)),
                })
            }))
        };
        let moved = {
            let mut info = peer.info.lock();
            let repeated = registered && info.registered == address;
            let moved = !repeated && info.address != address;
            if moved {
                address.clone_into(&mut info.address);
            }
            if registered {
                address.clone_into(&mut info.registered);
            }
            moved
        };
        if !peer.has_task.load(Ordering::Acquire) {
            // Calls may wait from now on, since the first attempt to connect starts at once.
            let mut state = peer.state.write();
            if matches!(*state, ConnectionState::Down(_)) {
                *state = ConnectionState::Up(Arc::new(self.new_queue(node)));
            }
            drop(state);
            self.new_peer.notify_one();
        } else if moved {
            peer.changed.notify_one();
        }
    }

    pub(crate) fn new_queue(&self, node: NodeId) -> CallQueue {
        CallQueue::new(node, self.config.queue.as_usize(), self.config.calls)
    }

    /// Removes `node`, which is not a member any more, and closes its connections.
    pub(crate) fn remove(&self, node: NodeId) {
        self.names.write().remove(&node);
        let peer = self.peers.write().remove(&node);
        let reason: Arc<str> = "it was removed from the cluster".into();
        if let Some(peer) = peer {
            peer.removed.store(true, Ordering::Release);
            peer.changed.notify_one();
            let down = ConnectionState::Down(Arc::clone(&reason));
            let before = std::mem::replace(&mut *peer.state.write(), down);
            if let ConnectionState::Up(queue) = before {
                queue.close(&reason);
            }
        }
        {
            let mut removed = self.removed.lock();
            if removed.len() < MAX_REMOVED {
                removed.insert(node);
            }
        }
        if let Some(connections) = self.inbound.lock().remove(&node) {
            let reason = format!("node {node} was removed from the cluster: empty its data directory and join it anew");
            connections.calls.send_replace(Some(reason.into()));
        }
        self.publish();
    }

    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.lock().contains(&node)
    }

    /// Registers the connection of an accepted hello, unless another process is connected with the same node id. Closes the
    /// older connection of the same process.
    ///
    /// `close` closes the connection when a newer one replaces it.
    pub(crate) fn register_inbound(
        &self,
        hello: &Hello,
        close: &CloseSender,
        heard: &Arc<AtomicU64>,
    ) -> Result<(), HelloRefused> {
        let mut inbound = self.inbound.lock();
        let silence = u64::try_from(self.config.silence.as_millis()).unwrap_or(u64::MAX);
        if let Some(other) = inbound.get(&NodeId(hello.node))
            && other.instance != hello.instance
            && other.address != hello.address
            && other.calls.receiver_count() > 0
            && self.now_ms().saturating_sub(other.heard.load(Ordering::Relaxed)) < silence
        {
            return Err(HelloRefused {
                reason: HelloRefusal::SameNode,
                text: format!(
                    "node {} is connected from {} and now also says to be at {}: if it has just moved, this passes \
                     within {} s; otherwise a data directory was copied: stop one of the two, empty the copy and join \
                     it anew",
                    hello.node,
                    other.address,
                    hello.address,
                    silence.div_ceil(1000),
                ),
            });
        }
        let replaced = || Some("a newer connection has replaced it".into());
        match hello.purpose() {
            Purpose::Calls => {
                let connections = InboundConnections {
                    instance: hello.instance,
                    address: hello.address.clone(),
                    calls: close.clone(),
                    streams: None,
                    heard: Arc::clone(heard),
                };
                if let Some(before) = inbound.insert(NodeId(hello.node), connections) {
                    before.calls.send_replace(replaced());
                    if let Some(streams) = before.streams {
                        streams.send_replace(replaced());
                    }
                }
            }
            // Requires a connection for calls of the same process.
            Purpose::Streams => match inbound.get_mut(&NodeId(hello.node)) {
                Some(connections) if connections.instance == hello.instance => {
                    if let Some(before) = connections.streams.replace(close.clone()) {
                        before.send_replace(replaced());
                    }
                }
                _ => {
                    return Err(HelloRefused {
                        reason: HelloRefusal::Malformed,
                        text: "streams without a connection for calls".into(),
                    });
                }
            },
            _ => {
                if self.joining.fetch_add(1, Ordering::AcqRel) >= MAX_JOINING {
                    self.joining.fetch_sub(1, Ordering::AcqRel);
                    return Err(HelloRefused {
                        reason: HelloRefusal::Busy,
                        text: "too many nodes that are not members are connected: try again".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Removes the closed connection of `caller` to which `close` belongs.
    pub(crate) fn unregister_inbound(&self, caller: &Caller, close: &CloseSender) {
        if caller.joins {
            self.joining.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let mut inbound = self.inbound.lock();
        let Some(connections) = inbound.get_mut(&caller.node) else {
            return;
        };
        if connections.calls.same_channel(close) {
            if let Some(streams) = connections.streams.take() {
                streams.send_replace(Some("its connection for calls has ended".into()));
            }
            inbound.remove(&caller.node);
        } else if connections
            .streams
            .as_ref()
            .is_some_and(|streams| streams.same_channel(close))
        {
            connections.streams = None;
        }
    }

    /// Records what the hello of a member says about it.
    pub(crate) fn record_hello(
        &self,
        node: NodeId,
        name: &str,
        address: &str,
        version: &str,
        expires: Option<SystemTime>,
    ) {
        if self.is_removed(node) {
            return;
        }
        if !address.is_empty() {
            self.record_address(node, address, false);
        }
        if let Some(peer) = self.peer(node) {
            let mut info = peer.info.lock();
            name.clone_into(&mut info.name);
            version.clone_into(&mut info.version);
            info.certificate_ends = expires;
        }
    }

    /// Records what the answer to a hello says about a member.
    pub(crate) fn record_hello_answer(&self, answer: &HelloAnswer, expires: Option<SystemTime>) {
        if let Some(peer) = self.peer(NodeId(answer.node)) {
            let mut info = peer.info.lock();
            info.name.clone_from(&answer.name);
            info.version.clone_from(&answer.version);
            info.certificate_ends = expires;
        }
    }

    /// The state of all known nodes, in order of their ids.
    pub(crate) fn snapshot(&self) -> Vec<PeerStatus> {
        let peers: Vec<_> = self.peers.read().values().cloned().collect();
        let mut all: Vec<_> = peers
            .into_iter()
            .map(|peer| {
                let problem = match &*peer.state.read() {
                    ConnectionState::Down(reason) => reason.to_string(),
                    ConnectionState::Up(_) => String::new(),
                };
                let info = peer.info.lock().clone();
                PeerStatus {
                    node: peer.node,
                    name: info.name,
                    address: info.address,
                    connected: info.connected,
                    last_heard: self.instant(peer.heard.load(Ordering::Relaxed)),
                    rtt: info.rtt,
                    version: info.version,
                    certificate_ends: info.certificate_ends,
                    problem,
                }
            })
            .collect();
        all.sort_unstable_by_key(|status| status.node);
        all
    }

    /// Publishes the state of all nodes to its watchers, and updates the gauges.
    pub(crate) fn publish(&self) {
        let all = self.snapshot();
        let connected = all.iter().filter(|status| status.connected).count();
        self.metrics.connected.set(connected as f64);
        self.status.send_replace(all);
        let (mut bytes, mut calls) = (0, 0);
        for peer in self.peers.read().values() {
            if let ConnectionState::Up(queue) = &*peer.state.read() {
                let load = queue.load();
                bytes += load.0;
                calls += load.1;
            }
        }
        self.metrics.queue_bytes.set(bytes as f64);
        self.metrics.waiting_calls.set(calls as f64);
    }

    /// Calls a node, which may be this one.
    pub(crate) fn call(&self, node: NodeId, call: Call) -> Answer {
        let state = self.peers.read().get(&node).map(|peer| peer.state.read().clone());
        let refused = match state {
            Some(ConnectionState::Up(queue)) => match queue.submit(call) {
                Ok(reply) => {
                    self.metrics.calls.increment(1);
                    return Box::pin(reply);
                }
                Err(error) => error,
            },
            Some(ConnectionState::Down(reason)) => CallError::NotSent(format!("node {node}: {reason}").into()),
            None if node == self.node() => {
                let body = concat(call.body);
                return self.dispatch.call(node, call.service, call.target, body);
            }
            None => unknown_node(node),
        };
        self.metrics.calls_failed.increment(1);
        Box::pin(async move { Err(refused) })
    }
}

/// The error of a call to a node that is not in the table.
pub(crate) fn unknown_node(node: NodeId) -> CallError {
    CallError::NotSent(format!("node {node} is not known here").into())
}

/// Concatenates segments; a single segment is not copied.
pub(crate) fn concat(mut segments: Vec<bytes::Bytes>) -> bytes::Bytes {
    if segments.len() == 1 {
        return segments.pop().unwrap_or_default();
    }
    segments.concat().into()
}
