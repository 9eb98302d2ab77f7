//! A histogram of times in microseconds: fixed size, one increment a value, at most 1/16 off.

/// Sub-buckets per power of two.
const STEPS: usize = 16;
/// Powers of two above the exact range; covers all of u32.
const POWERS: usize = 29;

/// Counts of times by size.
#[derive(Debug, Clone)]
pub struct Latency {
    counts: Box<[u64]>,
    largest_us: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            counts: vec![0; STEPS * POWERS].into(),
            largest_us: 0,
        }
    }
}

impl Latency {
    /// Counts one value.
    pub fn add(&mut self, us: u32) {
        self.counts[index(us)] += 1;
        self.largest_us = self.largest_us.max(us);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.largest_us = self.largest_us.max(other.largest_us);
    }

    /// The value that `share` (0 to 1) of all values do not exceed; 0 when there is none.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u32 {
        let all: u64 = self.counts.iter().sum();
        let rank = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return upper(index).min(self.largest_us);
            }
        }
        self.largest_us
    }

    /// The largest value.
    #[must_use]
    pub fn largest_us(&self) -> u32 {
        self.largest_us
    }
}

fn index(us: u32) -> usize {
    if (us as usize) < STEPS {
        return us as usize;
    }
    // 16..32 is the first row of coarser steps.
    let power = us.ilog2() as usize - 4;
    STEPS * (power + 1) + ((us >> power) as usize - STEPS)
}

fn upper(index: usize) -> u32 {
    if index < STEPS {
        return index as u32;
    }
    let power = index / STEPS - 1;
    let step = (index % STEPS + STEPS) as u64;
    u32::try_from(((step + 1) << power) - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lands_in_a_bucket_whose_upper_bound_is_at_most_a_sixteenth_above() {
        for us in (0..2_000).chain([1 << 20, (1 << 31) + 12_345, u32::MAX]) {
            let bound = upper(index(us));
            assert!(
                bound >= us && u64::from(bound) <= u64::from(us) + u64::from(us) / 16,
                "{us} under {bound}"
            );
        }
    }

    #[test]
    fn quantiles_are_read_from_the_counts() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile_us(0.5), 0);
        for us in 1..=100 {
            latency.add(us);
        }
        assert!((50..=53).contains(&latency.quantile_us(0.5)));
        assert_eq!(latency.quantile_us(1.0), 100);
    }
}
