//! Reading a group for a backup, from this node's replica or from another node that has one.
//!
//! Why here: control knows where replicas are and how nodes are called; a backup asks any node.
//! Not here: the form of a backup (`backup`), the rights of a caller (`service-api`).

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use holdfast_consensus::transport::{CallError, Chunks};
use holdfast_consensus::{GroupId, LogScope, export_call};
use holdfast_model::NodeId;

use super::{Control, ControlError, partition_of};

/// What a backup needs to know of the hub beside its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFacts {
    /// The cluster's id.
    pub cluster: String,
    /// The hub-wide data key as the key-encryption key has wrapped it.
    pub wrapped_key: Bytes,
}

impl Control {
    /// See [`ExportFacts`].
    #[must_use]
    pub fn export_facts(&self) -> ExportFacts {
        ExportFacts {
            cluster: self.0.registry.cluster().cluster.clone(),
            wrapped_key: self.0.wrapped_key.clone(),
        }
    }

    /// The state of group `number` with everything that was committed before the call, as chunks for an
    /// [`ExportDecoder`](holdfast_consensus::ExportDecoder).
    ///
    /// # Errors
    /// [`ControlError::NoSuchGroup`]; [`ControlError::Unreadable`] with the reason of the last replica that was tried.
    pub async fn export(&self, number: u32, log: LogScope) -> Result<Chunks, ControlError> {
        let group = GroupId(number);
        let nodes = self.nodes_with(group).ok_or(ControlError::NoSuchGroup(number))?;
        let mut failure = "no node holds it".to_owned();
        for node in nodes {
            let mut chunks = match self.group(group).filter(|_| node == self.0.id) {
                Some(local) => local.export(log),
                None if node == self.0.id => continue,
                None => self.0.transport.download(node, export_call(group, log)),
            };
            match chunks.next().await {
                Some(Ok(head)) => return Ok(Box::pin(stream::iter([Ok(head)]).chain(chunks))),
                Some(Err(error)) => failure = error.to_string(),
                None => failure = CallError::Unknown("the replica has stopped".into()).to_string(),
            }
            tracing::warn!(%group, %node, failure, "a replica cannot be read for a backup; trying the next one");
        }
        Err(ControlError::Unreadable { group, failure })
    }

    /// The nodes that should have a replica, this one first; `None`: there is no such group.
    fn nodes_with(&self, group: GroupId) -> Option<Vec<NodeId>> {
        let own = self.0.id;
        let Some(partition) = partition_of(group) else {
            // Every node has the registry.
            return Some(vec![own]);
        };
        if partition.0 >= self.0.partitions.count().get() {
            return None;
        }
        let view = self.0.registry.cluster();
        let placed = view
            .placements
            .iter()
            .find(|placement| placement.partition == partition);
        let mut nodes = placed.map(|placement| placement.replicas.clone()).unwrap_or_default();
        nodes.retain(|node| *node != own);
        nodes.insert(0, own);
        Some(nodes)
    }
}
