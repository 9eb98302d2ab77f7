//! `holdfast restore`: a backup becomes the data directory of a new hub's first node.
//!
//! Invariants: nothing of the directory is changed before the backup, the key and the configuration have been found to fit; a
//! directory in which a restore has not ended is refused by `start`; the node has a new id in a new cluster, so that the
//! hub of old and the restored one never mix.
//! Not here: what is restored, and in which order (`holdfast_backup`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use holdfast_backup::{Manifest, RestoreParts, Target};
use holdfast_cli::exit_code::{Failure, Outcome};
use holdfast_consensus::transport::Alone;
use holdfast_consensus::{GroupHost, Groups};
use holdfast_model::{Clock, NodeId, UnixMillis};
use holdfast_storage::{DataDir, Disk as _, DiskGuard, Flusher, NodeIdentity, Sealer};
use holdfast_tasks::BlockingPool;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ConfigSource;
use super::backup::{Meter, block_on, chosen, failure, open, size};
use crate::backup_target::Access;
use crate::certs::write_private;
use crate::config::Config;
use crate::node::{self, RESTORING_FILE, sealing_key};
use crate::run;

/// Restore a backup into an empty data directory: that of a new hub's first node
///
/// The hub gets the identities, settings, device state and events of the backup, and is a cluster of its own; further nodes join
/// it as always. An interrupted restore is continued by the same command.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    source: ConfigSource,
    /// The folder of backups, or s3://BUCKET/PREFIX, azure://ACCOUNT/CONTAINER/PREFIX
    #[arg(long, value_name = "TARGET")]
    from: String,
    /// The backup; default: the newest
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// The newest state that is not later than this time, as 2026-11-30T08:45:00Z: of a backup, and the registry of a moment between two backups
    #[arg(long, value_name = "TIME", conflicts_with = "backup")]
    at: Option<String>,
    /// The data directory, in place of hub.data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(args: Restore) -> Result<(), Failure> {
    let mut config = super::config::read(&args.source, Config::default())?;
    if let Some(data_dir) = args.data_dir {
        config.hub.data_dir = data_dir;
    }
    let at = args.at.as_deref().map(time_of).transpose()?;
    block_on(restore(&config, &args.from, args.backup.as_deref(), at))
}

/// A time as RFC 3339 writes it, or as the id of a backup.
fn time_of(text: &str) -> Result<UnixMillis, Failure> {
    let id = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| time::PrimitiveDateTime::parse(text, id).map(time::PrimitiveDateTime::assume_utc));
    parsed
        .ok()
        .and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
        .map(UnixMillis)
        .ok_or_else(|| Failure::usage(format!("{text:?} is no time: write it as 2026-11-30T08:45:00Z")))
}

/// The manifest of the restore.
async fn select(target: &dyn Target, backup: Option<&str>, at: Option<UnixMillis>) -> Result<Manifest, Failure> {
    let Some(at) = at else {
        return chosen(target, backup).await;
    };
    let (manifest, point) = holdfast_backup::at(target, at).await.map_err(failure)?;
    let registry = match &point {
        Some(point) => format!("with the registry of {point}"),
        None => "with its own registry: none was kept between it and that time".to_owned(),
    };
    super::print(&format!("Backup {} is restored {registry}.\n", manifest.id))?;
    Ok(manifest)
}

