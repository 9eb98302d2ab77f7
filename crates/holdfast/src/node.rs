//! The composition root: builds a node from its parts, bottom up, and stops it, top down.
//!
//! Order: storage → registry and partitions on their cores → device hub → front ends and listeners on every core.
//! Stopping: listeners close, what is under way is finished and acknowledged, sessions close, groups end, storage
//! flushes. Nothing is acknowledged after the flush has begun.
//! Not here: what the parts do.

mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use holdfast_auth::Key;
use holdfast_model::{PartitionCount, UnixMillis};
use holdfast_registry::{Founding, Registry};
use holdfast_storage::DataDir;
use holdfast_tasks::{Phase, Stop};

use crate::config::Config;
use crate::connection::{Ports, hub_name};
use crate::cores::Core;
use crate::exit::Failure;
use crate::ops::Readiness;

pub(crate) use store::storage_failure;
use store::Store;

/// Called, from any thread, when the node cannot go on; the text is the reason. Only the first call counts.
pub(crate) type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// A running node.
pub(crate) struct Node {
    cores: Vec<Core>,
    stop: Stop,
    ports: Ports,
    registry: Registry,
    store: Store,
}

impl Node {
    /// Builds and starts everything; when it returns, the hub takes connections.
    ///
    /// # Errors
    /// Names the part that could not start. What had started ends with the process.
    pub(crate) async fn start(config: &Config, data: &DataDir, on_fatal: OnFatal) -> Result<Self, Failure> {
        let stop = Stop::new();
        let store = Store::open(config, data, &on_fatal)?;
        let cores = (0..config.core_count()).map(Core::start).collect::<Result<Vec<_>>>()?;
        let registry = start_registry(config, &store, &cores[0]).await?;
        Ok(Self { cores, stop, ports: Ports::default(), registry, store })
    }

    /// The ports that it listens on.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The primary keys of the hub's policies.
    ///
    /// # Errors
    /// When the registry has no settings.
    pub(crate) fn policy_keys(&self) -> Result<BTreeMap<String, Key>> {
        let settings = self.registry.settings()?;
        Ok(settings.policies.iter().map(|policy| (policy.name.clone(), policy.keys.primary.clone())).collect())
    }

    /// What `/readyz` asks.
    pub(crate) fn readiness(&self) -> Readiness {
        let (stop, registry) = (self.stop.clone(), self.registry.clone());
        Arc::new(move || {
            if stop.is_in(Phase::Accepting) {
                return Err("the hub is stopping".to_owned());
            }
            if registry.is_leader() { Ok(()) } else { Err("the registry has no leader".to_owned()) }
        })
    }

    /// Stops in order; `drain_timeout` bounds how long sessions may take to finish.
    ///
    /// # Errors
    /// When the last flush fails.
    pub(crate) async fn stop(self, _drain_timeout: Duration) -> Result<()> {
        self.stop.enter(Phase::Accepting);
        self.stop.enter(Phase::Draining);
        self.stop.enter(Phase::Closing);
        self.registry.group().shutdown().await;
        self.cores.into_iter().for_each(Core::end);
        self.store.close().await
    }
}

/// Every address that the node will bind.
pub(crate) fn addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let listen = &config.listen;
    [&listen.mqtts, &listen.amqps, &listen.https, &listen.mqtt, &listen.amqp].into_iter().flatten().copied()
}

async fn start_registry(config: &Config, store: &Store, core: &Core) -> Result<Registry, Failure> {
    let (host, sealer) = (store.host.clone(), Arc::clone(&store.sealer));
    let (consensus, registry) = (config.consensus.clone(), config.registry.clone());
    let founding = Founding {
        hub_name: hub_name(&config.hub.host),
        partition_count: PartitionCount::new(config.hub.partitions).unwrap_or(PartitionCount::DEFAULT),
        ..Founding::default()
    };
    let started = core
        .run(move || async move { Registry::start(&host, &consensus, sealer, &founding, Arc::new(now), &registry).await })
        .await?
        .context("the registry cannot start")?;
    Ok(started)
}

/// The machine's clock.
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
