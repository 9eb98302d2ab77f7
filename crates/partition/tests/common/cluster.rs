//! Replicas of one partition on several nodes: one thread, simulated disks, a simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::sim::SimNetwork;
use holdfast_consensus::transport::Dispatch;
use holdfast_consensus::{ChangeError, ConsensusConfig, GroupStatus};
use holdfast_model::{NodeId, PartitionId, SequenceNumber};
use holdfast_partition::{AppendError, Partition, PartitionConfig, PartitionStatus, StartPosition, ValueIndexing};
use holdfast_storage::{OnFatal, SimDisk, StorageError};
use holdfast_tasks::sync::Mutex;
use holdfast_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::TestClock;

const ID: PartitionId = PartitionId(0);
/// Of the simulation's clock.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a partition may be without an owner for all the cuts of a test.
const CUT_OFF: Duration = Duration::from_secs(15);

/// A running replica.
pub(crate) struct Replica {
    pub(crate) partition: Partition,
    /// The error that stopped it, if any.
    fatal: Arc<Mutex<Option<StorageError>>>,
}

/// The nodes of a test, some of which may be down.
pub(crate) struct Cluster {
    pub(crate) network: SimNetwork,
    pub(crate) nodes: BTreeMap<NodeId, Replica>,
    pub(crate) disks: BTreeMap<NodeId, SimDisk>,
    pub(crate) rng: SmallRng,
    pub(crate) config: PartitionConfig,
    pub(crate) clock: TestClock,
    pub(crate) indexing: Option<Arc<ValueIndexing>>,
}

impl Cluster {
    /// Nodes 1 to `voters`, all of which vote; node 1 has founded the partition.
    pub(crate) async fn of(seed: u64, voters: u64, config: PartitionConfig) -> Self {
        Self::indexed(seed, voters, config, None).await
    }

    /// The same with indexes.
    pub(crate) async fn indexed(
        seed: u64,
        voters: u64,
        config: PartitionConfig,
        indexing: Option<Arc<ValueIndexing>>,
    ) -> Self {
        let mut cluster = Self {
            network: SimNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            config,
            clock: TestClock::default(),
            indexing,
        };
        cluster.start(NodeId(1), true).await;
        for id in 2..=voters {
            cluster.start(NodeId(id), false).await;
        }
        let first = cluster.partition(NodeId(1)).group().clone();
        for id in 2..=voters {
            first.add_learner(NodeId(id)).await.unwrap();
        }
        first.set_voters((1..=voters).map(NodeId).collect()).await.unwrap();
        cluster
    }

    /// Starts a node on what its disk holds.
    pub(crate) async fn start(&mut self, id: NodeId, founding: bool) {
        let disk = self.disks.entry(id).or_default().clone();
        disk.recover().unwrap();
        let fatal = Arc::new(Mutex::new(None));
        let first = fatal.clone();
        let on_fatal: OnFatal = Arc::new(move |error: &StorageError| {
            first.lock().get_or_insert_with(|| error.clone());
        });
        let seed = self.rng.random();
        let host = holdfast_testkit::on_sim_network(id, Arc::new(disk), on_fatal, &self.network, Dispatch::new(), seed);
        let consensus = ConsensusConfig::default();
        let (clock, indexing) = (self.clock.clock(), self.indexing.clone());
        let partition = Partition::start_indexed(ID, &host, &consensus, &self.config, clock, founding, indexing)
            .await
            .unwrap();
        self.nodes.insert(id, Replica { partition, fatal });
    }

    /// Cuts a node's power.
    pub(crate) fn kill(&mut self, id: NodeId) {
        let Some(replica) = self.nodes.remove(&id) else { return };
        self.check_alive_of(id, &replica);
        self.network.crash(id);
        let disk = self.disks.get_mut(&id).unwrap();
        *disk = disk.crash(&mut self.rng);
        // Its tasks would keep running otherwise; their writes no longer reach the disk.
        holdfast_tasks::spawn("killed", async move { replica.partition.shutdown().await });
    }

    pub(crate) fn partition(&self, id: NodeId) -> &Partition {
        &self.nodes[&id].partition
    }

