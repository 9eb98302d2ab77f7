//! Commands of other threads to a core: batches decided, sessions to close.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use holdfast_model::{LinkId, PartitionId, SessionKey};
use holdfast_partition::AppendError;
use holdfast_tasks::sync::Mutex;
use tokio::sync::oneshot;

use crate::api::session::CloseReason;
use crate::downlink::receive::ReceivedDelivery;
use crate::downlink::term::DeliveryAnswer;
use crate::gateway::session_table::LocalSession;
use crate::session_types::SessionInfo;

/// A command to a core.
pub(crate) enum Command {
    /// The entry in flight of a partition has been decided.
    Decided {
        partition: PartitionId,
        outcome: Result<(), AppendError>,
    },
    /// The entry that has failed is to be proposed again.
    Retry { partition: PartitionId },
    /// Sessions of the partition may act again.
    LinkOpened { partition: PartitionId },
    /// Close a session; `drained` is dropped once all that it sent before has been decided.
    Close {
        info: Arc<SessionInfo>,
        key: SessionKey,
        partition: PartitionId,
        reason: CloseReason,
        drained: Option<oneshot::Sender<()>>,
    },
    /// Hand deliveries to a session's front end.
    Deliver {
        partition: PartitionId,
        link: LinkId,
        key: SessionKey,
        items: Vec<ReceivedDelivery>,
        reply: oneshot::Sender<Vec<DeliveryAnswer>>,
    },
    /// Propose nothing of a session any more: a newer one has begun elsewhere.
    Discard { key: SessionKey, partition: PartitionId },
}

impl Command {
    pub(crate) fn close(
        session: &LocalSession,
        partition: PartitionId,
        reason: CloseReason,
        drained: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self::Close {
            info: Arc::clone(&session.info),
            key: session.key,
            partition,
            reason,
            drained,
        }
    }
}

/// A core's command queue; clones share it. It holds at most one `Decided` or `Retry` and a few `LinkOpened` per
/// partition, one `Close` and `Discard` per session of the core, and the deliveries of one call per
/// partition, so its length is bounded by theirs.
#[derive(Clone)]
pub(crate) struct CommandQueue(Arc<Shared>);

struct Shared {
    commands: Mutex<Vec<Command>>,
    has_commands: AtomicBool,
    waker: AtomicWaker,
}

impl Default for CommandQueue {
    fn default() -> Self {
        Self(Arc::new(Shared {
            commands: Mutex::default(),
            has_commands: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }))
    }
}

impl CommandQueue {
    pub(crate) fn push(&self, command: Command) {
        self.0.commands.lock().push(command);
        if !self.0.has_commands.swap(true, Ordering::AcqRel) {
            self.0.waker.wake();
        }
    }

    /// Wakes the core without a command: it has work of its own.
    pub(crate) fn wake(&self) {
        self.0.waker.wake();
    }

    /// Takes everything that has arrived.
    pub(crate) fn take(&self) -> Vec<Command> {
        if self.0.has_commands.swap(false, Ordering::AcqRel) {
            return std::mem::take(&mut *self.0.commands.lock());
        }
        Vec::new()
    }

    /// Takes everything that has arrived into `into`; registers the caller's waker for what arrives later.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<Command>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.has_commands.swap(false, Ordering::AcqRel) {
            std::mem::swap(&mut *self.0.commands.lock(), into);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
