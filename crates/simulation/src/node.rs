//! One simulated machine and the node on it: the node that ships, on a simulated disk, network and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_auth::HubNames;
use holdfast_cluster::control::{ClusterBootstrap, PeerDirectory};
use holdfast_cluster::transport::Dispatch;
use holdfast_consensus::GroupHost;
use holdfast_consensus::sim::SimNetwork;
use holdfast_device_hub::{Core, DeviceHubConfig, ThrottlesConfig, TwinsConfig, UploadConfig};
use holdfast_model::Clock;
use holdfast_model::{HumanDuration, Incarnation, NodeId};
use holdfast_node::{Executor, FrontEnd, NodeBuilder, NodeConfig, Origin, Placement, StopTimeouts};
use holdfast_registry::{Founding, RegistryConfig};
use holdfast_storage::{Sealer, SimDisk};
use holdfast_tasks::Stop;
use holdfast_tasks::sync::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

use super::{NODES, info, partition_config};

/// How long each phase of a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How many sessions a second are closed by a node that stops or drains.
const DRAIN_RATE: u32 = 1_000;

/// How often owners remove the state of deleted identities: short, since simulated hours take real minutes.
const RECONCILE_INTERVAL: HumanDuration = HumanDuration::secs(60);

/// The nodes that run, as a perfect failure detector would see them.
pub(crate) type Up = Arc<Mutex<BTreeSet<NodeId>>>;

/// The settings that differ between clusters.
#[derive(Clone)]
pub struct Setup {
    pub cores: u16,
    /// Whether `cluster::control` manages the cluster. If not, it stays as it was founded: nothing moves by itself.
    pub controlled: bool,
    pub session_grace: Duration,
    pub log_entries: u64,
    /// Whether the stream has the hub's own events.
    pub events: bool,
    pub twins: TwinsConfig,
    pub throttles: ThrottlesConfig,
    pub uploads: UploadConfig,
}

impl Default for Setup {
    fn default() -> Self {
        let registry = RegistryConfig::default();
        Self {
            cores: 2,
            controlled: false,
            session_grace: registry.session_grace.get(),
            log_entries: registry.log_entries,
            events: false,
            twins: TwinsConfig::default(),
            throttles: ThrottlesConfig::default(),
            uploads: UploadConfig::default(),
        }
    }
}

/// The traits of a machine that its nodes have one after the other.
#[derive(Clone, Default)]
pub struct Machine {
    /// The additional time of every sync, in microseconds.
    pub sync_extra: Arc<AtomicU64>,
}

/// A node that runs, with its cores.
pub struct Node {
    pub id: NodeId,
    /// Counts the starts of the node.
    pub incarnation: Incarnation,
    pub cores: Vec<Rc<Core>>,
    node: holdfast_node::Node,
    core_tasks: Vec<JoinHandle<()>>,
    host: GroupHost,
}

impl Deref for Node {
    type Target = holdfast_node::Node;

    fn deref(&self) -> &Self::Target {
        &self.node
    }
}

/// Everything that a node needs to start.
pub(crate) struct Boot {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub setup: Setup,
    pub disk: SimDisk,
    /// Set when the disk fails.
    pub failed: Arc<AtomicBool>,
    pub machine: Machine,
    pub network: SimNetwork,
    pub sealer: Arc<Sealer>,
    pub clock: Clock,
    pub up: Up,
    pub latency_seed: u64,
    /// It may found registry and partitions.
    pub founds: bool,
}

