//! Bodies of calls and answers of service Partition.
//!
//! An append is two bytes, the gateway's link and the entry as it is, and its good answer is empty: this is the way of every
//! batch that comes from a device on another node. Everything else is a message of `route.proto` behind its head.
//! Invariant: whatever arrives is either understood or an error; nothing panics, nothing is guessed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_partition::AppendError;
use holdfast_partition::record::{Corrupt, EntryError};
use prost::Message;
use thiserror::Error;

use super::owners::Owner;

/// The first byte of every body.
const VERSION: u8 = 1;
/// Bytes in front of a message.
const HEAD_BYTES: usize = 2;
/// Bytes of a link's number.
const LINK_BYTES: usize = 8;

/// What is called for; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Append = 1,
    Owners = 2,
    Status = 3,
    LastBatch = 4,
    Read = 5,
    Seats = 6,
    Stolen = 7,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Append,
            2 => Self::Owners,
            3 => Self::Status,
            4 => Self::LastBatch,
            5 => Self::Read,
            6 => Self::Seats,
            7 => Self::Stolen,
            _ => return None,
        })
    }
}

/// What arrived makes no sense to this version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Garbled {
    #[error("the body is too short")]
    Short,
    #[error("the body has version {0}; this node knows {VERSION}")]
    Version(u8),
    #[error("{0} is no kind of call about a partition")]
    Kind(u8),
    #[error("the answer begins with {0}, which means nothing")]
    Answer(u8),
    #[error("the message cannot be decoded: {0}")]
    Message(#[from] prost::DecodeError),
}

/// The body of an append over the gateway's link `link`: the entry is not copied.
pub(super) fn append(link: u64, entry: Bytes) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(HEAD_BYTES + LINK_BYTES);
    head.put_slice(&[VERSION, Kind::Append as u8]);
    head.put_u64(link);
    vec![head.freeze(), entry]
}

/// What stands behind the head of an append: link and entry.
pub(super) fn open_append(mut rest: Bytes) -> Result<(u64, Bytes), Garbled> {
    if rest.len() < LINK_BYTES {
        return Err(Garbled::Short);
    }
    Ok((rest.get_u64(), rest))
}

/// The body of any other call.
pub(super) fn request(kind: Kind, message: &impl Message) -> Vec<Bytes> {
    let mut body = BytesMut::with_capacity(HEAD_BYTES + message.encoded_len());
    body.put_slice(&[VERSION, kind as u8]);
    put(&mut body, message);
    vec![body.freeze()]
}

fn put(body: &mut BytesMut, message: &impl Message) {
    // The buffer grows: there is always room.
    let _ = message.encode(body);
}

/// What a body calls for, and what stands behind the head.
pub(super) fn open(mut body: Bytes) -> Result<(Kind, Bytes), Garbled> {
    if body.len() < HEAD_BYTES {
        return Err(Garbled::Short);
    }
    match (body.get_u8(), body.get_u8()) {
        (VERSION, kind) => Ok((Kind::from_number(kind).ok_or(Garbled::Kind(kind))?, body)),
        (version, _) => Err(Garbled::Version(version)),
    }
}

/// What an answer says; not used for appends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told<M> {
    Done(M),
    /// The asked node cannot say: perhaps who can.
    NotHere(Option<Owner>),
    /// The asked node should, and cannot at the moment.
    NotNow,
}

impl<M: Message + Default> Told<M> {
    pub(super) fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        match self {
            Self::Done(message) => {
                body.put_u8(0);
                put(&mut body, message);
            }
            Self::NotHere(owner) => {
                body.put_u8(1);
                put_owner(&mut body, *owner);
            }
            Self::NotNow => body.put_u8(2),
        }
        body.freeze()
    }

    pub(super) fn decode(mut body: Bytes) -> Result<Self, Garbled> {
        Ok(match body.try_get_u8().map_err(|_| Garbled::Short)? {
            0 => Self::Done(M::decode(body)?),
            1 => Self::NotHere(get_owner(&mut body)?),
            2 => Self::NotNow,
            other => return Err(Garbled::Answer(other)),
        })
    }
}

fn put_owner(body: &mut BytesMut, owner: Option<Owner>) {
    body.put_u64(owner.map_or(0, |owner| owner.node));
    body.put_u64(owner.map_or(0, |owner| owner.term));
}

fn get_owner(body: &mut Bytes) -> Result<Option<Owner>, Garbled> {
    let (node, term) = (number(body)?, number(body)?);
    Ok((node != 0).then_some(Owner { term, node }))
}

