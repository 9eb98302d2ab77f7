//! Limits the bytes of a core that wait for their commit, and wakes connections when there is capacity again.
//!
//! Why: all partitions share one limit. Beyond it each may still hold a batch of its own: a partition that is stuck keeps
//! the messages of its devices and may use up the shared limit, but devices of the other partitions must be able to
//! continue. So the memory is bounded by the shared limit and a batch per partition.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use holdfast_model::{PartitionCount, PartitionId, SessionKey};
use holdfast_tasks::sync::SharedCell;

/// Queue entries of connections that are gone are removed when there are more than this, and more than half of the queue.
const MAX_GONE: usize = 64;

pub(crate) struct IngestBackpressure {
    /// The limit for the bytes of all partitions.
    shared_limit: usize,
    /// The bytes that a partition may always hold.
    own_limit: usize,
    /// By partition.
    waiting: SharedCell<Vec<WaitQueue>>,
}

/// Waiting connections, by the keys of their sessions. Each is queued once, however often it asks.
#[derive(Default)]
struct WaitQueue {
    /// In the order of arrival; some may be gone.
    keys: VecDeque<SessionKey>,
    wakers: HashMap<SessionKey, Waker>,
}

impl WaitQueue {
    fn push(&mut self, key: SessionKey, waker: Waker) {
        if self.wakers.insert(key, waker).is_none() {
            self.keys.push_back(key);
        }
    }

    fn remove(&mut self, key: SessionKey) {
        if self.wakers.remove(&key).is_some() && self.keys.len() > MAX_GONE + 2 * self.wakers.len() {
            self.keys.retain(|key| self.wakers.contains_key(key));
        }
    }

    fn wake(&mut self) {
        for key in self.keys.drain(..) {
            if let Some(waker) = self.wakers.remove(&key) {
                waker.wake();
            }
        }
    }
}

impl IngestBackpressure {
    pub(crate) fn new(shared_limit: usize, own_limit: usize, partitions: PartitionCount) -> Self {
        Self {
            shared_limit,
            own_limit,
            waiting: SharedCell::new(partitions.iter().map(|_| WaitQueue::default()).collect()),
        }
    }

    /// Whether a partition that holds `own` of the `all` bytes may take more.
    pub(crate) fn has_capacity(&self, all: usize, own: impl FnOnce() -> usize) -> bool {
        all < self.shared_limit || own() < self.own_limit
    }

    /// The connection of the session `key` waits.
    pub(crate) fn wait(&self, partition: PartitionId, key: SessionKey, waker: Waker) {
        self.waiting.borrow_mut()[usize::from(partition.0)].push(key, waker);
    }

    /// The session has ended: its connection does not wait any more.
    pub(crate) fn remove(&self, partition: PartitionId, key: SessionKey) {
        self.waiting.borrow_mut()[usize::from(partition.0)].remove(key);
    }

    /// Wakes the connections for which there is capacity, after `partition` has released some.
    pub(crate) fn wake(&self, partition: PartitionId, all: usize, own: impl FnOnce() -> usize) {
        let mut waiting = self.waiting.borrow_mut();
        if all < self.shared_limit {
            waiting.iter_mut().for_each(WaitQueue::wake);
        } else if own() < self.own_limit {
            waiting[usize::from(partition.0)].wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stuck_partition_leaves_every_other_one_a_batch() {
        let limits = IngestBackpressure::new(100, 10, PartitionCount::DEFAULT);
        let (stuck, other) = (PartitionId(0), PartitionId(1));
        assert!(limits.has_capacity(99, || 99));
        assert!(!limits.has_capacity(105, || 96), "the stuck partition");
        assert!(limits.has_capacity(105, || 9), "another one");
        assert!(!limits.has_capacity(106, || 10));
        let [of_stuck, of_other] = [stuck, other].map(|partition| {
            let count = Arc::new(Count::default());
            limits.wait(partition, SessionKey(1), Waker::from(count.clone()));
            count
        });
        let woken = || [&of_stuck, &of_other].map(|count| count.0.load(Ordering::Relaxed));
        limits.wake(other, 106, || 10);
        assert_eq!(woken(), [0, 0]);
        limits.wake(other, 100, || 4);
        assert_eq!(
            woken(),
            [0, 1],
            "the connections of the partition that has released bytes"
        );
        limits.wake(stuck, 99, || 99);
        assert_eq!(woken(), [1, 1], "all");
    }

    #[test]
    fn a_connection_waits_once_and_is_forgotten_when_it_is_gone() {
        let limits = IngestBackpressure::new(100, 10, PartitionCount::DEFAULT);
        let partition = PartitionId(0);
        let counts: Vec<Arc<Count>> = (0..1000).map(|_| Arc::default()).collect();
        for _ in 0..3 {
            for (key, count) in (0..).zip(&counts) {
                limits.wait(partition, SessionKey(key), Waker::from(count.clone()));
            }
        }
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 2));
        for key in 0..990 {
            limits.remove(partition, SessionKey(key));
        }
        assert!(counts[..990].iter().all(|count| Arc::strong_count(count) == 1));
        assert!(
            limits.waiting.borrow()[0].keys.len() < 100,
            "entries of gone connections do not pile up"
        );
        limits.wake(partition, 99, || 99);
        let woken = counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u32>();
        assert_eq!(woken, 10);
    }
}
