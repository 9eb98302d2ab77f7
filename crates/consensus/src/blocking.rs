//! Where work that blocks on the disk is done: on the blocking pool, or at once in a simulation.

use holdfast_storage::Flusher;

/// Runs `work` off the group's thread. In a simulation there is one thread, so that a seed replays.
pub(crate) async fn blocking<R, W>(flusher: &Flusher, work: W) -> R
where
    R: Send + 'static,
    W: FnOnce() -> R + Send + 'static,
{
    if flusher.is_simulated() {
        return work();
    }
    holdfast_tasks::spawn_blocking(work).await
}
