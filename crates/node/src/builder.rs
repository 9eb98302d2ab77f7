//! How a node is put together, bottom up.
//!
//! Order: registry → partitions and their routes → device hub → control, which starts the replicas that belong here →
//! the tasks that watch over sessions. Front ends come after that, on the node that this returns.

use std::sync::Arc;

use holdfast_auth::HubNames;
use holdfast_cluster::control::{ClusterBootstrap, Control, ControlConfig, ControlParts, PeerDirectory};
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::{Dispatch, Service};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_device_hub::{
    DeviceHub, DeviceHubConfig, HubParts, close_when_draining, count_saved_queries, maintain_links, share_rates,
    twin_indexing, watch_registry,
};
use holdfast_model::{Incarnation, NodeId};
use holdfast_partition::PartitionConfig;
use holdfast_registry::{Founding, NodeInfo, Registry, RegistryConfig};
use holdfast_spans::Tracer;
use holdfast_storage::Sealer;
use holdfast_tasks::Stop;

use crate::error::StartError;
use crate::node::Node;
use crate::replicas::Replicas;
use crate::{Executor, settings};
use holdfast_model::Clock;

/// The parts of a node.
pub struct NodeBuilder {
    /// The disk and the transport, as the groups use them.
    pub host: GroupHost,
    /// The calls of other nodes arrive here.
    pub dispatch: Dispatch,
    /// Addresses and liveness of the other nodes.
    pub peers: Arc<dyn PeerDirectory>,
    /// The hub's clock.
    pub clock: Clock,
    /// Where groups run.
    pub executor: Executor,
    /// Opens stored secrets.
    pub sealer: Arc<Sealer>,
    /// Counts the starts of this node, from 1. Streams of batches carry it, so that batch numbers of an earlier start are
    /// never taken for repeats.
    pub incarnation: Incarnation,
    /// How many cores take connections.
    pub cores: u16,
    /// This node as it is configured.
    pub self_info: NodeInfo,
    /// How this node comes to its data.
    pub origin: Origin,
    /// Where partitions are.
    pub placement: Placement,
    /// The hub as it is configured.
    pub founding: Founding,
    /// The names under which clients may address the hub.
    pub hub_names: HubNames,
    /// Limits and times.
    pub config: NodeConfig,
    /// Makes the spans of the node.
    pub tracer: Tracer,
    /// Ends the node's parts, phase by phase.
    pub stop: Stop,
}

/// The sections of the configuration that a node's parts own.
#[derive(Debug, Clone, Default)]
pub struct NodeConfig {
    /// Timers and memory of the replicated logs.
    pub consensus: ConsensusConfig,
    /// Identities and settings.
    pub registry: RegistryConfig,
    /// The telemetry log.
    pub partition: PartitionConfig,
    /// Sessions and batches.
    pub device_hub: DeviceHubConfig,
    /// Members and placement.
    pub control: ControlConfig,
}

/// How a node comes to its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It creates the hub, or resumes doing so.
    Founder,
    /// It is a hub by itself, and may have died while it created it.
    Alone,
    /// It has data as a member of the hub.
    Member,
    /// The members have just admitted it.
    Joined,
}

/// Where partitions are.
#[derive(Debug, Clone)]
pub enum Placement {
    /// Control places replicas; a hub that is not a cluster yet becomes this one.
    Controlled(ClusterBootstrap),
    /// Every node in this list has a replica of every partition, and nothing moves: for tests of a single concern.
    Fixed(Vec<NodeId>),
}

