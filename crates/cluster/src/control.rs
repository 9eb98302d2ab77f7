//! Reconciles the cluster with the registry: replicas, the members of groups, and their leaders.
//!
//! Why: nodes join, leave and fail without an operator present. The registry holds the desired state; control compares it
//! with the actual state and takes one step at a time until both agree (docs/architecture.md, "How the cluster reconciles itself").
//! Invariants: decisions are pure functions ([`membership`], [`replicas`], [`leader_tasks`]) of the registry's view and the
//! status of the groups, so that a new leader continues where the last one stopped; steps are idempotent; a group has at
//! most one change of members in progress; a voter is removed only if the rest can reach a quorum; a replica is deleted only
//! after it was stopped and the group's leader has confirmed that it is not a member; a node that is down is not replaced:
//! an operator decides that. When idle, it checks each group every [`ControlConfig::tick`].
//! Not here: the desired placement (`placement`), how groups change members (`consensus`), sessions (`device-hub`).
//! Start at [`Control::start`], then `run.rs`.

mod actions;
mod admin;
mod catch_up;
mod clock_offset;
mod config;
mod debug;
mod error;
mod export;
mod feature_level;
mod leader_tasks;
mod membership;
pub(crate) mod messages;
mod metrics;
mod peer_directory;
mod replica_lifecycle;
mod replicas;
mod run;
mod serve;
mod task_table;
mod transfer_leadership;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use holdfast_consensus::transport::{Dispatch, Service, Transport};
use holdfast_consensus::{Group, GroupId};
use holdfast_model::{NodeId, PartitionId, UnixMillis};
use holdfast_partition::Partition;
use holdfast_registry::{NodeInfo, NodeState, Registry};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::route::Partitions;

pub use admin::NewFactor;
pub use config::ControlConfig;
pub use debug::{DebugFile, DebugSource, MAX_REPORT_BYTES};
pub use error::{ControlError, ControlStartError};
pub use export::ExportFacts;
pub use feature_level::RaisedLevel;
pub use holdfast_consensus::LogScope;
pub use metrics::METRICS;
pub use peer_directory::PeerDirectory;
pub use transfer_leadership::TransferredLeaderships;

use metrics::Metrics;
use serve::Server;

/// Limit of concurrent transfers of leadership from this node: each interrupts its partition for a moment.
const MAX_TRANSFERS: usize = 4;

/// A future of a [`ReplicaHost`].
pub type Hosted<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a replica did not start, or the replicas on the disk could not be listed: the host's error, with its causes.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct HostError(Arc<dyn std::error::Error + Send + Sync>);

impl HostError {
    /// Wraps the error of a host.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into().into())
    }
}

/// Facts about this node for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Free bytes of the disk.
    pub disk_free: u64,
    /// Bytes of the disk.
    pub disk_total: u64,
    /// Whether writes are refused because the disk is nearly full.
    pub read_only: bool,
    /// Device sessions on this node. A draining node is drained only when it has none.
    pub sessions: u64,
    /// Its clock.
    pub now: UnixMillis,
}

/// Runs replicas. Implemented by the composition root, which knows runtimes, disk and configuration.
pub trait ReplicaHost: Send + Sync + 'static {
    /// Starts this node's replica of `partition` on its runtime; see [`Partition::start`] for `bootstrap`. The host reports
    /// damage that must stop the node.
    fn start(&self, partition: PartitionId, bootstrap: bool) -> Hosted<'_, Result<Partition, HostError>>;

    /// The partitions with data on this node's disk: a log, a vote or a purge watermark.
    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>>;

    /// Current facts about disk and sessions. Cheap.
    fn facts(&self) -> NodeFacts;

    /// Watches whether the disk has space for writes. While it has none, this node leads only groups that no other node can
    /// lead.
    fn is_writable(&self) -> watch::Receiver<bool>;
}

/// Parameters for the bootstrap of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterBootstrap {
    /// The cluster's id, as in the data directory.
    pub cluster: String,
    /// The number of replicas of each partition.
    pub replication_factor: u8,
    /// Joining nodes are put off until [`Control::founded`]: their tokens are entered after the hub has been created.
    pub holds_joins: bool,
}

/// The parts of [`Control`].
pub struct ControlParts {
    /// This node as configured. The registry determines role, state and time of joining once it is a member.
    pub self_info: NodeInfo,
    /// Set on the node that bootstraps the cluster if there is none yet.
    pub bootstrap: Option<ClusterBootstrap>,
    /// The registry's replica of this node.
    pub registry: Registry,
    /// All partitions; control adds and removes local replicas.
    pub partitions: Partitions,
    /// Calls to other nodes.
    pub transport: Arc<dyn Transport>,
    /// Dispatches the calls of other nodes; control registers service Control.
    pub dispatch: Dispatch,
    /// Addresses and liveness of the other nodes.
    pub peers: Arc<dyn PeerDirectory>,
    /// Starts replicas.
    pub replicas: Arc<dyn ReplicaHost>,
    /// The hub-wide data key in its wrapped form, for nodes that join.
    pub wrapped_key: Bytes,
    /// Timeouts and limits.
    pub config: ControlConfig,
    /// The tasks end when it is closing.
    pub stop: Stop,
}

