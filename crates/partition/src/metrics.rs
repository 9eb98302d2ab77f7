//! What is counted about a partition; the names are listed in docs/metrics.md.

use holdfast_model::PartitionId;
use metrics::{Counter, Gauge, counter, gauge};

use crate::state::Void;

/// Handles of one partition, labelled with its number.
pub(crate) struct Metrics {
    /// Messages that were given a sequence number here, since the start of the process.
    pub(crate) appended_messages: Counter,
    /// Bytes of their entries.
    pub(crate) appended_bytes: Counter,
    /// Entries that were not counted, by reason.
    void_repeat: Counter,
    void_gap: Counter,
    void_stale: Counter,
    void_damaged: Counter,
    /// Bytes of the entries that readers may have.
    pub(crate) retained_bytes: Gauge,
    /// Bytes in the tail cache.
    pub(crate) tail_bytes: Gauge,
    /// Readers.
    pub(crate) readers: Gauge,
    /// Messages between the reader that is furthest behind and the end.
    pub(crate) reader_lag: Gauge,
    /// Reads of the log by readers that were not at its end.
    pub(crate) disk_reads: Counter,
    /// Bytes of entries that they read.
    pub(crate) disk_read_bytes: Counter,
    /// Messages that readers missed since retention had removed them.
    pub(crate) missed_messages: Counter,
}

impl Metrics {
    pub(crate) fn new(id: PartitionId) -> Self {
        let partition = id.0.to_string();
        let void = |reason: &'static str| counter!("holdfast_partition_void_entries_total", "partition" => partition.clone(), "reason" => reason);
        Self {
            appended_messages: counter!("holdfast_partition_appended_messages_total", "partition" => partition.clone()),
            appended_bytes: counter!("holdfast_partition_appended_bytes_total", "partition" => partition.clone()),
            void_repeat: void("repeat"),
            void_gap: void("gap"),
            void_stale: void("stale"),
            void_damaged: void("damaged"),
            retained_bytes: gauge!("holdfast_partition_retained_bytes", "partition" => partition.clone()),
            tail_bytes: gauge!("holdfast_partition_tail_bytes", "partition" => partition.clone()),
            readers: gauge!("holdfast_partition_readers", "partition" => partition.clone()),
            reader_lag: gauge!("holdfast_partition_reader_lag_messages", "partition" => partition.clone()),
            disk_reads: counter!("holdfast_partition_disk_reads_total", "partition" => partition.clone()),
            disk_read_bytes: counter!("holdfast_partition_disk_read_bytes_total", "partition" => partition.clone()),
            missed_messages: counter!("holdfast_partition_missed_messages_total", "partition" => partition),
        }
    }

    pub(crate) fn void(&self, reason: Void) -> &Counter {
        match reason {
            Void::Repeat => &self.void_repeat,
            Void::Gap { .. } => &self.void_gap,
            Void::Stale { .. } => &self.void_stale,
            Void::Damaged => &self.void_damaged,
        }
    }
}
