//! Requests of operators: status, tokens, drain, remove. A refusal says what to do instead.
//!
//! Every node serves these requests: the registry accepts writes from all nodes, and the status is collected from all.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_model::NodeId;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_registry::{ClusterView, JoinToken, MAX_REPLICATION_FACTOR, NodeInfo, NodeRole, NodeState};

use super::Control;
use super::actions::ControlCallError;
use super::error::ControlError;
use crate::error_chain;
use crate::status::{Answered, ClusterStatus, assemble};

/// Timeout of the report of one node.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The reply to a change of the replication factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFactor {
    /// The previous factor.
    pub before: u8,
    /// A disadvantage of the new factor.
    pub warning: Option<&'static str>,
}

impl Control {
    /// The status of the cluster, from the reports of all members; takes about a second if one does not answer.
    pub async fn status(&self) -> ClusterStatus {
        let view = self.0.registry.cluster();
        let answers = self.collect(&view).await;
        let level = self.0.registry.feature_level().map_or(0, |present| present.level);
        assemble(&view, self.0.id, level, &answers)
    }

    /// Creates a token with which one node may join within `lifetime`; returns its secret.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn create_token(&self, lifetime: Duration, role: NodeRole) -> Result<String, ControlError> {
        Ok(self.0.registry.create_join_token(lifetime, role).await?)
    }

    /// The join tokens without their secrets, the newest first; up to date as of the call.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn join_tokens(&self) -> Result<Vec<JoinToken>, ControlError> {
        self.0.registry.read_barrier().await?;
        Ok(self.0.registry.join_tokens()?)
    }

    /// Revokes a join token.
    ///
    /// # Errors
    /// [`ControlError::Registry`] if the token does not exist or has been used.
    pub async fn revoke_token(&self, id: &str) -> Result<(), ControlError> {
        Ok(self.0.registry.revoke_join_token(id).await?)
    }

    /// Starts to drain the node. Returns when that is registered, long before it is done.
    ///
    /// # Errors
    /// [`ControlError::Refused`] if too few nodes would be left.
    pub async fn drain(&self, name: &str) -> Result<(), ControlError> {
        let view = self.fresh_view().await?;
        let node = by_name(&view, name)?;
        if matches!(node.state, NodeState::Draining | NodeState::Drained) {
            return Ok(());
        }
        check_drain(&view, node).map_err(ControlError::Refused)?;
        Ok(self.0.registry.set_node_state(node.id, NodeState::Draining).await?)
    }

    /// Puts a draining or drained node back into service.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn undrain(&self, name: &str) -> Result<(), ControlError> {
        let view = self.fresh_view().await?;
        let node = by_name(&view, name)?;
        if matches!(node.state, NodeState::Active | NodeState::Joining) {
            return Ok(());
        }
        Ok(self.0.registry.set_node_state(node.id, NodeState::Active).await?)
    }

    /// Removes a drained node or, with `dead`, one that will never return: its replicas are rebuilt from the other ones.
    ///
    /// # Errors
    /// [`ControlError::Refused`] if it is up and not drained, if it holds replicas and `dead` is not set, or if a group would
    /// lose its quorum.
    pub async fn remove(&self, name: &str, dead: bool) -> Result<(), ControlError> {
        let view = self.fresh_view().await?;
        let node = by_name(&view, name)?;
        let status = self.status().await;
        check_remove(&view, node, dead, self.0.id, &status).map_err(ControlError::Refused)?;
        Ok(self.0.registry.remove_node(node.id, dead).await?)
    }

    /// Sets the number of replicas of each partition. Returns when that is registered, long before it is done.
    ///
    /// # Errors
    /// [`ControlError::Refused`] if fewer core nodes are in service; [`ControlError::Registry`] also if it is not 1 to [`holdfast_registry::MAX_REPLICATION_FACTOR`].
    pub async fn set_replication_factor(&self, factor: u8) -> Result<NewFactor, ControlError> {
        let view = self.fresh_view().await?;
        check_factor(&view, factor).map_err(ControlError::Refused)?;
        self.0.registry.set_replication_factor(factor).await?;
        Ok(NewFactor {
            before: view.replication_factor,
            warning: warning_of(factor),
        })
    }

    /// Members and placements, up to date as of the call.
    pub(super) async fn fresh_view(&self) -> Result<std::sync::Arc<ClusterView>, ControlError> {
        self.0.registry.read_barrier().await?;
        Ok(self.0.registry.cluster())
    }

    pub(super) async fn collect(&self, view: &ClusterView) -> Vec<Answered> {
        let asked = view.nodes.keys().map(|node| async move {
            if *node == self.0.id {
                return Answered {
                    node: *node,
                    report: Ok(self.report()),
                };
            }
            let request = Request::Report(proto::ReportRequest {});
            let report = match self.call_control(*node, request, REPORT_TIMEOUT).await {
                Ok(Answer::Report(report)) => Ok(report),
                Ok(Answer::Refusal(refusal)) => Err(refusal.text),
                Ok(_) => Err(ControlCallError::OtherAnswer.to_string()),
                Err(error) => Err(error_chain::text(&error)),
            };
            Answered { node: *node, report }
        });
        join_all(asked).await
    }
}

