//! Members, join tokens and placements: rules one by one, then random commands against a plain model.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::registry::v1::{
    AdmitNode, ClusterRecord, CreateJoinToken, FoundCluster, JoinTokenRecord, NodeRecord, NodeRole, NodeState,
    PlacementRecord, PutNode, RemoveNode, SetNodeState, SetPlacements, SetReplicationFactor,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cluster::{MAX_JOIN_TOKENS, MAX_NODES, MAX_REMOVED_NODES};

const PARTITIONS: u32 = 4;
pub(super) const LIFE: u64 = 1_000;

pub(super) fn node(id: u64) -> NodeRecord {
    NodeRecord {
        id,
        name: format!("n{id}"),
        address: format!("10.0.0.{id}:9000"),
        version: "1".into(),
        ..NodeRecord::default()
    }
}

pub(super) fn hash(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number; 32])
}

fn placement(partition: u32, replicas: &[u64]) -> PlacementRecord {
    PlacementRecord {
        record_version: 1,
        partition,
        replicas: replicas.to_vec(),
        founder: 1,
    }
}

fn found_command(cluster: &str, node: NodeRecord) -> Command {
    Command::FoundCluster(FoundCluster {
        cluster: cluster.into(),
        replication_factor: 3,
        node: Some(node),
    })
}

pub(super) fn token_command(number: u8, now: u64, role: NodeRole) -> Command {
    Command::CreateJoinToken(CreateJoinToken {
        secret_hash: hash(number),
        expires_ms: now + LIFE,
        role: role.into(),
    })
}

pub(super) fn admit_command(number: u8, node: NodeRecord) -> Command {
    Command::AdmitNode(AdmitNode {
        secret_hash: hash(number),
        node: Some(node),
        feature_level: 0,
    })
}

fn remove_command(id: u64, force: bool) -> Command {
    Command::RemoveNode(RemoveNode { id, force })
}

fn state_command(id: u64, state: NodeState) -> Command {
    advance_command(id, NodeState::Unspecified, state)
}

fn advance_command(id: u64, expected: NodeState, state: NodeState) -> Command {
    Command::SetNodeState(SetNodeState {
        id,
        state: state.into(),
        expected_state: expected.into(),
    })
}

fn place_command(version: u64, placements: Vec<PlacementRecord>) -> Command {
    Command::SetPlacements(SetPlacements {
        expected_view_version: version,
        placements,
    })
}

impl Memory {
    /// A hub whose cluster node 1 has founded.
    pub(super) fn clustered() -> Self {
        let mut hub = Self::default();
        let settings = HubSettings {
            partition_count: PARTITIONS,
            max_identities: 100,
            ..HubSettings::default()
        };
        hub.command(
            1,
            Command::Bootstrap(Bootstrap {
                settings: Some(settings),
            }),
        );
        assert_eq!(hub.at(2, found_command("c", node(1))), (0, String::new()));
        hub
    }

    /// The code and text of the answer.
    pub(super) fn at(&mut self, time_ms: u64, command: Command) -> (u32, String) {
        let before = self.clone();
        let effects = self.command(time_ms, command);
        let answer = &effects.answer.entries[0];
        if answer.error_code != 0 {
            assert_eq!(before, *self, "a refused command writes nothing");
            assert!(!answer.error_text.is_empty());
        }
        assert_eq!(
            effects.cluster_changed,
            before.version() != self.version(),
            "the view's version says whether it changed"
        );
        (answer.error_code, answer.error_text.clone())
    }

    pub(super) fn code_at(&mut self, time_ms: u64, command: Command) -> u32 {
        self.at(time_ms, command).0
    }

    fn version(&self) -> u64 {
        let record = View::new(self).message::<ClusterRecord>(layout::CLUSTER).unwrap();
        record.map_or(0, |record| record.view_version)
    }

    pub(super) fn member(&self, id: u64) -> Option<NodeRecord> {
        View::new(self).message(&layout::node(id)).unwrap()
    }

    fn placed(&self, partition: u16) -> PlacementRecord {
        let key = layout::placement(holdfast_model::PartitionId(partition));
        View::new(self).message(&key).unwrap().unwrap()
    }

    /// Lets a node join by a token of its own.
    fn join(&mut self, id: u64, role: NodeRole) {
        let number = u8::try_from(id).unwrap();
        assert_eq!(self.code_at(10, token_command(number, 10, role)), 0);
        assert_eq!(self.at(11, admit_command(number, node(id))), (0, String::new()));
    }
}

