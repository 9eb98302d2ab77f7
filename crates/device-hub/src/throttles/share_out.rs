//! This node's shares of the rates: it reports to the owner of partition 0, or is that owner.
//!
//! Its count of the daily quota goes the same way.
//! Not here: how rates are shared out ([`super::share_book`]), how counts are added up ([`super::quota`]).

use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::route::Owner;
use holdfast_cluster::transport::CallError;
use holdfast_model::{NodeId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_tasks::{Phase, Stop};

use super::class::ThrottleClass;
use super::quota::count::{Counted, QuotaCount};
use super::quota::exchange::save;
use super::share_book::{LEASE, Report, ShareBook, Table, even_share};
use crate::DeviceHub;
use crate::rpc::codec::refused;

/// How often a node reports.
const INTERVAL: Duration = Duration::from_millis(500);

/// Shares travel in parts of a million.
const MILLION: f64 = 1e6;

/// The owner of this partition shares out.
pub(super) const OF: PartitionId = PartitionId(0);

/// What this node has shared out, as which owner.
pub(crate) type SharedOut = Option<(Owner, ShareBook)>;

/// Keeps this node's shares of the rates until the node closes; returns at once when there are no rates.
pub async fn share_rates(hub: Arc<DeviceHub>, stop: Stop) {
    if !hub.throttles.has_rates() && hub.throttles.quota.is_none() {
        return;
    }
    hub.restore_quota();
    tokio::select! {
        biased;
        () = stop.reached(Phase::Closing) => {}
        () = report_all(&hub) => {}
        () = save_quota(&hub, &stop) => {}
    }
}

async fn save_quota(hub: &Arc<DeviceHub>, stop: &Stop) {
    match hub.throttles.quota {
        Some(_) => save(hub, stop).await,
        None => std::future::pending().await,
    }
}

async fn report_all(hub: &Arc<DeviceHub>) {
    let mut valid_until = None;
    loop {
        let began = hub.throttles.now();
        let report = hub.throttles.take_report();
        match hub.report_demand(&report).await {
            Some(shares) => {
                valid_until = Some(began + LEASE);
                hub.throttles.set_shares(&shares);
            }
            None if valid_until.is_some_and(|until| until > hub.throttles.now()) => {}
            None => {
                // Without an answer no share grows beyond an even one: the others have been promised the remainder.
                let even = even_share(hub.members().len());
                let lapsed = hub.throttles.shares().map(|share| share.min(even));
                hub.throttles.set_shares(&match valid_until {
                    Some(_) => lapsed,
                    None => [even; ThrottleClass::ALL.len()],
                });
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl DeviceHub {
    async fn report_demand(self: &Arc<Self>, report: &Report) -> Option<Table<f64>> {
        let owner = self.parts.partitions.owner(OF)?;
        if owner.node == self.parts.node {
            self.report_quota_here();
            return self.share_out(self.parts.node, report);
        }
        let counted = self.throttles.quota.as_ref().map(QuotaCount::counted);
        let request = Request::Rates(proto::RatesReport {
            quota: counted.map(|counted| proto::QuotaReport {
                day: counted.day,
                incarnation: self.parts.incarnation.0,
                counted: counted.messages,
            }),
            ..encode(report)
        });
        match self.call_node(owner.node, OF.0, request, INTERVAL).await {
            Ok(Answer::Rates(answer)) => {
                if let (Some(quota), Some(own), Some(total)) = (&self.throttles.quota, counted, answer.quota) {
                    let total = Counted {
                        day: total.day,
                        messages: total.counted,
                    };
                    quota.learn(total, own);
                }
                decode(&answer.shares).ok()
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "the owner of partition 0 did not answer a report of demand; the shares stay as they are for now");
                None
            }
        }
    }

    /// Adds this node's own count up, if it is the owner that does.
    pub(super) fn report_quota_here(&self) {
        let Some(quota) = &self.throttles.quota else { return };
        let own = quota.counted();
        if let Some(total) = self.add_up(self.parts.node, self.parts.incarnation, own) {
            quota.learn(total, own);
        }
    }

    /// The shares of a node, if this one is the owner that shares out.
    fn share_out(&self, from: NodeId, report: &Report) -> Option<Table<f64>> {
        let owner = self.parts.partitions.owner(OF)?;
        if owner.node != self.parts.node {
            return None;
        }
        let (members, now) = (self.members(), self.throttles.now());
        let mut shared = self.shared_rates.lock();
        let book = match &mut *shared {
            Some((as_owner, book)) if *as_owner == owner => book,
            other => &mut other.insert((owner, ShareBook::new(now))).1,
        };
        Some(book.report(from, report, &members, now))
    }

    /// Answers the report of another node.
    pub(crate) fn answer_rates(&self, from: NodeId, report: &proto::RatesReport) -> Result<Answer, CallError> {
        let mut demand = [0; ThrottleClass::ALL.len()];
        if report.demand.len() != demand.len() {
            return Err(refused("a report of demand with other classes than this version has"));
        }
        demand.copy_from_slice(&report.demand);
        let in_use = decode(&report.in_use)?;
        let shares = self.share_out(from, &Report { demand, in_use });
        let shares = shares.ok_or_else(|| refused("this node does not own partition 0"))?;
        Ok(Answer::Rates(proto::RatesAnswer {
            shares: shares.map(millionths).to_vec(),
            quota: self.answer_quota(from, report.quota),
        }))
    }
}

/// Rounded down, so that shares do not grow on their way.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is between 0 and 1"
)]
fn millionths(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * MILLION) as u32
}

fn encode(report: &Report) -> proto::RatesReport {
    proto::RatesReport {
        demand: report.demand.to_vec(),
        in_use: report.in_use.map(|share| millionths(share) + 1).to_vec(),
        quota: None,
    }
}

fn decode(shares: &[u32]) -> Result<Table<f64>, CallError> {
    let mut table = [0.0; ThrottleClass::ALL.len()];
    if shares.len() != table.len() {
        return Err(refused("shares of other classes than this version has"));
    }
    for (share, millionths) in table.iter_mut().zip(shares) {
        *share = (f64::from(*millionths) / MILLION).min(1.0);
    }
    Ok(table)
}
