//! Counters of the readers.

use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// Receivers of partitions now.
    gauge receivers() = "holdfast_events_receivers";
    /// Events sent to readers.
    counter events() = "holdfast_events_sent_total";
}

/// Handles made once per core.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) receivers: Gauge,
    pub(super) events: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            receivers: receivers(),
            events: events(),
        }
    }
}
