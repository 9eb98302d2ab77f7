//! Members, join tokens and placements: the calls of the cluster's management.
//!
//! Every write is answered when it is committed and this node has applied it, so that [`Registry::cluster`] shows it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{ErrorCode, NodeId};
use holdfast_proto::registry::v1 as proto;
use holdfast_proto::registry::v1::registry_command::Command;

use super::Registry;
use crate::cluster::{self, ClusterView, JoinToken, MAX_JOIN_TOKEN_LIFETIME, NodeInfo, NodeRole, NodeState, Placement};
use crate::error::RegistryError;
use crate::feature_level::FeatureLevel;
use crate::settings::millis;
use crate::state::Rejection;

impl Registry {
    /// Members and placements in this node's replica: kept in memory, available at any time.
    #[must_use]
    pub fn cluster(&self) -> Arc<ClusterView> {
        self.0.local.cluster()
    }

    /// Registers the first node, as active core node, and places every partition on it. Without effect when the same cluster
    /// exists and the node is a member.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when another cluster exists here, or a value is wrong; else as [`Self::write`].
    pub async fn found_cluster(
        &self,
        cluster: &str,
        replication_factor: u8,
        node: &NodeInfo,
    ) -> Result<(), RegistryError> {
        let node = checked(node)?;
        self.change(Command::FoundCluster(proto::FoundCluster {
            cluster: cluster.to_owned(),
            replication_factor: replication_factor.into(),
            node: Some(node),
        }))
        .await
    }

    /// Updates name, address, zone and version of a member; role, state and time of joining stay unchanged.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it is no member (404000) or the name is taken (409000); else as
    /// [`Self::write`].
    pub async fn put_node(&self, node: &NodeInfo) -> Result<(), RegistryError> {
        let node = checked(node)?;
        self.change(Command::PutNode(proto::PutNode { node: Some(node) })).await
    }

    /// Sets the state of a member, whatever it is.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it is no member (404000), or is to be drained while placements name it
    /// (400003); else as [`Self::write`].
    pub async fn set_node_state(&self, id: NodeId, state: NodeState) -> Result<(), RegistryError> {
        self.change_state(id, state, proto::NodeState::Unspecified).await
    }

    /// Sets the state of a member if it still is `from`, or is `to` already: for changes that no operator has requested,
    /// which may be delayed and must not undo a later request.
    ///
    /// # Errors
    /// As [`Self::set_node_state`], and [`RegistryError::Rejected`] when the state is another one (412001).
    pub async fn advance_node_state(&self, id: NodeId, from: NodeState, to: NodeState) -> Result<(), RegistryError> {
        self.change_state(id, to, cluster::state_to_proto(from)).await
    }

    async fn change_state(
        &self,
        id: NodeId,
        state: NodeState,
        expected: proto::NodeState,
    ) -> Result<(), RegistryError> {
        self.change(Command::SetNodeState(proto::SetNodeState {
            id: id.get(),
            state: cluster::state_to_proto(state).into(),
            expected_state: expected.into(),
        }))
        .await
    }

    /// Removes a member; its id is never reused. With `force` also when placements name it: it is removed from them. Without
    /// effect when it has been removed.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it is no member (404000); when placements name it and `force` is not set, when it
    /// alone holds a partition, or when it is the last core node (400003); else as [`Self::write`].
    pub async fn remove_node(&self, id: NodeId, force: bool) -> Result<(), RegistryError> {
        self.change(Command::RemoveNode(proto::RemoveNode { id: id.get(), force }))
            .await
    }

    /// Replaces the placements of the partitions that are named, all or none, if the view still has the version
    /// `expected`.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when the view has changed (412001: read it again), or a placement names no node, a
    /// non-member, a gateway node or another founder (400004); else as [`Self::write`].
    pub async fn place(&self, expected: u64, placements: &[Placement]) -> Result<(), RegistryError> {
        self.change(Command::SetPlacements(proto::SetPlacements {
            expected_view_version: expected,
            placements: placements.iter().map(cluster::placement_to_proto).collect(),
        }))
        .await
    }

    /// Sets the wanted number of replicas of each partition, limited by the number of nodes.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when it is not 1 to [`cluster::MAX_REPLICATION_FACTOR`]; else as [`Self::write`].
    pub async fn set_replication_factor(&self, factor: u8) -> Result<(), RegistryError> {
        self.change(Command::SetReplicationFactor(proto::SetReplicationFactor {
            replication_factor: factor.into(),
        }))
        .await
    }

