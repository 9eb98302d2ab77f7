//! Which registry commands may be written (docs/decisions/0058).

use std::ops::ControlFlow;

use holdfast_storage::StorageError;

use crate::state::{Base, layout};

/// The hub's feature level, as this node's replica has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureLevel {
    /// Commands up to this version may be written.
    pub level: u32,
    /// Whether the hub has it. Otherwise it follows from the records: the hub is older than levels, and no leader has set one yet.
    pub is_set: bool,
}

/// The newest commands that every version knows which can be a member beside this one: earlier ones do not read entries of
/// partition logs with effects.
const LOWEST: u32 = 3;

/// The level of a hub that has none: its members know the commands that have written its records.
pub(crate) fn of_records(base: &dyn Base) -> Result<u32, StorageError> {
    for (level, ranges) in layout::levels() {
        for range in ranges {
            let mut found = false;
            base.scan(&range.start, &range.end, &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            })?;
            if found {
                return Ok(level);
            }
        }
    }
    Ok(LOWEST)
}
