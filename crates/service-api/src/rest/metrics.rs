//! Metrics of the service API (docs/metrics.md).

use metrics::{Counter, Histogram};

holdfast_model::metrics! {
    /// REST calls answered, by class of status.
    counter requests(class) = "holdfast_rest_requests_total";
    /// Time from a call's head to its answer.
    histogram seconds() = "holdfast_rest_request_seconds";
    /// Pages of device queries, by outcome.
    counter queries(outcome) = "holdfast_queries_total";
    /// Bytes of a page of a device query.
    histogram query_bytes() = "holdfast_query_result_bytes";
}

/// Handles created once, under the recorder that is current when the service is built.
pub(super) struct Metrics {
    /// Answers by class: 1xx never, 2xx, 3xx never, 4xx, 5xx.
    by_class: [Counter; 5],
    pub(super) seconds: Histogram,
    pub(super) queries_succeeded: Counter,
    pub(super) queries_failed: Counter,
    pub(super) query_bytes: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let class = |class: &'static str| requests(class);
        Self {
            by_class: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
            seconds: seconds(),
            queries_succeeded: queries("success"),
            queries_failed: queries("failure"),
            query_bytes: query_bytes(),
        }
    }

    pub(super) fn answered(&self, status: u16) {
        if let Some(counter) = self.by_class.get(usize::from(status / 100).saturating_sub(1)) {
            counter.increment(1);
        }
    }
}
