use std::time::Duration;

use bytes::Bytes;
use holdfast_model::Term;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::*;
use crate::GroupId;
use crate::error::{ProposeError, ReadError};
use crate::ids::{Command, Entry, Payload};
use crate::position::LogPosition;
use crate::type_config::Types;

fn vote(term: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId {
            term,
            node_id: NodeId(7),
        },
        committed,
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term,
            node_id: NodeId(7),
        },
        index,
    )
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry {
        log_id: id(term, index),
        payload,
    }
}

fn normal(bytes: usize) -> Payload {
    Payload::Normal(Command(vec![0x5a; bytes].into()))
}

fn append(entries: Vec<Entry>) -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: vote(4, true),
        prev_log_id: Some(id(2, 9)),
        leader_commit: Some(id(2, 8)),
        entries,
    }
}

fn body(segments: Vec<Bytes>) -> Bytes {
    segments.concat().into()
}

fn read(body: Bytes) -> Result<AppendEntriesRequest<Types>, WireError> {
    let (kind, cursor) = decode(body)?;
    assert_eq!(kind, Kind::Append);
    append::decode(GroupId(1), cursor)
}

type Parts = (Vote, Option<LogId>, Option<LogId>, Vec<Entry>);

fn parts(request: AppendEntriesRequest<Types>) -> Parts {
    (
        request.vote,
        request.prev_log_id,
        request.leader_commit,
        request.entries,
    )
}

fn mixed() -> AppendEntriesRequest<Types> {
    let membership = openraft::Membership::new_with_defaults(vec![[1, 2].map(NodeId).into()], [NodeId(3)]);
    append(vec![
        entry(2, 10, normal(5)),
        entry(2, 11, normal(5_000)),
        entry(4, 12, Payload::Blank),
        entry(4, 13, Payload::Membership(membership)),
        entry(4, 14, normal(0)),
        entry(4, 15, normal(600)),
    ])
}

#[test]
fn entries_read_back_and_large_payloads_are_not_copied() {
    for request in [append(vec![]), mixed()] {
        let segments = append::encode(&request);
        let whole = body(segments.clone());
        assert_eq!(parts(read(whole).unwrap()), parts(request.clone()));
        for entry in &request.entries {
            if let Payload::Normal(command) = &entry.payload
                && command.0.len() > 512
            {
                assert!(segments.iter().any(|segment| segment.as_ptr() == command.0.as_ptr()));
            }
        }
    }
    let first = append(vec![]);
    let from_nothing = AppendEntriesRequest {
        prev_log_id: None,
        leader_commit: None,
        entries: vec![entry(1, 0, normal(1))],
        ..first
    };
    let whole = body(append::encode(&from_nothing));
    assert_eq!(parts(read(whole).unwrap()), parts(from_nothing));
}

#[test]
fn received_payloads_are_not_copied() {
    let whole = body(append::encode(&mixed()));
    let range = whole.as_ptr_range();
    for entry in read(whole.clone()).unwrap().entries {
        if let Payload::Normal(command) = entry.payload
            && !command.0.is_empty()
        {
            assert!(range.contains(&command.0.as_ptr()));
        }
    }
}

#[test]
fn damaged_cut_and_disordered_entries_are_refused() {
    let whole = body(append::encode(&mixed()));
    for length in 0..whole.len() {
        assert!(read(whole.slice(..length)).is_err(), "cut to {length}");
    }
    // Behind the count: lengths and entries, all of which are covered by checksums or by their order.
    for bit in (2 + 17 + 25 + 25) * 8..whole.len() * 8 {
        let mut changed = whole.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let fewer = read(changed.into()).is_ok_and(|read| read.entries.len() < 6);
        let count = bit < (2 + 17 + 25 + 25 + 4) * 8;
        assert!(fewer == (count && fewer), "bit {bit}");
    }
    for wrong in [
        append(vec![entry(2, 11, normal(1))]),
        append(vec![entry(1, 10, normal(1))]),
        append(vec![entry(5, 10, normal(1))]),
        append(vec![entry(3, 10, normal(1)), entry(2, 11, normal(1))]),
        AppendEntriesRequest {
            vote: vote(4, false),
            ..append(vec![])
        },
        AppendEntriesRequest {
            prev_log_id: Some(id(5, 9)),
            ..append(vec![])
        },
    ] {
        assert!(read(body(append::encode(&wrong))).is_err(), "{wrong:?}");
    }
}

