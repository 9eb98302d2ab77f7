//! The backups that the hub makes by itself (`[backup]`, docs/decisions/0059).
//!
//! Why the leader of the registry: exactly one node does it, and another one continues when it is gone. What counts is the newest
//! backup in the target, so that no node has to remember anything.
//! Invariants: at most one run at a time, on a thread of its own and at a low priority, so that hashing and the target keep no
//! core from its devices; a run that fails is repeated after [`RETRY`], and continues with what is complete.
//! Not here: what is made and removed (`holdfast_backup`).

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use holdfast_backup::{
    BackupError, CreateOptions, Exported, HubFacts, HubSource, Keep, Manifest, Pruned, Schedule, Target,
};
use holdfast_cluster::control::Control;
use holdfast_consensus::{GroupId, LogScope};
use holdfast_model::{Clock, UnixMillis};
use holdfast_registry::Registry;
use holdfast_tasks::{Phase, Stop};
use tokio::runtime::Handle;

use crate::backup_target::{self, Access};
use crate::config::BackupConfig;
use crate::metrics_catalogue as metrics;

/// How often the schedule is looked at.
const TICK: Duration = Duration::from_secs(5);

/// How long after a run that has failed the next one comes.
const RETRY: Duration = Duration::from_secs(10 * 60);

/// How long removing the lock may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The version of the facts that this program gives.
const FACTS_VERSION: u32 = 1;

/// The newest state in the target, as far as this node knows it while it leads.
#[derive(Debug, Default)]
struct Known {
    /// When the newest backup began.
    last: Option<UnixMillis>,
    /// When the registry was kept last, and up to which entry.
    kept: Option<(Instant, u64)>,
}

