//! The registry as a state machine of its Raft group: decodes, applies, writes, publishes.
//!
//! Invariants: a command's writes and its log position become visible in one batch, so that replay after a crash
//! begins exactly where the flushed state ends; caches are invalidated and events published only after that.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::{
    GroupId, LogPosition, Restored, SealedSnapshot, SnapshotSink, SnapshotSource, StateMachine, set_purge_watermarks,
};
use holdfast_model::{NodeId, Term};
use holdfast_proto::registry::v1::{AppliedPosition, RegistryCommand};
use holdfast_storage::{Durability, Family, Staged, Staging, StorageError, WriteBatch};
use prost::Message;

use crate::change_feed::RegistryEvent;
use crate::convert;
use crate::error::RegistryError;
use crate::hot_records::HotRecords;
use crate::local::Local;
use crate::snapshot::{Sink, Source};
use crate::state::{self, ApplyError, Effects, layout};

pub(crate) struct Machine {
    local: Arc<Local>,
    hot: HotRecords,
    applied: Option<LogPosition>,
    membership: Bytes,
}

impl Machine {
    /// Reads the position up to which the state on disk has been applied.
    pub(crate) fn open(local: Arc<Local>) -> Result<Self, ApplyError> {
        let stored = local.message::<AppliedPosition>(layout::APPLIED)?;
        let membership = stored
            .as_ref()
            .map(|stored| stored.membership.clone())
            .unwrap_or_default();
        let applied = stored.map(|stored| LogPosition {
            term: Term(stored.term),
            node: NodeId(stored.node),
            index: stored.index,
        });
        Ok(Self {
            local,
            hot: HotRecords::default(),
            applied,
            membership,
        })
    }

    fn apply_command(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, ApplyError> {
        let command = RegistryCommand::decode(entry.clone()).map_err(ApplyError::DamagedEntry)?;
        let mut effects = state::apply(&self.hot.over(&*self.local), &command)?;
        let mut batch = WriteBatch::new();
        for (key, value) in &effects.writes {
            match value {
                Some(value) => batch.put(Family::Registry, key, value),
                None => batch.delete(Family::Registry, key),
            }
            self.local.will_write(key);
        }
        self.write(batch, position)?;
        self.hot.written(effects.writes.drain(..));
        let answer = effects.answer.encode_to_vec().into();
        self.publish(position, effects)?;
        Ok(answer)
    }

    /// Writes `batch` and the position together.
    fn write(&mut self, mut batch: WriteBatch, position: LogPosition) -> Result<(), StorageError> {
        self.put_position(&mut batch, position);
        self.local.disk.write(&batch, Durability::Replayed)?;
        self.applied = Some(position);
        Ok(())
    }

    fn put_position(&self, batch: &mut WriteBatch, position: LogPosition) {
        let stored = AppliedPosition {
            term: position.term.get(),
            node: position.node.get(),
            index: position.index,
            membership: self.membership.clone(),
        };
        batch.put(Family::Registry, layout::APPLIED, &stored.encode_to_vec());
    }

    /// Updates cache, settings, metrics and feed.
    fn publish(&self, position: LogPosition, effects: Effects) -> Result<(), ApplyError> {
        for change in &effects.changes {
            self.local.cache.forget(&change.id.device);
        }
        if let Some(settings) = &effects.settings {
            match convert::settings(settings, &self.local.secrets) {
                Ok(settings) => self.local.set_settings(settings),
                Err(error) => {
                    tracing::error!(%error, "cannot open a secret in the hub's new settings; the old settings stay in use")
                }
            }
            self.local.feed.send(RegistryEvent::Settings);
        }
        if effects.cluster_changed {
            self.local.reload_cluster()?;
            self.local.feed.send(RegistryEvent::Cluster);
        }
        if effects.authorities_changed || effects.revocations_changed {
            self.local.reload_authorities()?;
        }
        if effects.authorities_changed {
            self.local.feed.send(RegistryEvent::Authorities);
        }
        if effects.revocations_changed {
            self.local.feed.send(RegistryEvent::Revocations);
        }
        if effects.provisioning_changed {
            match self.local.reload_provisioning() {
                Ok(()) => self.local.feed.send(RegistryEvent::Provisioning),
                Err(error) => {
                    tracing::error!(%error, "the settings of provisioning cannot be used; devices cannot register")
                }
            }
        }
        self.local
            .enrollment_groups_changed(&effects.enrollment_groups_changed)?;
        if effects.linked_hubs_changed {
            self.local.reload_linked_hubs()?;
        }
        if effects.open_registrations_changed {
            self.local.open_registrations.send_replace(());
        }
        if effects.issuers_changed {
            self.local.reload_issuers()?;
        }
        if effects.saved_queries_changed {
            self.local.reload_saved_queries()?;
        }
        if !effects.changes.is_empty() {
            self.local.count(effects.counters.into());
        }
        for change in effects.changes {
            self.local.feed.send(RegistryEvent::Identity {
                change,
                index: position.index,
            });
        }
        Ok(())
    }
}

/// The error that stops the node, as a storage error.
fn fatal(error: &ApplyError) -> StorageError {
    match error {
        ApplyError::Storage(error) => error.clone(),
        error => damaged(match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    }
}

fn damaged(reason: String) -> StorageError {
    StorageError::Damaged {
        file: "registry".to_owned(),
        offset: None,
        reason,
    }
}

impl StateMachine for Machine {
    fn applied(&self) -> (Option<LogPosition>, Bytes) {
        (self.applied, self.membership.clone())
    }

    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError> {
        self.apply_command(position, entry).map_err(|error| fatal(&error))
    }

    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError> {
        if let Some(membership) = membership {
            self.membership = membership;
        }
        self.write(WriteBatch::new(), position)
    }

    fn end_of_run(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn snapshot(&mut self) -> Result<SnapshotSource, StorageError> {
        let position = self.applied.ok_or(StorageError::Unsupported(
            "a snapshot of a registry that has applied nothing",
        ))?;
        let all = layout::all();
        let mut source = Source::new(self.local.disk.view(Family::Registry, &all.start, &all.end)?);
        Ok(SnapshotSource {
            position,
            membership: self.membership.clone(),
            next_chunk: Box::new(move || source.next_chunk()),
        })
    }

    fn receive(&mut self) -> Result<Box<dyn SnapshotSink>, StorageError> {
        let staging = Staging::new(self.local.disk.clone(), Family::Registry, GroupId::REGISTRY.0)?;
        Ok(Box::new(Sink::new(staging)))
    }

    fn restore(
        &mut self,
        position: LogPosition,
        membership: Bytes,
        sealed: SealedSnapshot,
    ) -> Result<Restored, StorageError> {
        let staged = sealed
            .downcast::<Staged>()
            .map_err(|_| StorageError::Unsupported("a snapshot that another state machine has sealed"))?;
        self.membership = membership;
        let mut then = WriteBatch::new();
        self.put_position(&mut then, position);
        set_purge_watermarks(&mut then, GroupId::REGISTRY, position, None);
        let records = staged.entries();
        staged.install(Some(layout::all()), then)?;
        self.applied = Some(position);
        self.hot.clear();
        self.local.reload().map_err(|error| match error {
            RegistryError::State(error) => fatal(&error),
            error => damaged(error.to_string()),
        })?;
        self.local.feed.send(RegistryEvent::Resync);
        tracing::info!(%position, records, "installed a snapshot of the registry from another member");
        Ok(Restored::default())
    }
}
