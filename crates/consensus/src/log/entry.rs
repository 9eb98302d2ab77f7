//! A log entry as it is stored: a fixed header and the payload as it was proposed.
//!
//! ```text
//! 0      4        5     6     14    22     30
//! crc32c version  kind  term  node  index  payload …      (numbers big-endian)
//! ```
//!
//! The checksum covers everything after it, including the position in the log: an entry stored under another entry's key
//! is detected. The payload of a proposed entry is stored unchanged, so that it is encoded only once.

use bytes::Bytes;
use holdfast_model::{NodeId, Term};
use holdfast_storage::StorageError;

use crate::ids::{Command, Entry, LogId, Payload, log_id, position};
use crate::log::persisted;
use crate::position::{GroupId, LogPosition};

/// The largest entry: a batch of messages of the largest size, with room.
pub(crate) const MAX_ENTRY_BYTES: usize = 16 << 20;
/// Length of the header in bytes.
pub(crate) const HEADER_BYTES: usize = 30;

const VERSION: u8 = 1;

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The first entry of a new leader.
    Blank = 1,
    /// Proposed.
    Normal = 2,
    /// A new membership.
    Membership = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Blank),
            2 => Some(Self::Normal),
            3 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// Header and payload of an entry that is to be stored.
pub(crate) fn encode(entry: &Entry) -> ([u8; HEADER_BYTES], Bytes) {
    let (kind, payload) = match &entry.payload {
        Payload::Blank => (Kind::Blank, Bytes::new()),
        Payload::Normal(command) => (Kind::Normal, command.0.clone()),
        Payload::Membership(membership) => (Kind::Membership, persisted::encode_membership(membership).into()),
    };
    (header(&entry.log_id, kind, &payload), payload)
}

fn header(id: &LogId, kind: Kind, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let LogPosition { term, node, index } = position(id);
    let mut header = [0; HEADER_BYTES];
    header[4] = VERSION;
    header[5] = kind as u8;
    header[6..14].copy_from_slice(&term.get().to_be_bytes());
    header[14..22].copy_from_slice(&node.get().to_be_bytes());
    header[22..30].copy_from_slice(&index.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[4..]), payload);
    header[..4].copy_from_slice(&sum.to_be_bytes());
    header
}

/// An entry as it was stored, its payload still in the read buffer.
#[derive(Debug)]
pub(crate) struct EntryView<'a> {
    pub(crate) position: LogPosition,
    pub(crate) kind: Kind,
    pub(crate) payload: &'a [u8],
}

/// Decodes and checks the bytes stored under the key of `index` of `group`.
///
/// # Errors
/// [`StorageError::Damaged`] when it is not the entry that was written there.
pub(crate) fn decode(group: GroupId, index: u64, stored: &[u8]) -> Result<EntryView<'_>, StorageError> {
    let damaged = |reason: &str| StorageError::Damaged {
        file: format!("log of {group}, entry {index}"),
        offset: None,
        reason: reason.to_owned(),
    };
    let (header, payload) = stored
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| damaged("it is shorter than its header"))?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let sum = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    if sum != crc32c::crc32c(&stored[4..]) {
        return Err(damaged("its checksum does not match"));
    }
    if header[4] != VERSION {
        return Err(damaged("it was written by a newer version"));
    }
    let position = LogPosition {
        term: Term(number(6)),
        node: NodeId(number(14)),
        index: number(22),
    };
    if position.index != index {
        return Err(damaged("it belongs to another place"));
    }
    let kind = Kind::from_byte(header[5]).ok_or_else(|| damaged("its kind is unknown"))?;
    Ok(EntryView {
        position,
        kind,
        payload,
    })
}

/// An entry whose payload stays a part of `stored`: for entries that another member has sent.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_shared(group: GroupId, index: u64, stored: Bytes) -> Result<Entry, StorageError> {
    let view = decode(group, index, &stored)?;
    let (position, kind) = (view.position, view.kind);
    let payload = match kind {
        Kind::Blank => Payload::Blank,
        Kind::Normal => Payload::Normal(Command(stored.slice(HEADER_BYTES..))),
        Kind::Membership => Payload::Membership(persisted::decode_membership(view.payload)?),
    };
    Ok(Entry {
        log_id: log_id(position),
        payload,
    })
}

impl EntryView<'_> {
    /// The entry with its payload copied out of the read buffer.
    pub(crate) fn to_entry(&self) -> Result<Entry, StorageError> {
        let payload = match self.kind {
            Kind::Blank => Payload::Blank,
            Kind::Normal => Payload::Normal(Command(Bytes::copy_from_slice(self.payload))),
            Kind::Membership => Payload::Membership(persisted::decode_membership(self.payload)?),
        };
        Ok(Entry {
            log_id: log_id(self.position),
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: Payload) -> Entry {
        Entry {
            log_id: log_id(LogPosition {
                term: Term(3),
                node: NodeId(9),
                index: 70_000,
            }),
            payload,
        }
    }

    fn bytes_of(entry: &Entry) -> Vec<u8> {
        let (header, payload) = encode(entry);
        [&header[..], &payload].concat()
    }

    #[test]
    fn an_entry_reads_back() {
        let membership = openraft::Membership::new_with_defaults(vec![[1, 2].map(NodeId).into()], [NodeId(3)]);
        for payload in [
            Payload::Blank,
            Payload::Normal(Command(Bytes::new())),
            Payload::Normal(Command(Bytes::from_static(b"payload"))),
            Payload::Membership(membership),
        ] {
            let entry = entry(payload);
            let stored = bytes_of(&entry);
            assert_eq!(decode(GroupId(1), 70_000, &stored).unwrap().to_entry().unwrap(), entry);
        }
    }

    #[test]
    fn a_changed_bit_or_place_is_seen() {
        let stored = bytes_of(&entry(Payload::Normal(Command(Bytes::from_static(b"payload")))));
        for bit in 0..stored.len() * 8 {
            let mut changed = stored.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(GroupId(1), 70_000, &changed).is_err(), "bit {bit}");
        }
        for length in 0..stored.len() {
            assert!(
                decode(GroupId(1), 70_000, &stored[..length]).is_err(),
                "cut to {length}"
            );
        }
        let refused = decode(GroupId(1), 70_001, &stored).unwrap_err();
        assert!(
            refused.to_string().contains("log of partition 0, entry 70001"),
            "{refused}"
        );
    }

    #[test]
    fn the_bytes_of_version_1_are_fixed() {
        let stored = bytes_of(&entry(Payload::Normal(Command(Bytes::from_static(b"hi")))));
        let expected: [u8; 28] = [
            1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 17, 112, b'h', b'i',
        ];
        assert_eq!(stored[4..], expected);
        assert_eq!(stored[..4], crc32c::crc32c(&expected).to_be_bytes());
    }
}
