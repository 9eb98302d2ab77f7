//! The handle for all other crates: writes, reads, read barrier, change feed.

mod authorities;
mod cluster;
mod issuance;
mod linked_hubs;
mod policies;
mod provisioning;
mod quota;
mod revocations;
mod saved_queries;
mod start;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::{Group, ProposeError};
use holdfast_model::Clock;
use holdfast_model::limits::{MAX_BULK_IDENTITIES, MAX_LIST_DEVICES};
use holdfast_model::{DeviceId, ErrorCode, IdentityId};
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{self as proto, EntryAnswer, RegistryAnswer, RegistryCommand};
use prost::Message;
use rand::Rng;
use tokio::sync::Semaphore;

use crate::change_feed::Changes;
use crate::convert;
use crate::error::{RegistryError, UnavailableReason};
use crate::identity::{Authentication, Identity, TwinSeed};
use crate::lease::{Lease, LeaseState, LeaseWatch};
use crate::local::{DevicePage, Local, Statistics};
use crate::read_barrier::ReadBarriers;
use crate::scan::{IdentitySummary, Scan, Scanned, SeedScan};
use crate::settings::{self, ChangeSource, HubSettings, SettingsChange};
use crate::state::{ApplyError, Rejection, version_of};
use crate::write::{IdentityWrite, KeyChoice, KeyRegeneration, WriteOperation};

pub use provisioning::{EnrollmentOutcome, PROVISIONING_POLICY};
pub use start::StartError;

/// The registry of the hub as this node sees it. Clones share it.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

struct Shared {
    group: Group,
    local: Arc<Local>,
    read_barriers: ReadBarriers,
    lease: Arc<Lease>,
    writes: Semaphore,
    clock: Clock,
    log_entries: u64,
    max_cas: u32,
    max_revoked: u32,
    max_crl_entries: u32,
}

/// The result of one identity's write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whether it did not exist before.
    pub created: bool,
    /// The identity after the write; `None` after a delete.
    pub identity: Option<Identity>,
}

/// The outcome of one entry of a bulk write.
pub type Outcome = Result<Written, Rejection>;

impl Registry {
    // Reading this node's replica.

    /// The identity in this node's replica: for credential checks. A miss of the cache reads the disk.
    ///
    /// # Errors
    /// [`RegistryError::State`], [`RegistryError::Sealed`] when it cannot be read.
    pub fn identity(&self, id: &IdentityId) -> Result<Option<Arc<Identity>>, RegistryError> {
        self.0.local.identity(id)
    }

    /// The hub's settings in this node's replica.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] while the hub has not been created.
    pub fn settings(&self) -> Result<Arc<HubSettings>, RegistryError> {
        self.0
            .local
            .settings()
            .ok_or_else(|| UnavailableReason::NotCreated.into())
    }

    /// The read barrier: returns once this node's replica has applied all entries committed before the call, so that later
    /// reads are not older than the call. Callers that wait at the same time share one ReadIndex. Cancel-safe.
    ///
    /// # Errors
    /// [`RegistryError::Overloaded`], [`RegistryError::Unavailable`].
    pub async fn read_barrier(&self) -> Result<(), RegistryError> {
        self.0.local.metrics.confirms.increment(1);
        self.0.read_barriers.wait().await
    }

    /// Whether this node's replica may accept a credential at this moment. Costs one read of the clock; the result must not
    /// be kept.
    ///
    /// It is valid for reads after it. A caller that reads, checks the lease and accepts must read the identity once more
    /// when its session is registered where changes find it: the thread may have been suspended in between, while the lease
    /// was lost and regained.
    #[must_use]
    pub fn in_lease(&self) -> bool {
        self.0.lease.is_held()
    }

    /// The state of the lease.
    #[must_use]
    pub fn lease(&self) -> LeaseState {
        self.0.lease.state()
    }

    /// Watches the loss and gain of the lease.
    #[must_use]
    pub fn lease_watch(&self) -> LeaseWatch {
        self.0.lease.watch()
    }

