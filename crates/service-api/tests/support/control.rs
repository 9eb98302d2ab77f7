//! The control of a cluster of one node.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_cluster::control::{
    ClusterBootstrap, Control, ControlConfig, ControlParts, HostError, Hosted, NodeFacts, PeerDirectory, ReplicaHost,
};
use holdfast_consensus::{ConsensusConfig, GroupHost};
use holdfast_model::{NodeId, PartitionId, UnixMillis};
use holdfast_partition::{Partition, PartitionConfig};
use holdfast_registry::{NodeInfo, NodeRole, NodeState};
use holdfast_tasks::watch;

use super::node::Node;

/// There are no other nodes.
struct NoPeers;

impl PeerDirectory for NoPeers {
    fn set_member(&self, _: NodeId, _: &str, _: &str) {}

    fn remove(&self, _: NodeId) {}

    fn is_up(&self, _: NodeId) -> bool {
        false
    }
}

struct Replicas(GroupHost);

impl ReplicaHost for Replicas {
    fn start(&self, partition: PartitionId, founding: bool) -> Hosted<'_, Result<Partition, HostError>> {
        Box::pin(async move {
            let (consensus, config) = (ConsensusConfig::default(), PartitionConfig::default());
            let started = Partition::start(
                partition,
                &self.0,
                &consensus,
                &config,
                holdfast_model::Clock::system(),
                founding,
            )
            .await;
            started.map_err(HostError::new)
        })
    }

    fn on_disk(&self) -> Hosted<'_, Result<Vec<PartitionId>, HostError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts::default()
    }

    fn is_writable(&self) -> watch::Receiver<bool> {
        self.0.guard.watch()
    }
}

pub(crate) async fn start(node: &Node) -> Control {
    let parts = ControlParts {
        self_info: NodeInfo {
            id: node.host.node,
            name: "node-1".to_owned(),
            address: "node-1:9700".to_owned(),
            zone: String::new(),
            role: NodeRole::Core,
            state: NodeState::Joining,
            version: "1".to_owned(),
            joined: UnixMillis(0),
        },
        bootstrap: Some(ClusterBootstrap {
            cluster: "test".to_owned(),
            replication_factor: 1,
            holds_joins: false,
        }),
        registry: node.registry.clone(),
        partitions: node.partitions.clone(),
        transport: node.host.transport.clone(),
        dispatch: node.dispatch.clone(),
        peers: Arc::new(NoPeers),
        replicas: Arc::new(Replicas(node.host.clone())),
        wrapped_key: Bytes::clone(node.sealer.wrapped()),
        config: ControlConfig::default(),
        stop: node.stop.clone(),
    };
    Control::start(parts).await.unwrap()
}
