//! A connected device or module.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_model::{AuthMethod, IdentityId, PartitionId, SessionKey, UnixMillis};

use crate::device_state::Subscriptions;
use crate::downlink::receive::ReceivedDelivery;
use crate::session_types::{SessionInfo, SessionNumber};

/// Why the hub ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A newer connection of the same identity (400027).
    TakenOver,
    /// The token has expired (401003).
    TokenExpired,
    /// The certificate, or one of its issuers, has ended (401003).
    CertificateExpired,
    /// The identity was deleted, disabled or given other keys or thumbprints, or its CA was removed (401003).
    Revoked,
    /// A certificate of its chain is on the deny list, or on the revocation list of its CA (401003).
    CertificateRevoked,
    /// The node is stopping.
    Stopping,
    /// A message could not be committed, or its outcome is unknown; or the node has been cut off from the registry for too
    /// long (503001).
    Unavailable,
}

impl CloseReason {
    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TakenOver => "taken_over",
            Self::TokenExpired => "token_expired",
            Self::CertificateExpired => "certificate_expired",
            Self::Revoked => "revoked",
            Self::CertificateRevoked => "certificate_revoked",
            Self::Stopping => "stopping",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The front end's side of a session.
pub trait SessionTarget {
    /// Ends the connection; called at most once, on the session's core. Messages that were sent before stay valid. With
    /// [`CloseReason::Stopping`] they are acknowledged first.
    fn close(&self, reason: CloseReason);

    /// A delivery for the device; called on the session's core, in order, within the credit that the front end has granted
    /// with [`crate::Core::grant_deliveries`], so that it takes every one. [`crate::Core::settle_delivery`] follows, or the end
    /// of the session. A front end that grants no credit gets no deliveries and need not implement this.
    fn deliver(&self, _delivery: ReceivedDelivery) {}
}

/// A connected device or module; made by [`crate::Core::connect`], ended by [`crate::Core::disconnect`].
#[derive(Debug)]
pub struct Session {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) auth: AuthMethod,
    pub(crate) model_id: Option<Arc<str>>,
    pub(crate) partition: PartitionId,
    pub(crate) key: SessionKey,
    pub(crate) number: SessionNumber,
    pub(crate) subscriptions: Option<Subscriptions>,
    /// Of the newest credential of its identity.
    pub(crate) expires: Option<UnixMillis>,
    /// A message at or after this time is reported as activity.
    pub(crate) activity_due: Cell<UnixMillis>,
}

impl Session {
    /// The connected identity.
    #[must_use]
    pub fn identity(&self) -> &IdentityId {
        &self.info.identity
    }

    /// The number that the owner of its partition has assigned to it.
    #[must_use]
    pub fn number(&self) -> SessionNumber {
        self.number
    }

    /// The subscriptions that its identity had stored when it began with [`crate::StoredSession::Resume`]; `None`: there was
    /// no stored session.
    #[must_use]
    pub fn stored_subscriptions(&self) -> Option<Subscriptions> {
        self.subscriptions
    }

    /// The model id that a link of the client announces after the session began.
    pub fn announce_model(&mut self, model_id: &str) {
        if !model_id.is_empty() {
            self.model_id = Some(model_id.into());
        }
    }

    /// When its token ends, clock skew included, or its certificate, grace included; `None` = never.
    #[must_use]
    pub fn expires(&self) -> Option<UnixMillis> {
        self.expires
    }

    /// The reason of its end at [`Self::expires`].
    #[must_use]
    pub fn expiry_reason(&self) -> CloseReason {
        match self.info.certificate {
            Some(_) => CloseReason::CertificateExpired,
            None => CloseReason::TokenExpired,
        }
    }
}

/// Weak: a connection that is gone needs no closing.
pub(crate) type Target = std::rc::Weak<dyn SessionTarget>;

pub(crate) fn close(target: &Target, reason: CloseReason) {
    if let Some(target) = Target::upgrade(target) {
        Rc::clone(&target).close(reason);
    }
}
