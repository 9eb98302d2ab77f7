//! Connections that this node opens: connecting, calls, uploads and downloads.

pub(crate) mod anonymous_call;
pub(crate) mod call_queue;
pub(crate) mod connector;
pub(crate) mod dial;
pub(crate) mod pending_reply;
mod reply_reader;
pub(crate) mod streaming;
