//! The host of a node's groups: its disk with flusher and guard, and its transport.

use std::sync::Arc;
use std::time::Duration;

use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::{Alone, Dispatch, Service};
use holdfast_consensus::{GroupHost, Groups};
use holdfast_model::NodeId;
use holdfast_storage::{Disk, DiskGuard, Flusher, OnFatal, StorageConfig};
use holdfast_tasks::BlockingPool;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Panics where a node would stop.
#[must_use]
pub fn fail_the_test() -> OnFatal {
    Arc::new(|error| panic!("the node would stop: {error}"))
}

/// For nodes that are killed: the disk handle of an incarnation that has ended fails, which is expected.
#[must_use]
pub fn ignore_failures() -> OnFatal {
    Arc::new(|_| {})
}

/// A node by itself on `disk`, whose flusher runs on the current runtime and takes `latency` for each sync.
#[must_use]
pub fn on_runtime(
    node: NodeId,
    disk: Arc<dyn Disk>,
    on_fatal: OnFatal,
    latency: impl FnMut() -> Duration + Send + 'static,
) -> GroupHost {
    GroupHost {
        flusher: Flusher::on_runtime(disk.clone(), on_fatal.clone(), latency),
        blocking_pool: BlockingPool::Inline,
        guard: DiskGuard::new(disk.clone(), &StorageConfig::default()).unwrap(),
        disk,
        node,
        on_fatal,
        transport: Arc::new(Alone),
        groups: Groups::default(),
    }
}

/// A node of a simulated cluster, whose syncs take 50 to 1,500 µs, drawn from `seed`. Calls for its groups arrive through
/// `dispatch`.
#[must_use]
pub fn on_sim_network(
    node: NodeId,
    disk: Arc<dyn Disk>,
    on_fatal: OnFatal,
    network: &SimNetwork,
    dispatch: Dispatch,
    seed: u64,
) -> GroupHost {
    let mut latencies = SmallRng::seed_from_u64(seed);
    let latency = move || Duration::from_micros(latencies.random_range(50..1_500));
    let host = on_runtime(node, disk, on_fatal, latency);
    dispatch.enter(Service::Raft, Arc::new(host.groups.clone()));
    GroupHost {
        transport: network.node(node, dispatch),
        ..host
    }
}

/// A node by itself on `disk`, whose flusher is a thread, as in production. A share of the file system
/// (`storage.min_free_percent`) does not count: the machine that runs the tests may have little space left.
#[must_use]
pub fn on_threads(node: NodeId, disk: Arc<dyn Disk>, on_fatal: OnFatal, storage: &StorageConfig) -> GroupHost {
    let space = StorageConfig {
        min_free_percent: 0,
        ..storage.clone()
    };
    GroupHost {
        flusher: Flusher::spawn(disk.clone(), on_fatal.clone()).unwrap(),
        blocking_pool: BlockingPool::Threads,
        guard: DiskGuard::new(disk.clone(), &space).unwrap(),
        disk,
        node,
        on_fatal,
        transport: Arc::new(Alone),
        groups: Groups::default(),
    }
}
