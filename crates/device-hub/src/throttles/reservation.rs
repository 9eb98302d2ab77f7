//! The turn of one request in the queue of a rate.

use std::sync::Arc;

use tokio::time::Instant;

use super::class::ThrottleClass;
use crate::DeviceHub;

/// A turn to come. When it is dropped before, the request takes nothing of the rate.
pub struct Reservation {
    hub: Arc<DeviceHub>,
    class: ThrottleClass,
    cost: u32,
    due: Instant,
}

impl Reservation {
    pub(super) fn new(hub: Arc<DeviceHub>, class: ThrottleClass, cost: u32, due: Instant) -> Self {
        Self { hub, class, cost, due }
    }

    /// Its time.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The request is carried out before its turn has come: it takes its part of the rate, whatever becomes of it.
    pub(super) fn used(mut self) -> Self {
        self.cost = 0;
        self
    }

    /// Waits for the turn.
    pub async fn come(self) {
        tokio::time::sleep_until(self.due).await;
        drop(self.used());
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.hub.throttles.leave(self.class, self.cost);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({})", self.class)
    }
}
