//! Words that gateways and owners share about sessions.

use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::KeyFingerprint;
use holdfast_model::{GenerationId, IdentityId, UnixMillis};

use crate::Protocol;

/// How long a gateway's sessions of a partition may act after it sent the call that the owner answered last. An owner
/// that cannot reach a gateway waits this long before it lets a newer session begin, and so does a new owner for
/// gateways that it has not heard of: so no two sessions of one identity act at the same time (foundations 4).
pub(crate) const LINK_LEASE: Duration = Duration::from_secs(2);

/// How often a gateway renews its links, one call for all partitions of one owner.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Tells the sessions of an identity apart: the later one has the greater number, whichever owner gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber {
    /// The term of the owner that gave it.
    pub term: u64,
    /// The owner: of two that follow each other in one term, the later one has the greater id (docs/decisions/0002).
    pub node: u64,
    /// Counts that owner's sessions.
    pub counter: u64,
}

/// What gateway, owner and front end know of a session; it never changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) identity: IdentityId,
    pub(crate) generation: GenerationId,
    /// With which key it was opened.
    pub(crate) key: KeyFingerprint,
    /// The policy whose token opened it, if one did.
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) protocol: Protocol,
    pub(crate) since: UnixMillis,
    /// When its token ends, clock skew included.
    pub(crate) expires: Option<UnixMillis>,
}

/// Where a session lives: nothing else has this address, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    /// The gateway's node.
    pub(crate) gateway: u64,
    /// Counts the gateway's starts.
    pub(crate) life: u64,
    /// The gateway's own name for it.
    pub(crate) key: u64,
}

/// A gateway's link with an owner, as the owner is told of it in every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) gateway: u64,
    pub(crate) life: u64,
    pub(crate) link: u64,
}

/// Why an owner does not do what a gateway asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotHere {
    /// It does not own the partition in that term.
    NotOwner,
    /// All sessions are to be handed in again.
    LinkLost,
    /// A later life of the gateway has called.
    StaleLife,
    /// Too much is waiting.
    Busy,
}
