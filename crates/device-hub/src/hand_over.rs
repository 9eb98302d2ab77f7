//! Work that hardly ever has to wait, and must not be waited for when it does.
//!
//! An append is taken at once almost always, and then costs neither a task nor a wake-up.

use std::task::{Context, Waker};

/// Does `work` as far as it goes without waiting; a task does the rest.
pub(crate) fn hand_over(work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    // Polled again at once by the task when it is not done, so that no wake-up is lost.
    if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
        holdfast_tasks::spawn("append", work);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_can_be_done_at_once_is_done_and_what_waits_goes_on_by_itself() {
        let (done, mut is_done) = oneshot::channel();
        hand_over(async move { done.send(()).unwrap() });
        assert_eq!(is_done.try_recv(), Ok(()));

        let (let_go, waits) = oneshot::channel::<()>();
        let (done, mut is_done) = oneshot::channel();
        hand_over(async move {
            waits.await.unwrap();
            done.send(()).unwrap();
        });
        assert!(is_done.try_recv().is_err());
        let_go.send(()).unwrap();
        is_done.await.unwrap();
    }
}
