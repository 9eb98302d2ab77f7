//! The disk of a node: database, flusher, disk guard, sealing, and the count of its starts.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use holdfast_consensus::GroupHost;
use holdfast_model::NodeId;
use holdfast_storage::{
    DataDir, Disk as _, DiskGuard, Flusher, OpenError, RocksDisk, Sealer, StorageConfig, StorageError,
};
use holdfast_tasks::BlockingPool;

use super::OnFatal;
use super::cluster_join::{ClusterJoin, Entry};
use super::sealing_key;
use crate::certs::write_private;
use crate::config::Config;
use holdfast_cli::exit_code::{Failure, Outcome};

/// Counts the starts of this data directory.
const STARTS_FILE: &str = "starts";

/// The open disk.
pub(crate) struct Store {
    disk: Arc<RocksDisk>,
    pub(crate) host: GroupHost,
    pub(crate) sealer: Arc<Sealer>,
    /// Counts the starts on this directory, from 1.
    pub(crate) start: u64,
}

impl Store {
    /// Opens the database. Blocks while the write-ahead log is replayed.
    ///
    /// # Errors
    /// Says what is damaged and what to do.
    pub(crate) fn open(
        config: &Config,
        data: &DataDir,
        on_fatal: &OnFatal,
        cluster: &ClusterJoin,
        entry: &Entry,
    ) -> Result<Self, Failure> {
        let kek = sealing_key::read(config).map_err(|error| sealing_failure(&error.into()))?;
        let sealer = match entry {
            Entry::Joined(answer) => Sealer::adopt(data.path(), &kek, &answer.wrapped_key),
            Entry::Founder | Entry::Member => Sealer::of_directory(data.path(), &kek, data.is_fresh()),
        }
        .map_err(|error| sealing_failure(&error.into()))?;
        let start = count_start(data)?;
        let storage = StorageConfig {
            blobs: config.blob.enabled,
            ..config.storage.clone()
        };
        let disk = holdfast_storage::open(data, &storage).map_err(|error| storage_failure(&error))?;
        let fatal: Arc<dyn Fn(&StorageError) + Send + Sync> = {
            let on_fatal = Arc::clone(on_fatal);
            Arc::new(move |error| on_fatal(error.to_string()))
        };
        let flusher = Flusher::spawn(Arc::clone(&disk) as _, Arc::clone(&fatal)).context("cannot start the flusher")?;
        let guard = DiskGuard::new(Arc::clone(&disk) as _, &config.storage).context("cannot read the free space")?;
        if !guard.writable() {
            tracing::warn!("the disk is nearly full: starting without taking writes (storage.min_free)");
        }
        let host = GroupHost {
            disk: Arc::clone(&disk) as _,
            flusher,
            blocking_pool: BlockingPool::Threads,
            guard,
            node: NodeId(data.identity().incarnation),
            on_fatal: fatal,
            transport: cluster.transport(),
            groups: holdfast_consensus::Groups::default(),
        };
        Ok(Self {
            disk,
            host,
            sealer: Arc::new(sealer),
            start,
        })
    }

    /// Writes memory to files, so that the next start has nothing to replay. Everything is synced before.
    ///
    /// # Errors
    /// When the disk fails; everything acknowledged is in the write-ahead log all the same.
    pub(crate) async fn close(self) -> Result<()> {
        let disk = self.disk;
        holdfast_tasks::spawn_blocking(move || disk.flush())
            .await
            .context("cannot write the last state")
    }
}

/// Lets the starts of a restored directory count from 1.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn begin_counting_starts(data: &DataDir) -> Result<(), Failure> {
    Ok(write_private(&data.path().join(STARTS_FILE), b"0\n")?)
}

fn count_start(data: &DataDir) -> Result<u64, Failure> {
    let path = data.path().join(STARTS_FILE);
    let before: u64 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            Failure::new(Outcome::Storage, format!("{} holds no number", path.display()))
                .advise("write one into it that is larger than the number of starts so far; it must never go back")
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && data.is_fresh() => 0,
        Err(error) => {
            return Err(
                Failure::new(Outcome::Storage, format!("cannot read {}: {error}", path.display())).advise(
                    "write a number into it that is larger than the number of starts so far; it must never go back",
                ),
            );
        }
    };
    write_private(&path, format!("{}\n", before + 1).as_bytes())?;
    Ok(before + 1)
}

/// The exit code and the advice for an unusable data directory.
pub(crate) fn storage_failure(error: &OpenError) -> Failure {
    let (outcome, advice) = match error {
        OpenError::InUse(_) => (
            Outcome::CannotStart,
            "stop the hub that has it, or use another directory",
        ),
        OpenError::OpenFiles { .. } => (
            Outcome::CannotStart,
            "raise the limit (LimitNOFILE= in systemd, `ulimit -n`) or lower storage.max_open_files",
        ),
        OpenError::Io { .. } => (
            Outcome::CannotStart,
            "check owner, mode and mount of the data directory",
        ),
        OpenError::Format { .. } => (
            Outcome::Storage,
            "use the program version that wrote it, or restore a backup made by this one",
        ),
        OpenError::FeatureLevel { .. } => (
            Outcome::Storage,
            "start the version that ran here before, or a later one: nothing has been changed (docs/compatibility.md, \"Versions of Holdfast\")",
        ),
        OpenError::Damaged { .. } | OpenError::DatabaseGone { .. } | OpenError::MarkerGone { .. } => (
            Outcome::Storage,
            "do not delete anything; see \"Damaged data\" in docs/runbook.md",
        ),
    };
    Failure::new(outcome, error).advise(advice)
}

fn sealing_failure(error: &anyhow::Error) -> Failure {
    Failure::new(
        Outcome::CannotStart,
        format!("cannot open the stored secrets: {error:#}"),
    )
    .advise(
        "secrets.key_file, key_variable or key_command must give the very key that was used when this data directory was made, or \
         that `holdfast secrets rotate` has given it; all nodes of a cluster have the same",
    )
}
