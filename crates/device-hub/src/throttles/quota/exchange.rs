//! The count of all nodes: each reports its own with its demand, the owner of partition 0 adds up and stores.
//!
//! Not here: what is added up ([`super::book`]), the call ([`crate::throttles::share_out`]).

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::route::Owner;
use holdfast_model::{Incarnation, NodeId};
use holdfast_proto::cluster::v1::{QuotaReport, QuotaTotal};
use holdfast_tasks::{Phase, Stop};

use super::book::QuotaBook;
use super::count::{Counted, DailyQuota, day_of};
use crate::DeviceHub;
use crate::throttles::share_out::OF;

/// How often the owner stores the count: what a hub loses that dies as a whole.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// The same once the node drains, so that an orderly stop loses nothing.
const LAST_SAVE_INTERVAL: Duration = Duration::from_millis(200);

/// How long storing may take.
const SAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What this node has added up, as which owner.
pub(crate) type AddedUp = Option<(Owner, QuotaBook)>;

impl DeviceHub {
    /// How much of the daily quota is used; `None`: there is none.
    #[must_use]
    pub fn daily_quota(&self) -> Option<DailyQuota> {
        self.throttles.quota.as_ref().map(|quota| quota.observe())
    }

    /// Counts something of so many bytes for the daily quota. Whether it may be carried out was asked before, by [`Self::admit`].
    pub fn charge(&self, bytes: impl FnOnce() -> usize) {
        if let Some(quota) = &self.throttles.quota {
            quota.charge(None, bytes());
        }
    }

    /// Before the first answer of an owner: what the registry has of today.
    pub(crate) fn restore_quota(&self) {
        let Some(quota) = &self.throttles.quota else { return };
        match self.parts.registry.quota_use() {
            Ok(Some(used)) => {
                let own = Counted {
                    messages: 0,
                    ..quota.counted()
                };
                let total = Counted {
                    day: used.day,
                    messages: used.total(),
                };
                quota.learn(total, own);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the use of the daily quota cannot be read; the count begins with this start")
            }
        }
    }

    /// Adds a node's count up, if this node is the owner that does; the total.
    pub(crate) fn add_up(&self, from: NodeId, incarnation: Incarnation, counted: Counted) -> Option<Counted> {
        let quota = self.throttles.quota.as_ref()?;
        let owner = self.parts.partitions.owner(OF)?;
        if owner.node != self.parts.node {
            return None;
        }
        let (members, today) = (self.members(), day_of(self.parts.clock.now()));
        let mut added_up = self.quota_book.lock();
        let book = match &mut *added_up {
            Some((as_owner, book)) if *as_owner == owner => book,
            other => {
                let stored = self.parts.registry.quota_use().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the use of the daily quota cannot be read; nodes report what they have counted");
                    None
                });
                &mut other.insert((owner, QuotaBook::new(stored, today))).1
            }
        };
        let total = book.report((from, incarnation), counted, &members, today);
        if let Some(percent) = book.reached(quota.limit()) {
            let (used, limit) = (total.messages, quota.limit());
            tracing::warn!(
                percent,
                used,
                limit,
                "the daily quota of messages is being used up; beyond it the hub answers 403002 until 00:00 UTC (throttles.daily_messages)"
            );
        }
        Some(total)
    }

    /// The count of another node, from its report of demand.
    pub(crate) fn answer_quota(&self, from: NodeId, report: Option<QuotaReport>) -> Option<QuotaTotal> {
        let report = report?;
        let counted = Counted {
            day: report.day,
            messages: report.counted,
        };
        let total = self.add_up(from, Incarnation(report.incarnation), counted)?;
        Some(QuotaTotal {
            day: total.day,
            counted: total.messages,
        })
    }

    async fn save_quota(&self, saved: &mut Option<(u64, u64)>) {
        let owner = self.parts.partitions.owner(OF);
        let used = match &*self.quota_book.lock() {
            Some((as_owner, book)) if Some(*as_owner) == owner => book.used(),
            _ => return,
        };
        let now = (used.day, used.total());
        if *saved == Some(now) {
            return;
        }
        let stored = tokio::time::timeout(SAVE_TIMEOUT, self.parts.registry.put_quota_use(&used)).await;
        match stored {
            Ok(Ok(())) => *saved = Some(now),
            Ok(Err(error)) => tracing::debug!(%error, "the use of the daily quota was not stored; it is tried again"),
            Err(_) => tracing::debug!("the use of the daily quota was not stored in time; it is tried again"),
        }
    }
}

/// Stores the count of the day every few seconds, while this node adds it up.
pub(crate) async fn save(hub: &Arc<DeviceHub>, stop: &Stop) {
    let mut saved = None;
    loop {
        let interval = tokio::select! {
            biased;
            () = stop.reached(Phase::Draining) => LAST_SAVE_INTERVAL,
            () = tokio::time::sleep(SAVE_INTERVAL) => Duration::ZERO,
        };
        hub.report_quota_here();
        hub.save_quota(&mut saved).await;
        tokio::time::sleep(interval).await;
    }
}
