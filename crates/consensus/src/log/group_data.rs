//! Data of a group on a disk.

use holdfast_storage::layout::{self, HardState};
use holdfast_storage::{Disk, Family, StorageError};

use crate::position::GroupId;

/// Whether `group` has a log, a vote or a watermark on `disk`: then its other members may rely on this replica.
///
/// # Errors
/// [`StorageError`] when the disk cannot be read.
pub fn has_data(disk: &dyn Disk, group: GroupId) -> Result<bool, StorageError> {
    for what in [HardState::Vote, HardState::Purged, HardState::Trimmed] {
        if disk.get(Family::Raft, &layout::hard_key(group.0, what))?.is_some() {
            return Ok(true);
        }
    }
    let (from, to) = (layout::log_key(group.0, 0), layout::log_end(group.0));
    Ok(disk.last(group.log_family(), &from, &to)?.is_some())
}
