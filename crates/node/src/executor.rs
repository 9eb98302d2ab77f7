//! Where a node's groups and connections run: on cores, each a single-threaded runtime on a thread of its own, or all on
//! the runtime of the caller.
//!
//! Why: a connection, a group and their tasks live and die on one core, so nothing between them is locked. Work for a
//! core is sent to it as a closure. A simulation has one thread and one clock.
//! Not here: the tasks that run on them.

use std::pin::Pin;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

/// Closures that may wait for a core; only starting and stopping send any.
const QUEUE: usize = 64;
/// Tasks polled between two polls of the sockets: one poll should serve a whole round of connections.
const TASKS_A_ROUND: u32 = 256;

type Work = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The core has ended, or the work on it has panicked (the log has the panic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the core has ended, or its work panicked")]
pub struct CoreGone;

/// A core's thread.
#[derive(Debug)]
pub struct Core {
    handle: CoreHandle,
    /// Dropped to end it.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Sends work to a core; clones send to the same. A handle does not keep its core alive.
#[derive(Debug, Clone)]
pub struct CoreHandle(mpsc::Sender<Work>);

/// The places where a node's work runs.
#[derive(Debug, Clone)]
pub enum Executor {
    /// Group *g* runs on core *g* mod the number of cores.
    Cores(Vec<CoreHandle>),
    /// Everything runs on the runtime that starts it: a simulation's.
    Caller,
}

impl Core {
    /// Starts core number `index`.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn start(index: usize) -> std::io::Result<Self> {
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
        is_ready.recv().map_err(std::io::Error::other)??;
        Ok(Self {
            handle: CoreHandle(queue),
            end,
            thread,
        })
    }

    /// A way to send it work.
    #[must_use]
    pub fn handle(&self) -> CoreHandle {
        self.handle.clone()
    }

    /// Ends the core: its tasks are dropped, finished or not.
    pub fn end(self) {
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
    /// When the core has ended, or `work` panicked.
    pub async fn run<T, F, Fut>(&self, work: F) -> Result<T, CoreGone>
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
        self.0.send(boxed).await.map_err(|_| CoreGone)?;
        result.await.map_err(|_| CoreGone)
    }
}

impl Executor {
    /// The core of the group with this number; `None`: the caller's runtime.
    fn core(&self, group: usize) -> Option<&CoreHandle> {
        match self {
            Self::Cores(cores) => cores.get(group % cores.len().max(1)),
            Self::Caller => None,
        }
    }

    /// Runs `work` where the group with this number belongs.
    ///
    /// # Errors
    /// As [`CoreHandle::run`].
    pub(crate) async fn run<T, F, Fut>(&self, group: usize, work: F) -> Result<T, CoreGone>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        match self.core(group) {
            Some(core) => core.run(work).await,
            None => Ok(work().await),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use super::*;

    #[test]
    fn work_runs_on_the_core_and_its_result_comes_back() {
        let core = Core::start(7).unwrap();
        let handle = core.handle();
        let main = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let name = main.block_on(handle.run(|| async {
            // Something that cannot leave the thread.
            let local = std::rc::Rc::new(std::thread::current().name().map(str::to_owned));
            (*local).clone()
        }));
        assert_eq!(name.unwrap().as_deref(), Some("core-7"));
        assert!(
            main.block_on(handle.run(|| async { panic!("as a test") as () }))
                .is_err()
        );
        assert_eq!(
            main.block_on(handle.run(|| async { 5 })).unwrap(),
            5,
            "a panic ends its work, not the core"
        );
        core.end();
        assert_eq!(main.block_on(handle.run(|| async { 5 })), Err(CoreGone));
    }
}
