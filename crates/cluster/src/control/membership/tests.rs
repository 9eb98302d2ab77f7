use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A group led by node 1; all nodes are up and ready by default.
struct Case {
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    joint: bool,
    wanted: BTreeSet<NodeId>,
    wanted_learners: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
    behind: BTreeSet<NodeId>,
    preferred: Option<NodeId>,
    declined: BTreeSet<NodeId>,
    full: bool,
    successors: Vec<NodeId>,
}

fn case(voters: &[u64], learners: &[u64], wanted: &[u64]) -> Case {
    Case {
        voters: set(voters),
        learners: set(learners),
        joint: false,
        wanted: set(wanted),
        wanted_learners: BTreeSet::new(),
        down: BTreeSet::new(),
        behind: BTreeSet::new(),
        preferred: None,
        declined: BTreeSet::new(),
        full: false,
        successors: Vec::new(),
    }
}

impl Case {
    fn down(mut self, nodes: &[u64]) -> Self {
        self.down = set(nodes);
        self
    }

    fn behind(mut self, nodes: &[u64]) -> Self {
        self.behind = set(nodes);
        self
    }

    fn joint(mut self) -> Self {
        self.joint = true;
        self
    }

    fn learning(mut self, nodes: &[u64]) -> Self {
        self.wanted_learners = set(nodes);
        self
    }

    fn preferring(mut self, node: NodeId) -> Self {
        self.preferred = Some(node);
        self
    }

    fn declining(mut self, nodes: &[u64]) -> Self {
        self.declined = set(nodes);
        self
    }

    fn full(mut self) -> Self {
        self.full = true;
        self
    }

    fn led_next_by(mut self, nodes: &[u64]) -> Self {
        self.successors = nodes.iter().copied().map(NodeId).collect();
        self
    }

    fn step(&self) -> Step {
        let members = Members {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            joint: self.joint,
        };
        let everyone: BTreeSet<NodeId> = (1..=9).map(NodeId).collect();
        let up: BTreeSet<NodeId> = everyone.difference(&self.down).copied().collect();
        let ready: BTreeSet<NodeId> = up
            .difference(&self.behind)
            .copied()
            .filter(|node| *node == NodeId(1) || members.contains(*node))
            .collect();
        step(&Situation {
            me: NodeId(1),
            members: &members,
            ready: &ready,
            up: &up,
            voters: &self.wanted,
            learners: &self.wanted_learners,
            preferred: self.preferred,
            declined: &self.declined,
            takes_writes: !self.full,
            successors: &self.successors,
        })
    }
}

fn check(case: &Case, expected: &Step) {
    assert_eq!(case.step(), *expected);
}

#[test]
fn growing_from_one_to_three() {
    check(&case(&[1], &[], &[1, 2, 3]), &Step::AddLearner(NodeId(2)));
    check(&case(&[1], &[2], &[1, 2, 3]), &Step::AddLearner(NodeId(3)));
    check(
        &case(&[1], &[2, 3], &[1, 2, 3]).behind(&[3]),
        &Step::Wait(Wait::CatchUp(set(&[2, 3]))),
    );
    check(&case(&[1], &[2, 3], &[1, 2, 3]), &Step::SetVoters(set(&[1, 2, 3])));
    check(&case(&[1, 2, 3], &[], &[1, 2, 3]), &Step::Nothing);
}

#[test]
fn a_replica_moves_from_a_dead_node_to_a_new_one() {
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 4]).down(&[3]),
        &Step::AddLearner(NodeId(4)),
    );
    check(
        &case(&[1, 2, 3], &[4], &[1, 2, 4]).down(&[3]).behind(&[4]),
        &Step::Wait(Wait::CatchUp(set(&[4]))),
    );
    check(
        &case(&[1, 2, 3], &[4], &[1, 2, 4]).down(&[3]),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
}