    /// Subscribes to changes that are applied from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.0.local.feed.subscribe()
    }

    /// Whether this node leads the registry's group. Every node accepts writes, and forwards them to the leader.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0.group.is_leader()
    }

    /// The registry's Raft group, for status and shutdown.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// Deletes commands from the log that are older than `registry.log_entries` and whose effects are in flushed files.
    /// Called periodically by the registry itself. Returns the first remaining index.
    ///
    /// # Errors
    /// [`RegistryError::State`]: the node must stop.
    pub async fn trim_log(&self) -> Result<u64, RegistryError> {
        let below = self.0.group.applied_index().saturating_sub(self.0.log_entries);
        Ok(self.0.group.trim(below).await?)
    }

    // Linearizable reads.

    /// The identity, no older than the call.
    ///
    /// # Errors
    /// As [`Self::read_barrier`] and [`Self::identity`].
    pub async fn get(&self, id: &IdentityId) -> Result<Option<Arc<Identity>>, RegistryError> {
        self.read_barrier().await?;
        self.identity(id)
    }

    /// The first `top` devices in id order; at most 1000.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list_devices(&self, top: usize) -> Result<Vec<Identity>, RegistryError> {
        self.read_barrier().await?;
        let local = self.0.local.clone();
        holdfast_tasks::spawn_blocking(move || local.devices(top.min(MAX_LIST_DEVICES))).await
    }

    /// One page of devices in id order, of at most 1000: those after `after`, or the first ones.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn device_page(&self, after: Option<&DeviceId>, top: usize) -> Result<DevicePage, RegistryError> {
        self.read_barrier().await?;
        let (local, after) = (self.0.local.clone(), after.cloned());
        let page = move || local.device_page(after.as_ref(), top.min(MAX_LIST_DEVICES));
        holdfast_tasks::spawn_blocking(page).await
    }

    /// The modules of `device` in id order; `None` when there is no such device.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list_modules(&self, device: &DeviceId) -> Result<Option<Vec<Identity>>, RegistryError> {
        self.read_barrier().await?;
        let (local, device) = (self.0.local.clone(), device.clone());
        holdfast_tasks::spawn_blocking(move || local.modules(&device)).await
    }

    /// Visits the identities of `scan` whose device `wants` accepts, until `visit` breaks: in this node's replica, in the
    /// order of their ids, devices or modules. Blocks on the disk.
    ///
    /// # Errors
    /// [`RegistryError::State`] when they cannot be read.
    pub fn scan(
        &self,
        scan: &Scan,
        wants: impl FnMut(&DeviceId) -> bool,
        visit: impl FnMut(IdentitySummary) -> ControlFlow<()>,
    ) -> Result<Scanned, RegistryError> {
        self.0.local.scan_identities(scan, wants, visit)
    }

    /// Visits the twin content that was given with the creates of the identities of `scan` whose device `wants` accepts, in the
    /// order of their ids, in this node's replica. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_twin_seeds(
        &self,
        scan: &SeedScan,
        wants: impl FnMut(&DeviceId) -> bool,
        visit: impl FnMut(IdentityId, TwinSeed),
    ) -> Result<Scanned, RegistryError> {
        self.0.local.scan_twin_seeds(scan, wants, visit)
    }

    /// Maintained counts, no older than the call.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn statistics(&self) -> Result<Statistics, RegistryError> {
        self.read_barrier().await?;
        self.0.local.statistics()
    }

    /// The newest generation that this node's replica knows: it has all creations and deletions up to that generation's.
    ///
    /// # Errors
    /// As [`Self::identity`].
    pub fn newest_generation(&self) -> Result<u64, RegistryError> {
        self.0.local.newest_generation()
    }

    /// Twin content given with the create of `id` that its partition's owner has not taken over yet.
    ///
    /// # Errors
    /// As [`Self::identity`].
    pub fn twin_seed(&self, id: &IdentityId) -> Result<Option<TwinSeed>, RegistryError> {
        self.0.local.twin_seed(id)
    }

    // Writing.

    /// Creates, updates or deletes one identity; answered when it is committed and applied.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with the catalogue's number; [`RegistryError::OutcomeUnknown`] when it may have been
    /// done; the others mean that nothing was written.
    pub async fn write(&self, write: IdentityWrite) -> Result<Written, RegistryError> {
        let outcomes = self.write_bulk(vec![write]).await?;
        Ok(first(outcomes)??)
    }

    /// Writes up to 100 identities in one step of the log, in their order; outcomes in the same order. An entry that is
    /// refused does not stop the others.
    ///
    /// # Errors
    /// As [`Self::write`], but for whole calls only: refusals of entries are outcomes.
    pub async fn write_bulk(&self, writes: Vec<IdentityWrite>) -> Result<Vec<Outcome>, RegistryError> {
        if writes.len() > MAX_BULK_IDENTITIES {
            let text = format!("at most {MAX_BULK_IDENTITIES} identities may be written in one step");
            return Err(Rejection::new(ErrorCode::TooManyDevices, text).into());
        }
        // An invalid entry never reaches the log, but keeps its position among the outcomes.
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(writes.len());
        let mut command = proto::WriteIdentities::default();
        for write in &writes {
            match write.check() {
                Ok(()) => {
                    command
                        .writes
                        .push(convert::write(write, &self.0.local.secrets, fresh_etag)?);
                    outcomes.push(None);
                }
                Err(rejection) => outcomes.push(Some(Err(rejection))),
            }
        }
        let entries = if command.writes.is_empty() {
            Vec::new()
        } else {
            self.propose(Command::WriteIdentities(command)).await?
        };
        let mut entries = entries.into_iter();
        let mut answer = Vec::with_capacity(writes.len());
        for (outcome, write) in outcomes.into_iter().zip(&writes) {
            let deleted = matches!(write.operation, WriteOperation::Delete(_));
            answer.push(match outcome {
                Some(outcome) => outcome,
                None => self.outcome(&write.id, entries.next(), deleted)?,
            });
        }
        Ok(answer)
    }

    /// Gives identities new keys, in one step of the log; outcomes in the order of `entries`.
    ///
    /// # Errors
    /// As [`Self::write_bulk`].
    pub async fn regenerate_keys(
        &self,
        entries: Vec<KeyRegeneration>,
        choice: KeyChoice,
    ) -> Result<Vec<Outcome>, RegistryError> {
        if entries.len() > MAX_BULK_IDENTITIES {
            let text = format!("at most {MAX_BULK_IDENTITIES} identities may be given new keys in one step");
            return Err(Rejection::new(ErrorCode::TooManyDevices, text).into());
        }
        let mut command = proto::RegenerateKeys::default();
        for entry in &entries {
            command.entries.push(convert::regeneration(
                entry,
                choice,
                &self.0.local.secrets,
                fresh_etag(),
            )?);
        }
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = self.propose(Command::RegenerateKeys(command)).await?.into_iter();
        entries
            .iter()
            .map(|entry| self.outcome(&entry.id, answers.next(), false))
            .collect()
    }

    /// Adds a consumer group.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when the name is invalid or taken (409000) or there are 20; else as [`Self::write`].
    pub async fn add_consumer_group(&self, name: &str) -> Result<(), RegistryError> {
        settings::check_consumer_group(name)?;
        self.change(Command::AddConsumerGroup(proto::AddConsumerGroup {
            name: name.to_owned(),
        }))
        .await
    }

    /// Removes a consumer group.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is none with that name (404000) or it is `$Default`.
    pub async fn remove_consumer_group(&self, name: &str) -> Result<(), RegistryError> {
        self.change(Command::RemoveConsumerGroup(proto::RemoveConsumerGroup {
            name: name.to_owned(),
        }))
        .await
    }

    /// Changes values of the hub.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when a value is out of its range.
    pub async fn update_settings(&self, change: SettingsChange) -> Result<(), RegistryError> {
        if let Some(retention) = change.retention {
            settings::check_retention(retention)?;
        }
        if let Some(count) = change.max_identities {
            settings::check_max_identities(count)?;
        }
        let retention_ms = change.retention.map(settings::millis);
        let retention_bytes = change.retention_bytes.map(|bytes| bytes.unwrap_or(0));
        let configured = match change.source {
            ChangeSource::Configuration => (retention_ms, retention_bytes),
            // What the configuration says is kept beside what the API says, so that a later change of it is noticed.
            ChangeSource::Api => {
                let settings = self.settings()?;
                let ms = settings::millis(settings.configured_retention);
                let bytes = settings.configured_retention_bytes.unwrap_or(0);
                (retention_ms.and(Some(ms)), retention_bytes.and(Some(bytes)))
            }
        };
        let command = proto::ChangeSettings {
            hub_name: change.hub_name,
            retention_ms,
            retention_bytes,
            max_identities: change.max_identities,
            configured_retention_ms: configured.0,
            configured_retention_bytes: configured.1,
        };
        self.change(Command::ChangeSettings(command)).await
    }

    async fn change(&self, command: Command) -> Result<(), RegistryError> {
        let answer = first(self.propose(command).await?)?;
        rejection(&answer)?.map_or(Ok(()), |rejection| Err(rejection.into()))
    }

    /// Proposes and waits for the answer of apply.
    async fn propose(&self, command: Command) -> Result<Vec<EntryAnswer>, RegistryError> {
        let shared = &self.0;
        let _permit = shared.writes.try_acquire().map_err(|_| RegistryError::Overloaded)?;
        let version = version_of(&command);
        if !is_of_levels(&command) {
            let level = shared.local.feature_level()?.level;
            if version > level {
                shared.local.metrics.writes_refused.increment(1);
                return Err(RegistryError::FeatureLevel { needed: version, level });
            }
        }
        let command = RegistryCommand {
            version,
            time_ms: shared.clock.now().0,
            command: Some(command),
        };
        let metrics = &shared.local.metrics;
        let answer = match shared.group.propose(command.encode_to_vec().into()).await {
            Ok((_, answer)) => decode_answer(answer)?,
            Err(error) => {
                metrics.writes_failed.increment(1);
                return Err(propose_error(error));
            }
        };
        for entry in &answer.entries {
            if entry.error_code == 0 {
                metrics.writes_done.increment(1);
            } else {
                metrics.writes_refused.increment(1);
            }
        }
        Ok(answer.entries)
    }

    fn outcome(&self, id: &IdentityId, answer: Option<EntryAnswer>, deleted: bool) -> Result<Outcome, RegistryError> {
        let answer = answer.ok_or(RegistryError::OutcomeUnknown)?;
        if let Some(rejection) = rejection(&answer)? {
            return Ok(Err(rejection));
        }
        let identity = match &answer.record {
            Some(record) if !deleted => {
                let device_disabled = match id.module {
                    Some(_) => self
                        .identity(&IdentityId::device(id.device.clone()))?
                        .is_some_and(|d| !d.is_enabled()),
                    None => false,
                };
                Some(convert::identity(id, record, device_disabled, &self.0.local.secrets)?)
            }
            _ => None,
        };
        if let Some(Authentication::SelfSigned(thumbprints)) = identity.as_ref().map(|written| &written.authentication)
        {
            for thumbprint in thumbprints.sha1() {
                tracing::warn!(identity = %id, %thumbprint, "the thumbprint is SHA-1, which is deprecated: register SHA-256");
            }
        }
        Ok(Ok(Written {
            created: answer.created,
            identity,
        }))
    }
}

