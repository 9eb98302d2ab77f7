//! The registry of moments between two backups, for a restore at a time (docs/decisions/0059).
//!
//! ```text
//! points/ID.json            the registry at a moment: which objects; the id is the time at which it was read, in UTC
//! ```
//!
//! Why a state and no log of commands: a restore then depends on no earlier version's commands, and a point costs only the blocks of
//! records that have changed since the one before.
//! Invariants: a point is used with a backup that ended before it, as the registry of a backup is read after its partitions; it is
//! of the same cluster; it carries the SHA-256 of itself.

use bytes::Bytes;
use holdfast_model::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::manifest::{self, FORMAT, MAX_MANIFEST_BYTES, Manifest, RegistryPart, check_format, text_of};
use crate::object;
use crate::target::Target;

/// The folder of points.
const POINTS: &str = "points";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryPoint {
    /// As of a manifest.
    pub format: u32,
    /// The time at which it was read, in UTC.
    pub id: String,
    /// The hub's id.
    pub hub_id: String,
    /// The cluster's id.
    pub cluster: String,
    /// When reading began, milliseconds since 1970: everything that was acknowledged before is in it.
    pub begun_ms: u64,
    /// When it had ended: nothing that came later is in it.
    pub ended_ms: u64,
    /// The hub's data key, wrapped, in hexadecimal digits.
    pub wrapped_key: String,
    /// The registry.
    pub registry: RegistryPart,
    /// The SHA-256 of the point with an empty text here.
    pub checksum: String,
}

impl RegistryPoint {
    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut sealed = self.clone();
        sealed.checksum = String::new();
        sealed.checksum = object::sha256(&text_of(&sealed));
        text_of(&sealed).into()
    }

    fn decode(name: &str, content: &[u8]) -> Result<Self, BackupError> {
        check_format(name, content)?;
        let point: Self = serde_json::from_slice(content).map_err(|error| BackupError::damaged(name, error))?;
        match *point.encode() == *content && point.format == FORMAT {
            true => Ok(point),
            false => Err(BackupError::damaged(name, "its checksum does not match")),
        }
    }
}

pub(crate) fn file_of(id: &str) -> String {
    format!("{POINTS}/{id}.json")
}

/// The points of a folder, the oldest first; those that cannot be read as errors.
///
/// # Errors
/// [`BackupError::Target`].
pub async fn points(target: &dyn Target) -> Result<Vec<Result<RegistryPoint, BackupError>>, BackupError> {
    let mut found = Vec::new();
    for file in target.list(POINTS).await? {
        let name = format!("{POINTS}/{file}");
        // Removed meanwhile.
        let Some(content) = target.get(&name, MAX_MANIFEST_BYTES).await? else {
            continue;
        };
        found.push(RegistryPoint::decode(&name, &content));
    }
    Ok(found)
}

/// The newest point; `None` when there is none that can be read.
///
/// # Errors
/// [`BackupError::Target`].
pub async fn latest_point(target: &dyn Target) -> Result<Option<RegistryPoint>, BackupError> {
    let Some(file) = target.list(POINTS).await?.pop() else {
        return Ok(None);
    };
    let name = format!("{POINTS}/{file}");
    let content = target.get(&name, MAX_MANIFEST_BYTES).await?;
    Ok(content.and_then(|content| RegistryPoint::decode(&name, &content).ok()))
}

/// The newest state of the hub that is not later than `time`: the newest backup that had ended, with the registry of the newest point
/// since, and the id of that point.
///
/// # Errors
/// [`BackupError::NotFound`] when no backup had ended by then; [`BackupError::Damaged`] when a manifest or point that might be the one cannot
/// be read: an earlier one in its place would be a surprise.
pub async fn at(target: &dyn Target, time: UnixMillis) -> Result<(Manifest, Option<String>), BackupError> {
    let mut base: Option<Manifest> = None;
    let mut oldest = None;
    for (_, manifest) in manifest::list(target).await? {
        let manifest = manifest?;
        oldest = oldest.or(Some(manifest.ended_ms));
        if manifest.ended_ms <= time.0 {
            base = Some(manifest);
        }
    }
    let Some(base) = base else {
        let text = match oldest {
            Some(oldest) => format!(
                "no backup had ended by that time; the oldest one ended at {}",
                manifest::new_id(UnixMillis(oldest))
            ),
            None => "there is no complete backup".to_owned(),
        };
        return Err(BackupError::NotFound(text));
    };
    let mut chosen: Option<RegistryPoint> = None;
    let since = base.registry.as_ref().map_or(0, |registry| registry.position.index);
    for point in points(target).await? {
        let point = point?;
        let is_of_base = point.cluster == base.cluster && point.registry.position.index >= since;
        if is_of_base && (base.ended_ms..=time.0).contains(&point.ended_ms) {
            chosen = Some(point);
        }
    }
    let Some(point) = chosen else {
        return Ok((base, None));
    };
    let manifest = Manifest {
        wrapped_key: point.wrapped_key,
        registry: Some(point.registry),
        // Another restore than that of the backup alone.
        checksum: format!("{}+{}", base.checksum, point.checksum),
        ..base
    };
    Ok((manifest, Some(point.id)))
}