impl NodeBuilder {
    /// Builds and starts everything but front ends. The node may accept connections when [`Node::readiness`] says so.
    ///
    /// # Errors
    /// Names the part that could not start. The parts that had started end with the process.
    pub async fn start(self) -> Result<Node, StartError> {
        let Self {
            host,
            dispatch,
            executor,
            clock,
            config,
            stop,
            ..
        } = self;
        let transport = Arc::clone(&host.transport);
        dispatch.enter(Service::Raft, Arc::new(host.groups.clone()));

        let may_found = matches!(self.origin, Origin::Founder | Origin::Alone);
        let registry = {
            let (host, consensus, config) = (host.clone(), config.consensus.clone(), config.registry.clone());
            let (sealer, clock, founding) = (Arc::clone(&self.sealer), clock.clone(), self.founding);
            let start = move || async move {
                let registry = Registry::start(&host, &consensus, sealer, &founding, clock, &config, may_found).await?;
                settings::follow(&registry, founding).await?;
                Ok::<_, StartError>(registry)
            };
            executor.run(0, start).await??
        };
        let count = registry.settings()?.partition_count;

        let partitions = Partitions::traced(host.node, count, Arc::clone(&transport), self.tracer.clone());
        dispatch.enter(Service::Partition, partitions.handler());
        let hub = DeviceHub::new(HubParts {
            node: host.node,
            incarnation: self.incarnation,
            cores: self.cores,
            partitions: partitions.clone(),
            transport: Arc::clone(&transport),
            registry: registry.clone(),
            hub_names: self.hub_names,
            clock: clock.clone(),
            tracer: self.tracer,
            config: config.device_hub.clone(),
        });
        dispatch.enter(Service::Session, Arc::clone(&hub) as _);

        let mut tasks = vec![
            holdfast_tasks::spawn_critical("registry-watch", watch_registry(Arc::clone(&hub), stop.clone())),
            holdfast_tasks::spawn_critical("saved-queries", count_saved_queries(Arc::clone(&hub), stop.clone())),
            holdfast_tasks::spawn_critical("throttle-shares", share_rates(Arc::clone(&hub), stop.clone())),
            holdfast_tasks::spawn_critical("link-renewal", maintain_links(Arc::clone(&hub), stop.clone())),
            holdfast_tasks::spawn_critical("partition-owners", Box::pin(partitions.clone().run(stop.clone()))),
            holdfast_tasks::spawn_critical("disk-guard", Arc::clone(&host.guard).run()),
            holdfast_tasks::spawn_critical("space-watch", watch_space(host.clone(), Arc::clone(&hub))),
        ];

        let replicas = Replicas {
            host: host.clone(),
            executor,
            clock,
            consensus: config.consensus,
            partition: config.partition,
            indexing: twin_indexing(&config.device_hub.twins),
            count,
            hub: Arc::clone(&hub),
        };
        let control = match self.placement {
            Placement::Controlled(bootstrap) => {
                let is_new = match self.origin {
                    Origin::Founder => true,
                    Origin::Alone | Origin::Member => registry.cluster().cluster.is_empty(),
                    Origin::Joined => false,
                };
                let parts = ControlParts {
                    self_info: self.self_info,
                    bootstrap: is_new.then_some(bootstrap),
                    registry: registry.clone(),
                    partitions: partitions.clone(),
                    transport,
                    dispatch,
                    peers: self.peers,
                    wrapped_key: self.sealer.wrapped().clone(),
                    config: config.control,
                    stop: stop.clone(),
                    replicas: Arc::new(replicas),
                };
                let control = Control::start(parts).await?;
                let close = close_when_draining(control.clone(), Arc::clone(&hub), config.device_hub.drain_rate);
                tasks.push(holdfast_tasks::spawn_critical("drain-sessions", close));
                Some(control)
            }
            Placement::Fixed(nodes) => {
                for partition in count.iter() {
                    partitions.set_replicas(partition, nodes.clone());
                    if nodes.contains(&host.node) {
                        partitions.host(replicas.start_replica(partition, may_found).await?);
                    }
                }
                None
            }
        };
        Ok(Node {
            hub,
            registry,
            partitions,
            control,
            host,
            stop,
            drain_rate: config.device_hub.drain_rate,
            tasks,
        })
    }
}

/// Tells the device hub whether there is space for new messages.
async fn watch_space(host: GroupHost, hub: Arc<DeviceHub>) {
    let mut space = host.guard.watch();
    loop {
        hub.set_writable(*space.borrow_and_update());
        if space.changed().await.is_err() {
            return;
        }
    }
}
