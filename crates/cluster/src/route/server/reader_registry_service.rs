//! Registers the leases of readers at the owner of a partition, for all nodes.

use std::time::Duration;

use holdfast_consensus::transport::{Call, Service};
use holdfast_model::{NodeId, PartitionId, limits};
use holdfast_partition::epoch::{Receiver, Refusal};
use holdfast_proto::cluster::v1::{RoutePreempted, RouteReaderLeasesAnswer, RouteReaderLeasesRequest};
use tokio::time::Instant;

use super::reader_registry::{MAX_LEASES, Preemption, TermOver};
use crate::route::Partitions;
use crate::route::client::reader_leases::{READER_LEASE, READER_LEASE_RENEWAL_INTERVAL};
use crate::route::owner_table::Owner;
use crate::route::protocol::messages::{self, Kind, Reply};
use crate::route::protocol::reader_lease::{
    LeaseDecision, LeaseRequest, MAX_PER_CALL, decode_request, encode_decision, encode_receiver,
};

/// Timeout of the notification that a lease was preempted; the reader's node also learns it from its next renewal.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(limits::MAX_READERS_PER_GROUP < MAX_LEASES);

/// Expires leases that are not renewed, and clears the registries of partitions that this node does not own any more; does
/// not return.
pub(in crate::route) async fn run(partitions: &Partitions) {
    let mut scan = tokio::time::interval(READER_LEASE_RENEWAL_INTERVAL);
    let mut changes = partitions.owner_changes();
    loop {
        tokio::select! {
            biased;
            _ = scan.tick() => {
                let Some(before) = Instant::now().checked_sub(READER_LEASE) else { continue };
                for id in partitions.count().iter() {
                    let expired = partitions.0.registry(id).expire(before);
                    if expired > 0 {
                        tracing::info!(partition = id.0, expired, "reader leases expired: their nodes are silent");
                    }
                }
            }
            change = changes.next() => match change {
                Some((id, owner)) => {
                    if owner.is_none_or(|owner| owner.node != partitions.node()) {
                        partitions.0.registry(id).clear();
                    }
                }
                None => return,
            },
        }
    }
}

impl Partitions {
    /// Decides about a request of `node`, as the owner.
    pub(in crate::route) fn register_lease(
        &self,
        id: PartitionId,
        owner: Owner,
        node: NodeId,
        request: &LeaseRequest,
    ) -> Result<LeaseDecision, TermOver> {
        let mut preemptions = Vec::new();
        let registered = self
            .0
            .registry(id)
            .register(owner.term, node, request, &mut preemptions)?;
        for preemption in preemptions {
            self.notify_preempted(id, preemption);
        }
        Ok(match registered {
            Ok(since) => LeaseDecision::Granted(since),
            Err(Refusal::TooMany) => LeaseDecision::TooManyReaders,
            Err(Refusal::EpochTooLow { owner, current, .. }) => LeaseDecision::TakenBy(Receiver {
                name: owner,
                epoch: Some(current),
            }),
        })
    }

    /// Notifies the node of a reader that its lease was preempted.
    fn notify_preempted(&self, id: PartitionId, preemption: Preemption) {
        if preemption.node == self.node() {
            self.0.reader_leases.preempt(id, preemption.key, Some(preemption.by));
            return;
        }
        let stolen = RoutePreempted {
            key: preemption.key,
            by: Some(encode_receiver(&preemption.by)),
        };
        let call = Call {
            service: Service::Partition,
            target: u32::from(id.0),
            body: messages::encode_request(Kind::ReaderPreempted, &stolen),
            timeout: NOTIFY_TIMEOUT,
        };
        let answer = self.0.transport.call(preemption.node, call);
        let notify = async move {
            if let Err(error) = answer.await {
                tracing::debug!(partition = id.0, node = %preemption.node, %error, "cannot notify a reader's node of its preemption; it learns it from its next renewal");
            }
        };
        holdfast_tasks::spawn_critical("notify-preempted", Box::pin(notify));
    }
}

/// Serves a request of another node about the leases of its readers.
pub(super) fn serve(
    partitions: &Partitions,
    id: PartitionId,
    from: NodeId,
    request: &RouteReaderLeasesRequest,
) -> Reply<RouteReaderLeasesAnswer> {
    let owner = partitions.owner(id);
    let Some(owner) = owner.filter(|owner| owner.node == partitions.node()) else {
        return Reply::NotHere(owner);
    };
    for key in request.leave.iter().take(MAX_LEASES) {
        partitions.0.registry(id).release(from, *key);
    }
    let renewed = request.renew.get(..MAX_LEASES).unwrap_or(&request.renew);
    let Ok(unknown) = partitions.0.registry(id).renew(owner.term, from, renewed) else {
        return Reply::NotHere(None);
    };
    let mut decisions = Vec::new();
    for seat in request.enter.iter().take(MAX_PER_CALL) {
        let Ok(decision) = partitions.register_lease(id, owner, from, &decode_request(seat)) else {
            return Reply::NotHere(None);
        };
        decisions.push(encode_decision(&decision));
    }
    Reply::Done(RouteReaderLeasesAnswer {
        entered: decisions,
        unknown,
        term: owner.term.get(),
    })
}
