//! The node of this process: opens the parts that a real machine has, hands them to [`NodeBuilder`], and puts front ends
//! on every core.
//!
//! Order: cores → connections to other nodes, and how this one comes to its data → disk → the node → listeners.
//! Stopping: [`holdfast_node::Node::stop`], then the cores end and the disk is flushed. Nothing is acknowledged after the
//! flush has begun.
//! Not here: how a node is put together (`holdfast_node`), and what its parts do.

mod backup_schedule;
mod certificate_ends;
mod certificates;
mod cluster_join;
pub(crate) mod crl_fetch;
mod feature_level;
mod initial_policies;
mod listeners;
mod outbound;
pub(crate) mod sealing_key;
mod signer;
mod store;
mod upload_webhook;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_auth::{HubNames, Policy};
use holdfast_cluster::control::{ClusterBootstrap, DebugSource};
use holdfast_device_hub::DeviceHubConfig;
use holdfast_model::Clock;
use holdfast_model::limits::{MAX_RETENTION, MIN_RETENTION};
use holdfast_model::{Incarnation, NodeId, PartitionCount};
use holdfast_node::{Core, Executor, FrontEnd, NodeBuilder, NodeConfig, Origin, Placement, StopTimeouts};
use holdfast_oidc::Issuer;
use holdfast_provisioning::Provisioning;
use holdfast_registry::{Changes, Founding, NodeInfo, NodeState, ProvisioningSettings, Registry};
use holdfast_service_api::rest::RestService;
use holdfast_spans::{Exporter, Resource};
use holdfast_storage::DataDir;
use holdfast_tasks::{Phase, Stop};
use tokio::task::JoinHandle;

use crate::config::{Config, ListenConfig};
use crate::connection::{Blobs, Ports, hub_name};
use crate::ops::{Readiness, Scrape};
use holdfast_cli::exit_code::Failure;

use certificates::Tls;
use cluster_join::{ClusterJoin, Entry};
pub(crate) use cluster_join::{new_cluster, restored};
use listeners::{Listeners, Services};
use outbound::ProvisioningOutbound;
use store::Store;
pub(crate) use store::storage_failure;

/// In a data directory: a restore has begun here and not ended.
pub(crate) const RESTORING_FILE: &str = "restoring";
use uploads::Uploads;
pub(crate) use uploads::bucket;

/// Called, from any thread, when the node cannot continue; the text is the reason. Only the first call counts.
pub(crate) type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// How long messages may take to be decided once all sessions are closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Back-off before a registry without a leader is asked again to create the provisioning service.
const PROVISIONING_RETRY: Duration = Duration::from_millis(200);

/// How long the registry may take to remove a gateway that leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long other nodes may take to take over the leaderships of a node that stops.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// A node that serves.
pub(crate) struct Node {
    node: holdfast_node::Node,
    cores: Vec<Core>,
    front_ends: Vec<FrontEnd>,
    listen: ListenConfig,
    cluster: ClusterJoin,
    store: Store,
    provisioning: Option<Arc<Provisioning>>,
    uploads: Uploads,
    data: DataDir,
    /// `cluster.leave_on_stop`.
    leaves: bool,
    /// Ends once the last spans are exported, or their time is over.
    exporter: Option<JoinHandle<()>>,
}

