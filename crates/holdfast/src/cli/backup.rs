//! `holdfast backup create|verify|list|prune`, and what `restore` shares with it.
//!
//! Not here: the form of a backup and the rules of consistency (`holdfast_backup`), the calls to the hub (`holdfast_cli::export`).

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Subcommand;
use futures_util::stream;
use holdfast_backup::{
    BackupError, CreateOptions, Exported, HubFacts, HubSource, Keep, Manifest, Target, TargetError, Verified,
};
use holdfast_cli::LoginArgs;
use holdfast_cli::exit_code::{Failure, Outcome};
use holdfast_cli::export::ExportClient;
use holdfast_consensus::{GroupId, LogScope};
use holdfast_model::Clock;
use holdfast_storage::StorageError;
use serde_json::json;

use super::ConfigSource;
use crate::backup_target::{self, Access};
use crate::config::{BackupConfig, Config};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Back a running hub up: identities, settings and the state of devices, and with --with-log the events
    ///
    /// Everything that was acknowledged before the command began is in the backup. An interrupted backup is continued by the same command.
    Create {
        /// The folder of this hub's backups, made when it is missing; or s3://BUCKET/PREFIX, azure://ACCOUNT/CONTAINER/PREFIX
        #[arg(long, value_name = "TARGET")]
        to: String,
        /// With the events; those of an earlier backup in the folder are not read again
        #[arg(long)]
        with_log: bool,
        /// Read and write everything, whatever earlier backups have
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        source: ConfigSource,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Check every file of a backup, every record and every event, as a restore does
    Verify {
        /// The folder or URL
        #[arg(value_name = "TARGET")]
        target: String,
        /// The backup; default: the newest
        #[arg(long, value_name = "ID", conflicts_with = "all")]
        backup: Option<String>,
        /// All backups of the folder
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        source: ConfigSource,
    },
    /// Show the backups of a folder
    List {
        /// The folder or URL
        #[arg(value_name = "TARGET")]
        target: String,
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: ConfigSource,
    },
    /// Remove old backups, and the files that no other backup needs; the newest one stays
    #[command(group = clap::ArgGroup::new("rule").required(true).multiple(true).args(["keep", "keep_days"]))]
    Prune {
        /// The folder or URL
        #[arg(value_name = "TARGET")]
        target: String,
        /// How many of the newest stay
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
        /// Those of so many days stay; with --keep, what either of the two keeps
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        keep_days: Option<u32>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        source: ConfigSource,
    },
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create {
            to,
            with_log,
            full,
            source,
            login,
        } => {
            let config = settings(&source)?;
            // The hub may run on this machine, and its devices come first.
            holdfast_tasks::lower_priority();
            block_on(create(&to, with_log, full, &config, &login))
        }
        Command::Verify {
            target,
            backup,
            all,
            source,
        } => {
            let config = settings(&source)?;
            block_on(verify(&target, backup.as_deref(), all, &config))
        }
        Command::List { target, json, source } => {
            let config = settings(&source)?;
            block_on(list(&target, json, &config))
        }
        Command::Prune {
            target,
            keep,
            keep_days,
            dry_run,
            source,
        } => {
            let config = settings(&source)?;
            let keep = Keep {
                newest: keep.map_or(1, |count| usize::try_from(count).unwrap_or(usize::MAX)),
                within: days(keep_days.unwrap_or(0)),
            };
            block_on(prune(&target, keep, dry_run, &config))
        }
    }
}

/// Section `[backup]` of file, environment and flags: how an object store is reached.
fn settings(source: &ConfigSource) -> Result<BackupConfig, Failure> {
    Ok(super::config::read(source, Config::default())?.backup)
}

/// So many days.
pub(crate) fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 3600)
}

/// Opens the place of backups.
pub(super) async fn open(place: &str, config: &BackupConfig, access: Access) -> Result<Box<dyn Target>, Failure> {
    backup_target::open(place, config, access)
        .await
        .map_err(|error| match error.downcast::<BackupError>() {
            Ok(error) => failure(error),
            Err(error) => Failure::caused(Outcome::Failed, error),
        })
}

/// Lets others write, whatever the outcome was.
async fn released<T>(target: &dyn Target, outcome: Result<T, Failure>) -> Result<T, Failure> {
    let released: Result<(), TargetError> = target.release().await;
    let value = outcome?;
    released.map_err(|error| failure(error.into()))?;
    Ok(value)
}

pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// How a command fails by a backup.
pub(super) fn failure(error: BackupError) -> Failure {
    let (outcome, advice) = match &error {
        BackupError::NotFound(_) => (Outcome::NotFound, None),
        BackupError::Storage {
            source: StorageError::NoSpace(_),
            ..
        } => (
            Outcome::CannotStart,
            Some("make room, and give the command again: it continues with what is complete"),
        ),
        BackupError::Damaged { .. } | BackupError::Storage { .. } => {
            (Outcome::Storage, Some("see \"A backup is damaged\" in docs/runbook.md"))
        }
        BackupError::Hub(_) | BackupError::Export(_) => (
            Outcome::Failed,
            Some("give the command again: it continues with what is complete"),
        ),
        _ => (Outcome::Failed, None),
    };
    let failure = Failure::caused(outcome, error);
    match advice {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}

struct Hub(ExportClient);

impl HubSource for Hub {
    async fn export(&self, group: GroupId, log: LogScope) -> Result<Exported, BackupError> {
        let scope = match log {
            LogScope::None => "none".to_owned(),
            LogScope::All => "all".to_owned(),
            LogScope::After(index) => index.to_string(),
        };
        let chunks = self.0.group(group.0, &scope).await;
        let chunks = chunks.map_err(|failure| BackupError::Hub(failure.message))?;
        Ok(Box::pin(stream::unfold(Some(chunks), |chunks| async move {
            let mut chunks = chunks?;
            match chunks.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(chunks))),
                Ok(None) => None,
                Err(reason) => Some((Err(reason), None)),
            }
        })))
    }
}

async fn create(to: &str, with_log: bool, full: bool, config: &BackupConfig, login: &LoginArgs) -> Result<(), Failure> {
    let hub = Hub(ExportClient::new(login)?);
    let facts: HubFacts = serde_json::from_value(hub.0.facts().await?).map_err(|error| {
        Failure::caused(
            Outcome::Failed,
            anyhow::Error::from(error).context("the hub's answer cannot be used"),
        )
    })?;
    let target = open(to, config, Access::Write).await?;
    let options = CreateOptions {
        with_log,
        full,
        clock: || Clock::system().now(),
    };
    let mut shown = Meter::new();
    let mut progress = |now: holdfast_backup::Progress| {
        shown.show(now.read, || {
            format!(
                "{} of {} groups, {} read, {} written, {} there already",
                now.groups_done,
                now.groups,
                size(now.read),
                size(now.written),
                size(now.reused)
            )
        });
    };
    let made = holdfast_backup::create(&hub, &facts, &*target, options, &mut progress).await;
    shown.end();
    let manifest = released(&*target, made.map_err(failure)).await?;
    super::print(&format!(
        "Backup {} of hub {} is complete: {} partitions, {}, {} in all.\nCheck it: holdfast backup verify {}\n",
        manifest.id,
        manifest.hub,
        manifest.partitions,
        if with_log {
            format!("{} events", manifest.events())
        } else {
            "no events".to_owned()
        },
        size(manifest.bytes()),
        to
    ))
}

async fn verify(place: &str, backup: Option<&str>, all: bool, config: &BackupConfig) -> Result<(), Failure> {
    let target = open(place, config, Access::Read).await?;
    let target = &*target;
    let mut manifests = Vec::new();
    if all {
        for (_, manifest) in holdfast_backup::list(target).await.map_err(failure)? {
            manifests.push(manifest.map_err(failure)?);
        }
    } else {
        manifests.push(chosen(target, backup).await?);
    }
    for manifest in &manifests {
        let (mut shown, mut checked, bytes) = (Meter::new(), 0, manifest.bytes());
        let mut done = |more| {
            checked += more;
            shown.show(checked, || format!("{} of {} checked", size(checked), size(bytes)));
        };
        let verified = holdfast_backup::verify(target, manifest, &mut done).await;
        shown.end();
        super::print(&report(manifest, &verified.map_err(failure)?))?;
    }
    if all {
        let points = holdfast_backup::verify_points(target, &mut |_| ())
            .await
            .map_err(failure)?;
        if points > 0 {
            super::print(&format!("{points} states of the registry between backups are whole.\n"))?;
        }
    }
    Ok(())
}