/// Makes backups while this node leads the registry, until it stops.
pub(super) async fn run(config: BackupConfig, schedule: Schedule, registry: Registry, control: Control, stop: Stop) {
    metrics::backup_interval().set(schedule.interval().as_secs_f64());
    // An alert compares it, and a series that is not there would be no reason to fire where no backup has ever worked.
    metrics::backup_last_success().set(0.0);
    let hub = Hub {
        registry,
        control,
        runtime: Handle::current(),
        stop: stop.clone(),
    };
    let work = async {
        let (mut known, mut not_before) = (None, Instant::now());
        loop {
            tokio::time::sleep(TICK).await;
            if !hub.registry.is_leader() {
                known = None;
                continue;
            }
            if Instant::now() < not_before {
                continue;
            }
            if let Err(error) = step(&config, schedule, &hub, &mut known).await {
                metrics::backup_runs("failed").increment(1);
                tracing::error!(
                    target = config.target,
                    error = format!("{error:#}"),
                    "the backup has failed; trying again in {} min",
                    RETRY.as_secs() / 60
                );
                not_before = Instant::now() + RETRY;
                known = None;
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.reached(Phase::Draining) => {}
        () = work => {}
    }
}

/// Does what is due now.
async fn step(config: &BackupConfig, schedule: Schedule, hub: &Hub, known: &mut Option<Known>) -> anyhow::Result<()> {
    let now = || Clock::system().now();
    let known = match known {
        Some(known) => known,
        None => known.insert(read_newest(config).await?),
    };
    if schedule.is_due(known.last, now()) {
        let begun = Instant::now();
        let (manifest, pruned) = make(config.clone(), hub.clone()).await?;
        succeeded(&manifest, begun.elapsed(), &pruned);
        known.last = Some(UnixMillis(manifest.begun_ms));
        let index = manifest.registry.as_ref().map_or(0, |registry| registry.position.index);
        known.kept = Some((Instant::now(), index));
        return Ok(());
    }
    let interval = config.registry_interval.get();
    let applied = hub.registry.group().applied_index();
    let is_due = known
        .kept
        .is_none_or(|(at, index)| at.elapsed() >= interval && index != applied);
    if !interval.is_zero() && is_due {
        let point = keep_registry(config.clone(), hub.clone()).await?;
        known.kept = Some((Instant::now(), point));
        metrics::backup_registry_states().increment(1);
    }
    Ok(())
}

/// The newest backup in the target.
async fn read_newest(config: &BackupConfig) -> anyhow::Result<Known> {
    let target = backup_target::open(&config.target, config, Access::Read).await?;
    let newest = match holdfast_backup::latest(&*target).await {
        Ok(manifest) => Some(manifest),
        Err(BackupError::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(newest) = &newest {
        show(newest);
    }
    Ok(Known {
        last: newest.map(|newest| UnixMillis(newest.begun_ms)),
        kept: None,
    })
}

/// Makes a backup, and removes old ones.
async fn make(config: BackupConfig, hub: Hub) -> anyhow::Result<(Manifest, Pruned)> {
    apart(move || async move {
        let target = backup_target::open(&config.target, &config, Access::Write).await?;
        let made = create_and_prune(&*target, &config, &hub);
        unless_stopped(&hub.stop, &*target, made).await
    })
    .await
}

async fn create_and_prune(target: &dyn Target, config: &BackupConfig, hub: &Hub) -> anyhow::Result<(Manifest, Pruned)> {
    let options = CreateOptions {
        with_log: config.with_log,
        full: false,
        clock: || Clock::system().now(),
    };
    let mut read = 0;
    let mut progress = |now: holdfast_backup::Progress| {
        metrics::backup_read_bytes().increment(now.read.saturating_sub(read));
        read = now.read;
    };
    let manifest = holdfast_backup::create(hub, &hub.facts()?, target, options, &mut progress).await?;
    let keep = Keep {
        newest: config.keep,
        within: crate::cli::backup::days(config.keep_days),
    };
    let pruned = holdfast_backup::prune(target, keep, Clock::system().now(), false).await?;
    Ok((manifest, pruned))
}

/// Keeps the registry as it is now; gives the index of its last entry.
async fn keep_registry(config: BackupConfig, hub: Hub) -> anyhow::Result<u64> {
    apart(move || async move {
        let target = backup_target::open(&config.target, &config, Access::Write).await?;
        let facts = hub.facts()?;
        let kept = async {
            let kept = holdfast_backup::create_point(&hub, &facts, &*target, || Clock::system().now());
            Ok(kept.await?)
        };
        let kept = unless_stopped(&hub.stop, &*target, kept).await?;
        tracing::debug!(id = kept.id, "kept the registry for a restore at a time");
        Ok(kept.registry.position.index)
    })
    .await
}

/// Does `work` on `target`, and lets others write there then; a node that stops does not wait for its end.
async fn unless_stopped<T>(
    stop: &Stop,
    target: &dyn Target,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let outcome = tokio::select! {
        biased;
        () = stop.reached(Phase::Draining) => Err(anyhow::anyhow!("the node stops; the next leader continues")),
        outcome = work => outcome,
    };
    let released = tokio::time::timeout(RELEASE_TIMEOUT, target.release()).await;
    let value = outcome?;
    released
        .context("the lock cannot be removed in time")?
        .map_err(BackupError::from)?;
    Ok(value)
}

/// Runs `work` on a thread and a runtime of its own, at a low priority.
async fn apart<T: Send + 'static, F: Future<Output = anyhow::Result<T>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<T> {
    // The thread of the pool waits: it could not take its priority back, and a node that stops waits for it.
    holdfast_tasks::spawn_blocking(move || {
        let thread = std::thread::Builder::new().name("backup".to_owned()).spawn(move || {
            holdfast_tasks::lower_priority();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(work())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .await
}

fn succeeded(manifest: &Manifest, took: Duration, pruned: &Pruned) {
    metrics::backup_runs("done").increment(1);
    metrics::backup_duration().set(took.as_secs_f64());
    show(manifest);
    tracing::info!(
        id = manifest.id,
        bytes = manifest.bytes(),
        took_ms = took.as_millis(),
        removed = pruned.backups.len(),
        kept = pruned.kept,
        "the backup is complete"
    );
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn show(manifest: &Manifest) {
    metrics::backup_last_success().set(manifest.ended_ms as f64 / 1000.0);
    metrics::backup_bytes().set(manifest.bytes() as f64);
}

/// This hub, read in its own process.
#[derive(Clone)]
struct Hub {
    registry: Registry,
    control: Control,
    /// That of the node: connections to other nodes are made there, and stay.
    runtime: Handle,
    stop: Stop,
}

impl Hub {
    fn facts(&self) -> anyhow::Result<HubFacts> {
        let settings = self.registry.settings().context("the hub has no settings yet")?;
        let facts = self.control.export_facts();
        Ok(HubFacts {
            version: FACTS_VERSION,
            hub: settings.hub_name.clone(),
            hub_id: settings.hub_id.clone(),
            cluster: facts.cluster,
            partitions: settings.partition_count.get(),
            wrapped_key: HEXLOWER.encode(&facts.wrapped_key),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

impl HubSource for Hub {
    async fn export(&self, group: GroupId, log: LogScope) -> Result<Exported, BackupError> {
        let control = self.control.clone();
        let exported = self.runtime.spawn(async move { control.export(group.0, log).await });
        let chunks = exported
            .await
            .map_err(|error| BackupError::Hub(error.to_string()))?
            .map_err(|error| BackupError::Hub(error.to_string()))?;
        Ok(Box::pin(chunks.map(|chunk| chunk.map_err(|error| error.to_string()))))
    }
}
