//! Counters of the MQTT front end.

use metrics::{Counter, Gauge};

holdfast_model::metrics! {
    /// Device connections accepted, before they have authenticated.
    counter accepted(protocol) = "holdfast_gateway_connections_accepted_total";
    /// Devices and modules that have authenticated.
    counter connected(protocol) = "holdfast_gateway_connects_total";
    /// Device connections now.
    gauge connections(protocol) = "holdfast_gateway_connections";
    /// Peers that broke a rule of the protocol; the connection was closed.
    counter violations(protocol, rule) = "holdfast_gateway_violations_total";
    /// Device connections that have ended.
    counter connections_ended(protocol, reason) = "holdfast_gateway_connections_ended_total";
}

/// Handles made once per core. Labels come from fixed sets.
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) connected: Counter,
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: accepted("mqtt"),
            connected: connected("mqtt"),
            connections: connections("mqtt"),
        }
    }

    /// A peer broke a rule; rare, so that the handle is looked up.
    pub(crate) fn violation(&self, rule: &'static str) {
        violations("mqtt", rule).increment(1);
    }

    /// A connection ended.
    pub(crate) fn ended(&self, reason: &'static str) {
        connections_ended("mqtt", reason).increment(1);
    }
}
