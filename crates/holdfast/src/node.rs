//! The composition root: builds a node from its parts, bottom up, and stops it, top down.
//!
//! Order: storage → registry and partitions on their cores → device hub → front ends and listeners on every core.
//! Stopping: listeners close, what is under way is finished and acknowledged, sessions close, groups end, storage
//! flushes. Nothing is acknowledged after the flush has begun.
//! Not here: what the parts do.

mod front;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use holdfast_auth::{HubNames, Key};
use holdfast_cluster::route::Partitions;
use holdfast_device_hub::{Clock, DeviceHub, HubParts, watch_registry};
use holdfast_model::limits::{MAX_RETENTION, MIN_RETENTION};
use holdfast_model::{PartitionCount, PartitionId, UnixMillis};
use holdfast_partition::Partition;
use holdfast_registry::{Founding, HubSettings, Registry, SettingsChange};
use holdfast_service_api::rest::RestState;
use holdfast_storage::DataDir;
use holdfast_tasks::{Phase, Stop};
use tokio::sync::oneshot;

use crate::config::{Config, ListenConfig};
use crate::connection::{Ports, hub_name};
use crate::cores::Core;
use crate::exit::Failure;
use crate::ops::Readiness;

use front::{Front, Running, Tls};
use store::Store;
pub(crate) use store::storage_failure;

/// Called, from any thread, when the node cannot go on; the text is the reason. Only the first call counts.
pub(crate) type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// How long what was sent may take to be decided once all sessions are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running node.
pub(crate) struct Node {
    cores: Vec<Core>,
    fronts: Vec<Running>,
    stop: Stop,
    listen: ListenConfig,
    registry: Registry,
    partitions: Vec<Partition>,
    store: Store,
}

impl Node {
    /// Builds and starts everything; when it returns, the hub takes connections.
    ///
    /// # Errors
    /// Names the part that could not start. What had started ends with the process.
    pub(crate) async fn start(config: &Config, data: &DataDir, on_fatal: OnFatal) -> Result<Self, Failure> {
        let tls = Tls::load(&config.tls)?;
        let stop = Stop::new();
        let store = Store::open(config, data, &on_fatal)?;
        let cores = (0..config.core_count()).map(Core::start).collect::<Result<Vec<_>>>()?;
        let registry = start_registry(config, &store, &cores[0]).await?;
        let settings = registry.settings().context("the registry has no settings")?;
        if settings.partition_count.get() != config.hub.partitions {
            tracing::warn!(
                configured = config.hub.partitions,
                partitions = settings.partition_count.get(),
                "hub.partitions has no effect: the number is fixed since the hub was created"
            );
        }
        let partitions = start_partitions(config, &store, &settings, &cores).await?;
        let hub_names = HubNames::new([&config.hub.host].into_iter().chain(&config.hub.aliases));
        let routes = Partitions::new(
            store.host.node,
            settings.partition_count,
            Arc::clone(&store.host.transport),
        );
        for partition in &partitions {
            routes.host(partition.clone());
        }
        let hub = DeviceHub::new(HubParts {
            node: store.host.node,
            incarnation: store.start,
            cores: u16::try_from(cores.len()).context("too many cores")?,
            partitions: routes,
            transport: Arc::clone(&store.host.transport),
            registry: registry.clone(),
            hub_names: hub_names.clone(),
            clock: Clock::from_fn(now),
            config: config.device_hub.clone(),
        });
        holdfast_tasks::spawn("registry-watch", watch_registry(Arc::clone(&hub), stop.clone()));
        store.watch_space(Arc::clone(&hub));

        let rest = RestState {
            registry: registry.clone(),
            hub: Arc::clone(&hub) as _,
            hub_names,
            clock: Arc::new(now),
            cluster: None,
            config: config.rest.clone(),
        };
        let front = Front::new(config, tls, hub, rest, stop.clone());
        let (listen, fronts) = start_fronts(&front, config.listen.clone(), &cores).await?;
        Ok(Self {
            cores,
            fronts,
            stop,
            listen,
            registry,
            partitions,
            store,
        })
    }

    /// The ports that it listens on.
    pub(crate) fn ports(&self) -> Ports {
        let first = |addresses: &[SocketAddr]| addresses.first().map(SocketAddr::port);
        Ports {
            mqtt: first(&self.listen.mqtts),
            mqtt_plain: first(&self.listen.mqtt),
            amqp: first(&self.listen.amqps),
            amqp_plain: first(&self.listen.amqp),
            https: first(&self.listen.https),
            ops: None,
            peer: None,
        }
    }

    /// The primary keys of the hub's policies.
    ///
    /// # Errors
    /// When the registry has no settings.
    pub(crate) fn policy_keys(&self) -> Result<BTreeMap<String, Key>> {
        let settings = self.registry.settings()?;
        Ok(settings
            .policies
            .iter()
            .map(|policy| (policy.name.clone(), policy.keys.primary.clone()))
            .collect())
    }

    /// What `/readyz` asks.
    pub(crate) fn readiness(&self) -> Readiness {
        let (stop, registry) = (self.stop.clone(), self.registry.clone());
        Arc::new(move || {
            if stop.is_in(Phase::Accepting) {
                return Err("the hub is stopping".to_owned());
            }
            if registry.is_leader() {
                Ok(())
            } else {
                Err("the registry has no leader".to_owned())
            }
        })
    }

