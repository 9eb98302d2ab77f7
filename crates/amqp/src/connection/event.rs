//! The events of the engine, and the ids of sessions, links and deliveries.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::performative::{Attach, Fault, Open, Outcome, SaslInit};

/// A session of a connection. Never reused within the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub(super) channel: u16,
    pub(super) serial: u32,
}

/// A link of a connection. Never reused within the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub(super) session: SessionId,
    pub(super) handle: u32,
    pub(super) serial: u32,
}

impl LinkId {
    /// The session that the link belongs to.
    #[must_use]
    pub fn session(self) -> SessionId {
        self.session
    }
}

/// Something that the peer did. Borrows from the bytes given to [`crate::Connection::receive`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// Server: the client chose its mechanism. Answer with [`crate::Connection::sasl_outcome`], at any later time;
    /// nothing is read until then.
    SaslInit(SaslInit<'a>),
    /// Server: the client's answer to [`crate::Connection::sasl_challenge`]. Answer it as [`Event::SaslInit`].
    SaslResponse(&'a [u8]),
    /// Client: the server refused the credentials with this SASL code. The connection is closed.
    SaslFailed(u8),
    /// The peer's open. A server answers with [`crate::Connection::open`]; a client's has been sent before.
    Open(Open<'a>),
    /// A session exists on both sides: the peer began it, or answered our [`crate::Connection::begin`].
    Begun(SessionId),
    /// The session and its links have ended; the engine has sent its `end` where required.
    Ended {
        /// Which.
        session: SessionId,
        /// The peer's reason, or ours when the peer broke a rule.
        error: Option<Fault<'a>>,
    },
    /// The peer attaches. Answer with [`crate::Connection::accept`] or [`crate::Connection::refuse`], at any later time.
    AttachRequested {
        /// The link, from now on known under this id.
        link: LinkId,
        /// The peer's attach.
        attach: Attach<'a>,
    },
    /// The peer answered our [`crate::Connection::attach`]. When it refuses, its terminus is null and a
    /// [`Event::Detached`] follows.
    Attached {
        /// Which.
        link: LinkId,
        /// The outcome at the peer.
        attach: Attach<'a>,
    },
    /// The link has ended on both sides; the engine has sent its detach where required.
    Detached {
        /// Which.
        link: LinkId,
        /// Whether for good.
        closed: bool,
        /// The peer's reason.
        error: Option<Fault<'a>>,
    },
    /// The receiver of a link that we send on has granted credit. With `drain`, send what there is at once, then call
    /// [`crate::Connection::finish_drain`].
    Credit {
        /// Which.
        link: LinkId,
        /// The current value.
        credit: u32,
        /// Whether it wants the rest of the credit back.
        drain: bool,
    },
    /// The sender of a link that we receive on has answered [`crate::Connection::drain`]: no credit is left.
    Drained(LinkId),
    /// A session's window has opened again after being closed: its links with credit can send.
    WindowOpened(SessionId),
    /// A whole delivery came in.
    Transfer(Incoming<'a>),
    /// The receiver reports the outcome of our deliveries. Look them up with
    /// [`crate::Connection::take_outgoing`]; when not `settled`, answer with [`crate::Connection::answer_outcome`].
    Disposition {
        /// The session that the ids belong to.
        session: SessionId,
        /// The first delivery-id.
        first: u32,
        /// The last one, inclusive; claims of the peer, so do not loop over the range.
        last: u32,
        /// Whether the receiver forgets them.
        settled: bool,
        /// The outcome; `None` counts as accepted when settled, as nothing otherwise.
        outcome: Option<Outcome<'a>>,
    },
    /// The sender of deliveries that we received has settled them, answering an outcome that we proposed.
    SenderSettled {
        /// The session that the ids belong to.
        session: SessionId,
        /// The first delivery-id.
        first: u32,
        /// The last one, inclusive.
        last: u32,
        /// Its verdict.
        outcome: Option<Outcome<'a>>,
    },
    /// The peer closed the connection; ours has been sent. Write the output, then shut down.
    Closed(Option<Fault<'a>>),
}

/// A delivery that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming<'a> {
    /// On which link.
    pub link: LinkId,
    /// Its number within the session.
    pub delivery_id: u32,
    /// Whether no outcome is expected.
    pub settled: bool,
    /// 0 for a plain message.
    pub message_format: u32,
    /// The sender's name for it, up to 32 bytes.
    pub tag: Cow<'a, [u8]>,
    /// The message's sections; borrowed when the delivery was one frame.
    pub payload: Cow<'a, [u8]>,
}

/// The parameters of an outgoing delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The name for it, 1 to 32 bytes.
    pub tag: &'a [u8],
    /// Sent and forgotten.
    pub settled: bool,
    /// 0 for a plain message.
    pub message_format: u32,
}

/// An unsettled delivery that we sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// On which link.
    pub link: LinkId,
    /// Its number within the session.
    pub delivery_id: u32,
    /// The tag given when sending.
    pub tag: SmallVec<[u8; 16]>,
}

/// The result of [`crate::Connection::expire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// Nothing, or it has been dealt with in the output.
    Nothing,
    /// The peer's open did not arrive in time; shut down.
    OpenTimeout,
    /// The peer has been silent for twice our idle time-out; a close is in the output, shut down.
    PeerSilent,
    /// The peer did not answer our close in time; shut down.
    CloseTimeout,
}