impl Node {
    /// Builds and starts everything; when it returns, its listeners are open. [`Self::readiness`] says whether it may
    /// accept connections.
    ///
    /// # Errors
    /// Names the part that could not start. The parts that had started end with the process.
    pub(crate) async fn start(config: &Config, data: &DataDir, on_fatal: OnFatal) -> Result<Self, Failure> {
        let tls = Tls::load(&config.tls, &config.hub, config.tracing.is_on())?;
        let stop = Stop::new();
        holdfast_tasks::spawn_critical("server-certificates", tls.clone().follow(stop.clone()));
        let cores = (0..config.core_count())
            .map(Core::start)
            .collect::<std::io::Result<Vec<_>>>()?;
        let cluster = ClusterJoin::start(config, data, &cores[0].handle(), &stop).await?;
        let (data, entry) = cluster.enter(config, data).await?;
        let store = Store::open(config, &data, &on_fatal, &cluster, &entry)?;
        let resource = Resource {
            instance: config.cluster.name(),
            node: data.identity().incarnation,
            hub: config.hub.host.clone(),
        };
        let (tracer, exporter) = Exporter::new(&config.tracing, &resource);
        let exporter =
            exporter.map(|exporter| holdfast_tasks::spawn_critical("span-export", exporter.run(stop.clone())));
        let builder = NodeBuilder {
            host: store.host.clone(),
            dispatch: cluster.dispatch.clone(),
            peers: cluster.book(&data),
            clock: Clock::system(),
            executor: Executor::Cores(cores.iter().map(Core::handle).collect()),
            sealer: Arc::clone(&store.sealer),
            incarnation: Incarnation(store.start),
            cores: u16::try_from(cores.len()).context("too many cores")?,
            self_info: self_info(config, &data, &cluster),
            origin: match entry {
                Entry::Founder => Origin::Founder,
                Entry::Joined(_) => Origin::Joined,
                Entry::Member if config.cluster.is_on() => Origin::Member,
                Entry::Member => Origin::Alone,
            },
            placement: Placement::Controlled(ClusterBootstrap {
                cluster: data.identity().cluster.clone(),
                replication_factor: if config.cluster.replication_factor == 1 { 1 } else { 3 },
                holds_joins: config.cluster.initial_tokens_file.is_some(),
            }),
            founding: founding(config),
            hub_names: HubNames::of_hub(&config.hub.host, &config.hub.aliases),
            config: node_config(config),
            tracer,
            stop: stop.clone(),
        };
        let node = builder.start().await.map_err(anyhow::Error::from)?;
        let partitions = node
            .registry
            .settings()
            .map_err(anyhow::Error::from)?
            .partition_count
            .get();
        if partitions != config.hub.partitions && matches!(entry, Entry::Member) {
            tracing::warn!(
                configured = config.hub.partitions,
                partitions,
                "hub.partitions has no effect: the number is fixed since the hub was created"
            );
        }
        if matches!(entry, Entry::Founder) {
            initial_policies::enter(config.hub.initial_policies_file.as_deref(), &node.registry).await?;
            cluster_join::enter_initial_tokens(&config.cluster, &node.registry).await?;
            cluster_join::founded(&data);
            if let Some(control) = &node.control {
                control.founded();
            }
        }

        let recording = feature_level::record(node.registry.clone(), data.clone(), stop.clone());
        holdfast_tasks::spawn_critical("feature-level-mark", recording);
        let ends = certificate_ends::watch(tls.clone(), Arc::clone(&node.hub), stop.clone());
        holdfast_tasks::spawn_critical("certificate-ends", ends);
        let fetching = crl_fetch::run(config.crl.clone(), Arc::clone(&node.hub), stop.clone());
        holdfast_tasks::spawn_critical("crl-fetch", fetching);
        let control = node.control.clone().context("the node has no control")?;
        // An empty text is no schedule.
        if let Ok(schedule) = config.backup.schedule.parse() {
            let (registry, control) = (node.registry.clone(), control.clone());
            let backups = backup_schedule::run(config.backup.clone(), schedule, registry, control, stop.clone());
            holdfast_tasks::spawn_critical("backups", backups);
        }
        let issuer = config.oidc.is_on().then(|| Issuer::new(&config.oidc));
        if let Some(issuer) = &issuer {
            holdfast_tasks::spawn_critical("issuer-keys", issuer.clone().follow(stop.clone()));
        }
        let uploads = Uploads::start(config, &store, &stop).await?;
        let webhook = upload_webhook::run(
            config.upload.clone(),
            config.upload.ca_file.clone(),
            Arc::clone(&node.hub),
            stop.clone(),
        );
        holdfast_tasks::spawn_critical("upload-webhook", webhook);
        let provisioning = config.provisioning.enabled.then(|| {
            let outbound = Arc::new(ProvisioningOutbound::new(config.provisioning.ca_file.clone()));
            Provisioning::new(Arc::clone(&node.hub), config.provisioning.clone(), outbound)
        });
        if let Some(provisioning) = &provisioning {
            provisioning.set_signer(signer::caller(&config.provisioning));
            let operations = Arc::clone(provisioning).run_operations(stop.clone());
            holdfast_tasks::spawn_critical("provisioning-operations", operations);
            let founding = found_provisioning(node.registry.clone(), stop.clone());
            holdfast_tasks::spawn_critical("provisioning-founding", founding);
        }
        let rest = RestService::new(Arc::clone(&node.hub), control, issuer.clone(), config.rest.clone());
        let listeners = Listeners::new(
            config,
            tls,
            Arc::clone(&node.hub),
            Services {
                rest,
                provisioning: provisioning.clone(),
                uploads: uploads.clone(),
            },
            issuer,
            stop,
        );
        let (listen, front_ends) = listeners.start_all(config.listen.clone(), &cores).await?;
        uploads.listening_at(listen.https.first().map(SocketAddr::port));
        Ok(Self {
            node,
            cores,
            front_ends,
            listen,
            cluster,
            store,
            provisioning,
            uploads,
            data,
            leaves: config.cluster.leave_on_stop,
            exporter,
        })
    }

    /// The settings of the provisioning service and the name under which devices reach it; `None` without one, or while the registry
    /// has not created it.
    pub(crate) fn provisioning(&self) -> Option<(&str, Arc<ProvisioningSettings>)> {
        let service = self.provisioning.as_ref()?;
        Some((service.host(), service.settings().ok()?))
    }

