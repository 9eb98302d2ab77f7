//! The state machine of a group, to which its entries are applied.

pub(crate) mod applier;
pub(crate) mod shared;

use bytes::Bytes;
use holdfast_storage::StorageError;

use crate::position::LogPosition;

/// A deterministic state machine: the same entries in the same order give the same state on every replica.
///
/// Its state lives in a family of its own, written [`Replayed`](holdfast_storage::Durability::Replayed) together with the
/// position of the last applied entry, so that after a crash it finds an older but complete state, and the group applies
/// the later entries again. An error of any method stops the node.
pub trait StateMachine: Send + 'static {
    /// The last applied entry and the membership, as recovered from disk; `None` and empty at the very beginning.
    ///
    /// The membership is opaque: the bytes last given to [`StateMachine::apply_meta`].
    fn applied(&self) -> (Option<LogPosition>, Bytes);

    /// Applies a proposed entry. The answer goes to the caller of [`Group::propose`](crate::Group::propose).
    ///
    /// # Errors
    /// Any error stops the node.
    fn apply(&mut self, position: LogPosition, entry: &Bytes) -> Result<Bytes, StorageError>;

    /// Records an entry of consensus itself: a new leader's first entry, or a new membership to be kept.
    ///
    /// # Errors
    /// Any error stops the node.
    fn apply_meta(&mut self, position: LogPosition, membership: Option<Bytes>) -> Result<(), StorageError>;

    /// Called after each run of applies: write state, wake readers. Answers are given after it returns.
    ///
    /// # Errors
    /// Any error stops the node.
    fn end_of_run(&mut self) -> Result<(), StorageError>;

    /// Opens a view of the whole current state, for a replica that cannot catch up from the log. Must be quick: the expensive
    /// work is done when the view's chunks are pulled, on the blocking pool, while further entries are applied.
    ///
    /// # Errors
    /// Any error stops the node.
    fn snapshot(&mut self) -> Result<SnapshotSource, StorageError> {
        Err(StorageError::Unsupported("taking a snapshot of this state machine"))
    }

    /// As [`StateMachine::snapshot`], with a part of the log only: for a backup, which may have the rest already. A machine
    /// whose snapshots carry no log gives the same for every scope.
    ///
    /// # Errors
    /// Any error stops the node.
    fn export(&mut self, log: LogScope) -> Result<SnapshotSource, StorageError> {
        let _ = log;
        self.snapshot()
    }

    /// Creates a sink for the chunks of a snapshot from another replica. The state is not touched.
    ///
    /// # Errors
    /// The snapshot is refused; the node continues.
    fn receive(&mut self) -> Result<Box<dyn SnapshotSink>, StorageError> {
        Err(StorageError::Unsupported("receiving a snapshot of this state machine"))
    }

    /// Replaces the state by the snapshot that [`StateMachine::receive`]'s sink has sealed; atomic over crashes: afterwards
    /// [`StateMachine::applied`] is either the former position or `position`.
    ///
    /// # Errors
    /// Any error stops the node.
    fn restore(
        &mut self,
        position: LogPosition,
        membership: Bytes,
        sealed: SealedSnapshot,
    ) -> Result<Restored, StorageError> {
        let _ = (position, membership, sealed);
        Err(StorageError::Unsupported("restoring a state machine from a snapshot"))
    }
}

/// The log entries that an export carries beside the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogScope {
    /// All that retention has left.
    All,
    /// Those above this index that retention has left.
    After(u64),
    /// None: the exported state has an empty log, as after retention of all of it.
    None,
}

/// A view of a state machine's state at one position.
pub struct SnapshotSource {
    /// The last entry that it contains.
    pub position: LogPosition,
    /// The membership in force there, as given to [`StateMachine::apply_meta`].
    pub membership: Bytes,
    /// The next chunk, at most [`MAX_CHUNK_BYTES`](crate::transport::MAX_CHUNK_BYTES); `None` at the end. May block.
    pub next_chunk: Box<dyn FnMut() -> Result<Option<Bytes>, StorageError> + Send>,
}

/// Receives a snapshot's chunks, on the blocking pool. Dropping it discards them.
pub trait SnapshotSink: Send {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// The chunk is malformed, or the disk fails; the snapshot is discarded.
    fn write(&mut self, chunk: Bytes) -> Result<(), StorageError>;

    /// Called after the last chunk: makes the chunks durable.
    ///
    /// # Errors
    /// As [`SnapshotSink::write`]; also when the snapshot is incomplete.
    fn seal(self: Box<Self>) -> Result<SealedSnapshot, StorageError>;
}

/// A sealed snapshot, for the machine that created the sink.
pub type SealedSnapshot = Box<dyn std::any::Any + Send>;

/// The log of a restored machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// The snapshot brought log entries after this one, up to its position; `None`: it brought none, and readers find
    /// nothing below its position.
    pub retained_after: Option<LogPosition>,
}
