//! How long a group was without a leader, as this node saw it: `holdfast_consensus_leaderless_seconds`.
//!
//! The engine names a leader until this node votes for another one. A dead leader is named until an election is nearly over, and the
//! time without a named leader is a round trip. So the time counts from the last sign of one leader (an append or a heartbeat that this
//! node has accepted, or the begin of a hand-over, from which on the leader takes no entry) to the first sign of the next one.
//!
//! Invariants: a leader begins once, in the order of [`Leader`], whichever of append and engine says so first; nothing is counted without
//! a sign of the leader before: not at a start, not after an election that this node lost its own leadership to, of which it cannot
//! know when it began.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tasks::sync::Mutex;
use metrics::Histogram;
use openraft::alias::WatchReceiverOf;
use openraft::metrics::RaftServerMetrics;
use tokio::time::Instant;

use crate::metrics::GroupMetrics;
use crate::status::{Leader, leader_of};
use crate::type_config::Types;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Leaderless(Arc<Inner>);

struct Inner {
    course: Mutex<Course>,
    handed_over: Histogram,
    lost: Histogram,
}

impl Leaderless {
    pub(crate) fn new(metrics: &GroupMetrics) -> Self {
        Self(Arc::new(Inner {
            course: Mutex::new(Course::default()),
            handed_over: metrics.leaderless("handover"),
            lost: metrics.leaderless("lost"),
        }))
    }

    /// This node has accepted an append or a heartbeat of `leader`, which arrived at `arrived`.
    pub(crate) fn heard(&self, leader: Leader, arrived: Instant) {
        let ended = {
            let mut course = self.0.course.lock();
            let ended = course.begins(leader, Instant::now());
            course.heard(leader, arrived);
            ended
        };
        self.observe(ended);
    }

    /// `leader` takes no entries from now on, until another one leads.
    pub(crate) fn hands_over(&self, leader: Leader) {
        self.0.course.lock().hands_over(leader, Instant::now());
    }

    /// Follows the leaders that the engine names, until the group ends.
    pub(crate) async fn follow(self, mut watch: WatchReceiverOf<Types, RaftServerMetrics<Types>>) {
        loop {
            let leader = leader_of(&watch.borrow_and_update());
            if let Some(leader) = leader {
                let ended = self.0.course.lock().begins(leader, Instant::now());
                self.observe(ended);
            }
            if watch.changed().await.is_err() {
                return;
            }
        }
    }

    fn observe(&self, ended: Option<Ended>) {
        match ended {
            Some(Ended { after, planned: true }) => self.0.handed_over.record(after),
            Some(Ended { after, planned: false }) => self.0.lost.record(after),
            None => {}
        }
    }
}

/// The time without a leader has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    after: Duration,
    planned: bool,
}

/// The newest leader that this node knows.
#[derive(Debug, Default)]
struct Course {
    newest: Option<Known>,
}

#[derive(Debug)]
struct Known {
    leader: Leader,
    /// `None`: nothing has been heard of it since the start, or it is this node.
    last_sign: Option<Instant>,
    hands_over: bool,
}

impl Course {
    /// `leader` leads; does nothing unless it is newer than the known one.
    fn begins(&mut self, leader: Leader, now: Instant) -> Option<Ended> {
        if self.newest.as_ref().is_some_and(|known| known.leader >= leader) {
            return None;
        }
        let before = self.newest.replace(Known {
            leader,
            last_sign: None,
            hands_over: false,
        })?;
        Some(Ended {
            after: now.saturating_duration_since(before.last_sign?),
            planned: before.hands_over,
        })
    }

    fn heard(&mut self, leader: Leader, at: Instant) {
        if let Some(known) = self.known(leader)
            && !known.hands_over
        {
            known.last_sign = known.last_sign.max(Some(at));
        }
    }

    /// For good: a leader whose hand-over fails takes no entries either, until it is elected again.
    fn hands_over(&mut self, leader: Leader, at: Instant) {
        if let Some(known) = self.known(leader)
            && !known.hands_over
        {
            known.last_sign = Some(at);
            known.hands_over = true;
        }
    }

    fn known(&mut self, leader: Leader) -> Option<&mut Known> {
        self.newest.as_mut().filter(|known| known.leader == leader)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::{NodeId, Term};

    use super::*;

    const FIRST: Leader = leader(1, 1);
    const SECOND: Leader = leader(2, 2);

    const fn leader(term: u64, node: u64) -> Leader {
        Leader {
            term: Term(term),
            node: NodeId(node),
        }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn it_counts_from_the_last_sign_of_one_leader_to_the_first_of_the_next() {
        let (mut course, zero) = (Course::default(), Instant::now());
        assert_eq!(
            course.begins(FIRST, zero + ms(700)),
            None,
            "the first leader ends nothing"
        );
        course.heard(FIRST, zero + ms(700));
        course.heard(FIRST, zero + ms(900));
        course.heard(FIRST, zero + ms(800));
        let ended = Ended {
            after: ms(500),
            planned: false,
        };
        assert_eq!(course.begins(SECOND, zero + ms(1400)), Some(ended));
        assert_eq!(course.begins(SECOND, zero + ms(1500)), None, "once");
        course.heard(FIRST, zero + ms(1600));
        assert_eq!(
            course.begins(FIRST, zero + ms(1600)),
            None,
            "a late message of the old leader"
        );
        let again = Ended {
            after: ms(100),
            planned: false,
        };
        course.heard(SECOND, zero + ms(1700));
        assert_eq!(course.begins(leader(3, 1), zero + ms(1800)), Some(again));
    }

    #[test]
    fn a_hand_over_counts_from_its_begin_whatever_is_heard_after() {
        let (mut course, zero) = (Course::default(), Instant::now());
        course.begins(FIRST, zero);
        course.heard(FIRST, zero);
        course.hands_over(FIRST, zero + ms(190));
        course.heard(FIRST, zero + ms(195));
        course.hands_over(FIRST, zero + ms(198));
        let ended = Ended {
            after: ms(10),
            planned: true,
        };
        assert_eq!(course.begins(SECOND, zero + ms(200)), Some(ended));
    }

    #[test]
    fn without_a_sign_nothing_counts() {
        let (mut course, zero) = (Course::default(), Instant::now());
        course.hands_over(FIRST, zero);
        assert_eq!(
            course.begins(FIRST, zero + ms(1)),
            None,
            "a hand-over of an unknown leader"
        );
        assert_eq!(
            course.begins(SECOND, zero + ms(900)),
            None,
            "the leader of the vote on disk, or this node, which lost its leadership"
        );
        course.heard(SECOND, zero + ms(1000));
        course.hands_over(FIRST, zero + ms(1001));
        assert!(!course.newest.unwrap().hands_over, "a late hand-over of an old leader");
    }
}
