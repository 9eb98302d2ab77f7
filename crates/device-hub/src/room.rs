//! How much of what a core has taken may wait for its commit, and who waits until there is room again.
//!
//! All partitions share one bound. Beyond it each may still hold a batch of its own: a partition that is stuck keeps what
//! its devices have sent, and may fill the whole, but the devices of the others must be able to go on. So the memory is
//! bounded by the whole and a batch per partition.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use holdfast_model::{PartitionCount, PartitionId};

/// Entries of a queue for connections that are gone are removed when there are more than this, and than half.
const MAX_GONE: usize = 64;

pub(crate) struct Room {
    /// Bytes of all partitions.
    whole: usize,
    /// Bytes of one partition that it may hold whatever the others do.
    own: usize,
    /// By the partition of their device.
    waiting: RefCell<Vec<Queue>>,
}

/// Connections that wait, by the keys of their sessions. Each is there once, however often it is asked for.
#[derive(Default)]
struct Queue {
    /// In the order in which they came; some may be gone.
    keys: VecDeque<u64>,
    wakers: HashMap<u64, Waker>,
}

impl Queue {
    fn enter(&mut self, key: u64, waker: Waker) {
        if self.wakers.insert(key, waker).is_none() {
            self.keys.push_back(key);
        }
    }

    fn leave(&mut self, key: u64) {
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

impl Room {
    pub(crate) fn new(whole: usize, own: usize, partitions: PartitionCount) -> Self {
        Self {
            whole,
            own,
            waiting: RefCell::new(partitions.iter().map(|_| Queue::default()).collect()),
        }
    }

    /// Whether a partition may take more that holds `own` of the `whole` bytes.
    pub(crate) fn is_there(&self, whole: usize, own: impl FnOnce() -> usize) -> bool {
        whole < self.whole || own() < self.own
    }

    /// The connection of the session `key` waits.
    pub(crate) fn wait(&self, partition: PartitionId, key: u64, waker: Waker) {
        self.waiting.borrow_mut()[usize::from(partition.0)].enter(key, waker);
    }

    /// The session has ended: nobody waits for it any more.
    pub(crate) fn leave(&self, partition: PartitionId, key: u64) {
        self.waiting.borrow_mut()[usize::from(partition.0)].leave(key);
    }

    /// Wakes those for whom there is room, after `partition` has given some back.
    pub(crate) fn wake(&self, partition: PartitionId, whole: usize, own: impl FnOnce() -> usize) {
        let mut waiting = self.waiting.borrow_mut();
        if whole < self.whole {
            waiting.iter_mut().for_each(Queue::wake);
        } else if own() < self.own {
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
    fn a_partition_that_fills_the_whole_leaves_the_others_a_batch_each() {
        let room = Room::new(100, 10, PartitionCount::DEFAULT);
        let (stuck, other) = (PartitionId(0), PartitionId(1));
        assert!(room.is_there(99, || 99));
        assert!(!room.is_there(105, || 96), "the one that is stuck");
        assert!(room.is_there(105, || 9), "another one");
        assert!(!room.is_there(106, || 10));
        let [of_stuck, of_other] = [stuck, other].map(|partition| {
            let count = Arc::new(Count::default());
            room.wait(partition, 1, Waker::from(count.clone()));
            count
        });
        let woken = || [&of_stuck, &of_other].map(|count| count.0.load(Ordering::Relaxed));
        room.wake(other, 106, || 10);
        assert_eq!(woken(), [0, 0]);
        room.wake(other, 100, || 4);
        assert_eq!(woken(), [0, 1], "those of the partition that has given room back");
        room.wake(stuck, 99, || 99);
        assert_eq!(woken(), [1, 1], "all");
    }
    #[test]
    fn who_asks_again_waits_once_and_who_is_gone_is_forgotten() {
        let room = Room::new(100, 10, PartitionCount::DEFAULT);
        let partition = PartitionId(0);
        let counts: Vec<Arc<Count>> = (0..1000).map(|_| Arc::default()).collect();
        for _ in 0..3 {
            for (key, count) in (0..).zip(&counts) {
                room.wait(partition, key, Waker::from(count.clone()));
            }
        }
        assert!(counts.iter().all(|count| Arc::strong_count(count) == 2));
        for key in 0..990 {
            room.leave(partition, key);
        }
        assert!(counts[..990].iter().all(|count| Arc::strong_count(count) == 1));
        assert!(room.waiting.borrow()[0].keys.len() < 100, "gone ones do not pile up");
        room.wake(partition, 99, || 99);
        let woken = counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u32>();
        assert_eq!(woken, 10);
    }
}
