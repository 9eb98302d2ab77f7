//! The registry lease: until when this node's replica may accept credentials (docs/decisions/0022).
//!
//! Why: a leader without quorum continues to talk to its followers, and a suspended process does not notice its pause. So
//! the right to accept is granted by a leader that has just heard from a quorum, ends by this node's own monotonic clock,
//! counted from before the request, and is checked at the moment of use.
//! A grant means: the granting leader led at `asked − age`, and every entry committed by then is at or below `index`. Once
//! `index` is applied here, this replica is not older than `now − (asked − age)`, whatever happens to that leader later.
//! Later grants do not change that: a deadline only moves forward.
//! Invariants: no grant counts before its index is applied; nothing here depends on the clock of another machine.
//! Not here: granting (`consensus`), the handling of connections without a lease (`device-hub`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_consensus::{Group, LeaseGrant, ReadError};
use holdfast_tasks::watch;
use thiserror::Error;
use tokio::time::Instant;

use crate::metrics::LeaseMetrics;

/// A lease is renewed after this part of it.
const RENEW_PART: u32 = 4;

/// A failed renewal is retried after this part of a lease.
const RETRY_PART: u32 = 20;

/// Minimum interval between two attempts, however short the lease is.
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// Why the lease has not been renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum RenewError {
    #[error("it has not been yet")]
    NotTried,
    #[error(transparent)]
    NotGranted(#[from] ReadError),
    #[error("the leader has not heard from a quorum for {} ms", .0.as_millis())]
    NoQuorum(Duration),
    #[error("the leader's answer came too late")]
    TooLate,
    #[error("entry {index} is not applied here: {error}")]
    NotApplied { index: u64, error: ReadError },
    #[error("the leader does not answer")]
    NoAnswer,
}

/// State of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It is held, for this long unless it is renewed.
    Held {
        /// The remaining time.
        for_: Duration,
    },
    /// It is not held.
    Lost {
        /// When the lease ended; when the registry started, if it never had one.
        since: Instant,
    },
}

/// The lease of this node. Times are nanoseconds since `base`, so that a check is one load and one read of the clock.
pub(crate) struct Lease {
    base: Instant,
    /// When it ends; 0 before the first grant.
    deadline: AtomicU64,
    /// When the last failed attempt to renew it began.
    failed: AtomicU64,
    /// The longest attempt.
    staleness: Duration,
    /// Whether it was held at the last check, for waiting tasks.
    published: watch::Sender<bool>,
    metrics: LeaseMetrics,
}

