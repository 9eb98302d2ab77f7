//! How many devices or modules each saved query selects, as gauges.
//!
//! One node counts: the leader of the registry's group, so that each gauge has one source. It asks the owners as any
//! query does.
//! Invariants: one query is counted at a time, and after it the task rests as long as that has taken, so that saved queries
//! use half of one slice of a node at most, however many there are; a count belongs to one text of its query.
//! Not here: how saved queries are stored (`registry`), and how they are run for a caller ([`super::gather`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_query::{Aggregate, AggregateFunction, Column, Output, Query, QueryError, Select};
use holdfast_registry::SavedQuery;
use holdfast_tasks::{Phase, Stop};
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

use super::gather::{QueryFailure, QueryPosition};
use crate::{DeviceHub, metrics};

/// How long a count may take; the same as a page of a caller.
const COUNT_TIMEOUT: Duration = Duration::from_secs(30);

/// Intervals after which a count is not shown any more that could not be repeated.
const STALE_INTERVALS: u32 = 3;

/// The column of the count.
const MATCHES: &str = "matches";

/// How many devices or modules a saved query selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedQueryCount {
    /// Its name.
    pub name: String,
    /// Devices or modules that its condition selects.
    pub matches: u64,
    /// When they were counted, before now.
    pub age: Duration,
    /// How long that has taken.
    pub took: Duration,
}

/// The counts of this node, by the names of their queries in lower case.
pub(crate) type SavedQueryCounts = BTreeMap<String, Counted>;

/// The last attempts to count a query.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// Of the query that was counted.
    etag: String,
    attempted: Instant,
    /// How the last attempt ended.
    outcome: LastAttempt,
    /// The last success.
    count: Option<Count>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastAttempt {
    Succeeded,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    matches: u64,
    at: Instant,
    took: Duration,
}

