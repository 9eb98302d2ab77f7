//! Which partition a device's data belongs to.

use crate::{DeviceId, limits};

/// A partition of the hub, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// How many partitions a hub has; fixed when the hub is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// The fewest partitions of a hub.
    pub const MIN: u16 = limits::MIN_PARTITIONS;
    /// The most partitions of a hub.
    pub const MAX: u16 = limits::MAX_PARTITIONS;
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

    /// The partition of `device`: XXH64 with seed 0 over the id's bytes, modulo the count. Fixed for
    /// ever: another function would lose the data of existing hubs.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(count: u16, device: &str) -> u16 {
        PartitionCount::new(count)
            .unwrap()
            .partition_of(&DeviceId::parse(device).unwrap())
            .0
    }

    /// Never changes: a change of any of these numbers loses the data of existing hubs.
    #[test]
    fn a_device_never_changes_its_partition() {
        let longest = "m".repeat(128);
        let golden = [
            ("a", 3, 0, 27, 91),
            ("dev-1", 0, 1, 24, 120),
            ("DEV-1", 2, 3, 30, 94),
            ("device-000001", 1, 3, 29, 61),
            ("sim-42", 2, 4, 10, 42),
            ("urn:imei:490154203237518", 0, 2, 8, 8),
            ("8d0c1e2f-5b1d-4c3a-9f3e-0a1b2c3d4e5f", 1, 2, 1, 1),
            ("x$y'z(1)", 3, 1, 19, 51),
            (&*longest, 1, 4, 29, 29),
        ];
        for (device, of_4, of_5, of_32, of_128) in golden {
            let found = (
                partition(4, device),
                partition(5, device),
                partition(32, device),
                partition(128, device),
            );
            assert_eq!(found, (of_4, of_5, of_32, of_128), "{device}");
        }
    }

    #[test]
    fn the_hash_is_xxh64_with_seed_0() {
        // The reference implementation's value for the empty input and for "a".
        assert_eq!(xxhash_rust::xxh64::xxh64(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xxhash_rust::xxh64::xxh64(b"a", 0), 0xd24e_c4f1_a98c_6e5b);
    }

    #[test]
    fn ids_that_differ_only_in_case_are_different_devices() {
        assert_ne!(partition(128, "dev-1"), partition(128, "DEV-1"));
    }

    #[test]
    fn devices_spread_evenly() {
        for count in [4, 32, 128] {
            let mut seen = vec![0usize; usize::from(count)];
            for n in 0..count * 200 {
                seen[usize::from(partition(count, &format!("device-{n:06}")))] += 1;
            }
            let (fewest, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
            assert!(
                *fewest > 130 && *most < 270,
                "{count} partitions hold {fewest} to {most} devices of 200"
            );
        }
    }

    #[test]
    fn counts_outside_4_to_128_do_not_exist() {
        assert!(PartitionCount::new(3).is_none() && PartitionCount::new(129).is_none());
        assert_eq!(PartitionCount::new(4), Some(PartitionCount::DEFAULT));
        assert_eq!(
            PartitionCount::DEFAULT.iter().map(|p| p.0).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
    }
}
