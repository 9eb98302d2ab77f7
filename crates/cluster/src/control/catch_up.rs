//! Whether this node's replicas have caught up with their leaders since it started.
//!
//! Why: what restarts nodes one after the other takes the next one when the node before is ready. If its replicas still lacked entries, the next
//! restart would leave a partition with one complete replica of three, and its writes would wait.
//! Invariants: it becomes true once and stays so; a replica that is only being added does not count, since no quorum needs it yet.
//! A group without a leader is waited for only [`LEADERLESS_TIMEOUT`] long: the node may be needed to serve the others.
//! Not here: what a node that is behind may not do meanwhile (nothing: it votes and stores as ever).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_consensus::{Group, GroupId, GroupStatus, Role};
use holdfast_model::NodeId;
use holdfast_proto::cluster::v1 as proto;
use holdfast_proto::cluster::v1::control_answer::Answer;
use holdfast_proto::cluster::v1::control_request::Request;
use holdfast_tasks::Phase;
use tokio::time::Instant;

use super::Control;

/// How often it is checked until it is so.
const POLL: Duration = Duration::from_millis(200);
/// How long a leader's report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a group may have no leader that is known here. An election takes a second or two.
const LEADERLESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks until all replicas have caught up; [`Control::catching_up`] is `None` from then on.
pub(super) async fn run(control: Control) {
    let inner = &control.0;
    let begun = Instant::now();
    loop {
        let behind = behind(&control, begun.elapsed() >= LEADERLESS_TIMEOUT).await;
        let done = behind.is_none();
        *inner.catching_up.lock() = behind;
        if done {
            return;
        }
        tokio::select! {
            biased;
            () = inner.stop.reached(Phase::Closing) => return,
            () = inner.wake_catch_up.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// The first replica that lacks entries, in words.
async fn behind(control: &Control, leaders_are_due: bool) -> Option<String> {
    let me = control.0.id;
    let statuses: Vec<GroupStatus> = control.groups().iter().map(Group::status).collect();
    let leaders: BTreeSet<NodeId> = (statuses.iter())
        .filter(|status| needs_leader(status, me))
        .filter_map(|status| status.leader)
        .filter(|leader| *leader != me)
        .collect();
    let reports = leaders.into_iter().map(|leader| async move {
        let answer = control
            .call_control(leader, Request::Report(proto::ReportRequest {}), REPORT_TIMEOUT)
            .await;
        match answer {
            Ok(Answer::Report(report)) => Some((leader, report)),
            _ => None,
        }
    });
    let reports = futures_util::future::join_all(reports)
        .await
        .into_iter()
        .flatten()
        .collect();
    first_behind(&statuses, &reports, me, control.0.config.max_lag, leaders_are_due)
}

/// Whether the replica counts for a quorum and follows another node.
fn needs_leader(status: &GroupStatus, me: NodeId) -> bool {
    status.role != Role::Leader && status.members.voters.contains(&me)
}

fn first_behind(
    statuses: &[GroupStatus],
    reports: &BTreeMap<NodeId, proto::ReportAnswer>,
    me: NodeId,
    max_lag: u64,
    leaders_are_due: bool,
) -> Option<String> {
    statuses
        .iter()
        .filter(|status| needs_leader(status, me))
        .find_map(|status| {
            let id = status.id;
            match lag(status, reports, me) {
                Some(lag) => (lag > max_lag).then(|| format!("this node's replica of {id} is {lag} entries behind")),
                None if leaders_are_due => None,
                None => Some(match status.leader {
                    None => format!("{id} has no leader that this node knows"),
                    Some(leader) => format!("node {leader}, the leader of {id}, has not said how far this node is"),
                }),
            }
        })
}

/// The entries that this node's replica lacks, by its leader's report.
fn lag(status: &GroupStatus, reports: &BTreeMap<NodeId, proto::ReportAnswer>, me: NodeId) -> Option<u64> {
    let report = reports.get(&status.leader?)?;
    let GroupId(number) = status.id;
    let group = report.groups.iter().find(|group| group.group == number)?;
    let progress = group.progress.iter().find(|progress| NodeId(progress.node) == me)?;
    Some(group.last_log.saturating_sub(progress.matched))
}

#[cfg(test)]
mod tests {
    use holdfast_consensus::Members;
    use holdfast_model::Term;

    use super::*;

    const ME: NodeId = NodeId(2);

    fn status(role: Role, leader: Option<NodeId>, voters: &[NodeId]) -> GroupStatus {
        GroupStatus {
            id: GroupId(3),
            node: ME,
            term: Term(1),
            role,
            leader,
            last_log: 10,
            applied: 10,
            members: Members {
                voters: voters.iter().copied().collect(),
                ..Members::default()
            },
            matched: BTreeMap::new(),
            quorum_acked_ago: None,
        }
    }

    fn report(last_log: u64, progress: &[(NodeId, u64)]) -> BTreeMap<NodeId, proto::ReportAnswer> {
        let group = proto::GroupReport {
            group: 3,
            last_log,
            progress: (progress.iter())
                .map(|(node, matched)| proto::Progress {
                    node: node.get(),
                    matched: *matched,
                })
                .collect(),
            ..proto::GroupReport::default()
        };
        let report = proto::ReportAnswer {
            groups: vec![group],
            ..proto::ReportAnswer::default()
        };
        BTreeMap::from([(NodeId(1), report)])
    }

    #[test]
    fn a_voter_is_behind_until_its_leader_says_that_it_is_not() {
        let all = [NodeId(1), ME, NodeId(3)];
        let follower = status(Role::Follower, Some(NodeId(1)), &all);
        let check =
            |status: &GroupStatus, reports: &_, due| first_behind(std::slice::from_ref(status), reports, ME, 100, due);
        let lacks = check(&follower, &report(1000, &[(ME, 10)]), false).unwrap();
        assert!(lacks.contains("990 entries behind"), "{lacks}");
        assert_eq!(check(&follower, &report(1000, &[(ME, 900)]), false), None);
        // The leader has no progress of it yet, or does not answer.
        assert!(check(&follower, &report(1000, &[]), false).is_some());
        let silent = check(&follower, &BTreeMap::new(), false).unwrap();
        assert!(silent.contains("node 1, the leader"), "{silent}");
        let without = status(Role::Candidate, None, &all);
        assert!(check(&without, &BTreeMap::new(), false).unwrap().contains("no leader"));
        assert_eq!(
            check(&without, &BTreeMap::new(), true),
            None,
            "it is not waited for without end"
        );
        // However long it takes: what is known to be missing counts.
        assert!(check(&follower, &report(1000, &[(ME, 10)]), true).is_some());
        assert_eq!(
            check(&status(Role::Leader, Some(ME), &all), &BTreeMap::new(), false),
            None
        );
        let added = status(Role::Learner, Some(NodeId(1)), &[NodeId(1), NodeId(3)]);
        assert_eq!(
            check(&added, &report(1000, &[(ME, 0)]), false),
            None,
            "no quorum needs it"
        );
    }
}
