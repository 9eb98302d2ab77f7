//! The owner's side: carries out requests about the twins of its partition.
//!
//! Invariants: writes of one twin take effect in the order in which they were submitted, and the notifications of its
//! desired properties are queued in that order.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{ErrorCode, GenerationId, IdentityId, MessageSource, PartitionId};
use holdfast_partition::record::DeviceStateKind;
use holdfast_proto::cluster::v1::twin_answer::Outcome;
use holdfast_proto::cluster::v1::twin_request::Action;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_registry::TwinSeed;

use super::decide::{self, CheckedWrite, Written};
use super::document::Twin;
use super::history::{self, TwinVersion};
use super::limits::{SectionName, TwinRefusal};
use super::notify::Notification;
use super::patch::{SectionWrite, WriteMode, parse_reported};
use super::stored::UnreadableTwin;
use crate::DeviceHub;
use crate::owner::hub_event::HubEvent;
use crate::owner::state_changes::{StateChanges, StateKey};
use crate::owner::state_writer::ChangeError;
use crate::rpc::codec;

/// The twin that a request is about.
#[derive(Debug, Clone)]
struct TwinOf {
    identity: IdentityId,
    generation: GenerationId,
    seed: Option<TwinSeed>,
    key: StateKey,
}

/// Why a decision has no result.
pub(super) enum Undecided {
    Refused(TwinRefusal),
    Unreadable(UnreadableTwin),
}

