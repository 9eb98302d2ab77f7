//! Raises the hub's feature level once all members support a higher one (docs/decisions/0058).
//!
//! Invariants: every member of the view has said what it supports, gateways too; the registry refuses the change when a member was
//! admitted meanwhile; it is never lowered.

use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_model::FEATURE_LEVEL;
use holdfast_registry::ClusterView;

use super::Control;
use super::error::ControlError;
use crate::status::Answered;

/// How often the leader of the registry asks the members, while it supports a higher level than the hub has.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The feature level before and after a request to raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaisedLevel {
    /// The level before.
    pub before: u32,
    /// The level after; the same where no higher one is possible.
    pub level: u32,
}

impl Control {
    /// Raises the feature level to the highest that all members support. From then on no node can be set back to a version
    /// that does not.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when a member does not answer or runs a version without levels.
    pub async fn raise_feature_level(&self) -> Result<RaisedLevel, ControlError> {
        let view = self.fresh_view().await?;
        let present = self.0.registry.feature_level()?;
        let common = common_level(&view, &self.collect(&view).await).map_err(ControlError::Refused)?;
        let before = present.level;
        if present.is_set && common <= before {
            return Ok(RaisedLevel { before, level: before });
        }
        self.0.registry.raise_feature_level(common, view.version).await?;
        tracing::info!(before, level = common, "the hub's feature level has been raised");
        Ok(RaisedLevel { before, level: common })
    }

    /// Starts to raise the level if that is due. As the leader of the registry, now and then.
    pub(super) fn check_feature_level(&self) {
        let inner = &self.0;
        let due = match inner.registry.feature_level() {
            Ok(present) => !present.is_set || present.level < FEATURE_LEVEL,
            Err(_) => false,
        };
        if !inner.config.raise_feature_level || !due || inner.raises_level.swap(true, Ordering::AcqRel) {
            return;
        }
        let control = self.clone();
        holdfast_tasks::spawn_critical("feature-level", async move {
            if let Err(error) = control.raise_feature_level().await {
                tracing::debug!(%error, "the feature level stays");
            }
            control.0.raises_level.store(false, Ordering::Release);
        });
    }
}

/// The highest level that all members support, or why none can be found.
fn common_level(view: &ClusterView, answers: &[Answered]) -> Result<u32, String> {
    let mut common = FEATURE_LEVEL;
    for node in view.nodes.values() {
        let name = &node.name;
        let answer = answers.iter().find(|answer| answer.node == node.id);
        match answer.map(|answer| &answer.report) {
            Some(Ok(report)) if report.feature_level > 0 => common = common.min(report.feature_level),
            Some(Ok(_)) => {
                return Err(format!(
                    "'{name}' runs a version without feature levels: upgrade it first"
                ));
            }
            Some(Err(reason)) => {
                return Err(format!(
                    "'{name}' does not answer ({reason}): bring it back, or remove it from the cluster"
                ));
            }
            None => return Err(format!("'{name}' was not asked: try again")),
        }
    }
    Ok(common)
}

#[cfg(test)]
mod tests {
    use holdfast_model::{NodeId, UnixMillis};
    use holdfast_proto::cluster::v1::ReportAnswer;
    use holdfast_registry::{NodeInfo, NodeRole, NodeState};

    use super::*;

    fn common(levels: &[Result<u32, &str>]) -> Result<u32, String> {
        let mut view = ClusterView::default();
        let mut answers = Vec::new();
        for (level, id) in levels.iter().zip(1_u64..) {
            let info = NodeInfo {
                id: NodeId(id),
                name: format!("n{id}"),
                address: format!("n{id}:1"),
                zone: String::new(),
                role: NodeRole::Gateway,
                state: NodeState::Joining,
                version: String::new(),
                joined: UnixMillis(0),
            };
            view.nodes.insert(info.id, info);
            answers.push(Answered {
                node: NodeId(id),
                report: level.map_err(str::to_owned).map(|feature_level| ReportAnswer {
                    feature_level,
                    ..ReportAnswer::default()
                }),
            });
        }
        common_level(&view, &answers)
    }

    #[test]
    fn the_level_is_that_of_the_member_that_supports_least() {
        assert_eq!(common(&[Ok(FEATURE_LEVEL)]), Ok(FEATURE_LEVEL));
        assert_eq!(common(&[Ok(FEATURE_LEVEL), Ok(5), Ok(FEATURE_LEVEL + 1)]), Ok(5));
        assert_eq!(
            common(&[Ok(FEATURE_LEVEL + 2)]),
            Ok(FEATURE_LEVEL),
            "this node supports no more"
        );
    }

    #[test]
    fn a_member_that_does_not_say_keeps_the_level() {
        assert!(common(&[Ok(FEATURE_LEVEL), Ok(0)]).unwrap_err().contains("'n2'"));
        assert!(common(&[Err("down"), Ok(FEATURE_LEVEL)]).unwrap_err().contains("down"));
    }
}
