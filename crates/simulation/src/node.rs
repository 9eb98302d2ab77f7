//! One node: put together as the composition root does it, and ended in two ways.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_auth::HubNames;
use holdfast_cluster::control::{ClusterBootstrap, Control, ControlConfig, ControlParts};
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::{Dispatch, Service};
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId, Groups};
use holdfast_device_hub::{
    Clock, CloseReason, Core, DeviceHub, DeviceHubConfig, HubParts, close_when_draining, maintain_links, watch_registry,
};
use holdfast_model::{HumanDuration, PartitionCount, PartitionId};
use holdfast_partition::Partition;
use holdfast_registry::{Founding, Registry, RegistryConfig};
use holdfast_storage::{DiskGuard, Flusher, Sealer, SimDisk, StorageConfig};
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::{BlockingPool, Phase, Stop};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::host::{Book, Host, ReadClock, Up};
use super::{NODES, info};

/// How long a node that stops waits for each part, as the composition root does.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How many sessions a second are closed by a node that stops or drains.
const DRAIN_RATE: u32 = 1_000;

/// What may differ between clusters.
#[derive(Clone)]
pub struct Setup {
    pub cores: u16,
    /// Whether `cluster::control` looks after the cluster. If not, it stays as it was founded: nothing moves by itself.
    pub controlled: bool,
    pub session_grace: Duration,
    pub log_entries: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let registry = RegistryConfig::default();
        Self {
            cores: 2,
            controlled: false,
            session_grace: registry.session_grace.get(),
            log_entries: registry.log_entries,
        }
    }
}

/// What a node has in common with those in whose place it comes.
#[derive(Clone, Default)]
pub struct Machine {
    /// What every sync takes longer than it should, in microseconds.
    pub sync_extra: Arc<AtomicU64>,
}

