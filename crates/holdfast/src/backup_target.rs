//! Opens the place of backups: a folder, or an object store by its URL.
//!
//! Not here: what lies there (`holdfast_backup`), the clients of object stores (`holdfast_blob`).

use std::path::Path;

use anyhow::Context as _;
use holdfast_backup::{BackupError, Directory, ObjectTarget, Target, TargetError};
use holdfast_blob::{RemotePlace, describe_store_error, open_remote};

use crate::config::BackupConfig;

/// What a target is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// One process at a time.
    Write,
}

/// Opens `place` with the access that `config` describes.
///
/// # Errors
/// The URL, the credentials or the place cannot be used, or another process writes there.
pub(crate) async fn open(place: &str, config: &BackupConfig, access: Access) -> anyhow::Result<Box<dyn Target>> {
    let Some(remote) =
        RemotePlace::parse(place).with_context(|| format!("{place:?} cannot be the place of backups"))?
    else {
        let path = Path::new(place);
        return Ok(match access {
            Access::Read => Box::new(Directory::read_only(path)),
            Access::Write => Box::new(Directory::writable(path).map_err(BackupError::from)?),
        });
    };
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_") || name.starts_with("AZURE_"))
        .collect();
    let (settings, parsed) = (config.access(), remote.clone());
    let store = holdfast_tasks::spawn_blocking(move || open_remote(&parsed, &settings, &environment)).await?;
    let prefix = remote.prefix();
    Ok(match access {
        Access::Read => Box::new(ObjectTarget::read_only(store, prefix, place, describe_store_error)),
        Access::Write => {
            let opened: Result<_, TargetError> =
                ObjectTarget::writable(store, prefix, place, describe_store_error).await;
            Box::new(opened.map_err(BackupError::from)?)
        }
    })
}
