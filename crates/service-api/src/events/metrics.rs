//! Counters of the endpoint.

use holdfast_model::ErrorCode;
use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once per core. Labels come from fixed sets.
pub(super) struct Metrics {
    /// Connections accepted.
    pub(super) accepted: Counter,
    /// Connections now.
    pub(super) connections: Gauge,
    /// Receivers of partitions now.
    pub(super) receivers: Gauge,
    /// Events sent.
    pub(super) events: Counter,
    /// Bytes written to connections, events and everything else.
    pub(super) written: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            accepted: counter!("holdfast_events_connections_accepted_total"),
            connections: gauge!("holdfast_events_connections"),
            receivers: gauge!("holdfast_events_receivers"),
            events: counter!("holdfast_events_sent_total"),
            written: counter!("holdfast_events_written_bytes_total"),
        }
    }

    /// Counts a refusal; rare, so the handle is looked up by name.
    pub(super) fn refused(&self, code: ErrorCode) {
        counter!("holdfast_events_refusals_total", "code" => code.name()).increment(1);
    }

    /// Counts a protocol violation.
    pub(super) fn violation(&self, condition: &'static str) {
        counter!("holdfast_events_violations_total", "condition" => condition).increment(1);
    }
}
