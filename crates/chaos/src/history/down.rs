//! The way down, as back ends and devices saw it: twins, cloud-to-device messages, direct methods.
//!
//! Invariant: a call is recorded before it is sent, with an unknown outcome; so whatever a device or a reader sees of it
//! has a record.

use serde::{Deserialize, Serialize};

use super::Micros;

/// A section of a twin, which has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Section {
    /// Back ends write it.
    Desired,
    /// The device writes it.
    Reported,
}

/// A call about one section of a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TwinAction {
    /// A patch that sets the tag, which is different in every write.
    Write {
        /// The value to write.
        tag: u64,
    },
    /// GET.
    Read,
}

/// The answer to such a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TwinAnswer {
    /// Written; the section has this version.
    Written {
        /// The new version.
        version: u64,
    },
    /// Read.
    Found {
        /// The version.
        version: u64,
        /// The value of the last write; 0 before the first.
        tag: u64,
    },
    /// The call certainly had no effect.
    Refused,
}

/// One call about a twin and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinCall {
    /// The device.
    pub device: String,
    /// The section.
    pub section: Section,
    /// The node that the call went to.
    pub node: u32,
    /// The call.
    pub action: TwinAction,
    /// When it began.
    pub asked: Micros,
    /// The answer and when it arrived; `None` = the outcome is unknown.
    pub answer: Option<(Micros, TwinAnswer)>,
}

/// The outcome of sending a message to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendOutcome {
    /// Acknowledged.
    Queued {
        /// When the answer arrived.
        answered: Micros,
        /// The message's place in the queue.
        sequence: u64,
    },
    /// It certainly was not queued.
    Refused,
    /// It may have been queued.
    Unknown,
}

/// A message that a back end has sent to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentMessage {
    /// The device.
    pub device: String,
    /// Different for every message.
    pub number: u64,
    /// When the call began.
    pub asked: Micros,
    /// What became of it.
    pub outcome: SendOutcome,
}

/// A message that a device has received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedMessage {
    /// The device.
    pub device: String,
    /// The message's number.
    pub number: u64,
    /// When the device began to open the connection.
    pub connecting: Micros,
    /// When it received the message.
    pub at: Micros,
}

/// The queue of a device, as a back end listed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedQueue {
    /// The device.
    pub device: String,
    /// When the call began.
    pub asked: Micros,
    /// When the answer arrived.
    pub answered: Micros,
    /// The numbers of the messages that wait or are with the device.
    pub queued: Vec<u64>,
    /// The numbers of the dead letters.
    pub dead: Vec<u64>,
}

/// The outcome of a direct method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MethodOutcome {
    /// The device's answer.
    Answered {
        /// The number in it; `None`: it has none.
        echo: Option<u64>,
    },
    /// An error of the hub, with its number.
    Failed(u64),
    /// No answer arrived.
    Unanswered,
}

/// A call of a direct method, whose payload is a number that the device returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodCall {
    /// The device.
    pub device: String,
    /// Different for every call.
    pub number: u64,
    /// The node that the call went to.
    pub node: u32,
    /// When it began.
    pub asked: Micros,
    /// When it ended.
    pub answered: Micros,
    /// What became of it.
    pub outcome: MethodOutcome,
}

/// A device carried out a direct method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// The device.
    pub device: String,
    /// The call's number.
    pub number: u64,
    /// When it received the call.
    pub at: Micros,
}

/// All observations of the way down.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayDown {
    /// Calls about twins.
    pub twins: Vec<TwinCall>,
    /// Messages to devices, in the order in which they were sent; to one device, each after the end of the call before.
    pub sent: Vec<SentMessage>,
    /// Messages that devices have received, in the order of their arrival.
    pub received: Vec<ReceivedMessage>,
    /// Listed queues, in the order of the answers.
    pub listed: Vec<ListedQueue>,
    /// Calls of methods.
    pub methods: Vec<MethodCall>,
    /// Methods that devices have carried out.
    pub executions: Vec<Execution>,
}
