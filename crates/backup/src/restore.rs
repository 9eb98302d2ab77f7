//! Restoring a backup to the disk of a new node, which no hub uses.
//!
//! Order: the partitions, then the registry. Each is installed in one step that a crash does not divide, so that a restore that was
//! interrupted continues with the groups that are missing.
//! Invariants: the node is the only voter of every group; the restored registry knows no cluster, so that the first start
//! makes one (`registry::backup`).
//! Not here: the data directory (`holdfast`).

use std::sync::Arc;

use holdfast_consensus::{GroupHost, GroupId, LogPosition};
use holdfast_model::{PartitionId, UnixMillis};
use holdfast_partition::PartitionConfig;
use holdfast_partition::backup::{Begun, PartitionRestore};
use holdfast_registry::RegistryConfig;
use holdfast_registry::backup::{Begun as RegistryBegun, RegistryRestore};
use holdfast_storage::Sealer;

use crate::error::BackupError;
use crate::manifest::{Manifest, Position};
use crate::read;
use crate::target::Target;

/// The node to which is restored.
pub struct RestoreParts {
    /// Its disk.
    pub host: GroupHost,
    /// Opens the hub's secrets.
    pub sealer: Arc<Sealer>,
    /// Section `[registry]`.
    pub registry: RegistryConfig,
    /// Section `[partition]`.
    pub partition: PartitionConfig,
    /// The time now.
    pub now: UnixMillis,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreProgress {
    /// Groups that are complete.
    pub groups_done: u32,
    /// All groups.
    pub groups: u32,
    /// Bytes of objects that have been read.
    pub read: u64,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// Restores all groups of `manifest`; those that the disk has already are left. Blocks on the disk.
///
/// # Errors
/// [`BackupError`]; a later call continues.
pub async fn restore(
    target: &dyn Target,
    manifest: &Manifest,
    parts: RestoreParts,
    report: &mut (dyn FnMut(RestoreProgress) + Send),
) -> Result<(), BackupError> {
    let mut progress = RestoreProgress {
        groups: u32::from(manifest.partitions) + 1,
        bytes: manifest.bytes(),
        ..RestoreProgress::default()
    };
    for part in &manifest.partition {
        let id = PartitionId(part.partition);
        let group = GroupId::partition(id.0);
        match PartitionRestore::begin(id, &parts.host, &parts.partition).map_err(BackupError::storage(group))? {
            Begun::Already(position) => same(group, position, part.position)?,
            Begun::Restore(mut restore) => {
                let mut done = |bytes| {
                    progress.read += bytes;
                    report(progress);
                };
                read::partition(target, part, &mut |chunk| restore.write(chunk), &mut done).await?;
                restore
                    .finish(part.position.into())
                    .map_err(BackupError::storage(group))?;
            }
        }
        progress.groups_done += 1;
        report(progress);
    }
    let Some(registry) = &manifest.registry else {
        return Err(BackupError::damaged(&manifest.id, "it has no registry"));
    };
    match RegistryRestore::begin(&parts.host, parts.sealer, &parts.registry, parts.now)? {
        RegistryBegun::Already(position) => same(GroupId::REGISTRY, position, registry.position)?,
        RegistryBegun::Restore(mut restore) => {
            let mut done = |bytes| {
                progress.read += bytes;
                report(progress);
            };
            read::registry(target, manifest, &mut |record| Ok(restore.write(record)?), &mut done).await?;
            restore.finish(registry.position.into())?;
        }
    }
    progress.groups_done += 1;
    report(progress);
    Ok(())
}

fn same(group: GroupId, found: LogPosition, wanted: Position) -> Result<(), BackupError> {
    if found == wanted.into() {
        return Ok(());
    }
    let text = format!("the directory holds {group} up to {found}, which is of another backup: use an empty directory");
    Err(BackupError::NotOurs(text))
}