    fn check_alive_of(&self, id: NodeId, replica: &Replica) {
        assert_eq!(*replica.fatal.lock(), None, "node {id} had to stop");
    }

    /// No replica that runs had to stop.
    pub(crate) fn check_alive(&self) {
        for (id, replica) in &self.nodes {
            self.check_alive_of(*id, replica);
        }
    }

    /// Waits until one node leads and all others that run follow it.
    pub(crate) async fn leader(&self) -> NodeId {
        let mut found = None;
        eventually("a leader", || {
            let leaders: BTreeSet<_> = self.nodes.values().map(|node| node.partition.owner()).collect();
            found = leaders.first().copied().flatten().map(|leader| leader.node);
            leaders.len() == 1 && found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The owner of the partition according to any replica.
    pub(crate) fn owner(&self) -> Option<NodeId> {
        let owners = self.nodes.values().filter_map(|node| node.partition.owner());
        owners
            .filter(|owner| self.nodes.contains_key(&owner.node))
            .max_by_key(|owner| owner.term)
            .map(|owner| owner.node)
    }

    /// Changes the voters, through the current leader.
    pub(crate) async fn set_voters(&self, voters: BTreeSet<NodeId>) {
        loop {
            let group = self.partition(NodeId(self.leader().await.get())).group();
            match group.set_voters(voters.clone()).await {
                Ok(()) => return,
                Err(ChangeError::NotLeader { .. } | ChangeError::Unknown) => {}
                Err(error) => panic!("{error}: {:#?}", self.groups()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Appends as a gateway does: resends the batch to the current leader until its outcome is known.
    pub(crate) async fn append(&self, batch: &Bytes) {
        let give_up = Instant::now() + TIMEOUT;
        loop {
            assert!(
                Instant::now() < give_up,
                "a batch was never appended: {:#?}",
                self.groups()
            );
            let owner = self
                .nodes
                .values()
                .filter_map(|node| {
                    node.partition
                        .owner()
                        .filter(|owner| self.nodes.contains_key(&owner.node))
                })
                .max_by_key(|owner| owner.term);
            if let Some(owner) = owner {
                let append = self.partition(owner.node).append(batch.clone());
                match tokio::time::timeout(Duration::from_secs(5), append).await {
                    Ok(Ok(())) => return,
                    Ok(Err(AppendError::NotLeader { .. } | AppendError::Unknown)) | Err(_) => {}
                    Ok(Err(error)) => panic!("{error:?}"),
                }
            }
            if give_up - Instant::now() < TIMEOUT - CUT_OFF {
                // Several cuts together may leave no quorum.
                self.network.heal_all();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all replicas that run have the same events up to `next`.
    pub(crate) async fn all_at(&self, next: u64) -> PartitionStatus {
        let give_up = Instant::now() + TIMEOUT;
        let done = |node: &Replica| node.partition.status().next == SequenceNumber(next);
        while !self.nodes.values().all(done) {
            self.check_alive();
            assert!(
                Instant::now() < give_up,
                "never the same events everywhere: {:#?}",
                self.groups()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check_alive();
        let statuses: Vec<_> = self.nodes.values().map(|node| node.partition.status()).collect();
        statuses[0]
    }

    /// For messages of failed tests.
    pub(crate) fn groups(&self) -> Vec<GroupStatus> {
        self.nodes
            .values()
            .map(|node| node.partition.group().status())
            .collect()
    }

    /// Everything that a replica's readers get, as sequence number, time and the number in the message.
    pub(crate) async fn events(&self, id: NodeId) -> Vec<(u64, u64, u64)> {
        let partition = self.partition(id);
        let end = partition.status().next;
        let mut reader = partition.reader(StartPosition::Oldest).unwrap();
        let mut events = Vec::new();
        while reader.position() < end {
            let mut chunk = reader.next().await.unwrap();
            while let Some(event) = chunk.next_event() {
                let event = event.unwrap();
                let number = u64::from_be_bytes(event.record.payload[..8].try_into().unwrap());
                events.push((event.sequence.0, event.enqueued.0, number));
            }
        }
        events
    }
}
