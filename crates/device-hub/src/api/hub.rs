//! The part of the hub that all cores of a node share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_auth::HubNames;
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::Transport;
use holdfast_model::{ErrorCode, IdentityId, Incarnation, NodeId, PartitionId, UnixMillis};
use holdfast_registry::Registry;
use holdfast_spans::Tracer;
use holdfast_tasks::ByteBudget;
use holdfast_tasks::sync::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::DeviceHubConfig;
use crate::api::audit::Audit;
use crate::api::config::TwinsConfig;
use crate::api::injected_faults::InjectedFaults;
use crate::api::penalties::Penalties;
use crate::api::session::CloseReason;
use crate::api::trace::Traces;
use crate::api::verified_paths::VerifiedPaths;
use crate::c2d::index::CloudQueues;
use crate::downlink::route::MAX_REMOTE_BYTES;
use crate::gateway::link_renewal::MAX_SYNCS;
use crate::gateway::session_table::SessionTable;
use crate::ingest::command_queue::{Command, CommandQueue};
use crate::methods::pending::MethodCalls;
use crate::metrics::Metrics;
use crate::owner::ownership::OwnershipTable;
use crate::owner::state_writer::StateQueues;
use crate::queries::{MAX_SLICES, SavedQueryCounts, TwinIndexes};
use crate::throttles::node::Throttles;
use crate::throttles::quota::exchange::AddedUp;
use crate::throttles::requests::RequestRates;
use crate::throttles::share_out::SharedOut;
use crate::twins::notify::Notifications;
use holdfast_model::Clock;

/// The parts that a hub is built from.
pub struct HubParts {
    /// This node's id; part of every batch's origin.
    pub node: NodeId,
    /// Counts this node's starts, so that batch numbers of an earlier process are never taken for repeats.
    pub incarnation: Incarnation,
    /// How many cores will run.
    pub cores: u16,
    /// The hub's partitions, wherever they are.
    pub partitions: Partitions,
    /// Calls to other nodes.
    pub transport: Arc<dyn Transport>,
    /// The local registry replica.
    pub registry: Registry,
    /// The names under which clients may address the hub.
    pub hub_names: HubNames,
    /// The clock.
    pub clock: Clock,
    /// Makes the spans of this node.
    pub tracer: Tracer,
    /// Limits.
    pub config: DeviceHubConfig,
}

/// Shared by all cores; Send + Sync.
pub struct DeviceHub {
    pub(crate) parts: HubParts,
    pub(crate) this: Weak<Self>,
    /// This node as a gateway.
    pub(crate) sessions: SessionTable,
    /// This node as an owner.
    pub(crate) ownership: OwnershipTable,
    pub(crate) audit: Audit,
    pub(crate) metrics: Metrics,
    command_queues: Vec<CommandQueue>,
    writable: AtomicBool,
    /// Partitions whose link is to be checked, and the signal that there are some.
    pub(crate) renewal_requested: Vec<AtomicBool>,
    pub(crate) renewal_wanted: Notify,
    pub(crate) syncs: Arc<Semaphore>,
    /// Per partition: held by the task that records absent gateways.
    pub(crate) absence_locks: Vec<tokio::sync::Mutex<()>>,
    connecting: Arc<Semaphore>,
    pub(crate) running_cores: AtomicUsize,
    /// Counts the deliveries that this node has taken as an owner.
    pub(crate) next_delivery: AtomicU64,
    /// Bytes of deliveries that front ends of this node have and devices have not settled.
    pub(crate) downlink_bytes: AtomicUsize,
    /// Deliveries of this node that wait for other owners.
    pub(crate) remote_deliveries: ByteBudget,
    /// Per partition: requests about device state that this node is to decide as its owner.
    pub(crate) state_queues: StateQueues,
    /// Identities that are refused because fault-injection messages of theirs requested it.
    pub(crate) injected_faults: InjectedFaults,
    /// Slices of queries that may be evaluated at once.
    pub(crate) query_slices: Semaphore,
    /// How many each saved query selects, while this node counts them.
    pub(crate) saved_query_counts: Mutex<SavedQueryCounts>,
    /// The declared indexes.
    pub(crate) twin_indexes: TwinIndexes,
    /// Per partition: writes to twins that are in flight here.
    pub(crate) twin_notifications: Vec<Mutex<Notifications>>,
    /// A pass over the stored state of all partitions is due.
    pub(crate) reconcile_requested: AtomicBool,
    /// Counts the events that this node has written.
    pub(crate) next_event: AtomicU64,
    /// Method calls of this node that wait for devices.
    pub(crate) method_calls: MethodCalls,
    /// The shares of the rates that this node has given as the owner of partition 0.
    pub(crate) shared_rates: Mutex<SharedOut>,
    /// What all nodes have counted of the daily quota, as this node has added it up as the owner of partition 0.
    pub(crate) quota_book: Mutex<AddedUp>,
    /// Delays of the answers to wrong credentials.
    pub(crate) penalties: Penalties,
    /// The rates that clients of this node may not exceed.
    pub(crate) throttles: Throttles,
    /// The rates of devices over HTTPS.
    pub(crate) request_rates: RequestRates,
    /// The live traces of identities.
    pub(crate) traces: Traces,
    /// The paths of certificates that need not be verified again.
    pub(crate) verified_paths: VerifiedPaths,
    /// The cloud-to-device queues of partitions that this node owns.
    pub(crate) cloud_queues: Arc<CloudQueues>,
}

