//! Counters of the server.
//!
//! Their names date from when only Event Hubs readers spoke AMQP, and are public: dashboards use them.

use holdfast_model::ErrorCode;
use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once per core. Labels come from fixed sets.
pub(crate) struct Metrics {
    /// Connections accepted.
    pub(crate) accepted: Counter,
    /// Connections now.
    pub(crate) connections: Gauge,
    /// Bytes written to connections.
    pub(crate) written: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!("holdfast_events_connections_accepted_total"),
            connections: gauge!("holdfast_events_connections"),
            written: counter!("holdfast_events_written_bytes_total"),
        }
    }

    /// Counts a refusal; rare, so the handle is looked up by name.
    pub(crate) fn refused(&self, code: ErrorCode) {
        counter!("holdfast_events_refusals_total", "code" => code.name()).increment(1);
    }

    /// Counts a protocol violation.
    pub(crate) fn violation(&self, condition: &'static str) {
        counter!("holdfast_events_violations_total", "condition" => condition).increment(1);
    }
}
