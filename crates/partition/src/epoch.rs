//! Who may read a partition in a consumer group: epochs, and at most five readers without one (Spec amqp §8.3).
//!
//! Why here: the rule holds across all nodes, so that the partition's owner decides it, in memory; a client that
//! reconnects after the owner has moved registers anew.
//! Invariants: in one group either one reader with an epoch, or up to [`MAX_READERS_PER_GROUP`] without; an equal or
//! higher epoch takes over (the event processors of all SDKs use epoch 0 and rely on it).
//! Not here: the wire forms of refusal and detach (`service-api`), whether the group exists (`registry`).
//! Start at [`Epochs`]; [`Table`] is the rule itself, pure.

mod table;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_model::limits::MAX_READERS_PER_GROUP;
use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use table::{Granted, Receiver, ReceiverId, Refusal, Since, Stolen, Table};

const _: () = assert!(MAX_READERS_PER_GROUP > 0);

#[derive(Debug, Default)]
struct Inner {
    table: Table,
    told: HashMap<ReceiverId, oneshot::Sender<Stolen>>,
}

/// The receivers of one partition; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Epochs(Arc<Mutex<Inner>>);

impl Epochs {
    /// Nobody reads.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a receiver in and tells those that it replaces.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub fn register(&self, group: &str, receiver: Receiver) -> Result<Registration, Refusal> {
        let mut inner = self.0.lock();
        let Granted { id, stolen, .. } = inner.table.register(group, receiver)?;
        let (tell, told) = oneshot::channel();
        inner.told.insert(id, tell);
        for (old, reason) in stolen {
            if let Some(tell) = inner.told.remove(&old) {
                // A registration that is being dropped no longer listens.
                let _ = tell.send(reason);
            }
        }
        Ok(Registration {
            epochs: self.clone(),
            id,
            told,
        })
    }

    /// Receivers in all groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().told.len()
    }

    /// Nobody reads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A receiver's place; dropping it leaves.
#[derive(Debug)]
pub struct Registration {
    epochs: Epochs,
    id: ReceiverId,
    told: oneshot::Receiver<Stolen>,
}

impl Registration {
    /// Returns when another receiver has taken over: detach with `amqp:link:stolen`. Not to be called again after that.
    pub async fn stolen(&mut self) -> Stolen {
        std::future::poll_fn(|cx| self.poll_stolen(cx)).await
    }

    /// The same for a caller with its own poll loop.
    pub fn poll_stolen(&mut self, cx: &mut Context<'_>) -> Poll<Stolen> {
        match std::pin::Pin::new(&mut self.told).poll(cx) {
            Poll::Ready(Ok(stolen)) => Poll::Ready(stolen),
            // The sender goes only by being used, or with this registration.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.epochs.0.lock();
        inner.table.unregister(self.id);
        inner.told.remove(&self.id);
    }
}