/// Why a query was not counted.
#[derive(Debug, Error)]
enum CountError {
    /// It was saved by a version whose language is another one.
    #[error("it is not valid in this version: {0}")]
    Query(#[from] QueryError),
    #[error(transparent)]
    Failed(#[from] QueryFailure),
    /// The owners' answers make no count.
    #[error("the count is not a number")]
    NoNumber,
}

/// The query that counts the documents that `query` selects: of its collection and condition, whatever its columns, groups and
/// TOP are.
///
/// # Errors
/// [`QueryError`] when its canonical text is longer than a query may be.
pub fn match_count(query: &Query) -> Result<Query, QueryError> {
    let counting = Query {
        top: None,
        select: Select::Columns(vec![Column {
            name: MATCHES.to_owned(),
            output: Output::Aggregate(Aggregate {
                function: AggregateFunction::Count,
                argument: None,
            }),
        }]),
        group_by: Vec::new(),
        ..query.clone()
    };
    Query::parse(&counting.to_string())
}

/// Counts saved queries while this node leads the registry's group, until the node closes.
pub async fn count_saved_queries(hub: Arc<DeviceHub>, stop: Stop) {
    tokio::select! {
        biased;
        () = stop.reached(Phase::Closing) => {}
        () = count_all(&hub) => {}
    }
}

/// Returns when the registry has stopped.
async fn count_all(hub: &Arc<DeviceHub>) {
    let interval = hub.parts.config.saved_query_interval.get();
    let mut saved = hub.parts.registry.watch_saved_queries();
    let mut leader = hub.parts.registry.group().watch();
    loop {
        let due = match hub.next_count(interval) {
            Next::Count(query) => {
                let took = hub.count_saved_query(&query).await;
                // Changes do not end the rest: they may be many.
                tokio::time::sleep(took).await;
                continue;
            }
            Next::At(due) => due,
        };
        tokio::select! {
            biased;
            changed = saved.changed() => if changed.is_err() { return },
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// What the task does next.
enum Next {
    Count(Arc<SavedQuery>),
    /// Nothing before then; `None`: before something changes.
    At(Option<Instant>),
}

impl DeviceHub {
    /// The counts of this node by name: none unless it leads the registry's group, and none that is old or of an earlier text.
    #[must_use]
    pub fn saved_query_counts(&self) -> Vec<SavedQueryCount> {
        if !self.parts.registry.is_leader() {
            return Vec::new();
        }
        let interval = self.parts.config.saved_query_interval.get();
        let saved = self.parts.registry.saved_queries();
        let counts = self.saved_query_counts.lock();
        let shown = saved.iter().filter_map(|(key, query)| {
            let counted = counts.get(key).filter(|counted| counted.etag == query.etag)?;
            let count = counted.shown(interval)?;
            Some(SavedQueryCount {
                name: query.name.clone(),
                matches: count.matches,
                age: count.at.elapsed(),
                took: count.took,
            })
        });
        shown.collect()
    }

    /// Sets the gauges of [`Self::saved_query_counts`] in the current recorder, for one scrape. A recorder that is kept
    /// keeps gauges too.
    pub fn export_saved_queries(&self) {
        for count in self.saved_query_counts() {
            metrics::show_saved_query(&count);
        }
    }

    /// The query that has waited longest, if it is due. Forgets counts that are not shown any more.
    fn next_count(&self, interval: Duration) -> Next {
        let mut counts = self.saved_query_counts.lock();
        if interval.is_zero() || !self.parts.registry.is_leader() {
            counts.clear();
            return Next::At(None);
        }
        let saved = self.parts.registry.saved_queries();
        counts.retain(|key, counted| saved.get(key).is_some_and(|query| query.etag == counted.etag));
        let due = saved.iter().map(|(key, query)| {
            let due = counts.get(key).map(|counted| counted.attempted + interval);
            (due, query)
        });
        match due.min_by_key(|(due, _)| *due) {
            None => Next::At(None),
            Some((Some(due), _)) if due > Instant::now() => Next::At(Some(due)),
            Some((_, query)) => Next::Count(Arc::clone(query)),
        }
    }

    /// Counts what a query selects, and gives how long that took.
    async fn count_saved_query(self: &Arc<Self>, query: &SavedQuery) -> Duration {
        let attempted = Instant::now();
        let outcome = self.matches_of(query).await;
        let took = attempted.elapsed();
        let mut counts = self.saved_query_counts.lock();
        let key = query.name.to_ascii_lowercase();
        let earlier = counts.remove(&key).filter(|earlier| earlier.etag == query.etag);
        let (outcome, count) = match outcome {
            Ok(matches) => {
                let at = Instant::now();
                (LastAttempt::Succeeded, Some(Count { matches, at, took }))
            }
            Err(error) => {
                self.metrics.saved_query_failures.increment(1);
                // One line for each row of failures.
                if earlier
                    .as_ref()
                    .is_none_or(|earlier| earlier.outcome == LastAttempt::Succeeded)
                {
                    tracing::warn!(query = query.name, %error, "a saved query was not counted; trying again");
                }
                (LastAttempt::Failed, earlier.and_then(|earlier| earlier.count))
            }
        };
        let etag = query.etag.clone();
        counts.insert(
            key,
            Counted {
                etag,
                attempted,
                outcome,
                count,
            },
        );
        took
    }

    async fn matches_of(self: &Arc<Self>, query: &SavedQuery) -> Result<u64, CountError> {
        let counting = match_count(&Query::parse(&query.query)?)?;
        let text = counting.to_string();
        let page = self
            .query_page(&text, &counting, &QueryPosition::Start, 1, COUNT_TIMEOUT)
            .await?;
        let result: Option<Value> = page.results.first().and_then(|text| serde_json::from_str(text).ok());
        let matches = result.as_ref().and_then(|result| result[MATCHES].as_f64());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of identities, which are fewer than 2^52"
        )]
        matches.map(|matches| matches as u64).ok_or(CountError::NoNumber)
    }
}

impl Counted {
    /// The count, unless it is old and could not be repeated.
    fn shown(&self, interval: Duration) -> Option<Count> {
        self.count
            .filter(|count| self.outcome == LastAttempt::Succeeded || count.at.elapsed() < STALE_INTERVALS * interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_keeps_collection_and_condition_alone() {
        for (query, counting) in [
            ("SELECT * FROM devices", "SELECT COUNT() AS [[matches]] FROM devices"),
            (
                "SELECT TOP 3 deviceId FROM devices.modules WHERE moduleId = 'm'",
                "SELECT COUNT() AS [[matches]] FROM devices.modules WHERE moduleId = 'm'",
            ),
            (
                "SELECT tags.site, COUNT() AS n FROM devices WHERE tags.n > 1 GROUP BY tags.site",
                "SELECT COUNT() AS [[matches]] FROM devices WHERE tags.n > 1",
            ),
        ] {
            let counted = match_count(&Query::parse(query).unwrap()).unwrap();
            assert_eq!(counted.to_string(), counting, "{query}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_fails_is_shown_for_three_intervals() {
        let interval = Duration::from_secs(60);
        let at = Instant::now();
        let count = Count {
            matches: 4,
            at,
            took: Duration::ZERO,
        };
        let mut counted = Counted {
            etag: "e".to_owned(),
            attempted: at,
            outcome: LastAttempt::Failed,
            count: Some(count),
        };
        tokio::time::advance(Duration::from_secs(179)).await;
        assert_eq!(counted.shown(interval).map(|count| count.matches), Some(4));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(counted.shown(interval).is_none());
        // Of many slow queries each is counted later than after an interval.
        counted.outcome = LastAttempt::Succeeded;
        assert!(counted.shown(interval).is_some());
    }
}
