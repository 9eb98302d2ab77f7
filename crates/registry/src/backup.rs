//! The registry outside of a running hub: its records for a backup, and a backup's records for a new hub.
//!
//! Invariants: a record of a backup is the record as stored, secrets sealed; a restored registry holds all of them but those that
//! describe the cluster of old (members, placements, join tokens, its id), so that its first start makes a cluster of its own
//! and no node or token of the old one can enter it.
//! Not here: objects and files (`backup`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_consensus::{GroupHost, GroupId, LogPosition, SnapshotSink, StateMachine, set_vote_of, sole_membership};
use holdfast_model::UnixMillis;
use holdfast_proto::registry::v1 as proto;
use holdfast_storage::{Durability, Sealer, StorageError, WriteBatch};
use prost::Message;

use crate::cluster::MAX_REMOVED_NODES;
use crate::config::RegistryConfig;
use crate::error::RegistryError;
use crate::local::Local;
use crate::machine::Machine;
use crate::secrets::Secrets;
use crate::snapshot::{Chunk, ChunkWriter};
use crate::state::layout::{self, OfCluster};

/// A record: key and value as stored.
pub type Record = (Bytes, Bytes);

/// Takes the chunks of a snapshot apart.
#[derive(Debug, Default)]
pub struct RecordReader {
    headed: bool,
    ended: bool,
    records: u64,
}

impl RecordReader {
    /// The records of the next chunk.
    ///
    /// # Errors
    /// [`StorageError::Damaged`].
    pub fn take(&mut self, chunk: Bytes) -> Result<Vec<Record>, StorageError> {
        match Chunk::decode(chunk)? {
            Chunk::Head if !self.headed => {
                self.headed = true;
                Ok(Vec::new())
            }
            Chunk::Records(records) if self.headed && !self.ended => {
                self.records += records.len() as u64;
                Ok(records)
            }
            Chunk::End(records) if self.headed && !self.ended && records == self.records => {
                self.ended = true;
                Ok(Vec::new())
            }
            _ => Err(damaged("a chunk is missing or out of order")),
        }
    }

    /// Whether all records have come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

/// Decodes a record by its key, and gives the name of its kind.
///
/// # Errors
/// Why it is no record of the registry.
pub fn check_record(key: &[u8], value: &[u8]) -> Result<&'static str, String> {
    layout::check_record(key, value)
}

/// Whether a record describes the cluster and is not restored.
#[must_use]
pub fn is_of_cluster(key: &[u8]) -> bool {
    layout::of_cluster(key).is_some()
}

/// Why a registry cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The disk fails, or the records are no registry.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The restored records cannot be used; the key-encryption key may be another one.
    #[error("the restored registry cannot be used")]
    Registry(#[from] RegistryError),
}

/// What [`RegistryRestore::begin`] finds.
pub enum Begun {
    /// The registry can be restored.
    Restore(Box<RegistryRestore>),
    /// The disk has it already, up to this position.
    Already(LogPosition),
}

/// A registry that is being restored on a disk without a running hub.
pub struct RegistryRestore {
    host: GroupHost,
    machine: Machine,
    sink: Box<dyn SnapshotSink>,
    writer: ChunkWriter,
    /// The members of the cluster of old and those that it had removed: none of them comes back. Held back until the keys of
    /// removed nodes are due.
    removed: BTreeMap<Vec<u8>, proto::RemovedNodeRecord>,
    now: UnixMillis,
    last_key: Bytes,
}

impl RegistryRestore {
    /// Begins to restore the registry. `now` is the time of removal of the members of old.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn begin(
        host: &GroupHost,
        sealer: Arc<Sealer>,
        config: &RegistryConfig,
        now: UnixMillis,
    ) -> Result<Begun, RestoreError> {
        let local = Arc::new(Local::new(host.disk.clone(), Secrets::new(sealer), config)?);
        let mut machine = Machine::open(local).map_err(RegistryError::from)?;
        if let (Some(position), _) = machine.applied() {
            return Ok(Begun::Already(position));
        }
        let mut sink = machine.receive()?;
        sink.write(ChunkWriter::head())?;
        Ok(Begun::Restore(Box::new(Self {
            host: host.clone(),
            machine,
            sink,
            writer: ChunkWriter::default(),
            removed: BTreeMap::new(),
            now,
            last_key: Bytes::new(),
        })))
    }

    /// Takes the next record, ascending by key. Blocks on the disk.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn write(&mut self, (key, value): Record) -> Result<(), RestoreError> {
        if key <= self.last_key {
            return Err(damaged("its keys do not ascend").into());
        }
        self.last_key = key.clone();
        match layout::of_cluster(&key) {
            Some(OfCluster::Node(id)) => {
                let node = proto::NodeRecord::decode(value).map_err(|_| damaged("a member cannot be decoded"))?;
                let removed = proto::RemovedNodeRecord {
                    record_version: 1,
                    name: node.name,
                    removed_ms: self.now.0,
                };
                self.removed.insert(layout::removed_node(id), removed);
                return Ok(());
            }
            Some(OfCluster::Other) => return Ok(()),
            None => {}
        }
        let range = layout::removed_nodes();
        if range.contains(&key.to_vec()) {
            let record =
                proto::RemovedNodeRecord::decode(value).map_err(|_| damaged("a removed node cannot be decoded"))?;
            self.removed.insert(key.to_vec(), record);
            return Ok(());
        }
        if *key >= *range.end {
            self.put_removed()?;
        }
        self.put(&key, &value)
    }

    fn put_removed(&mut self) -> Result<(), RestoreError> {
        let mut removed = std::mem::take(&mut self.removed);
        while removed.len() > MAX_REMOVED_NODES {
            let oldest = removed.iter().min_by_key(|(_, node)| node.removed_ms);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            removed.remove(&key);
        }
        for (key, node) in removed {
            self.put(&key, &node.encode_to_vec())?;
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        if let Some(chunk) = self.writer.push(key, value)? {
            self.sink.write(chunk)?;
        }
        Ok(())
    }

    /// Installs the records as of `position`; afterwards this node alone votes in the registry. Atomic over crashes. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(mut self, position: LogPosition) -> Result<(), RestoreError> {
        self.put_removed()?;
        for chunk in self.writer.end() {
            self.sink.write(chunk)?;
        }
        let sealed = self.sink.seal()?;
        let mut vote = WriteBatch::new();
        set_vote_of(&mut vote, GroupId::REGISTRY, position);
        self.host.disk.write(&vote, Durability::Logged)?;
        // The installation reaches the disk by itself: the vote must be there before it.
        self.host.disk.sync()?;
        let membership = sole_membership(position, self.host.node)?;
        self.machine.restore(position, membership, sealed)?;
        Ok(())
    }
}

fn damaged(reason: &str) -> StorageError {
    StorageError::Damaged {
        file: "backup of the registry".to_owned(),
        offset: None,
        reason: reason.to_owned(),
    }
}
