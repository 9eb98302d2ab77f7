//! Group commit: one sync for all writes that were made while the previous sync ran.
//!
//! A writer submits a completion and continues. The flusher takes all queued completions, syncs once and calls them; the
//! completions that arrive during the sync are the next batch. No timer decides how long to wait for more.
//!
//! Invariants: a completion is called once, after a sync that began after it was submitted, in the order of
//! submission. After a failed sync nothing is synced again: the kernel may have dropped the pages and would report
//! success for lost data. Completions must be quick and must not block.

#![expect(
    clippy::disallowed_types,
    reason = "a condition variable needs the bare lock; a panic of the flusher ends the process"
)]

use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use crate::metrics::FlusherMetrics;
use crate::{Disk, IoFailure, StorageError};

/// Called once the sync has ended, on the flusher's thread.
pub type Completion = Box<dyn FnOnce(Result<(), Arc<StorageError>>) + Send>;

/// Called with the error of a failed sync, before the completions are; the node stops the process here.
pub type OnFatal = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// Limit of queued completions; a further submission waits for the current sync.
///
/// Each append of a Raft group is one, and a group has a bounded number of entries in flight, so that this limit is not
/// reached while groups keep theirs.
pub const MAX_QUEUED_COMPLETIONS: usize = 65_536;

