//! A histogram of times in microseconds: fixed size, at most 1 % off.

use hdrhistogram::Histogram;

/// Significant decimal digits of a value.
const DIGITS: u8 = 2;

/// Counts of times by size.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "fails only for bounds and digits out of range, which are constants"
        )]
        let histogram = Histogram::new_with_max(u64::from(u32::MAX), DIGITS).expect("valid bounds");
        Self(histogram)
    }
}

impl Latency {
    /// Counts one value.
    pub fn add(&mut self, us: u32) {
        self.0.saturating_record(u64::from(us));
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        #[expect(
            clippy::expect_used,
            reason = "fails only for another maximum, and all have the same"
        )]
        self.0.add(&other.0).expect("histograms of the same bounds");
    }

    /// The value that `share` (0 to 1) of all values do not exceed; 0 when there is none.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u32 {
        // The upper bound of the largest bucket may exceed the largest value.
        to_u32(self.0.value_at_quantile(share)).min(self.largest_us())
    }

    /// The largest value, at most 1 % too high.
    #[must_use]
    pub fn largest_us(&self) -> u32 {
        to_u32(self.0.max())
    }
}

fn to_u32(us: u64) -> u32 {
    u32::try_from(us).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_reported_at_most_one_percent_too_high() {
        for us in (0..2_000).chain([1 << 20, (1 << 31) + 12_345, u32::MAX]) {
            let mut latency = Latency::default();
            latency.add(us);
            let found = latency.quantile_us(1.0);
            assert!(
                found >= us && u64::from(found) <= u64::from(us) + u64::from(us) / 100,
                "{us} reported as {found}"
            );
        }
    }

    #[test]
    fn quantiles_are_read_from_the_counts_of_all_merged_histograms() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_us(0.5), 0);
        let mut other = Latency::default();
        for us in 1..=100 {
            let half = if us % 2 == 0 { &mut latency } else { &mut other };
            half.add(us);
        }
        latency.merge(&other);
        assert_eq!(latency.quantile_us(0.5), 50);
        assert_eq!(latency.quantile_us(1.0), 100);
        assert_eq!(latency.largest_us(), 100);
    }
}
