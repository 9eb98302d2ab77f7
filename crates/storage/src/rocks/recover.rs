//! Checks before RocksDB opens its files: complete records, no holes; a cut-off tail is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::record_file::{Checked, Unreadable, check};

/// Checks the manifest and the write-ahead logs in `database`, and removes a tail that a crash has cut off.
///
/// # Errors
/// [`OpenError::Damaged`] names file and offset. Nothing has been changed then.
pub(super) fn check_files(database: &Path) -> Result<(), OpenError> {
    if let Some(manifest) = current_manifest(database)? {
        checked(&manifest)?;
    }
    let mut logs = Vec::new();
    for path in write_ahead_logs(database)? {
        let found = checked(&path)?;
        logs.push((path, found));
    }
    let mut cut_off = Vec::new();
    for (position, (path, found)) in logs.iter().enumerate() {
        if found.whole == found.length {
            continue;
        }
        // The flusher syncs older logs before newer ones, so that no record after a cut-off one was acknowledged, and the
        // newer logs are empty after a crash. If one holds records, the damage has another cause.
        if logs[position + 1..].iter().any(|(_, later)| later.records > 0) {
            return Err(OpenError::Damaged {
                file: path.clone(),
                offset: Some(found.whole),
                reason: "a record is cut off, but later files hold records".to_owned(),
            });
        }
        cut_off.push((path, found));
    }
    for (path, found) in cut_off {
        let dropped = found.length - found.whole;
        tracing::warn!(
            file = %path.display(),
            offset = found.whole,
            dropped,
            "the last record was cut off by a crash and is dropped; it was never acknowledged"
        );
        File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(found.whole).and_then(|()| file.sync_all()))
            .map_err(|error| OpenError::io(path, error))?;
    }
    Ok(())
}

fn checked(path: &Path) -> Result<Checked, OpenError> {
    check(path).map_err(|error| match error {
        Unreadable::Damaged { offset, reason } => OpenError::Damaged {
            file: path.to_owned(),
            offset: Some(offset),
            reason: reason.to_owned(),
        },
        Unreadable::Io(error) => OpenError::io(path, error),
    })
}

fn current_manifest(database: &Path) -> Result<Option<PathBuf>, OpenError> {
    let current = database.join("CURRENT");
    match fs::read_to_string(&current) {
        Ok(name) => {
            let manifest = database.join(name.trim());
            if name.trim().starts_with("MANIFEST-") && manifest.exists() {
                Ok(Some(manifest))
            } else {
                let reason = "it does not name a manifest that exists".to_owned();
                Err(OpenError::Damaged {
                    file: current,
                    offset: None,
                    reason,
                })
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(&current, error)),
    }
}

/// In the order of their numbers.
fn write_ahead_logs(database: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = match fs::read_dir(database) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io(database, error)),
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| OpenError::io(database, error))?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|extension| extension.to_str())) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}