#[test]
fn a_hub_of_the_version_without_clusters_founds_its_own_when_it_starts_again() {
    let mut hub = Memory::founded(100);
    // Commands as the earlier version wrote them.
    let old = |command| RegistryCommand {
        version: 1,
        time_ms: 5,
        command: Some(command),
    };
    let write = Command::WriteIdentities(WriteIdentities {
        writes: vec![create("dev")],
    });
    assert_eq!(version_of(&write), 1, "an older replica must be able to apply it");
    hub.apply(&old(write));
    let mut settings: HubSettings = View::new(&hub).message(layout::SETTINGS).unwrap().unwrap();
    settings.partition_count = PARTITIONS;
    hub.0.insert(
        layout::SETTINGS.to_vec(),
        Bytes::from(prost::Message::encode_to_vec(&settings)),
    );
    assert_eq!(hub.code_at(6, admit_command(1, node(2))), 400_003, "not founded yet");
    let found = found_command("c", node(1));
    assert_eq!(version_of(&found), 2);
    assert_eq!(hub.at(7, found.clone()), (0, String::new()));
    let first = hub.member(1).unwrap();
    assert_eq!(
        (first.role(), first.state(), first.joined_ms),
        (NodeRole::Core, NodeState::Active, 7)
    );
    for partition in 0..4 {
        assert_eq!(hub.placed(partition), placement(partition.into(), &[1]));
    }
    assert!(hub.record("dev", "").is_some());
    // The next start changes nothing, and a node of another cluster is refused with advice.
    let before = hub.clone();
    assert_eq!(hub.code_at(8, found), 0);
    assert_eq!(before, hub);
    assert_eq!(hub.code_at(9, found_command("other", node(1))), 409_000);
    assert_eq!(hub.code_at(9, found_command("c", node(2))), 409_000);
}

#[test]
fn a_token_admits_one_node_which_may_ask_again() {
    let mut hub = Memory::clustered();
    assert_eq!(hub.code_at(100, token_command(1, 100, NodeRole::Gateway)), 0);
    assert_eq!(hub.code_at(101, admit_command(9, node(2))), 401_002, "unknown");
    let (code, text) = hub.at(100 + LIFE, admit_command(1, node(2)));
    assert_eq!(code, 401_002);
    assert!(
        text.contains("expired") && text.contains("holdfast node token"),
        "{text}"
    );
    let core = NodeRecord {
        role: NodeRole::Core.into(),
        state: NodeState::Active.into(),
        ..node(2)
    };
    assert_eq!(hub.code_at(100 + LIFE - 1, admit_command(1, core)), 0);
    let joined = hub.member(2).unwrap();
    assert_eq!(
        (joined.role(), joined.state()),
        (NodeRole::Gateway, NodeState::Joining),
        "the token says the role"
    );
    // The answer was lost, and meanwhile the node has got another address, and the token has expired.
    let moved = NodeRecord {
        address: "10.1.1.1:9000".into(),
        ..node(2)
    };
    assert_eq!(hub.code_at(100 + 2 * LIFE, admit_command(1, moved)), 0);
    assert_eq!(hub.member(2).unwrap().address, "10.1.1.1:9000");
    let (code, text) = hub.at(150, admit_command(1, node(3)));
    assert_eq!(code, 401_002);
    assert!(text.contains("used"), "{text}");
    // A member needs no token, and does not spend one.
    assert_eq!(hub.code_at(200, token_command(2, 200, NodeRole::Core)), 0);
    assert_eq!(hub.code_at(201, admit_command(2, node(1))), 409_000);
    for (taken, what) in [
        (
            NodeRecord {
                name: "N1".into(),
                ..node(3)
            },
            "called",
        ),
        (
            NodeRecord {
                address: node(1).address,
                ..node(3)
            },
            "address",
        ),
    ] {
        let (code, text) = hub.at(202, admit_command(2, taken));
        assert_eq!(code, 409_000);
        assert!(text.contains(what), "{text}");
    }
    assert_eq!(
        hub.code_at(203, admit_command(2, node(3))),
        0,
        "no refusal has spent it"
    );
}

