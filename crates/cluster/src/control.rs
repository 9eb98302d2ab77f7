//! Looks after the cluster: replicas where the registry wants them, groups' members as placed, leaders spread.
//!
//! Why: nodes come, go and die, and nobody sits beside them. What is wanted stands in the registry; this compares it
//! with what is, and takes one step at a time until both agree (design, "Cluster life").
//! Invariants: decisions are pure functions ([`membership`], [`replicas`], [`duties`]) of the registry's view and the
//! groups' status, so whoever leads next goes on from there; a step that is done twice is done once; a group has one
//! change of members under way; no voter is taken away unless the rest can reach a quorum; a replica is deleted only
//! after the group's leader has said that it is no member, with the replica stopped before; nobody is replaced because it
//! is down: that is an operator's decision. Idle, it costs one look at each group every [`ControlConfig::tick`].
//! Not here: which placement is wanted (`placement`), how groups change members (`consensus`), sessions (`device-hub`).
//! Start at [`Control::start`], then `run.rs`.

mod admin;
mod book;
mod config;
mod duties;
mod error;
mod hand_over;
mod jobs;
mod leave;
mod membership;
mod metrics;
mod replicas;
mod run;
mod serve;
mod steps;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use holdfast_consensus::transport::{Dispatch, Service, Transport};
use holdfast_consensus::{Group, GroupId};
use holdfast_model::PartitionId;
use holdfast_partition::Partition;
use holdfast_registry::{NodeInfo, NodeState, Registry};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::route::Partitions;

pub use admin::NewFactor;
pub use book::PeerBook;
pub use config::{ControlConfig, InvalidControlConfig};
pub use error::{ControlError, ControlStartError};
pub use hand_over::HandedOver;

use metrics::Metrics;
use serve::Server;

/// How many leaderships may be on the move from this node at once: each is a short pause for its partition.
const MAX_TRANSFERS: usize = 4;

/// A future of a [`ReplicaHost`].
pub type Hosted<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a replica did not start, or a node could not tell about itself; for the log.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// What the node says about itself for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Free bytes of the disk.
    pub disk_free: u64,
    /// Bytes of the disk.
    pub disk_total: u64,
    /// Whether writes are refused since the disk is nearly full.
    pub read_only: bool,
    /// Device sessions here. A node that drains is drained when there are none.
    pub sessions: u64,
}

/// Where replicas run: the composition root, which knows runtimes, disk and configuration.
pub trait ReplicaHost: Send + Sync + 'static {
    /// Starts this node's replica of `partition` on the runtime that it belongs to; see [`Partition::start`] for
    /// `founding`. Damage that must stop the node is the host's to report.
    fn start(&self, partition: PartitionId, founding: bool) -> Hosted<'_, Result<Partition, HostError>>;

    /// The partitions of which there is data here: a log, a vote or a floor.
    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>>;

    /// Disk and sessions, as they are now. Cheap.
    fn facts(&self) -> NodeFacts;

    /// Whether the disk has room for writes, and news of it: while it has none, this node leads only what nobody else
    /// can.
    fn has_room(&self) -> watch::Receiver<bool>;
}

/// The node that founds the cluster if there is none yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFounding {
    /// The cluster's id, as in the data directory.
    pub cluster: String,
    /// How many replicas each partition is to have.
    pub replication_factor: u8,
}

/// What [`Control`] works with.
pub struct ControlParts {
    /// This node as it is configured. Role, state and time of joining are the registry's once it is a member.
    pub me: NodeInfo,
    /// Set on the node that may found the cluster (bootstrap, or a hub of one node from before there were clusters).
    pub founding: Option<ClusterFounding>,
    /// The registry's replica of this node.
    pub registry: Registry,
    /// All partitions; replicas are entered and taken out here.
    pub partitions: Partitions,
    /// The way to the others.
    pub transport: Arc<dyn Transport>,
    /// Who handles calls of others; service Control is entered here.
    pub dispatch: Dispatch,
    /// Addresses and liveness of the others.
    pub peers: Arc<dyn PeerBook>,
    /// Starts replicas.
    pub replicas: Arc<dyn ReplicaHost>,
    /// The hub-wide data key in its wrapped form, for nodes that join.
    pub wrapped_key: Bytes,
    /// Times and limits.
    pub config: ControlConfig,
    /// The tasks end when it is closing.
    pub stop: Stop,
}

