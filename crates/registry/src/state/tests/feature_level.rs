//! The hub's feature level, and what a joining node must support.

use holdfast_model::FEATURE_LEVEL;
use holdfast_proto::registry::v1::registry_command::Command;
use holdfast_proto::registry::v1::{AdmitNode, ClusterRecord, HubSettings, NodeRole, RaiseFeatureLevel};

use super::cluster::{admit_command, node, token_command};
use super::{ApplyError, COMMAND_VERSION, Memory, RegistryCommand, View, apply, layout};

fn raise(level: u32, view: u64) -> Command {
    Command::RaiseFeatureLevel(RaiseFeatureLevel {
        level,
        expected_view_version: view,
    })
}

fn level(hub: &Memory) -> u32 {
    let settings = View::new(hub).message::<HubSettings>(layout::SETTINGS).unwrap();
    settings.unwrap().feature_level
}

fn view(hub: &Memory) -> u64 {
    let cluster = View::new(hub).message::<ClusterRecord>(layout::CLUSTER).unwrap();
    cluster.unwrap().view_version
}

#[test]
fn the_level_is_raised_while_the_members_are_those_that_were_asked_and_never_falls() {
    let mut hub = Memory::clustered();
    assert_eq!(level(&hub), 0, "a hub from before there were levels");
    let seen = view(&hub);
    assert_eq!(hub.code_at(10, raise(11, seen + 1)), 412_001);
    assert_eq!(hub.code_at(11, raise(11, seen)), 0);
    assert_eq!(level(&hub), 11);
    assert_eq!(hub.code_at(12, raise(5, seen)), 0);
    assert_eq!(level(&hub), 11);
    assert_eq!(hub.code_at(13, raise(FEATURE_LEVEL, seen)), 0);
    assert_eq!(level(&hub), FEATURE_LEVEL);
}

#[test]
fn a_replica_stops_at_a_level_that_it_does_not_support() {
    let hub = Memory::clustered();
    let command = |view| RegistryCommand {
        version: COMMAND_VERSION,
        time_ms: 10,
        command: Some(raise(FEATURE_LEVEL + 1, view)),
    };
    let stopped = apply(&hub, &command(view(&hub)));
    assert!(
        matches!(stopped, Err(ApplyError::NewerFeatureLevel { level }) if level == FEATURE_LEVEL + 1),
        "{stopped:?}"
    );
    assert!(apply(&hub, &command(view(&hub) + 1)).is_ok(), "refused for all alike");
}

#[test]
fn a_node_joins_only_with_a_version_that_supports_the_level() {
    let mut hub = Memory::clustered();
    let admit = |number, id, feature_level| {
        let Command::AdmitNode(command) = admit_command(number, node(id)) else {
            panic!("no admission")
        };
        Command::AdmitNode(AdmitNode {
            feature_level,
            ..command
        })
    };
    for number in 1..=3 {
        assert_eq!(hub.code_at(10, token_command(number, 10, NodeRole::Core)), 0);
    }
    assert_eq!(hub.code_at(11, admit(1, 2, 0)), 0, "the hub has no level yet");
    let seen = view(&hub);
    assert_eq!(hub.code_at(12, raise(FEATURE_LEVEL, seen)), 0);
    let (code, text) = hub.at(13, admit(2, 3, 0));
    assert_eq!(code, 400_003);
    assert!(text.contains("install the version"), "{text}");
    assert_eq!(hub.code_at(14, admit(2, 3, FEATURE_LEVEL - 1)), 400_003);
    assert_eq!(
        hub.code_at(15, admit(2, 3, FEATURE_LEVEL)),
        0,
        "the token is still good"
    );
    assert_eq!(hub.code_at(16, admit(3, 4, FEATURE_LEVEL + 1)), 0);
}
