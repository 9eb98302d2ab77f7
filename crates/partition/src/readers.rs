//! Readers of a partition: reading events from a position, and the rule for concurrent readers of a consumer group.

pub mod epoch;
pub(crate) mod reader;
