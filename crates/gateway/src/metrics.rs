//! Counters of the MQTT front end.

use metrics::{Counter, Gauge, counter, gauge};

/// Handles made once per core. Labels come from fixed sets.
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) connected: Counter,
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!("holdfast_gateway_connections_accepted_total", "protocol" => "mqtt"),
            connected: counter!("holdfast_gateway_connects_total", "protocol" => "mqtt"),
            connections: gauge!("holdfast_gateway_connections", "protocol" => "mqtt"),
        }
    }

    /// A peer broke a rule; rare, so that the handle is looked up.
    pub(crate) fn violation(&self, rule: &'static str) {
        counter!("holdfast_gateway_violations_total", "protocol" => "mqtt", "rule" => rule).increment(1);
    }

    /// A connection ended.
    pub(crate) fn ended(&self, reason: &'static str) {
        counter!("holdfast_gateway_connections_ended_total", "protocol" => "mqtt", "reason" => reason).increment(1);
    }
}
