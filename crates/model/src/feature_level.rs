//! The feature level: which formats the nodes of a hub may write.
//!
//! Why: nodes of two versions run side by side during an upgrade, and an upgrade can be taken back as long as nothing is stored that the
//! earlier version cannot read. So a version can read more than it writes: it writes what the level of the hub permits, and
//! the level is raised once all members support a higher one (docs/decisions/0058).
//! Not here: storing and raising it (`registry`, `cluster`), and the mark in the data directory (`storage`).

/// The highest feature level that this version of Holdfast supports: it can read everything up to it.
///
/// The level is the version of the newest registry command that may be written. Whatever else an earlier version cannot read, such as an
/// entry of a partition's log or a column family, gets a level as well: raise this number with it, and write it only where the level permits.
///
/// | level | may be written |
/// | --- | --- |
/// | up to 12 | what existed before there were levels: registry commands to 12, entries of partition logs to 2 |
pub const FEATURE_LEVEL: u32 = 12;
