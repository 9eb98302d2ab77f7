//! One node's count of the day.
//!
//! Each core counts in a slot of its own, and observes the whole only when it has counted what it was allowed to: a part of what is left, so
//! that the parts become smaller as the quota is used up, and the last messages are counted one by one.
//! Tolerance: what other nodes have counted is half a second old, so that a hub of several nodes may admit what they take in that time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_model::{Clock, UnixMillis};
use holdfast_tasks::sync::Mutex;

use crate::metrics;

const DAY: Duration = Duration::from_secs(86_400);

/// The most that a core counts without observing the whole.
const MAX_ALLOWANCE: u64 = 4096;

/// All slots together are allowed this part of what is left.
const ALLOWED_PART: u64 = 8;

/// A core's count; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Since the node has started.
    counted: AtomicU64,
    /// Until when it counts on without observing the whole.
    allowed: AtomicU64,
}

#[derive(Debug)]
struct Day {
    /// Days since 1970.
    number: u64,
    /// The counts of the slots when it began.
    began: Vec<u64>,
    /// What other nodes, and earlier runs of this one, have counted.
    others: u64,
}

/// How much of the quota is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailyQuota {
    /// Messages of a day.
    pub limit: u64,
    /// Messages of today, as far as this node knows.
    pub used: u64,
    /// When the count begins anew.
    pub resets: UnixMillis,
}

/// What a node has counted on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) day: u64,
    pub(crate) messages: u64,
}

/// See the module.
pub(crate) struct QuotaCount {
    limit: u64,
    /// Bytes of a block.
    meter: u64,
    /// The first is for whatever belongs to no core.
    slots: Box<[Slot]>,
    day: Mutex<Day>,
    is_used_up: AtomicBool,
    clock: Clock,
}

impl QuotaCount {
    pub(crate) fn new(limit: u64, meter: u64, cores: u16, clock: Clock) -> Self {
        let slots: Box<[Slot]> = (0..=cores).map(|_| Slot::default()).collect();
        let day = Day {
            number: day_of(clock.now()),
            began: vec![0; slots.len()],
            others: 0,
        };
        Self {
            limit,
            meter: meter.max(1),
            slots,
            day: Mutex::new(day),
            is_used_up: AtomicBool::new(false),
            clock,
        }
    }

    /// Counts something of so many bytes, as core `core` or as none.
    pub(crate) fn charge(&self, core: Option<u16>, bytes: usize) {
        let blocks = (bytes as u64).div_ceil(self.meter).max(1);
        let index = core.map_or(0, |core| usize::from(core) + 1);
        let Some(slot) = self.slots.get(index).or(self.slots.first()) else {
            return;
        };
        let counted = slot.counted.fetch_add(blocks, Ordering::Relaxed) + blocks;
        if counted >= slot.allowed.load(Ordering::Relaxed) {
            self.observe();
        }
    }

    /// Whether nothing more may be taken today.
    pub(crate) fn is_used_up(&self) -> bool {
        // Only then the day may have to be observed.
        self.is_used_up.load(Ordering::Relaxed) && self.observe().used >= self.limit
    }

    /// The count of now.
    pub(crate) fn observe(&self) -> DailyQuota {
        self.with_day(|_| {})
    }

    fn with_day(&self, change: impl FnOnce(&mut Day)) -> DailyQuota {
        let mut day = self.day.lock();
        let today = day_of(self.clock.now());
        if today > day.number {
            *day = Day {
                number: today,
                began: self.counts().collect(),
                others: 0,
            };
        }
        change(&mut day);
        let used = day.others.saturating_add(self.own(&day));
        let left = self.limit.saturating_sub(used);
        let part = (left / (self.slots.len() as u64 * ALLOWED_PART)).min(MAX_ALLOWANCE);
        for slot in &self.slots {
            let counted = slot.counted.load(Ordering::Relaxed);
            slot.allowed.store(counted.saturating_add(part), Ordering::Relaxed);
        }
        self.is_used_up.store(left == 0, Ordering::Relaxed);
        DailyQuota {
            limit: self.limit,
            used,
            resets: begin_of(day.number + 1),
        }
    }