async fn restore(config: &Config, from: &str, backup: Option<&str>, at: Option<UnixMillis>) -> Result<(), Failure> {
    let target = open(from, &config.backup, Access::Read).await?;
    let target = &*target;
    let manifest = select(target, backup, at).await?;
    check_partitions(config, &manifest)?;
    let dir = config.data_dir();
    check_directory(config, dir, &manifest)?;
    let wrapped = manifest.wrapped_key().map_err(failure)?;
    let kek = key(config)?;
    Sealer::unwrap(&kek, &wrapped).map_err(|_| {
        Failure::new(
            Outcome::CannotStart,
            "the hub's data key in the backup was wrapped by another key-encryption key than the one that is configured",
        )
        .advise("secrets.key_file, key_variable or key_command must give the key that the hub had when the backup was made")
    })?;

    let data = begin(dir, &manifest)?;
    let sealer = Sealer::adopt(data.path(), &kek, &wrapped).context("cannot keep the data key")?;
    let disk = holdfast_storage::open(&data, &config.storage).map_err(|error| node::storage_failure(&error))?;
    let on_fatal: holdfast_storage::OnFatal =
        Arc::new(|error| tracing::error!(%error, "the disk of the restored node fails"));
    let host = GroupHost {
        disk: Arc::clone(&disk) as _,
        flusher: Flusher::spawn(Arc::clone(&disk) as _, Arc::clone(&on_fatal)).context("cannot start the flusher")?,
        blocking_pool: BlockingPool::Threads,
        guard: DiskGuard::new(Arc::clone(&disk) as _, &config.storage).context("cannot read the free space")?,
        node: NodeId(data.identity().incarnation),
        on_fatal,
        transport: Arc::new(Alone),
        groups: Groups::default(),
    };
    let parts = RestoreParts {
        host,
        sealer: Arc::new(sealer),
        registry: config.registry.clone(),
        partition: config.partition.clone(),
        now: Clock::system().now(),
    };
    let mut shown = Meter::new();
    let mut progress = |now: holdfast_backup::RestoreProgress| {
        shown.show(now.read, || {
            format!(
                "{} of {} groups, {} of {}",
                now.groups_done,
                now.groups,
                size(now.read),
                size(now.bytes)
            )
        });
    };
    let restored = holdfast_backup::restore(target, &manifest, parts, &mut progress).await;
    shown.end();
    restored.map_err(failure)?;
    disk.flush().context("cannot write the last state")?;
    std::fs::remove_file(dir.join(RESTORING_FILE))?;
    super::print(&format!(
        "Backup {} of hub {} is restored to {}: {} partitions{}.\nStart the node; others join it with tokens of their own.\n",
        manifest.id,
        manifest.hub,
        dir.display(),
        manifest.partitions,
        if manifest.with_log {
            format!(", {} events", manifest.events())
        } else {
            String::new()
        },
    ))
}

fn check_partitions(config: &Config, manifest: &Manifest) -> Result<(), Failure> {
    if config.hub.partitions == manifest.partitions {
        return Ok(());
    }
    let text = format!(
        "the backup is of a hub with {} partitions, and hub.partitions is {}: the number never changes",
        manifest.partitions, config.hub.partitions
    );
    Err(Failure::usage(text).advise(format!("set hub.partitions = {}", manifest.partitions)))
}

/// Refuses a directory that holds anything but a key, or a restore of another backup.
fn check_directory(config: &Config, dir: &Path, manifest: &Manifest) -> Result<(), Failure> {
    match std::fs::read(dir.join(RESTORING_FILE)) {
        Ok(content) if content == note(manifest) => return Ok(()),
        Ok(content) => {
            let text = format!(
                "a restore of another backup has begun in {} and not ended: {}",
                dir.display(),
                String::from_utf8_lossy(&content).trim()
            );
            return Err(Failure::cannot_start(text).advise("end that one, or use an empty directory"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        // It does not exist; if it cannot be read, making it says why.
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name();
        let is_key = config.sealing_key_file() == dir.join(&name);
        if !is_key && name != "lost+found" {
            let text = format!("{} is not empty: it has {}", dir.display(), name.display());
            return Err(Failure::cannot_start(text).advise("restore into an empty directory; nothing is overwritten"));
        }
    }
    Ok(())
}

fn key(config: &Config) -> Result<holdfast_storage::Kek, Failure> {
    let file = config.sealing_key_file();
    if config.has_sealing_key_file() && !file.exists() {
        let text = format!("there is no key-encryption key at {}", file.display());
        return Err(Failure::cannot_start(text).advise(
            "put the key there that the hub had when the backup was made, mode 600; it is in no backup. Without it no stored key opens",
        ));
    }
    sealing_key::read(config)
        .map_err(|error| Failure::new(Outcome::CannotStart, format!("{:#}", anyhow::Error::from(error))))
}

/// The content of the file that marks a restore in progress.
fn note(manifest: &Manifest) -> Vec<u8> {
    let note = json!({"backup": manifest.id, "hub": manifest.hub, "checksum": manifest.checksum});
    format!("{note}\n").into_bytes()
}

/// Makes the directory that of a node whose restore is in progress.
fn begin(dir: &Path, manifest: &Manifest) -> Result<DataDir, Failure> {
    crate::preflight::data_dir(dir)?;
    write_private(&dir.join(RESTORING_FILE), &note(manifest))?;
    let new = || NodeIdentity {
        cluster: node::new_cluster(),
        incarnation: run::new_incarnation(),
    };
    let data = DataDir::open(dir, new).map_err(|error| node::storage_failure(&error))?;
    node::restored(&data)?;
    Ok(data)
}
