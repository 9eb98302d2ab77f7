//! Raft state machine of a partition: the telemetry log and its readers.
