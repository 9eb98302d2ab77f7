//! Runs work that blocks on the disk: on the blocking pool, or inline in a simulation, which has one thread so that a
//! seed replays.

use holdfast_storage::Flusher;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockingPool {
    OnPool,
    InPlace,
}

impl BlockingPool {
    pub(crate) fn beside(flusher: &Flusher) -> Self {
        if flusher.is_simulated() {
            Self::InPlace
        } else {
            Self::OnPool
        }
    }

    pub(crate) async fn run<R, W>(self, work: W) -> R
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        match self {
            Self::OnPool => holdfast_tasks::spawn_blocking(work).await,
            Self::InPlace => work(),
        }
    }
}
