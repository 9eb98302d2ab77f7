use std::collections::{BTreeMap, BTreeSet};

use holdfast_model::{PartitionId, UnixMillis};
use holdfast_registry::{ClusterView, MAX_REPLICATION_FACTOR, NodeInfo, NodeRole, NodeState, Placement};
use proptest::prelude::*;

use super::*;

fn node(id: NodeId, zone: &str) -> NodeInfo {
    NodeInfo {
        id,
        name: format!("n{id}"),
        address: format!("n{id}:9700"),
        zone: zone.to_owned(),
        role: NodeRole::Core,
        state: NodeState::Active,
        version: "1".to_owned(),
        joined: UnixMillis(0),
    }
}

/// A cluster that the first of `nodes` has bootstrapped, with the others in service.
fn bootstrapped(partitions: u16, replication_factor: u8, nodes: Vec<NodeInfo>) -> ClusterView {
    let founder = nodes[0].id;
    ClusterView {
        version: 1,
        cluster: "c".to_owned(),
        replication_factor,
        placements: (0..partitions)
            .map(|partition| Placement {
                partition: PartitionId(partition),
                replicas: vec![founder],
                founder,
            })
            .collect(),
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
    }
}

fn settled(mut view: ClusterView) -> ClusterView {
    view.placements = assign(&view);
    view.version += 1;
    view
}

fn loads(view: &ClusterView) -> BTreeMap<NodeId, usize> {
    let mut loads: BTreeMap<NodeId, usize> = Candidates::of(view).ids().map(|id| (id, 0)).collect();
    for replica in view.placements.iter().flat_map(|placement| &placement.replicas) {
        *loads.entry(*replica).or_default() += 1;
    }
    loads
}

fn leads(view: &ClusterView) -> BTreeMap<NodeId, usize> {
    let mut leads: BTreeMap<NodeId, usize> = Candidates::of(view).ids().map(|id| (id, 0)).collect();
    for placement in &view.placements {
        *leads.entry(placement.replicas[0]).or_default() += 1;
    }
    leads
}

fn gap(counts: &BTreeMap<NodeId, usize>) -> usize {
    counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0)
}

