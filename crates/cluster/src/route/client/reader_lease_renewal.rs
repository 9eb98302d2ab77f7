//! Registers and renews the leases of this node's readers at the owners.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use holdfast_model::{NodeId, PartitionId};
use holdfast_partition::epoch::{Receiver, Refusal};
use holdfast_proto::cluster::v1::{RoutePreempted, RouteReaderLeasesAnswer, RouteReaderLeasesRequest};
use tokio::time::Instant;

use super::reader_leases::{READER_LEASE, READER_LEASE_RENEWAL_INTERVAL, ReaderLease, ReaderLeaseError};
use crate::route::Partitions;
use crate::route::owner_table::{OWNER_RETRY_BACKOFF, Owner};
use crate::route::protocol::messages::Kind;
use crate::route::protocol::reader_lease::{
    LeaseDecision, LeaseRequest, decode_decision, decode_receiver, encode_request,
};

/// Timeout of registering a lease, over all owners that are asked.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(READER_LEASE.as_millis() >= 3 * READER_LEASE_RENEWAL_INTERVAL.as_millis());

impl Partitions {
    /// Acquires a lease for a reader of a consumer group, by the epoch rule, wherever the owner is. The lease survives changes
    /// of owner.
    ///
    /// # Errors
    /// [`ReaderLeaseError`].
    pub async fn acquire_reader_lease(
        &self,
        id: PartitionId,
        group: &str,
        receiver: Receiver,
    ) -> Result<ReaderLease, ReaderLeaseError> {
        let (lease, request) = self.0.reader_leases.create(self, id, group, receiver);
        let deadline = Instant::now() + REGISTER_TIMEOUT;
        let mut owner = self.owner(id);
        loop {
            if let Some(owner) = owner
                && let Some(decision) = self.request_lease(id, owner, &request).await
            {
                return match decision {
                    LeaseDecision::Granted(since) => {
                        self.0.reader_leases.registered(id, lease.key(), owner, since);
                        Ok(lease)
                    }
                    LeaseDecision::TooManyReaders => Err(Refusal::TooMany.into()),
                    LeaseDecision::TakenBy(by) => Err(too_low(request.receiver, by).into()),
                };
            }
            if Instant::now() >= deadline {
                return Err(ReaderLeaseError::Unavailable(id));
            }
            owner = self.owner_after(id, owner, OWNER_RETRY_BACKOFF).await;
        }
    }

    /// Requests a lease from one owner; returns `None` if it cannot decide.
    async fn request_lease(&self, id: PartitionId, owner: Owner, request: &LeaseRequest) -> Option<LeaseDecision> {
        if owner.node == self.node() {
            return self.register_lease(id, owner, self.node(), request).ok();
        }
        let request = RouteReaderLeasesRequest {
            enter: vec![encode_request(request)],
            ..RouteReaderLeasesRequest::default()
        };
        let answer: RouteReaderLeasesAnswer = self.ask_node(owner, id, Kind::ReaderLeases, &request).await?;
        decode_decision(answer.entered.into_iter().next()?)
    }

    /// Sends the changed leases of one partition to its owner; returns whether it has received them.
    async fn sync_leases(&self, id: PartitionId) -> bool {
        let Some(owner) = self.owner(id) else { return false };
        let due = self.0.reader_leases.due(id, owner);
        if owner.node == self.node() {
            for request in &due.register {
                if let Ok(decision) = self.register_lease(id, owner, owner.node, request) {
                    self.apply_decision(id, owner, request.key, Some(decision));
                }
            }
            return true;
        }
        if due.is_empty() {
            return true;
        }
        let request = RouteReaderLeasesRequest {
            enter: due.register.iter().map(encode_request).collect(),
            renew: due.renew,
            leave: due.release,
        };
        let answer: Option<RouteReaderLeasesAnswer> = self.ask_node(owner, id, Kind::ReaderLeases, &request).await;
        let Some(answer) = answer else { return false };
        for (request, answer) in due.register.iter().zip(answer.entered) {
            self.apply_decision(id, owner, request.key, decode_decision(answer));
        }
        for key in answer.unknown {
            self.0.reader_leases.unknown(id, key);
        }
        true
    }

    fn apply_decision(&self, id: PartitionId, owner: Owner, key: u64, decision: Option<LeaseDecision>) {
        match decision {
            Some(LeaseDecision::Granted(since)) => self.0.reader_leases.registered(id, key, owner, since),
            Some(LeaseDecision::TakenBy(by)) => self.0.reader_leases.preempt(id, key, Some(by)),
            Some(LeaseDecision::TooManyReaders) => self.0.reader_leases.preempt(id, key, None),
            None => {}
        }
    }
}

fn too_low(refused: Receiver, by: Receiver) -> Refusal {
    Refusal::EpochTooLow {
        name: refused.name,
        epoch: refused.epoch,
        owner: by.name,
        current: by.epoch.unwrap_or_default(),
    }
}

/// Keeps the leases of this node's readers registered at the owners; does not return.
pub(in crate::route) async fn run(partitions: &Partitions) {
    let mut changes = partitions.owner_changes();
    let mut renewal = tokio::time::interval(READER_LEASE_RENEWAL_INTERVAL);
    let mut syncs = FuturesUnordered::new();
    let mut busy: HashSet<PartitionId> = HashSet::new();
    let sync = |id: PartitionId| async move {
        let is_synced = partitions.sync_leases(id).await;
        (id, is_synced)
    };
    loop {
        let mut due = Vec::new();
        tokio::select! {
            biased;
            _ = renewal.tick() => {
                due.extend(partitions.count().iter());
            }
            Some((id, is_synced)) = syncs.next() => {
                busy.remove(&id);
                // The owner has changed, or one call was not enough. After a failed call, the next renewal retries.
                let owner = partitions.owner(id).filter(|_| is_synced);
                if owner.is_some_and(|owner| partitions.0.reader_leases.has_changes(id, owner)) {
                    due.push(id);
                }
            }
            change = changes.next() => match change {
                Some((id, _)) => due.push(id),
                None => return,
            },
            () = partitions.0.reader_leases.changed.notified() => {
                let has_changes = |id: &PartitionId| {
                    partitions.owner(*id).is_some_and(|owner| partitions.0.reader_leases.has_changes(*id, owner))
                };
                due.extend(partitions.count().iter().filter(has_changes));
            }
        }
        for id in due {
            if busy.insert(id) {
                syncs.push(sync(id));
            }
        }
    }
}

/// Node `from` reports that a lease of this node was preempted. Only the current owner is believed; after the report of an
/// earlier one, the lease is registered again.
pub(in crate::route) fn preempted(partitions: &Partitions, id: PartitionId, from: NodeId, stolen: RoutePreempted) {
    let is_owner = partitions.owner(id).is_some_and(|owner| owner.node == from);
    match stolen.by {
        Some(by) if is_owner => partitions
            .0
            .reader_leases
            .preempt(id, stolen.key, Some(decode_receiver(by))),
        _ => partitions.0.reader_leases.unknown(id, stolen.key),
    }
}
