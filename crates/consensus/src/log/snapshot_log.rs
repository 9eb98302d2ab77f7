//! The log as state machines see it when a snapshot replaces a part of it.
//!
//! A partition's snapshot carries the stored entries themselves, and every snapshot moves the log's purge watermarks. The
//! watermarks must reach the disk in the same batch as the state: the next start takes a state that is ahead of its log
//! for a lost log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_model::NodeId;
use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Family, StorageError, WriteBatch};

use crate::ids::{Membership, Node, StoredMembership, Vote, log_id};
use crate::log::entry::{self, Kind};
use crate::log::persisted;
use crate::position::{GroupId, LogPosition};

/// A stored log entry, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEntry<'a> {
    /// Its place.
    pub position: LogPosition,
    /// The proposed bytes; `None`: an entry of consensus itself.
    pub proposed: Option<&'a [u8]>,
}

impl<'a> StoredEntry<'a> {
    /// Decodes stored or received bytes as the entry `index` of `group`.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when it is not the entry that was written there.
    pub fn read(group: GroupId, index: u64, stored: &'a [u8]) -> Result<Self, StorageError> {
        let view = entry::decode(group, index, stored)?;
        Ok(Self {
            position: view.position,
            proposed: (view.kind == Kind::Normal).then_some(view.payload),
        })
    }
}

impl GroupId {
    /// The family that holds the group's log, under [`layout::log_key`].
    #[must_use]
    pub fn family_of_log(self) -> Family {
        self.log_family()
    }
}

/// Adds the purge watermarks of a log whose state is replaced by a snapshot at `position` to the batch that replaces it.
/// `retained_after`: as in [`Restored`](crate::Restored).
pub fn set_purge_watermarks(
    batch: &mut WriteBatch,
    group: GroupId,
    position: LogPosition,
    retained_after: Option<LogPosition>,
) {
    let mut put = |what, watermark: LogPosition| {
        let key = layout::hard_key(group.0, what);
        batch.put(Family::Raft, &key, &persisted::encode_watermark(&log_id(watermark)));
    };
    put(HardState::Purged, position);
    put(HardState::Trimmed, retained_after.unwrap_or(position));
}

/// The membership of a group that `node` alone continues from a backup whose last entry is `position`, as a
/// [`StateMachine`](crate::StateMachine) keeps it.
///
/// # Errors
/// None for any node; the engine checks the form.
pub fn sole_membership(position: LogPosition, node: NodeId) -> Result<Bytes, StorageError> {
    let nodes = BTreeMap::from([(node, Node::default())]);
    let membership = Membership::new(vec![BTreeSet::from([node])], nodes)
        .map_err(|_| StorageError::Unsupported("a group of this one node"))?;
    let stored = StoredMembership::new(Some(log_id(position)), membership);
    Ok(persisted::encode_stored_membership(&stored))
}

/// Adds the vote from which the next term of a group follows that continues from a backup: later terms are above all in its
/// log. Written before the state, so that no start finds the state without it.
pub fn set_vote_of(batch: &mut WriteBatch, group: GroupId, position: LogPosition) {
    let vote = Vote {
        leader_id: log_id(position).leader_id,
        committed: false,
    };
    let key = layout::hard_key(group.0, HardState::Vote);
    batch.put(Family::Raft, &key, &persisted::encode_vote(&vote));
}
