//! What other threads tell a core: batches committed, sessions to close.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use holdfast_model::PartitionId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::local::Live;
use crate::session::CloseReason;
use crate::sessions::Facts;

/// A message to a core.
pub(crate) enum Message {
    /// The open entry of a partition has been decided.
    Decided { partition: PartitionId, committed: bool },
    /// The entry that has failed is to be proposed again.
    Retry { partition: PartitionId },
    /// Sessions of the partition may act again.
    Opened { partition: PartitionId },
    /// Close a session; `drained` is dropped once all that it sent before has been decided.
    Close {
        facts: Arc<Facts>,
        key: u64,
        partition: PartitionId,
        reason: CloseReason,
        drained: Option<oneshot::Sender<()>>,
    },
    /// Do not propose anything of a session any more: a newer one has begun elsewhere.
    Forget { key: u64, partition: PartitionId },
}

impl Message {
    pub(crate) fn close(
        live: &Live,
        partition: PartitionId,
        reason: CloseReason,
        drained: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self::Close {
            facts: Arc::clone(&live.facts),
            key: live.key,
            partition,
            reason,
            drained,
        }
    }
}

/// A core's mailbox; clones are the same box. It holds at most one `Decided` or `Retry` and a few `Opened` per partition,
/// and one `Close` and `Forget` per session of the core, so its length is bounded by theirs.
#[derive(Clone)]
pub struct Mailbox(Arc<Shared>);

struct Shared {
    messages: Mutex<Vec<Message>>,
    waiting: AtomicBool,
    waker: AtomicWaker,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self(Arc::new(Shared {
            messages: Mutex::default(),
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }))
    }
}

impl Mailbox {
    pub(crate) fn put(&self, message: Message) {
        self.0.messages.lock().push(message);
        if !self.0.waiting.swap(true, Ordering::AcqRel) {
            self.0.waker.wake();
        }
    }

    /// Wakes the core without a message: it has work of its own.
    pub(crate) fn wake(&self) {
        self.0.waker.wake();
    }

    /// Takes everything that has arrived.
    pub(crate) fn take(&self) -> Vec<Message> {
        if self.0.waiting.swap(false, Ordering::AcqRel) {
            return std::mem::take(&mut *self.0.messages.lock());
        }
        Vec::new()
    }

    /// Takes everything that has arrived into `into`; registers the caller for what comes after.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<Message>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        if self.0.waiting.swap(false, Ordering::AcqRel) {
            std::mem::swap(&mut *self.0.messages.lock(), into);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
