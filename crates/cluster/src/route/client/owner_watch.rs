//! Watches the owners of partitions by long polling: one request to each node with replicas, which that node answers when an
//! owner changes. A change is known on all nodes within a round trip, and idle partitions cost almost nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::{NodeId, PartitionId, Term};
use holdfast_proto::cluster::v1::{RouteOwner, RouteOwnersAnswer, RouteOwnersRequest};
use tokio::task::JoinHandle;

use crate::route::Partitions;
use crate::route::owner_table::Owner;
use crate::route::protocol::messages::{self, Kind, Reply};

/// How long a node holds a request while no owner changes.
const HOLD: Duration = Duration::from_secs(2);
/// Added to [`HOLD`] for the timeout of a request.
const SLACK: Duration = Duration::from_secs(2);
/// Backoff after a failed request.
const RETRY_BACKOFF: Duration = Duration::from_millis(200);
/// Interval at which partitions without an owner are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// A task that is aborted when its handle is dropped.
struct WatchTask {
    task: JoinHandle<()>,
    /// Whether the node has answered the last time.
    answers: Arc<AtomicBool>,
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether nothing can be acknowledged in a partition, as this node sees it. A node that is gone stays the known owner until another one is
/// elected, and an owner without a quorum learns nothing: so it counts who answers.
fn has_no_owner(partitions: &Partitions, id: PartitionId, tasks: &HashMap<NodeId, WatchTask>) -> bool {
    let answers = |node: &NodeId| {
        *node == partitions.0.node
            || tasks
                .get(node)
                .is_none_or(|watch| watch.answers.load(Ordering::Relaxed))
    };
    let replicas = partitions.0.owners.replicas(id);
    let reached = replicas.iter().filter(|node| answers(node)).count();
    let owner_answers = partitions.owner(id).is_some_and(|owner| answers(&owner.node));
    !owner_answers || (!replicas.is_empty() && 2 * reached <= replicas.len())
}

/// Watches all nodes that have replicas; does not return.
pub(in crate::route) async fn run(partitions: &Partitions) {
    let mut placements = partitions.0.owners.placements();
    let mut changes = partitions.owner_changes();
    let mut tasks: HashMap<NodeId, WatchTask> = HashMap::new();
    let mut count = tokio::time::interval(COUNT_INTERVAL);
    placements.mark_changed();
    loop {
        tokio::select! {
            biased;
            placed = placements.changed() => if placed.is_err() { return },
            _ = count.tick() => {
                let unowned = partitions.count().iter().filter(|id| has_no_owner(partitions, *id, &tasks)).count();
                partitions.0.metrics.unowned.set(f64::from(u32::try_from(unowned).unwrap_or(u32::MAX)));
                continue;
            }
            change = changes.next() => {
                if change.is_none() { return }
                partitions.0.metrics.owner_changes.increment(1);
                continue;
            }
        }
        let peers = partitions.0.owners.peers();
        tasks.retain(|node, _| peers.contains(node));
        for node in peers {
            tasks.entry(node).or_insert_with(|| {
                let answers = Arc::new(AtomicBool::new(true));
                let task = watch_node(partitions.clone(), node, Arc::clone(&answers));
                let task = holdfast_tasks::spawn_critical("owner-watch", Box::pin(task));
                WatchTask { task, answers }
            });
        }
    }
}

async fn watch_node(partitions: Partitions, node: NodeId, answers: Arc<AtomicBool>) {
    let mut seen = 0;
    loop {
        let answer = request_owners(&partitions, node, seen).await;
        answers.store(answer.is_ok(), Ordering::Relaxed);
        match answer {
            Ok(now) => seen = now,
            Err(error) => {
                tracing::trace!(%node, %error, "cannot get the owners that a node knows; retrying");
                seen = 0;
                let jitter = holdfast_consensus::jitter(0.75..1.25);
                tokio::time::sleep(RETRY_BACKOFF.mul_f64(jitter)).await;
            }
        }
    }
}

async fn request_owners(partitions: &Partitions, node: NodeId, seen: u64) -> Result<u64, CallError> {
    let request = RouteOwnersRequest {
        seen,
        wait_ms: u32::try_from(HOLD.as_millis()).unwrap_or_default(),
    };
    let call = Call {
        service: Service::Partition,
        target: 0,
        body: messages::encode_request(Kind::Owners, &request),
        timeout: HOLD + SLACK,
    };
    let answer = partitions.0.transport.call(node, call).await?;
    let refused = |reason: String| CallError::Refused(reason.into());
    let answer = match Reply::<RouteOwnersAnswer>::decode(answer) {
        Ok(Reply::Done(answer)) => answer,
        Ok(_) => return Err(refused("not now".to_owned())),
        Err(error) => return Err(refused(error.to_string())),
    };
    let known = answer.owners.iter().filter_map(|owner| decode_owner(partitions, owner));
    let mut its_own = HashSet::new();
    for (id, owner) in known {
        if owner.node == node {
            its_own.insert(id);
        }
        partitions.0.owners.learn(id, owner);
    }
    for id in partitions.count().iter() {
        if !its_own.contains(&id) {
            partitions.0.owners.disown(id, node);
        }
    }
    Ok(answer.seen)
}

fn decode_owner(partitions: &Partitions, encoded: &RouteOwner) -> Option<(PartitionId, Owner)> {
    let id = u16::try_from(encoded.partition).ok()?;
    let owner = Owner {
        term: Term(encoded.term),
        node: NodeId(encoded.node),
    };
    (id < partitions.count().get() && encoded.node != 0 && encoded.term != 0).then_some((PartitionId(id), owner))
}

#[cfg(test)]
mod tests {
    use holdfast_consensus::transport::Alone;
    use holdfast_model::PartitionCount;

