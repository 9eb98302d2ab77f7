//! Votes, pre-votes and transfers of the leadership.
//!
//! ```text
//! vote, pre-vote   … │ vote 17 │ last place 25 │ by the leader's wish 1
//!   answer         0 │ vote 17 │ granted 1 │ last place 25
//! transfer         … │ leader's vote 17 │ to 8 │ last place 25
//!   answer         0 stands for election │ 1 vote has changed (expected 17, actual 17) │ 2 log is behind (25, 25)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::NodeId;
use openraft::raft::{TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};

use super::{Cursor, Kind, WireError, put_place, put_vote, request};
use crate::type_config::Types;

const REQUEST_BYTES: usize = 64;

pub(crate) fn encode(kind: Kind, vote: &VoteRequest<Types>) -> Bytes {
    let mut body = request(kind, REQUEST_BYTES);
    put_vote(&mut body, &vote.vote);
    put_place(&mut body, vote.last_log_id.as_ref());
    body.put_u8(u8::from(vote.leadership_transfer));
    body.freeze()
}

pub(crate) fn decode(mut body: Cursor) -> Result<VoteRequest<Types>, WireError> {
    let mut request = VoteRequest::<Types>::new(body.vote()?, body.place()?);
    request.leadership_transfer = body.bool()?;
    if request.vote.committed {
        return Err(WireError::Invalid("a candidate that leads already"));
    }
    Ok(request)
}

pub(crate) fn encode_answer(answer: &VoteResponse<Types>) -> Bytes {
    let mut body = BytesMut::with_capacity(REQUEST_BYTES);
    body.put_u8(0);
    put_vote(&mut body, &answer.vote);
    body.put_u8(u8::from(answer.vote_granted));
    put_place(&mut body, answer.last_log_id.as_ref());
    body.freeze()
}

pub(crate) fn decode_answer(body: Bytes) -> Result<VoteResponse<Types>, WireError> {
    let mut body = Cursor(body);
    if body.u8()? != 0 {
        return Err(WireError::Invalid("an unknown answer to a vote"));
    }
    let (vote, granted) = (body.vote()?, body.bool()?);
    Ok(VoteResponse::new(vote, body.place()?, granted))
}

pub(crate) fn encode_transfer(transfer: &TransferLeaderRequest<Types>) -> Bytes {
    let mut body = request(Kind::TransferLeader, REQUEST_BYTES);
    put_vote(&mut body, transfer.from_leader());
    body.put_u64(transfer.to_node_id().get());
    put_place(&mut body, transfer.last_log_id());
    body.freeze()
}

pub(crate) fn decode_transfer(mut body: Cursor) -> Result<TransferLeaderRequest<Types>, WireError> {
    let (from, to) = (body.vote()?, NodeId(body.u64()?));
    if !from.committed {
        return Err(WireError::Invalid("a transfer by a node that does not lead"));
    }
    Ok(TransferLeaderRequest::new(from, to, body.place()?))
}

pub(crate) fn encode_transfer_answer(answer: &TransferLeaderResponse<Types>) -> Bytes {
    let mut body = BytesMut::with_capacity(REQUEST_BYTES);
    match answer {
        Ok(()) => body.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            body.put_u8(1);
            put_vote(&mut body, expected);
            put_vote(&mut body, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            body.put_u8(2);
            put_place(&mut body, expected.as_ref());
            put_place(&mut body, actual.as_ref());
        }
    }
    body.freeze()
}

pub(crate) fn decode_transfer_answer(body: Bytes) -> Result<TransferLeaderResponse<Types>, WireError> {
    let mut body = Cursor(body);
    Ok(match body.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: body.vote()?,
            actual: body.vote()?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: body.place()?,
            actual: body.place()?,
        }),
        _ => return Err(WireError::Invalid("an unknown answer to a transfer")),
    })
}
