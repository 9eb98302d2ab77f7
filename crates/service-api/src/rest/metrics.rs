//! Metrics of the service API (docs/metrics.md).

use metrics::{Counter, Histogram};

holdfast_model::metrics! {
    /// REST calls answered, by class of status.
    counter requests(class) = "holdfast_rest_requests_total";
    /// Time from a call's head to its answer.
    histogram seconds() = "holdfast_rest_request_seconds";
}

/// Handles created once, under the recorder that is current when the service is built.
pub(super) struct Metrics {
    /// Answers by class: 1xx never, 2xx, 3xx never, 4xx, 5xx.
    by_class: [Counter; 5],
    pub(super) seconds: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let class = |class: &'static str| requests(class);
        Self {
            by_class: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            seconds: seconds(),
        }
    }

    pub(super) fn answered(&self, status: u16) {
        if let Some(counter) = self.by_class.get(usize::from(status / 100).saturating_sub(1)) {
            counter.increment(1);
        }
    }
}
