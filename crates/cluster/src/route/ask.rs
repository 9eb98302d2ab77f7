//! Learning from other nodes who owns what: one question to each node with replicas, which is answered when there is
//! news. So a change is known everywhere within a call's time, and idle partitions cost next to nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use holdfast_consensus::transport::{Call, CallError, Service};
use holdfast_model::PartitionId;
use holdfast_proto::cluster::v1::{RouteOwner, RouteOwnersAnswer, RouteOwnersRequest};
use tokio::task::JoinHandle;

use super::Partitions;
use super::owners::Owner;
use super::wire::{self, Kind, Told};

/// How long a node without news keeps a question.
const HOLD: Duration = Duration::from_secs(2);
/// The longest time for which a question is kept, whatever the asking node says.
const MAX_HOLD: Duration = Duration::from_secs(10);
/// How long an answer may take beyond that.
const SLACK: Duration = Duration::from_secs(2);
/// Between two questions to a node that does not answer.
const RETRY: Duration = Duration::from_millis(200);
/// How often the number of partitions without an owner is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// A task that ends with its handle.
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks all nodes that have replicas, for ever.
pub(super) async fn ask_all(partitions: &Partitions) {
    let mut placements = partitions.0.owners.placements();
    let mut changes = partitions.owner_changes();
    let mut asking: HashMap<u64, Asking> = HashMap::new();
    let mut count = tokio::time::interval(COUNT_EVERY);
    placements.mark_changed();
    loop {
        tokio::select! {
            biased;
            placed = placements.changed() => if placed.is_err() { return },
            _ = count.tick() => {
                let unowned = partitions.count().iter().filter(|id| partitions.owner(*id).is_none()).count();
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
        asking.retain(|node, _| peers.contains(node));
        for node in peers {
            asking.entry(node).or_insert_with(|| {
                let task = ask(partitions.clone(), node);
                Asking(holdfast_tasks::spawn_critical("ask-owners", Box::pin(task)))
            });
        }
    }
}

async fn ask(partitions: Partitions, node: u64) {
    let mut seen = 0;
    loop {
        match ask_once(&partitions, node, seen).await {
            Ok(now) => seen = now,
            Err(error) => {
                tracing::trace!(node, %error, "a node does not say who owns what");
                seen = 0;
                let jitter = holdfast_consensus::jitter(0.75..1.25);
                tokio::time::sleep(RETRY.mul_f64(jitter)).await;
            }
        }
    }
}

async fn ask_once(partitions: &Partitions, node: u64, seen: u64) -> Result<u64, CallError> {
    let request = RouteOwnersRequest {
        seen,
        wait_ms: u32::try_from(HOLD.as_millis()).unwrap_or_default(),
    };
    let call = Call {
        service: Service::Partition,
        target: 0,
        body: wire::request(Kind::Owners, &request),
        timeout: HOLD + SLACK,
    };
    let answer = partitions.0.transport.call(node, call).await?;
    let refused = |reason: String| CallError::Refused(reason.into());
    let answer = match Told::<RouteOwnersAnswer>::decode(answer) {
        Ok(Told::Done(answer)) => answer,
        Ok(_) => return Err(refused("not now".to_owned())),
        Err(error) => return Err(refused(error.to_string())),
    };
    let known = answer.owners.iter().filter_map(|told| read(partitions, told));
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

fn read(partitions: &Partitions, told: &RouteOwner) -> Option<(PartitionId, Owner)> {
    let id = u16::try_from(told.partition).ok()?;
    let owner = Owner {
        term: told.term,
        node: told.node,
    };
    (id < partitions.count().get() && told.node != 0 && told.term != 0).then_some((PartitionId(id), owner))
}

/// The answer to another node's question, when there is news or the time is over.
pub(super) async fn answer(partitions: Partitions, request: RouteOwnersRequest) -> RouteOwnersAnswer {
    let mut changes = partitions.0.owners.local_changes();
    if *changes.borrow_and_update() == request.seen {
        let hold = Duration::from_millis(u64::from(request.wait_ms)).min(MAX_HOLD);
        // Over: what has been known is told again.
        let _ = tokio::time::timeout(hold, changes.changed()).await;
    }
    let (seen, known) = partitions.0.owners.local_knowledge();
    let owners = known.into_iter().map(|(id, owner)| RouteOwner {
        partition: u32::from(id.0),
        node: owner.node,
        term: owner.term,
    });
    RouteOwnersAnswer {
        seen,
        owners: owners.collect(),
    }
}
