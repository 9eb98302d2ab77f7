//! The way up: from a message of a session to an acknowledged record.

pub(crate) mod backpressure;
pub(crate) mod batcher;
pub(crate) mod command_queue;
pub(crate) mod pipeline;
pub(crate) mod poll_or_spawn;
