//! Budgets counted in bytes, with permits that come back when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;
use tokio::sync::Notify;

/// The budget has less left than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{asked} bytes asked, {left} left of {limit}")]
pub struct Overdrawn {
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes left at that moment.
    pub left: usize,
    /// The whole budget.
    pub limit: usize,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
    returned: Notify,
}

/// A budget of bytes shared by its clones.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Shared>);

impl ByteBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            used: AtomicUsize::new(0),
            returned: Notify::new(),
        }))
    }

    /// Bytes taken at this moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The whole budget.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Takes `bytes` without waiting. A single request above the whole limit is granted when nothing else is taken, so
    /// that it cannot wait for ever.
    ///
    /// # Errors
    /// [`Overdrawn`] when too little is left.
    pub fn try_take(&self, bytes: usize) -> Result<Permit, Overdrawn> {
        let limit = self.0.limit;
        self.0
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                (used == 0 || used.saturating_add(bytes) <= limit).then(|| used.saturating_add(bytes))
            })
            .map(|_| Permit {
                budget: self.clone(),
                bytes,
            })
            .map_err(|used| Overdrawn {
                asked: bytes,
                left: limit.saturating_sub(used),
                limit,
            })
    }

    /// Takes `bytes`, waiting until they are there. Cancel-safe; not fair.
    pub async fn take(&self, bytes: usize) -> Permit {
        loop {
            let returned = self.0.returned.notified();
            if let Ok(permit) = self.try_take(bytes) {
                return permit;
            }
            returned.await;
        }
    }
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    budget: ByteBudget,
    bytes: usize,
}

impl Permit {
    /// How many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.0.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_when_dropped() {
        let budget = ByteBudget::new(10);
        let first = budget.try_take(8).unwrap();
        assert_eq!(
            budget.try_take(3).unwrap_err(),
            Overdrawn {
                asked: 3,
                left: 2,
                limit: 10
            }
        );
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(50).is_ok(), "a request above the limit passes alone");
    }
}
