//! Metrics of the embedded blob endpoint.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

holdfast_model::metrics! {
    /// Requests to the embedded blob endpoint, by operation and class of status.
    counter requests(operation, class) = "holdfast_blob_requests_total";
    /// Time from a request to the embedded blob endpoint to the head of its answer.
    histogram seconds() = "holdfast_blob_request_seconds";
    /// Bytes of contents that were written and synced.
    counter written() = "holdfast_blob_written_bytes_total";
    /// Bytes of contents that were read for clients.
    counter read() = "holdfast_blob_read_bytes_total";
    /// Bytes of all blobs and uncommitted blocks on this node.
    gauge stored() = "holdfast_blob_stored_bytes";
    /// Files without a blob that were removed at the start, and blocks that no list had committed in time.
    counter collected() = "holdfast_blob_collected_files_total";
}

/// Handles made once per node.
pub(crate) struct Metrics {
    seconds: Histogram,
    pub(crate) written: Counter,
    pub(crate) read: Counter,
    stored: Gauge,
    pub(crate) collected: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            seconds: seconds(),
            written: written(),
            read: read(),
            stored: stored(),
            collected: collected(),
        }
    }

    pub(crate) fn answered(&self, operation: &'static str, status: u16, time: Duration) {
        self.seconds.record(time);
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        requests(operation, class).increment(1);
    }

    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    pub(crate) fn show_stored(&self, bytes: u64) {
        self.stored.set(bytes as f64);
    }
}