fn by_name<'a>(view: &'a ClusterView, name: &str) -> Result<&'a NodeInfo, ControlError> {
    let mut nodes = view.nodes.values();
    nodes
        .find(|node| node.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| ControlError::NoSuchNode(name.to_owned()))
}

fn in_service(view: &ClusterView) -> impl Iterator<Item = &NodeInfo> {
    let nodes = view.nodes.values();
    nodes.filter(|node| node.role == NodeRole::Core && node.state == NodeState::Active)
}

/// Checks that there are enough nodes for the replication factor.
fn check_factor(view: &ClusterView, factor: u8) -> Result<(), String> {
    let nodes = in_service(view).count();
    // A hub that was created for three replicas may wait for its second and third node.
    if usize::from(factor) <= nodes || factor == view.replication_factor || factor > MAX_REPLICATION_FACTOR {
        return Ok(());
    }
    Err(format!(
        "a replication factor of {factor} needs {factor} core nodes in service, and there are {nodes}: let others join \
         first (`holdfast node join`)"
    ))
}

fn warning_of(factor: u8) -> Option<&'static str> {
    match factor {
        1 => Some("with one replica, what is on a node is lost with its disk, and unavailable while it is down"),
        2 => Some("two replicas survive the loss of no node: writes wait for both; three survive that of one"),
        4 => Some("four replicas survive the loss of one node, as three do: an odd number is better"),
        _ => None,
    }
}

/// Checks that `node` may be drained.
fn check_drain(view: &ClusterView, node: &NodeInfo) -> Result<(), String> {
    if node.role != NodeRole::Core {
        return Ok(());
    }
    let others = in_service(view).filter(|other| other.id != node.id);
    let (left, factor) = (others.count(), usize::from(view.replication_factor));
    if left == 0 {
        return Err(format!(
            "'{}' is the last core node in service: let another one join first (`holdfast node join`)",
            node.name
        ));
    }
    if left < factor {
        return Err(format!(
            "without '{}' there would be {left} core nodes in service for a replication factor of {factor}: let \
             another one join first (`holdfast node join`), or lower the replication factor to the nodes that remain \
             (`holdfast cluster set-replication {left}`{})",
            node.name,
            warning_of(u8::try_from(left).unwrap_or(u8::MAX))
                .map_or_else(String::new, |warning| format!("; {warning}")),
        ));
    }
    Ok(())
}

/// Checks that `node` may be removed.
fn check_remove(
    view: &ClusterView,
    node: &NodeInfo,
    dead: bool,
    asked: NodeId,
    status: &ClusterStatus,
) -> Result<(), String> {
    let name = &node.name;
    if node.id == asked && node.state != NodeState::Drained {
        return Err(format!(
            "'{name}' is the node that was asked: drain it first (`holdfast node drain {name}`)"
        ));
    }
    let up = status.nodes.iter().any(|other| other.id == node.id && other.up);
    if up && node.state != NodeState::Drained {
        return Err(format!(
            "'{name}' is up: drain it first (`holdfast node drain {name}`); if it is to be given up with what it \
             holds, stop it and remove it with --dead"
        ));
    }
    let holds = view
        .placements
        .iter()
        .filter(|placement| placement.replicas.contains(&node.id))
        .count();
    let votes: Vec<_> = status
        .groups
        .iter()
        .filter(|group| {
            group
                .replicas
                .iter()
                .any(|replica| replica.node == node.id && replica.voter)
        })
        .collect();
    if (holds > 0 || !votes.is_empty()) && !dead {
        return Err(format!(
            "'{name}' still holds {holds} partitions or votes in {} groups: start it again and drain it (`holdfast node \
             drain {name}`), or remove it with --dead if it will never come back with its disk",
            votes.len()
        ));
    }
    if let Some(group) = status.groups.iter().find(|group| group.leader.is_none()) {
        return Err(format!(
            "{} has no leader, so that it cannot continue without '{name}': bring its other nodes back first, see \
             `holdfast cluster status`",
            group.name
        ));
    }
    for group in votes {
        let voters = group.replicas.iter().filter(|replica| replica.voter);
        let others: Vec<_> = voters.filter(|replica| replica.node != node.id).collect();
        let up = others.iter().filter(|replica| replica.running).count();
        if others.is_empty() {
            return Err(format!(
                "'{name}' alone holds {}: bring it back and drain it",
                group.name
            ));
        }
        if up <= others.len() / 2 {
            let down = others.iter().filter(|replica| !replica.running);
            let down: Vec<_> = down.map(|replica| replica.name.as_str()).collect();
            return Err(format!(
                "{} would have no quorum without '{name}': bring {} back first",
                group.name,
                down.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
