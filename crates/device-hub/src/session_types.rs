//! The types that gateways and owners share about sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::KeyFingerprint;
use holdfast_auth::x509::{CertificateFingerprints, EPOCH_BYTES, PathCertificate};
use holdfast_model::{GenerationId, IdentityId, Incarnation, LinkId, NodeId, SessionKey, Term, UnixMillis};
use thiserror::Error;

use crate::Protocol;

/// How long a gateway's sessions of a partition may act, counted from the sending of the last call that the owner
/// answered. An owner that cannot reach a gateway waits this long before a newer session begins, and so does a new owner
/// for gateways that have not called it yet: two sessions of one identity never act at the same time
/// (docs/decisions/0025).
pub(crate) const LINK_LEASE: Duration = Duration::from_secs(2);

/// How often a gateway renews its links, with one call for all partitions of one owner.
pub(crate) const RENEWAL_PERIOD: Duration = Duration::from_millis(500);

/// Orders the sessions of an identity: the later one has the greater number, whichever owner assigned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber {
    /// The term of the owner that assigned it.
    pub term: Term,
    /// The owner: of two that follow each other in one term, the later one has the greater id (docs/decisions/0002).
    pub node: NodeId,
    /// Counts that owner's sessions.
    pub counter: u64,
}

/// Everything about a session that gateway, owner and front end need and that never changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SessionInfo {
    pub(crate) identity: IdentityId,
    pub(crate) generation: GenerationId,
    /// Identifies the key that opened it.
    pub(crate) key: KeyFingerprint,
    /// The certificate that opened it, if one did.
    pub(crate) certificate: Option<Box<SessionCertificate>>,
    /// The policy whose token opened it, if one did.
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) protocol: Protocol,
    /// Of the client; `None` in reports of a node of an earlier version.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) since: UnixMillis,
    /// When its token ends, clock skew included, or its certificate, grace included.
    pub(crate) expires: Option<UnixMillis>,
}

/// The certificate of a session: enough to see later that its identity may still use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCertificate {
    /// Its digests.
    pub fingerprints: CertificateFingerprints,
    /// SHA-256 of the certificate of the CA that it leads to; `None`: it was accepted by its thumbprint.
    pub ca: Option<[u8; 32]>,
    /// The path below the CA, from the device's own certificate upwards; empty when it was accepted by its thumbprint.
    pub path: Box<[PathCertificate]>,
    /// The epoch of the device that the hub issued it for; `None`: it carries none.
    pub epoch: Option<[u8; EPOCH_BYTES]>,
}

impl SessionInfo {
    /// SHA-256 of the certificates above the device's own, upwards, the CA last; `None`: no chain has opened it.
    pub(crate) fn issuers(&self) -> Option<Arc<[[u8; 32]]>> {
        let shown = self.certificate.as_deref()?;
        let above = shown.path.iter().skip(1).map(|certificate| certificate.sha256);
        Some(above.chain(std::iter::once(shown.ca?)).collect())
    }
}

/// Names a session in the whole cluster; an address is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionAddress {
    /// The gateway's node.
    pub(crate) gateway: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) key: SessionKey,
}

/// A gateway's link with an owner, as every call to the owner names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallerLink {
    pub(crate) gateway: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) link: LinkId,
}

impl CallerLink {
    /// The address of the gateway's session `key`.
    pub(crate) fn address(self, key: SessionKey) -> SessionAddress {
        SessionAddress {
            gateway: self.gateway,
            incarnation: self.incarnation,
            key,
        }
    }
}

/// Which of the calls of a sync this is: a gateway reports its sessions in one or more bounded calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncPhase {
    /// Opens the link; others follow.
    First,
    /// Neither the first nor the last.
    Middle,
    /// Completes the link.
    Last,
    /// First and last.
    Only,
}

impl SyncPhase {
    /// From the two flags of a call.
    pub(crate) fn from_flags(first: bool, last: bool) -> Self {
        match (first, last) {
            (true, true) => Self::Only,
            (true, false) => Self::First,
            (false, true) => Self::Last,
            (false, false) => Self::Middle,
        }
    }

    pub(crate) fn is_first(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    pub(crate) fn is_last(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }
}

/// Whether an identity's session takes deliveries of a kind, as its owner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It has no session, or another node owns the partition.
    Absent,
    /// Its gateway may not have reported it yet to a new owner.
    Unknown,
    /// It takes none: the device has not subscribed to them, or the report about it is on its way.
    Closed,
    /// It takes them.
    Open,
}

/// Why an owner does not carry out a gateway's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum OwnerError {
    /// It does not own the partition in that term.
    #[error("the called node does not own the partition in that term")]
    NotOwner,
    /// The gateway must report all its sessions again.
    #[error("the link is closed; the gateway must report all its sessions again")]
    LinkLost,
    /// A later incarnation of the gateway has called.
    #[error("a later incarnation of the gateway has called")]
    StaleIncarnation,
    /// Too many requests are waiting.
    #[error("too many requests are waiting")]
    Busy,
}