/// (partition, node) pairs that `after` has and `before` has not.
fn moves(before: &ClusterView, after: &ClusterView) -> Vec<(u16, NodeId)> {
    let pairs = before.placements.iter().zip(&after.placements);
    pairs
        .flat_map(|(before, after)| {
            let new = after.replicas.iter().filter(|node| !before.replicas.contains(node));
            new.map(|node| (after.partition.0, *node)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn one_node_holds_everything_and_three_share_it_evenly() {
    let one = bootstrapped(16, 3, vec![node(NodeId(1), "")]);
    assert_eq!(assign(&one), one.placements);
    let two = settled(bootstrapped(16, 3, vec![node(NodeId(1), ""), node(NodeId(2), "")]));
    assert!(two.placements.iter().all(|placement| placement.replicas.len() == 2));
    assert_eq!(leads(&two), BTreeMap::from([(NodeId(1), 8), (NodeId(2), 8)]));
    let three = settled(bootstrapped(16, 3, (1..=3).map(|id| node(NodeId(id), "")).collect()));
    assert!(three.placements.iter().all(|placement| placement.replicas.len() == 3));
    assert_eq!(gap(&leads(&three)), 1, "16 leaders over 3 nodes");
}

#[test]
fn replicas_are_in_different_zones_as_soon_as_there_are_two() {
    let nodes = vec![
        node(NodeId(1), "a"),
        node(NodeId(2), "a"),
        node(NodeId(3), "a"),
        node(NodeId(4), "b"),
        node(NodeId(5), "c"),
    ];
    let view = settled(bootstrapped(8, 3, nodes));
    for placement in &view.placements {
        let zones: BTreeSet<&str> = placement
            .replicas
            .iter()
            .map(|id| view.nodes[id].zone.as_str())
            .collect();
        assert_eq!(zones.len(), 3, "{placement:?}");
    }
    let loads = loads(&view);
    assert_eq!((loads[&NodeId(4)], loads[&NodeId(5)]), (8, 8));
    assert!(
        (1..=3).all(|id| loads[&NodeId(id)] <= 3),
        "evenly inside a zone: {loads:?}"
    );
}

#[test]
fn a_zone_that_is_added_later_gets_its_replicas() {
    let nodes = vec![node(NodeId(1), "a"), node(NodeId(2), "a"), node(NodeId(3), "b")];
    let mut view = settled(bootstrapped(8, 3, nodes));
    view.nodes.insert(NodeId(4), node(NodeId(4), "c"));
    let after = settled(view.clone());
    assert_eq!(moves(&view, &after).len(), 8, "one move for each partition");
    assert_eq!(loads(&after)[&NodeId(4)], 8);
}

#[test]
fn joining_draining_and_gateway_nodes_get_no_replicas() {
    for (role, state) in [
        (NodeRole::Gateway, NodeState::Active),
        (NodeRole::Core, NodeState::Joining),
        (NodeRole::Core, NodeState::Draining),
        (NodeRole::Core, NodeState::Drained),
    ] {
        let other = NodeInfo {
            role,
            state,
            ..node(NodeId(2), "")
        };
        let view = settled(bootstrapped(4, 3, vec![node(NodeId(1), ""), other]));
        assert!(
            view.placements.iter().all(|p| p.replicas == [NodeId(1)]),
            "{role:?} {state:?}"
        );
        assert_eq!(
            registry_voters(&view, &BTreeSet::from([NodeId(1)]), &BTreeSet::new()),
            BTreeSet::from([NodeId(1)])
        );
    }
}

#[test]
fn without_a_node_in_service_nothing_changes() {
    let draining = NodeInfo {
        state: NodeState::Draining,
        ..node(NodeId(1), "")
    };
    let view = bootstrapped(4, 3, vec![draining]);
    assert_eq!(assign(&view), view.placements);
    assert!(registry_voters(&view, &BTreeSet::from([NodeId(1)]), &BTreeSet::new()).is_empty());
}

#[test]
fn the_founder_stays_the_founder() {
    let mut view = settled(bootstrapped(4, 1, vec![node(NodeId(1), ""), node(NodeId(2), "")]));
    view.nodes.remove(&NodeId(1));
    assert!(
        assign(&view)
            .iter()
            .all(|placement| placement.founder == NodeId(1) && placement.replicas == [NodeId(2)])
    );
}

/// `(nodes, current voters, lost) => voters`
#[test]
fn registry_voters_are_odd_and_kept_where_possible() {
    let view = |count: u64| bootstrapped(4, 3, (1..=count).map(|id| node(NodeId(id), "")).collect());
    let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<NodeId>>();
    let voters =
        |nodes, current: &[NodeId], given_up: &[NodeId]| registry_voters(&view(nodes), &set(current), &set(given_up));
    assert_eq!(voters(NodeId(1).get(), &[NodeId(1)], &[]), set(&[NodeId(1)]));
    assert_eq!(
        voters(NodeId(2).get(), &[NodeId(1)], &[]),
        set(&[NodeId(1)]),
        "two would survive no failure"
    );
    assert_eq!(
        voters(NodeId(3).get(), &[NodeId(1)], &[]),
        set(&[NodeId(1), NodeId(2), NodeId(3)])
    );
    assert_eq!(
        voters(NodeId(4).get(), &[NodeId(1), NodeId(2), NodeId(4)], &[]),
        set(&[NodeId(1), NodeId(2), NodeId(4)])
    );
    assert_eq!(
        voters(NodeId(2).get(), &[NodeId(1), NodeId(2), NodeId(9)], &[]),
        set(&[NodeId(1), NodeId(2)]),
        "9 has been removed; both copies stay"
    );
    assert_eq!(
        voters(NodeId(5).get(), &[NodeId(1), NodeId(2), NodeId(4)], &[]),
        set(&[NodeId(1), NodeId(2), NodeId(3), NodeId(4), NodeId(5)])
    );
    assert!(
        voters(NodeId(7).get(), &[NodeId(1), NodeId(2), NodeId(4)], &[]).is_superset(&set(&[
            NodeId(1),
            NodeId(2),
            NodeId(4)
        ]))
    );
    assert_eq!(
        voters(NodeId(4).get(), &[NodeId(1), NodeId(2), NodeId(4)], &[NodeId(4)]),
        set(&[NodeId(1), NodeId(2), NodeId(3)]),
        "3 votes for 4, which has been down for long"
    );
    assert_eq!(
        voters(NodeId(3).get(), &[NodeId(1), NodeId(2), NodeId(3)], &[NodeId(3)]),
        set(&[NodeId(1), NodeId(2), NodeId(3)]),
        "there is no other node"
    );
}

#[test]
fn registry_voters_are_in_different_zones() {
    let nodes = vec![
        node(NodeId(1), "a"),
        node(NodeId(2), "a"),
        node(NodeId(3), "a"),
        node(NodeId(4), "b"),
        node(NodeId(5), "c"),
    ];
    let mut view = bootstrapped(4, 3, nodes);
    view.nodes.remove(&NodeId(5));
    let voters = registry_voters(
        &view,
        &BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]),
        &BTreeSet::new(),
    );
    assert!(voters.len() == 3 && voters.contains(&NodeId(4)), "{voters:?}");
}

#[derive(Debug, Clone)]
enum Event {
    Join(NodeId, u8),
    Drain(prop::sample::Index),
    Remove(prop::sample::Index),
    Factor(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (2..60_u64, 0..4_u8).prop_map(|(id, zone)| Event::Join(NodeId(id), zone)),
        1 => any::<prop::sample::Index>().prop_map(Event::Drain),
        1 => any::<prop::sample::Index>().prop_map(Event::Remove),
        1 => (1..=MAX_REPLICATION_FACTOR).prop_map(Event::Factor),
    ]
}

fn happen(view: &mut ClusterView, event: &Event, zones: bool) {
    match event {
        Event::Join(id, zone) => {
            let zone = if zones && *zone > 0 {
                format!("z{zone}")
            } else {
                String::new()
            };
            view.nodes.entry(*id).or_insert_with(|| node(*id, &zone));
        }
        Event::Drain(index) | Event::Remove(index) if view.nodes.len() > 1 => {
            let id = *index.get(&view.nodes.keys().copied().collect::<Vec<_>>());
            if matches!(event, Event::Drain(_)) {
                view.nodes.entry(id).and_modify(|node| node.state = NodeState::Draining);
            } else {
                view.nodes.remove(&id);
            }
        }
        Event::Drain(_) | Event::Remove(_) => {}
        Event::Factor(factor) => view.replication_factor = *factor,
    }
}

/// The invariants of every placement, whatever has happened before.
fn check(view: &ClusterView) {
    let candidates = Candidates::of(view);
    if candidates.len() == 0 {
        return;
    }
    let count = replica_count(view);
    let zones: BTreeMap<Zone<'_>, usize> = candidates.0.values().fold(BTreeMap::new(), |mut zones, zone| {
        *zones.entry(*zone).or_default() += 1;
        zones
    });
    for placement in &view.placements {
        let set: BTreeSet<NodeId> = placement.replicas.iter().copied().collect();
        assert_eq!((set.len(), placement.replicas.len()), (count, count), "{placement:?}");
        assert!(set.iter().all(|node| candidates.contains(*node)), "{placement:?}");
        let used: BTreeSet<Zone<'_>> = set.iter().map(|node| candidates.0[node]).collect();
        assert_eq!(
            used.len(),
            count.min(zones.len()),
            "as many zones as there are: {placement:?}"
        );
    }
    let (loads, leads) = (loads(view), leads(view));
    for zone in zones.keys() {
        let inside = loads.iter().filter(|(node, _)| candidates.0[node] == *zone);
        let inside: BTreeMap<NodeId, usize> = inside.map(|(node, load)| (*node, *load)).collect();
        assert!(gap(&inside) <= 1, "evenly inside a zone: {loads:?}");
    }
    if zones.len() == candidates.len() && zones.keys().all(|zone| matches!(zone, Zone::Alone(_))) {
        assert!(gap(&loads) <= 1 && gap(&leads) <= 1, "{loads:?} {leads:?}");
    }
    assert_eq!(assign(view), view.placements, "what fits is left alone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn placements_are_complete_even_and_stable_after_any_events(
        partitions in 4..=48_u16,
        zones in any::<bool>(),
        events in prop::collection::vec(event(), 1..24),
    ) {
        let mut view = bootstrapped(partitions, 3, vec![node(NodeId(1), "")]);
        for event in &events {
            happen(&mut view, event, zones);
            view = settled(view);
            check(&view);
        }
    }

    #[test]
    fn a_joining_node_only_receives_replicas_and_at_most_its_share(nodes in 3..20_u64, partitions in 4..=64_u16) {
        let before = settled(bootstrapped(partitions, 3, (1..=nodes).map(|id| node(NodeId(id), "")).collect()));
        let mut after = before.clone();
        after.nodes.insert(NodeId(99), node(NodeId(99), ""));
        let after = settled(after);
        let moves = moves(&before, &after);
        prop_assert!(moves.iter().all(|(_, node)| *node == NodeId(99)), "{moves:?}");
        prop_assert!(moves.len() <= (usize::from(partitions) * 3).div_ceil(after.nodes.len()));
    }

    #[test]
    fn a_leaving_node_moves_only_its_replicas(nodes in 4..20_u64, partitions in 4..=64_u16, gone in any::<prop::sample::Index>()) {
        let before = settled(bootstrapped(partitions, 3, (1..=nodes).map(|id| node(NodeId(id), "")).collect()));
        let gone = *gone.get(&before.nodes.keys().copied().collect::<Vec<_>>());
        let mut after = before.clone();
        after.nodes.remove(&gone);
        let after = settled(after);
        // Evening out afterwards moves at most one replica per node.
        let held = loads(&before)[&gone];
        let moved = moves(&before, &after).len();
        prop_assert!(moved >= held && moved <= held + after.nodes.len(), "{held} held, {moved} moved");
    }

    #[test]
    fn registry_voters_are_a_stable_odd_number_of_core_nodes(
        events in prop::collection::vec(event(), 1..24),
        zones in any::<bool>(),
    ) {
        let mut view = bootstrapped(4, 3, vec![node(NodeId(1), "")]);
        let mut current = BTreeSet::from([NodeId(1)]);
        for event in &events {
            happen(&mut view, event, zones);
            let voters = registry_voters(&view, &current, &BTreeSet::new());
            let candidates = Candidates::of(&view);
            prop_assert!(voters.iter().all(|node| candidates.contains(*node)));
            prop_assert_eq!(voters.is_empty(), candidates.len() == 0);
            prop_assert!(voters.is_empty() || voters.len() % 2 == 1 || (voters.len() == 2 && candidates.len() == 2));
            prop_assert_eq!(registry_voters(&view, &voters, &BTreeSet::new()), voters.clone());
            if !voters.is_empty() {
                current = voters;
            }
        }
    }
}
