//! Starting tasks so that their panics are seen.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many tasks of this process have panicked; a process-wide count, since a panic is a bug of the process.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// A future whose panic is logged with the task's name and ends that task alone.
struct Watched<F> {
    name: &'static str,
    future: F,
}

impl<F: Future<Output = ()> + Unpin> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let name = self.name;
        let future = Pin::new(&mut self.future);
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                PANICS.fetch_add(1, Ordering::Relaxed);
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".to_owned());
                tracing::error!(task = name, panic = text, "task panicked");
                Poll::Ready(())
            }
        }
    }
}

/// Starts `future` on the current runtime.
#[expect(clippy::disallowed_methods, reason = "this is the door that the lint points to")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(Watched {
        name,
        future: Box::pin(future),
    })
}

/// Starts `future`, which need not be `Send`, on the current single-threaded runtime.
///
/// The future is not boxed again: an idle connection's task is part of its memory budget.
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Unpin + 'static,
{
    tokio::task::spawn_local(Watched { name, future })
}

/// Runs `work` on the runtime's pool of blocking threads and gives its result back.
///
/// # Panics
/// Propagates a panic of `work`.
pub async fn spawn_blocking<R, W>(work: W) -> R
where
    R: Send + 'static,
    W: FnOnce() -> R + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is only cancelled when the runtime is gone, and then nobody polls this.
            Err(_) => std::future::pending().await,
        },
    }
}
