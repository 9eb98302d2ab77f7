//! The history that clients record while faults happen: the checker's input.
//!
//! All times are microseconds of one monotonic clock since the run began, taken by the client: `asked` before the first
//! byte is sent, `answered` after the last one has arrived. An operation took effect between the two, or, when its
//! outcome is unknown, at any time after `asked` or never.

pub mod down;
pub mod queries;

use serde::{Deserialize, Serialize};

/// Microseconds since the run began.
pub type Micros = u64;

/// Stands for the registry among partition numbers.
pub const REGISTRY: u32 = u32::MAX;

/// Microseconds of a second.
pub const SECOND: Micros = 1_000_000;

/// A call about one identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// PUT without If-Match. The tag is different in every write.
    Create {
        /// The value to write.
        tag: u64,
    },
    /// PUT with If-Match.
    Update {
        /// The value to write.
        tag: u64,
        /// The required ETag; `None` = any.
        if_match: Option<String>,
    },
    /// DELETE.
    Delete {
        /// The required ETag; `None` = any.
        if_match: Option<String>,
    },
    /// GET.
    Get,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Created or updated.
    Written {
        /// The new ETag.
        etag: String,
    },
    /// Read.
    Found {
        /// The ETag.
        etag: String,
        /// The value of the last write.
        tag: u64,
    },
    /// Deleted.
    Deleted,
    /// There is no such identity.
    Absent,
    /// The identity exists already.
    Exists,
    /// The ETag differs from the required one.
    Mismatch,
}

/// One call and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The identity.
    pub key: String,
    /// The node that the call went to.
    pub node: u32,
    /// The call.
    pub call: Call,
    /// When the call began.
    pub asked: Micros,
    /// When the answer arrived.
    pub answered: Micros,
    /// The answer; `None` = the outcome is unknown.
    pub answer: Option<Answer>,
}

/// The side that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The server, or the network.
    Remote,
    /// The device itself.
    Own,
    /// Neither: it was open when the run ended.
    Open,
}

/// One connection of a device, as the device saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The device.
    pub device: String,
    /// Which connection of the device, from 0.
    pub epoch: u32,
    /// The node.
    pub node: u32,
    /// When the device began to connect.
    pub asked: Micros,
    /// When the server had accepted it.
    pub up: Micros,
    /// When it ended, or the run.
    pub ended: Micros,
    /// Which side ended it.
    pub end: End,
    /// When the last message was sent that was acknowledged on this connection.
    pub newest_acknowledged_sent: Option<Micros>,
}

/// A device was refused as not authorized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The device.
    pub device: String,
    /// The node.
    pub node: u32,
    /// When the device began to connect.
    pub asked: Micros,
    /// When it was refused.
    pub answered: Micros,
}

/// An identity lost its rights (disabled or deleted), or got them (created or enabled).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsChange {
    /// The device.
    pub device: String,
    /// Whether it may connect afterwards.
    pub allowed: bool,
    /// When the back end requested it.
    pub asked: Micros,
    /// When the answer arrived; `None` = the outcome is unknown.
    pub answered: Option<Micros>,
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The kind.
    pub kind: String,
    /// The details.
    pub detail: String,
    /// The nodes that it hit.
    pub nodes: Vec<u32>,
    /// When it began.
    pub began: Micros,
    /// When it was over: healed, or the process ready again.
    pub ended: Micros,
    /// Whether a majority of nodes could work and communicate meanwhile, so that writes had to continue.
    pub majority: bool,
    /// The partitions ([`REGISTRY`] among them) that the hit nodes led when it began, where that was known.
    pub led: Vec<u32>,
}
