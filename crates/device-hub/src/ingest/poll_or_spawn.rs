//! Polls a future once inline and spawns it only if it is pending.
//!
//! Why: an append is accepted at once almost always, and then costs neither a task nor a wake-up; when it has to wait, the
//! core must not wait with it.

use std::task::{Context, Waker};

/// Polls `work` once; a task polls it to its end if that was not enough.
pub(crate) fn poll_or_spawn(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    // No wake-up is lost: the task polls a pending future again at once, with its own waker.
    if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        holdfast_tasks::spawn_critical("append", work);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_ready_future_completes_inline_and_a_pending_one_completes_in_a_task() {
        let (done, mut is_done) = oneshot::channel();
        poll_or_spawn(async move { done.send(()).unwrap() });
        assert_eq!(is_done.try_recv(), Ok(()));

        let (unblock, blocked) = oneshot::channel::<()>();
        let (done, mut is_done) = oneshot::channel();
        poll_or_spawn(async move {
            blocked.await.unwrap();
            done.send(()).unwrap();
        });
        assert!(is_done.try_recv().is_err());
        unblock.send(()).unwrap();
        is_done.await.unwrap();
    }
}
