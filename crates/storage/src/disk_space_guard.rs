//! Refuses writes before the disk is full, and resumes by itself.
//!
//! A log that fills the disk cannot even be trimmed; so below a threshold of free space new telemetry and registry writes
//! are refused (error 503005) while reads, retention and deletes continue. Writes are accepted again once the free space
//! is a tenth above the threshold: retention frees space in small steps, and without that margin each freed file would
//! move leaderships there and back. A real "no space left" is different: it stops the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_tasks::watch;

use crate::metrics::GuardMetrics;
use crate::{Disk, DiskSpace, Family, IoFailure, StorageConfig, StorageError};

/// Interval of the checks of the free space. At 1 GB/s the default threshold of 1 GiB is used up in a second.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Writes are accepted again once the free space exceeds the threshold by this part of it: a tenth.
const REOPEN_PART: u64 = 10;

/// Decides from the free space whether new writes are accepted.
pub struct DiskGuard {
    disk: Arc<dyn Disk>,
    min_free: u64,
    min_free_percent: u8,
    writable: AtomicBool,
    /// The same, for tasks that wait for a change.
    news: watch::Sender<bool>,
    metrics: GuardMetrics,
}

impl DiskGuard {
    /// A guard of `disk` that has checked the free space once.
    ///
    /// # Errors
    /// When the free space cannot be read.
    pub fn new(disk: Arc<dyn Disk>, config: &StorageConfig) -> Result<Arc<Self>, StorageError> {
        let guard = Self {
            disk,
            min_free: config.min_free.bytes(),
            min_free_percent: config.min_free_percent,
            writable: AtomicBool::new(true),
            news: watch::Sender::new(true),
            metrics: GuardMetrics::new(),
        };
        guard.refresh()?;
        Ok(Arc::new(guard))
    }

    /// Whether new writes are accepted.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Whether new writes are accepted, as a watched value.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.news.subscribe()
    }

    /// The free space below which writes are refused, on a file system of `total` bytes.
    #[must_use]
    pub fn threshold(&self, total: u64) -> u64 {
        self.min_free.max(total / 100 * u64::from(self.min_free_percent))
    }

    /// Checks that `bytes` more may be written before new writes are refused. Reads the free space.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`] with the missing bytes.
    pub fn check_space_for(&self, bytes: u64) -> Result<(), StorageError> {
        let space = self.disk.space()?;
        let needed = self.threshold(space.total).saturating_add(bytes);
        if space.free >= needed {
            return Ok(());
        }
        Err(StorageError::NoSpace(IoFailure::from(format!(
            "{bytes} bytes would leave less than storage.min_free; {} more are needed",
            needed - space.free
        ))))
    }

    /// Checks the free space.
    ///
    /// # Errors
    /// When it cannot be read; the previous decision stays.
    pub fn refresh(&self) -> Result<DiskSpace, StorageError> {
        let space = self.disk.space()?;
        let threshold = self.threshold(space.total);
        let needed = if self.writable() {
            threshold
        } else {
            threshold + threshold / REOPEN_PART
        };
        let writable = space.free >= needed;
        if self.writable.swap(writable, Ordering::Relaxed) != writable {
            if writable {
                tracing::info!(
                    free = space.free,
                    threshold,
                    "enough disk space is free again; writes are accepted"
                );
            } else {
                tracing::error!(
                    free = space.free,
                    threshold,
                    "disk is nearly full; writes are refused until space is free"
                );
            }
            self.news.send_replace(writable);
        }
        self.metrics.free.set(gauge(space.free));
        self.metrics.refusing.set(if writable { 0.0 } else { 1.0 });
        Ok(space)
    }

    /// Sets the gauges of the files' sizes. Apart from the checks, whose decision does not depend on them.
    fn measure_files(&self) -> Result<(), StorageError> {
        for (family, bytes) in Family::ALL.into_iter().zip(&self.metrics.file_bytes) {
            bytes.set(gauge(self.disk.file_bytes(family)?));
        }
        Ok(())
    }

    /// Checks every [`CHECK_INTERVAL`] until dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if let Err(error) = self.refresh() {
                tracing::warn!(%error, "cannot read the free space; the last decision stays in force");
            }
            if let Err(error) = self.measure_files() {
                tracing::warn!(%error, "cannot read the sizes of the database's files");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn gauge(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use holdfast_model::ByteSize;

    use super::*;
    use crate::SimDisk;

    #[test]
    fn writes_are_refused_below_the_floor_and_taken_again_above_it() {
        let disk = SimDisk::new();
        let config = StorageConfig {
            min_free: ByteSize(1_000),
            min_free_percent: 5,
            ..StorageConfig::default()
        };
        disk.set_space(DiskSpace {
            free: 50_000,
            total: 1_000_000,
        });
        let guard = DiskGuard::new(Arc::new(disk.clone()), &config).unwrap();
        assert!(guard.writable());
        disk.set_space(DiskSpace {
            free: 49_999,
            total: 1_000_000,
        });
        guard.refresh().unwrap();
        assert!(!guard.writable(), "5 percent is the larger floor here");
        disk.set_space(DiskSpace {
            free: 999,
            total: 10_000,
        });
        guard.refresh().unwrap();
        assert!(!guard.writable(), "1,000 bytes is the larger floor here");
        disk.set_space(DiskSpace {
            free: 1_100,
            total: 10_000,
        });
        guard.refresh().unwrap();
        assert!(guard.writable());
    }

    #[test]
    fn a_disk_at_its_floor_does_not_go_back_and_forth() {
        let disk = SimDisk::new();
        let config = StorageConfig {
            min_free: ByteSize(1_000),
            min_free_percent: 1,
            ..StorageConfig::default()
        };
        let guard = DiskGuard::new(Arc::new(disk.clone()), &config).unwrap();
        let mut news = guard.watch();
        let mut check = |free| {
            disk.set_space(DiskSpace { free, total: 10_000 });
            guard.refresh().unwrap();
            (
                guard.writable(),
                news.has_changed().unwrap().then(|| *news.borrow_and_update()),
            )
        };
        assert_eq!(check(1_000), (true, None));
        assert_eq!(check(999), (false, Some(false)));
        assert_eq!(check(1_000), (false, None));
        assert_eq!(check(1_099), (false, None));
        assert_eq!(check(1_100), (true, Some(true)));
        assert_eq!(check(1_000), (true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_guard_checks_by_itself() {
        let disk = SimDisk::new();
        let guard = DiskGuard::new(Arc::new(disk.clone()), &StorageConfig::default()).unwrap();
        let task = holdfast_tasks::spawn("disk guard", guard.clone().run());
        disk.set_space(DiskSpace {
            free: 0,
            total: 1 << 40,
        });
        tokio::time::sleep(CHECK_INTERVAL * 2).await;
        assert!(!guard.writable());
        task.abort();
    }
}
