//! Raft state machine of a partition: the telemetry log and its readers.
#![warn(missing_docs)]

pub mod record;
pub mod state;
