//! What a group's entries are applied to.

use bytes::Bytes;
use holdfast_storage::StorageError;

use crate::position::LogPosition;

/// A deterministic state machine: the same entries in the same order give the same state on every replica.
///
/// Its state lives in a family of its own, written [`Replayed`](holdfast_storage::Durability::Replayed) together with the
/// position of the last applied entry, so that after a crash it finds an older but whole state, and the group applies
/// again what came after. An error of any method stops the node.
pub trait StateMachine: Send + 'static {
    /// The last applied entry and the membership, as recovered from disk; `None` and empty at the very beginning.
    ///
    /// The membership is opaque: what [`StateMachine::apply_meta`] was last given.
    fn applied(&self) -> (Option<LogPosition>, Bytes);

    /// Applies a proposed entry. The answer goes to who called [`Group::propose`](crate::Group::propose).
    ///
    /// # Errors
    /// Any error stops the node.
    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError>;

    /// Takes note of an entry of consensus itself: a new leader's first entry, or a new membership to be kept.
    ///
    /// # Errors
    /// Any error stops the node.
    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError>;

    /// Called after each run of applies: write state, wake readers. Answers are given after it returns.
    ///
    /// # Errors
    /// Any error stops the node.
    fn end_of_run(&mut self) -> Result<(), StorageError>;

    /// A dump of the state for a replica that cannot catch up from the log. Not needed while a group has one member.
    ///
    /// # Errors
    /// Any error stops the node.
    fn dump(&mut self) -> Result<Bytes, StorageError> {
        Ok(Bytes::new())
    }

    /// Replaces the state by a dump.
    ///
    /// # Errors
    /// [`StorageError::Unsupported`] by default.
    fn restore(&mut self, position: LogPosition, membership: Bytes, dump: Bytes) -> Result<(), StorageError> {
        let _ = (position, membership, dump);
        Err(StorageError::Unsupported("restoring a state machine from a dump"))
    }
}