    /// Stops in order; `drain_timeout` bounds how long sessions may take to finish.
    ///
    /// # Errors
    /// When the last flush fails.
    pub(crate) async fn stop(self, drain_timeout: Duration) -> Result<()> {
        let (connections, cores): (Vec<_>, Vec<_>) = self
            .fronts
            .into_iter()
            .map(|front| (front.connections, front.core))
            .unzip();
        self.stop.enter(Phase::Draining);
        if !have_ended(connections, drain_timeout).await {
            tracing::warn!(
                drain_timeout_s = drain_timeout.as_secs(),
                "closing sessions that have not finished in time"
            );
        }
        self.stop.enter(Phase::Closing);
        if !have_ended(cores, CLOSE_TIMEOUT).await {
            tracing::warn!(
                "some messages could not be decided; their devices were told nothing and will send them again"
            );
        }
        for partition in &self.partitions {
            partition.shutdown().await;
        }
        self.registry.group().shutdown().await;
        self.cores.into_iter().for_each(Core::end);
        self.store.close().await
    }
}

/// Waits for all `parts`; whether they have ended in time.
async fn have_ended(parts: Vec<oneshot::Receiver<()>>, patience: Duration) -> bool {
    // A part whose core is gone has ended as well.
    tokio::time::timeout(patience, futures_util::future::join_all(parts))
        .await
        .is_ok()
}

/// Every address that the node will bind.
pub(crate) fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let listen = &config.listen;
    [&listen.mqtts, &listen.amqps, &listen.https, &listen.mqtt, &listen.amqp]
        .into_iter()
        .flatten()
        .copied()
}

async fn start_registry(config: &Config, store: &Store, core: &Core) -> Result<Registry, Failure> {
    let (host, sealer) = (store.host.clone(), Arc::clone(&store.sealer));
    let (consensus, registry) = (config.consensus.clone(), config.registry.clone());
    let founding = founding(config);
    let started = core
        .run(move || async move {
            let registry =
                Registry::start(&host, &consensus, sealer, &founding, Arc::new(now), &registry, true).await?;
            adopt(&registry, &founding).await?;
            anyhow::Ok(registry)
        })
        .await?
        .context("the registry cannot start")?;
    Ok(started)
}

/// The hub as the configuration describes it.
fn founding(config: &Config) -> Founding {
    let retained = config.partition.retention_size.bytes();
    Founding {
        hub_name: hub_name(&config.hub.host),
        partition_count: PartitionCount::new(config.hub.partitions).unwrap_or(PartitionCount::DEFAULT),
        // What clients are told is within the range that they know; the partitions take the configuration by its word.
        retention: config.partition.retention.get().clamp(MIN_RETENTION, MAX_RETENTION),
        retention_bytes: (retained > 0).then_some(retained),
        ..Founding::default()
    }
}

/// A hub that was made under another name, or with another retention, goes on as the configuration says now.
async fn adopt(registry: &Registry, wanted: &Founding) -> Result<()> {
    let settings = registry.settings()?;
    let change = SettingsChange {
        hub_name: (settings.hub_name != wanted.hub_name).then(|| wanted.hub_name.clone()),
        retention: (settings.retention != wanted.retention).then_some(wanted.retention),
        retention_bytes: (settings.retention_bytes != wanted.retention_bytes).then_some(wanted.retention_bytes),
        max_identities: None,
    };
    if change != SettingsChange::default() {
        tracing::info!(?change, "the hub's settings follow the configuration");
        registry.update_settings(change).await?;
    }
    Ok(())
}

/// Starts all partitions at once, group 1 + p on core (1 + p) mod cores.
async fn start_partitions(
    config: &Config,
    store: &Store,
    settings: &HubSettings,
    cores: &[Core],
) -> Result<Vec<Partition>, Failure> {
    let starts = settings.partition_count.iter().map(|id: PartitionId| {
        let core = &cores[(1 + usize::from(id.0)) % cores.len()];
        let host = store.host.clone();
        let (consensus, partition) = (config.consensus.clone(), config.partition.clone());
        async move {
            core.run(
                move || async move { Partition::start(id, &host, &consensus, &partition, Arc::new(now), true).await },
            )
            .await?
            .with_context(|| format!("partition {} cannot start", id.0))
        }
    });
    Ok(futures_util::future::try_join_all(starts).await?)
}

/// Binds and serves on every core; the first one finds the ports where any will do.
async fn start_fronts(
    front: &Front,
    mut listen: ListenConfig,
    cores: &[Core],
) -> Result<(ListenConfig, Vec<Running>), Failure> {
    let mut fronts = Vec::with_capacity(cores.len());
    for (index, core) in cores.iter().enumerate() {
        let (front, wanted) = (front.clone(), listen);
        let index = u16::try_from(index).context("too many cores")?;
        let started = core.run(move || async move { front.start(index, &wanted) }).await?;
        let running;
        (listen, running) = started.context("cannot listen")?;
        fronts.push(running);
    }
    Ok((listen, fronts))
}

/// The machine's clock.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
