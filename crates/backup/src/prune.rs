//! Removing old backups, and the objects that no other backup names.
//!
//! Invariants: the newest backup stays; manifests go before the objects that they alone name, so that a crash leaves objects without a
//! backup and never a backup without objects; nothing is removed where a manifest cannot be read, since its objects are not known.
//! Not here: when it is done, and that no other process writes meanwhile (`target`).

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_model::UnixMillis;

use crate::error::BackupError;
use crate::manifest::{self, Manifest, file_of};
use crate::object;
use crate::point::{self, RegistryPoint};
use crate::target::Target;

/// Which backups stay; one that either rule keeps stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The newest so many; the newest one in any case.
    pub newest: usize,
    /// Those that began within this time.
    pub within: Duration,
}

/// The removed backups and objects; with a dry run, those that would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// The ids of the backups, the oldest first.
    pub backups: Vec<String>,
    /// How many points of the registry.
    pub points: u64,
    /// How many objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many backups stay.
    pub kept: usize,
}

/// Removes the backups that `keep` does not name, and all objects that no backup names; those of an interrupted backup stay. With
/// `dry_run` it only says what it would remove.
///
/// # Errors
/// [`BackupError::Damaged`] and [`BackupError::Format`] when a manifest cannot be read: nothing is removed then.
pub async fn prune(target: &dyn Target, keep: Keep, now: UnixMillis, dry_run: bool) -> Result<Pruned, BackupError> {
    let mut manifests: Vec<Manifest> = Vec::new();
    for (_, manifest) in manifest::list(target).await? {
        manifests.push(manifest?);
    }
    let mut points: Vec<RegistryPoint> = Vec::new();
    for point in point::points(target).await? {
        points.push(point?);
    }
    let since = now
        .0
        .saturating_sub(u64::try_from(keep.within.as_millis()).unwrap_or(u64::MAX));
    let surplus = manifests.len().saturating_sub(keep.newest.max(1));
    // Ids are times, and the clock of the hub may have gone back: the first that is young enough keeps all behind it.
    let old = manifests
        .iter()
        .take(surplus)
        .take_while(|manifest| manifest.begun_ms < since || keep.within.is_zero())
        .count();
    let mut pruned = Pruned {
        kept: manifests.len() - old,
        ..Pruned::default()
    };
    for manifest in manifests.drain(..old) {
        if !dry_run {
            target.delete(&file_of(&manifest.id)).await?;
        }
        pruned.backups.push(manifest.id);
    }
    // A point is used with a backup before it.
    let oldest = manifests.first().map_or(u64::MAX, |manifest| manifest.ended_ms);
    let (kept, gone): (Vec<_>, Vec<_>) = points.into_iter().partition(|point| point.ended_ms >= oldest);
    for point in &gone {
        pruned.points += 1;
        if !dry_run {
            target.delete(&point::file_of(&point.id)).await?;
        }
    }
    let unfinished = manifest::unfinished(target).await?;
    let of_points = kept.iter().flat_map(|point| &point.registry.objects);
    let named: BTreeSet<&str> = manifests
        .iter()
        .chain(&unfinished)
        .flat_map(Manifest::all_objects)
        .chain(of_points)
        .map(|object| object.sha256.as_str())
        .collect();
    for folder in target.list(object::FOLDER).await? {
        for sha256 in target.list(&format!("{}/{folder}", object::FOLDER)).await? {
            if named.contains(sha256.as_str()) {
                continue;
            }
            let name = object::name(&sha256);
            pruned.bytes += target.size(&name).await?.unwrap_or_default();
            pruned.objects += 1;
            if !dry_run {
                target.delete(&name).await?;
            }
        }
    }
    Ok(pruned)
}
