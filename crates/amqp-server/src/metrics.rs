//! Counters of the server.
//!
//! Their names date from when only Event Hubs readers spoke AMQP, and are public: dashboards use them.

use holdfast_model::ErrorCode;
use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// AMQP connections accepted.
    counter accepted() = "holdfast_events_connections_accepted_total";
    /// AMQP connections now.
    gauge connections() = "holdfast_events_connections";
    /// Bytes written to AMQP connections.
    counter written() = "holdfast_events_written_bytes_total";
    /// Readers that were refused.
    counter refusals(code) = "holdfast_events_refusals_total";
    /// Peers that broke a rule of AMQP; the connection was closed.
    counter violations(condition) = "holdfast_events_violations_total";
}

/// Handles made once per core. Labels come from fixed sets.
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) connections: Gauge,
    pub(crate) written: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: accepted(),
            connections: connections(),
            written: written(),
        }
    }

    /// Counts a refusal; rare, so the handle is looked up by name.
    pub(crate) fn refused(&self, code: ErrorCode) {
        refusals(code.name()).increment(1);
    }

    /// Counts a protocol violation.
    pub(crate) fn violation(&self, condition: &'static str) {
        violations(condition).increment(1);
    }
}