#[test]
fn other_versions_and_kinds_are_refused() {
    assert_eq!(decode(Bytes::new()).unwrap_err(), WireError::Short);
    assert_eq!(decode(Bytes::from_static(&[2, 1])).unwrap_err(), WireError::Version(2));
    assert_eq!(decode(Bytes::from_static(&[1, 0])).unwrap_err(), WireError::Kind(0));
    assert_eq!(decode(Bytes::from_static(&[1, 10])).unwrap_err(), WireError::Kind(10));
}

#[test]
fn answers_to_entries_read_back() {
    for answer in [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(None),
        AppendEntriesResponse::PartialSuccess(Some(id(3, 4))),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote(9, false)),
    ] {
        let encoded = append::encode_answer(&answer);
        assert_eq!(append::decode_answer(encoded), Ok(answer));
    }
    assert!(append::decode_answer(Bytes::from_static(&[7])).is_err());
    assert!(append::decode_answer(Bytes::new()).is_err());
}

#[test]
fn votes_and_transfers_read_back() {
    let mut request = VoteRequest::<Types>::new(vote(3, false), Some(id(2, 5)));
    request.leadership_transfer = true;
    let (kind, cursor) = decode(vote::encode(Kind::PreVote, &request)).unwrap();
    assert_eq!(kind, Kind::PreVote);
    assert_eq!(vote::decode(cursor), Ok(request));
    let answer = VoteResponse::<Types>::new(vote(3, true), None, true);
    assert_eq!(vote::decode_answer(vote::encode_answer(&answer)), Ok(answer));

    let request = TransferLeaderRequest::<Types>::new(vote(3, true), NodeId(8), Some(id(3, 6)));
    let (kind, cursor) = decode(vote::encode_transfer(&request)).unwrap();
    assert_eq!(kind, Kind::TransferLeader);
    assert_eq!(vote::decode_transfer(cursor), Ok(request));
    for answer in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged {
            expected: vote(3, true),
            actual: vote(4, false),
        }),
        Err(TransferLeaderError::LogNotFlushed {
            expected: Some(id(3, 6)),
            actual: None,
        }),
    ] {
        let encoded = vote::encode_transfer_answer(&answer);
        assert_eq!(vote::decode_transfer_answer(encoded), Ok(answer));
    }
    let candidate = VoteRequest::<Types>::new(vote(3, true), None);
    let (_, cursor) = decode(vote::encode(Kind::Vote, &candidate)).unwrap();
    assert!(vote::decode(cursor).is_err(), "a candidate does not lead");
}

#[test]
fn requests_to_the_leader_decode_to_what_was_encoded() {
    let position = LogPosition {
        term: Term(1),
        node: NodeId(2),
        index: 3,
    };
    for applied in [
        Ok((position, Bytes::from_static(b"answer"))),
        Err(ProposeError::NotLeader { leader: None }),
        Err(ProposeError::NotLeader {
            leader: Some(NodeId(4)),
        }),
        Err(ProposeError::Stopped),
        Err(ProposeError::TooLarge { bytes: 5, limit: 4 }),
        Err(ProposeError::DiskFull),
        Err(ProposeError::Unknown),
    ] {
        let encoded = group::encode_applied(&applied);
        assert_eq!(group::decode_applied(encoded), Ok(applied));
    }
    for point in [
        Ok(group::ReadPoint {
            index: 7,
            age: Duration::from_micros(1_234),
        }),
        Err(ReadError::NotLeader {
            leader: Some(NodeId(1)),
        }),
        Err(ReadError::NoQuorum),
        Err(ReadError::Stopped),
        Err(ReadError::TimedOut),
    ] {
        let encoded = group::encode_read_point(&point);
        assert_eq!(group::decode_read_point(encoded), Ok(point));
    }
    let (kind, cursor) = decode(body(group::encode_propose(Bytes::from_static(b"entry")))).unwrap();
    assert_eq!((kind, cursor.0), (Kind::Propose, Bytes::from_static(b"entry")));
}

#[test]
fn the_bytes_of_version_1_are_fixed() {
    let request = AppendEntriesRequest::<Types> {
        prev_log_id: None,
        entries: vec![],
        ..append(vec![])
    };
    let mut expected = vec![1, 1];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 7, 1]);
    expected.extend([0; 25]);
    expected.extend([
        1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8,
    ]);
    expected.extend([0; 4]);
    assert_eq!(body(append::encode(&request)), expected);
}
