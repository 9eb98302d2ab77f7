//! Reading a backup: its objects as the chunks of snapshots, for a receiver of snapshots.
//!
//! Invariants: an object is in memory at a time; each has been checked against its hash before its items are used; a partition's
//! chunks are those that a member would send that had exactly this state and log.
//! Not here: what is done with the chunks (`verify`, `restore`).

use bytes::Bytes;
use holdfast_consensus::GroupId;
use holdfast_model::PartitionId;
use holdfast_partition::backup::{EntryCutter, Part, PartEncoder, Totals};
use holdfast_registry::backup::Record;
use holdfast_storage::StorageError;

use crate::error::BackupError;
use crate::manifest::{Manifest, ObjectRef, PartitionPart, RegistryPart};
use crate::object::{self, Kind, MAX_OBJECT_BYTES};
use crate::target::Target;

/// Bytes of the length that precedes an entry.
const LENGTH_BYTES: usize = 4;

/// The items of an object.
async fn items(target: &dyn Target, reference: &ObjectRef, kind: Kind, group: GroupId) -> Result<Bytes, BackupError> {
    let name = object::name(&reference.sha256);
    if reference.bytes > MAX_OBJECT_BYTES {
        return Err(BackupError::damaged(name, "it is longer than any object"));
    }
    // As read from a manifest, which may come from anywhere.
    let is_hash = reference.sha256.len() == 64 && reference.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hash {
        return Err(BackupError::damaged(name, "its name is no SHA-256"));
    }
    let content = target.get(&name, reference.bytes).await?;
    let content = content.ok_or_else(|| BackupError::damaged(&name, "it is missing"))?;
    object::open(reference, content, kind, group)
}

/// Gives the records of the registry in a backup to `take`, ascending by key, and `done` the bytes of each object.
///
/// # Errors
/// [`BackupError::Damaged`], and what `take` returns.
pub async fn registry(
    target: &dyn Target,
    manifest: &Manifest,
    take: &mut (dyn FnMut(Record) -> Result<(), BackupError> + Send),
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<(), BackupError> {
    let Some(part) = &manifest.registry else {
        return Err(BackupError::damaged(&manifest.id, "it has no registry"));
    };
    registry_part(target, part, take, done).await
}

/// The same of a registry that is part of no manifest.
pub(crate) async fn registry_part(
    target: &dyn Target,
    part: &RegistryPart,
    take: &mut (dyn FnMut(Record) -> Result<(), BackupError> + Send),
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<(), BackupError> {
    let mut records = 0;
    for reference in &part.objects {
        let mut items = items(target, reference, Kind::Registry, GroupId::REGISTRY).await?;
        while let Some(record) = object::take_record(&mut items)
            .map_err(|reason| BackupError::damaged(object::name(&reference.sha256), reason))?
        {
            records += 1;
            take(record)?;
        }
        done(reference.bytes);
    }
    if records != part.records {
        return Err(BackupError::damaged("the registry", "records are missing"));
    }
    Ok(())
}

/// Gives the chunks of a partition's snapshot to `take`, and `done` the bytes of each object.
pub(crate) async fn partition(
    target: &dyn Target,
    part: &PartitionPart,
    take: &mut (dyn FnMut(Bytes) -> Result<(), StorageError> + Send),
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<(), BackupError> {
    let id = PartitionId(part.partition);
    let group = GroupId::partition(id.0);
    let mut encoder = PartEncoder::default();
    let mut give = |part: &Part| {
        encoder
            .encode(part)
            .into_iter()
            .try_for_each(&mut *take)
            .map_err(BackupError::storage(group))
    };
    let mut state = items(target, &part.state, Kind::State, group).await?;
    let damaged = |reference: &ObjectRef, reason: &str| BackupError::damaged(object::name(&reference.sha256), reason);
    while let Some((kind, payload)) = object::take_part(&mut state).map_err(|reason| damaged(&part.state, reason))? {
        give(&match kind {
            object::HEAD => Part::Head(payload),
            object::POINTS => Part::Points(payload),
            object::SKIPPED => Part::Skipped(payload),
            _ => return Err(damaged(&part.state, "a part of it is of an unknown kind")),
        })?;
    }
    done(part.state.bytes);
    for reference in &part.device_state_objects {
        let mut items = items(target, reference, Kind::DeviceStates, group).await?;
        let mut states = Vec::new();
        while let Some(state) = object::take_record(&mut items).map_err(|reason| damaged(reference, reason))? {
            states.push(state);
        }
        give(&Part::DeviceStates(states))?;
        done(reference.bytes);
    }
    let mut totals = Totals {
        points: part.points,
        skipped: part.skipped,
        device_states: part.device_states,
        ..Totals::default()
    };
    for segment in &part.segments {
        let items = items(target, &segment.object, Kind::Log, group).await?;
        let (mut index, mut wanted) = (segment.first, Vec::with_capacity(items.len()));
        let mut cutter = EntryCutter::default();
        cutter.push(items);
        while let Some(entry) = cutter.next_entry().map_err(BackupError::storage(group))? {
            if index >= part.first_index {
                totals.entries += 1;
                totals.bytes += (entry.len() - LENGTH_BYTES) as u64;
                wanted.extend_from_slice(&entry);
            }
            index += 1;
        }
        if !cutter.is_empty() || index != segment.last + 1 {
            return Err(damaged(&segment.object, "entries of it are missing"));
        }
        give(&Part::Log(wanted.into()))?;
        done(segment.object.bytes);
    }
    give(&Part::End(totals))
}
