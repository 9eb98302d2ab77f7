//! One node without sockets: storage, registry, partitions and device hub, over a simulated network.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a panic is how a test fails; each test file uses its part"
)]

use std::sync::Arc;

use holdfast_auth::HubNames;
use holdfast_cluster::route::Partitions;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Dispatch, Service};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_device_hub::{DeviceHub, DeviceHubConfig, HubParts, maintain_links, twin_indexing};
use holdfast_model::Clock;
use holdfast_model::{Incarnation, NodeId, PartitionCount, PartitionId, UnixMillis};
use holdfast_partition::{Partition, PartitionConfig, ValueIndexing};
use holdfast_registry::{Founding, Registry, RegistryConfig};
use holdfast_storage::{DataDir, Disk, Kek, NodeIdentity, Sealer, StorageConfig};
use holdfast_tasks::Stop;

pub(crate) const HOST: &str = "hub1.example.com";

pub(crate) fn now() -> UnixMillis {
    holdfast_model::Clock::system().now()
}

pub(crate) struct Node {
    pub(crate) host: GroupHost,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) registry: Registry,
    pub(crate) partitions: Partitions,
    pub(crate) hub: Arc<DeviceHub>,
    pub(crate) dispatch: Dispatch,
    pub(crate) stop: Stop,
    indexing: Option<Arc<ValueIndexing>>,
    pub(crate) dir: tempfile::TempDir,
}

impl Node {
    /// Starts node `id` without replicas of partitions.
    pub(crate) async fn start(id: NodeId, network: &SimNetwork) -> Self {
        Self::start_with(id, network, DeviceHubConfig::default()).await
    }

    pub(crate) async fn start_with(id: NodeId, network: &SimNetwork, config: DeviceHubConfig) -> Self {
        let dispatch = Dispatch::new();
        let transport = network.node(id, dispatch.clone());
        let dir = tempfile::tempdir().unwrap();
        let storage = StorageConfig {
            max_open_files: 64,
            ..StorageConfig::default()
        };
        let identity = || NodeIdentity {
            cluster: "test".to_owned(),
            incarnation: id.get(),
        };
        let data = DataDir::open(dir.path(), identity).unwrap();
        let sealer = Arc::new(Sealer::of_directory(dir.path(), &Kek::new([5; 32]), data.is_fresh()).unwrap());
        let disk: Arc<dyn Disk> = holdfast_storage::open(&data, &storage).unwrap();
        let host = GroupHost {
            transport,
            ..holdfast_testkit::on_threads(id, disk, holdfast_testkit::fail_the_test(), &storage)
        };
        let founding = Founding {
            hub_name: "hub1".to_owned(),
            ..Founding::default()
        };
        let registry = Registry::start(
            &host,
            &ConsensusConfig::default(),
            sealer.clone(),
            &founding,
            holdfast_model::Clock::system(),
            &RegistryConfig::default(),
            true,
        )
        .await
        .unwrap();
        let partitions = Partitions::new(id, PartitionCount::DEFAULT, host.transport.clone());
        dispatch.enter(Service::Partition, partitions.handler());
        let stop = Stop::new();
        holdfast_tasks::spawn("route", Box::pin(partitions.clone().run(stop.clone())));
        let indexing = twin_indexing(&config.twins);
        let hub = DeviceHub::new(HubParts {
            node: id,
            incarnation: Incarnation(id.get()),
            cores: 1,
            partitions: partitions.clone(),
            transport: host.transport.clone(),
            registry: registry.clone(),
            hub_names: HubNames::new([HOST]),
            clock: Clock::system(),
            tracer: holdfast_spans::Tracer::off(),
            config,
        });
        dispatch.enter(Service::Session, Arc::clone(&hub) as _);
        holdfast_tasks::spawn("maintain-links", maintain_links(Arc::clone(&hub), stop.clone()));
        Self {
            host,
            sealer,
            registry,
            partitions,
            hub,
            dispatch,
            stop,
            indexing,
            dir,
        }
    }

    /// Starts the replica of one partition.
    pub(crate) async fn partition(&self, id: PartitionId) -> Partition {
        let (consensus, config) = (ConsensusConfig::default(), PartitionConfig::default());
        Partition::start_indexed(
            id,
            &self.host,
            &consensus,
            &config,
            holdfast_model::Clock::system(),
            true,
            self.indexing.clone(),
        )
        .await
        .unwrap()
    }
}