fn number(body: &mut Bytes) -> Result<u64, Garbled> {
    body.try_get_u64().map_err(|_| Garbled::Short)
}

/// What became of a batch, with the owner that the answering node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) result: Result<(), AppendError>,
    /// With [`AppendError::NotLeader`].
    pub(super) owner: Option<Owner>,
}

impl Outcome {
    pub(super) fn encode(self) -> Bytes {
        let Err(error) = self.result else {
            return Bytes::new();
        };
        let mut body = BytesMut::with_capacity(1 + 16);
        match error {
            AppendError::NotLeader { leader } => {
                body.put_u8(1);
                let hint = leader.map(|node| Owner { term: 0, node });
                put_owner(&mut body, self.owner.or(hint));
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

    /// What cannot be understood is no reason to call a batch lost.
    pub(super) fn decode(mut body: Bytes) -> Result<Self, Garbled> {
        let mut owner = None;
        let Ok(code) = body.try_get_u8() else {
            return Ok(Self { result: Ok(()), owner });
        };
        let mut size = || number(&mut body).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let error = match code {
            1 => {
                owner = get_owner(&mut body)?;
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
                expected: number(&mut body)?,
            },
            6 => AppendError::Stale {
                current: number(&mut body)?,
            },
            7 => AppendError::Malformed(EntryError::Version(u32::try_from(size()?).unwrap_or(u32::MAX))),
            8 => AppendError::Malformed(EntryError::Corrupt(Corrupt {
                offset: size()?,
                what: "the owner cannot read it",
            })),
            9 => AppendError::Unknown,
            10 => AppendError::Refused,
            other => return Err(Garbled::Answer(other)),
        };
        Ok(Self {
            result: Err(error),
            owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::cluster::v1::RouteStatus;

    use super::*;

    #[test]
    fn every_outcome_arrives_as_it_was() {
        let owner = Some(Owner { term: 7, node: 3 });
        let plain = |result| Outcome { result, owner: None };
        let corrupt = Corrupt {
            offset: 12,
            what: "the owner cannot read it",
        };
        for outcome in [
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
            Outcome {
                result: Err(AppendError::NotLeader { leader: Some(3) }),
                owner,
            },
        ] {
            assert_eq!(Outcome::decode(outcome.encode()), Ok(outcome));
        }
        assert!(plain(Ok(())).encode().is_empty(), "the way of every batch");
    }

    #[test]
    fn garbage_is_refused_and_not_guessed() {
        assert_eq!(open(Bytes::new()), Err(Garbled::Short));
        assert_eq!(open(Bytes::from_static(&[1])), Err(Garbled::Short));
        assert_eq!(open(Bytes::from_static(&[2, 1, 0])), Err(Garbled::Version(2)));
        assert_eq!(open(Bytes::from_static(&[1, 99])), Err(Garbled::Kind(99)));
        assert_eq!(Outcome::decode(Bytes::from_static(&[200])), Err(Garbled::Answer(200)));
        for short in [1, 3, 5, 6, 7, 8] {
            assert_eq!(
                Outcome::decode(Bytes::copy_from_slice(&[short, 0])),
                Err(Garbled::Short)
            );
        }
        assert!(Told::<RouteStatus>::decode(Bytes::new()).is_err());
        assert!(Told::<RouteStatus>::decode(Bytes::from_static(&[0, 0xff])).is_err());
        assert_eq!(
            Told::<RouteStatus>::decode(Bytes::from_static(&[3])),
            Err(Garbled::Answer(3))
        );
    }

    #[test]
    fn answers_arrive_as_they_were() {
        let status = RouteStatus {
            begin: 1,
            next: 2,
            last_enqueued_ms: 3,
            retained_bytes: 4,
        };
        let owner = Owner { term: 7, node: 3 };
        for told in [
            Told::Done(status),
            Told::NotHere(None),
            Told::NotHere(Some(owner)),
            Told::NotNow,
        ] {
            assert_eq!(Told::decode(told.encode()), Ok(told));
        }
    }

    #[test]
    fn an_entry_is_not_copied_into_the_body() {
        let entry = Bytes::from(vec![7; 100]);
        let body = append(5, entry.clone());
        assert_eq!(body[1].as_ptr(), entry.as_ptr());
        let (kind, rest) = open(Bytes::from(body.concat())).unwrap();
        assert_eq!(kind, Kind::Append);
        assert_eq!(open_append(rest), Ok((5, entry)));
        assert_eq!(open_append(Bytes::from_static(b"1234567")), Err(Garbled::Short));
    }
}
