//! Calls between nodes as an interface: gRPC between processes, a simulated network in tests.
//!
//! Why here: Raft's own calls are the first that need it, and everything above (owners, sessions, control) uses the same
//! connection, so that a pair of nodes keeps one. The services define the meaning of calls; the transport carries bytes.
//! Invariants: a call has one answer or one error, within its time-out; an error says whether the call may have been
//! executed. Sizes are bounded by the transport; larger data goes as chunks.
//! Not here: gRPC, certificates, addresses (`cluster`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use holdfast_model::NodeId;
use holdfast_tasks::sync::RwLock;
use thiserror::Error;

/// The most bytes of a call's body or of an answer: an entry of the largest size with room for headers.
pub const MAX_CALL_BYTES: usize = 20 << 20;

/// The most bytes of one chunk.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The service that a call is for; the numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Service {
    /// Raft groups; the target is the group's number.
    Raft = 1,
    /// The owner, or a replica, of a partition; the target is the partition's number.
    Partition = 2,
    /// Sessions of devices: between gateways and owners; the target is the partition's number.
    Session = 3,
    /// Membership, placement, status; the target is 0.
    Control = 4,
}

impl Service {
    /// The service of a number on the wire.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Raft,
            2 => Self::Partition,
            3 => Self::Session,
            4 => Self::Control,
            _ => return None,
        })
    }
}

/// A call to another node.
#[derive(Debug, Clone)]
pub struct Call {
    /// The service.
    pub service: Service,
    /// The group or partition.
    pub target: u32,
    /// Segments that arrive as one body, so that a header need not be copied together with an entry.
    pub body: Vec<Bytes>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// It was not executed: it never left, or the other side refused it before doing anything.
    #[error("not sent: {0}")]
    NotSent(Arc<str>),
    /// It may or may not have been executed: the connection or the time-out ended in between.
    #[error("no answer: {0}")]
    Unknown(Arc<str>),
    /// The other side refused it; nothing was done.
    #[error("refused: {0}")]
    Refused(Arc<str>),
}

/// The outcome of a call.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, CallError>> + Send>>;

/// Parts of a large message, in order, each at most [`MAX_CHUNK_BYTES`]; ends at the first error.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, CallError>> + Send>>;

/// Calls from this node to the others.
pub trait Transport: Send + Sync + 'static {
    /// Calls `node`. Calls for one service and target leave in the order in which this function was called; those of others,
    /// and answers, may overtake.
    fn call(&self, node: NodeId, call: Call) -> Answer;

    /// Calls `node` with a body and then `chunks`, which are pulled as fast as the other side reads them. The time-out is
    /// for each chunk.
    fn upload(&self, node: NodeId, call: Call, chunks: Chunks) -> Answer;

    /// Calls `node` for chunks. Dropping the stream ends the call. The time-out is for the first chunk.
    fn download(&self, node: NodeId, call: Call) -> Chunks;
}

/// The receiving side of one service. `from` is the calling node as the transport has authenticated it.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call.
    fn call(&self, from: NodeId, target: u32, body: Bytes) -> Answer;

    /// Receives chunks; refused by default.
    fn upload(&self, from: NodeId, target: u32, body: Bytes, chunks: Chunks) -> Answer {
        let _ = (from, target, body, chunks);
        refused("this service takes no streams")
    }

    /// Sends chunks; refused by default.
    fn download(&self, from: NodeId, target: u32, body: Bytes) -> Chunks {
        let _ = (from, target, body);
        Box::pin(stream::iter([Err(CallError::Refused(
            "this service gives no streams".into(),
        ))]))
    }
}

/// An answer that refuses.
#[must_use]
pub fn refused(reason: &str) -> Answer {
    let error = CallError::Refused(reason.into());
    Box::pin(async move { Err(error) })
}

/// The handlers of this node's services; clones share the table. Services are registered as the node starts; a call for
/// one that is not registered yet is refused.
#[derive(Clone, Default)]
pub struct Dispatch(Arc<RwLock<HashMap<Service, Arc<dyn Handler>>>>);

impl Dispatch {
    /// A table without handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `handler` handle `service`.
    pub fn enter(&self, service: Service, handler: Arc<dyn Handler>) {
        self.0.write().insert(service, handler);
    }

    /// The handler of `service`.
    #[must_use]
    pub fn handler(&self, service: Service) -> Option<Arc<dyn Handler>> {
        self.0.read().get(&service).cloned()
    }

    /// Forwards a call to its handler.
    pub fn call(&self, from: NodeId, service: Service, target: u32, body: Bytes) -> Answer {
        match self.handler(service) {
            Some(handler) => handler.call(from, target, body),
            None => refused("the node is starting"),
        }
    }
}

/// The transport of a node without others: every call fails at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Alone {
    fn error(node: NodeId) -> CallError {
        CallError::NotSent(format!("node {node} cannot be reached: this node runs without a cluster").into())
    }
}

impl Transport for Alone {
    fn call(&self, node: NodeId, _call: Call) -> Answer {
        Box::pin(async move { Err(Self::error(node)) })
    }

    fn upload(&self, node: NodeId, _call: Call, _chunks: Chunks) -> Answer {
        Box::pin(async move { Err(Self::error(node)) })
    }

    fn download(&self, node: NodeId, _call: Call) -> Chunks {
        Box::pin(stream::iter([Err(Self::error(node))]))
    }
}
