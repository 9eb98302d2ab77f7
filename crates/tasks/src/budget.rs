//! Budgets counted in bytes, with permits that return their bytes when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use thiserror::Error;
use tokio::sync::Notify;

/// The budget has fewer bytes left than were requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{requested} bytes requested, {available} of {limit} available")]
pub struct BudgetExceeded {
    /// Bytes requested.
    pub requested: usize,
    /// Bytes available at that moment.
    pub available: usize,
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

    /// Bytes in use at this moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The whole budget.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Acquires `bytes` without waiting. A single request above the whole limit is granted when no other permit is held,
    /// so that it cannot wait without end.
    ///
    /// # Errors
    /// [`BudgetExceeded`] when too few bytes are available.
    pub fn try_acquire(&self, bytes: usize) -> Result<Permit, BudgetExceeded> {
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
            .map_err(|used| BudgetExceeded {
                requested: bytes,
                available: limit.saturating_sub(used),
                limit,
            })
    }

    /// Acquires `bytes`, waiting until they are available. Cancel-safe; not fair.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        loop {
            let returned = self.0.returned.notified();
            if let Ok(permit) = self.try_acquire(bytes) {
                return permit;
            }
            returned.await;
        }
    }
}

/// Bytes acquired from a budget; dropping it returns them.
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
    fn permits_return_their_bytes_when_dropped() {
        let budget = ByteBudget::new(10);
        let first = budget.try_acquire(8).unwrap();
        assert_eq!(
            budget.try_acquire(3).unwrap_err(),
            BudgetExceeded {
                requested: 3,
                available: 2,
                limit: 10
            }
        );
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_acquire(50).is_ok(), "a request above the limit passes alone");
    }
}
