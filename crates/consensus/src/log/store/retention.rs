//! Deleting a group's log: its start by retention, the whole by a snapshot that replaces it or with the group.

use std::ops::ControlFlow;

use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Durability, Family, StorageError, WriteBatch};

use super::Shared;
use crate::ids::Vote;
use crate::log::persisted;
use crate::position::LogPosition;
use crate::state_machine::Restored;

/// A watermark set by retention.
pub(crate) struct Trim {
    /// The first index that stays.
    pub(crate) watermark: u64,
}

impl Shared {
    /// The highest index up to which retention may delete: the state machine's flushed applied index, since later entries are
    /// replayed after a crash. Blocks.
    pub(crate) fn trimmable(&self) -> Result<u64, StorageError> {
        let marker = layout::hard_key(self.group.0, HardState::Applied);
        let flushed = match self.disk.get_flushed(Family::Raft, &marker)? {
            Some(value) => value.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes)),
            None => 0,
        };
        let applied = self.applied_next();
        let flushed = flushed.max(self.recovered).min(applied);
        // For the next call: once this marker is in a file, so is the state up to it, since all families are flushed at
        // one point and the state was written before.
        let mut batch = WriteBatch::new();
        batch.put(Family::Raft, &marker, &applied.to_be_bytes());
        self.disk.write(&batch, Durability::Replayed)?;
        Ok(flushed)
    }

    /// Moves retention's watermark up to `watermark`, at most [`Shared::trimmable`]; entries below are not read from now on.
    /// Blocks. The caller waits until it is synced before [`Shared::delete_trimmed`]: a watermark must not be lost once files
    /// are deleted.
    pub(crate) fn trim_to(&self, watermark: u64) -> Result<Option<Trim>, StorageError> {
        let first = self.first_retained();
        let Some(last) = watermark.checked_sub(1).filter(|_| watermark > first) else {
            return Ok(None);
        };
        let mut trimmed = None;
        self.scan(last, watermark, |view| {
            trimmed = Some(crate::ids::log_id(view.position));
            Ok(ControlFlow::Continue(()))
        })?;
        let Some(trimmed) = trimmed else { return Ok(None) };
        let mut batch = WriteBatch::new();
        batch.put(
            Family::Raft,
            &layout::hard_key(self.group.0, HardState::Trimmed),
            &persisted::encode_watermark(&trimmed),
        );
        self.disk.write(&batch, Durability::Logged)?;
        let mut state = self.state.lock();
        state.trimmed = Some(trimmed);
        state.first = state.first.max(watermark);
        Ok(Some(Trim { watermark }))
    }

    /// Called when a snapshot at `at` has replaced the state machine's state: moves the watermarks and drops the log below.
    /// The machine has written the watermarks together with the state ([`crate::set_purge_watermarks`]); they are written
    /// again here in case a machine has left one out.
    pub(crate) fn restored(&self, at: LogPosition, restored: Restored) -> Result<(), StorageError> {
        let mut batch = WriteBatch::new();
        crate::log::snapshot_log::set_purge_watermarks(&mut batch, self.group, at, restored.retained_after);
        if restored.retained_after.is_none() {
            let (from, to) = (
                layout::log_key(self.group.0, 0),
                layout::log_key(self.group.0, at.index + 1),
            );
            batch.delete_range(self.family, &from, &to);
        }
        self.disk
            .write(&batch, Durability::Logged)
            .map_err(|error| self.fatal(error))?;
        let mut state = self.state.lock();
        let watermark = Some(crate::ids::log_id(at));
        state.purged = watermark;
        state.trimmed = restored.retained_after.map(crate::ids::log_id).or(watermark);
        state.first = at.index + 1;
        if state.last <= watermark {
            state.last = watermark;
            state.cache.clear();
        }
        Ok(())
    }

    /// Deletes the group's log, vote and watermarks from the disk. The replica's last position and vote are kept in two small
    /// keys, see [`super::PriorReplica`]. Blocks.
    pub(crate) fn destroy(&self) -> Result<(), StorageError> {
        let mut batch = WriteBatch::new();
        let (vote, last) = {
            let state = self.state.lock();
            (state.vote, state.last.max(self.prior.log))
        };
        let mut keep = |what, value: Vec<u8>| batch.put(Family::Raft, &layout::hard_key(self.group.0, what), &value);
        if let Some(last) = last {
            keep(HardState::PriorLog, persisted::encode_watermark(&last));
        }
        if let Some(vote) = vote {
            // The replica can no longer lead.
            let promised = Vote {
                committed: false,
                ..vote
            };
            keep(HardState::PriorVote, persisted::encode_vote(&promised));
        }
        let (from, to) = (layout::log_key(self.group.0, 0), layout::log_end(self.group.0));
        batch.delete_range(self.family, &from, &to);
        for what in [
            HardState::Vote,
            HardState::Purged,
            HardState::Trimmed,
            HardState::Applied,
        ] {
            batch.delete(Family::Raft, &layout::hard_key(self.group.0, what));
        }
        self.disk.write(&batch, Durability::Logged)
    }

    /// The second half of [`Shared::trim_to`], once its watermark is synced: deletes files that hold nothing above it.
    /// Blocks.
    pub(crate) fn delete_trimmed(&self, trim: &Trim) -> Result<(), StorageError> {
        let (from, to) = (
            layout::log_key(self.group.0, 0),
            layout::log_key(self.group.0, trim.watermark),
        );
        self.disk.delete_files(self.family, &from, &to)?;
        if self.family == Family::Raft {
            // The registry's log shares its files with votes; compaction removes the rest below the watermark.
            let mut batch = WriteBatch::new();
            batch.delete_range(self.family, &from, &to);
            self.disk.write(&batch, Durability::Logged)?;
        }
        Ok(())
    }
}