impl Boot {
    pub(crate) async fn run(self) -> Node {
        let Self { id, setup, .. } = self;
        self.disk.recover().unwrap();
        let disk = Arc::new(self.disk);
        let dispatch = Dispatch::new();
        let mut latencies = SmallRng::seed_from_u64(self.latency_seed);
        let extra = self.machine.sync_extra;
        let latency = move || Duration::from_micros(latencies.random_range(50..1_500) + extra.load(Ordering::Relaxed));
        let failed = self.failed;
        let on_fatal: holdfast_storage::OnFatal = Arc::new(move |_| failed.store(true, Ordering::Relaxed));
        let host = GroupHost {
            transport: self.network.node(id, dispatch.clone()),
            ..holdfast_testkit::on_runtime(id, disk, on_fatal, latency)
        };
        self.up.lock().insert(id);
        let placement = if setup.controlled {
            Placement::Controlled(ClusterBootstrap {
                cluster: "c1".to_owned(),
                replication_factor: 3,
                holds_joins: false,
            })
        } else {
            Placement::Fixed(NODES.to_vec())
        };
        let stop = Stop::new();
        let builder = NodeBuilder {
            tracer: holdfast_spans::Tracer::off(),
            host: host.clone(),
            dispatch,
            peers: Arc::new(Book {
                up: self.up,
                addresses: Mutex::default(),
            }),
            clock: self.clock,
            executor: Executor::Caller,
            sealer: self.sealer,
            incarnation: self.incarnation,
            cores: setup.cores,
            self_info: info(id),
            origin: if self.founds { Origin::Founder } else { Origin::Joined },
            placement,
            founding: Founding::default(),
            hub_names: HubNames::new([super::HOST]),
            config: NodeConfig {
                registry: RegistryConfig {
                    session_grace: HumanDuration::millis(u64::try_from(setup.session_grace.as_millis()).unwrap()),
                    log_entries: setup.log_entries,
                    ..RegistryConfig::default()
                },
                partition: partition_config(),
                device_hub: DeviceHubConfig {
                    session_grace: setup.session_grace,
                    drain_rate: DRAIN_RATE,
                    reconcile_interval: RECONCILE_INTERVAL,
                    twin_change_events: setup.events,
                    lifecycle_events: setup.events,
                    connection_state_events: setup.events,
                    twins: setup.twins.clone(),
                    throttles: setup.throttles.clone(),
                    uploads: setup.uploads.clone(),
                    ..DeviceHubConfig::default()
                },
                ..NodeConfig::default()
            },
            stop: stop.clone(),
        };
        let node = builder.start().await.unwrap();
        let cores: Vec<Rc<Core>> = (0..setup.cores)
            .map(|index| Core::new(node.hub.clone(), index))
            .collect();
        let core_tasks = cores
            .iter()
            .map(|core| holdfast_tasks::spawn_local("core", Box::pin(core.clone().run(stop.clone()))));
        Node {
            id,
            incarnation: self.incarnation,
            core_tasks: core_tasks.collect(),
            cores,
            node,
            host,
        }
    }
}

impl Node {
    /// Its power is gone: nothing of it does anything any more.
    pub fn die(self) {
        for task in &self.core_tasks {
            task.abort();
        }
        holdfast_tasks::spawn_local("killed", Box::pin(self.node.kill()));
    }

    /// Stops in order, as on SIGTERM.
    #[must_use]
    pub fn stop(self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            let timeouts = StopTimeouts {
                hand_over: STOP_TIMEOUT,
                drain: STOP_TIMEOUT,
                close: STOP_TIMEOUT,
                leave: None,
            };
            let front_ends = self.core_tasks.into_iter().map(|core| FrontEnd::new(Vec::new(), core));
            let synced = self.node.stop(front_ends.collect(), timeouts).await;
            if synced.is_ok() {
                // The disk may have failed; the log has everything.
                let _ = self.host.disk.flush();
            }
        })
    }
}

/// The addresses of the members, and which of them are up.
struct Book {
    up: Up,
    addresses: Mutex<BTreeMap<NodeId, String>>,
}

impl PeerDirectory for Book {
    fn set_member(&self, node: NodeId, _name: &str, address: &str) {
        self.addresses.lock().insert(node, address.to_owned());
    }

    fn remove(&self, node: NodeId) {
        self.addresses.lock().remove(&node);
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.up.lock().contains(&node) && self.addresses.lock().contains_key(&node)
    }
}
