//! Appends and their answers.
//!
//! ```text
//! request   … │ leader's vote 17 │ place before the entries 25 │ committed place 25 │ count 4 │ entries
//! entry     length 4 │ the entry as it is stored (`entry`), checksum included
//! answer    0 taken │ 1 taken up to (place 25) │ 2 the place before is not there │ 3 a higher vote (vote 17)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::{Cursor, Kind, WireError, put_place, put_vote, request};
use crate::ids::LogId;
use crate::log::entry::{self, HEADER_BYTES, MAX_ENTRY_BYTES};
use crate::type_config::Types;

/// Beside the entries.
const HEAD_BYTES: usize = 2 + 17 + 25 + 25 + 4;
/// A longer payload is a segment of its own; a shorter one is cheaper to copy.
const COPIED_BYTES: usize = 512;

/// The segments of a request.
pub(crate) fn encode(append: &AppendEntriesRequest<Types>) -> Vec<Bytes> {
    let mut copied = HEAD_BYTES;
    let mut segments = 1;
    let entries: Vec<_> = append.entries.iter().map(entry::encode).collect();
    for (_, payload) in &entries {
        copied += 4 + HEADER_BYTES;
        if payload.len() <= COPIED_BYTES {
            copied += payload.len();
        } else {
            segments += 2;
        }
    }
    let mut body = Vec::with_capacity(segments);
    let mut head = request(Kind::Append, copied);
    put_vote(&mut head, &append.vote);
    put_place(&mut head, append.prev_log_id.as_ref());
    put_place(&mut head, append.leader_commit.as_ref());
    head.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for (header, payload) in entries {
        head.put_u32(u32::try_from(HEADER_BYTES + payload.len()).unwrap_or(u32::MAX));
        head.put_slice(&header);
        if payload.len() <= COPIED_BYTES {
            head.put_slice(&payload);
        } else {
            body.push(head.split().freeze());
            body.push(payload);
        }
    }
    if !head.is_empty() {
        body.push(head.freeze());
    }
    body
}

/// Checks everything that the engine assumes.
pub(crate) fn decode(group: crate::GroupId, mut body: Cursor) -> Result<AppendEntriesRequest<Types>, WireError> {
    let vote = body.vote()?;
    if !vote.committed {
        return Err(WireError::Invalid("entries of a node that does not lead"));
    }
    let prev_log_id = body.place()?;
    let leader_commit = body.place()?;
    let count = body.u32()? as usize;
    // An entry has at least its length and its header.
    if count > body.0.len() / (4 + HEADER_BYTES) {
        return Err(WireError::Short);
    }
    let mut entries = Vec::with_capacity(count);
    let mut last: Option<LogId> = prev_log_id;
    if last.is_some_and(|last| last.leader_id > vote.leader_id) {
        return Err(WireError::Invalid("an entry is newer than its leader"));
    }
    for _ in 0..count {
        let length = body.u32()? as usize;
        if length > HEADER_BYTES + MAX_ENTRY_BYTES {
            return Err(WireError::Invalid("an entry is too large"));
        }
        let index = last.map_or(0, |last| last.index.saturating_add(1));
        let entry = entry::decode_shared(group, index, body.take(length)?)
            .map_err(|_| WireError::Invalid("an entry is damaged or in the wrong place"))?;
        let id = entry.log_id;
        if last.is_some_and(|last| id.leader_id < last.leader_id) || id.leader_id > vote.leader_id {
            return Err(WireError::Invalid(
                "an entry is older than the one before it or newer than its leader",
            ));
        }
        last = Some(id);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit,
    })
}

pub(crate) fn encode_answer(answer: &AppendEntriesResponse<Types>) -> Bytes {
    let mut body = BytesMut::with_capacity(26);
    match answer {
        AppendEntriesResponse::Success => return Bytes::from_static(&[0]),
        AppendEntriesResponse::PartialSuccess(place) => {
            body.put_u8(1);
            put_place(&mut body, place.as_ref());
        }
        AppendEntriesResponse::Conflict => return Bytes::from_static(&[2]),
        AppendEntriesResponse::HigherVote(vote) => {
            body.put_u8(3);
            put_vote(&mut body, vote);
        }
    }
    body.freeze()
}

pub(crate) fn decode_answer(body: Bytes) -> Result<AppendEntriesResponse<Types>, WireError> {
    let mut body = Cursor(body);
    Ok(match body.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(body.place()?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(body.vote()?),
        _ => return Err(WireError::Invalid("an unknown answer to entries")),
    })
}
