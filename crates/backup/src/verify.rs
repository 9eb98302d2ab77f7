//! Checking a backup without restoring it: every object, every record, every entry.
//!
//! Invariants: the checks are those of a restore; nothing is written.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_consensus::GroupId;
use holdfast_model::PartitionId;
use holdfast_partition::PartitionConfig;
use holdfast_partition::backup::SnapshotCheck;
use holdfast_registry::backup::check_record;

use crate::error::BackupError;
use crate::manifest::{Manifest, RegistryPart};
use crate::point::points;
use crate::read;
use crate::target::Target;

/// What a checked backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Records of the registry, by their kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Values of device state.
    pub device_states: u64,
    /// Events.
    pub events: u64,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// Checks everything that `manifest` names. `done` is called with the bytes of each checked object.
///
/// # Errors
/// [`BackupError::Damaged`] and [`BackupError::Storage`] name the first file or group that is not as it was written.
pub async fn verify(
    target: &dyn Target,
    manifest: &Manifest,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Verified, BackupError> {
    let mut found = Verified {
        events: manifest.events(),
        bytes: manifest.bytes(),
        device_states: manifest.partition.iter().map(|part| part.device_states).sum(),
        ..Verified::default()
    };
    let config = PartitionConfig::default();
    for part in &manifest.partition {
        let id = PartitionId(part.partition);
        let mut check = SnapshotCheck::new(id, &config);
        read::partition(target, part, &mut |chunk| check.write(chunk), done).await?;
        check.finish().map_err(BackupError::storage(GroupId::partition(id.0)))?;
    }
    let registry = manifest.registry.as_ref();
    let registry = registry.ok_or_else(|| BackupError::damaged("the manifest", "it has no registry"))?;
    check_registry(target, registry, &mut found.records, done).await?;
    Ok(found)
}

/// Checks the states of the registry that were kept between backups, and gives their number.
///
/// # Errors
/// As [`verify`].
pub async fn verify_points(target: &dyn Target, done: &mut (dyn FnMut(u64) + Send)) -> Result<u64, BackupError> {
    let mut count = 0;
    for point in points(target).await? {
        check_registry(target, &point?.registry, &mut BTreeMap::new(), done).await?;
        count += 1;
    }
    Ok(count)
}

async fn check_registry(
    target: &dyn Target,
    registry: &RegistryPart,
    found: &mut BTreeMap<&'static str, u64>,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<(), BackupError> {
    let mut last = Bytes::new();
    let mut take = |(key, value): (Bytes, Bytes)| {
        if key <= last {
            return Err(BackupError::damaged("the registry", "its keys do not ascend"));
        }
        let kind = check_record(&key, &value).map_err(|reason| BackupError::damaged("the registry", reason))?;
        *found.entry(kind).or_default() += 1;
        last = key;
        Ok(())
    };
    read::registry_part(target, registry, &mut take, done).await
}
