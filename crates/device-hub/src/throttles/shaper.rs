//! One rate as data: a bucket of tokens that fills at the rate, and the queue of requests for whose turn it owes some.
//!
//! A bucket holds the tokens of a minute, so that a burst passes; then requests get a turn one after the other, at the rate. A
//! turn is a debt of the bucket: the time until it is paid is known at once, so that a request which would wait too long is
//! refused before it waits, and no timer serves the queue.
//! Invariants: in any span of time at most the burst and a thousandth of it, the rate times the span, and the turns that were waiting
//! at its begin are admitted; at most `max_waiting` requests wait, none longer than `max_wait`; turns come in the order of the requests.
//! Pure: the time is an argument, and never goes back.

use std::time::Duration;

/// The bucket holds what the rate gives in this time (Spec auth-and-limits §9.1).
const DEPTH: Duration = Duration::from_secs(60);

/// The part of the bucket that may be taken without a look at the clock, which costs as much as all else about a message.
const UNTIMED: f64 = 1.0 / 1024.0;

/// Below this a wait is none: less than the clock shows.
const NO_WAIT: f64 = 1e-6;

/// The turn of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Now.
    Now,
    /// After this time. [`Shaper::leave`] must follow.
    After(Duration),
    /// Never; it may ask again after `retry_after`.
    Refused { cause: RefusedTurn, retry_after: Duration },
}

/// Why a request gets no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedTurn {
    /// Nothing waits here: the rate is used up.
    Exhausted,
    /// Too many wait.
    QueueFull,
    /// It would wait too long.
    TooLate,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shaper {
    /// Tokens a second; greater than 0.
    rate: f64,
    /// Tokens there are; below 0: those that are owed.
    level: f64,
    filled: Duration,
    /// Tokens that were taken since then without a look at the clock.
    untimed: f64,
    max_wait: Duration,
    max_waiting: usize,
    waiting: usize,
}

impl Shaper {
    /// A full bucket of `rate` tokens a second.
    pub(crate) fn full(rate: f64, max_wait: Duration, max_waiting: usize, now: Duration) -> Self {
        Self {
            rate,
            level: rate * DEPTH.as_secs_f64(),
            filled: now,
            untimed: 0.0,
            max_wait,
            max_waiting,
            waiting: 0,
        }
    }

    /// The same with the tokens of one second, at least one: a client gains nothing by beginning anew.
    pub(crate) fn begun(self) -> Self {
        Self {
            level: self.rate.max(1.0),
            ..self
        }
    }

    /// Changes the rate; what is in the bucket beyond its new size is lost. Turns that were given stay as they are.
    pub(crate) fn set_rate(&mut self, rate: f64, now: Duration) {
        self.fill(now);
        self.rate = rate;
        self.level = self.level.min(self.depth());
    }

    fn depth(&self) -> f64 {
        self.rate * DEPTH.as_secs_f64()
    }

    fn fill(&mut self, now: Duration) {
        let since = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        // As if the untimed ones were taken now: tokens that a full bucket had no room for do not come back.
        let untimed = std::mem::take(&mut self.untimed);
        self.level = (self.level + untimed + since * self.rate).min(self.depth()) - untimed;
    }

    /// Takes `cost` of the tokens that are there for certain, whatever time it is; `false`: [`Self::reserve`] decides.
    pub(crate) fn take_untimed(&mut self, cost: u32) -> bool {
        let cost = f64::from(cost);
        if self.level < cost || self.untimed + cost > self.depth() * UNTIMED {
            return false;
        }
        self.level -= cost;
        self.untimed += cost;
        true
    }

