//! The called side: service Partition of this node.

pub(super) mod append_queue;
pub(super) mod dispatch;
mod owner_feed;
pub(super) mod reader_registry;
pub(super) mod reader_registry_service;
mod reader_stream;
