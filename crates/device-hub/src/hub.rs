//! The part of the hub that all cores of a node share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use holdfast_auth::HubNames;
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::Transport;
use holdfast_model::{IdentityId, PartitionId};
use holdfast_registry::Registry;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::audit::Audit;
use crate::diagnose::Recent;
use crate::keeper::MAX_SYNCS;
use crate::local::Local;
use crate::mailbox::{Mailbox, Message};
use crate::metrics::Metrics;
use crate::owner::Owners;
use crate::session::CloseReason;
use crate::{Clock, DeviceHubConfig};

/// What the hub is built from.
pub struct HubParts {
    /// This node's id; part of every batch's origin.
    pub node: u64,
    /// Counts this node's starts, so that batch numbers of an earlier life are never taken for repeats.
    pub incarnation: u64,
    /// How many cores will run.
    pub cores: u16,
    /// The hub's partitions, wherever they are.
    pub partitions: Partitions,
    /// The way to the owners on other nodes.
    pub transport: Arc<dyn Transport>,
    /// The local registry replica.
    pub registry: Registry,
    /// The names under which clients may address the hub.
    pub hub_names: HubNames,
    /// The clock.
    pub clock: Clock,
    /// Limits.
    pub config: DeviceHubConfig,
}

/// Shared by all cores; Send + Sync.
pub struct DeviceHub {
    pub(crate) parts: HubParts,
    pub(crate) me: Weak<Self>,
    /// This node as a gateway.
    pub(crate) local: Local,
    /// This node as an owner.
    pub(crate) owners: Owners,
    pub(crate) audit: Audit,
    pub(crate) recent: Recent,
    pub(crate) metrics: Metrics,
    mailboxes: Vec<Mailbox>,
    writable: AtomicBool,
    /// Partitions whose link somebody wants to be looked at, and that there are some.
    pub(crate) to_look: Vec<AtomicBool>,
    pub(crate) asked: Notify,
    pub(crate) syncs: Arc<Semaphore>,
    /// Held per partition by the one that writes marks of gateways.
    pub(crate) marking: Vec<tokio::sync::Mutex<()>>,
    connecting: Arc<Semaphore>,
    pub(crate) running_cores: AtomicUsize,
}

impl DeviceHub {
    /// Builds the shared part. Before devices connect, [`keep_sessions`](crate::keep_sessions) and
    /// [`watch_registry`](crate::watch_registry) are to be spawned, and in a cluster the hub is to be entered in the
    /// node's dispatch for service Session.
    #[must_use]
    pub fn new(parts: HubParts) -> Arc<Self> {
        let count = parts.partitions.count();
        let routes = parts.partitions.clone();
        let hub = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            local: Local::new(count),
            owners: Owners::new(&parts.partitions, parts.incarnation),
            audit: Audit::new(&parts.config),
            recent: Recent::default(),
            metrics: Metrics::new(),
            mailboxes: (0..parts.cores).map(|_| Mailbox::default()).collect(),
            writable: AtomicBool::new(true),
            to_look: count.iter().map(|_| AtomicBool::new(false)).collect(),
            asked: Notify::new(),
            syncs: Arc::new(Semaphore::new(MAX_SYNCS)),
            marking: count.iter().map(|_| tokio::sync::Mutex::default()).collect(),
            connecting: Arc::new(Semaphore::new(parts.config.max_waiting_connects)),
            running_cores: AtomicUsize::new(0),
            parts,
        });
        let owner: Weak<Self> = Arc::downgrade(&hub);
        routes.admit_by(Box::new(move |partition, stream, link| {
            owner
                .upgrade()
                .is_some_and(|hub| hub.owners.admits(partition, stream, link))
        }));
        hub
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
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

    /// Told by whoever watches the disk: whether new data may be written (foundations 12).
    pub fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Release);
    }

    /// Whether new data may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub(crate) fn mailbox(&self, core: u16) -> Mailbox {
        self.mailboxes[usize::from(core)].clone()
    }

    /// Tells a core to close a session.
    pub(crate) fn tell_core(&self, core: u16, message: Message, reason: CloseReason) {
        self.metrics.closed(reason);
        self.mailbox(core).put(message);
    }

    pub(crate) fn partition_of(&self, identity: &IdentityId) -> PartitionId {
        self.parts.partitions.count().partition_of(&identity.device)
    }

    /// A place among those who wait for being let in; `None` when there are too many.
    pub(crate) fn wait_in_line(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.connecting).try_acquire_owned().ok();
        if place.is_none() {
            self.metrics.turned_away.increment(1);
        }
        place
    }

    /// Counts a core as running until what it gives is dropped.
    pub(crate) fn core_runs(self: &Arc<Self>) -> RunningCore {
        self.running_cores.fetch_add(1, Ordering::AcqRel);
        RunningCore(Arc::clone(self))
    }
}

/// See [`DeviceHub::core_runs`].
pub(crate) struct RunningCore(Arc<DeviceHub>);

impl Drop for RunningCore {
    fn drop(&mut self) {
        self.0.running_cores.fetch_sub(1, Ordering::AcqRel);
    }
}