/// The control of this node. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    id: NodeId,
    self_info: NodeInfo,
    registry: Registry,
    partitions: Partitions,
    transport: Arc<dyn Transport>,
    peers: Arc<dyn PeerDirectory>,
    replicas: Arc<dyn ReplicaHost>,
    wrapped_key: Bytes,
    config: ControlConfig,
    stop: Stop,
    metrics: Metrics,
    /// Notified when something may have changed.
    wake: Notify,
    /// This node transfers its leaderships and accepts none.
    stopping: AtomicBool,
    state: watch::Sender<Option<NodeState>>,
    /// The changes in progress in the groups that this node leads, for the status.
    in_progress: Mutex<BTreeMap<GroupId, String>>,
    /// The partitions that have, or may have, data on this node's disk.
    on_disk: Mutex<BTreeSet<PartitionId>>,
    /// Nodes that have declined a leadership, and until when they are not asked again. Bounded by groups times nodes.
    declined_leadership: Mutex<BTreeMap<(GroupId, NodeId), Instant>>,
    /// Permits for transfers of leadership.
    transfers: Arc<Semaphore>,
    /// The replica that lacks entries since this node's start; `None` once none does.
    catching_up: Mutex<Option<String>>,
    debug_source: OnceLock<DebugSource>,
    wake_catch_up: Notify,
    holds_joins: AtomicBool,
    /// A request to raise the feature level is in progress.
    raises_level: AtomicBool,
}

impl Control {
    /// Registers this node if it is missing, starts its replicas, and spawns the reconciling task on the current runtime.
    /// Returns when the replicas run; steps that are not possible yet are taken later.
    ///
    /// # Errors
    /// [`ControlStartError`].
    pub async fn start(parts: ControlParts) -> Result<Self, ControlStartError> {
        holdfast_config::Section::validate(&parts.config)?;
        let control = Self(Arc::new(Inner {
            id: parts.self_info.id,
            self_info: parts.self_info,
            registry: parts.registry,
            partitions: parts.partitions,
            transport: parts.transport,
            peers: parts.peers,
            replicas: parts.replicas,
            wrapped_key: parts.wrapped_key,
            config: parts.config,
            stop: parts.stop,
            metrics: Metrics::new(),
            wake: Notify::new(),
            stopping: AtomicBool::new(false),
            state: watch::Sender::new(None),
            in_progress: Mutex::default(),
            on_disk: Mutex::default(),
            declined_leadership: Mutex::default(),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            catching_up: Mutex::new(Some(
                "its replicas have not been compared with their leaders' yet".to_owned(),
            )),
            wake_catch_up: Notify::new(),
            debug_source: OnceLock::new(),
            holds_joins: AtomicBool::new(parts.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.holds_joins)),
            raises_level: AtomicBool::new(false),
        }));
        parts
            .dispatch
            .enter(Service::Control, Arc::new(Server(control.clone())));
        let run = run::Run::start(control.clone(), parts.bootstrap).await?;
        holdfast_tasks::spawn_critical("control", run.run());
        holdfast_tasks::spawn_critical("control-catch-up", catch_up::run(control.clone()));
        holdfast_tasks::spawn_critical("control-clock-offset", clock_offset::run(control.clone()));
        Ok(control)
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.id
    }

    /// The state of this node in the registry; `None` while it is not a member. The device hub closes sessions when it drains.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Option<NodeState>> {
        self.0.state.subscribe()
    }

    /// Which of this node's replicas has not caught up with its leader since the node started, in words; `None` from the moment on
    /// when all have.
    #[must_use]
    pub fn catching_up(&self) -> Option<String> {
        self.0.catching_up.lock().clone()
    }

    /// The hub has been created with all that is to be in it: nodes may join ([`ClusterBootstrap::holds_joins`]).
    pub fn founded(&self) {
        self.0.holds_joins.store(false, Ordering::Release);
    }

    /// Whether a member has refused this node as one that was removed.
    #[must_use]
    pub fn removal(&self) -> tokio::sync::watch::Receiver<bool> {
        self.0.peers.removal()
    }

    /// The number of groups that this node leads.
    #[must_use]
    pub fn leads(&self) -> usize {
        self.groups().iter().filter(|group| group.is_leader()).count()
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// The group, if this node runs a replica of it.
    fn group(&self, id: GroupId) -> Option<Group> {
        match partition_of(id) {
            None => Some(self.0.registry.group().clone()),
            Some(partition) if partition.0 < self.0.partitions.count().get() => {
                Some(self.0.partitions.local(partition)?.group().clone())
            }
            Some(_) => None,
        }
    }

    /// All groups with a local replica, the registry first.
    fn groups(&self) -> Vec<Group> {
        let partitions = self.0.partitions.count().iter();
        let local = partitions.filter_map(|id| self.0.partitions.local(id));
        let groups = local.map(|partition| partition.group().clone());
        std::iter::once(self.0.registry.group().clone()).chain(groups).collect()
    }
}

/// The partition of a group; `None` for the registry.
pub(crate) fn partition_of(group: GroupId) -> Option<PartitionId> {
    let number = group.0.checked_sub(1)?;
    // A number out of range becomes one that no partition has.
    Some(PartitionId(u16::try_from(number).unwrap_or(u16::MAX)))
}
