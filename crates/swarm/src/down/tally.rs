//! What callers count, the measured time, and the pace of paced callers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::latency::Latency;

/// Different reasons that are kept.
const MAX_REASONS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// The counts of all callers of a thread. Only what ends in the measured time is counted; refusals always are.
pub(super) struct Tally {
    phase: Cell<Phase>,
    done: Cell<u64>,
    /// From the request to its answer.
    pub(super) answered: RefCell<Latency>,
    /// From the request to the device.
    pub(super) notified_from_request: RefCell<Latency>,
    /// From the answer to the device; 0 for a device that was first.
    pub(super) notified_from_answer: RefCell<Latency>,
    reasons: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::WarmUp),
            done: Cell::new(0),
            answered: RefCell::default(),
            notified_from_request: RefCell::default(),
            notified_from_answer: RefCell::default(),
            reasons: RefCell::default(),
        }
    }

    pub(super) fn begin(&self) {
        self.phase.set(Phase::Measured);
    }

    pub(super) fn end(&self) {
        self.phase.set(Phase::Over);
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase.get() == Phase::Over
    }

    pub(super) fn is_measured(&self) -> bool {
        self.phase.get() == Phase::Measured
    }

    /// Counts an answered request.
    pub(super) fn answered(&self, took: Duration) {
        if self.is_measured() {
            self.done.set(self.done.get() + 1);
            self.answered.borrow_mut().add(microseconds(took));
        }
    }

    /// Counts a notification that has reached its device at `at`.
    pub(super) fn notified(&self, requested: Instant, answered: Instant, at: Instant) {
        if self.is_measured() {
            let (from_request, from_answer) = (&self.notified_from_request, &self.notified_from_answer);
            from_request
                .borrow_mut()
                .add(microseconds(at.saturating_duration_since(requested)));
            from_answer
                .borrow_mut()
                .add(microseconds(at.saturating_duration_since(answered)));
        }
    }

    /// Counts a request without success, by its reason.
    pub(super) fn refused(&self, reason: String) {
        let mut reasons = self.reasons.borrow_mut();
        if reasons.len() < MAX_REASONS || reasons.contains_key(&reason) {
            *reasons.entry(reason).or_default() += 1;
        }
    }

    pub(super) fn done(&self) -> u64 {
        self.done.get()
    }

    pub(super) fn reasons(&self) -> BTreeMap<String, u64> {
        self.reasons.borrow().clone()
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// When a caller makes its next request: at once, or at a fixed rate.
pub(super) struct Pace {
    interval: Option<Duration>,
    next: tokio::time::Instant,
}

impl Pace {
    /// The pace of caller `index` of `callers` that make `rate` requests a second together; `None`: at once.
    pub(super) fn new(rate: Option<f64>, index: u32, callers: u32) -> Self {
        let interval = rate.map(|rate| Duration::from_secs_f64(f64::from(callers) / rate));
        // The callers' first requests are spread over the interval.
        let offset = interval
            .unwrap_or_default()
            .mul_f64(f64::from(index) / f64::from(callers));
        Self {
            interval,
            next: tokio::time::Instant::now() + offset,
        }
    }

    pub(super) async fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        tokio::time::sleep_until(self.next).await;
        // After a late answer requests are not made up for: that would be another load.
        self.next = (self.next + interval).max(tokio::time::Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_in_the_measured_time_is_counted() {
        let tally = Tally::new();
        tally.answered(Duration::from_millis(1));
        assert_eq!(tally.done(), 0);
        tally.begin();
        tally.answered(Duration::from_millis(2));
        let now = Instant::now();
        tally.notified(now, now + Duration::from_micros(30), now + Duration::from_micros(20));
        tally.end();
        tally.answered(Duration::from_millis(3));
        assert_eq!((tally.done(), tally.answered.borrow().largest_us() / 100), (1, 20));
        assert_eq!(tally.notified_from_request.borrow().largest_us(), 20);
        assert_eq!(
            tally.notified_from_answer.borrow().largest_us(),
            0,
            "the device was first"
        );
    }
}
