use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

/// A group led by node 1, where everyone is up and ready unless said otherwise.
struct Case {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    joint: bool,
    wanted: BTreeSet<u64>,
    wanted_learners: BTreeSet<u64>,
    down: BTreeSet<u64>,
    behind: BTreeSet<u64>,
    preferred: Option<u64>,
    unwilling: BTreeSet<u64>,
    full: bool,
    successors: Vec<u64>,
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
        unwilling: BTreeSet::new(),
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

    fn preferring(mut self, node: u64) -> Self {
        self.preferred = Some(node);
        self
    }

    fn unwilling(mut self, nodes: &[u64]) -> Self {
        self.unwilling = set(nodes);
        self
    }

    fn full(mut self) -> Self {
        self.full = true;
        self
    }

    fn led_next_by(mut self, nodes: &[u64]) -> Self {
        self.successors = nodes.to_vec();
        self
    }

    fn step(&self) -> Step {
        let members = Members {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            joint: self.joint,
        };
        let everyone: BTreeSet<u64> = (1..=9).collect();
        let up: BTreeSet<u64> = everyone.difference(&self.down).copied().collect();
        let ready: BTreeSet<u64> = up
            .difference(&self.behind)
            .copied()
            .filter(|node| *node == 1 || members.contains(*node))
            .collect();
        step(&Situation {
            me: 1,
            members: &members,
            ready: &ready,
            up: &up,
            voters: &self.wanted,
            learners: &self.wanted_learners,
            preferred: self.preferred,
            unwilling: &self.unwilling,
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
    check(&case(&[1], &[], &[1, 2, 3]), &Step::AddLearner(2));
    check(&case(&[1], &[2], &[1, 2, 3]), &Step::AddLearner(3));
    check(
        &case(&[1], &[2, 3], &[1, 2, 3]).behind(&[3]),
        &Step::Wait(Wait::CatchUp(set(&[2, 3]))),
    );
    check(&case(&[1], &[2, 3], &[1, 2, 3]), &Step::SetVoters(set(&[1, 2, 3])));
    check(&case(&[1, 2, 3], &[], &[1, 2, 3]), &Step::Nothing);
}

#[test]
fn a_replica_moves_from_a_dead_node_to_a_new_one() {
    check(&case(&[1, 2, 3], &[], &[1, 2, 4]).down(&[3]), &Step::AddLearner(4));
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
fn a_dead_node_that_was_removed_goes_without_replacement() {
    check(
        &case(&[1, 2, 3], &[], &[1, 2]).down(&[3]),
        &Step::SetVoters(set(&[1, 2])),
    );
    // With 2 behind, the two that are left could not commit.
    check(
        &case(&[1, 2, 3], &[], &[1, 2]).down(&[3]).behind(&[2]),
        &Step::Wait(Wait::NoQuorum(set(&[1, 2]))),
    );
}

#[test]
fn one_of_two_new_replicas_takes_its_place_while_the_other_is_down() {
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
fn leadership_goes_before_the_vote() {
    // Somebody who stays votes already: it takes over, and makes the change.
    check(&case(&[1, 2, 3], &[4], &[2, 3, 4]), &Step::Transfer(2));
    check(&case(&[1, 2, 3], &[4], &[2, 3, 4]).unwilling(&[2]), &Step::Transfer(3));
    // To who is to lead in the end, if that one can.
    check(
        &case(&[1, 2, 3], &[4], &[2, 3, 4]).led_next_by(&[4, 3, 2]),
        &Step::Transfer(3),
    );
    // It does not wait for the new one to have copied everything, or to be there at all.
    check(&case(&[1, 2, 3], &[], &[2, 3, 4]), &Step::Transfer(2));
    check(&case(&[1, 2, 3], &[4], &[2, 3, 4]).behind(&[4]), &Step::Transfer(2));
    check(&case(&[1, 2, 3], &[], &[2, 3, 4]).down(&[4]), &Step::Transfer(2));
    check(
        &case(&[1, 2, 3], &[], &[2, 3, 4]).unwilling(&[2, 3]),
        &Step::AddLearner(4),
    );
    // Nobody does: the new ones come in beside the leader first.
    check(&case(&[1], &[2], &[2]), &Step::SetVoters(set(&[1, 2])));
    check(&case(&[1, 2], &[], &[2]), &Step::Transfer(2));
    check(
        &case(&[1, 2], &[], &[2]).unwilling(&[2]),
        &Step::Wait(Wait::NoSuccessor),
    );
    check(
        &case(&[1, 2, 3], &[4, 5, 6], &[4, 5, 6]),
        &Step::SetVoters(set(&[1, 4, 5, 6])),
    );
    check(&case(&[1, 4, 5, 6], &[], &[4, 5, 6]), &Step::Transfer(4));
}

#[test]
fn a_change_that_stands_half_way_is_ended_first() {
    check(
        &case(&[1, 2, 3, 4], &[], &[1, 2, 4]).joint(),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).joint(),
        &Step::SetVoters(set(&[1, 2, 3])),
    );
    // Also when somebody else is wanted by now, and when the leader is not.
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
fn learners_come_and_go() {
    check(&case(&[1], &[], &[1]).learning(&[2]), &Step::AddLearner(2));
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
fn leadership_moves_to_who_prefers_it_when_it_can_take_it() {
    check(&case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(2), &Step::Transfer(2));
    check(&case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(1), &Step::Nothing);
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(2).down(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(2).behind(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[], &[1, 2, 3]).preferring(2).unwilling(&[2]),
        &Step::Nothing,
    );
    check(
        &case(&[1, 2, 3], &[4], &[1, 2, 4]).preferring(2),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
}

#[test]
fn a_leader_whose_disk_is_full_hands_on_before_anything_else() {
    let full = |wanted: &[u64]| case(&[1, 2, 3], &[4], wanted).led_next_by(&[1, 3, 2]).full();
    check(&full(&[1, 2, 3]), &Step::Transfer(3));
    check(&full(&[1, 2, 3]).preferring(1), &Step::Transfer(3));
    check(&full(&[1, 2, 4]), &Step::Transfer(3));
    check(&full(&[1, 2, 3]).down(&[3]), &Step::Transfer(2));
    check(&full(&[1, 2, 3]).behind(&[3]), &Step::Transfer(2));
    check(&full(&[1, 2, 3]).unwilling(&[3]), &Step::Transfer(2));
    // Who is to leave votes still, and is better than a leader that takes no writes.
    check(&case(&[1, 4], &[2], &[1, 2]).full(), &Step::Transfer(4));
    // Nobody can: what else is to be done goes on.
    check(&full(&[1, 2, 3]).unwilling(&[2, 3]), &Step::RemoveLearners(set(&[4])));
    check(&case(&[1], &[], &[1]).full(), &Step::Nothing);
    check(
        &case(&[1, 2, 3, 4], &[], &[1, 2, 4]).joint().full(),
        &Step::SetVoters(set(&[1, 2, 4])),
    );
}

#[test]
fn nobody_wanted_is_a_mistake_that_changes_nothing() {
    check(&case(&[1, 2, 3], &[], &[]), &Step::Nothing);
}

#[test]
fn steps_say_in_words_what_they_do() {
    assert_eq!(Step::AddLearner(7).to_string(), "adding 7");
    assert_eq!(Wait::Down(set(&[7, 8])).to_string(), "waiting for 7, 8, which is down");
}

/// A group as consensus would run it: steps are applied, and may stop half-way; nodes come up and go down.
#[derive(Debug, Clone)]
struct Model {
    leader: u64,
    /// The voters before and after a change that stands half-way; equal otherwise.
    old: BTreeSet<u64>,
    new: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    /// Nodes whose replica has everything.
    caught_up: BTreeSet<u64>,
    up: BTreeSet<u64>,
    wanted: BTreeSet<u64>,
}

impl Model {
    fn members(&self) -> Members {
        Members {
            voters: self.old.union(&self.new).copied().collect(),
            learners: self.learners.clone(),
            joint: self.old != self.new,
        }
    }

    fn quorum(&self, of: &BTreeSet<u64>) -> bool {
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
            unwilling: &BTreeSet::new(),
            takes_writes: true,
            successors: &[],
        })
    }

    /// Carries a step out, or the first half of it.
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
                    // From half-way to somewhere else: the last one decided is left from.
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

    /// Another leader, if the group has a quorum; it is one of the up voters that have everything.
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
    Down(u64),
    Up(u64),
    Elect,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any::<bool>().prop_map(|half| Event::Step { half }),
        3 => Just(Event::CatchUp),
        1 => (1..=7_u64).prop_map(Event::Down),
        2 => (1..=7_u64).prop_map(Event::Up),
        1 => Just(Event::Elect),
    ]
}

fn nodes() -> impl Strategy<Value = BTreeSet<u64>> {
    prop::collection::btree_set(1..=7_u64, 1..=5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever comes in between, no step takes a working quorum away, and once everyone is up the members are as
    /// wanted after a bounded number of steps.
    #[test]
    fn a_group_comes_to_what_is_wanted_and_never_below_its_quorum(
        voters in nodes(),
        wanted in nodes(),
        later in nodes(),
        events in prop::collection::vec(event(), 0..40),
    ) {
        let all: BTreeSet<u64> = (1..=7).collect();
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
        // What is wanted changes in the middle, and everyone comes back.
        group.wanted = later;
        group.up = all;
        prop_assert!(group.has_quorum() && group.elect());
        let mut steps = BTreeMap::<String, usize>::new();
        loop {
            let members = group.members();
            group.caught_up.extend((1..=7).filter(|node| members.contains(*node)));
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
