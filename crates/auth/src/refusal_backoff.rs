//! Delays the answers to clients that repeat what was refused.
//!
//! Why: some clients reconnect in a loop without a pause, and each turn costs a TLS handshake; others guess. An answer that comes
//! later and later slows such a client down, and no other.
//! Invariants: only refusals are delayed, so that a right credential is never late; the first refusals of a subject are answered at
//! once; a delay is bounded; a subject that was not refused for a while begins anew; the table is bounded, and forgets the subject that
//! was refused longest ago.
//! Pure: the clock is an argument.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How the refusals of one kind of subject are delayed.
#[derive(Debug, Clone, Copy)]
pub struct BackoffRule {
    /// Refusals that are answered at once.
    pub free: u32,
    /// Further refusals after which the delay is twice as long; at least 1.
    pub step: u32,
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub longest: Duration,
    /// A subject whose last refusal was answered so long ago begins anew.
    pub forget_after: Duration,
}

impl BackoffRule {
    /// For one refused request or credential. The longest delay is below the time after which clients give an attach or a login
    /// up.
    pub const REPEATED: Self = Self {
        free: 3,
        step: 1,
        first: Duration::from_millis(250),
        longest: Duration::from_secs(8),
        forget_after: Duration::from_secs(5),
    };

    fn delay(&self, refusals: u32) -> Duration {
        match refusals.checked_sub(self.free + 1) {
            None => Duration::ZERO,
            Some(over) => self
                .first
                .saturating_mul(1 << (over / self.step).min(16))
                .min(self.longest),
        }
    }
}

/// A refusal that has been counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedRefusal {
    /// Which one of its subject it is, from 1.
    pub number: u32,
    /// When to answer it; `None`: at once.
    pub due: Option<Instant>,
}

#[derive(Debug)]
struct Row {
    refusals: u32,
    /// When the last refusal is or was answered.
    answered: Instant,
    /// Its place in the order.
    place: u64,
}

/// The subjects that were refused last.
#[derive(Debug)]
pub struct RefusalBackoff {
    rows: HashMap<u64, Row>,
    /// Subjects in the order of their last refusal.
    order: BTreeMap<u64, u64>,
    next_place: u64,
    max_rows: usize,
    hasher: RandomState,
}

impl RefusalBackoff {
    /// An empty table of at most `max_rows` subjects, about 100 bytes each.
    #[must_use]
    pub fn new(max_rows: usize) -> Self {
        Self {
            rows: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
            max_rows: max_rows.max(1),
            hasher: RandomState::new(),
        }
    }

    /// Counts a refusal of `subject`, of which only a keyed hash is kept.
    pub fn refuse(&mut self, subject: impl Hash, rule: &BackoffRule, now: Instant) -> CountedRefusal {
        let key = self.hasher.hash_one(subject);
        let place = self.next_place;
        self.next_place += 1;
        if let Some(row) = self.rows.get(&key) {
            self.order.remove(&row.place);
        } else if self.rows.len() >= self.max_rows
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.rows.remove(&oldest);
        }
        self.order.insert(place, key);
        let row = self.rows.entry(key).or_insert(Row {
            refusals: 0,
            answered: now,
            place,
        });
        row.place = place;
        if now.saturating_duration_since(row.answered) >= rule.forget_after {
            row.refusals = 0;
        }
        row.refusals = row.refusals.saturating_add(1);
        let delay = rule.delay(row.refusals);
        row.answered = row.answered.max(now + delay);
        CountedRefusal {
            number: row.refusals,
            due: (!delay.is_zero()).then(|| now + delay),
        }
    }
}

/// A source of connections: an address, of IPv6 the network of 64 bits that one site has.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use super::*;

    const RULE: &BackoffRule = &BackoffRule::REPEATED;

    #[test]
    fn a_client_that_retries_at_once_is_answered_later_and_later_up_to_a_bound() {
        let (mut backoff, mut now) = (RefusalBackoff::new(10), Instant::now());
        let mut delays = Vec::new();
        for number in 1..=11 {
            let counted = backoff.refuse("policy", RULE, now);
            assert_eq!(counted.number, number);
            let due = counted.due.unwrap_or(now);
            delays.push((due - now).as_millis());
            now = due + Duration::from_millis(3);
        }
        assert_eq!(delays, [0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        // A client that waits is answered at once again.
        let patient = backoff.refuse("policy", RULE, now + RULE.forget_after);
        assert_eq!((patient.number, patient.due), (1, None));
    }

    #[test]
    fn a_rule_may_grow_in_steps() {
        let rule = BackoffRule {
            free: 2,
            step: 3,
            longest: Duration::from_millis(600),
            ..BackoffRule::REPEATED
        };
        let (mut backoff, now) = (RefusalBackoff::new(10), Instant::now());
        let delays: Vec<_> = (0..10)
            .map(|_| {
                backoff
                    .refuse(1, &rule, now)
                    .due
                    .map_or(0, |due| (due - now).as_millis())
            })
            .collect();
        assert_eq!(delays, [0, 0, 250, 250, 250, 500, 500, 500, 600, 600]);
    }

    #[test]
    fn another_subject_is_not_delayed_and_the_table_forgets_the_one_that_was_refused_longest_ago() {
        let (mut backoff, now) = (RefusalBackoff::new(100), Instant::now());
        for _ in 0..10 {
            backoff.refuse(("policy", "a"), RULE, now);
        }
        assert_eq!(backoff.refuse(("policy", "b"), RULE, now).due, None);
        for number in 0..150 {
            backoff.refuse(number, RULE, now);
            assert!(
                backoff.refuse(("policy", "a"), RULE, now).due.is_some(),
                "it is refused again and again"
            );
        }
        assert_eq!((backoff.rows.len(), backoff.order.len()), (100, 100));
        assert_eq!(backoff.refuse(("policy", "b"), RULE, now).number, 1, "forgotten");
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}
