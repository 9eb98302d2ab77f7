//! Revoked join tokens.

use holdfast_proto::registry::v1::{JoinTokenRecord, NodeRole, RevokeJoinToken};

use super::cluster::{LIFE, admit_command, hash, node, token_command};
use super::*;
use crate::cluster::MAX_JOIN_TOKENS;

fn revoke_command(number: u8) -> Command {
    Command::RevokeJoinToken(RevokeJoinToken {
        secret_hash: hash(number),
    })
}

#[test]
fn a_revoked_token_admits_no_node_and_does_not_come_back() {
    let mut hub = Memory::clustered();
    assert_eq!(version_of(&revoke_command(1)), 3, "an older replica stops there");
    assert_eq!(hub.code_at(99, revoke_command(1)), 404_000);
    assert_eq!(hub.code_at(100, token_command(1, 100, NodeRole::Core)), 0);
    assert_eq!(hub.code_at(101, revoke_command(1)), 0);
    let (code, text) = hub.at(102, admit_command(1, node(2)));
    assert_eq!(code, 401_002);
    assert!(
        text.contains("revoked") && text.contains("holdfast node token"),
        "{text}"
    );
    assert!(hub.member(2).is_none());
    // Again, and by adding the same secret again, as a node does whose configuration names it.
    let before = hub.clone();
    assert_eq!(hub.code_at(103, revoke_command(1)), 0);
    assert_eq!(before, hub);
    assert_eq!(hub.code_at(104, token_command(1, 104, NodeRole::Core)), 409_000);
}

#[test]
fn a_used_token_is_not_revoked_but_its_node_removed() {
    let mut hub = Memory::clustered();
    assert_eq!(hub.code_at(100, token_command(1, 100, NodeRole::Core)), 0);
    assert_eq!(hub.code_at(101, admit_command(1, node(2))), 0);
    let (code, text) = hub.at(102, revoke_command(1));
    assert_eq!(code, 400_003);
    assert!(text.contains("remove that node"), "{text}");
    // The node may still retry: the answer may have been lost.
    assert_eq!(hub.code_at(103, admit_command(1, node(2))), 0);
}

#[test]
fn revoked_tokens_make_room_for_new_ones() {
    let mut hub = Memory::clustered();
    let most = u8::try_from(MAX_JOIN_TOKENS).unwrap();
    for number in 0..most {
        assert_eq!(hub.code_at(10, token_command(number, 10, NodeRole::Core)), 0);
    }
    let (code, text) = hub.at(11, token_command(most, 11, NodeRole::Core));
    assert_eq!(code, 400_003);
    assert!(text.contains("revoke"), "{text}");
    assert_eq!(hub.code_at(12, revoke_command(7)), 0);
    assert_eq!(hub.code_at(13, token_command(most, 13, NodeRole::Core)), 0);
}

/// A record as the version before wrote it: fields 1 to 4, and no `revoked_ms`.
#[test]
fn a_token_of_the_version_before_is_good() {
    let mut hub = Memory::clustered();
    let record: &[u8] = &[0x08, 0x01, 0x10, 0x01, 0x18, 0x64, 0x20, 0xcc, 0x08];
    let written = JoinTokenRecord {
        record_version: 1,
        role: NodeRole::Core.into(),
        created_ms: 100,
        expires_ms: 100 + LIFE,
        ..JoinTokenRecord::default()
    };
    assert_eq!(prost::Message::encode_to_vec(&written), record);
    hub.0.insert(layout::join_token(&hash(1)), Bytes::from_static(record));
    assert_eq!(hub.code_at(101, admit_command(1, node(2))), 0);
}
