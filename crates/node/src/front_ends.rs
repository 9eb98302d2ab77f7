//! The end of a core's front ends, which a node that stops waits for.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The front ends of one core. Made on the core's runtime.
#[derive(Debug)]
pub struct FrontEnd {
    /// All connections of devices and readers are gone; after the node has begun to drain.
    pub(crate) connections: oneshot::Receiver<()>,
    /// Everything that they had sent is decided; after the node has begun to close.
    pub(crate) core: oneshot::Receiver<()>,
}

impl FrontEnd {
    /// `connections`: the tasks that own connections; `core`: the one that owns the core's batches.
    #[must_use]
    pub fn new(connections: Vec<JoinHandle<()>>, core: JoinHandle<()>) -> Self {
        Self {
            connections: ended(connections),
            core: ended(vec![core]),
        }
    }
}

/// Completes when all `tasks` have ended.
fn ended(tasks: Vec<JoinHandle<()>>) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    holdfast_tasks::spawn_critical_local(
        "front-end",
        Box::pin(async move {
            for task in tasks {
                // A panic has been logged.
                let _ = task.await;
            }
            // The node may have stopped waiting.
            let _ = end.send(());
        }),
    );
    ended
}

/// Waits for all `parts`; whether they have ended within `timeout`.
pub(crate) async fn have_ended(parts: Vec<oneshot::Receiver<()>>, timeout: Duration) -> bool {
    // A part whose core is gone has ended as well.
    tokio::time::timeout(timeout, futures_util::future::join_all(parts))
        .await
        .is_ok()
}
