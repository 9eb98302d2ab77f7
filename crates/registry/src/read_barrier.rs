//! The read barrier: confirms that the local replica is up to date, with one ReadIndex for all callers of a round.
//!
//! Why: a refusal is never answered from a replica that may be stale, and a thousand bad tokens must not cost the leader
//! a thousand reads.
//! Invariants: a caller is answered by a ReadIndex that began after its call; the number of waiting callers is bounded.

use holdfast_consensus::ReadError;
use tokio::sync::{mpsc, oneshot};

use crate::error::{RegistryError, UnavailableReason};

/// The outcome of one round.
pub(crate) type Outcome = Result<(), ReadError>;

/// The queue of waiting callers.
#[derive(Clone)]
pub(crate) struct ReadBarriers(mpsc::Sender<oneshot::Sender<Outcome>>);

impl ReadBarriers {
    /// Starts the task that runs rounds; it ends when the last clone is dropped.
    pub(crate) fn spawn<B, F>(max_waiting: usize, barrier: B) -> Self
    where
        B: Fn() -> F + Send + 'static,
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(max_waiting);
        holdfast_tasks::spawn_critical("registry-read-barrier", run(receiver, max_waiting, barrier));
        Self(sender)
    }

    /// Returns once the replica has applied everything that was committed before this call. Cancel-safe.
    ///
    /// # Errors
    /// [`RegistryError::Overloaded`] when too many callers wait; [`RegistryError::Unavailable`] without leader or quorum.
    pub(crate) async fn wait(&self) -> Result<(), RegistryError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RegistryError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => UnavailableReason::Stopped.into(),
        })?;
        match answered.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(UnavailableReason::from(error).into()),
            Err(_) => Err(UnavailableReason::Stopped.into()),
        }
    }
}

async fn run<B, F>(mut queue: mpsc::Receiver<oneshot::Sender<Outcome>>, most: usize, barrier: B)
where
    B: Fn() -> F + Send,
    F: Future<Output = Outcome> + Send + 'static,
{
    let mut round = Vec::new();
    while queue.recv_many(&mut round, most).await > 0 {
        let outcome = barrier().await;
        for waiter in round.drain(..) {
            // The caller may have been cancelled.
            let _ = waiter.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn waiting_callers_share_one_round_and_none_is_answered_by_an_earlier_one() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let barriers = ReadBarriers::spawn(100, {
            let (rounds, gate) = (rounds.clone(), gate.clone());
            move || {
                let (rounds, gate) = (rounds.clone(), gate.clone());
                async move {
                    rounds.fetch_add(1, Ordering::SeqCst);
                    if let Ok(permit) = gate.acquire().await {
                        permit.forget();
                    }
                    Ok(())
                }
            }
        });
        let mut first = Box::pin(barriers.wait());
        assert!(futures_poll(&mut first).await.is_none());
        let mut later: Vec<_> = (0..50).map(|_| Box::pin(barriers.wait())).collect();
        for waiter in &mut later {
            assert!(futures_poll(waiter).await.is_none());
        }
        gate.add_permits(1);
        first.await.unwrap();
        for waiter in &mut later {
            assert!(
                futures_poll(waiter).await.is_none(),
                "answered by a round that began before its call"
            );
        }
        gate.add_permits(1);
        for waiter in later {
            waiter.await.unwrap();
        }
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn each_waiting_caller_gets_the_error_itself() {
        let barriers = ReadBarriers::spawn(2, || async { Err(ReadError::NoQuorum) });
        for outcome in [barriers.wait().await, barriers.wait().await] {
            let error = outcome.unwrap_err();
            assert!(
                matches!(
                    error,
                    RegistryError::Unavailable {
                        reason: UnavailableReason::Read(ReadError::NoQuorum)
                    }
                ),
                "{error:?}"
            );
            assert_eq!(
                error.to_string(),
                "the registry has no leader here at the moment: the leader cannot reach a quorum"
            );
        }
    }

    #[tokio::test]
    async fn callers_beyond_the_limit_are_refused() {
        let barriers = ReadBarriers::spawn(2, std::future::pending::<Outcome>);
        let mut first = Box::pin(barriers.wait());
        assert!(futures_poll(&mut first).await.is_none());
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(barriers.wait())).collect();
        for waiter in &mut waiting {
            assert!(futures_poll(waiter).await.is_none());
        }
        assert!(matches!(barriers.wait().await, Err(RegistryError::Overloaded)));
    }

    /// Polls once, after letting the task run.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await;
        tokio::task::yield_now().await;
        polled
    }
}
