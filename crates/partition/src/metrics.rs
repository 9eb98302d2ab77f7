//! Metrics of a partition; docs/metrics.md lists the names.

use holdfast_model::PartitionId;
use metrics::{Counter, Gauge};

use crate::state::SkipReason;

holdfast_model::metrics! {
    /// Entries that apply did not count: repeats, gaps, stale streams, damage, effects of another leadership.
    counter void_entries(partition, reason) = "holdfast_partition_void_entries_total";
    /// Messages that were given a sequence number, since the start of the process.
    counter appended_messages(partition) = "holdfast_partition_appended_messages_total";
    /// Bytes of their log entries.
    counter appended_bytes(partition) = "holdfast_partition_appended_bytes_total";
    /// Bytes of the most recently used device state that is held in memory.
    gauge device_state_cached_bytes(partition) = "holdfast_partition_device_state_cache_bytes";
    /// Declared indexes of device state that are not complete: queries do not use them.
    gauge value_indexes_incomplete(partition) = "holdfast_partition_value_indexes_incomplete";
    /// Values of device state that were read to build indexes.
    counter value_index_values_read(partition) = "holdfast_partition_value_index_values_read_total";
    /// Outdated entries that were removed from indexes.
    counter value_index_entries_removed(partition) = "holdfast_partition_value_index_entries_removed_total";
    /// Bytes of the entries that readers may have.
    gauge retained_bytes(partition) = "holdfast_partition_retained_bytes";
    /// Bytes of the newest entries that are held in memory.
    gauge cached_bytes(partition) = "holdfast_partition_tail_bytes";
    /// Readers.
    gauge readers(partition) = "holdfast_partition_readers";
    /// Messages between the reader that is furthest behind and the end.
    gauge reader_lag(partition) = "holdfast_partition_reader_lag_messages";
    /// Reads of the log by readers that were not at its end.
    counter disk_reads(partition) = "holdfast_partition_disk_reads_total";
    /// Bytes that they read.
    counter disk_read_bytes(partition) = "holdfast_partition_disk_read_bytes_total";
    /// Messages that readers missed because retention had removed them.
    counter missed_messages(partition) = "holdfast_partition_missed_messages_total";
}

/// Handles of one partition, labelled with its number.
pub(crate) struct Metrics {
    pub(crate) appended_messages: Counter,
    pub(crate) appended_bytes: Counter,
    skipped_repeat: Counter,
    skipped_gap: Counter,
    skipped_stale: Counter,
    skipped_damaged: Counter,
    skipped_leadership: Counter,
    pub(crate) device_state_cached_bytes: Gauge,
    pub(crate) value_indexes_incomplete: Gauge,
    pub(crate) value_index_values_read: Counter,
    pub(crate) value_index_entries_removed: Counter,
    pub(crate) retained_bytes: Gauge,
    pub(crate) cached_bytes: Gauge,
    pub(crate) readers: Gauge,
    pub(crate) reader_lag: Gauge,
    pub(crate) disk_reads: Counter,
    pub(crate) disk_read_bytes: Counter,
    pub(crate) missed_messages: Counter,
}

impl Metrics {
    pub(crate) fn new(id: PartitionId) -> Self {
        let partition = id.0.to_string();
        let skipped = |reason: &'static str| void_entries(partition.clone(), reason);
        Self {
            appended_messages: appended_messages(partition.clone()),
            appended_bytes: appended_bytes(partition.clone()),
            skipped_repeat: skipped("repeat"),
            skipped_gap: skipped("gap"),
            skipped_stale: skipped("stale"),
            skipped_damaged: skipped("damaged"),
            skipped_leadership: skipped("leadership"),
            device_state_cached_bytes: device_state_cached_bytes(partition.clone()),
            value_indexes_incomplete: value_indexes_incomplete(partition.clone()),
            value_index_values_read: value_index_values_read(partition.clone()),
            value_index_entries_removed: value_index_entries_removed(partition.clone()),
            retained_bytes: retained_bytes(partition.clone()),
            cached_bytes: cached_bytes(partition.clone()),
            readers: readers(partition.clone()),
            reader_lag: reader_lag(partition.clone()),
            disk_reads: disk_reads(partition.clone()),
            disk_read_bytes: disk_read_bytes(partition.clone()),
            missed_messages: missed_messages(partition),
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