#[test]
fn a_removed_node_does_not_come_back_and_leaves_no_trace_in_placements() {
    let mut hub = Memory::clustered();
    assert_eq!(hub.code_at(10, remove_command(1, true)), 400_003, "the last core node");
    for id in [2, 3] {
        hub.join(id, NodeRole::Core);
    }
    hub.join(4, NodeRole::Gateway);
    let version = hub.version();
    assert_eq!(
        hub.code_at(
            12,
            place_command(version, vec![placement(0, &[2, 1, 3]), placement(1, &[2])])
        ),
        0
    );
    let (code, text) = hub.at(13, remove_command(2, false));
    assert_eq!(code, 400_003);
    assert!(text.contains("drain"), "{text}");
    let (code, text) = hub.at(13, remove_command(2, true));
    assert_eq!(code, 400_003, "it alone holds partition 1");
    assert!(text.contains("partition 1"), "{text}");
    assert_eq!(hub.code_at(14, state_command(2, NodeState::Drained)), 400_003);
    let version = hub.version();
    assert_eq!(hub.code_at(15, place_command(version, vec![placement(1, &[3, 2])])), 0);
    assert_eq!(hub.code_at(16, remove_command(2, true)), 0);
    assert_eq!((hub.placed(0).replicas, hub.placed(1).replicas), (vec![1, 3], vec![3]));
    assert_eq!(hub.member(2), None);
    assert_eq!(hub.code_at(17, remove_command(2, false)), 0, "asked again");
    assert_eq!(hub.code_at(17, remove_command(99, false)), 404_000);
    let (code, text) = hub.at(18, Command::PutNode(PutNode { node: Some(node(2)) }));
    assert_eq!(code, 404_000);
    assert!(text.contains("removed"), "{text}");
    assert_eq!(hub.code_at(19, token_command(9, 19, NodeRole::Core)), 0);
    let (code, text) = hub.at(20, admit_command(9, node(2)));
    assert_eq!(code, 400_003);
    assert!(text.contains("joins empty"), "{text}");
    let replacement = NodeRecord {
        name: node(2).name,
        address: node(2).address,
        ..node(5)
    };
    assert_eq!(
        hub.code_at(21, admit_command(9, replacement)),
        0,
        "the name is free again"
    );
}

#[test]
fn placements_are_a_compare_and_set_of_members() {
    let mut hub = Memory::clustered();
    hub.join(2, NodeRole::Core);
    hub.join(3, NodeRole::Gateway);
    let version = hub.version();
    let good = vec![placement(0, &[2, 1])];
    assert_eq!(hub.code_at(12, place_command(version - 1, good.clone())), 412_001);
    let other_founder = PlacementRecord {
        founder: 2,
        ..placement(1, &[2])
    };
    for bad in [
        placement(0, &[]),
        placement(0, &[1, 1]),
        placement(0, &[1, 7]),
        placement(0, &[3]),
        placement(PARTITIONS, &[1]),
        placement(70_000, &[1]),
        placement(0, &[1, 2, 3, 4, 5, 6, 7, 8]),
        other_founder,
    ] {
        // All or none: the good one before it is not done either.
        assert_eq!(
            hub.code_at(12, place_command(version, vec![placement(2, &[2]), bad.clone()])),
            400_004,
            "{bad:?}"
        );
    }
    let twice = vec![placement(0, &[1]), placement(0, &[2])];
    assert_eq!(hub.code_at(12, place_command(version, twice)), 400_004);
    assert_eq!(hub.code_at(12, place_command(version, good.clone())), 0);
    assert_eq!(hub.version(), version + 1);
    assert_eq!(hub.code_at(12, place_command(version + 1, good)), 0);
    assert_eq!(hub.version(), version + 1, "what changes nothing is no change");
}

#[test]
fn a_delayed_change_of_a_node_does_not_undo_a_later_one_of_the_operator() {
    let mut hub = Memory::clustered();
    hub.join(2, NodeRole::Gateway);
    let activated = || advance_command(2, NodeState::Joining, NodeState::Active);
    let drained = || advance_command(2, NodeState::Draining, NodeState::Drained);
    assert_eq!(hub.code_at(20, activated()), 0);
    assert_eq!(hub.code_at(21, state_command(2, NodeState::Draining)), 0);
    assert_eq!(hub.code_at(22, activated()), 412_001, "it drains already");
    assert_eq!(hub.code_at(23, state_command(2, NodeState::Active)), 0, "taken back");
    let (code, text) = hub.at(24, drained());
    assert_eq!(code, 412_001);
    assert!(text.contains("ACTIVE"), "{text}");
    assert_eq!(hub.member(2).unwrap().state(), NodeState::Active);
    assert_eq!(hub.code_at(25, state_command(2, NodeState::Draining)), 0);
    assert_eq!(hub.code_at(26, drained()), 0);
    assert_eq!(hub.code_at(27, drained()), 0, "its answer was lost");
    assert_eq!(
        version_of(&drained()),
        4,
        "an older replica would overlook the condition"
    );
    assert_eq!(version_of(&state_command(2, NodeState::Draining)), 2);
}

