//! What devices and back ends have counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

use super::report::{Feature, Shares};
use crate::latency::Latency;

/// Different reasons that are kept.
const MAX_REASONS: usize = 100;

/// One feature's successes.
#[derive(Default)]
pub(super) struct Count {
    done: Cell<u64>,
    took: RefCell<Latency>,
}

impl Count {
    pub(super) fn add(&self, took_us: u64) {
        self.done.set(self.done.get() + 1);
        self.took.borrow_mut().add(u32::try_from(took_us).unwrap_or(u32::MAX));
    }

    pub(super) fn report(&self, seconds: f64) -> Feature {
        let done = self.done.get();
        Feature {
            done,
            rate: done as f64 / seconds,
            latency_us: (&*self.took.borrow()).into(),
        }
    }
}

/// One device's telemetry.
#[derive(Debug, Clone, Copy)]
struct Share {
    acknowledged: u64,
    last_us: u64,
    longest_us: u64,
}

/// The counts of all.
pub(super) struct Traffic {
    started: Instant,
    /// Messages of devices, to their acceptance.
    pub(super) telemetry: Count,
    /// Reports of devices, to their answer.
    pub(super) reported: Count,
    /// Patches of desired properties, from the request to the device.
    pub(super) desired: Count,
    /// Method calls, to the caller's answer.
    pub(super) methods: Count,
    /// Messages to devices, from the request to the device.
    pub(super) messages: Count,
    /// Patches that the hub has taken.
    pub(super) desired_sent: Cell<u64>,
    /// Messages to devices that the hub has taken.
    pub(super) messages_sent: Cell<u64>,
    /// Back ends that may still request something.
    pub(super) callers: Cell<usize>,
    shares: RefCell<Vec<Share>>,
    errors: RefCell<BTreeMap<String, u64>>,
}

impl Traffic {
    pub(super) fn new(devices: usize) -> Self {
        let share = Share {
            acknowledged: 0,
            last_us: 0,
            longest_us: 0,
        };
        Self {
            started: Instant::now(),
            telemetry: Count::default(),
            reported: Count::default(),
            desired: Count::default(),
            methods: Count::default(),
            messages: Count::default(),
            desired_sent: Cell::new(0),
            messages_sent: Cell::new(0),
            callers: Cell::new(0),
            shares: RefCell::new(vec![share; devices]),
            errors: RefCell::default(),
        }
    }

    /// Whether everything that the hub has taken for devices has reached them, and nothing more comes.
    pub(super) fn is_delivered(&self) -> bool {
        self.callers.get() == 0
            && self.desired.done.get() >= self.desired_sent.get()
            && self.messages.done.get() >= self.messages_sent.get()
    }

    /// Microseconds since the run began; never 0, so that it can stand for "sent".
    pub(super) fn now_us(&self) -> u64 {
        // Half a million years.
        self.started.elapsed().as_micros() as u64 + 1
    }

    pub(super) fn error(&self, reason: String) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() < MAX_REASONS || errors.contains_key(&reason) {
            *errors.entry(reason).or_default() += 1;
        }
    }

    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.borrow().clone()
    }

    /// The device with this place got a message acknowledged.
    pub(super) fn acknowledged(&self, place: usize, now_us: u64) {
        if let Some(share) = self.shares.borrow_mut().get_mut(place) {
            share.acknowledged += 1;
            if share.last_us > 0 {
                share.longest_us = share.longest_us.max(now_us - share.last_us);
            }
            share.last_us = now_us;
        }
    }

    pub(super) fn acknowledged_in_all(&self) -> u64 {
        self.shares.borrow().iter().map(|share| share.acknowledged).sum()
    }

    pub(super) fn shares(&self) -> Shares {
        let shares = self.shares.borrow();
        let mut counts: Vec<u64> = shares.iter().map(|share| share.acknowledged).collect();
        counts.sort_unstable();
        let at = |part: f64| {
            counts
                .get(((counts.len() - 1) as f64 * part) as usize)
                .copied()
                .unwrap_or_default()
        };
        Shares {
            least: at(0.0),
            p1: at(0.01),
            median: at(0.5),
            p99: at(0.99),
            most: at(1.0),
            longest_silence_us: shares.iter().map(|share| share.longest_us).max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_tell_the_device_that_got_least_and_the_longest_silence() {
        let traffic = Traffic::new(3);
        for (place, now_us) in [(0, 10), (0, 20), (1, 10), (1, 5010), (1, 5020)] {
            traffic.acknowledged(place, now_us);
        }
        let shares = traffic.shares();
        assert_eq!((shares.least, shares.median, shares.most), (0, 2, 3));
        assert_eq!((shares.longest_silence_us, traffic.acknowledged_in_all()), (5000, 5));
    }
}
