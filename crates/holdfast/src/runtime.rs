//! The core runtimes: one single-threaded runtime per core, each on a thread of its own.
//!
//! Why: a connection, a group and their tasks live and die on one core, so nothing between them is locked. What has to
//! happen on a core is sent there as a closure.
//! Not here: what runs on them (`node`).

use std::pin::Pin;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

/// Closures that may wait for a core; only starting and stopping send any.
const QUEUE: usize = 64;
/// Tasks polled between two looks at the sockets: one look should serve a whole round of connections.
const TASKS_A_ROUND: u32 = 256;

type Work = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A core's thread.
pub(crate) struct Core {
    handle: CoreHandle,
    /// Dropped to end it.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Sends work to a core; clones send to the same. A handle does not keep its core alive.
#[derive(Clone)]
pub(crate) struct CoreHandle(mpsc::Sender<Work>);

impl Core {
    /// Starts core number `index`.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub(crate) fn start(index: usize) -> Result<Self> {
        let (queue, mut work) = mpsc::channel::<Work>(QUEUE);
        let (end, mut ended) = oneshot::channel::<()>();
        let runtime = move || {
            Builder::new_current_thread()
                .enable_all()
                .event_interval(TASKS_A_ROUND)
                .build_local(LocalOptions::default())
        };
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(move || {
                let runtime = match runtime() {
                    Ok(runtime) => {
                        // The starter waits for this one message.
                        let _ = ready.send(Ok(()));
                        runtime
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                runtime.block_on(async move {
                    loop {
                        let work = tokio::select! {
                            biased;
                            _ = &mut ended => return,
                            work = work.recv() => work,
                        };
                        let Some(work) = work else { return };
                        holdfast_tasks::spawn_critical_local("core-work", work());
                    }
                });
            })?;
        is_ready
            .recv()
            .context("a core ended while it started")?
            .context("cannot start a runtime")?;
        Ok(Self {
            handle: CoreHandle(queue),
            end,
            thread,
        })
    }

    /// A way to send it work.
    pub(crate) fn handle(&self) -> CoreHandle {
        self.handle.clone()
    }

    /// See [`CoreHandle::run`].
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn run<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.handle.run(work).await
    }

    /// Ends the core: its tasks are dropped where they stand.
    pub(crate) fn end(self) {
        drop(self.end);
        if self.thread.join().is_err() {
            tracing::error!("a core's thread panicked");
        }
    }
}

impl CoreHandle {
    /// Runs `work` on the core and waits for its result. Tasks that it spawns stay on the core.
    ///
    /// # Errors
    /// When the core has ended, or `work` panicked (which the log has told).
    pub(crate) async fn run<T, F, Fut>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (answer, result) = oneshot::channel();
        let boxed: Work = Box::new(move || {
            Box::pin(async move {
                // The caller may have stopped waiting.
                let _ = answer.send(work().await);
            })
        });
        self.0.send(boxed).await.map_err(|_| anyhow!("the core has ended"))?;
        result.await.context("the work panicked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_the_core_and_its_result_comes_back() {
        let core = Core::start(7).unwrap();
        let main = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let name = main.block_on(core.run(|| async {
            // Something that cannot leave the thread.
            let local = std::rc::Rc::new(std::thread::current().name().map(str::to_owned));
            (*local).clone()
        }));
        assert_eq!(name.unwrap().as_deref(), Some("core-7"));
        assert!(main.block_on(core.run(|| async { panic!("as a test") as () })).is_err());
        assert_eq!(
            main.block_on(core.run(|| async { 5 })).unwrap(),
            5,
            "a panic ends its work, not the core"
        );
        core.end();
    }
}