#[test]
fn a_node_sets_its_name_and_address_but_not_its_role() {
    let mut hub = Memory::clustered();
    hub.join(2, NodeRole::Gateway);
    let renamed = NodeRecord {
        name: "edge-2".into(),
        zone: "z2".into(),
        version: "2".into(),
        role: NodeRole::Core.into(),
        state: NodeState::Drained.into(),
        joined_ms: 77,
        ..node(2)
    };
    assert_eq!(hub.code_at(20, Command::PutNode(PutNode { node: Some(renamed) })), 0);
    let now = hub.member(2).unwrap();
    assert_eq!(
        (now.name.as_str(), now.zone.as_str(), now.version.as_str()),
        ("edge-2", "z2", "2")
    );
    assert_eq!(
        (now.role(), now.state(), now.joined_ms),
        (NodeRole::Gateway, NodeState::Joining, 11)
    );
    let taken = NodeRecord {
        name: "n1".into(),
        ..node(2)
    };
    assert_eq!(
        hub.code_at(21, Command::PutNode(PutNode { node: Some(taken) })),
        409_000
    );
    for bad in [
        NodeRecord { id: 0, ..node(2) },
        NodeRecord {
            name: String::new(),
            ..node(2)
        },
        NodeRecord {
            name: "a b".into(),
            ..node(2)
        },
        NodeRecord {
            name: "x".repeat(65),
            ..node(2)
        },
        NodeRecord {
            zone: "ä".into(),
            ..node(2)
        },
        NodeRecord {
            address: "host".into(),
            ..node(2)
        },
        NodeRecord {
            address: ":1".into(),
            ..node(2)
        },
        NodeRecord {
            address: "host:0".into(),
            ..node(2)
        },
        NodeRecord {
            address: "host:65536".into(),
            ..node(2)
        },
        NodeRecord {
            address: "ho st:1".into(),
            ..node(2)
        },
        NodeRecord {
            address: format!("{}:1", "x".repeat(300)),
            ..node(2)
        },
        NodeRecord {
            version: "1".repeat(65),
            ..node(2)
        },
    ] {
        assert_eq!(
            hub.code_at(
                22,
                Command::PutNode(PutNode {
                    node: Some(bad.clone())
                })
            ),
            400_004,
            "{bad:?}"
        );
    }
    assert_eq!(hub.code_at(23, state_command(2, NodeState::Joining)), 0, "as it is");
    assert_eq!(hub.code_at(23, state_command(2, NodeState::Active)), 0);
    assert_eq!(hub.code_at(24, state_command(2, NodeState::Joining)), 400_004);
    assert_eq!(hub.code_at(25, state_command(2, NodeState::Drained)), 0);
    let factor = |factor| {
        Command::SetReplicationFactor(SetReplicationFactor {
            replication_factor: factor,
        })
    };
    assert_eq!(hub.code_at(26, factor(0)), 400_004);
    assert_eq!(hub.code_at(26, factor(6)), 400_004);
    assert_eq!(hub.code_at(27, factor(1)), 0);
    assert_eq!(hub.code_at(28, factor(2)), 0);
    assert_eq!(hub.code_at(29, factor(5)), 0);
    let versions = [1, 2, 3, 4, 5].map(|number| version_of(&factor(number)));
    assert_eq!(versions, [2, 3, 2, 3, 3], "an older replica must not answer otherwise");
}

