//! Metrics of the embedded blob endpoint.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use crate::bucket::BucketCause;

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
    /// Contents that were written to the bucket of uploads, and that the bucket has.
    counter bucket_writes() = "holdfast_blob_bucket_writes_total";
    /// Bytes of these.
    counter bucket_written() = "holdfast_blob_bucket_written_bytes_total";
    /// Time from the begin of a write to the bucket of uploads to its end; failed ones do not count.
    histogram bucket_seconds() = "holdfast_blob_bucket_write_seconds";
    /// Requests to the bucket of uploads that have failed after their repetitions, by cause: credentials, denied, no_bucket, region, clock,
    /// tls, unreachable, timeout, busy, content, other.
    counter bucket_failures(cause) = "holdfast_blob_bucket_failures_total";
    /// 1 while the bucket of uploads can be used, 0 after a request to it has failed.
    gauge bucket_usable() = "holdfast_blob_bucket_usable";
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

/// Those of a bucket.
pub(crate) struct BucketMetrics {
    writes: Counter,
    written: Counter,
    seconds: Histogram,
    usable: Gauge,
}

impl BucketMetrics {
    pub(crate) fn new() -> Self {
        Self {
            writes: bucket_writes(),
            written: bucket_written(),
            seconds: bucket_seconds(),
            usable: bucket_usable(),
        }
    }

    pub(crate) fn wrote(&self, bytes: u64, time: Duration) {
        self.writes.increment(1);
        self.written.increment(bytes);
        self.seconds.record(time);
    }

    pub(crate) fn failed(&self, cause: BucketCause) {
        bucket_failures(cause.label()).increment(1);
        self.usable.set(0.0);
    }

    pub(crate) fn works(&self) {
        self.usable.set(1.0);
    }
}
