//! The messages between nodes about partitions. Pure.

pub(super) mod event_frames;
pub(super) mod messages;
pub(super) mod reader_lease;
