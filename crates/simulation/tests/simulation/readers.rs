//! Readers that follow a partition from node to node and remember where they were.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::check::readers::Seen;
use holdfast_cluster::route::{OpenError, PartitionReader};
use holdfast_model::{PartitionId, SequenceNumber};
use holdfast_partition::{Chunk, StartError, StartPosition};
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use crate::shared::{Access, Shared};

/// Reads `partition` until the end of the simulation, on one node after the other.
pub(crate) async fn follow(shared: Rc<Shared>, name: String, partition: PartitionId, mut rng: SmallRng) {
    while !shared.ending.get() {
        let Some(access) = shared.any(&mut rng) else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let stay = Instant::now() + Duration::from_millis(rng.random_range(200..3_000));
        let visit = access.call(visit(&shared, &access, &name, partition));
        let _ = tokio::time::timeout_at(stay, visit).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..50))).await;
    }
}

async fn visit(shared: &Shared, access: &Access, name: &str, partition: PartitionId) {
    let next = shared.history.borrow().readers.next(name, u32::from(partition.0));
    let from = StartPosition::AtSequence(SequenceNumber(u64::try_from(next).unwrap()));
    match access.partitions.reader(partition, from).await {
        Ok(mut reader) => while read(shared, access, name, &mut reader).await {},
        Err(OpenError::Start(StartError::BeyondEnd { last, .. })) => shared.violation(format!(
            "{name} has read up to {next} of partition {}, which ends with {last:?} on node {}",
            partition.0, access.node
        )),
        Err(_) => {}
    }
}

async fn read(shared: &Shared, access: &Access, name: &str, reader: &mut PartitionReader) -> bool {
    let partition = reader.id();
    let Ok(mut chunk) = reader.next().await else {
        return false;
    };
    for (sequence, digest) in digests(&mut chunk) {
        shared.note(format!("{name} {}: {sequence} {digest:x}", partition.0));
        let seen = Seen {
            partition: u32::from(partition.0),
            sequence,
            digest,
            at: shared.now(),
        };
        let node = u32::try_from(access.node.get()).unwrap();
        shared.history.borrow_mut().readers.event(name, node, seen);
    }
    true
}

/// Sequence numbers, with device and body in one number.
pub(crate) fn digests(chunk: &mut Chunk) -> Vec<(i64, u64)> {
    let mut digests = Vec::new();
    while let Some(event) = chunk.next_event() {
        let event = event.unwrap();
        let mut hasher = DefaultHasher::new();
        (event.record.device_id, event.record.payload).hash(&mut hasher);
        digests.push((i64::try_from(event.sequence.0).unwrap(), hasher.finish()));
    }
    digests
}
