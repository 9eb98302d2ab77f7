//! The composition root: builds a node from its parts, bottom up, and stops it, top down.
//!
//! Order: connections to other nodes, and how this one begins → storage → registry → device hub → control, which starts
//! the replicas that belong here on their cores → front ends and listeners on every core.
//! Stopping: leaderships are handed over, listeners close, what is under way is finished and acknowledged, sessions
//! close, groups end, storage flushes. Nothing is acknowledged after the flush has begun.
//! Not here: what the parts do.

mod certificates;
mod cluster_join;
mod listeners;
mod replicas;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use holdfast_auth::{HubNames, Key};
use holdfast_cluster::control::{ClusterBootstrap, Control, ControlParts};
use holdfast_cluster::route::Partitions;
use holdfast_cluster::transport::Service;
use holdfast_device_hub::{
    Clock, CloseReason, DeviceHub, DeviceHubConfig, HubParts, close_when_draining, maintain_links, watch_registry,
};
use holdfast_model::limits::{MAX_RETENTION, MIN_RETENTION};
use holdfast_model::{PartitionCount, UnixMillis};
use holdfast_registry::{Founding, NodeInfo, NodeState, Registry, SettingsChange};
use holdfast_service_api::rest::RestService;
use holdfast_storage::DataDir;
use holdfast_tasks::{Phase, Stop};
use tokio::sync::oneshot;

use crate::config::{Config, ListenConfig};
use crate::connection::{Ports, hub_name};
use crate::exit_code::Failure;
use crate::ops::Readiness;
use crate::runtime::Core;

use certificates::Tls;
pub(crate) use cluster_join::new_cluster;
use cluster_join::{Entry, Peering};
use listeners::{Front, Running};
use replicas::Replicas;
use store::Store;
pub(crate) use store::storage_failure;

/// Called, from any thread, when the node cannot go on; the text is the reason. Only the first call counts.
pub(crate) type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// How long what was sent may take to be decided once all sessions are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long other nodes may take to take over what this one leads, when it stops.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(5);

/// A running node.
pub(crate) struct Node {
    cores: Vec<Core>,
    fronts: Vec<Running>,
    stop: Stop,
    listen: ListenConfig,
    peering: Peering,
    registry: Registry,
    partitions: Partitions,
    control: Control,
    hub: Arc<DeviceHub>,
    drain_rate: u32,
    store: Store,
}

