//! Work of one sender for one partition, done one after the other in the order of arrival.
//!
//! Why: the transport hands in calls in the order in which they were sent, but their answers are futures that anybody
//! polls in any order. What has to be in order, handing an entry to consensus, almost always can be done at once, and
//! then costs neither a task nor a wake-up; when it must wait, a task takes over and what comes meanwhile queues.
//! Bounded by who hands in: the queue holds what its sender has under way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use holdfast_tasks::sync::Mutex;

/// One piece of work.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the module.
#[derive(Default)]
pub(super) struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    /// Somebody works off the queue.
    busy: bool,
    waiting: VecDeque<Work>,
}

impl Line {
    /// Does `work` after everything that was handed in before.
    pub(super) fn enter(self: &Arc<Self>, mut work: Work) {
        {
            let mut state = self.0.lock();
            if state.busy {
                state.waiting.push_back(work);
                return;
            }
            state.busy = true;
        }
        // Polled again at once by the task when it is not done, so that no wake-up is lost.
        let is_done = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(());
        let first = if is_done { self.next() } else { Some(work) };
        if let Some(mut work) = first {
            let line = self.clone();
            let rest = async move {
                loop {
                    work.await;
                    match line.next() {
                        Some(next) => work = next,
                        None => break,
                    }
                }
            };
            holdfast_tasks::spawn_critical("partition-line", rest);
        }
    }

    /// What waits longest; nobody works when nothing waits.
    fn next(&self) -> Option<Work> {
        let mut state = self.0.lock();
        let next = state.waiting.pop_front();
        state.busy = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[tokio::test]
    async fn what_waits_does_not_let_the_next_one_pass() {
        let line = Arc::new(Line::default());
        let gate = Arc::new(Semaphore::new(0));
        let (done, mut finished) = mpsc::channel(16);
        let work = |number: u32, waits: bool| -> Work {
            let (done, gate) = (done.clone(), gate.clone());
            Box::pin(async move {
                if waits {
                    gate.acquire().await.unwrap().forget();
                }
                done.try_send(number).unwrap();
            })
        };
        line.enter(work(0, false));
        assert_eq!(finished.try_recv().unwrap(), 0, "done at once");
        line.enter(work(1, true));
        line.enter(work(2, false));
        line.enter(work(3, true));
        line.enter(work(4, false));
        assert!(finished.try_recv().is_err());
        gate.add_permits(2);
        for number in 1..5 {
            assert_eq!(finished.recv().await.unwrap(), number);
        }
        line.enter(work(5, false));
        assert_eq!(finished.recv().await.unwrap(), 5);
    }
}
