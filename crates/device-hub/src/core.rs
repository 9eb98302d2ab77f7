//! One core's part of the hub: its sessions, its rounds, its acknowledgements.
//!
//! A *round* is all that was readable when the scheduler went once through its ready list. The first message of a
//! round wakes the core's own task, which the scheduler puts behind all connections that are ready already; so when it
//! runs, the batches hold the whole round (design, "Threads and rounds").

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use holdfast_model::{PartitionId, TelemetryMessage, UnixMillis};
use holdfast_partition::record::{Origin, StreamId};
use holdfast_tasks::{Phase, Stop};

use crate::lane::{Lane, Outcome, settle};
use crate::mailbox::{Mailbox, Message};
use crate::session::{CloseReason, Session, Target, close};
use crate::sessions::SessionNumber;
use crate::{Clock, DeviceHub};

/// How long a core waits before it proposes an entry again whose proposal failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a round waits for the entries of the one before it. They are synced together, so that they are decided
/// together, unless a partition is stuck; the others then go on without it.
const ROUND_PATIENCE: Duration = Duration::from_millis(20);

/// How often a core looks whether a full disk has room again.
const DISK_FULL_PAUSE: Duration = Duration::from_millis(250);

/// Who is told what became of its messages.
pub trait ReceiptTarget {
    /// Called with neighbouring messages of one sender, in the order in which they were sent.
    fn settled(&self, cookies: &[u64], outcome: Outcome);
}

/// Where to send the outcome of one message.
pub struct Receipt {
    /// Who is told.
    pub target: Rc<dyn ReceiptTarget>,
    /// The target's own name for the message.
    pub cookie: u64,
}

/// One core's hub; lives on the core's thread.
pub struct Core {
    pub(crate) hub: Arc<DeviceHub>,
    index: u16,
    stream: StreamId,
    mailbox: Mailbox,
    lanes: RefCell<Vec<Lane>>,
    /// Bytes in all lanes.
    bytes: Cell<usize>,
    /// Something to propose.
    dirty: Cell<bool>,
    /// Entries that have been proposed and not decided.
    under_way: Cell<usize>,
    /// When the last round was proposed.
    round_began: Cell<Instant>,
    /// Nothing is proposed for a while, since the disk is full.
    blocked: Cell<bool>,
    /// Connections that wait until there is room again.
    waiting: RefCell<VecDeque<Waker>>,
    pub(crate) targets: RefCell<std::collections::HashMap<SessionNumber, Target>>,
}

impl Core {
    /// The part of core `index`; [`Self::run`] must be spawned on the same thread.
    #[must_use]
    pub fn new(hub: Arc<DeviceHub>, index: u16) -> Rc<Self> {
        let stream = StreamId {
            gateway_node: hub.parts.node,
            incarnation: hub.parts.incarnation,
            core: u32::from(index),
        };
        let lanes = hub.parts.partitions.count().iter().map(|_| Lane::default()).collect();
        let mailbox = hub.mailbox(index);
        Rc::new(Self {
            hub,
            index,
            stream,
            mailbox,
            lanes: RefCell::new(lanes),
            bytes: Cell::new(0),
            dirty: Cell::new(false),
            under_way: Cell::new(0),
            round_began: Cell::new(Instant::now()),
            blocked: Cell::new(false),
            waiting: RefCell::default(),
            targets: RefCell::default(),
        })
    }

    /// The shared part.
    #[must_use]
    pub fn hub(&self) -> &Arc<DeviceHub> {
        &self.hub
    }

