//! Metrics of a partition; docs/metrics.md lists the names.

use holdfast_model::PartitionId;
use metrics::{Counter, Gauge, counter, gauge};

use crate::state::SkipReason;

/// Handles of one partition, labelled with its number.
pub(crate) struct Metrics {
    /// Messages that got a sequence number on this replica since the start of the process.
    pub(crate) appended_messages: Counter,
    /// Bytes of their entries.
    pub(crate) appended_bytes: Counter,
    /// Entries that apply skipped, by reason.
    skipped_repeat: Counter,
    skipped_gap: Counter,
    skipped_stale: Counter,
    skipped_damaged: Counter,
    skipped_leadership: Counter,
    /// Bytes in the cache of device state.
    pub(crate) device_state_cached_bytes: Gauge,
    /// Bytes of the entries that can be read.
    pub(crate) retained_bytes: Gauge,
    /// Bytes in the entry cache.
    pub(crate) cached_bytes: Gauge,
    /// Readers.
    pub(crate) readers: Gauge,
    /// Messages between the slowest reader and the end.
    pub(crate) reader_lag: Gauge,
    /// Disk reads by readers behind the entry cache.
    pub(crate) disk_reads: Counter,
    /// Bytes of entries that those reads returned.
    pub(crate) disk_read_bytes: Counter,
    /// Messages that retention removed before a reader had got to them.
    pub(crate) missed_messages: Counter,
}

impl Metrics {
    pub(crate) fn new(id: PartitionId) -> Self {
        let partition = id.0.to_string();
        let skipped = |reason: &'static str| counter!("holdfast_partition_void_entries_total", "partition" => partition.clone(), "reason" => reason);
        Self {
            appended_messages: counter!("holdfast_partition_appended_messages_total", "partition" => partition.clone()),
            appended_bytes: counter!("holdfast_partition_appended_bytes_total", "partition" => partition.clone()),
            skipped_repeat: skipped("repeat"),
            skipped_gap: skipped("gap"),
            skipped_stale: skipped("stale"),
            skipped_damaged: skipped("damaged"),
            skipped_leadership: skipped("leadership"),
            device_state_cached_bytes: gauge!("holdfast_partition_device_state_cache_bytes", "partition" => partition.clone()),
            retained_bytes: gauge!("holdfast_partition_retained_bytes", "partition" => partition.clone()),
            cached_bytes: gauge!("holdfast_partition_tail_bytes", "partition" => partition.clone()),
            readers: gauge!("holdfast_partition_readers", "partition" => partition.clone()),
            reader_lag: gauge!("holdfast_partition_reader_lag_messages", "partition" => partition.clone()),
            disk_reads: counter!("holdfast_partition_disk_reads_total", "partition" => partition.clone()),
            disk_read_bytes: counter!("holdfast_partition_disk_read_bytes_total", "partition" => partition.clone()),
            missed_messages: counter!("holdfast_partition_missed_messages_total", "partition" => partition),
        }
    }

    pub(crate) fn skipped(&self, reason: SkipReason) -> &Counter {
        match reason {
            SkipReason::Repeat => &self.skipped_repeat,
            SkipReason::Gap { .. } => &self.skipped_gap,
            SkipReason::Stale { .. } => &self.skipped_stale,
            SkipReason::Damaged => &self.skipped_damaged,
            SkipReason::OtherLeadership { .. } => &self.skipped_leadership,
        }
    }
}
