//! Votes, memberships and positions in our own protobuf: no bytes serialized by an alpha library reach a disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_model::NodeId;
use holdfast_proto::consensus::v1 as proto;
use holdfast_storage::StorageError;
use prost::Message;

use crate::ids::{LeaderId, LogId, Membership, Node, StoredMembership, Vote};

fn damaged(what: &str) -> StorageError {
    StorageError::Damaged {
        file: what.to_owned(),
        offset: None,
        reason: "not the message that was written".to_owned(),
    }
}

fn leader_to_proto(leader: &LeaderId) -> proto::LeaderId {
    proto::LeaderId {
        term: leader.term,
        node: leader.node_id.get(),
    }
}

fn leader_from_proto(leader: &proto::LeaderId) -> LeaderId {
    LeaderId {
        term: leader.term,
        node_id: NodeId(leader.node),
    }
}

fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId {
        leader: Some(leader_to_proto(&id.leader_id)),
        index: id.index,
    }
}

fn log_id_from_proto(id: &proto::LogId) -> Option<LogId> {
    Some(LogId::new(leader_from_proto(id.leader.as_ref()?), id.index))
}

pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    proto::Vote {
        leader: Some(leader_to_proto(&vote.leader_id)),
        committed: vote.committed,
    }
    .encode_to_vec()
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, StorageError> {
    let vote = proto::Vote::decode(bytes).map_err(|_| damaged("vote"))?;
    let leader = vote.leader.ok_or_else(|| damaged("vote"))?;
    Ok(Vote {
        leader_id: leader_from_proto(&leader),
        committed: vote.committed,
    })
}

pub(crate) fn encode_watermark(last: &LogId) -> Vec<u8> {
    proto::Watermark {
        last: Some(log_id_to_proto(last)),
    }
    .encode_to_vec()
}

pub(crate) fn decode_watermark(bytes: &[u8]) -> Result<LogId, StorageError> {
    let watermark = proto::Watermark::decode(bytes).map_err(|_| damaged("watermark of a log"))?;
    watermark
        .last
        .as_ref()
        .and_then(log_id_from_proto)
        .ok_or_else(|| damaged("watermark of a log"))
}

fn membership_to_proto(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|config| proto::Voters {
                ids: config.iter().copied().map(NodeId::get).collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| proto::Node {
                id: id.get(),
                address: node.addr.clone(),
            })
            .collect(),
    }
}

fn membership_from_proto(membership: proto::Membership) -> Result<Membership, StorageError> {
    let configs: Vec<BTreeSet<NodeId>> = membership
        .configs
        .into_iter()
        .map(|config| config.ids.into_iter().map(NodeId).collect())
        .collect();
    let nodes: BTreeMap<NodeId, Node> = membership
        .nodes
        .into_iter()
        .map(|node| (NodeId(node.id), Node { addr: node.address }))
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| damaged("membership"))
}

pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    membership_to_proto(membership).encode_to_vec()
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, StorageError> {
    membership_from_proto(proto::Membership::decode(bytes).map_err(|_| damaged("membership"))?)
}

pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    proto::StoredMembership {
        position: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
    .encode_to_vec()
    .into()
}

/// Empty bytes are the membership of a group that has none yet.
pub(crate) fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, StorageError> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let stored = proto::StoredMembership::decode(bytes).map_err(|_| damaged("membership"))?;
    let position = match &stored.position {
        Some(position) => Some(log_id_from_proto(position).ok_or_else(|| damaged("membership"))?),
        None => None,
    };
    Ok(StoredMembership::new(
        position,
        membership_from_proto(stored.membership.unwrap_or_default())?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(
            LeaderId {
                term,
                node_id: NodeId(node),
            },
            index,
        )
    }

    #[test]
    fn stored_values_decode_to_what_was_encoded() {
        for committed in [false, true] {
            let vote = Vote {
                leader_id: LeaderId {
                    term: 3,
                    node_id: NodeId(u64::MAX),
                },
                committed,
            };
            assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        }
        for watermark in [id(0, 0, 0), id(7, 1, u64::MAX)] {
            assert_eq!(decode_watermark(&encode_watermark(&watermark)), Ok(watermark));
        }
        let nodes = BTreeMap::from([
            (NodeId(1), Node { addr: "a:1".to_owned() }),
            (NodeId(2), Node::default()),
            (NodeId(3), Node::default()),
        ]);
        let joint = Membership::new(
            [vec![1], vec![1, 2]]
                .map(|ids| ids.into_iter().map(NodeId).collect())
                .into(),
            nodes,
        )
        .unwrap();
        assert_eq!(decode_membership(&encode_membership(&joint)), Ok(joint.clone()));
        for stored in [
            StoredMembership::default(),
            StoredMembership::new(Some(id(1, 2, 3)), joint),
        ] {
            assert_eq!(decode_stored_membership(&encode_stored_membership(&stored)), Ok(stored));
        }
    }

    #[test]
    fn the_bytes_of_version_1_are_fixed() {
        let vote = Vote {
            leader_id: LeaderId {
                term: 2,
                node_id: NodeId(300),
            },
            committed: true,
        };
        assert_eq!(encode_vote(&vote), [10, 5, 8, 2, 16, 172, 2, 16, 1]);
        assert_eq!(encode_watermark(&id(2, 1, 9)), [10, 8, 10, 4, 8, 2, 16, 1, 16, 9]);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(decode_vote(b"").is_err() && decode_vote(b"\xff").is_err());
        assert!(decode_watermark(b"").is_err());
        assert!(decode_stored_membership(b"\xff\xff").is_err());
    }
}
