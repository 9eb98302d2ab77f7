//! Serves the control calls of other nodes: join, report, readiness to lead, and membership in a group.
//!
//! Only joining is open to nodes that are not members; the other answers would reveal too much about the hub.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_consensus::transport::{Answer, CallError, Handler};
use holdfast_consensus::{Group, GroupId, GroupStatus, Role};
use holdfast_model::{FEATURE_LEVEL, NodeId, UnixMillis};
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer as Body;
use holdfast_proto::cluster::v1::control_refusal::Kind;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_proto::cluster::v1::membership_answer::Standing;
use holdfast_registry::{NodeInfo, NodeRole, NodeState, RegistryError};
use tokio::time::Instant;

use super::{Control, messages};
use crate::error_chain;

/// Timeout of the commit of a membership that is in the log.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Service Control of this node.
pub(super) struct Server(pub(super) Control);

impl Handler for Server {
    fn call(&self, from: NodeId, _target: u32, body: Bytes) -> Answer {
        let control = self.0.clone();
        Box::pin(async move {
            let request =
                messages::decode_request(body).map_err(|error| CallError::Refused(error_chain::text(&error).into()))?;
            let is_member = control.0.registry.cluster().node(from).is_some();
            let answer = match request {
                Request::Join(request) => control.admit(from, request).await,
                _ if !is_member => messages::refusal(Kind::Denied, "the calling node is not a member of the cluster"),
                Request::Report(_) => Body::Report(control.report()),
                Request::Ready(request) => Body::Ready(control.readiness(request.group)),
                Request::Debug(_) => Body::Debug(control.debug_answer()),
                Request::Membership(request) => Body::Membership(control.membership(from, request.group).await),
            };
            Ok(messages::encode_answer(answer))
        })
    }
}

impl Control {
    async fn admit(&self, from: NodeId, request: proto::JoinRequest) -> Body {
        let inner = &self.0;
        if request.id != from.get() {
            let text = format!("the connection is that of node {from}, not of node {}", request.id);
            return messages::refusal(Kind::Denied, text);
        }
        if inner.registry.cluster().cluster.is_empty() || inner.holds_joins.load(Ordering::Acquire) {
            return messages::refusal(Kind::NotNow, "this node is still bootstrapping its cluster");
        }
        let node = NodeInfo {
            id: NodeId(request.id),
            name: request.name,
            address: request.address,
            zone: request.zone,
            // The role of the token counts.
            role: NodeRole::Core,
            state: NodeState::Joining,
            version: request.version,
            joined: UnixMillis(0),
        };
        if let Err(error) = inner
            .registry
            .admit(&request.secret, &node, request.feature_level)
            .await
        {
            tracing::warn!(node = %node.id, name = node.name, address = node.address, %error, "refused a joining node");
            return messages::refusal(kind_of(&error), error.to_string());
        }
        tracing::info!(
            node = %node.id,
            name = node.name,
            address = node.address,
            "admitted a node"
        );
        let view = inner.registry.cluster();
        let members = view.nodes.values().map(|node| proto::Member {
            id: node.id.get(),
            name: node.name.clone(),
            address: node.address.clone(),
        });
        Body::Join(proto::JoinAnswer {
            cluster: view.cluster.clone(),
            wrapped_key: inner.wrapped_key.clone(),
            partition_count: inner.partitions.count().get().into(),
            members: members.collect(),
            gateway: view.node(from).is_some_and(|node| node.role == NodeRole::Gateway),
        })
    }