/// The queue in front of the one sync of a database; clones share it.
#[derive(Clone)]
pub struct Flusher(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a completion is queued while the flusher is idle.
    filled: Condvar,
    /// The same for a flusher that runs as a task.
    filled_task: Notify,
    /// Notified when the queue has been taken.
    taken: Condvar,
    driven_by: DrivenBy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DrivenBy {
    Thread,
    Task,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Completion>,
    /// The flusher sleeps, so that the next submission has to wake it.
    idle: bool,
    /// The last handle has been dropped.
    closed: bool,
    /// The error of the sync that failed.
    failed: Option<Arc<StorageError>>,
}

impl Flusher {
    /// Starts the flusher's thread, which ends after the last handle has been dropped and the queue is empty.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn spawn(disk: Arc<dyn Disk>, on_fatal: OnFatal) -> Result<Self, StorageError> {
        let shared = Shared::new(DrivenBy::Thread);
        let mut worker = Worker::new(shared.clone(), disk, on_fatal);
        let thread = thread::Builder::new()
            .name("holdfast-flush".to_owned())
            .spawn(move || while worker.wait_and_sync() {})
            .map_err(|error| StorageError::Io(IoFailure::new("cannot start the flusher's thread", error)))?;
        Ok(Self(Arc::new(Handle {
            shared,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Runs the flusher as a task of the current runtime: for simulation, where `latency` is the duration of each sync on the
    /// runtime's (paused) clock.
    pub fn on_runtime(
        disk: Arc<dyn Disk>,
        on_fatal: OnFatal,
        mut latency: impl FnMut() -> Duration + Send + 'static,
    ) -> Self {
        let shared = Shared::new(DrivenBy::Task);
        let mut worker = Worker::new(shared.clone(), disk, on_fatal);
        holdfast_tasks::spawn_critical("flusher", async move {
            loop {
                match worker.take() {
                    Taken::Some => {
                        tokio::time::sleep(latency()).await;
                        worker.sync();
                    }
                    // A wake-up between the check and the wait is kept as a permit.
                    Taken::None => worker.shared.filled_task.notified().await,
                    Taken::Closed => break,
                }
            }
        });
        Self(Arc::new(Handle {
            shared,
            thread: Mutex::new(None),
        }))
    }

    /// Queues `done` for the next sync. Blocks only while [`MAX_QUEUED_COMPLETIONS`] wait.
    ///
    /// After a failed sync `done` is called at once, on this thread, with that error.
    pub fn submit(&self, done: Completion) {
        let shared = &self.0.shared;
        let mut queue = shared.queue.lock();
        while shared.driven_by == DrivenBy::Thread
            && queue.waiting.len() >= MAX_QUEUED_COMPLETIONS
            && queue.failed.is_none()
        {
            shared.taken.wait(&mut queue);
        }
        if let Some(error) = queue.failed.clone() {
            drop(queue);
            return done(Err(error));
        }
        queue.waiting.push(done);
        let wake = mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            shared.wake();
        }
    }

    /// Returns when everything written before this call is durable. Cancel-safe.
    ///
    /// # Errors
    /// The error of the failed sync.
    pub async fn synced(&self) -> Result<(), Arc<StorageError>> {
        let (done, synced) = oneshot::channel();
        self.submit(Box::new(move |result| {
            let _ = done.send(result);
        }));
        synced
            .await
            .unwrap_or_else(|_| Err(Arc::new(StorageError::Stopped("the flusher has ended".into()))))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake();
        // The last handle may be dropped by a completion, on the flusher's own thread.
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(driven_by: DrivenBy) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            filled: Condvar::new(),
            filled_task: Notify::new(),
            taken: Condvar::new(),
            driven_by,
        })
    }

    fn wake(&self) {
        match self.driven_by {
            DrivenBy::Thread => drop(self.filled.notify_one()),
            DrivenBy::Task => self.filled_task.notify_one(),
        }
    }
}

/// The side that syncs.
struct Worker {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    on_fatal: OnFatal,
    metrics: FlusherMetrics,
    /// The batch taken from the queue; swapped with it, so that neither allocates once both have grown.
    batch: Vec<Completion>,
}

enum Taken {
    Some,
    None,
    Closed,
}

impl Worker {
    fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>, on_fatal: OnFatal) -> Self {
        Self {
            shared,
            disk,
            on_fatal,
            metrics: FlusherMetrics::new(),
            batch: Vec::new(),
        }
    }

    /// Takes the queued completions, and marks the queue idle when there are none.
    fn take(&mut self) -> Taken {
        let shared = self.shared.clone();
        self.take_from(&mut shared.queue.lock())
    }

    fn take_from(&mut self, queue: &mut Queue) -> Taken {
        if queue.waiting.is_empty() {
            queue.idle = true;
            return if queue.closed { Taken::Closed } else { Taken::None };
        }
        mem::swap(&mut queue.waiting, &mut self.batch);
        self.shared.taken.notify_all();
        Taken::Some
    }

    /// One round of the thread; `false` at the end.
    fn wait_and_sync(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut queue = shared.queue.lock();
        loop {
            match self.take_from(&mut queue) {
                Taken::Some => break,
                Taken::None => shared.filled.wait(&mut queue),
                Taken::Closed => return false,
            }
        }
        drop(queue);
        self.sync();
        true
    }

    fn sync(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a queue length is far below 2^52")]
        let count = self.batch.len() as f64;
        self.metrics.queued.set(count);
        self.metrics.completions.record(count);
        let failed = self.shared.queue.lock().failed.clone();
        let result = match failed {
            Some(error) => Err(error),
            None => {
                let begun = Instant::now();
                let result = self.disk.sync().map_err(Arc::new);
                self.metrics.sync_seconds.record(begun.elapsed());
                self.metrics.syncs.increment(1);
                result
            }
        };
        if let Err(error) = &result {
            let first = {
                let mut queue = self.shared.queue.lock();
                let first = queue.failed.is_none();
                queue.failed.get_or_insert_with(|| error.clone());
                first
            };
            if first {
                tracing::error!(%error, "sync failed; it is not retried, and nothing more is acknowledged");
                (self.on_fatal)(error);
            }
        }
        for done in self.batch.drain(..) {
            done(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::SimDisk;

    fn ignore() -> OnFatal {
        Arc::new(|_| {})
    }

    #[test]
    fn completions_come_after_a_sync_in_the_order_of_submission() {
        let disk = SimDisk::new();
        let flusher = Flusher::spawn(Arc::new(disk.clone()), ignore()).unwrap();
        let (send, received) = mpsc::sync_channel(100);
        for number in 0..100 {
            let send = send.clone();
            flusher.submit(Box::new(move |result| {
                result.unwrap();
                send.send(number).unwrap();
            }));
        }
        assert_eq!(
            received.iter().take(100).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        assert!(disk.syncs() >= 1 && disk.syncs() <= 100);
    }

    #[test]
    fn queued_completions_are_called_before_the_flusher_ends() {
        let flusher = Flusher::spawn(Arc::new(SimDisk::new()), ignore()).unwrap();
        let completed = Arc::new(AtomicUsize::new(0));
        for _ in 0..50 {
            let completed = completed.clone();
            flusher.submit(Box::new(move |_| {
                let _ = completed.fetch_add(1, Ordering::Relaxed);
            }));
        }
        drop(flusher);
        assert_eq!(completed.load(Ordering::Relaxed), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn one_sync_serves_all_that_queued_while_the_last_one_ran() {
        let disk = SimDisk::new();
        let flusher = Flusher::on_runtime(Arc::new(disk.clone()), ignore(), || Duration::from_millis(1));
        let first = flusher.synced();
        let first = async { first.await.unwrap() };
        let others = async {
            tokio::task::yield_now().await;
            let waits = (0..100).map(|_| flusher.synced());
            futures_util::future::join_all(waits).await
        };
        tokio::join!(first, others);
        assert_eq!(disk.syncs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_sync_stops_everything_and_is_not_retried() {
        let disk = SimDisk::new();
        let fatal = Arc::new(AtomicUsize::new(0));
        let on_fatal = fatal.clone();
        let flusher = Flusher::on_runtime(
            Arc::new(disk.clone()),
            Arc::new(move |_| {
                let _ = on_fatal.fetch_add(1, Ordering::Relaxed);
            }),
            || Duration::ZERO,
        );
        disk.fail_syncs(StorageError::Io("the disk is on fire".into()));
        assert!(flusher.synced().await.is_err());
        assert!(flusher.synced().await.is_err(), "later submissions fail too");
        assert_eq!((disk.syncs(), fatal.load(Ordering::Relaxed)), (1, 1));
    }
}
