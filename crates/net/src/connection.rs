//! The connection driver: sockets, buffers, deadlines and admission for protocols that are state machines without I/O.
//!
//! Why: each protocol needs the same loop (flush, wait for its turn, read, handle, write once), and a hub holds very
//! many idle connections: they share one read buffer per core, one timer wheel and one table.
//! Invariants: one connection lives on one core; an idle connection owns no buffer; a peer that does not read is not
//! read either; bytes that wait for a peer are bounded; nothing is allocated per message.
//! Not here: the meaning of bytes. A [`Protocol`] gets received bytes and writes through its [`Transport`].
//!
//! Start at [`Protocol`], then [`Connections`].

mod admission;
mod driver;
mod read_buffer;
mod table;
#[cfg(test)]
mod tests;
mod timer_wheel;
mod transport;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use read_buffer::Received;
pub use table::{ConnectionLimits, Connections};
pub use transport::Transport;

/// One connection of a protocol: its state machine and handler.
///
/// All methods are called on the connection's core. The driver holds no borrow of the transport while it calls them.
pub trait Protocol: Sized + 'static {
    /// The cause of a connection's end.
    type End: Copy + From<TransportEnd> + 'static;

    /// The name of the connections' tasks.
    const TASK: &'static str;

    /// The driver's part of the connection, which the protocol keeps.
    fn transport(&self) -> &Transport<Self>;

    /// Handles the complete packets at the start of `input` and returns how far it came. The driver keeps the rest.
    fn received(self: &Rc<Self>, input: &[u8]) -> Received;

    /// Ready when the next bytes may be handled: work that they must wait for is done, and there is capacity for them.
    ///
    /// A protocol that returns `Pending` registers the waker of `cx`, or calls [`Transport::wake`] later.
    fn poll_ready(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()>;

    /// The time of the next deadline, in milliseconds of [`Transport::now_ms`].
    fn next_deadline(&self, now_ms: u64) -> u64;

    /// Ends the connection if a deadline has passed. May be called early.
    fn check_deadlines(&self, now_ms: u64);

    /// The node drains: the connection ends now or as soon as its work is done. Until then [`Self::poll_ready`] lets
    /// only that be read which the end needs.
    fn drain(&self);

    /// Too many connections have not authenticated, and this one is closed for a newer one (`admission`): it ends, at
    /// once or after a word to the peer.
    fn evict(&self) {
        self.transport().end(TransportEnd::Evicted.into());
    }

    /// The connection is over and its socket closed; called once.
    fn ended(&self, end: Self::End);
}

/// A cause of an end that the driver finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportEnd {
    /// The peer closed the connection, or the network lost it.
    Lost,
    /// The peer broke TLS, or spoke none on a TLS port.
    BrokenTls,
    /// The peer does not read what it is sent.
    OutputOverflow,
    /// Too many connections had not authenticated, and this one was closed for a newer one.
    Evicted,
    /// The node stops.
    Stopping,
    /// The handler panicked; the panic has been logged.
    Panicked,
}

impl TransportEnd {
    /// The word in logs and in the labels of counters.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::BrokenTls => "tls",
            Self::OutputOverflow => "output_overflow",
            Self::Evicted => "evicted",
            Self::Stopping => "stopping",
            Self::Panicked => "panic",
        }
    }
}

impl From<&io::Error> for TransportEnd {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::BrokenTls,
            _ => Self::Lost,
        }
    }
}