/// Looks after the cluster on this node. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    id: u64,
    me: NodeInfo,
    registry: Registry,
    partitions: Partitions,
    transport: Arc<dyn Transport>,
    peers: Arc<dyn PeerBook>,
    replicas: Arc<dyn ReplicaHost>,
    wrapped_key: Bytes,
    config: ControlConfig,
    stop: Stop,
    metrics: Metrics,
    /// Something may have changed: look again.
    wake: Notify,
    /// This node hands its leaderships over and takes none.
    leaving: AtomicBool,
    state: watch::Sender<Option<NodeState>>,
    /// What is under way in the groups that this node leads, for people.
    under_way: Mutex<BTreeMap<GroupId, String>>,
    /// The partitions of which there is, or may be, data on this node's disk.
    on_disk: Mutex<BTreeSet<PartitionId>>,
    /// Who has refused which leadership, and until when it is not asked again. Bounded by groups times nodes.
    unwilling: Mutex<BTreeMap<(GroupId, u64), Instant>>,
    /// Leaderships that are moved back to who prefers them.
    transfers: Arc<Semaphore>,
}

impl Control {
    /// Enters the node where it is missing, starts the replicas that belong here, and spawns the task that looks after
    /// them, on the current runtime. Returns when the replicas run; whatever cannot be done yet is done later.
    ///
    /// # Errors
    /// [`ControlStartError`].
    pub async fn start(parts: ControlParts) -> Result<Self, ControlStartError> {
        parts.config.validate()?;
        let control = Self(Arc::new(Inner {
            id: parts.me.id,
            me: parts.me,
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
            leaving: AtomicBool::new(false),
            state: watch::Sender::new(None),
            under_way: Mutex::default(),
            on_disk: Mutex::default(),
            unwilling: Mutex::default(),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
        }));
        parts
            .dispatch
            .enter(Service::Control, Arc::new(Server(control.clone())));
        let run = run::Run::begin(control.clone(), parts.founding).await?;
        holdfast_tasks::spawn_critical("control", run.run());
        Ok(control)
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.0.id
    }

    /// Where this node stands, as the registry has it: `None` before it is a member, or when it is none any more. For
    /// who closes sessions when it drains.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Option<NodeState>> {
        self.0.state.subscribe()
    }

    /// How many groups this node leads.
    #[must_use]
    pub fn leads(&self) -> usize {
        self.groups().iter().filter(|group| group.is_leader()).count()
    }

    fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// The group, if a replica of it runs here.
    fn group(&self, id: GroupId) -> Option<Group> {
        match partition_of(id) {
            None => Some(self.0.registry.group().clone()),
            Some(partition) if partition.0 < self.0.partitions.count().get() => {
                Some(self.0.partitions.local(partition)?.group().clone())
            }
            Some(_) => None,
        }
    }

    /// All groups with a replica here, the registry first.
    fn groups(&self) -> Vec<Group> {
        let partitions = self.0.partitions.count().iter();
        let local = partitions.filter_map(|id| self.0.partitions.local(id));
        let groups = local.map(|partition| partition.group().clone());
        std::iter::once(self.0.registry.group().clone()).chain(groups).collect()
    }
}

/// The partition of a group; `None`: the registry's.
pub(crate) fn partition_of(group: GroupId) -> Option<PartitionId> {
    let number = group.0.checked_sub(1)?;
    // A number that no partition has is no partition of the hub.
    Some(PartitionId(u16::try_from(number).unwrap_or(u16::MAX)))
}