    /// Which core this is.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The hub's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.hub.parts.clock
    }

    /// Whether messages may be sent. When not, the caller stops reading its peer; `cx` is woken when there is room.
    pub fn has_room(&self, cx: &mut Context<'_>) -> bool {
        if self.bytes.get() < self.hub.parts.config.max_unacknowledged_bytes {
            return true;
        }
        self.hub.metrics.paused.increment(1);
        self.waiting.borrow_mut().push_back(cx.waker().clone());
        false
    }

    /// Sends a message of `session`. The outcome comes to `receipt`, never from within this call.
    ///
    /// Size limits are the caller's; so is asking [`Self::has_room`] before it reads more from its peer.
    pub fn send(&self, session: &Session, message: &TelemetryMessage<'_>, receipt: Option<Receipt>, now: UnixMillis) {
        let origin = Origin {
            identity: &session.identity,
            generation: &session.generation,
            auth: session.auth,
            model_id: session.model_id.as_deref(),
        };
        let mut lanes = self.lanes.borrow_mut();
        let lane = &mut lanes[usize::from(session.partition.0)];
        let before = lane.bytes();
        lane.push(
            &origin,
            message,
            now,
            receipt,
            self.stream,
            self.hub.parts.config.max_batch_bytes,
        );
        self.bytes.set(self.bytes.get() + lane.bytes() - before);
        if !self.dirty.replace(true) {
            self.mailbox.wake();
        }
    }

    /// Runs the core until the node closes. What has been sent by then is still proposed and decided.
    pub async fn run(self: Rc<Self>, stop: Stop) {
        let mut messages = Vec::new();
        let mut stopping = false;
        loop {
            let closing = async {
                if stopping {
                    std::future::pending::<()>().await;
                }
                stop.reached(Phase::Closing).await;
            };
            tokio::select! {
                biased;
                () = self.work(&mut messages) => {}
                () = closing => stopping = true,
            }
            for message in messages.drain(..) {
                self.handle(message);
            }
            self.propose_all().await;
            if stopping && self.bytes.get() == 0 {
                return;
            }
        }
    }

    /// Returns when there is a message or a round to propose.
    async fn work(&self, messages: &mut Vec<Message>) {
        let is_due = |looks_again: bool| self.dirty.get() && !self.blocked.get() && (looks_again || self.may_propose());
        let waits = self.dirty.get() && !self.blocked.get() && !self.may_propose();
        let arrived = std::future::poll_fn(|cx| {
            let taken = self.mailbox.poll_take(cx, messages);
            if taken.is_ready() || is_due(!waits) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        if !waits {
            return arrived.await;
        }
        // The next round waits for this one, but not for ever.
        let late = tokio::time::sleep_until((self.round_began.get() + ROUND_PATIENCE).into());
        tokio::select! {
            biased;
            () = arrived => {}
            () = late => {}
        }
    }

    /// Whether there is something to propose, and the round before has been decided or has taken too long.
    fn may_propose(&self) -> bool {
        self.dirty.get()
            && !self.blocked.get()
            && (self.under_way.get() == 0 || self.round_began.get().elapsed() >= ROUND_PATIENCE)
    }

    fn handle(&self, message: Message) {
        match message {
            Message::Decided {
                partition,
                committed: true,
            } => self.committed(partition),
            Message::Decided {
                partition,
                committed: false,
            } => self.retry(partition),
            Message::Close {
                number,
                partition,
                reason,
                drained,
            } => {
                let target = self.targets.borrow_mut().remove(&number);
                if let Some(target) = target {
                    close(&target, reason);
                }
                if let Some(drained) = drained {
                    self.lanes.borrow_mut()[usize::from(partition.0)].when_drained(drained);
                }
            }
        }
    }

    fn committed(&self, partition: PartitionId) {
        let receipts = {
            let mut lanes = self.lanes.borrow_mut();
            let lane = &mut lanes[usize::from(partition.0)];
            let before = lane.bytes();
            let receipts = lane.decided();
            self.bytes.set(self.bytes.get() - (before - lane.bytes()));
            receipts
        };
        self.under_way.set(self.under_way.get() - 1);
        self.hub.metrics.acknowledged.increment(receipts.len() as u64);
        settle(receipts, Outcome::Committed);
        if self.bytes.get() < self.hub.parts.config.max_unacknowledged_bytes {
            for waker in self.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    /// Proposes the entry under way again, after a pause and as it was: if it has been committed after all, apply drops
    /// the repeat.
    fn retry(&self, partition: PartitionId) {
        self.hub.metrics.retried.increment(1);
        let Some(entry) = self.lanes.borrow()[usize::from(partition.0)].again() else {
            return;
        };
        let hub = Arc::clone(&self.hub);
        let mailbox = self.mailbox.clone();
        holdfast_tasks::spawn(
            "propose-again",
            Box::pin(async move {
                tokio::time::sleep(RETRY_PAUSE).await;
                append(&hub, &mailbox, partition, entry).await;
            }),
        );
    }

    async fn propose_all(self: &Rc<Self>) {
        if !self.may_propose() {
            return;
        }
        self.dirty.set(false);
        if !self.hub.is_writable() {
            // Acknowledgements are withheld until there is room on disk again (foundations 12).
            self.dirty.set(true);
            self.blocked.set(true);
            let core = Rc::clone(self);
            holdfast_tasks::spawn_local(
                "disk-full-pause",
                Box::pin(async move {
                    tokio::time::sleep(DISK_FULL_PAUSE).await;
                    core.blocked.set(false);
                    core.mailbox.wake();
                }),
            );
            return;
        }
        self.round_began.set(Instant::now());
        let now = self.clock().now();
        for partition in self.hub.parts.partitions.count().iter() {
            let entry = {
                let mut lanes = self.lanes.borrow_mut();
                let lane = &mut lanes[usize::from(partition.0)];
                let entry = lane.propose(self.stream, now);
                if lane.has_waiting() {
                    self.dirty.set(true);
                }
                entry
            };
            if let Some(entry) = entry {
                self.under_way.set(self.under_way.get() + 1);
                append(&self.hub, &self.mailbox, partition, entry).await;
            }
        }
    }
}

async fn append(hub: &Arc<DeviceHub>, mailbox: &Mailbox, partition: PartitionId, entry: bytes::Bytes) {
    let mailbox = mailbox.clone();
    let committed = Box::new(move |result: Result<(), holdfast_partition::AppendError>| {
        if let Err(error) = &result {
            tracing::warn!(partition = partition.0, %error, "an entry was not committed, it will be proposed again");
        }
        mailbox.put(Message::Decided {
            partition,
            committed: result.is_ok(),
        });
    });
    hub.parts.partitions.append(partition, entry, committed).await;
}

impl Core {
    /// Ends a session: its row is removed; what it has sent is still decided.
    pub fn disconnect(&self, session: &Session) {
        self.targets.borrow_mut().remove(&session.number);
        self.hub.detach(session);
    }

    /// Closes all sessions of this core, for example when the node drains.
    pub fn close_all(&self, reason: CloseReason) {
        let targets: Vec<Target> = self.targets.borrow_mut().drain().map(|(_, target)| target).collect();
        for target in targets {
            close(&target, reason);
        }
    }

    /// How many sessions this core has.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.targets.borrow().len()
    }
}
