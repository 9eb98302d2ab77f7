//! Work that must not delay the hub: a thread of low priority.
//!
//! Why: reading a whole log for a backup takes as much CPU as there is, and the devices' acknowledgements wait for the same
//! cores. The scheduler of the operating system lets them go first; a fixed rate would be too low on one machine and too high
//! on another.
//! Invariants: a priority only goes down; where it cannot, the work is done at the common one.
//! Not here: work that a device waits for ([`crate::spawn_blocking`]).

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
    thread_schedule_policy,
};
use tokio::sync::oneshot;

use crate::spawn_blocking;

/// Steps by which the priority of such work is lower where the system knows no idle threads: beside a thread of the hub it gets
/// a tenth of a core.
const NICER: i32 = 10;

const IDLE: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);

type Job = Box<dyn FnOnce() + Send>;

/// A thread of low priority; it ends when this is dropped and its work is done.
#[derive(Debug)]
pub struct BackgroundThread {
    /// `None`: there are no more threads.
    jobs: Option<SyncSender<Job>>,
}

impl BackgroundThread {
    /// Starts it.
    #[must_use]
    pub fn start(name: &'static str) -> Self {
        // One at a time is given.
        let (jobs, given) = sync_channel::<Job>(1);
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            lower_priority();
            while let Ok(job) = given.recv() {
                job();
            }
        });
        if let Err(error) = &started {
            tracing::warn!(name, %error, "no thread of low priority can be started; the work is done at the common priority");
        }
        Self {
            jobs: started.ok().map(|_| jobs),
        }
    }

    /// Runs `work` there and returns its result.
    ///
    /// # Panics
    /// As [`spawn_blocking`]; where panics do not end the process, it never returns after one.
    pub async fn run<R, W>(&mut self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Fails when the caller no longer waits.
            let _ = done.send(work());
        });
        let refused = match &self.jobs {
            None => Some(job),
            Some(jobs) => match jobs.try_send(job) {
                Ok(()) => None,
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
            },
        };
        if let Some(job) = refused {
            spawn_blocking(job).await;
        }
        match result.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Lowers the priority of the calling thread, and of the threads that it starts from now on, below that of all others: it gets
/// what they leave, and gives its core up as soon as one of them has work. A process does it before it starts a runtime.
pub fn lower_priority() {
    // Merely nice, a thread keeps its core for the rest of its slice, some milliseconds, while a device waits.
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, IDLE);
    if let Err(error) = set
        && thread_schedule_policy().ok() != Some(IDLE)
    {
        tracing::debug!(%error, "threads cannot be idle ones");
        // Work at the common priority is done as well.
        if let Err(error) = rustix::process::nice(NICER) {
            tracing::debug!(%error, "the priority stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_at_a_lower_priority_and_the_caller_keeps_its_own() {
        let policy = || thread_schedule_policy().unwrap();
        let before = policy();
        assert_ne!(before, IDLE);
        let mut thread = BackgroundThread::start("test");
        assert_eq!(thread.run(policy).await, IDLE);
        // And so are the threads that it starts.
        assert_eq!(
            thread.run(move || std::thread::spawn(policy).join().unwrap()).await,
            IDLE
        );
        assert_eq!(thread.run(|| 7).await, 7);
        assert_eq!(policy(), before);
    }
}
