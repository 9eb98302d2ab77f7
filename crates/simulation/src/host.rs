//! What `cluster::control` needs of a node: who is up, and where replicas run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_cluster::control::{HostError, Hosted, NodeFacts, PeerDirectory, ReplicaHost};
use holdfast_consensus::{ConsensusConfig, GroupHost, GroupId, has_data};
use holdfast_device_hub::DeviceHub;
use holdfast_model::{PartitionCount, PartitionId, UnixMillis};
use holdfast_partition::Partition;
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;

/// Who runs, as a perfect failure detector would see it.
pub(crate) type Up = Arc<Mutex<BTreeSet<u64>>>;

pub(crate) type ReadClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

pub(crate) struct Book {
    pub(crate) up: Up,
    pub(crate) addresses: Mutex<BTreeMap<u64, String>>,
}

impl PeerDirectory for Book {
    fn set_member(&self, node: u64, _name: &str, address: &str) {
        self.addresses.lock().insert(node, address.to_owned());
    }

    fn remove(&self, node: u64) {
        self.addresses.lock().remove(&node);
    }

    fn is_up(&self, node: u64) -> bool {
        self.up.lock().contains(&node) && self.addresses.lock().contains_key(&node)
    }
}

pub(crate) struct Host {
    pub(crate) host: GroupHost,
    pub(crate) clock: ReadClock,
    pub(crate) hub: Arc<DeviceHub>,
}

impl ReplicaHost for Host {
    fn start(&self, partition: PartitionId, founding: bool) -> Hosted<'_, Result<Partition, HostError>> {
        Box::pin(async move {
            let (consensus, config) = (ConsensusConfig::default(), super::partition_config());
            Partition::start(partition, &self.host, &consensus, &config, self.clock.clone(), founding)
                .await
                .map_err(|error| HostError(error.to_string()))
        })
    }

    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>> {
        let found = PartitionCount::DEFAULT.iter().filter(|id| {
            let data = has_data(&*self.host.disk, GroupId::partition(id.0));
            data.is_ok_and(|data| data)
        });
        let found = Ok(found.collect());
        Box::pin(async move { found })
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts {
            disk_free: 50,
            disk_total: 100,
            read_only: !self.host.guard.writable(),
            sessions: self.hub.local_session_count() as u64,
        }
    }

    fn is_writable(&self) -> watch::Receiver<bool> {
        self.host.guard.watch()
    }
}