    /// Creates a token for one node to join, and returns its secret, which is not stored.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when its lifetime is 0 or longer than [`MAX_JOIN_TOKEN_LIFETIME`], or there are too many
    /// unused tokens; else as [`Self::write`].
    pub async fn create_join_token(&self, lifetime: Duration, role: NodeRole) -> Result<String, RegistryError> {
        let secret = cluster::fresh_secret();
        self.enter_join_token(&secret, lifetime, role).await?;
        Ok(secret.to_string())
    }

    /// The same with a secret given by the caller.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] also when `secret` does not have the form of one.
    pub async fn enter_join_token(
        &self,
        secret: &str,
        lifetime: Duration,
        role: NodeRole,
    ) -> Result<(), RegistryError> {
        if lifetime.is_zero() || lifetime > MAX_JOIN_TOKEN_LIFETIME {
            let days = MAX_JOIN_TOKEN_LIFETIME.as_secs() / (24 * 3600);
            let text = format!("a join token must be valid for more than 0 and at most {days} days");
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text).into());
        }
        self.change(Command::CreateJoinToken(proto::CreateJoinToken {
            secret_hash: cluster::secret_hash(secret)?,
            expires_ms: self.0.clock.now().0.saturating_add(millis(lifetime)),
            role: cluster::role_to_proto(role).into(),
        }))
        .await
    }

    /// Revokes a join token: a node that uses it from then on is refused. Without effect when it has been revoked. `id` is
    /// that of [`JoinToken::id`], in any case.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when there is no such token (404000), or it has been used (400003: remove the node);
    /// else as [`Self::write`].
    pub async fn revoke_join_token(&self, id: &str) -> Result<(), RegistryError> {
        // The token may have been created at another node a moment ago.
        self.read_barrier().await?;
        let id = id.trim().to_ascii_lowercase();
        let secret_hash = match self.0.local.join_token_hashes(&id)?.as_slice() {
            [hash] => bytes::Bytes::copy_from_slice(hash),
            [] => {
                let text = "there is no such join token: see `holdfast node token list`";
                return Err(Rejection::new(ErrorCode::GenericNotFound, text).into());
            }
            _ => {
                let text = format!("more than one join token has the id {id}: let them expire");
                return Err(Rejection::new(ErrorCode::GenericConflict, text).into());
            }
        };
        self.change(Command::RevokeJoinToken(proto::RevokeJoinToken { secret_hash }))
            .await
    }

    /// The hub's feature level in this node's replica.
    ///
    /// # Errors
    /// [`RegistryError::State`].
    pub fn feature_level(&self) -> Result<FeatureLevel, RegistryError> {
        Ok(self.0.local.feature_level()?)
    }

    /// Raises the hub's feature level; it never falls again. Without effect when it is as high. All members of the view of version
    /// `expected` support it: one that does not would stop.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] when the view has changed (412001: ask its members); else as [`Self::write`].
    pub async fn raise_feature_level(&self, level: u32, expected: u64) -> Result<(), RegistryError> {
        self.change(Command::RaiseFeatureLevel(proto::RaiseFeatureLevel {
            level,
            expected_view_version: expected,
        }))
        .await
    }

    /// Admits `node` as a member, in state joining and with the role of the token. It supports feature levels up to `level`
    /// (0: a version without levels). The node that has used the token may call again with it.
    ///
    /// # Errors
    /// [`RegistryError::Rejected`] with what to do instead: the token is unknown, used or expired (401002), the name or
    /// address is taken or the node is a member already (409000), its id was removed, there are too many nodes, or it does not support
    /// the hub's feature level (400003); else as [`Self::write`].
    pub async fn admit(&self, secret: &str, node: &NodeInfo, level: u32) -> Result<(), RegistryError> {
        let secret_hash = cluster::secret_hash(secret)?;
        if node.address.is_empty() {
            let text = "a node that joins has an address where the others reach it (cluster.listen, cluster.advertise)";
            return Err(Rejection::new(ErrorCode::ArgumentInvalid, text).into());
        }
        let node = checked(node)?;
        self.change(Command::AdmitNode(proto::AdmitNode {
            secret_hash,
            node: Some(node),
            feature_level: if self.feature_level()?.is_set { level } else { 0 },
        }))
        .await
    }

    /// The join tokens in this node's replica, the newest first.
    ///
    /// # Errors
    /// [`RegistryError::State`].
    pub fn join_tokens(&self) -> Result<Vec<JoinToken>, RegistryError> {
        Ok(self.0.local.join_tokens()?)
    }
}

fn checked(node: &NodeInfo) -> Result<proto::NodeRecord, Rejection> {
    let record = cluster::node_to_proto(node);
    cluster::check_node(&record)?;
    Ok(record)
}
