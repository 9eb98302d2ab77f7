//! Metrics of the device front ends.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

holdfast_model::metrics! {
    /// Device connections accepted, before they have authenticated.
    counter accepted(protocol) = "holdfast_gateway_connections_accepted_total";
    /// Devices and modules that have authenticated.
    counter connected(protocol) = "holdfast_gateway_connects_total";
    /// Device connections now; of AMQP: sessions of devices and modules, many of which may share a connection.
    gauge connections(protocol) = "holdfast_gateway_connections";
    /// AMQP connections that carry devices or modules now; `holdfast_gateway_connections` of AMQP over this says how many share one.
    gauge amqp_device_connections() = "holdfast_gateway_amqp_device_connections";
    /// Peers that broke a rule of the protocol; the connection was closed.
    counter violations(protocol, rule) = "holdfast_gateway_violations_total";
    /// Device connections that have ended.
    counter connections_ended(protocol, reason) = "holdfast_gateway_connections_ended_total";
    /// Requests of devices over HTTPS, by call and class of status.
    counter https_requests(call, class) = "holdfast_https_requests_total";
    /// Messages that devices have sent over HTTPS and that are stored.
    counter https_messages() = "holdfast_https_messages_total";
    /// Time from a device's request to its answer.
    histogram https_seconds() = "holdfast_https_request_seconds";
}

/// Of MQTT: handles made once per core. Labels come from fixed sets.
pub(crate) struct Metrics {
    protocol: &'static str,
    pub(crate) accepted: Counter,
    pub(crate) connected: Counter,
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new(protocol: &'static str) -> Self {
        Self {
            protocol,
            accepted: accepted(protocol),
            connected: connected(protocol),
            connections: connections(protocol),
        }
    }

    /// A peer broke a rule; rare, so that the handle is looked up.
    pub(crate) fn violation(&self, rule: &'static str) {
        violations(self.protocol, rule).increment(1);
    }

    /// A connection ended.
    pub(crate) fn ended(&self, reason: &'static str) {
        connections_ended(self.protocol, reason).increment(1);
    }
}

/// Of HTTPS.
pub(crate) struct HttpsMetrics {
    pub(crate) messages: Counter,
    seconds: Histogram,
    /// The most frequent one.
    sent: Counter,
}

impl HttpsMetrics {
    pub(crate) fn new() -> Self {
        Self {
            messages: https_messages(),
            seconds: https_seconds(),
            sent: https_requests("send", "2xx"),
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&self, call: &'static str, status: u16, time: Duration) {
        self.seconds.record(time);
        let class = match status / 100 {
            2 if call == "send" => return self.sent.increment(1),
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        https_requests(call, class).increment(1);
    }
}
