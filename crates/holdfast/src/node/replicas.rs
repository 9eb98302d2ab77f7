//! Where this node's replicas of partitions run: group 1 + p on core (1 + p) mod cores.

use std::sync::Arc;

use holdfast_cluster::control::{HostError, Hosted, NodeFacts, ReplicaHost};
use holdfast_consensus::{ConsensusConfig, GroupHost, GroupId};
use holdfast_device_hub::DeviceHub;
use holdfast_model::{PartitionCount, PartitionId};
use holdfast_partition::{Partition, PartitionConfig};
use holdfast_tasks::watch;

use super::now;
use crate::runtime::CoreHandle;

/// Starts replicas for whoever decides which belong here.
pub(crate) struct Replicas {
    pub(crate) host: GroupHost,
    pub(crate) cores: Vec<CoreHandle>,
    pub(crate) consensus: ConsensusConfig,
    pub(crate) partition: PartitionConfig,
    pub(crate) count: PartitionCount,
    pub(crate) hub: Arc<DeviceHub>,
}

impl ReplicaHost for Replicas {
    fn start(&self, partition: PartitionId, founding: bool) -> Hosted<'_, Result<Partition, HostError>> {
        let core = self.cores[(1 + usize::from(partition.0)) % self.cores.len()].clone();
        let host = self.host.clone();
        let (consensus, config) = (self.consensus.clone(), self.partition.clone());
        Box::pin(async move {
            let started = core
                .run(move || async move {
                    Partition::start(partition, &host, &consensus, &config, Arc::new(now), founding)
                        .await
                        .map_err(anyhow::Error::from)
                })
                .await
                .and_then(|started| started);
            started.map_err(|error| HostError(format!("{error:#}")))
        })
    }

    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>> {
        let (disk, count) = (Arc::clone(&self.host.disk), self.count);
        Box::pin(holdfast_tasks::spawn_blocking(move || {
            let mut found = Vec::new();
            for partition in count.iter() {
                let there = holdfast_consensus::has_data(&*disk, GroupId::partition(partition.0))
                    .map_err(|error| HostError(error.to_string()))?;
                if there {
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
        }
    }

    fn is_writable(&self) -> watch::Receiver<bool> {
        self.host.guard.watch()
    }
}
