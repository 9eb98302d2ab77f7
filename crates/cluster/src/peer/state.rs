//! What all tasks of the peer connections share: who this node is, the other nodes, who is connected from where.
//!
//! Locks are held for look-ups and small changes only, and one at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use holdfast_consensus::transport::{Answer, Call, CallError, Dispatch};
use holdfast_proto::cluster::v1::{Hello, HelloAnswer, HelloRefusal, Purpose};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::hello::Refused;
use super::link::Link;
use super::metrics::PeerMetrics;
use super::wire::Sender;
use super::{PeerIdentity, PeerStatus, PeerTls, PeersConfig};

/// Nodes that were removed and are remembered, at most.
const MAX_REMOVED: usize = 10_000;

/// Connections of nodes that are no members, at most.
const MAX_JOINING: usize = 64;

/// What a call to an address waits in.
pub(crate) struct Introduction {
    pub(crate) address: String,
    pub(crate) call: Call,
    pub(crate) answer: tokio::sync::oneshot::Sender<Result<bytes::Bytes, CallError>>,
}

/// Calls to addresses that wait to be started, at most.
pub(crate) const MAX_INTRODUCTIONS: usize = 16;

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: PeersConfig,
    pub(crate) identity: RwLock<PeerIdentity>,
    pub(crate) tls: PeerTls,
    pub(crate) dispatch: Dispatch,
    pub(crate) stop: Stop,
    /// Told in every hello: which process this is.
    pub(crate) instance: u64,
    pub(crate) metrics: PeerMetrics,
    pub(crate) peers: RwLock<HashMap<u64, Arc<Peer>>>,
    /// The members' names, as the registry has them. Bounded by its number of members.
    names: RwLock<HashMap<u64, String>>,
    /// There is a node without a task.
    pub(crate) new_peer: Notify,
    pub(crate) introductions: mpsc::Sender<Introduction>,
    pub(crate) status: watch::Sender<Vec<PeerStatus>>,
    callers: Mutex<HashMap<u64, Caller>>,
    removed: Mutex<HashSet<u64>>,
    /// Connections of nodes that are no members.
    joining: AtomicUsize,
    began: Instant,
}

/// A node that has connected to this one.
struct Caller {
    instance: u64,
    address: String,
    /// Ends the connection for calls, with the reason.
    end: End,
    /// The same of the connection for streams.
    streams: Option<End>,
    heard: Arc<AtomicU64>,
}

/// Ends a connection, with the reason.
pub(crate) type End = watch::Sender<Option<Arc<str>>>;

/// Whether a node can be called.
#[derive(Clone)]
pub(crate) enum Way {
    /// No, and why.
    Down(Arc<str>),
    /// Yes, or it is just being connected and calls may wait a moment.
    Up(Arc<Link>),
}

/// What is known of a node besides its connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) address: String,
    /// The address that [`Shared::set_address`] was told last: said again, it does not undo what the node itself has
    /// told since.
    registered: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) rtt: Option<Duration>,
    pub(crate) certificate_ends: Option<SystemTime>,
    pub(crate) connected: bool,
}

/// Another node, as this one calls it.
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) about: Mutex<About>,
    pub(crate) way: RwLock<Way>,
    /// Its address is another one, or it is forgotten.
    pub(crate) changed: Notify,
    pub(crate) forgotten: AtomicBool,
    /// When it was last heard, as [`Shared::clock`] counts; 0 = never.
    pub(crate) heard: AtomicU64,
    pub(crate) has_task: AtomicBool,
    /// The connection for uploads and downloads, opened when one is wanted.
    pub(crate) streams: watch::Sender<Option<Sender>>,
    pub(crate) streams_wanted: Notify,
    pub(crate) streams_left: Arc<Semaphore>,
}

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.about.lock().address.clone()
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }
}

