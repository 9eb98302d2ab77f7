//! Appends of other nodes: one ordered queue for each sending node and partition, and a byte budget for each node.
//!
//! Why: the transport passes on calls in the order in which they were sent, but their answers are futures that are polled in
//! any order. Entries must be proposed in the order of the calls. A proposal is almost always possible at once and then
//! costs neither a task nor a wake-up; if it must wait, a task takes over and later work queues behind it.
//! Invariant: a queue is bounded by the byte budget of its sender.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use holdfast_model::{NodeId, PartitionId};
use holdfast_tasks::ByteBudget;
use holdfast_tasks::sync::{Mutex, RwLock};

use crate::route::client::append::MAX_BYTES_IN_FLIGHT;

/// An append to be made.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs work strictly in the order in which it was pushed.
#[derive(Default)]
pub(super) struct OrderedQueue(Mutex<State>);

#[derive(Default)]
struct State {
    /// Some work is running.
    busy: bool,
    waiting: VecDeque<Work>,
}

impl OrderedQueue {
    /// Runs `work` after everything that was pushed before.
    pub(super) fn push(self: &Arc<Self>, mut work: Work) {
        {
            let mut state = self.0.lock();
            if state.busy {
                state.waiting.push_back(work);
                return;
            }
            state.busy = true;
        }
        // If it is not ready, the task polls it again at once, so that no wake-up is lost.
        let is_done = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(());
        let first = if is_done { self.next() } else { Some(work) };
        if let Some(mut work) = first {
            let queue = self.clone();
            let rest = async move {
                loop {
                    work.await;
                    match queue.next() {
                        Some(next) => work = next,
                        None => break,
                    }
                }
            };
            holdfast_tasks::spawn_critical("append-queue", rest);
        }
    }

    /// The work that waits longest. Without one, the queue becomes idle.
    fn next(&self) -> Option<Work> {
        let mut state = self.0.lock();
        let next = state.waiting.pop_front();
        state.busy = next.is_some();
        next
    }
}

/// The nodes that append here.
#[derive(Default)]
pub(in crate::route) struct Senders(RwLock<HashMap<NodeId, Arc<Sender>>>);

/// A node that appends here.
pub(super) struct Sender {
    pub(super) budget: ByteBudget,
    queues: RwLock<HashMap<PartitionId, Arc<OrderedQueue>>>,
}

impl Senders {
    pub(super) fn of(&self, node: NodeId) -> Arc<Sender> {
        if let Some(sender) = self.0.read().get(&node) {
            return sender.clone();
        }
        let new = || {
            Arc::new(Sender {
                budget: ByteBudget::new(MAX_BYTES_IN_FLIGHT),
                queues: RwLock::default(),
            })
        };
        self.0.write().entry(node).or_insert_with(new).clone()
    }
}

impl Sender {
    pub(super) fn queue(&self, id: PartitionId) -> Arc<OrderedQueue> {
        if let Some(queue) = self.queues.read().get(&id) {
            return queue.clone();
        }
        self.queues.write().entry(id).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[tokio::test]
    async fn work_that_waits_is_not_overtaken() {
        let queue = Arc::new(OrderedQueue::default());
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
        queue.push(work(0, false));
        assert_eq!(finished.try_recv().unwrap(), 0, "runs inline");
        queue.push(work(1, true));
        queue.push(work(2, false));
        queue.push(work(3, true));
        queue.push(work(4, false));
        assert!(finished.try_recv().is_err());
        gate.add_permits(2);
        for number in 1..5 {
            assert_eq!(finished.recv().await.unwrap(), number);
        }
        queue.push(work(5, false));
        assert_eq!(finished.recv().await.unwrap(), 5);
    }
}