impl From<TwinRefusal> for Undecided {
    fn from(refusal: TwinRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<UnreadableTwin> for Undecided {
    fn from(error: UnreadableTwin) -> Self {
        Self::Unreadable(error)
    }
}

impl Undecided {
    fn outcome(self, identity: &IdentityId) -> Outcome {
        let (code, text) = match self {
            Self::Refused(refusal) => (refusal.code(), refusal.to_string()),
            Self::Unreadable(error) => {
                tracing::error!(%identity, %error, "a stored twin cannot be read; requests about it are refused");
                (ErrorCode::ServerError, error.to_string())
            }
        };
        Outcome::Refused(proto::TwinRefused {
            code: code.number(),
            text,
        })
    }
}

impl TwinOf {
    fn decode(request: &mut proto::TwinRequest) -> Option<Self> {
        let identity = codec::decode_identity(&request.device, &request.module).ok()?;
        let generation = GenerationId(codec::check_text(&request.generation).ok()?.into());
        let seed = TwinSeed {
            tags: request.seed_tags.take(),
            desired: request.seed_desired.take(),
            reported: request.seed_reported.take(),
        };
        let seed = (seed != TwinSeed::default()).then_some(seed);
        Some(Self {
            key: StateKey::new(DeviceStateKind::TWIN, &identity, &generation),
            identity,
            generation,
            seed,
        })
    }

    fn current(&self, changes: &StateChanges<'_>) -> Result<Twin, UnreadableTwin> {
        let stored = changes.get(&self.key).map(|value| &**value);
        decide::current(stored, &self.identity, &self.generation, self.seed.as_ref())
    }

    fn store(&self, changes: &mut StateChanges<'_>, written: &Written) -> Bytes {
        let value = written.twin.encode();
        let answer = Bytes::copy_from_slice(&value);
        changes.set(&self.key, Some(value));
        for (version, value) in &written.history {
            let item = history::item(*version).to_vec();
            let key = StateKey::with_item(DeviceStateKind::TWIN_HISTORY, &self.identity, &self.generation, item);
            changes.set(&key, value.clone());
        }
        if changes.wants(MessageSource::TwinChange) {
            let time = changes.now();
            let event = written.event(&self.identity);
            changes.event(HubEvent {
                source: MessageSource::TwinChange,
                identity: self.identity.clone(),
                operation: event.operation,
                time,
                body: event.body.to_string().into_bytes(),
            });
        }
        answer
    }
}

impl DeviceHub {
    /// Carries out a request of any node as the owner of the partition.
    pub(crate) async fn serve_twin(
        self: &Arc<Self>,
        partition: PartitionId,
        mut request: proto::TwinRequest,
    ) -> Result<proto::TwinAnswer, ChangeError> {
        let (Some(twin), Some(action)) = (TwinOf::decode(&mut request), request.action) else {
            // Of a later version.
            return Err(ChangeError::Unknown);
        };
        let (identity, generation) = (twin.identity.clone(), twin.generation.clone());
        let outcome = match action {
            Action::Read(_) => self.read_twin(partition, twin).await?,
            Action::Write(write) => self.serve_write(partition, twin, write).await?,
            Action::Report(report) => self.serve_report(partition, twin, report).await?,
            Action::History(_) => self.serve_history(partition, twin).await?,
        };
        let shows_connection = request.with_connection && matches!(outcome, Outcome::Twin(_));
        Ok(proto::TwinAnswer {
            outcome: Some(outcome),
            connection: match shows_connection {
                // In a box: only back ends' requests have it, and the future of all others stays small.
                true => Some(Box::pin(self.find_connection(&identity, Some(generation))).await),
                false => None,
            },
        })
    }

    async fn read_twin(self: &Arc<Self>, partition: PartitionId, twin: TwinOf) -> Result<Outcome, ChangeError> {
        self.metrics.twins_read.increment(1);
        let identity = twin.identity.clone();
        let read = self.change_state(partition, vec![twin.key.clone()], move |changes| {
            twin.current(changes).map(|twin| Outcome::Twin(twin.encode().into()))
        });
        let outcome = read.await?;
        Ok(outcome.unwrap_or_else(|error| Undecided::from(error).outcome(&identity)))
    }

    async fn serve_write(
        self: &Arc<Self>,
        partition: PartitionId,
        twin: TwinOf,
        write: proto::TwinWrite,
    ) -> Result<Outcome, ChangeError> {
        let identity = twin.identity.clone();
        let write = match checked(write) {
            Ok(write) => write,
            Err(refusal) => return Ok(self.refused_twin(refusal, &identity)),
        };
        if write.tags.is_none() && write.desired.is_none() {
            return self.serve_empty_write(partition, twin, write).await;
        }
        let limit = u64::from(self.parts.config.twins.history_versions);
        let keys = vec![twin.key.clone()];
        let decided = self.write_and_notify(partition, &identity, keys, move |changes| {
            let before = twin.current(changes)?;
            let written = decide::write(before, write, changes.now(), limit)?;
            let value = twin.store(changes, &written);
            let notification = written.notification.map(|(version, body)| Notification {
                version,
                body: body.to_string().into(),
            });
            Ok((value, notification))
        });
        match decided.await? {
            Ok(value) => {
                self.metrics.twins_written.increment(1);
                Ok(Outcome::Twin(value))
            }
            Err(undecided) => Ok(self.undecided_twin(undecided, &identity)),
        }
    }

    /// A write without a section: its condition counts all the same.
    async fn serve_empty_write(
        self: &Arc<Self>,
        partition: PartitionId,
        twin: TwinOf,
        write: CheckedWrite,
    ) -> Result<Outcome, ChangeError> {
        let identity = twin.identity.clone();
        let read = self.change_state(partition, vec![twin.key.clone()], move |changes| {
            let current = twin.current(changes)?;
            decide::check_condition(&current, write.if_etag.as_deref())?;
            Ok(Outcome::Twin(current.encode().into()))
        });
        Ok(read
            .await?
            .unwrap_or_else(|undecided| self.undecided_twin(undecided, &identity)))
    }

    async fn serve_report(
        self: &Arc<Self>,
        partition: PartitionId,
        twin: TwinOf,
        report: proto::TwinReport,
    ) -> Result<Outcome, ChangeError> {
        let identity = twin.identity.clone();
        let patch = match parse_reported(&report.patch) {
            Ok(patch) => patch,
            Err(refusal) => return Ok(self.refused_twin(refusal, &identity)),
        };
        let reported = self.change_state(partition, vec![twin.key.clone()], move |changes| {
            let before = twin.current(changes)?;
            let written = decide::report(before, patch, report.if_version, changes.now())?;
            twin.store(changes, &written);
            Ok(written.twin.reported_version())
        });
        match reported.await? {
            Ok(version) => {
                self.metrics.twins_reported.increment(1);
                Ok(Outcome::ReportedVersion(version))
            }
            Err(undecided) => Ok(self.undecided_twin(undecided, &identity)),
        }
    }

    async fn serve_history(self: &Arc<Self>, partition: PartitionId, twin: TwinOf) -> Result<Outcome, ChangeError> {
        let of = twin.clone();
        let current = self
            .change_state(partition, vec![twin.key.clone()], move |changes| of.current(changes))
            .await?;
        let current = match current {
            Ok(current) => current,
            Err(error) => return Ok(Undecided::from(error).outcome(&twin.identity)),
        };
        let replica = self.parts.partitions.local(partition).ok_or(ChangeError::NotOwner)?;
        let mut versions = vec![TwinVersion::of(&current).encode().into()];
        let limit = u64::from(self.parts.config.twins.history_versions);
        for version in history::kept(&current, limit).rev() {
            let item = history::item(version).to_vec();
            let key = StateKey::with_item(DeviceStateKind::TWIN_HISTORY, &twin.identity, &twin.generation, item);
            // The disk has failed, and the node stops.
            let value = replica.device_state(&key.as_key()).await;
            versions.extend(value.map_err(|_| ChangeError::NotOwner)?);
        }
        Ok(Outcome::Versions(proto::TwinVersions { versions }))
    }

    fn refused_twin(&self, refusal: TwinRefusal, identity: &IdentityId) -> Outcome {
        self.undecided_twin(refusal.into(), identity)
    }

    fn undecided_twin(&self, undecided: Undecided, identity: &IdentityId) -> Outcome {
        self.metrics.twins_refused.increment(1);
        undecided.outcome(identity)
    }
}

fn checked(write: proto::TwinWrite) -> Result<CheckedWrite, TwinRefusal> {
    let mode = match write.replaces {
        true => WriteMode::Replace,
        false => WriteMode::Merge,
    };
    let section = |name, text: Option<String>| {
        let parsed = text.map(|text| SectionWrite::parse(name, mode, &text));
        parsed.transpose()
    };
    Ok(CheckedWrite {
        mode,
        tags: section(SectionName::Tags, write.tags)?,
        desired: section(SectionName::Desired, write.desired)?,
        if_etag: write.if_etag,
    })
}