/// Whether the command says itself which level the hub gets: it comes when no member of an earlier version is there.
fn is_of_levels(command: &Command) -> bool {
    matches!(command, Command::Bootstrap(_) | Command::RaiseFeatureLevel(_))
}

fn first<T>(entries: Vec<T>) -> Result<T, RegistryError> {
    entries.into_iter().next().ok_or(RegistryError::OutcomeUnknown)
}

fn rejection(answer: &EntryAnswer) -> Result<Option<Rejection>, RegistryError> {
    if answer.error_code == 0 {
        return Ok(None);
    }
    // Only a newer leader could answer with a number that is unknown here.
    let code = ErrorCode::from_number(answer.error_code).unwrap_or(ErrorCode::ServerError);
    Ok(Some(Rejection::new(code, answer.error_text.clone())))
}

fn decode_answer(answer: Bytes) -> Result<RegistryAnswer, RegistryError> {
    RegistryAnswer::decode(answer).map_err(|error| ApplyError::DamagedEntry(error).into())
}

fn propose_error(error: ProposeError) -> RegistryError {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::TermChanged { .. } | ProposeError::Stopped => {
            UnavailableReason::from(error).into()
        }
        ProposeError::TooLarge { .. } => Rejection::new(ErrorCode::MessageTooLarge, error.to_string()).into(),
        ProposeError::DiskFull => RegistryError::DiskFull,
        ProposeError::Unknown => RegistryError::OutcomeUnknown,
    }
}

/// Opaque base64 text, letters and digits only: it appears in headers, quotes and URLs.
fn fresh_etag() -> String {
    use base64::Engine as _;
    // Twelve decimal digits, as the original's tags are decimal numbers in base64.
    let number = rand::rng().random_range(100_000_000_000_u64..1_000_000_000_000);
    base64::engine::general_purpose::STANDARD.encode(number.to_string())
}