    use super::*;

    const PARTITION: PartitionId = PartitionId(0);
    const OWN: NodeId = NodeId(1);

    /// Node 1 of three with a replica each; the owner is node 2.
    fn partitions() -> Partitions {
        let partitions = Partitions::new(OWN, PartitionCount::DEFAULT, Arc::new(Alone));
        partitions.set_replicas(PARTITION, [1, 2, 3].map(NodeId).to_vec());
        partitions.learn(PARTITION, owner(1, 2));
        partitions
    }

    fn owner(term: u64, node: u64) -> Owner {
        Owner {
            term: Term(term),
            node: NodeId(node),
        }
    }

    /// The watches of other nodes, each with whether its node answers.
    fn watched<const N: usize>(nodes: [(u64, bool); N]) -> HashMap<NodeId, WatchTask> {
        let watch = |answers| WatchTask {
            task: holdfast_tasks::spawn("watched", std::future::pending()),
            answers: Arc::new(AtomicBool::new(answers)),
        };
        nodes
            .map(|(node, answers)| (NodeId(node), watch(answers)))
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn a_partition_has_an_owner_while_that_and_a_quorum_answer() {
        let partitions = partitions();
        let has_none = |nodes: [(u64, bool); 2]| has_no_owner(&partitions, PARTITION, &watched(nodes));
        assert!(!has_none([(2, true), (3, true)]));
        assert!(
            !has_none([(2, true), (3, false)]),
            "this node and the owner are a quorum"
        );
        assert!(has_none([(2, false), (3, true)]), "a dead owner stays the known one");
        assert!(has_none([(2, false), (3, false)]));
        assert!(
            !has_no_owner(&partitions, PARTITION, &HashMap::new()),
            "a node counts as one that answers until it has not"
        );
    }

    #[tokio::test]
    async fn an_owner_that_is_unknown_or_has_withdrawn_is_none() {
        let partitions = partitions();
        let all = watched([(2, true), (3, true)]);
        assert!(
            has_no_owner(&partitions, PartitionId(1), &all),
            "nothing is known of the partition"
        );
        partitions.disown(PARTITION, NodeId(2));
        assert!(has_no_owner(&partitions, PARTITION, &all));
        partitions.learn(PARTITION, owner(2, 3));
        assert!(!has_no_owner(&partitions, PARTITION, &all));
    }

    /// This node has no replica: its own answer is no part of the quorum.
    #[tokio::test]
    async fn an_owner_without_a_quorum_is_none_where_only_others_have_replicas() {
        let partitions = partitions();
        partitions.set_replicas(PARTITION, [2, 3, 4].map(NodeId).to_vec());
        let has_none = |nodes: [(u64, bool); 3]| has_no_owner(&partitions, PARTITION, &watched(nodes));
        assert!(!has_none([(2, true), (3, true), (4, false)]));
        assert!(has_none([(2, true), (3, false), (4, false)]), "one of three");
        partitions.set_replicas(PARTITION, [2, 3].map(NodeId).to_vec());
        assert!(has_none([(2, true), (3, false), (4, true)]), "half is no quorum");
        partitions.set_replicas(PARTITION, Vec::new());
        assert!(
            !has_none([(2, true), (3, false), (4, false)]),
            "placements are not known yet"
        );
    }
}
