//! What clients write down while faults happen: the checker's input.
//!
//! All times are microseconds of one monotonic clock since the run began, taken by the client: `asked` before the first
//! byte leaves, `answered` after the last one has come. So an operation took effect somewhere between the two, or, when
//! its outcome is unknown, at any time after `asked`, or never.

use serde::{Deserialize, Serialize};

/// Microseconds since the run began.
pub type Micros = u64;

/// The registry, where partitions are numbered.
pub const REGISTRY: u32 = u32::MAX;

/// Microseconds of a second.
pub const SECOND: Micros = 1_000_000;

/// A call about one identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// PUT without If-Match. The tag is different in every write.
    Create {
        /// What is written.
        tag: u64,
    },
    /// PUT with If-Match.
    Update {
        /// What is written.
        tag: u64,
        /// The ETag that must be there; `None` = any.
        if_match: Option<String>,
    },
    /// DELETE.
    Delete {
        /// The ETag that must be there; `None` = any.
        if_match: Option<String>,
    },
    /// GET.
    Get,
}

/// What came back.
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
        /// What was written last.
        tag: u64,
    },
    /// Deleted.
    Deleted,
    /// There is no such identity.
    Absent,
    /// There is one already.
    Exists,
    /// Another ETag than was asked for.
    Mismatch,
}

/// One call and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The identity.
    pub key: String,
    /// The node that was asked.
    pub node: u32,
    /// What was asked.
    pub call: Call,
    /// When.
    pub asked: Micros,
    /// When the answer was there.
    pub answered: Micros,
    /// The answer; `None` = nobody knows whether it happened.
    pub answer: Option<Answer>,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The server, or the network.
    Remote,
    /// The device itself.
    Own,
    /// Nobody: it was open when the run ended.
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
    /// How.
    pub end: End,
    /// When the message was sent that was sent last of those that this connection got acknowledged.
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
    /// When the back end asked for it.
    pub asked: Micros,
    /// When it was told that it is done; `None` = nobody knows whether it happened.
    pub answered: Option<Micros>,
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which kind.
    pub kind: String,
    /// What exactly.
    pub detail: String,
    /// The nodes that it hit.
    pub nodes: Vec<u32>,
    /// When it began.
    pub began: Micros,
    /// When it was over: healed, or the process ready again.
    pub ended: Micros,
    /// Whether a majority of nodes could work and talk meanwhile, so that writes had to go on.
    pub majority: bool,
    /// The partitions ([`REGISTRY`] among them) that the hit nodes led when it began, where that was known.
    pub led: Vec<u32>,
}
