//! How much of what a core has taken may wait for its commit, and who waits until there is room again.
//!
//! All partitions share one bound. Beyond it each may still hold a batch of its own: a partition that is stuck keeps what
//! its devices have sent, and may fill the whole, but the devices of the others must be able to go on. So the memory is
//! bounded by the whole and a batch per partition.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Waker;

use holdfast_model::{PartitionCount, PartitionId};

pub(crate) struct Room {
    /// Bytes of all partitions.
    whole: usize,
    /// Bytes of one partition that it may hold whatever the others do.
    own: usize,
    /// Connections, by the partition of their device.
    waiting: RefCell<Vec<VecDeque<Waker>>>,
}

impl Room {
    pub(crate) fn new(whole: usize, own: usize, partitions: PartitionCount) -> Self {
        Self {
            whole,
            own,
            waiting: RefCell::new(partitions.iter().map(|_| VecDeque::new()).collect()),
        }
    }

    /// Whether a partition may take more that holds `own` of the `whole` bytes.
    pub(crate) fn is_there(&self, whole: usize, own: impl FnOnce() -> usize) -> bool {
        whole < self.whole || own() < self.own
    }

    pub(crate) fn wait(&self, partition: PartitionId, waker: Waker) {
        self.waiting.borrow_mut()[usize::from(partition.0)].push_back(waker);
    }

    /// Wakes those for whom there is room, after `partition` has given some back.
    pub(crate) fn wake(&self, partition: PartitionId, whole: usize, own: impl FnOnce() -> usize) {
        let mut waiting = self.waiting.borrow_mut();
        if whole < self.whole {
            waiting
                .iter_mut()
                .flat_map(|queue| queue.drain(..))
                .for_each(Waker::wake);
        } else if own() < self.own {
            waiting[usize::from(partition.0)].drain(..).for_each(Waker::wake);
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
            room.wait(partition, Waker::from(count.clone()));
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
}
