//! A value that others watch, which wakes them in the order in which they began to wait.
//!
//! Why not tokio's: it spreads those who wait over several lists and draws which, so that who runs first is not the same
//! twice. A seed of a simulation would not replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// What openraft calls the choice.
pub(crate) struct InOrder;

struct Channel<T> {
    value: RwLock<T>,
    /// Counts changes; read and written under the lock of `value`.
    version: AtomicU64,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

pub(crate) struct Sender<T>(Arc<Channel<T>>);

pub(crate) struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

impl<T> Channel<T> {
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn update(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.value.write();
            if !modify(&mut value) {
                return false;
            }
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        self.changed.notify_waiters();
        true
    }

    fn receiver(self: &Arc<Self>, seen: u64) -> Receiver<T> {
        self.receivers.fetch_add(1, Ordering::AcqRel);
        Receiver {
            channel: self.clone(),
            seen,
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.channel.receiver(self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Watch for InOrder {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let channel = Arc::new(Channel {
            value: RwLock::new(init),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
        });
        let receiver = channel.receiver(0);
        (Sender(channel), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<InOrder, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        self.0.update(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.update(modify)
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read_recursive()
    }

    fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(self.0.version())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<InOrder, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let channel = self.channel.clone();
        loop {
            // Made before the look, so that no change falls between the look and the wait.
            let changed = channel.changed.notified();
            let version = channel.version();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if channel.senders.load(Ordering::Acquire) == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.channel.value.read_recursive()
    }

    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.channel.value.read_recursive();
        self.seen = self.channel.version();
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn watchers_are_woken_in_the_order_in_which_they_wait() {
        let (sender, receiver) = InOrder::channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..20 {
            let (mut receiver, woken) = (receiver.clone(), woken.clone());
            tasks.push(holdfast_tasks::spawn("watcher", async move {
                receiver.changed().await.unwrap();
                woken.lock().unwrap().push(number);
            }));
        }
        tokio::task::yield_now().await;
        sender.send(1).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn it_tells_a_change_once_and_its_end_for_ever() {
        let (sender, mut receiver) = InOrder::channel(0);
        assert!(sender.send_if_different(1) && !sender.send_if_different(1));
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow_watched(), 1);
        let mut later = sender.subscribe();
        sender.clone().send(2).unwrap();
        assert_eq!(*receiver.borrow_and_update(), 2);
        drop(sender);
        assert!(receiver.changed().await.is_err(), "what was seen is no change");
        later.changed().await.unwrap();
        assert!(later.changed().await.is_err());
        let (sender, receiver) = InOrder::channel(0);
        drop(receiver);
        assert!(sender.send(1).is_err());
    }
}
