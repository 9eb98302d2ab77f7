//! The part of the hub that all cores of a node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_auth::HubNames;
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::Transport;
use holdfast_model::{IdentityId, PartitionId, UnixMillis};
use holdfast_registry::Registry;
use tokio::sync::oneshot;

use crate::audit::Audit;
use crate::diagnose::Recent;
use crate::mailbox::{Mailbox, Message};
use crate::metrics::Metrics;
use crate::session::{CloseReason, Session};
use crate::sessions::{Entry, Sessions};
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
    pub(crate) sessions: Sessions,
    pub(crate) audit: Audit,
    pub(crate) recent: Recent,
    pub(crate) metrics: Metrics,
    mailboxes: Vec<Mailbox>,
    writable: AtomicBool,
}

impl DeviceHub {
    /// Builds the shared part.
    #[must_use]
    pub fn new(parts: HubParts) -> Arc<Self> {
        Arc::new(Self {
            sessions: Sessions::new(parts.partitions.count()),
            audit: Audit::new(&parts.config),
            recent: Recent::default(),
            metrics: Metrics::new(),
            mailboxes: (0..parts.cores).map(|_| Mailbox::default()).collect(),
            writable: AtomicBool::new(true),
            parts,
        })
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

    pub(crate) fn close_session(
        &self,
        entry: &Entry,
        partition: PartitionId,
        reason: CloseReason,
        drained: Option<oneshot::Sender<()>>,
    ) {
        self.metrics.closed(reason);
        self.mailbox(entry.core).put(Message::Close {
            number: entry.number,
            partition,
            reason,
            drained,
        });
    }

    /// How many devices are connected.
    #[must_use]
    pub fn connected_device_count(&self) -> u64 {
        self.sessions.connected_devices()
    }

    pub(crate) fn partition_of(&self, identity: &IdentityId) -> PartitionId {
        self.parts.partitions.count().partition_of(&identity.device)
    }

    pub(crate) fn detach(&self, session: &Session) {
        if self
            .sessions
            .detach(session.partition, &session.identity, session.number)
            .is_some()
        {
            let now: UnixMillis = self.parts.clock.now();
            self.recent.disconnected(&session.identity, now);
        }
    }
}
