//! A gateway's reports to the owner about deliveries: credit that front ends grant, and settlements.
//!
//! Reports to an owner on another node go with the other changes of sessions ([`crate::gateway::attach`]). Credit is
//! reported as counters, of which only the latest matter; settlements stay queued until an owner has answered.

use std::sync::Arc;

use holdfast_cluster::route::Owner;
use holdfast_model::{PartitionId, SessionKey};

use super::credit::SharedCredit;
use super::delivery::{DeliveryId, Settlement};
use crate::DeviceHub;
use crate::gateway::session_table::Link;
use crate::session_types::{OwnerError, SessionInfo};

/// A settlement for an owner. There are at most as many as deliveries have been granted.
#[derive(Debug, Clone)]
pub(crate) struct ReportedSettlement {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) key: SessionKey,
    /// The owner that sent the delivery. A later one does not know it.
    pub(crate) owner: Owner,
    pub(crate) id: DeliveryId,
    pub(crate) settlement: Settlement,
}

/// The credit of a session for an owner: read when it is sent.
#[derive(Debug, Clone)]
pub(crate) struct ReportedCredit {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) key: SessionKey,
    pub(crate) credit: Arc<SharedCredit>,
}

impl DeviceHub {
    pub(crate) fn report_credit(
        self: &Arc<Self>,
        partition: PartitionId,
        info: &Arc<SessionInfo>,
        key: SessionKey,
        credit: &Arc<SharedCredit>,
    ) {
        let report = ReportedCredit {
            info: Arc::clone(info),
            key,
            credit: Arc::clone(credit),
        };
        let mut sessions = self.sessions.partition(partition);
        let live = sessions.live.get_mut(&info.identity);
        let Some(live) = live.filter(|live| live.key == key) else {
            return;
        };
        // From now on it is reported with every new link.
        live.credit.get_or_insert_with(|| Arc::clone(credit));
        match sessions.open_link() {
            Some(link) if link.owner.node == self.parts.node => {
                drop(sessions);
                self.grant_locally(partition, link, &report);
            }
            // Also while a link is being opened: its report of the session may have been made already.
            _ => {
                sessions.outbox.credits.insert(key, report);
                drop(sessions);
                self.flush(partition);
            }
        }
    }

    pub(crate) fn report_settlement(self: &Arc<Self>, partition: PartitionId, report: ReportedSettlement) {
        let mut sessions = self.sessions.partition(partition);
        match sessions.open_link() {
            Some(link) if link.owner != report.owner => {}
            Some(link) if link.owner.node == self.parts.node => {
                drop(sessions);
                if let Err(error) = self.settle_locally(partition, link, &report) {
                    self.sessions.partition(partition).outbox.settlements.push_back(report);
                    self.replace_link(partition, link, error);
                }
            }
            _ => {
                sessions.outbox.settlements.push_back(report);
                drop(sessions);
                self.flush(partition);
            }
        }
    }

    pub(crate) fn grant_locally(self: &Arc<Self>, partition: PartitionId, link: Link, report: &ReportedCredit) {
        let (term, caller) = (link.owner.term, self.caller_link(link.id));
        let identity = &report.info.identity;
        let credit = report.credit.read();
        if self
            .ownership
            .grant_credit(partition, term, caller, identity, report.key, credit)
        {
            self.deliver_queue(partition, identity);
            self.notify_missed(partition, identity);
        }
        self.send_deliveries(partition, term, self.parts.node);
    }

    /// # Errors
    /// [`OwnerError`]: the settlement belongs on the next link.
    pub(crate) fn settle_locally(
        self: &Arc<Self>,
        partition: PartitionId,
        link: Link,
        report: &ReportedSettlement,
    ) -> Result<(), OwnerError> {
        let (term, caller) = (link.owner.term, self.caller_link(link.id));
        let identity = &report.info.identity;
        self.ownership.settle_delivery(
            partition,
            term,
            caller,
            identity,
            report.key,
            report.id,
            report.settlement,
        )
    }

    /// The owner does not take reports over this link any more.
    pub(crate) fn replace_link(&self, partition: PartitionId, link: Link, error: OwnerError) {
        if error != OwnerError::Busy {
            self.sessions.close_link(partition, link.id);
        }
        self.request_renewal(partition);
    }
}