#[test]
fn tokens_nodes_and_removed_nodes_have_their_limits() {
    let mut hub = Memory::clustered();
    let wrong = Command::CreateJoinToken(CreateJoinToken {
        secret_hash: Bytes::from_static(b"short"),
        expires_ms: 100,
        role: NodeRole::Core.into(),
    });
    assert_eq!(hub.code_at(10, wrong), 400_004);
    let most = u8::try_from(MAX_JOIN_TOKENS).unwrap();
    for number in 0..most {
        assert_eq!(hub.code_at(10, token_command(number, 10, NodeRole::Core)), 0);
    }
    assert_eq!(hub.code_at(11, token_command(most, 11, NodeRole::Core)), 400_003);
    assert_eq!(hub.code_at(12, admit_command(0, node(2))), 0);
    assert_eq!(
        hub.code_at(13, token_command(most, 13, NodeRole::Core)),
        0,
        "a used one makes room"
    );
    let later = 14 + LIFE + 24 * 3600 * 1000;
    assert_eq!(hub.code_at(later, token_command(200, later, NodeRole::Core)), 0);
    let kept = hub.0.keys().filter(|key| key[0] == b'j').count();
    assert_eq!(kept, 1, "what has expired long ago is forgotten");

    let mut id = 3;
    while hub.0.keys().filter(|key| key[0] == b'n').count() < MAX_NODES {
        hub.0.insert(
            layout::node(id),
            prost::Message::encode_to_vec(&NodeRecord {
                role: NodeRole::Core.into(),
                ..node(id)
            })
            .into(),
        );
        id += 1;
    }
    assert_eq!(hub.code_at(later, admit_command(200, node(250))), 400_003);
    for removed in 0..MAX_REMOVED_NODES as u64 + 5 {
        let id = 10_000 + removed;
        let record = NodeRecord {
            role: NodeRole::Gateway.into(),
            ..node(id)
        };
        hub.0
            .insert(layout::node(id), prost::Message::encode_to_vec(&record).into());
        assert_eq!(hub.code_at(later + removed, remove_command(id, false)), 0);
    }
    let kept = hub.0.keys().filter(|key| key[0] == b'r').count();
    assert_eq!(kept, MAX_REMOVED_NODES, "the first are forgotten first");
    assert!(!hub.0.contains_key(&layout::removed_node(10_000)));
}

/// The cluster, as simply as possible.
#[derive(Debug, Default)]
struct Model {
    version: u64,
    nodes: BTreeMap<u64, (NodeRole, NodeState)>,
    removed: BTreeSet<u64>,
    tokens: BTreeMap<u8, (NodeRole, u64, u64)>,
    placed: BTreeMap<u32, Vec<u64>>,
}

impl Model {
    fn changed(&mut self) -> u32 {
        self.version += 1;
        0
    }

    fn expect(&mut self, now: u64, command: &Command) -> u32 {
        match command {
            Command::CreateJoinToken(command) => match self.tokens.entry(command.secret_hash[0]) {
                Entry::Occupied(_) => 409_000,
                Entry::Vacant(place) => {
                    place.insert((command.role(), command.expires_ms, 0));
                    0
                }
            },
            Command::AdmitNode(command) => {
                let id = command.node.as_ref().unwrap().id;
                let Some((role, expires, used_by)) = self.tokens.get_mut(&command.secret_hash[0]) else {
                    return 401_002;
                };
                if self.removed.contains(&id) {
                    return 400_003;
                }
                if *used_by == id && self.nodes.contains_key(&id) {
                    return 0;
                }
                if *used_by != 0 || *expires <= now {
                    return 401_002;
                }
                if self.nodes.contains_key(&id) {
                    return 409_000;
                }
                *used_by = id;
                let role = *role;
                self.nodes.insert(id, (role, NodeState::Joining));
                self.changed()
            }
            Command::SetNodeState(command) => {
                let held = self.placed.values().any(|replicas| replicas.contains(&command.id));
                let Some((_, state)) = self.nodes.get_mut(&command.id) else {
                    return 404_000;
                };
                let wanted = command.state();
                if *state == wanted {
                    return 0;
                }
                let expected = command.expected_state();
                if expected != NodeState::Unspecified && expected != *state {
                    return 412_001;
                }
                match wanted {
                    NodeState::Joining => return 400_004,
                    NodeState::Drained if held => return 400_003,
                    _ => *state = wanted,
                }
                self.changed()
            }
            Command::RemoveNode(command) => {
                if self.removed.contains(&command.id) {
                    return 0;
                }
                let Some((role, _)) = self.nodes.get(&command.id) else {
                    return 404_000;
                };
                let cores = self.nodes.values().filter(|(role, _)| *role == NodeRole::Core).count();
                let holds = |replicas: &Vec<u64>| replicas.contains(&command.id);
                if *role == NodeRole::Core && cores == 1
                    || !command.force && self.placed.values().any(holds)
                    || self.placed.values().any(|replicas| *replicas == [command.id])
                {
                    return 400_003;
                }
                for replicas in self.placed.values_mut() {
                    replicas.retain(|id| *id != command.id);
                }
                self.nodes.remove(&command.id);
                self.removed.insert(command.id);
                self.changed()
            }
            Command::SetPlacements(command) => {
                if command.expected_view_version != self.version {
                    return 412_001;
                }
                let mut placed = self.placed.clone();
                for placement in &command.placements {
                    let distinct: BTreeSet<_> = placement.replicas.iter().collect();
                    let cores = |id: &u64| self.nodes.get(id).is_some_and(|(role, _)| *role == NodeRole::Core);
                    if placement.replicas.is_empty()
                        || distinct.len() != placement.replicas.len()
                        || !placement.replicas.iter().all(cores)
                    {
                        return 400_004;
                    }
                    placed.insert(placement.partition, placement.replicas.clone());
                }
                if placed != self.placed {
                    self.placed = placed;
                    return self.changed();
                }
                0
            }
            other => panic!("{other:?}"),
        }
    }
}

