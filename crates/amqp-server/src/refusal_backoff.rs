//! Delays the answers to clients that repeat a refused request at once.
//!
//! Why: some clients reconnect in a loop without a pause, and each turn costs a TLS handshake. An answer that comes later
//! and later slows such a client down, and no other.
//! Invariants: the first refusals of a request are answered at once; a delay is at most [`MAX_DELAY`]; a client that waits
//! before it retries is not delayed; the table is bounded.
//! Pure: the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Refusals of one request that are answered at once.
const FREE_REFUSALS: u32 = 3;
/// The first delay; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest delay; below the time after which clients give an attach or a login up.
const MAX_DELAY: Duration = Duration::from_secs(8);
/// A client that waits this long after an answer has not retried at once.
const PATIENT_AFTER: Duration = Duration::from_secs(5);
/// Requests that are remembered.
const MAX_ROWS: usize = 4096;

#[derive(Debug)]
struct Row {
    refusals: u32,
    /// When the last refusal is or was answered.
    answered: Instant,
}

/// The requests that were refused last, over all connections of a core.
#[derive(Debug, Default)]
pub(crate) struct RefusalBackoff {
    rows: HashMap<u64, Row>,
    /// In the order of their first refusal.
    order: VecDeque<u64>,
    hasher: RandomState,
}

impl RefusalBackoff {
    /// Counts a refusal of `request` from `source`; when to answer it, `None` for at once.
    pub(crate) fn refuse(&mut self, source: IpAddr, request: (&str, &str), now: Instant) -> Option<Instant> {
        let key = self.hasher.hash_one((source, request));
        if !self.rows.contains_key(&key) {
            if self.order.len() >= MAX_ROWS
                && let Some(oldest) = self.order.pop_front()
            {
                self.rows.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let row = self.rows.entry(key).or_insert(Row {
            refusals: 0,
            answered: now,
        });
        if now.saturating_duration_since(row.answered) >= PATIENT_AFTER {
            row.refusals = 0;
        }
        row.refusals = row.refusals.saturating_add(1);
        let delay = delay_after(row.refusals);
        row.answered = now + delay;
        (!delay.is_zero()).then_some(row.answered)
    }
}

fn delay_after(refusals: u32) -> Duration {
    match refusals.checked_sub(FREE_REFUSALS + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(MAX_DELAY),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_client_that_retries_at_once_is_answered_later_and_later_up_to_a_bound() {
        let (mut backoff, mut now) = (RefusalBackoff::default(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..11 {
            let due = backoff.refuse(SOURCE, ("policy", "hub1/group"), now).unwrap_or(now);
            delays.push((due - now).as_millis());
            now = due + Duration::from_millis(3);
        }
        assert_eq!(delays, [0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        // A client that waits is answered at once again.
        assert_eq!(
            backoff.refuse(SOURCE, ("policy", "hub1/group"), now + PATIENT_AFTER),
            None
        );
    }

    #[test]
    fn another_request_source_or_identity_is_not_delayed_and_the_table_is_bounded() {
        let (mut backoff, now) = (RefusalBackoff::default(), Instant::now());
        for _ in 0..10 {
            backoff.refuse(SOURCE, ("policy", "a"), now);
        }
        let other = IpAddr::V4(Ipv4Addr::BROADCAST);
        for (source, request) in [
            (SOURCE, ("policy", "b")),
            (SOURCE, ("other", "a")),
            (other, ("policy", "a")),
        ] {
            assert_eq!(backoff.refuse(source, request, now), None);
        }
        for number in 0..MAX_ROWS + 10 {
            backoff.refuse(SOURCE, ("policy", &number.to_string()), now);
        }
        assert_eq!((backoff.rows.len(), backoff.order.len()), (MAX_ROWS, MAX_ROWS));
    }
}
