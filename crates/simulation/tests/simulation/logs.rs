//! All replicas of a group have the same log, and the same in it as was acknowledged and read.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_chaos::check::readers::{Readers, Seen};
use holdfast_consensus::GroupId;
use holdfast_model::{NodeId, PartitionCount};
use holdfast_partition::StartPosition;

use crate::backends::NAMES;
use crate::devices::{Device, GHOSTS, NUMBERS};
use crate::readers::digests;
use crate::shared::Shared;
use holdfast_simulation::{Cluster, identity, partition_of};

/// Every group: the registry and the partitions.
pub(crate) fn groups() -> impl Iterator<Item = GroupId> {
    let partitions = PartitionCount::DEFAULT.iter().map(|id| GroupId::partition(id.0));
    std::iter::once(GroupId::REGISTRY).chain(partitions)
}

/// Whether all replicas of each group have applied equally much.
pub(crate) fn are_level(cluster: &Cluster) -> bool {
    groups().all(|id| {
        let mut ends = cluster.nodes.values().filter_map(|node| {
            let group = node.group(id)?;
            Some((group.applied_index(), group.log_reader().end_index()))
        });
        ends.next().is_some_and(|first| ends.all(|end| end == first))
    })
}

/// Compares the logs of all replicas, entry by entry, and the registry's state.
pub(crate) fn compare(cluster: &Cluster, devices: &[Device], shared: &Shared) {
    for id in groups() {
        let readers = cluster
            .nodes
            .values()
            .filter_map(|node| Some((node.id, node.group(id)?.log_reader())));
        let logs: BTreeMap<NodeId, (u64, BTreeMap<u64, Bytes>)> = readers
            .map(|(node, log)| {
                let entries = log.read(0, usize::MAX).unwrap();
                (node, (log.first_index(), entries.into_iter().collect()))
            })
            .collect();
        let from = logs.values().map(|(first, _)| *first).max().unwrap();
        let mut tails = logs.iter().map(|(node, (_, entries))| (node, entries.range(from..)));
        let (first, expected) = tails.next().unwrap();
        for (other, tail) in tails {
            if !tail.eq(expected.clone()) {
                shared.violation(format!("{first} and {other} have different logs of {id}"));
            }
        }
    }
    let names = NAMES
        .into_iter()
        .chain(devices.iter().map(|device| device.name.as_str()));
    for name in names {
        let mut known = cluster
            .nodes
            .values()
            .map(|node| node.registry.identity(&identity(name)).unwrap());
        let first = known.next().unwrap();
        if !known.all(|other| other == first) {
            shared.violation(format!("nodes have different opinions of {name}"));
        }
    }
}

/// Reads every partition to its end on every node that has a replica of it, as one more reader of each.
pub(crate) async fn read_all(cluster: &Cluster, readers: &mut Readers) {
    for node in cluster.nodes.values() {
        for id in PartitionCount::DEFAULT.iter() {
            let Some(replica) = node.partitions.local(id) else {
                continue;
            };
            let name = format!("the replica on {}", node.id);
            let mut reader = replica.reader(StartPosition::Oldest).unwrap();
            let next = replica.status().next;
            while reader.position() < next {
                let mut chunk = reader.next().await.unwrap();
                for (sequence, digest) in digests(&mut chunk) {
                    let seen = Seen {
                        partition: u32::from(id.0),
                        sequence,
                        digest,
                        at: 0,
                    };
                    readers.event(&name, u32::try_from(node.id.get()).unwrap(), seen);
                }
            }
            readers.end(&name, u32::from(id.0), i64::try_from(next.0).unwrap() - 1);
        }
    }
}

/// Every acknowledged message is there, once for each time that the device has sent it, in order within each connection; and
/// nothing of an older connection follows a newer one.
pub(crate) async fn check_device(cluster: &Cluster, device: &Device, shared: &Shared) {
    let owner = cluster.owner(partition_of(&device.name)).await.node;
    let stored = cluster.events(owner, &device.name).await;
    let name = &device.name;
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut found = std::collections::BTreeSet::new();
    let mut newest = 0;
    for code in stored {
        let (connection, number) = (code / NUMBERS, code % NUMBERS);
        if connection < newest {
            shared.violation(format!(
                "{name}: {code} of connection {connection} follows one of {newest}"
            ));
        }
        newest = newest.max(connection);
        if number >= GHOSTS {
            continue;
        }
        if let Some(before) = last.insert(connection, number)
            && number != before + 1
        {
            shared.violation(format!("{name}: on connection {connection}, {number} follows {before}"));
        }
        found.insert((connection, number));
    }
    let lost: Vec<_> = device.acked.difference(&found).collect();
    if !lost.is_empty() {
        shared.violation(format!("{name}: acknowledged and lost: {lost:?}"));
    }
    let numbers: std::collections::BTreeSet<u64> = found.iter().map(|(_, number)| *number).collect();
    if numbers.len() as u64 != device.next {
        shared.violation(format!(
            "{name}: sent {} messages, {} are stored",
            device.next,
            numbers.len()
        ));
    }
}