fn random_command(rng: &mut StdRng, model: &Model, now: u64) -> Command {
    let id = rng.random_range(1..8);
    match rng.random_range(0..10) {
        0 | 1 => {
            let role = [NodeRole::Core, NodeRole::Core, NodeRole::Gateway][rng.random_range(0..3)];
            token_command(rng.random_range(0..20), now, role)
        }
        2..=4 => admit_command(rng.random_range(0..20), node(id)),
        5 => {
            let states = [
                NodeState::Joining,
                NodeState::Active,
                NodeState::Draining,
                NodeState::Drained,
            ];
            let expected = if rng.random_bool(0.5) {
                NodeState::Unspecified
            } else {
                states[rng.random_range(0..4)]
            };
            advance_command(id, expected, states[rng.random_range(0..4)])
        }
        6 => remove_command(id, rng.random_bool(0.5)),
        _ => {
            let version = model.version - u64::from(rng.random_bool(0.2));
            let replicas: Vec<u64> = (0..rng.random_range(0..4)).map(|_| rng.random_range(1..8)).collect();
            place_command(version, vec![placement(rng.random_range(0..PARTITIONS), &replicas)])
        }
    }
}

#[test]
fn random_commands_about_the_cluster_match_the_model_and_replay_to_the_same_bytes() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut hub = Memory::clustered();
        let mut model = Model {
            version: 1,
            nodes: BTreeMap::from([(1, (NodeRole::Core, NodeState::Active))]),
            placed: (0..PARTITIONS).map(|partition| (partition, vec![1])).collect(),
            ..Model::default()
        };
        let mut log = Vec::new();
        let mut now = 10;
        for number in 0..150 {
            now += rng.random_range(0..60);
            let command = random_command(&mut rng, &model, now);
            let expected = model.expect(now, &command);
            let (code, text) = hub.at(now, command.clone());
            assert_eq!(code, expected, "seed {seed}, command {number}: {command:?}: {text}");
            log.push((now, command));
        }
        assert_eq!(hub.version(), model.version, "seed {seed}");
        let view = View::new(&hub);
        let mut nodes = BTreeMap::new();
        for key in view.keys(&layout::nodes()).unwrap() {
            let record = view.message::<NodeRecord>(&key).unwrap().unwrap();
            nodes.insert(record.id, (record.role(), record.state()));
        }
        assert_eq!(nodes, model.nodes, "seed {seed}");
        for (partition, replicas) in &model.placed {
            assert_eq!(hub.placed(u16::try_from(*partition).unwrap()).replicas, *replicas);
        }
        for key in view.keys(&layout::join_tokens()).unwrap() {
            let token = view.message::<JoinTokenRecord>(&key).unwrap().unwrap();
            assert_eq!(token.used_by, model.tokens[&key[1]].2, "seed {seed}");
        }
        let mut replayed = Memory::clustered();
        for (now, command) in log {
            replayed.at(now, command);
        }
        assert_eq!(replayed, hub, "seed {seed}");
    }
}
