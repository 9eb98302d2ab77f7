//! Bodies of calls and answers of service Partition.
//!
//! An append is a two-byte head, the gateway's link, the context of its span if that is recorded, and the unchanged entry; its
//! successful answer is empty. It carries every batch that reaches its owner from another node. All other calls are a message of `route.proto` behind the head.
//! Invariant: a body is decoded completely or is an error; no input panics.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_model::{LinkId, NodeId, SequenceNumber, Term, UnixMillis};
use holdfast_partition::record::{Corrupt, EntryError};
use holdfast_partition::{AppendError, PartitionStatus};
use holdfast_proto::cluster::v1::RouteStatus;
use holdfast_spans::TraceContext;
use prost::Message;
use thiserror::Error;

use crate::route::owner_table::Owner;

/// The first byte of every body.
const VERSION: u8 = 1;
/// Length of the head in bytes.
const HEAD_BYTES: usize = 2;
/// Length of a link id in bytes.
const LINK_BYTES: usize = 8;

/// The kind of a call; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::route) enum Kind {
    Append = 1,
    Owners = 2,
    Status = 3,
    LastBatch = 4,
    Read = 5,
    ReaderLeases = 6,
    ReaderPreempted = 7,
    /// An append with the context of a recorded span; earlier versions refuse it.
    TracedAppend = 8,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Append,
            2 => Self::Owners,
            3 => Self::Status,
            4 => Self::LastBatch,
            5 => Self::Read,
            6 => Self::ReaderLeases,
            7 => Self::ReaderPreempted,
            8 => Self::TracedAppend,
            _ => return None,
        })
    }
}

/// A body cannot be decoded by this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::route) enum DecodeError {
    #[error("the body is too short")]
    Short,
    #[error("the body has version {0}; this node knows {VERSION}")]
    Version(u8),
    #[error("unknown kind of call {0}")]
    Kind(u8),
    #[error("unknown code {0} of an answer")]
    Answer(u8),
    #[error("the message cannot be decoded: {0}")]
    Message(#[from] prost::DecodeError),
}

/// Encodes an append over the gateway's link `link`. The entry is not copied. Only one with a context is a [`Kind::TracedAppend`].
pub(in crate::route) fn encode_append(link: LinkId, trace: Option<TraceContext>, entry: Bytes) -> Vec<Bytes> {
    let trace = TraceContext::to_wire(trace);
    let kind = match trace.is_empty() {
        true => Kind::Append,
        false => Kind::TracedAppend,
    };
    let mut head = BytesMut::with_capacity(HEAD_BYTES + LINK_BYTES + trace.len());
    head.put_slice(&[VERSION, kind as u8]);
    head.put_u64(link.get());
    head.put_slice(&trace);
    vec![head.freeze(), entry]
}

/// Decodes link, context and entry of an append with a context.
pub(in crate::route) fn decode_traced_append(
    rest: Bytes,
) -> Result<(LinkId, Option<TraceContext>, Bytes), DecodeError> {
    let (link, mut rest) = decode_append(rest)?;
    if rest.len() < TraceContext::WIRE_BYTES {
        return Err(DecodeError::Short);
    }
    let trace = rest.split_to(TraceContext::WIRE_BYTES);
    Ok((link, TraceContext::from_wire(&trace), rest))
}

/// Decodes the link and the entry of an append.
pub(in crate::route) fn decode_append(mut rest: Bytes) -> Result<(LinkId, Bytes), DecodeError> {
    if rest.len() < LINK_BYTES {
        return Err(DecodeError::Short);
    }
    Ok((LinkId(rest.get_u64()), rest))
}

/// Encodes any other call.
pub(in crate::route) fn encode_request(kind: Kind, message: &impl Message) -> Vec<Bytes> {
    let mut body = BytesMut::with_capacity(HEAD_BYTES + message.encoded_len());
    body.put_slice(&[VERSION, kind as u8]);
    encode_message(&mut body, message);
    vec![body.freeze()]
}

fn encode_message(body: &mut BytesMut, message: &impl Message) {
    // Cannot fail, since the buffer grows.
    let _ = message.encode(body);
}

/// Decodes the head of a call: returns its kind and the rest of the body.
pub(in crate::route) fn decode_head(mut body: Bytes) -> Result<(Kind, Bytes), DecodeError> {
    if body.len() < HEAD_BYTES {
        return Err(DecodeError::Short);
    }
    match (body.get_u8(), body.get_u8()) {
        (VERSION, kind) => Ok((Kind::from_number(kind).ok_or(DecodeError::Kind(kind))?, body)),
        (version, _) => Err(DecodeError::Version(version)),
    }
}

/// Encodes the status of a partition.
pub(in crate::route) fn encode_status(status: &PartitionStatus) -> RouteStatus {
    RouteStatus {
        begin: status.begin.0,
        next: status.next.0,
        last_enqueued_ms: status.last_enqueued.0,
        retained_bytes: status.retained_bytes,
    }
}

