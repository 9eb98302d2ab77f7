//! Starting the registry's group, and creating the hub on its first start.

use std::sync::{Arc, Weak};
use std::time::Duration;

use holdfast_auth::DEFAULT_POLICIES;
use holdfast_consensus::{ConsensusConfig, Group, GroupHost, GroupId};
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_storage::{OnFatal, Sealer};
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{Registry, Shared};
use crate::config::RegistryConfig;
use crate::error::{RegistryError, UnavailableReason};
use crate::lease::Lease;
use crate::local::Local;
use crate::machine::Machine;
use crate::read_barrier::ReadBarriers;
use crate::secrets::Secrets;
use crate::settings::{self, Founding};
use crate::state::{ApplyError, DEFAULT_CONSUMER_GROUP};
use holdfast_model::{Clock, FEATURE_LEVEL};

/// How long a start waits for the group to have a leader. One member elects itself within a second or two.
const LEADER_DEADLINE: Duration = Duration::from_secs(30);

/// How long a node that joins waits for the registry's content.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(1800);

/// Interval of the log line of a waiting node.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Back-off before a group without leader is called again.
const RETRY: Duration = Duration::from_millis(20);

/// Interval at which the log is trimmed.
const TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// Why the registry cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its state cannot be read, or its secrets cannot be opened.
    #[error("the registry's state cannot be used")]
    State(#[from] RegistryError),
    /// Its group cannot start.
    #[error("the registry's group cannot start")]
    Group(#[from] holdfast_consensus::StartError),
}

impl Registry {
    /// Starts this node's replica on the current runtime and returns when it has the hub's settings, however old.
    ///
    /// `found`: this node creates a new group, if it has never been in one, and creates the hub from `founding` if there is
    /// none yet. Otherwise it waits until the other members have sent it the registry; they must have admitted it and be
    /// able to reach it.
    ///
    /// # Errors
    /// [`StartError`]; a wrong key-encryption key shows as [`RegistryError::Sealed`].
    pub async fn start(
        host: &GroupHost,
        consensus: &ConsensusConfig,
        sealer: Arc<Sealer>,
        founding: &Founding,
        clock: Clock,
        config: &RegistryConfig,
        found: bool,
    ) -> Result<Self, StartError> {
        let heartbeats = 3 * consensus.heartbeat.get();
        if config.max_staleness.get() < heartbeats {
            tracing::warn!(
                at_least_ms = heartbeats.as_millis(),
                "registry.max_staleness is below three times consensus.heartbeat: in a cluster, nodes will now and then \
                 accept no connection though nothing is wrong"
            );
        }
        let local = Arc::new(Local::new(host.disk.clone(), Secrets::new(sealer), config)?);
        let machine = Machine::open(local.clone()).map_err(RegistryError::from)?;
        let group = Group::start(GroupId::REGISTRY, host, Box::new(machine), consensus).await?;
        if found && group.status().members.is_empty() {
            group.bootstrap().await?;
        }
        let barrier = group.clone();
        let read_barriers = ReadBarriers::spawn(config.max_waiting_confirms, move || {
            let group = barrier.clone();
            async move { group.read_index().await }
        });
        let registry = Self(Arc::new(Shared {
            group,
            local,
            read_barriers,
            lease: Lease::new(config.max_staleness.get()),
            writes: Semaphore::new(config.max_writes),
            clock,
            log_entries: config.log_entries,
            max_cas: config.max_cas,
            max_revoked: config.max_revoked,
            max_crl_entries: config.max_crl_entries,
        }));
        let shared = Arc::downgrade(&registry.0);
        holdfast_tasks::spawn_critical("registry-trim", trim(shared.clone(), host.on_fatal.clone()));
        let lease = registry.0.lease.clone();
        let granter = registry.0.group.clone();
        holdfast_tasks::spawn_critical("registry-lease", lease.keep(granter, move || shared.strong_count() > 0));
        if registry.0.local.settings().is_none() {
            if found {
                registry.found(founding).await?;
            } else {
                registry.wait_for_settings().await?;
            }
        }
        Ok(registry)
    }

    /// Waits for a leader, then creates the hub if there is none.
    async fn found(&self, founding: &Founding) -> Result<(), RegistryError> {
        self.retry(|| self.read_barrier()).await?;
        if self.0.local.settings().is_some() {
            return Ok(());
        }
        settings::check_retention(founding.retention)?;
        let record = self.founding_record(founding)?;
        self.retry(|| {
            let bootstrap = proto::Bootstrap {
                settings: Some(record.clone()),
            };
            async move { self.change(Command::Bootstrap(bootstrap)).await }
        })
        .await?;
        tracing::info!(
            hub = founding.hub_name,
            partitions = founding.partition_count.get(),
            "the hub has been created"
        );
        Ok(())
    }

    /// Waits until the hub's settings have come from the other members.
    async fn wait_for_settings(&self) -> Result<(), RegistryError> {
        let mut changes = self.changes();
        let arrived = async {
            while self.0.local.settings().is_none() {
                if changes.next().await.is_none() {
                    return;
                }
            }
        };
        let progress = async {
            loop {
                tokio::time::sleep(PROGRESS_INTERVAL).await;
                let status = self.0.group.status();
                tracing::info!(
                    leader = status.leader.map(tracing::field::display),
                    last_log = status.last_log,
                    applied = status.applied,
                    "waiting for the registry from the other members: they must have admitted this node and reach it"
                );
            }
        };
        tokio::select! {
            biased;
            () = arrived => Ok(()),
            () = progress => Ok(()),
            () = tokio::time::sleep(REGISTRY_DEADLINE) => Err(UnavailableReason::NothingReceived(REGISTRY_DEADLINE).into()),
        }
    }

    fn founding_record(&self, founding: &Founding) -> Result<proto::HubSettings, RegistryError> {
        let mut policies = Vec::with_capacity(DEFAULT_POLICIES.len());
        for (name, rights) in DEFAULT_POLICIES {
            let keys = Some(self.0.local.secrets.generate()?);
            policies.push(proto::PolicyRecord {
                name: name.to_owned(),
                keys,
                rights: rights.bits().into(),
            });
        }
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(proto::HubSettings {
            version: 1,
            hub_name: founding.hub_name.clone(),
            hub_id: format!("{:032x}", rand::random::<u128>()),
            partition_count: founding.partition_count.get().into(),
            retention_ms: settings::millis(founding.retention),
            retention_bytes: founding.retention_bytes.unwrap_or(0),
            consumer_groups: vec![DEFAULT_CONSUMER_GROUP.to_owned()],
            policies,
            max_identities: founding.max_identities,
            // No node of an earlier version is part of it.
            feature_level: FEATURE_LEVEL,
            ..proto::HubSettings::default()
        })
    }

    /// Retries until it succeeds, as long as only the leader is missing.
    async fn retry<F: Future<Output = Result<(), RegistryError>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<(), RegistryError> {
        let tries = async {
            loop {
                match attempt().await {
                    Err(RegistryError::Unavailable { .. } | RegistryError::OutcomeUnknown) => {
                        tokio::time::sleep(RETRY).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        match tokio::time::timeout(LEADER_DEADLINE, tries).await {
            Ok(outcome) => outcome,
            Err(_) => Err(UnavailableReason::NoLeader.into()),
        }
    }
}

/// Keeps the log short until the registry is gone.
async fn trim(registry: Weak<Shared>, on_fatal: OnFatal) {
    loop {
        tokio::time::sleep(TRIM_INTERVAL).await;
        let Some(shared) = registry.upgrade() else { return };
        match Registry(shared).trim_log().await {
            Ok(_) => {}
            Err(RegistryError::State(error)) => {
                if let ApplyError::Storage(error) = &*error {
                    on_fatal(error);
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot trim the registry's log; trying again at the next interval"),
        }
    }
}