async fn prune(place: &str, keep: Keep, dry_run: bool, config: &BackupConfig) -> Result<(), Failure> {
    // A folder that is written to is made when it does not exist.
    if holdfast_backup::list(&*open(place, config, Access::Read).await?)
        .await
        .map_err(failure)?
        .is_empty()
    {
        return Err(Failure::new(
            Outcome::NotFound,
            format!("there is no backup in {place}"),
        ));
    }
    let target = open(place, config, Access::Write).await?;
    let pruned = holdfast_backup::prune(&*target, keep, Clock::system().now(), dry_run).await;
    let pruned = released(&*target, pruned.map_err(failure)).await?;
    for id in &pruned.backups {
        super::print(&format!("{id}\n"))?;
    }
    super::print(&format!(
        "{}: {} backups, {} states of the registry, {} files with {}. {} backups stay.\n",
        if dry_run { "Would be removed" } else { "Removed" },
        pruned.backups.len(),
        pruned.points,
        pruned.objects,
        size(pruned.bytes),
        pruned.kept
    ))
}

fn report(manifest: &Manifest, verified: &Verified) -> String {
    let kinds: Vec<String> = verified
        .records
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    format!(
        "Backup {} is whole: {}; {} values of device state; {} events; {}.\n",
        manifest.id,
        kinds.join(", "),
        verified.device_states,
        verified.events,
        size(verified.bytes)
    )
}

/// The manifest of a backup, or of the newest.
pub(super) async fn chosen(target: &dyn Target, backup: Option<&str>) -> Result<Manifest, Failure> {
    match backup {
        Some(id) => holdfast_backup::find(target, id).await,
        None => holdfast_backup::latest(target).await,
    }
    .map_err(failure)
}

async fn list(place: &str, is_json: bool, config: &BackupConfig) -> Result<(), Failure> {
    let target = open(place, config, Access::Read).await?;
    let backups = holdfast_backup::list(&*target).await.map_err(failure)?;
    if is_json {
        let shown: Vec<_> = backups
            .iter()
            .map(|(id, manifest)| match manifest {
                Ok(manifest) => json!({
                    "id": id,
                    "hub": manifest.hub,
                    "cluster": manifest.cluster,
                    "partitions": manifest.partitions,
                    "begunMs": manifest.begun_ms,
                    "endedMs": manifest.ended_ms,
                    "withLog": manifest.with_log,
                    "events": manifest.events(),
                    "bytes": manifest.bytes(),
                    "program": manifest.program,
                }),
                Err(error) => json!({"id": id, "error": error.to_string()}),
            })
            .collect();
        return super::print(&format!("{:#}\n", json!(shown)));
    }
    if backups.is_empty() {
        return super::print("There is no complete backup in this folder.\n");
    }
    let mut text = format!(
        "{:<18} {:<20} {:>10} {:>12} {:>10}\n",
        "BACKUP", "HUB", "PARTITIONS", "EVENTS", "SIZE"
    );
    for (id, manifest) in &backups {
        text.push_str(&match manifest {
            Ok(manifest) => format!(
                "{id:<18} {:<20} {:>10} {:>12} {:>10}\n",
                manifest.hub,
                manifest.partitions,
                if manifest.with_log {
                    manifest.events().to_string()
                } else {
                    "-".to_owned()
                },
                size(manifest.bytes())
            ),
            Err(error) => format!("{id:<18} {error}\n"),
        });
    }
    super::print(&text)
}

/// Shows progress on standard error: in one line of a terminal, else in a line now and then.
pub(super) struct Meter {
    begun: Instant,
    shown: Option<Instant>,
    is_terminal: bool,
}

const TERMINAL_INTERVAL: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            shown: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows `text` and the rate of `bytes`, unless something was shown just before.
    pub(super) fn show(&mut self, bytes: u64, text: impl FnOnce() -> String) {
        let interval = if self.is_terminal {
            TERMINAL_INTERVAL
        } else {
            LINE_INTERVAL
        };
        if self.shown.unwrap_or(self.begun).elapsed() < interval {
            return;
        }
        self.shown = Some(Instant::now());
        let millis = u64::try_from(self.begun.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let rate = size(bytes.saturating_mul(1_000) / millis);
        let text = text();
        // Progress that cannot be shown is no failure.
        let _ = match self.is_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{text}, {rate}/s"),
            false => writeln!(std::io::stderr(), "{text}, {rate}/s"),
        };
    }

    /// Ends the line.
    pub(super) fn end(&self) {
        if self.is_terminal && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(32 << 20), "32.0 MiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
    }
}