    /// A turn for a request of `cost` tokens. One that costs more than the bucket holds gets its turn when it is full.
    pub(crate) fn reserve(&mut self, cost: u32, now: Duration) -> Turn {
        self.fill(now);
        let cost = f64::from(cost);
        let missing = (cost.min(self.depth()) - self.level) / self.rate;
        if missing < NO_WAIT {
            self.level -= cost;
            return Turn::Now;
        }
        let wait = Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX);
        let refused = |cause, retry_after| Turn::Refused { cause, retry_after };
        if self.max_wait.is_zero() {
            return refused(RefusedTurn::Exhausted, wait);
        }
        if self.waiting >= self.max_waiting {
            return refused(RefusedTurn::QueueFull, wait);
        }
        if wait > self.max_wait {
            return refused(RefusedTurn::TooLate, wait - self.max_wait);
        }
        self.level -= cost;
        self.waiting += 1;
        Turn::After(wait)
    }

    /// A request does not wait any more. `returned`: the tokens that it has not used.
    pub(crate) fn leave(&mut self, returned: u32) {
        self.waiting = self.waiting.saturating_sub(1);
        self.give_back(returned);
    }

    /// Tokens that were taken and not used.
    pub(crate) fn give_back(&mut self, tokens: u32) {
        self.level = (self.level + f64::from(tokens)).min(self.depth());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn shaper(rate: f64, max_wait_ms: u64, max_waiting: usize) -> Shaper {
        Shaper::full(rate, at(max_wait_ms), max_waiting, at(0))
    }

    #[test]
    fn a_burst_of_a_minute_passes_then_requests_get_a_turn_at_the_rate() {
        let mut shaper = shaper(10.0, 1000, 100);
        let now = (0..600).filter(|_| shaper.reserve(1, at(0)) == Turn::Now);
        assert_eq!(now.count(), 600);
        for turn in 1..=10 {
            assert_eq!(shaper.reserve(1, at(0)), Turn::After(at(100 * turn)));
        }
        let late = Turn::Refused {
            cause: RefusedTurn::TooLate,
            retry_after: at(100),
        };
        assert_eq!(shaper.reserve(1, at(0)), late);
        assert_eq!(shaper.reserve(1, at(100)), Turn::After(at(1000)), "a turn was served");
    }

    #[test]
    fn the_queue_is_bounded_in_count_and_those_that_leave_make_room() {
        let mut shaper = shaper(1.0, 20_000, 2);
        assert_eq!(shaper.reserve(60, at(0)), Turn::Now);
        assert_eq!(shaper.reserve(1, at(0)), Turn::After(at(1000)));
        assert_eq!(shaper.reserve(1, at(0)), Turn::After(at(2000)));
        let full = Turn::Refused {
            cause: RefusedTurn::QueueFull,
            retry_after: at(3000),
        };
        assert_eq!(shaper.reserve(1, at(0)), full);
        shaper.leave(1);
        assert_eq!(shaper.reserve(1, at(0)), Turn::After(at(2000)), "the token came back");
    }

    #[test]
    fn without_a_queue_a_request_beyond_the_rate_is_refused_with_the_time_to_come_back() {
        let mut shaper = shaper(0.5, 0, 100);
        assert_eq!(shaper.reserve(30, at(0)), Turn::Now);
        let exhausted = Turn::Refused {
            cause: RefusedTurn::Exhausted,
            retry_after: at(2000),
        };
        assert_eq!(shaper.reserve(1, at(0)), exhausted);
        assert_eq!(shaper.reserve(1, at(2000)), Turn::Now);
    }

    #[test]
    fn a_request_that_costs_more_than_the_bucket_holds_passes_when_it_is_full_and_is_paid_afterwards() {
        let mut shaper = shaper(0.1, 5000, 100);
        assert_eq!(shaper.reserve(100, at(0)), Turn::Now);
        // 94 tokens are owed, at one in ten seconds.
        assert!(matches!(shaper.reserve(1, at(900_000)), Turn::Refused { .. }));
        assert_eq!(shaper.reserve(1, at(950_000)), Turn::Now);
    }

    #[test]
    fn over_any_span_the_rate_holds_whatever_the_pattern_of_requests() {
        let mut shaper = shaper(7.0, 3000, 1000);
        let (mut admitted, mut random) = (0.0, 12345_u64);
        let mut now = 0;
        while now < 600_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            now += (random >> 40) % 90;
            let cost = u32::try_from((random >> 20) % 4).unwrap();
            match shaper.reserve(cost, at(now)) {
                Turn::Now => admitted += f64::from(cost),
                Turn::After(_) if random.is_multiple_of(5) => shaper.leave(cost),
                Turn::After(_) => {
                    shaper.leave(0);
                    admitted += f64::from(cost);
                }
                Turn::Refused { .. } => {}
            }
        }
        let (burst, most) = (420.0, 420.0 + 7.0 * 603.0);
        assert!(
            admitted <= most && admitted >= most - burst - 25.0,
            "{admitted} of {most}"
        );
    }

    #[test]
    fn tokens_taken_without_the_clock_are_few_and_count_as_taken_at_the_next_look_at_it() {
        let mut shaper = shaper(1024.0, 0, 0);
        let untimed = |shaper: &mut Shaper| (0..1000).filter(|_| shaper.take_untimed(1)).count();
        assert_eq!(untimed(&mut shaper), 60, "a 1024th of the bucket");
        // The bucket was full: what came meanwhile had no room.
        let timed = |shaper: &mut Shaper, now| (0..100_000).filter(|_| shaper.reserve(1, now) == Turn::Now).count();
        assert_eq!(timed(&mut shaper, at(60_000)), 60 * 1024 - 60);
        assert_eq!(untimed(&mut shaper), 0, "an empty bucket has none");
        assert_eq!(timed(&mut shaper, at(61_000)), 1024);
    }

    #[test]
    fn a_small_bucket_is_always_timed() {
        let mut shaper = shaper(10.0, 0, 0);
        assert!(!shaper.take_untimed(1));
    }

    #[test]
    fn a_client_that_begins_anew_has_a_second_of_its_rate() {
        let mut fast = shaper(5.0, 0, 0).begun();
        assert_eq!((0..9).filter(|_| fast.reserve(1, at(0)) == Turn::Now).count(), 5);
        let mut slow = shaper(0.1, 0, 0).begun();
        assert_eq!((0..9).filter(|_| slow.reserve(1, at(0)) == Turn::Now).count(), 1);
    }

    #[test]
    fn a_changed_rate_fills_from_now_on_and_a_smaller_bucket_loses_what_it_cannot_hold() {
        let mut shaper = shaper(10.0, 5000, 100);
        shaper.set_rate(1.0, at(0));
        assert_eq!(shaper.reserve(60, at(0)), Turn::Now);
        assert_eq!(shaper.reserve(1, at(0)), Turn::After(at(1000)), "no more than that");
        shaper.leave(1);
        shaper.set_rate(4.0, at(1000));
        assert_eq!(shaper.reserve(1, at(1000)), Turn::Now, "of the second before");
        assert_eq!(shaper.reserve(1, at(1000)), Turn::After(at(250)));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut shaper = shaper(1.0, 0, 0);
        assert_eq!(shaper.reserve(60, at(10_000)), Turn::Now);
        assert!(matches!(shaper.reserve(1, at(0)), Turn::Refused { .. }));
        assert!(matches!(shaper.reserve(1, at(10_500)), Turn::Refused { .. }));
        assert_eq!(shaper.reserve(1, at(11_000)), Turn::Now);
    }
}