#[test]
fn a_removed_dead_node_leaves_the_group_without_a_replacement() {
    check(
        &case(&[1, 2, 3], &[], &[1, 2]).down(&[3]),
        &Step::SetVoters(set(&[1, 2])),
    );
    // While 2 lags, the two remaining voters could not commit.
    check(
        &case(&[1, 2, 3], &[], &[1, 2]).down(&[3]).behind(&[2]),
        &Step::Wait(Wait::NoQuorum(set(&[1, 2]))),
    );
}

#[test]
fn one_of_two_new_replicas_becomes_a_voter_while_the_other_is_down() {
    check(
        &case(&[1, 2, 3], &[4], &[1, 4, 5]).down(&[5]),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
    check(
        &case(&[1, 2, 4], &[], &[1, 4, 5]).down(&[5]),
        &Step::Wait(Wait::Down(set(&[5]))),
    );
}

#[test]
fn leadership_is_transferred_before_the_vote_is_lost() {
    // A remaining node votes already: it takes over and makes the change.
    check(&case(&[1, 2, 3], &[4], &[2, 3, 4]), &Step::Transfer(NodeId(2)));
    check(
        &case(&[1, 2, 3], &[4], &[2, 3, 4]).declining(&[2]),
        &Step::Transfer(NodeId(3)),
    );
    // Leadership goes to the preferred leader if it is eligible.
    check(
        &case(&[1, 2, 3], &[4], &[2, 3, 4]).led_next_by(&[4, 3, 2]),
        &Step::Transfer(NodeId(3)),
    );
    // It does not wait until the new node has caught up, or is up at all.
    check(&case(&[1, 2, 3], &[], &[2, 3, 4]), &Step::Transfer(NodeId(2)));
    check(
        &case(&[1, 2, 3], &[4], &[2, 3, 4]).behind(&[4]),
        &Step::Transfer(NodeId(2)),
    );
    check(
        &case(&[1, 2, 3], &[], &[2, 3, 4]).down(&[4]),
        &Step::Transfer(NodeId(2)),
    );
    check(
        &case(&[1, 2, 3], &[], &[2, 3, 4]).declining(&[2, 3]),
        &Step::AddLearner(NodeId(4)),
    );
    // No remaining node votes: the new voters are added beside the leader first.
    check(&case(&[1], &[2], &[2]), &Step::SetVoters(set(&[1, 2])));
    check(&case(&[1, 2], &[], &[2]), &Step::Transfer(NodeId(2)));
    check(
        &case(&[1, 2], &[], &[2]).declining(&[2]),
        &Step::Wait(Wait::NoSuccessor),
    );
    check(
        &case(&[1, 2, 3], &[4, 5, 6], &[4, 5, 6]),
        &Step::SetVoters(set(&[1, 4, 5, 6])),
    );
    check(&case(&[1, 4, 5, 6], &[], &[4, 5, 6]), &Step::Transfer(NodeId(4)));
}

#[test]
fn a_joint_change_is_completed_first() {
    check(
        &case(&[1, 2, 3, 4], &[], &[1, 2, 4]).joint(),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).joint(),
        &Step::SetVoters(set(&[1, 2, 3])),
    );
    // Also if other voters are desired by now, and if the leader is not one of them.
    check(
        &case(&[1, 2, 3, 4], &[], &[1, 2, 5]).joint(),
        &Step::SetVoters(set(&[1, 2, 3])),
    );
    check(
        &case(&[1, 2, 3, 4], &[], &[2, 3, 4]).joint(),
        &Step::SetVoters(set(&[1, 2, 3, 4])),
    );
}

#[test]
fn learners_are_added_and_removed() {
    check(&case(&[1], &[], &[1]).learning(&[2]), &Step::AddLearner(NodeId(2)));
    check(
        &case(&[1], &[], &[1]).learning(&[2]).down(&[2]),
        &Step::Wait(Wait::Down(set(&[2]))),
    );
    check(
        &case(&[1], &[2, 3], &[1]).learning(&[2]),
        &Step::RemoveLearners(set(&[3])),
    );
    check(&case(&[1], &[2], &[1]).learning(&[2]), &Step::Nothing);
}