    /// The report of this node for the cluster's status.
    pub(super) fn report(&self) -> proto::ReportAnswer {
        let inner = &self.0;
        let facts = inner.replicas.facts();
        let in_progress = inner.in_progress.lock().clone();
        let groups = self.groups().into_iter().map(|group| {
            let text = in_progress.get(&group.id()).cloned().unwrap_or_default();
            group_report(&group.status(), text)
        });
        proto::ReportAnswer {
            version: inner.self_info.version.clone(),
            disk_free: facts.disk_free,
            disk_total: facts.disk_total,
            sessions: facts.sessions,
            in_lease: inner.registry.in_lease(),
            leaving: self.is_stopping(),
            read_only: facts.read_only,
            groups: groups.collect(),
            feature_level: FEATURE_LEVEL,
        }
    }

    /// Whether this node would accept the leadership of the group now.
    fn readiness(&self, group: u32) -> proto::ReadyAnswer {
        let refused = if self.is_stopping() {
            Some("it is stopping")
        } else if self.0.replicas.facts().read_only {
            Some("its disk is nearly full")
        } else if self.group(GroupId(group)).is_none() {
            Some("it has no replica")
        } else {
            None
        };
        proto::ReadyAnswer {
            ready: refused.is_none(),
            reason: refused.unwrap_or_default().to_owned(),
            unix_ms: self.0.replicas.facts().now.0,
        }
    }

    /// Whether `node` is a member of the group; only its leader knows.
    async fn membership(&self, node: NodeId, group: u32) -> proto::MembershipAnswer {
        let answer = |standing: Standing, leader: Option<NodeId>| proto::MembershipAnswer {
            standing: standing.into(),
            leader: leader.map_or(0, NodeId::get),
        };
        let Some(group) = self.group(GroupId(group)) else {
            let partition = super::partition_of(GroupId(group));
            let stopped = partition.is_some_and(|partition| self.0.on_disk.lock().contains(&partition));
            let standing = if stopped {
                Standing::Elsewhere
            } else {
                Standing::NoReplica
            };
            return answer(standing, None);
        };
        match committed_members(&group).await {
            Some(status) if status.members.contains(node) => answer(Standing::Member, Some(status.node)),
            Some(status) => answer(Standing::NonMember, Some(status.node)),
            None => answer(Standing::Elsewhere, group.leader().map(|leader| leader.node)),
        }
    }
}

/// The status of a group that this node leads, if its leadership is confirmed by a quorum and its membership is committed.
async fn committed_members(group: &Group) -> Option<GroupStatus> {
    let before = group.status();
    if before.role != Role::Leader || before.members.joint {
        return None;
    }
    let deadline = Instant::now() + COMMIT_TIMEOUT;
    // Fails on a leader that was replaced without knowing.
    tokio::time::timeout_at(deadline, group.read_index()).await.ok()?.ok()?;
    let left = deadline.saturating_duration_since(Instant::now());
    group.wait_applied(before.last_log, left).await.ok()?;
    let after = group.status();
    let unchanged = after.role == Role::Leader && after.term == before.term && after.members == before.members;
    unchanged.then_some(after)
}

fn group_report(status: &GroupStatus, in_progress: String) -> proto::GroupReport {
    let role = match status.role {
        Role::Leader => proto::GroupRole::Leader,
        Role::Follower => proto::GroupRole::Follower,
        Role::Learner => proto::GroupRole::Learner,
        Role::Candidate => proto::GroupRole::Candidate,
    };
    proto::GroupReport {
        group: status.id.0,
        role: role.into(),
        term: status.term.get(),
        leader: status.leader.map_or(0, NodeId::get),
        last_log: status.last_log,
        applied: status.applied,
        voters: status.members.voters.iter().copied().map(NodeId::get).collect(),
        learners: status.members.learners.iter().copied().map(NodeId::get).collect(),
        joint: status.members.joint,
        progress: status
            .matched
            .iter()
            .map(|(node, matched)| proto::Progress {
                node: node.get(),
                matched: *matched,
            })
            .collect(),
        under_way: in_progress,
    }
}

fn kind_of(error: &RegistryError) -> Kind {
    match error {
        RegistryError::Rejected(_) => Kind::Denied,
        _ => Kind::NotNow,
    }
}
