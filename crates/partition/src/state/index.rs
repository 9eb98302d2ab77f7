//! The sparse index: one point about every 64 KiB of log, with the sequence number and time at that entry.
//!
//! Invariants: points ascend in all their fields; at most [`MAX_POINTS`] are kept. Beyond that every second point is
//! dropped and the spacing doubles: memory stays bounded, and the distance from a point to an entry grows instead. When
//! retention has removed most points, the spacing of new ones halves again.
//! Not here: reading the log from a point on (`reader`).

use std::collections::VecDeque;

use holdfast_model::{SequenceNumber, UnixMillis};

/// Points kept in memory: 2 MiB, enough for 4 GiB of log at the narrowest spacing.
pub(super) const MAX_POINTS: usize = 1 << 16;

/// The initial distance of points: the limit that is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spacing {
    /// Bytes of entries.
    pub bytes: u64,
    /// Log entries.
    pub entries: u64,
}

/// A log entry with its known numbers. Ordered by log index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct IndexPoint {
    /// The entry's log index.
    pub log_index: u64,
    /// The number of its first record.
    pub sequence: SequenceNumber,
    /// The time of its records.
    pub enqueued: UnixMillis,
    /// Bytes of all entries before it, since the partition was created.
    pub log_bytes: u64,
}

/// The points, oldest first.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) points: VecDeque<IndexPoint>,
    pub(super) doublings: u32,
    spacing: Spacing,
    capacity: usize,
    /// Log indexes of points that were dropped and may still be on disk.
    pub(super) dropped: Vec<u64>,
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        self.points == other.points && self.doublings == other.doublings
    }
}

impl Index {
    pub(super) fn new(spacing: Spacing) -> Self {
        Self::with_capacity(spacing, MAX_POINTS)
    }

    pub(super) fn with_capacity(spacing: Spacing, capacity: usize) -> Self {
        Self {
            points: VecDeque::new(),
            doublings: 0,
            spacing,
            capacity,
            dropped: Vec::new(),
        }
    }

    /// Adds the point if the last one is far enough away.
    pub(super) fn offer(&mut self, point: IndexPoint) {
        if let Some(last) = self.points.back() {
            let bytes = self.spacing.bytes << self.doublings;
            let entries = self.spacing.entries << self.doublings;
            if point.log_bytes - last.log_bytes < bytes && point.log_index - last.log_index < entries {
                return;
            }
        }
        if self.points.len() >= self.capacity {
            self.thin_out();
        }
        self.points.push_back(point);
    }

    fn thin_out(&mut self) {
        let mut position = 0_usize;
        let dropped = &mut self.dropped;
        self.points.retain(|point| {
            position += 1;
            let keep = position % 2 == 1;
            if !keep {
                dropped.push(point.log_index);
            }
            keep
        });
        // 63 doublings would be a log of 2^79 bytes; the bound keeps the shift legal.
        self.doublings = (self.doublings + 1).min(32);
    }

    /// The last point for which `holds`, which must hold for a prefix of the points.
    pub(super) fn floor_by(&self, holds: impl Fn(&IndexPoint) -> bool) -> Option<IndexPoint> {
        let end = self.points.partition_point(holds);
        end.checked_sub(1).map(|last| self.points[last])
    }

    /// The first point for which `falls_short`, which must hold for a prefix, does not; the last point if it always does.
    pub(super) fn ceiling_by(&self, falls_short: impl Fn(&IndexPoint) -> bool) -> Option<IndexPoint> {
        let first = self.points.partition_point(falls_short);
        self.points.get(first).or(self.points.back()).copied()
    }

    /// Drops the points before `log_index`.
    pub(super) fn trim(&mut self, log_index: u64) {
        let gone = self.points.partition_point(|point| point.log_index < log_index);
        self.points.drain(..gone);
        if self.doublings > 0 && self.points.len() < self.capacity / 4 {
            self.doublings -= 1;
        }
        self.dropped.retain(|dropped| *dropped >= log_index);
    }

    /// Points kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there are no points.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}
