//! Which partition a device's data belongs to.

use crate::DeviceId;

/// A partition of the hub, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// How many partitions a hub has; fixed when the hub is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// The fewest partitions of a hub.
    pub const MIN: u16 = 4;
    /// The most partitions of a hub.
    pub const MAX: u16 = 128;
    /// The default, 4.
    pub const DEFAULT: Self = Self(4);

    /// `None` outside [`Self::MIN`]..=[`Self::MAX`].
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&count).then_some(Self(count))
    }

    /// The number itself.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// All partitions in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = PartitionId> {
        (0..self.0).map(PartitionId)
    }

    /// The partition of `device`: XXH64 with seed 0 over the id's bytes, modulo the count (foundations: fixed for ever).
    ///
    /// Modules follow their device.
    #[must_use]
    pub fn partition_of(self, device: &DeviceId) -> PartitionId {
        let hash = xxhash_rust::xxh64::xxh64(device.as_str().as_bytes(), 0);
        // The remainder is below a u16.
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a u16 fits a u16")]
        PartitionId((hash % u64::from(self.0)) as u16)
    }
}
