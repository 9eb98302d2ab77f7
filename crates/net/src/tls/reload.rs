//! Reloads certificates when their files change.
//!
//! Why: other programs (cert-manager, an ACME client) renew certificates every few weeks, and a restart would close every
//! connection of the node.
//! Invariants: a reload that fails, such as of a renewal that is half written, is retried at the next check; the certificates
//! in use stay; its error is logged once.
//! Not here: how certificates are loaded and used.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use holdfast_tasks::{Phase, Stop};
use tokio::time::sleep;

/// Modification time and length of each file, to detect changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamps(Vec<(PathBuf, Option<(SystemTime, u64)>)>);

impl FileStamps {
    /// Reads the stamps of `paths` from the disk. To be called before the files are loaded, so that a change in between is
    /// detected.
    pub fn read(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        let stamps = paths.into_iter().map(|path| {
            let stamp = stamp(&path);
            (path, stamp)
        });
        Self(stamps.collect())
    }

    /// The current stamps of the same files.
    fn read_again(&self) -> Self {
        Self::read(self.0.iter().map(|(path, _)| path.clone()))
    }
}

/// The result of an attempt to reload changed files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new certificates are in use.
    Reloaded,
    /// The files cannot be used; the old certificates stay in use.
    Failed,
}

/// Reloads certificates when their files change.
pub struct CertificateReload<L, D, R> {
    /// The certificates, for the log: `server`, `peer`.
    pub name: &'static str,
    /// The stamps of the files before they were loaded.
    pub stamps: FileStamps,
    /// Interval of the checks.
    pub interval: Duration,
    /// Loads the files and uses them from now on; may block.
    pub load: L,
    /// The text of an error, with its causes.
    pub describe: D,
    /// Called after each attempt.
    pub report: R,
}

impl<L, D, R> CertificateReload<L, D, R> {
    /// Checks the files until `stop` is closing.
    pub async fn run<E>(self, stop: Stop)
    where
        L: Fn() -> Result<(), E> + Clone + Send + 'static,
        D: Fn(&E) -> String,
        R: Fn(ReloadOutcome),
        E: Send + 'static,
    {
        let mut known = self.stamps;
        let mut logged = String::new();
        loop {
            tokio::select! {
                biased;
                () = stop.reached(Phase::Closing) => return,
                () = sleep(self.interval) => {}
            }
            let (before, load) = (known.clone(), self.load.clone());
            let checked = holdfast_tasks::spawn_blocking(move || {
                let now = before.read_again();
                (now != before).then(|| (now, load()))
            });
            match checked.await {
                None => {}
                Some((now, Ok(()))) => {
                    known = now;
                    logged.clear();
                    (self.report)(ReloadOutcome::Reloaded);
                    tracing::info!(certificates = self.name, "reloaded the certificates");
                }
                Some((_, Err(error))) => {
                    (self.report)(ReloadOutcome::Failed);
                    let text = (self.describe)(&error);
                    if text != logged {
                        tracing::warn!(
                            certificates = self.name,
                            error = text,
                            "cannot load the changed certificates; the old ones stay in use"
                        );
                        logged = text;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_tasks::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_loaded_and_a_broken_one_is_retried() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificate.pem");
        std::fs::write(&path, "first").unwrap();
        let (loaded, outcomes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let reload = CertificateReload {
            name: "test",
            stamps: FileStamps::read([path.clone()]),
            interval: Duration::from_millis(5),
            load: {
                let (path, loaded) = (path.clone(), loaded.clone());
                move || {
                    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
                    if text == "broken" {
                        return Err("the file is broken".to_owned());
                    }
                    loaded.lock().push(text);
                    Ok(())
                }
            },
            describe: String::clone,
            report: {
                let outcomes = outcomes.clone();
                move |outcome| outcomes.lock().push(outcome)
            },
        };
        let stop = Stop::new();
        let task = holdfast_tasks::spawn("reload", reload.run(stop.clone()));
        let until = async |holds: &dyn Fn() -> bool| {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        std::fs::write(&path, "broken").unwrap();
        until(&|| outcomes.lock().len() >= 2).await;
        assert!(
            loaded.lock().is_empty(),
            "an unchanged file is not loaded, a broken one is not used"
        );
        std::fs::write(&path, "renewed").unwrap();
        until(&|| *loaded.lock() == ["renewed"]).await;
        stop.enter(Phase::Closing);
        task.await.unwrap();
        assert_eq!(outcomes.lock().last(), Some(&ReloadOutcome::Reloaded));
    }
}