impl Shared {
    pub(crate) fn new(
        config: PeersConfig,
        identity: PeerIdentity,
        tls: PeerTls,
        dispatch: Dispatch,
        stop: Stop,
        introductions: mpsc::Sender<Introduction>,
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
            introductions,
            status: watch::Sender::new(Vec::new()),
            callers: Mutex::new(HashMap::new()),
            removed: Mutex::new(HashSet::new()),
            joining: AtomicUsize::new(0),
            began: Instant::now(),
        }
    }

    /// Milliseconds since the start, never 0.
    pub(crate) fn clock(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn instant(&self, clock: u64) -> Option<Instant> {
        (clock > 0).then(|| self.began + Duration::from_millis(clock - 1))
    }

    pub(crate) fn peer(&self, node: u64) -> Option<Arc<Peer>> {
        self.peers.read().get(&node).cloned()
    }

    pub(crate) fn node(&self) -> u64 {
        self.identity.read().node
    }

    /// `node` is a member and is reached at `address` from now on.
    pub(crate) fn set_address(&self, node: u64, address: &str) {
        self.removed.lock().remove(&node);
        self.enter_address(node, address, true);
    }

    /// The registry has `node` under this name.
    pub(crate) fn set_name(&self, node: u64, name: &str) {
        let mut names = self.names.write();
        if names.get(&node).is_none_or(|known| known != name) {
            names.insert(node, name.to_owned());
        }
    }

    /// The name under which the registry has `node`, if it is a member and this node knows it.
    pub(crate) fn registered_name(&self, node: u64) -> Option<String> {
        self.names.read().get(&node).cloned()
    }

    fn enter_address(&self, node: u64, address: &str, registered: bool) {
        if node == self.node() || node == 0 {
            return;
        }
        let peer = {
            let mut peers = self.peers.write();
            Arc::clone(peers.entry(node).or_insert_with(|| {
                Arc::new(Peer {
                    node,
                    about: Mutex::new(About::default()),
                    way: RwLock::new(Way::Down("it is not connected yet".into())),
                    changed: Notify::new(),
                    forgotten: AtomicBool::new(false),
                    heard: AtomicU64::new(0),
                    has_task: AtomicBool::new(false),
                    streams: watch::Sender::new(None),
                    streams_wanted: Notify::new(),
                    streams_left: Arc::new(Semaphore::new(self.config.streams)),
                })
            }))
        };
        let moved = {
            let mut about = peer.about.lock();
            let again = registered && about.registered == address;
            let moved = !again && about.address != address;
            if moved {
                address.clone_into(&mut about.address);
            }
            if registered {
                address.clone_into(&mut about.registered);
            }
            moved
        };
        if !peer.has_task.load(Ordering::Acquire) {
            // Calls may wait from now on: the first attempt begins at once.
            let mut way = peer.way.write();
            if matches!(*way, Way::Down(_)) {
                *way = Way::Up(Arc::new(self.link(node)));
            }
            drop(way);
            self.new_peer.notify_one();
        } else if moved {
            peer.changed.notify_one();
        }
    }

    pub(crate) fn link(&self, node: u64) -> Link {
        Link::new(node, self.config.queue_bytes, self.config.calls)
    }

    /// `node` is no member any more.
    pub(crate) fn forget(&self, node: u64) {
        self.names.write().remove(&node);
        let peer = self.peers.write().remove(&node);
        let reason: Arc<str> = "it was removed from the cluster".into();
        if let Some(peer) = peer {
            peer.forgotten.store(true, Ordering::Release);
            peer.changed.notify_one();
            let before = std::mem::replace(&mut *peer.way.write(), Way::Down(Arc::clone(&reason)));
            if let Way::Up(link) = before {
                link.close(&reason);
            }
        }
        {
            let mut removed = self.removed.lock();
            if removed.len() < MAX_REMOVED {
                removed.insert(node);
            }
        }
        if let Some(caller) = self.callers.lock().remove(&node) {
            let told = format!("node {node} was removed from the cluster: empty its data directory and join it anew");
            caller.end.send_replace(Some(told.into()));
        }
        self.publish();
    }

    pub(crate) fn is_removed(&self, node: u64) -> bool {
        self.removed.lock().contains(&node)
    }

    /// Enters a caller that has been let in, unless somebody else has its id; takes over from its own older connection.
    ///
    /// `end` closes its connection when a newer one takes its place.
    pub(crate) fn enter(&self, hello: &Hello, end: &End, heard: &Arc<AtomicU64>) -> Result<(), Refused> {
        let mut callers = self.callers.lock();
        let silence = u64::try_from(self.config.silence.as_millis()).unwrap_or(u64::MAX);
        if let Some(other) = callers.get(&hello.node)
            && other.instance != hello.instance
            && other.address != hello.address
            && other.end.receiver_count() > 0
            && self.clock().saturating_sub(other.heard.load(Ordering::Relaxed)) < silence
        {
            return Err(Refused {
                why: HelloRefusal::SameNode,
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
        let replaced = || Some("a newer connection has taken its place".into());
        match hello.purpose() {
            Purpose::Calls => {
                let caller = Caller {
                    instance: hello.instance,
                    address: hello.address.clone(),
                    end: end.clone(),
                    streams: None,
                    heard: Arc::clone(heard),
                };
                if let Some(before) = callers.insert(hello.node, caller) {
                    before.end.send_replace(replaced());
                    if let Some(streams) = before.streams {
                        streams.send_replace(replaced());
                    }
                }
            }
            // Beside a connection for calls of the same process.
            Purpose::Streams => match callers.get_mut(&hello.node) {
                Some(caller) if caller.instance == hello.instance => {
                    if let Some(before) = caller.streams.replace(end.clone()) {
                        before.send_replace(replaced());
                    }
                }
                _ => {
                    return Err(Refused {
                        why: HelloRefusal::Malformed,
                        text: "streams without a connection for calls".into(),
                    });
                }
            },
            _ => {
                if self.joining.fetch_add(1, Ordering::AcqRel) >= MAX_JOINING {
                    self.joining.fetch_sub(1, Ordering::AcqRel);
                    return Err(Refused {
                        why: HelloRefusal::Busy,
                        text: "too many nodes that are no members are connected: try again".into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The connection of `caller` that `end` belongs to is gone.
    pub(crate) fn leave(&self, caller: &super::accept::Caller, end: &End) {
        if caller.joins {
            self.joining.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let mut callers = self.callers.lock();
        let Some(entered) = callers.get_mut(&caller.node) else {
            return;
        };
        if entered.end.same_channel(end) {
            if let Some(streams) = entered.streams.take() {
                streams.send_replace(Some("its connection for calls has ended".into()));
            }
            callers.remove(&caller.node);
        } else if entered
            .streams
            .as_ref()
            .is_some_and(|streams| streams.same_channel(end))
        {
            entered.streams = None;
        }
    }

    /// What a hello or its answer told about a member.
    pub(crate) fn learn(&self, node: u64, name: &str, address: &str, version: &str, ends: Option<SystemTime>) {
        if self.is_removed(node) {
            return;
        }
        if !address.is_empty() {
            self.enter_address(node, address, false);
        }
        if let Some(peer) = self.peer(node) {
            let mut about = peer.about.lock();
            name.clone_into(&mut about.name);
            version.clone_into(&mut about.version);
            about.certificate_ends = ends;
        }
    }

    /// As [`Shared::learn`], from the answer to a hello.
    pub(crate) fn learn_from(&self, answer: &HelloAnswer, ends: Option<SystemTime>) {
        if let Some(peer) = self.peer(answer.node) {
            let mut about = peer.about.lock();
            about.name.clone_from(&answer.name);
            about.version.clone_from(&answer.version);
            about.certificate_ends = ends;
        }
    }

    /// The state of all nodes now, by id.
    pub(crate) fn snapshot(&self) -> Vec<PeerStatus> {
        let peers: Vec<_> = self.peers.read().values().cloned().collect();
        let mut all: Vec<_> = peers
            .into_iter()
            .map(|peer| {
                let problem = match &*peer.way.read() {
                    Way::Down(why) => why.to_string(),
                    Way::Up(_) => String::new(),
                };
                let about = peer.about.lock().clone();
                PeerStatus {
                    node: peer.node,
                    name: about.name,
                    address: about.address,
                    connected: about.connected,
                    last_heard: self.instant(peer.heard.load(Ordering::Relaxed)),
                    rtt: about.rtt,
                    version: about.version,
                    certificate_ends: about.certificate_ends,
                    problem,
                }
            })
            .collect();
        all.sort_unstable_by_key(|status| status.node);
        all
    }

    /// Tells who watches; also what is measured now and then.
    pub(crate) fn publish(&self) {
        let all = self.snapshot();
        let connected = all.iter().filter(|status| status.connected).count();
        self.metrics.connected.set(connected as f64);
        self.status.send_replace(all);
        let (mut bytes, mut calls) = (0, 0);
        for peer in self.peers.read().values() {
            if let Way::Up(link) = &*peer.way.read() {
                let load = link.load();
                bytes += load.0;
                calls += load.1;
            }
        }
        self.metrics.queue_bytes.set(bytes as f64);
        self.metrics.waiting_calls.set(calls as f64);
    }

    /// A call to a node, or to this one.
    pub(crate) fn call(&self, node: u64, call: Call) -> Answer {
        let way = self.peers.read().get(&node).map(|peer| peer.way.read().clone());
        let refused = match way {
            Some(Way::Up(link)) => match link.submit(call) {
                Ok(waiting) => {
                    self.metrics.calls.increment(1);
                    return Box::pin(waiting);
                }
                Err(error) => error,
            },
            Some(Way::Down(why)) => CallError::NotSent(format!("node {node}: {why}").into()),
            None if node == self.node() => {
                let body = joined(call.body);
                return self.dispatch.call(node, call.service, call.target, body);
            }
            None => unknown(node),
        };
        self.metrics.calls_failed.increment(1);
        Box::pin(async move { Err(refused) })
    }
}

/// The error of a call to a node that nobody has named.
pub(crate) fn unknown(node: u64) -> CallError {
    CallError::NotSent(format!("node {node} is not known here").into())
}

/// Segments as one body; one segment is not copied.
pub(crate) fn joined(mut segments: Vec<bytes::Bytes>) -> bytes::Bytes {
    if segments.len() == 1 {
        return segments.pop().unwrap_or_default();
    }
    segments.concat().into()
}