    fn counts(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|slot| slot.counted.load(Ordering::Relaxed))
    }

    fn own(&self, day: &Day) -> u64 {
        let of_day = self
            .counts()
            .zip(&day.began)
            .map(|(counted, began)| counted.saturating_sub(*began));
        of_day.sum()
    }

    /// For a report.
    pub(crate) fn counted(&self) -> Counted {
        let mut counted = Counted { day: 0, messages: 0 };
        self.with_day(|day| {
            counted = Counted {
                day: day.number,
                messages: self.own(day),
            };
        });
        counted
    }

    /// All nodes together had counted `total` when this one had reported `own`.
    pub(crate) fn learn(&self, total: Counted, own: Counted) {
        let now = self.with_day(|day| {
            if total.day == day.number && own.day == day.number {
                day.others = total.messages.saturating_sub(own.messages);
            }
        });
        metrics::show_quota(now);
    }

    /// How long until the count begins anew.
    pub(crate) fn until_reset(&self) -> Duration {
        let now = self.clock.now();
        let end = begin_of(day_of(now) + 1);
        Duration::from_millis(end.0.saturating_sub(now.0))
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

/// Days since 1970-01-01, UTC.
pub(crate) fn day_of(time: UnixMillis) -> u64 {
    time.0 / DAY.as_millis() as u64
}

fn begin_of(day: u64) -> UnixMillis {
    UnixMillis(day.saturating_mul(DAY.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOON: u64 = 20_000 * 86_400_000 + 43_200_000;

    fn count(limit: u64, cores: u16) -> (QuotaCount, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(NOON));
        let clock = Arc::clone(&now);
        let clock = Clock::from_fn(move || UnixMillis(clock.load(Ordering::SeqCst)));
        (QuotaCount::new(limit, 4096, cores, clock), now)
    }

    #[test]
    fn begun_blocks_of_the_meter_count() {
        let (count, _) = count(100, 1);
        for (bytes, used) in [(0, 1), (4096, 2), (4097, 4), (40_960, 14)] {
            count.charge(Some(0), bytes);
            assert_eq!(count.observe().used, used);
        }
    }

    #[test]
    fn the_last_message_of_the_quota_is_admitted_and_none_after_it() {
        for (limit, cores) in [(1, 1), (7, 4), (5000, 4), (100_000, 2)] {
            let (count, _) = count(limit, cores);
            let mut admitted = 0;
            while !count.is_used_up() {
                count.charge(Some(u16::try_from(admitted % u64::from(cores)).unwrap()), 1);
                admitted += 1;
            }
            assert_eq!((admitted, count.observe().used), (limit, limit), "{cores} cores");
        }
    }

    #[test]
    fn the_count_begins_anew_at_midnight() {
        let (count, now) = count(3, 1);
        (0..3).for_each(|_| count.charge(None, 1));
        assert!(count.is_used_up());
        assert_eq!(count.observe().resets, UnixMillis(20_001 * 86_400_000));
        assert_eq!(count.until_reset(), Duration::from_secs(43_200));
        now.store(20_001 * 86_400_000, Ordering::SeqCst);
        assert!(!count.is_used_up());
        assert_eq!(count.observe().used, 0);
    }

    #[test]
    fn what_others_have_counted_counts_once() {
        let (count, _) = count(10, 1);
        (0..3).for_each(|_| count.charge(Some(0), 1));
        let own = count.counted();
        assert_eq!(
            own,
            Counted {
                day: 20_000,
                messages: 3
            }
        );
        count.charge(Some(0), 1);
        count.learn(
            Counted {
                day: 20_000,
                messages: 9,
            },
            own,
        );
        assert_eq!(count.observe().used, 10);
        assert!(count.is_used_up());
        // Of another day.
        count.learn(
            Counted {
                day: 19_999,
                messages: 0,
            },
            own,
        );
        assert!(count.is_used_up());
    }
}
