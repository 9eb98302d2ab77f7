//! How long this node's replica may be trusted with accepting a credential (foundations 16, 17).
//!
//! Why: a leader without quorum goes on talking to its followers, and a stopped process does not notice that it stood
//! still. So the right to accept is granted by a leader that has just heard from a quorum, ends by this node's own
//! monotonic clock, counted from before it asked, and is looked at in the moment of use.
//! A grant says: who led at `asked − age`, and all that was committed by then lies at or below `index`. Once `index` is
//! applied here, what this replica shows is younger than `now − (asked − age)`, whatever happened to that leader since.
//! That stays true whatever is granted later: a deadline only ever moves on.
//! Invariants: no grant counts before its index is applied; nothing here ever waits for a clock of another machine.
//! Not here: who grants (`consensus`), what is done without a lease (`device-hub`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_consensus::{Group, LeaseGrant, ReadError};
use holdfast_tasks::watch;
use tokio::time::Instant;

use crate::metrics::LeaseMetrics;

/// A lease is renewed when this part of it is over.
const RENEW_PART: u32 = 4;

/// A renewal that failed is tried again after this part of a lease.
const RETRY_PART: u32 = 20;

/// Between two attempts, however short the lease.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// Whether this node's replica may be trusted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It may be, for this long unless the lease is renewed.
    Held {
        /// What is left.
        for_: Duration,
    },
    /// It may not.
    Lost {
        /// When the lease ended; when the registry started, if it never had one.
        since: Instant,
    },
}

/// The lease of this node. Times are nanoseconds since `base`, so that a check is one load and one look at the clock.
pub(crate) struct Lease {
    base: Instant,
    /// When it ends; 0 before the first grant.
    deadline: AtomicU64,
    /// When the last attempt to renew it that failed had begun.
    failed: AtomicU64,
    /// The longest attempt.
    staleness: Duration,
    /// Whether it was held when last looked at, for those who wait.
    told: watch::Sender<bool>,
    metrics: LeaseMetrics,
}

impl Lease {
    pub(crate) fn new(staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            deadline: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            staleness,
            told: watch::Sender::new(false),
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

    /// Whether the replica may be trusted at this moment.
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
            told: self.told.subscribe(),
            lease: self.clone(),
        }
    }

    /// Lets those who wait know how it stands.
    fn tell(&self, reason: &str) {
        let held = self.is_held();
        if *self.told.borrow() == held {
            return;
        }
        self.told.send_replace(held);
        self.metrics.held.set(if held { 1.0 } else { 0.0 });
        if held {
            tracing::info!("the registry's replica here is confirmed: connections are accepted");
        } else {
            self.metrics.lost.increment(1);
            tracing::warn!(
                reason,
                "the registry's replica here cannot be confirmed: no new connection is accepted"
            );
        }
    }

    /// Does `work`, and meanwhile tells when the lease ends.
    async fn watch_over<T>(&self, reason: &str, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let held = *self.told.borrow();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep_until(self.deadline_at()), if held => self.tell(reason),
            }
        }
    }

    /// One attempt to renew it; when the lease now ends.
    async fn attempt(&self, granter: &impl Granter) -> Result<Instant, String> {
        let grant = granter.ask().await.map_err(|error| error.to_string())?;
        let Some(good_for) = self.staleness.checked_sub(grant.age) else {
            return Err(format!(
                "the leader has not heard from a quorum for {} ms",
                grant.age.as_millis()
            ));
        };
        let ends = grant.asked + good_for;
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the leader's answer came too late".to_owned());
        }
        granter
            .applied(grant.index, left)
            .await
            .map_err(|error| format!("entry {} is not applied here: {error}", grant.index))?;
        Ok(ends)
    }

    /// Renews it until `alive` says no, or the group has stopped.
    pub(crate) async fn keep(self: Arc<Self>, granter: impl Granter, alive: impl Fn() -> bool + Send) {
        let mut reason = "it has not been yet".to_owned();
        while alive() {
            let began = Instant::now();
            let attempt = tokio::time::timeout(self.staleness, self.attempt(&granter));
            let outcome = match self.watch_over(&reason, attempt).await {
                Ok(outcome) => outcome,
                Err(_) => Err("the leader does not answer".to_owned()),
            };
            // A lease that ended in between is told of, even if it begins anew.
            self.tell(&reason);
            let pause = match outcome {
                Ok(ends) => {
                    self.metrics.renewed.increment(1);
                    let before = self.deadline.fetch_max(self.nanos(ends), Ordering::AcqRel);
                    if before <= self.nanos(Instant::now()) {
                        // It may have ended since it was looked at: whoever found that waits to be told.
                        self.told.send_replace(false);
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
            self.tell(&reason);
            let pause = pause.max(SHORTEST_PAUSE);
            self.watch_over(&reason, tokio::time::sleep(pause)).await;
        }
    }
}

/// Who grants, and who knows what is applied.
pub(crate) trait Granter: Send + Sync + 'static {
    fn ask(&self) -> impl Future<Output = Result<LeaseGrant, ReadError>> + Send;
    fn applied(&self, index: u64, patience: Duration) -> impl Future<Output = Result<(), ReadError>> + Send;
}

impl Granter for Group {
    async fn ask(&self) -> Result<LeaseGrant, ReadError> {
        self.lease().await
    }

    async fn applied(&self, index: u64, patience: Duration) -> Result<(), ReadError> {
        self.wait_applied(index, patience).await
    }
}

/// For who must do something when the lease ends.
#[derive(Clone)]
pub struct LeaseWatch {
    lease: Arc<Lease>,
    told: watch::Receiver<bool>,
}

impl LeaseWatch {
    /// How it stands at this moment.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        self.lease.state()
    }

    /// Returns when the lease has been lost or gained since the last call, and how it stands then. Cancel-safe.
    pub async fn changed(&mut self) -> LeaseState {
        // The sender lives as long as the lease does.
        let _ = self.told.changed().await;
        self.lease.state()
    }

    /// Returns when the lease is held. Cancel-safe.
    pub async fn held(&mut self) {
        while !self.lease.is_held() {
            let _ = self.told.changed().await;
        }
    }

    /// Returns when the lease has been lost for as long as `grace`. Cancel-safe.
    ///
    /// A process that was stopped for longer than that gets one more attempt to renew before this returns: its sessions
    /// need not pay for a pause that is over.
    pub async fn lost_for(&mut self, grace: Duration) {
        loop {
            let LeaseState::Lost { since } = self.lease.state() else {
                let _ = self.told.changed().await;
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
                _ = self.told.changed() => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
