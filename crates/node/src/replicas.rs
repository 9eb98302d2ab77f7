//! Replicas of partitions on this node: group 1 + p runs on core (1 + p) mod the number of cores.

use std::sync::Arc;

use holdfast_cluster::control::{HostError, Hosted, NodeFacts, ReplicaHost};
use holdfast_consensus::{ConsensusConfig, GroupHost, GroupId};
use holdfast_device_hub::DeviceHub;
use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::{Partition, PartitionConfig, ValueIndexing};
use holdfast_tasks::watch;

use crate::Executor;
use crate::error::StartError;
use holdfast_model::Clock;

/// Starts replicas where control wants them.
pub(crate) struct Replicas {
    pub(crate) host: GroupHost,
    pub(crate) executor: Executor,
    pub(crate) clock: Clock,
    pub(crate) consensus: ConsensusConfig,
    pub(crate) partition: PartitionConfig,
    pub(crate) indexing: Option<Arc<ValueIndexing>>,
    pub(crate) count: PartitionCount,
    pub(crate) hub: Arc<DeviceHub>,
}

impl Replicas {
    /// Starts one replica on its core.
    pub(crate) async fn start_replica(&self, partition: PartitionId, founding: bool) -> Result<Partition, StartError> {
        let (host, clock) = (self.host.clone(), self.clock.clone());
        let (consensus, config) = (self.consensus.clone(), self.partition.clone());
        let indexing = self.indexing.clone();
        let start = move || async move {
            Partition::start_indexed(partition, &host, &consensus, &config, clock, founding, indexing).await
        };
        Ok(self.executor.run(1 + usize::from(partition.0), start).await??)
    }
}

impl ReplicaHost for Replicas {
    fn start(&self, partition: PartitionId, founding: bool) -> Hosted<'_, Result<Partition, HostError>> {
        Box::pin(async move { self.start_replica(partition, founding).await.map_err(HostError::new) })
    }

    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>> {
        let (disk, count) = (Arc::clone(&self.host.disk), self.count);
        Box::pin(self.host.blocking_pool.run(move || {
            let mut found = Vec::new();
            for partition in count.iter() {
                let has_data = holdfast_consensus::has_data(&*disk, GroupId::partition(partition.0));
                if has_data.map_err(HostError::new)? {
                    found.push(partition);
                }
            }
            Ok(found)
        }))
    }

    fn facts(&self) -> NodeFacts {
        let space = self.host.disk.space().ok();
        NodeFacts {
            disk_free: space.as_ref().map_or(0, |space| space.free),
            disk_total: space.as_ref().map_or(0, |space| space.total),
            read_only: !self.host.guard.writable(),
            sessions: self.hub.local_session_count() as u64,
            now: self.clock.now(),
        }
    }

    fn is_writable(&self) -> watch::Receiver<bool> {
        self.host.guard.watch()
    }
}