impl DeviceHub {
    /// Builds the shared part. Before devices connect, [`maintain_links`](crate::maintain_links) and
    /// [`watch_registry`](crate::watch_registry) must be spawned, and in a cluster the hub must be registered
    /// in the node's dispatch for service Session. From now on `parts.partitions` accepts only batches of gateways whose link
    /// is open.
    #[must_use]
    pub fn new(parts: HubParts) -> Arc<Self> {
        let count = parts.partitions.count();
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            sessions: SessionTable::new(count),
            ownership: OwnershipTable::new(&parts.partitions, parts.incarnation, &parts.clock),
            audit: Audit::new(&parts.config),
            metrics: Metrics::new(),
            verified_paths: VerifiedPaths::new(),
            command_queues: (0..parts.cores).map(|_| CommandQueue::default()).collect(),
            writable: AtomicBool::new(true),
            renewal_requested: count.iter().map(|_| AtomicBool::new(false)).collect(),
            renewal_wanted: Notify::new(),
            syncs: Arc::new(Semaphore::new(MAX_SYNCS)),
            absence_locks: count.iter().map(|_| tokio::sync::Mutex::default()).collect(),
            connecting: Arc::new(Semaphore::new(parts.config.max_waiting_connects)),
            running_cores: AtomicUsize::new(0),
            next_delivery: AtomicU64::new(1),
            downlink_bytes: AtomicUsize::new(0),
            remote_deliveries: ByteBudget::new(MAX_REMOTE_BYTES),
            state_queues: count.iter().map(|_| Mutex::default()).collect(),
            injected_faults: InjectedFaults::default(),
            query_slices: Semaphore::new(MAX_SLICES),
            saved_query_counts: Mutex::default(),
            twin_indexes: TwinIndexes::of(&parts.config.twins.indexes),
            twin_notifications: count.iter().map(|_| Mutex::default()).collect(),
            reconcile_requested: AtomicBool::new(false),
            next_event: AtomicU64::new(1),
            method_calls: MethodCalls::new(parts.node, parts.incarnation),
            shared_rates: Mutex::default(),
            quota_book: Mutex::default(),
            penalties: Penalties::new(),
            request_rates: RequestRates::default(),
            throttles: Throttles::new(&parts.config.throttles, parts.cores, &parts.clock),
            traces: Traces::default(),
            cloud_queues: Arc::new(CloudQueues::new(count)),
            parts,
        })
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Makes the spans of this node.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.parts.tracer
    }

    /// The local registry replica.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// The names under which clients may address the hub.
    #[must_use]
    pub fn hub_names(&self) -> &HubNames {
        &self.parts.hub_names
    }

    /// Section `[twins]` of the configuration.
    #[must_use]
    pub fn twins_config(&self) -> &TwinsConfig {
        &self.parts.config.twins
    }

    /// Whether tokens and keys of shared access policies open anything.
    #[must_use]
    pub fn accepts_shared_policies(&self) -> bool {
        self.parts.config.shared_policies
    }

    /// The hub's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.parts.clock
    }

    /// The hub's partitions, wherever they are.
    #[must_use]
    pub fn partitions(&self) -> &Partitions {
        &self.parts.partitions
    }

    /// Sets whether new data may be written; called by the guard of the disk.
    pub fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Release);
    }

    /// Whether new data may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Refuses clients of `identity` on this node with `code`, for ten minutes at most: a fault that the client itself asked
    /// for (docs/spec/fault-injection.md).
    pub fn refuse_for(&self, identity: &IdentityId, code: ErrorCode, duration: Duration) {
        self.injected_faults.refuse(identity, code, duration);
    }

    pub(crate) fn commands(&self, core: u16) -> CommandQueue {
        self.command_queues[usize::from(core)].clone()
    }

    /// Has a core close a session.
    pub(crate) fn close_on_core(&self, core: u16, command: Command, reason: CloseReason) {
        self.metrics.closed(reason);
        self.commands(core).push(command);
    }

    /// When a session that has been active at `now` reports activity again.
    pub(crate) fn next_activity(&self, now: UnixMillis) -> UnixMillis {
        let interval = self.parts.config.activity_interval.get().as_millis();
        UnixMillis(now.0.saturating_add(u64::try_from(interval).unwrap_or(u64::MAX)))
    }

    pub(crate) fn partition_of(&self, identity: &IdentityId) -> PartitionId {
        self.parts.partitions.count().partition_of(&identity.device)
    }

    /// A permit to wait for a session; `None` when too many connections wait.
    pub(crate) fn try_connect_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.connecting).try_acquire_owned().ok();
        if permit.is_none() {
            self.metrics.turned_away.increment(1);
        }
        permit
    }

    /// Counts a core as running until the returned guard is dropped.
    pub(crate) fn register_core(self: &Arc<Self>) -> RunningCore {
        self.running_cores.fetch_add(1, Ordering::AcqRel);
        RunningCore(Arc::clone(self))
    }
}

/// See [`DeviceHub::register_core`].
pub(crate) struct RunningCore(Arc<DeviceHub>);

impl Drop for RunningCore {
    fn drop(&mut self) {
        self.0.running_cores.fetch_sub(1, Ordering::AcqRel);
    }
}
