//! Limits the audit records about refusals of one source and identity.
//!
//! Why: a client that retries at once is refused hundreds of times a second, and its records would rotate the history of
//! all others away. The first refusals are written, the rest are counted.
//! Invariants: at most [`RECORDS_PER_WINDOW`] records of a source and identity in a window; every refusal is in a record or
//! in the count of a later one; the table is bounded, and a row that is evicted is reported first.
//! Pure: the clock is an argument.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use holdfast_model::UnixMillis;

/// Records about one source and identity in one window.
const RECORDS_PER_WINDOW: u32 = 5;
/// The length of a window.
const WINDOW_SECONDS: u64 = 60;

type Key = (IpAddr, String);

/// Refusals that were counted instead of written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suppressed {
    pub(crate) source: IpAddr,
    pub(crate) identity: String,
    pub(crate) count: u64,
}

#[derive(Debug, Default)]
struct Window {
    began: u64,
    written: u32,
    suppressed: u64,
}

/// The windows of the sources and identities that were refused last.
#[derive(Debug, Default)]
pub(crate) struct RefusalLimiter {
    windows: HashMap<Key, Window>,
    /// In the order in which their windows began.
    order: VecDeque<Key>,
}

impl RefusalLimiter {
    /// Whether a record may be written. `max_rows` bounds the table; `report` receives the counts of windows that ended.
    pub(crate) fn admit(
        &mut self,
        source: IpAddr,
        identity: &str,
        now: UnixMillis,
        max_rows: usize,
        report: &mut Vec<Suppressed>,
    ) -> bool {
        self.expire(now, report);
        let key = (source, identity.to_owned());
        if !self.windows.contains_key(&key) {
            while self.order.len() >= max_rows.max(1)
                && let Some(oldest) = self.order.pop_front()
            {
                self.end(oldest, report);
            }
            self.order.push_back(key.clone());
        }
        let window = self.windows.entry(key).or_insert_with(|| Window {
            began: now.seconds(),
            ..Window::default()
        });
        if window.written < RECORDS_PER_WINDOW {
            window.written += 1;
            return true;
        }
        window.suppressed += 1;
        false
    }

    /// Ends the windows that are over and reports their counts.
    pub(crate) fn expire(&mut self, now: UnixMillis, report: &mut Vec<Suppressed>) {
        while let Some(oldest) = self.order.front() {
            let began = self.windows.get(oldest).map_or(0, |window| window.began);
            // A clock that was set back ends no window early and none late by more than one length.
            if now.seconds().abs_diff(began) < WINDOW_SECONDS {
                return;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.end(oldest, report);
            }
        }
    }

    fn end(&mut self, key: Key, report: &mut Vec<Suppressed>) {
        if let Some(window) = self.windows.remove(&key)
            && window.suppressed > 0
        {
            let (source, identity) = key;
            report.push(Suppressed {
                source,
                identity,
                count: window.suppressed,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_first_refusals_are_written_and_the_rest_is_one_count_at_the_end_of_the_window() {
        let (mut limiter, mut report) = (RefusalLimiter::default(), Vec::new());
        let written = (0..3174).filter(|at| {
            let now = UnixMillis(1_000_000 + at);
            limiter.admit(SOURCE, "policy", now, 10, &mut report)
        });
        assert_eq!(written.count(), 5);
        assert!(report.is_empty());
        limiter.expire(UnixMillis(1_000_000 + 60_000), &mut report);
        let expected = Suppressed {
            source: SOURCE,
            identity: "policy".to_owned(),
            count: 3169,
        };
        assert_eq!(report, [expected]);
        assert!(limiter.admit(SOURCE, "policy", UnixMillis(1_070_000), 10, &mut report));
    }

    #[test]
    fn sources_and_identities_are_counted_apart_and_the_table_is_bounded() {
        let (mut limiter, mut report) = (RefusalLimiter::default(), Vec::new());
        let now = UnixMillis(1_000_000);
        for _ in 0..7 {
            limiter.admit(SOURCE, "a", now, 2, &mut report);
        }
        let other = IpAddr::V4(Ipv4Addr::BROADCAST);
        assert!(limiter.admit(other, "a", now, 2, &mut report));
        assert!(report.is_empty());
        assert!(limiter.admit(SOURCE, "b", now, 2, &mut report), "and evicts the oldest");
        assert_eq!(
            report.iter().map(|suppressed| suppressed.count).collect::<Vec<_>>(),
            [2]
        );
        assert_eq!((limiter.windows.len(), limiter.order.len()), (2, 2));
    }
}
