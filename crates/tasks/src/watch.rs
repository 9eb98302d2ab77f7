//! A watched value, whose receivers are woken in the order in which they began to wait.
//!
//! Why not tokio's: it spreads its waiters over several lists at random, so that the order of wake-ups differs from run
//! to run, and a seed of a simulation would not replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLockReadGuard;
use tokio::sync::Notify;

use crate::sync::RwLock;

struct Channel<T> {
    value: RwLock<T>,
    /// Counts changes; read and written under the lock of `value`.
    version: AtomicU64,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// Changes the value. Clones change the same one; it ends with the last of them.
pub struct Sender<T>(Arc<Channel<T>>);

/// Reads the value and waits for its changes.
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

/// The value does not change any more: the last sender has been dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the last sender of the watched value has been dropped")]
pub struct Ended;

/// A sender and a receiver that has seen `value`.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Channel<T> {
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn receiver(self: &Arc<Self>, seen: u64) -> Receiver<T> {
        self.receivers.fetch_add(1, Ordering::AcqRel);
        Receiver {
            channel: self.clone(),
            seen,
        }
    }
}

impl<T> Sender<T> {
    /// A value without receivers.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(Channel {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
        }))
    }

    /// Changes the value; receivers are woken when `modify` returns `true`.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.0.value.write();
            if !modify(&mut value) {
                return false;
            }
            self.0.version.fetch_add(1, Ordering::AcqRel);
        }
        self.0.changed.notify_waiters();
        true
    }

    /// Changes the value and wakes the receivers.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Replaces the value and returns the old one.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|old| std::mem::swap(old, &mut value));
        value
    }

    /// The value as it is. It is locked as long as the guard lives.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read_recursive()
    }

    /// A receiver that has seen the value as it is.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(self.0.version())
    }

    /// Whether there is a receiver.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.0.receivers.load(Ordering::Acquire) > 0
    }
}

impl<T> Receiver<T> {
    /// Returns when there is a change that this receiver has not seen. Cancel-safe.
    ///
    /// # Errors
    /// [`Ended`], once every change has been seen.
    pub async fn changed(&mut self) -> Result<(), Ended> {
        let channel = self.channel.clone();
        loop {
            // Created before the version is read, so that no change is missed between the check and the wait.
            let changed = channel.changed.notified();
            let version = channel.version();
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if channel.senders.load(Ordering::Acquire) == 0 {
                return Err(Ended);
            }
            changed.await;
        }
    }

    /// Returns when `holds` is true of the value, at once if it is. Cancel-safe.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn wait_for(&mut self, mut holds: impl FnMut(&T) -> bool) -> Result<(), Ended> {
        while !holds(&self.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(())
    }

    /// Whether there is a change that this receiver has not seen.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn has_changed(&self) -> Result<bool, Ended> {
        if self.channel.senders.load(Ordering::Acquire) == 0 {
            return Err(Ended);
        }
        Ok(self.channel.version() != self.seen)
    }

    /// Lets [`Self::changed`] return at once.
    pub fn mark_changed(&mut self) {
        self.seen = self.seen.wrapping_sub(1);
    }

    /// The value as it is. It is locked as long as the guard lives.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.channel.value.read_recursive()
    }

    /// The value as it is, which counts as seen.
    pub fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.channel.value.read_recursive();
        self.seen = self.channel.version();
        value
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

impl<T: std::fmt::Debug> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn watchers_are_woken_in_the_order_in_which_they_wait() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..20 {
            let (mut receiver, woken) = (receiver.clone(), woken.clone());
            tasks.push(crate::spawn("watcher", async move {
                receiver.changed().await.unwrap();
                woken.lock().unwrap().push(number);
            }));
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn it_reports_a_change_once_and_its_end_always() {
        let (sender, mut receiver) = channel(0);
        assert!(!sender.send_if_modified(|_| false) && receiver.has_changed() == Ok(false));
        assert_eq!(sender.send_replace(1), 0);
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow(), 1);
        let mut later = sender.subscribe();
        sender.clone().send_replace(2);
        assert_eq!(*receiver.borrow_and_update(), 2);
        receiver.mark_changed();
        receiver.changed().await.unwrap();
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Ended), "what was seen is no change");
        assert_eq!(receiver.has_changed(), Err(Ended));
        assert_eq!(receiver.wait_for(|value| *value == 2).await, Ok(()));
        assert_eq!(receiver.wait_for(|value| *value == 3).await, Err(Ended));
        later.changed().await.unwrap();
        assert_eq!(later.changed().await, Err(Ended));
        let (sender, receiver) = channel(0);
        assert!(sender.is_watched());
        drop(receiver);
        assert!(!sender.is_watched());
    }
}
