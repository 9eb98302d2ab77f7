//! Counters of the readers.

use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once per core.
#[derive(Clone)]
pub(super) struct Metrics {
    /// Receivers of partitions now.
    pub(super) receivers: Gauge,
    /// Events sent.
    pub(super) events: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            receivers: gauge!("holdfast_events_receivers"),
            events: counter!("holdfast_events_sent_total"),
        }
    }
}