impl Node {
    /// Builds and starts everything; when it returns, its listeners are open. Whether it may accept anybody is said by
    /// [`Self::readiness`].
    ///
    /// # Errors
    /// Names the part that could not start. What had started ends with the process.
    pub(crate) async fn start(config: &Config, data: &DataDir, on_fatal: OnFatal) -> Result<Self, Failure> {
        let tls = Tls::load(&config.tls)?;
        let stop = Stop::new();
        holdfast_tasks::spawn_critical("server-certificates", tls.clone().follow(stop.clone()));
        let cores = (0..config.core_count()).map(Core::start).collect::<Result<Vec<_>>>()?;
        let peering = Peering::start(config, data, &cores[0], &stop).await?;
        let (data, entry) = peering.enter(config, data).await?;
        let store = Store::open(config, &data, &on_fatal, &peering, &entry)?;
        peering
            .dispatch
            .enter(Service::Raft, Arc::new(store.host.groups.clone()));
        let registry = start_registry(config, &store, &cores[0], may_found(config, &entry)).await?;
        let settings = registry.settings().context("the registry has no settings")?;
        if settings.partition_count.get() != config.hub.partitions && matches!(entry, Entry::Member) {
            tracing::warn!(
                configured = config.hub.partitions,
                partitions = settings.partition_count.get(),
                "hub.partitions has no effect: the number is fixed since the hub was created"
            );
        }
        let hub_names = HubNames::new([&config.hub.host].into_iter().chain(&config.hub.aliases));
        let partitions = Partitions::new(
            store.host.node,
            settings.partition_count,
            Arc::clone(&store.host.transport),
        );
        peering.dispatch.enter(Service::Partition, partitions.handler());
        let hub = DeviceHub::new(HubParts {
            node: store.host.node,
            incarnation: store.start,
            cores: u16::try_from(cores.len()).context("too many cores")?,
            partitions: partitions.clone(),
            transport: Arc::clone(&store.host.transport),
            registry: registry.clone(),
            hub_names,
            clock: Clock::from_fn(now),
            config: DeviceHubConfig {
                session_grace: config.registry.session_grace.get(),
                ..config.device_hub.clone()
            },
        });
        peering.dispatch.enter(Service::Session, Arc::clone(&hub) as _);
        holdfast_tasks::spawn_critical("registry-watch", watch_registry(Arc::clone(&hub), stop.clone()));
        holdfast_tasks::spawn_critical("keep-sessions", maintain_links(Arc::clone(&hub), stop.clone()));
        holdfast_tasks::spawn_critical("partition-owners", partitions.clone().run(stop.clone()));
        store.watch_space(Arc::clone(&hub));

        let replicas = Replicas {
            host: store.host.clone(),
            cores: cores.iter().map(Core::handle).collect(),
            consensus: config.consensus.clone(),
            partition: config.partition.clone(),
            count: settings.partition_count,
            hub: Arc::clone(&hub),
        };
        let parts = ControlParts {
            self_info: me(config, &data, &peering),
            bootstrap: founds(config, &data, &entry, &registry),
            registry: registry.clone(),
            partitions: partitions.clone(),
            transport: Arc::clone(&store.host.transport),
            dispatch: peering.dispatch.clone(),
            peers: peering.book(&data),
            replicas: Arc::new(replicas),
            wrapped_key: store.sealer.wrapped().clone(),
            config: config.control.clone(),
            stop: stop.clone(),
        };
        let control = cores[0]
            .run(move || async move { Control::start(parts).await })
            .await?
            .context("cannot take this node's place in the cluster")?;
        if matches!(entry, Entry::Founder) {
            cluster_join::enter_initial_tokens(&config.cluster, &registry).await?;
            cluster_join::founded(&data);
        }

        let rest = RestService::new(Arc::clone(&hub), control.clone(), config.rest.clone());
        holdfast_tasks::spawn_critical(
            "drain-sessions",
            close_when_draining(control.clone(), Arc::clone(&hub), config.device_hub.drain_rate),
        );
        let front = Front::new(config, tls, Arc::clone(&hub), rest, stop.clone());
        let (listen, fronts) = start_fronts(&front, config.listen.clone(), &cores).await?;
        Ok(Self {
            cores,
            fronts,
            stop,
            listen,
            peering,
            registry,
            partitions,
            control,
            hub,
            drain_rate: config.device_hub.drain_rate,
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
            peer: self.peering.local_address().map(|address| address.port()),
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
        let (stop, registry, state) = (self.stop.clone(), self.registry.clone(), self.control.state());
        Arc::new(move || {
            if stop.is_in(Phase::Accepting) {
                return Err("the hub is stopping".to_owned());
            }
            if matches!(*state.borrow(), Some(NodeState::Draining | NodeState::Drained)) {
                return Err("this node is drained: devices are to connect to others".to_owned());
            }
            if registry.in_lease() {
                Ok(())
            } else {
                Err(
                    "this node's replica of the registry is not confirmed: it has no contact to a leader with a quorum"
                        .to_owned(),
                )
            }
        })
    }

    /// Stops in order; `drain_timeout` bounds how long sessions may take to finish.
    ///
    /// # Errors
    /// When the last flush fails.
    pub(crate) async fn stop(self, drain_timeout: Duration) -> Result<()> {
        self.control.transfer_leaderships(HAND_OVER_PATIENCE).await;
        let (connections, cores): (Vec<_>, Vec<_>) = self
            .fronts
            .into_iter()
            .map(|front| (front.connections, front.core))
            .unzip();
        self.stop.enter(Phase::Accepting);
        let pace = self.hub.pace_within(self.drain_rate, drain_timeout);
        if pace > self.drain_rate {
            tracing::warn!(
                sessions = self.hub.local_session_count(),
                pace,
                drain_rate = self.drain_rate,
                "sessions are closed faster than device_hub.drain_rate, to be done within ops.drain_timeout"
            );
        }
        let closing = self.hub.close_paced(pace, CloseReason::Stopping);
        if tokio::time::timeout(drain_timeout, closing).await.is_err() {
            tracing::warn!("closing the rest of the sessions at once (ops.drain_timeout, device_hub.drain_rate)");
        }
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
        let replicas = self
            .partitions
            .count()
            .iter()
            .filter_map(|id| self.partitions.unhost(id));
        futures_util::future::join_all(replicas.map(|replica| async move { replica.shutdown().await })).await;
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

async fn start_registry(config: &Config, store: &Store, core: &Core, found: bool) -> Result<Registry, Failure> {
    let (host, sealer) = (store.host.clone(), Arc::clone(&store.sealer));
    let (consensus, registry) = (config.consensus.clone(), config.registry.clone());
    let founding = founding(config);
    let started = core
        .run(move || async move {
            let registry =
                Registry::start(&host, &consensus, sealer, &founding, Arc::new(now), &registry, found).await?;
            if registry.is_leader() {
                adopt(&registry, &founding).await?;
            } else {
                holdfast_tasks::spawn_critical("adopt-settings", adopt_as_leader(registry.clone(), founding));
            }
            anyhow::Ok(registry)
        })
        .await?
        .context("the registry cannot start")?;
    Ok(started)
}

/// The first time that this node leads the registry, its settings follow this node's configuration.
async fn adopt_as_leader(registry: Registry, founding: Founding) {
    let mut changes = registry.group().watch();
    while !registry.is_leader() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    if let Err(error) = adopt(&registry, &founding).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "the hub's settings do not follow the configuration"
        );
    }
}

/// This node as it is configured.
fn me(config: &Config, data: &DataDir, peering: &Peering) -> NodeInfo {
    let cluster = &config.cluster;
    NodeInfo {
        id: data.identity().incarnation,
        name: cluster.name(),
        address: cluster.advertised(peering.local_address()),
        zone: cluster.zone.clone(),
        role: cluster.role,
        state: NodeState::Active,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joined: now(),
    }
}

/// Whether this node may create the hub where there is none: a hub by itself always, since it may have died while it was
/// created.
fn may_found(config: &Config, entry: &Entry) -> bool {
    matches!(entry, Entry::Founder) || !config.cluster.is_on()
}

/// Whether this node makes the hub a cluster: when it has created it, or has been a hub by itself so far.
fn founds(config: &Config, data: &DataDir, entry: &Entry, registry: &Registry) -> Option<ClusterBootstrap> {
    let alone =
        matches!(entry, Entry::Founder) || matches!(entry, Entry::Member) && registry.cluster().cluster.is_empty();
    alone.then(|| ClusterBootstrap {
        cluster: data.identity().cluster.clone(),
        replication_factor: if config.cluster.replication_factor == 1 { 1 } else { 3 },
    })
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