    /// Whether the hub shall have a provisioning service that is not there yet.
    pub(crate) fn awaits_provisioning(&self) -> bool {
        self.provisioning.is_some() && self.provisioning().is_none()
    }

    /// How back ends reach the embedded blob endpoint, if this node has it.
    pub(crate) fn blobs(&self) -> Option<Blobs> {
        self.uploads.connection()
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
            peer: self.cluster.local_address().map(|address| address.port()),
        }
    }

    /// The hub's policies.
    ///
    /// # Errors
    /// When the registry has no settings.
    pub(crate) fn policies(&self) -> Result<Vec<Arc<Policy>>> {
        Ok(self.node.registry.settings()?.policies.clone())
    }

    /// Changes of the registry from now on, those of policies among them.
    pub(crate) fn changes(&self) -> Changes {
        self.node.registry.changes()
    }

    /// Sets the gauges of one scrape.
    pub(crate) fn scrape(&self) -> Scrape {
        let hub = Arc::clone(&self.node.hub);
        let provisioning = self.provisioning.clone();
        Arc::new(move || {
            hub.export_saved_queries();
            if let Some(provisioning) = &provisioning {
                provisioning.export_latencies();
            }
        })
    }

    /// What makes this node's report for a debug bundle from now on.
    pub(crate) fn set_debug_source(&self, source: DebugSource) {
        if let Some(control) = &self.node.control {
            control.set_debug_source(source);
        }
    }

    /// Counts the starts of this data directory, from 1.
    pub(crate) fn start_count(&self) -> u64 {
        self.store.start
    }

    /// The answer of `/readyz`.
    pub(crate) fn readiness(&self) -> Readiness {
        self.node.readiness()
    }

    /// Stops in order; `drain_timeout` bounds how long sessions may take to finish.
    ///
    /// # Errors
    /// When the last sync or flush fails.
    pub(crate) async fn stop(self, drain_timeout: Duration) -> Result<()> {
        let timeouts = StopTimeouts {
            hand_over: HAND_OVER_TIMEOUT,
            drain: drain_timeout,
            close: CLOSE_TIMEOUT,
            leave: self.leaves.then_some(LEAVE_TIMEOUT),
        };
        let stopped = self.node.stop(self.front_ends, timeouts).await;
        self.cores.into_iter().for_each(Core::end);
        let stopped = stopped.context("the last sync failed")?;
        self.store.close().await?;
        if let Some(exporter) = self.exporter {
            // Its panic has ended the process.
            let _ = exporter.await;
        }
        if stopped.left {
            self.data
                .leave()
                .context("the data of a node that has left the hub cannot be removed")?;
        }
        Ok(())
    }
}

/// Gives the hub its provisioning service, once the registry has a leader.
async fn found_provisioning(registry: Registry, stop: Stop) {
    let tries = async {
        while let Err(error) = registry.found_provisioning().await {
            tracing::debug!(%error, "the provisioning service cannot be created yet");
            tokio::time::sleep(PROVISIONING_RETRY).await;
        }
    };
    tokio::select! {
        biased;
        () = tries => {}
        () = stop.reached(Phase::Draining) => {}
    }
}

/// Every address that the node will bind.
pub(crate) fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let listen = &config.listen;
    [&listen.mqtts, &listen.amqps, &listen.https, &listen.mqtt, &listen.amqp]
        .into_iter()
        .flatten()
        .copied()
}

/// The sections of the node's parts.
fn node_config(config: &Config) -> NodeConfig {
    NodeConfig {
        consensus: config.consensus.clone(),
        registry: config.registry.clone(),
        partition: config.partition.clone(),
        device_hub: DeviceHubConfig {
            session_grace: config.registry.session_grace.get(),
            twins: config.twins.clone(),
            uploads: config.upload.clone(),
            throttles: config.throttles.clone(),
            shared_policies: config.service_auth.shared_policies,
            ..config.device_hub.clone()
        },
        control: config.control.clone(),
    }
}

/// This node as it is configured.
fn self_info(config: &Config, data: &DataDir, joined: &ClusterJoin) -> NodeInfo {
    let cluster = &config.cluster;
    NodeInfo {
        id: NodeId(data.identity().incarnation),
        name: cluster.name(),
        address: cluster.advertised(joined.local_address()),
        zone: cluster.zone.clone(),
        role: cluster.role,
        state: NodeState::Active,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joined: Clock::system().now(),
    }
}

/// The hub as the configuration describes it.
fn founding(config: &Config) -> Founding {
    let retained = config.partition.retention_size.bytes();
    Founding {
        hub_name: hub_name(&config.hub.host),
        partition_count: PartitionCount::new(config.hub.partitions).unwrap_or(PartitionCount::DEFAULT),
        // Clients see a value within the range that they know; the partitions keep to the configuration.
        retention: config.partition.retention.get().clamp(MIN_RETENTION, MAX_RETENTION),
        retention_bytes: (retained > 0).then_some(retained),
        ..Founding::default()
    }
}
