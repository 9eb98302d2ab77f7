//! Tells other nodes what the replicas here know about owners, when it changes.

use std::time::Duration;

use holdfast_proto::cluster::v1::{RouteOwner, RouteOwnersAnswer, RouteOwnersRequest};

use crate::route::Partitions;

/// Limit of the time for which a request is held.
const MAX_HOLD: Duration = Duration::from_secs(10);

/// Answers a request when an owner has changed since the caller's last one, or when the hold time is over.
pub(super) async fn answer(partitions: Partitions, request: RouteOwnersRequest) -> RouteOwnersAnswer {
    let mut changes = partitions.0.owners.local_changes();
    if *changes.borrow_and_update() == request.seen {
        let hold = Duration::from_millis(u64::from(request.wait_ms)).min(MAX_HOLD);
        // After the hold time, the known owners are sent again.
        let _ = tokio::time::timeout(hold, changes.changed()).await;
    }
    let (seen, known) = partitions.0.owners.local_knowledge();
    let owners = known.into_iter().map(|(id, owner)| RouteOwner {
        partition: u32::from(id.0),
        node: owner.node.get(),
        term: owner.term.get(),
    });
    RouteOwnersAnswer {
        seen,
        owners: owners.collect(),
    }
}
