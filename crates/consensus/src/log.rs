//! A group's log: entries, votes and watermarks on the node's disk, and reading them.

pub(crate) mod entry;
pub(crate) mod entry_cache;
pub(crate) mod group_data;
pub(crate) mod persisted;
pub(crate) mod reader;
pub(crate) mod snapshot_log;
pub(crate) mod store;