/// Decodes the status of a partition.
pub(in crate::route) fn decode_status(status: &RouteStatus) -> PartitionStatus {
    PartitionStatus {
        begin: SequenceNumber(status.begin),
        next: SequenceNumber(status.next),
        last_enqueued: UnixMillis(status.last_enqueued_ms),
        retained_bytes: status.retained_bytes,
    }
}

/// The answer to a call other than an append.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::route) enum Reply<M> {
    Done(M),
    /// The node is not the owner, or has no replica; the owner that it knows.
    NotHere(Option<Owner>),
    /// The node cannot answer at the moment.
    NotNow,
}

impl<M: Message + Default> Reply<M> {
    pub(in crate::route) fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        match self {
            Self::Done(message) => {
                body.put_u8(0);
                encode_message(&mut body, message);
            }
            Self::NotHere(owner) => {
                body.put_u8(1);
                encode_owner(&mut body, *owner);
            }
            Self::NotNow => body.put_u8(2),
        }
        body.freeze()
    }

    pub(in crate::route) fn decode(mut body: Bytes) -> Result<Self, DecodeError> {
        Ok(match body.try_get_u8().map_err(|_| DecodeError::Short)? {
            0 => Self::Done(M::decode(body)?),
            1 => Self::NotHere(decode_owner(&mut body)?),
            2 => Self::NotNow,
            other => return Err(DecodeError::Answer(other)),
        })
    }
}

fn encode_owner(body: &mut BytesMut, owner: Option<Owner>) {
    body.put_u64(owner.map_or(0, |owner| owner.node.get()));
    body.put_u64(owner.map_or(0, |owner| owner.term.get()));
}

fn decode_owner(body: &mut Bytes) -> Result<Option<Owner>, DecodeError> {
    let (node, term) = (decode_u64(body)?, decode_u64(body)?);
    Ok((node != 0).then_some(Owner {
        term: Term(term),
        node: NodeId(node),
    }))
}

fn decode_u64(body: &mut Bytes) -> Result<u64, DecodeError> {
    body.try_get_u64().map_err(|_| DecodeError::Short)
}

/// The answer to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::route) struct AppendReply {
    pub(in crate::route) result: Result<(), AppendError>,
    /// The owner that the answering node knows, with [`AppendError::NotLeader`].
    pub(in crate::route) owner: Option<Owner>,
}

impl AppendReply {
    pub(in crate::route) fn encode(self) -> Bytes {
        let Err(error) = self.result else {
            return Bytes::new();
        };
        let mut body = BytesMut::with_capacity(1 + 16);
        match error {
            AppendError::NotLeader { leader } => {
                body.put_u8(1);
                let hint = leader.map(|node| Owner { term: Term(0), node });
                encode_owner(&mut body, self.owner.or(hint));
            }
            AppendError::Stopped => body.put_u8(2),
            AppendError::TooLarge { bytes, limit } => {
                body.put_u8(3);
                body.put_u64(bytes as u64);
                body.put_u64(limit as u64);
            }
            AppendError::DiskFull => body.put_u8(4),
            AppendError::Gap { expected } => {
                body.put_u8(5);
                body.put_u64(expected);
            }
            AppendError::Stale { current } => {
                body.put_u8(6);
                body.put_u64(current);
            }
            AppendError::Malformed(EntryError::Version(version)) => {
                body.put_u8(7);
                body.put_u64(u64::from(version));
            }
            AppendError::Malformed(EntryError::Corrupt(corrupt)) => {
                body.put_u8(8);
                body.put_u64(corrupt.offset as u64);
            }
            AppendError::Unknown => body.put_u8(9),
            AppendError::Refused => body.put_u8(10),
        }
        body.freeze()
    }

