//! The threads for work that blocks on the disk, as a parameter: a simulation has one thread, so that a seed replays.

use crate::{BackgroundThread, spawn_blocking};

/// Where blocking work runs; chosen once, where a node is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockingPool {
    /// On the runtime's pool of blocking threads.
    Threads,
    /// On the calling thread, at once: for simulation and for tests on a paused clock.
    Inline,
}

impl BlockingPool {
    /// Runs `work` and returns its result.
    ///
    /// # Panics
    /// As [`spawn_blocking`].
    pub async fn run<R, W>(self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        match self {
            Self::Threads => spawn_blocking(work).await,
            Self::Inline => work(),
        }
    }

    /// A thread for work that no device waits for; `None` where there is one thread for all.
    #[must_use]
    pub fn background(self, name: &'static str) -> Option<BackgroundThread> {
        match self {
            Self::Threads => Some(BackgroundThread::start(name)),
            Self::Inline => None,
        }
    }
}