#[test]
fn leadership_moves_to_the_preferred_node_when_it_can_take_it() {
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(NodeId(2)),
        &Step::Transfer(NodeId(2)),
    );
    check(&case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(NodeId(1)), &Step::Nothing);
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(NodeId(2)).down(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(NodeId(2)).behind(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(NodeId(2)).declining(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[4], &[1, 2, 4]).preferring(NodeId(2)),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
}

#[test]
fn a_leader_with_a_full_disk_transfers_before_anything_else() {
    let full = |wanted: &[u64]| case(&[1, 2, 3], &[4], wanted).led_next_by(&[1, 3, 2]).full();
    check(&full(&[1, 2, 3]), &Step::Transfer(NodeId(3)));
    check(&full(&[1, 2, 3]).preferring(NodeId(1)), &Step::Transfer(NodeId(3)));
    check(&full(&[1, 2, 4]), &Step::Transfer(NodeId(3)));
    check(&full(&[1, 2, 3]).down(&[3]), &Step::Transfer(NodeId(2)));
    check(&full(&[1, 2, 3]).behind(&[3]), &Step::Transfer(NodeId(2)));
    check(&full(&[1, 2, 3]).declining(&[3]), &Step::Transfer(NodeId(2)));
    // A voter that is to be removed is better than a leader that takes no writes.
    check(&case(&[1, 4], &[2], &[1, 2]).full(), &Step::Transfer(NodeId(4)));
    // No node can take over: the other steps continue.
    check(&full(&[1, 2, 3]).declining(&[2, 3]), &Step::RemoveLearners(set(&[4])));
    check(&case(&[1], &[], &[1]).full(), &Step::Nothing);
    check(
        &case(&[1, 2, 3, 4], &[], &[1, 2, 4]).joint().full(),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
}

#[test]
fn an_empty_set_of_desired_voters_changes_nothing() {
    check(&case(&[1, 2, 3], &[], &[]), &Step::Nothing);
}

#[test]
fn steps_have_readable_texts() {
    assert_eq!(Step::AddLearner(NodeId(7)).to_string(), "adding 7");
    assert_eq!(Wait::Down(set(&[7, 8])).to_string(), "waiting for 7, 8, which is down");
}

/// A model of a group: steps are applied, and may stop half-way; nodes come up and go down.
#[derive(Debug, Clone)]
struct Model {
    leader: NodeId,
    /// The voters before and after a joint change; equal otherwise.
    old: BTreeSet<NodeId>,
    new: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    /// Nodes whose replica has all entries.
    caught_up: BTreeSet<NodeId>,
    up: BTreeSet<NodeId>,
    wanted: BTreeSet<NodeId>,
}

impl Model {
    fn members(&self) -> Members {
        Members {
            voters: self.old.union(&self.new).copied().collect(),
            learners: self.learners.clone(),
            joint: self.old != self.new,
        }
    }

    fn quorum(&self, of: &BTreeSet<NodeId>) -> bool {
        let alive = of
            .iter()
            .filter(|node| self.up.contains(node) && self.caught_up.contains(node));
        2 * alive.count() > of.len()
    }

    fn has_quorum(&self) -> bool {
        self.quorum(&self.old) && self.quorum(&self.new)
    }

    fn step(&self) -> Step {
        let ready = self.up.intersection(&self.caught_up).copied().collect();
        step(&Situation {
            me: self.leader,
            members: &self.members(),
            ready: &ready,
            up: &self.up,
            voters: &self.wanted,
            learners: &BTreeSet::new(),
            preferred: None,
            declined: &BTreeSet::new(),
            takes_writes: true,
            successors: &[],
        })
    }

    /// Carries out a step, or the first half of it.
    fn take(&mut self, step: &Step, half: bool) {
        let before = self.clone();
        match step {
            Step::Nothing | Step::Wait(_) => {}
            Step::AddLearner(node) => {
                assert!(!self.members().joint && self.up.contains(node));
                self.learners.insert(*node);
            }
            Step::SetVoters(voters) => {
                let members = self.members();
                assert!(!voters.is_empty() && voters.iter().all(|node| members.contains(*node)));
                assert!(voters.contains(&self.leader), "a leader keeps its vote while it leads");
                if self.old == self.new || self.new == *voters {
                    self.new = voters.clone();
                } else {
                    // A joint change to other voters starts from the last decided ones.
                    self.old = self.new.clone();
                    self.new = voters.clone();
                }
                self.learners.retain(|node| !voters.contains(node));
                if !half {
                    self.old = self.new.clone();
                }
            }
            Step::RemoveLearners(nodes) => {
                assert!(!self.members().joint && nodes.is_subset(&self.learners));
                self.learners.retain(|node| !nodes.contains(node));
            }
            Step::Transfer(to) => {
                assert!(self.members().voters.contains(to) && self.up.contains(to) && self.caught_up.contains(to));
                self.leader = *to;
            }
        }
        assert!(self.has_quorum(), "{step} took the quorum away from {before:?}");
    }

    /// Elects another leader if the group has a quorum: a voter that is up and has all entries.
    fn elect(&mut self) -> bool {
        let members = self.members();
        let mut able = self
            .up
            .intersection(&self.caught_up)
            .copied()
            .filter(|node| members.voters.contains(node));
        match able.next() {
            Some(leader) if self.has_quorum() => {
                self.leader = leader;
                true
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    Step { half: bool },
    CatchUp,
    Down(NodeId),
    Up(NodeId),
    Elect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|half| Event::Step { half }),
        3 => Just(Event::CatchUp),
        1 => (1..=7_u64).prop_map(|id| Event::Down(NodeId(id))),
        2 => (1..=7_u64).prop_map(|id| Event::Up(NodeId(id))),
        1 => Just(Event::Elect),
    ]
}

fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
    prop::collection::btree_set((1..=7_u64).prop_map(NodeId), 1..=5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever happens in between, no step takes away a working quorum, and once all nodes are up, the desired members are
    /// reached after a bounded number of steps.
    #[test]
    fn a_group_reaches_its_desired_state_and_never_loses_its_quorum(
        voters in nodes(),
        wanted in nodes(),
        later in nodes(),
        events in prop::collection::vec(event(), 0..40),
    ) {
        let all: BTreeSet<NodeId> = (1..=7).map(NodeId).collect();
        let mut group = Model {
            leader: *voters.first().unwrap(),
            old: voters.clone(),
            new: voters.clone(),
            learners: BTreeSet::new(),
            caught_up: voters,
            up: all.clone(),
            wanted,
        };
        for event in events {
            match event {
                Event::Step { half } if group.has_quorum() && group.up.contains(&group.leader) => {
                    let step = group.step();
                    group.take(&step, half);
                }
                Event::CatchUp => {
                    let members = group.members();
                    let up = group.up.clone();
                    group.caught_up.extend(up.into_iter().filter(|node| members.contains(*node)));
                }
                Event::Down(node) => {
                    group.up.remove(&node);
                }
                Event::Up(node) => {
                    group.up.insert(node);
                }
                _ => {}
            }
            if !group.up.contains(&group.leader) || !group.members().voters.contains(&group.leader) {
                group.elect();
            }
        }
        // The desired state changes in the middle, and all nodes return.
        group.wanted = later;
        group.up = all;
        prop_assert!(group.has_quorum() && group.elect());
        let mut steps = BTreeMap::<String, usize>::new();
        loop {
            let members = group.members();
            group.caught_up.extend((1..=7).map(NodeId).filter(|node| members.contains(*node)));
            let step = group.step();
            if step == Step::Nothing {
                break;
            }
            prop_assert!(!matches!(step, Step::Wait(_)), "{step} with everyone up: {group:?}");
            *steps.entry(step.to_string()).or_default() += 1;
            prop_assert!(steps.values().sum::<usize>() <= 20, "no end: {steps:?}");
            group.take(&step, false);
        }
        prop_assert_eq!(&group.new, &group.wanted);
        prop_assert!(group.learners.is_empty() && !group.members().joint);
        prop_assert!(group.wanted.contains(&group.leader));
    }
}