/// A node that runs.
pub struct Node {
    pub id: u64,
    /// Counts the lives of the node.
    pub life: u64,
    pub hub: Arc<DeviceHub>,
    pub registry: Registry,
    pub partitions: Partitions,
    pub cores: Vec<Rc<Core>>,
    pub control: Option<Control>,
    host: GroupHost,
    stop: Stop,
    core_tasks: Vec<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Everything that a node needs to start.
pub(crate) struct Boot {
    pub id: u64,
    pub life: u64,
    pub setup: Setup,
    pub disk: SimDisk,
    /// Set when the disk fails.
    pub failed: Arc<AtomicBool>,
    pub machine: Machine,
    pub network: SimNetwork,
    pub sealer: Arc<Sealer>,
    pub clock: ReadClock,
    pub up: Up,
    pub latency_seed: u64,
    /// It may found registry and partitions.
    pub founds: bool,
}

impl Boot {
    pub(crate) async fn run(self) -> Node {
        let Self { id, life, setup, .. } = self;
        self.disk.recover().unwrap();
        let disk = Arc::new(self.disk);
        let groups = Groups::default();
        let dispatch = Dispatch::new();
        dispatch.enter(Service::Raft, Arc::new(groups.clone()));
        let transport = self.network.node(id, dispatch.clone());
        let mut latencies = SmallRng::seed_from_u64(self.latency_seed);
        let extra = self.machine.sync_extra;
        let latency = move || Duration::from_micros(latencies.random_range(50..1_500) + extra.load(Ordering::Relaxed));
        let failed = self.failed;
        let on_fatal: holdfast_storage::OnFatal = Arc::new(move |_| failed.store(true, Ordering::Relaxed));
        let host = GroupHost {
            flusher: Flusher::on_runtime(disk.clone(), on_fatal.clone(), latency),
            blocking_pool: BlockingPool::Inline,
            guard: DiskGuard::new(disk.clone(), &StorageConfig::default()).unwrap(),
            disk,
            node: id,
            on_fatal,
            transport: transport.clone(),
            groups,
        };
        self.up.lock().insert(id);
        let consensus = ConsensusConfig::default();
        let clock = self.clock;
        let registry = Registry::start(
            &host,
            &consensus,
            self.sealer.clone(),
            &Founding::default(),
            clock.clone(),
            &RegistryConfig {
                session_grace: HumanDuration::millis(u64::try_from(setup.session_grace.as_millis()).unwrap()),
                log_entries: setup.log_entries,
                ..RegistryConfig::default()
            },
            self.founds,
        )
        .await
        .unwrap();
        let partitions = Partitions::new(id, PartitionCount::DEFAULT, transport.clone());
        dispatch.enter(Service::Partition, partitions.handler());
        let hub = DeviceHub::new(HubParts {
            node: id,
            incarnation: life,
            cores: setup.cores,
            partitions: partitions.clone(),
            transport: transport.clone(),
            registry: registry.clone(),
            hub_names: HubNames::new([super::HOST]),
            clock: Clock::from_fn({
                let clock = clock.clone();
                move || clock()
            }),
            config: DeviceHubConfig {
                session_grace: setup.session_grace,
                ..DeviceHubConfig::default()
            },
        });
        dispatch.enter(Service::Session, hub.clone());
        let stop = Stop::new();
        let control = if setup.controlled {
            let control = Control::start(ControlParts {
                self_info: info(id),
                bootstrap: self.founds.then(|| ClusterBootstrap {
                    cluster: "c1".to_owned(),
                    replication_factor: 3,
                }),
                registry: registry.clone(),
                partitions: partitions.clone(),
                transport,
                dispatch,
                peers: Arc::new(Book {
                    up: self.up,
                    addresses: Mutex::default(),
                }),
                replicas: Arc::new(Host {
                    host: host.clone(),
                    clock,
                    hub: hub.clone(),
                }),
                wrapped_key: self.sealer.wrapped().clone(),
                config: ControlConfig::default(),
                stop: stop.clone(),
            });
            Some(control.await.unwrap())
        } else {
            for partition in PartitionCount::DEFAULT.iter() {
                let config = super::partition_config();
                let started = Partition::start(partition, &host, &consensus, &config, clock.clone(), self.founds);
                partitions.host(started.await.unwrap());
                partitions.set_replicas(partition, NODES.to_vec());
            }
            None
        };
        let cores: Vec<Rc<Core>> = (0..setup.cores).map(|index| Core::new(hub.clone(), index)).collect();
        let mut tasks = vec![
            holdfast_tasks::spawn("route", Box::pin(partitions.clone().run(stop.clone()))),
            holdfast_tasks::spawn("watch", watch_registry(hub.clone(), stop.clone())),
            holdfast_tasks::spawn("sessions", maintain_links(hub.clone(), stop.clone())),
            holdfast_tasks::spawn("space", watch_space(host.guard.clone(), hub.clone())),
        ];
        if let Some(control) = &control {
            let close = close_when_draining(control.clone(), hub.clone(), DRAIN_RATE);
            tasks.push(holdfast_tasks::spawn("drain", close));
        }
        let core_tasks = cores
            .iter()
            .map(|core| holdfast_tasks::spawn_local("core", Box::pin(core.clone().run(stop.clone()))));
        Node {
            id,
            life,
            core_tasks: core_tasks.collect(),
            hub,
            registry,
            partitions,
            cores,
            control,
            host,
            stop,
            tasks,
        }
    }
}

async fn watch_space(guard: Arc<DiskGuard>, hub: Arc<DeviceHub>) {
    loop {
        tokio::time::sleep(holdfast_storage::CHECK_EVERY).await;
        // The disk of a node that is dying says nothing any more.
        if guard.refresh().is_err() {
            return;
        }
        hub.set_writable(guard.writable());
    }
}

impl Node {
    pub fn group(&self, id: GroupId) -> Option<Group> {
        if id == GroupId::REGISTRY {
            return Some(self.registry.group().clone());
        }
        let partition = PartitionId(u16::try_from(id.0 - 1).unwrap());
        Some(self.partitions.local(partition)?.group().clone())
    }

    /// Its power is gone: nothing of it does anything any more.
    pub fn die(self) {
        for task in self.tasks.iter().chain(&self.core_tasks) {
            task.abort();
        }
        self.stop.enter(Phase::Closing);
        holdfast_tasks::spawn_local(
            "killed",
            Box::pin(async move {
                self.end_groups().await;
            }),
        );
    }

    async fn end_groups(&self) {
        for id in PartitionCount::DEFAULT.iter() {
            if let Some(partition) = self.partitions.unhost(id) {
                partition.shutdown().await;
            }
        }
        self.registry.group().shutdown().await;
    }

    /// Stops in order, as on SIGTERM.
    #[must_use]
    pub fn stop(self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.stop_in_order())
    }

    async fn stop_in_order(mut self) {
        if let Some(control) = &self.control {
            control.transfer_leaderships(STOP_PATIENCE).await;
        }
        self.stop.enter(Phase::Accepting);
        let closing = self.hub.close_paced(DRAIN_RATE, CloseReason::Stopping);
        let _ = tokio::time::timeout(STOP_PATIENCE, closing).await;
        self.stop.enter(Phase::Draining);
        self.stop.enter(Phase::Closing);
        let cores = futures_util::future::join_all(std::mem::take(&mut self.core_tasks));
        let _ = tokio::time::timeout(STOP_PATIENCE, cores).await;
        self.end_groups().await;
        if self.host.flusher.synced().await.is_ok() {
            let _ = self.host.disk.flush();
        }
    }
}