    /// An answer that cannot be decoded is an error: the outcome of the append is unknown.
    pub(in crate::route) fn decode(mut body: Bytes) -> Result<Self, DecodeError> {
        let mut owner = None;
        let Ok(code) = body.try_get_u8() else {
            return Ok(Self { result: Ok(()), owner });
        };
        let mut size = || decode_u64(&mut body).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let error = match code {
            1 => {
                owner = decode_owner(&mut body)?;
                AppendError::NotLeader {
                    leader: owner.map(|owner| owner.node),
                }
            }
            2 => AppendError::Stopped,
            3 => AppendError::TooLarge {
                bytes: size()?,
                limit: size()?,
            },
            4 => AppendError::DiskFull,
            5 => AppendError::Gap {
                expected: decode_u64(&mut body)?,
            },
            6 => AppendError::Stale {
                current: decode_u64(&mut body)?,
            },
            7 => AppendError::Malformed(EntryError::Version(u32::try_from(size()?).unwrap_or(u32::MAX))),
            8 => AppendError::Malformed(EntryError::Corrupt(Corrupt {
                offset: size()?,
                what: "the owner cannot read it",
            })),
            9 => AppendError::Unknown,
            10 => AppendError::Refused,
            other => return Err(DecodeError::Answer(other)),
        };
        Ok(Self {
            result: Err(error),
            owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_replies_are_decoded_as_encoded() {
        let owner = Some(Owner {
            term: Term(7),
            node: NodeId(3),
        });
        let plain = |result| AppendReply { result, owner: None };
        let corrupt = Corrupt {
            offset: 12,
            what: "the owner cannot read it",
        };
        for reply in [
            plain(Ok(())),
            plain(Err(AppendError::NotLeader { leader: None })),
            plain(Err(AppendError::Stopped)),
            plain(Err(AppendError::TooLarge { bytes: 5, limit: 4 })),
            plain(Err(AppendError::DiskFull)),
            plain(Err(AppendError::Gap { expected: u64::MAX })),
            plain(Err(AppendError::Stale { current: 9 })),
            plain(Err(AppendError::Malformed(EntryError::Version(2)))),
            plain(Err(AppendError::Malformed(EntryError::Corrupt(corrupt)))),
            plain(Err(AppendError::Unknown)),
            plain(Err(AppendError::Refused)),
            AppendReply {
                result: Err(AppendError::NotLeader {
                    leader: Some(NodeId(3)),
                }),
                owner,
            },
        ] {
            assert_eq!(AppendReply::decode(reply.encode()), Ok(reply));
        }
        assert!(plain(Ok(())).encode().is_empty(), "the answer to almost every batch");
    }

    #[test]
    fn only_an_append_with_a_recorded_span_is_of_the_newer_kind() {
        let entry = Bytes::from_static(b"entry");
        let context = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        let not_sampled = TraceContext {
            is_sampled: false,
            ..context
        };
        for (trace, kind) in [
            (None, Kind::Append),
            (Some(not_sampled), Kind::Append),
            (Some(context), Kind::TracedAppend),
        ] {
            let body = encode_append(LinkId(5), trace, entry.clone()).concat();
            let (decoded, rest) = decode_head(body.into()).unwrap();
            assert_eq!(decoded, kind);
            if kind == Kind::TracedAppend {
                assert_eq!(
                    decode_traced_append(rest.clone()),
                    Ok((LinkId(5), trace, entry.clone()))
                );
                let short = rest.slice(..LINK_BYTES + TraceContext::WIRE_BYTES - 1);
                assert_eq!(decode_traced_append(short), Err(DecodeError::Short));
            } else {
                assert_eq!(decode_append(rest), Ok((LinkId(5), entry.clone())));
            }
        }
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(decode_head(Bytes::new()), Err(DecodeError::Short));
        assert_eq!(decode_head(Bytes::from_static(&[1])), Err(DecodeError::Short));
        assert_eq!(
            decode_head(Bytes::from_static(&[2, 1, 0])),
            Err(DecodeError::Version(2))
        );
        assert_eq!(decode_head(Bytes::from_static(&[1, 99])), Err(DecodeError::Kind(99)));
        assert_eq!(
            AppendReply::decode(Bytes::from_static(&[200])),
            Err(DecodeError::Answer(200))
        );
        for short in [1, 3, 5, 6, 7, 8] {
            assert_eq!(
                AppendReply::decode(Bytes::copy_from_slice(&[short, 0])),
                Err(DecodeError::Short)
            );
        }
        assert!(Reply::<RouteStatus>::decode(Bytes::new()).is_err());
        assert!(Reply::<RouteStatus>::decode(Bytes::from_static(&[0, 0xff])).is_err());
        assert_eq!(
            Reply::<RouteStatus>::decode(Bytes::from_static(&[3])),
            Err(DecodeError::Answer(3))
        );
    }

    #[test]
    fn replies_are_decoded_as_encoded() {
        let status = RouteStatus {
            begin: 1,
            next: 2,
            last_enqueued_ms: 3,
            retained_bytes: 4,
        };
        let owner = Owner {
            term: Term(7),
            node: NodeId(3),
        };
        for reply in [
            Reply::Done(status),
            Reply::NotHere(None),
            Reply::NotHere(Some(owner)),
            Reply::NotNow,
        ] {
            assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn an_entry_is_not_copied_into_the_body() {
        let entry = Bytes::from(vec![7; 100]);
        let body = encode_append(LinkId(5), None, entry.clone());
        assert_eq!(body[1].as_ptr(), entry.as_ptr());
        let (kind, rest) = decode_head(Bytes::from(body.concat())).unwrap();
        assert_eq!(kind, Kind::Append);
        assert_eq!(decode_append(rest), Ok((LinkId(5), entry)));
        assert_eq!(decode_append(Bytes::from_static(b"1234567")), Err(DecodeError::Short));
    }
}