impl Lease {
    pub(crate) fn new(staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            deadline: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            staleness,
            published: watch::Sender::new(false),
            metrics: LeaseMetrics::new(),
        })
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Acquire)
    }

    fn deadline_at(&self) -> Instant {
        self.base + Duration::from_nanos(self.deadline())
    }

    /// Whether the lease is held at this moment.
    pub(crate) fn is_held(&self) -> bool {
        self.nanos(Instant::now()) < self.deadline()
    }

    pub(crate) fn state(&self) -> LeaseState {
        let (now, deadline) = (self.nanos(Instant::now()), self.deadline());
        if now < deadline {
            LeaseState::Held {
                for_: Duration::from_nanos(deadline - now),
            }
        } else {
            LeaseState::Lost {
                since: self.deadline_at(),
            }
        }
    }
    pub(crate) fn watch(self: &Arc<Self>) -> LeaseWatch {
        LeaseWatch {
            published: self.published.subscribe(),
            lease: self.clone(),
        }
    }

    /// Publishes the state to waiting tasks.
    fn publish(&self, reason: RenewError) {
        let held = self.is_held();
        if *self.published.borrow() == held {
            return;
        }
        self.published.send_replace(held);
        self.metrics.held.set(if held { 1.0 } else { 0.0 });
        if held {
            tracing::info!("registry lease acquired; new connections are accepted");
        } else {
            self.metrics.lost.increment(1);
            tracing::warn!(
                %reason,
                "the registry's replica here cannot be confirmed: no new connection is accepted"
            );
        }
    }

    /// Runs `work`, and meanwhile publishes the end of the lease.
    async fn watch_over<T>(&self, reason: RenewError, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let held = *self.published.borrow();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep_until(self.deadline_at()), if held => self.publish(reason),
            }
        }
    }

    /// One attempt to renew it; returns the new end of the lease.
    async fn attempt(&self, granter: &impl Granter) -> Result<Instant, RenewError> {
        let grant = granter.ask().await?;
        let Some(good_for) = self.staleness.checked_sub(grant.age) else {
            return Err(RenewError::NoQuorum(grant.age));
        };
        let ends = grant.asked + good_for;
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RenewError::TooLate);
        }
        granter
            .applied(grant.index, left)
            .await
            .map_err(|error| RenewError::NotApplied {
                index: grant.index,
                error,
            })?;
        Ok(ends)
    }

    /// Renews it until `alive` returns `false`, or the group has stopped.
    pub(crate) async fn keep(self: Arc<Self>, granter: impl Granter, alive: impl Fn() -> bool + Send) {
        let mut reason = RenewError::NotTried;
        while alive() {
            let began = Instant::now();
            let attempt = tokio::time::timeout(self.staleness, self.attempt(&granter));
            let outcome = match self.watch_over(reason, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => Err(RenewError::NoAnswer),
            };
            // A lease that ended in between is published, even if it is held again.
            self.publish(reason);
            let pause = match outcome {
                Ok(ends) => {
                    self.metrics.renewed.increment(1);
                    let before = self.deadline.fetch_max(self.nanos(ends), Ordering::AcqRel);
                    if before <= self.nanos(Instant::now()) {
                        // It may have ended since the last check: tasks that noticed wait for this.
                        self.published.send_replace(false);
                    }
                    let left = self.deadline_at().saturating_duration_since(Instant::now());
                    (self.staleness / RENEW_PART).min(left / 2)
                }
                Err(why) => {
                    self.metrics.failed.increment(1);
                    self.failed.fetch_max(self.nanos(began), Ordering::AcqRel);
                    reason = why;
                    self.staleness / RETRY_PART
                }
            };
            self.publish(reason);
            let pause = pause.max(MIN_RETRY_INTERVAL);
            self.watch_over(reason, tokio::time::sleep(pause)).await;
        }
    }
}

/// Grants leases, and knows the applied index.
pub(crate) trait Granter: Send + Sync + 'static {
    fn ask(&self) -> impl Future<Output = Result<LeaseGrant, ReadError>> + Send;
    fn applied(&self, index: u64, timeout: Duration) -> impl Future<Output = Result<(), ReadError>> + Send;
}

impl Granter for Group {
    async fn ask(&self) -> Result<LeaseGrant, ReadError> {
        self.lease().await
    }

    async fn applied(&self, index: u64, timeout: Duration) -> Result<(), ReadError> {
        self.wait_applied(index, timeout).await
    }
}

/// A watch for the loss and gain of the lease.
#[derive(Clone)]
pub struct LeaseWatch {
    lease: Arc<Lease>,
    published: watch::Receiver<bool>,
}

impl LeaseWatch {
    /// The state at this moment.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        self.lease.state()
    }

    /// Returns the new state when the lease has been lost or gained since the last call. Cancel-safe.
    pub async fn changed(&mut self) -> LeaseState {
        // The sender lives as long as the lease does.
        let _ = self.published.changed().await;
        self.lease.state()
    }

    /// Returns when the lease is held. Cancel-safe.
    pub async fn held(&mut self) {
        while !self.lease.is_held() {
            let _ = self.published.changed().await;
        }
    }

    /// Returns when the lease has been lost for as long as `grace`. Cancel-safe.
    ///
    /// A process that was suspended for longer than that gets one more attempt to renew before this returns, so that its
    /// sessions survive a pause that is over.
    pub async fn lost_for(&mut self, grace: Duration) {
        loop {
            let LeaseState::Lost { since } = self.lease.state() else {
                let _ = self.published.changed().await;
                continue;
            };
            let due = since + grace;
            // An attempt that began within the last lease of the grace, and failed, is the last one.
            let tried = self.lease.base + Duration::from_nanos(self.lease.failed.load(Ordering::Acquire));
            if Instant::now() >= due && tried + self.lease.staleness >= due {
                return;
            }
            let look_again = due.max(Instant::now() + self.lease.staleness / RETRY_PART);
            tokio::select! {
                biased;
                _ = self.published.changed() => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
