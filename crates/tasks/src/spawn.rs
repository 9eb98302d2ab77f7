//! Starting tasks, so that a panic is always noticed and costs what it must and no more.
//!
//! [`spawn`] and [`spawn_local`] are for the code that serves one connection or one caller: its panic ends that task.
//! [`spawn_critical`] and [`spawn_critical_local`] are for everything that the node cannot do without: its panic ends
//! the process (after [`crate::end_process_on_panic`]). A part of an isolated task that a panic must not interrupt runs in
//! [`crate::critical`].

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use crate::panic::{Isolation, report};

/// The extent of a task's panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnPanic {
    EndTask,
    EndProcess,
}

/// A future whose panic is counted and logged with the task's name.
struct Watched<F> {
    name: &'static str,
    on_panic: OnPanic,
    future: F,
}

impl<F: Future<Output = ()> + Unpin> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let name = self.name;
        // The panic hook ends the process for every panic outside an isolated task.
        let _isolation = (self.on_panic == OnPanic::EndTask).then(|| Isolation::begin(name));
        let future = Pin::new(&mut self.future);
        // State that the future shares with other tasks either was not being changed or ends the process (`crate::sync`).
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                report(name, &*panic);
                Poll::Ready(())
            }
        }
    }
}

/// Starts `future`, which serves one connection or one caller, on the current runtime. A panic ends this task alone.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    start(name, OnPanic::EndTask, future)
}

/// Starts `future`, which the node cannot do without, on the current runtime. A panic ends the process.
pub fn spawn_critical<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    start(name, OnPanic::EndProcess, future)
}

#[expect(clippy::disallowed_methods, reason = "the function that the lint points to")]
fn start<F>(name: &'static str, on_panic: OnPanic, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(Watched {
        name,
        on_panic,
        future: Box::pin(future),
    })
}

/// [`spawn`] for a future that need not be `Send`, on the current single-threaded runtime.
///
/// The future is not boxed again: an idle connection's task is part of its memory budget.
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Unpin + 'static,
{
    start_local(name, OnPanic::EndTask, future)
}

/// [`spawn_critical`] for a future that need not be `Send`, on the current single-threaded runtime.
pub fn spawn_critical_local<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Unpin + 'static,
{
    start_local(name, OnPanic::EndProcess, future)
}

fn start_local<F>(name: &'static str, on_panic: OnPanic, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Unpin + 'static,
{
    tokio::task::spawn_local(Watched { name, on_panic, future })
}

thread_local! {
    static BLOCKS_INLINE: Cell<bool> = const { Cell::new(false) };
}

/// From now on [`spawn_blocking`] runs its work on this thread, when it is polled: for simulations, whose seeds replay only if
/// no other thread decides when a task continues.
pub fn block_inline_on_this_thread() {
    BLOCKS_INLINE.set(true);
}

/// Runs `work` on the runtime's pool of blocking threads and returns its result.
///
/// A panic of `work` ends the process, whichever task waits for it: it reads and writes what all tasks share.
///
/// # Panics
/// Where panics do not end the process (tests), the panic of `work` continues in the caller.
pub async fn spawn_blocking<R, W>(work: W) -> R
where
    R: Send + 'static,
    W: FnOnce() -> R + Send + 'static,
{
    if BLOCKS_INLINE.get() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is only cancelled when the runtime has ended, and then this future is not polled again.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_task_alone_and_is_counted() {
        let before = crate::panics();
        spawn("test", async { panic!("as a test") }).await.unwrap();
        let (done, is_done) = tokio::sync::oneshot::channel();
        spawn("other", async move { done.send(()).unwrap() }).await.unwrap();
        assert_eq!(is_done.await, Ok(()));
        assert!(crate::panics() > before);
    }
}
