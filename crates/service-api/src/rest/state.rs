//! What all calls share.

use std::sync::Arc;

use holdfast_auth::HubNames;
use holdfast_registry::{Clock, Registry};
use holdfast_tasks::ByteBudget;
use tokio::sync::Semaphore;

use super::admin::ClusterAdmin;
use super::config::RestConfig;
use super::metrics::Metrics;
use super::view::HubView;

/// What the composition root hands to [`router`](super::router).
#[derive(Clone)]
pub struct RestState {
    /// Identities and settings.
    pub registry: Registry,
    /// The rest of the node.
    pub hub: Arc<dyn HubView>,
    /// Under which names tokens may address the hub.
    pub hub_names: HubNames,
    /// The hub's clock.
    pub clock: Clock,
    /// The cluster's operator calls; `None` answers that there are none.
    pub cluster: Option<Arc<dyn ClusterAdmin>>,
    /// Limits.
    pub config: RestConfig,
}

pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) hub: Arc<dyn HubView>,
    pub(super) hub_names: HubNames,
    pub(super) clock: Clock,
    pub(super) cluster: Option<Arc<dyn ClusterAdmin>>,
    pub(super) config: RestConfig,
    pub(super) requests: Semaphore,
    pub(super) bodies: ByteBudget,
    pub(super) metrics: Metrics,
}

impl Shared {
    pub(super) fn new(state: RestState) -> Self {
        Self {
            requests: Semaphore::new(state.config.max_requests),
            bodies: ByteBudget::new(state.config.max_body_bytes.as_usize()),
            metrics: Metrics::new(),
            registry: state.registry,
            hub: state.hub,
            hub_names: state.hub_names,
            clock: state.clock,
            cluster: state.cluster,
            config: state.config,
        }
    }
}
