//! One core's part of the hub: its sessions, its rounds, its acknowledgements.
//!
//! A *round* is all that was readable when the scheduler went once through its ready list. The first message of a
//! round wakes the core's own task, which the scheduler puts behind all connections that are ready already; so when it
//! runs, the batches hold the whole round (design, "Threads and rounds").

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use holdfast_model::{PartitionId, TelemetryMessage, UnixMillis};
use holdfast_partition::record::{Origin, StreamId};
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::hand_over::hand_over;
use crate::lane::{Done, Lane, Outcome, Way, settle};
use crate::mailbox::{Mailbox, Message};
use crate::room::Room;
use crate::session::{CloseReason, Session, Target, close};
use crate::{Clock, DeviceHub};

/// How long a core waits for another owner, or for the same one to recover, before it proposes an entry again whose
/// proposal failed.
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
    /// Something is kept back since the disk is full, and will be looked at again.
    kept_back: Cell<bool>,
    room: Room,
    /// Connections by the key of their session.
    pub(crate) targets: RefCell<std::collections::HashMap<u64, Target>>,
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
        let config = &hub.parts.config;
        let room = Room::new(
            config.max_unacknowledged_bytes,
            config.max_batch_bytes,
            hub.parts.partitions.count(),
        );
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
            kept_back: Cell::new(false),
            room,
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

    /// Whether messages of `session` may be sent. When not, the caller stops reading its peer; `cx` is woken when there is
    /// room.
    pub fn has_room(&self, session: &Session, cx: &mut Context<'_>) -> bool {
        let own = || self.lanes.borrow()[usize::from(session.partition.0)].bytes();
        if self.room.is_there(self.bytes.get(), own) {
            return true;
        }
        self.hub.metrics.paused.increment(1);
        self.room.wait(session.partition, session.key, cx.waker().clone());
        false
    }

    /// Sends a message of `session`. The outcome comes to `receipt`, never from within this call.
    ///
    /// Size limits are the caller's; so is asking [`Self::has_room`] before it reads more from its peer.
    pub fn send(&self, session: &Session, message: &TelemetryMessage<'_>, receipt: Option<Receipt>, now: UnixMillis) {
        let origin = Origin {
            identity: &session.facts.identity,
            generation: &session.facts.generation,
            auth: session.auth,
            model_id: session.model_id.as_deref(),
        };
        let mut lanes = self.lanes.borrow_mut();
        let lane = &mut lanes[usize::from(session.partition.0)];
        let before = lane.bytes();
        lane.push(
            session.key,
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
        let _running = self.hub.core_runs();
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
            self.propose_all();
            if stopping && self.bytes.get() == 0 {
                return;
            }
        }
    }

    /// Returns when there is a message or a round to propose.
    async fn work(&self, messages: &mut Vec<Message>) {
        let is_due = |looks_again: bool| self.dirty.get() && (looks_again || self.may_propose());
        let waits = self.dirty.get() && !self.may_propose();
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
        let late = tokio::time::sleep_until(self.round_began.get() + ROUND_PATIENCE);
        tokio::select! {
            biased;
            () = arrived => {}
            () = late => {}
        }
    }

    /// Whether there is something to propose, and the round before has been decided or has taken too long.
    fn may_propose(&self) -> bool {
        self.dirty.get() && (self.under_way.get() == 0 || self.round_began.get().elapsed() >= ROUND_PATIENCE)
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
            } => self.failed(partition),
            Message::Retry { partition } => self.propose_again(partition),
            Message::Opened { partition } => self.opened(partition),
            Message::Close {
                facts,
                key,
                partition,
                reason,
                drained,
            } => {
                let target = self.targets.borrow_mut().remove(&key);
                if let Some(target) = target {
                    close(&target, reason);
                }
                if reason == CloseReason::TakenOver {
                    self.when_drained(partition, Done::Detach(facts, key));
                }
                if let Some(drained) = drained {
                    self.when_drained(partition, Done::Tell(drained));
                }
            }
            Message::Forget { key, partition } => self.forget(key, partition),
        }
    }

    /// Works on a lane, and counts what it holds then.
    fn lane<T>(&self, partition: PartitionId, work: impl FnOnce(&mut Lane) -> T) -> T {
        let mut lanes = self.lanes.borrow_mut();
        let lane = &mut lanes[usize::from(partition.0)];
        let before = lane.bytes();
        let result = work(lane);
        self.bytes.set(self.bytes.get() + lane.bytes() - before);
        result
    }

    /// Does something once everything that is in the lane now has been decided.
    fn when_drained(&self, partition: PartitionId, done: Done) {
        if let Some(done) = self.lane(partition, |lane| lane.when_drained(done)) {
            self.finish(partition, done);
        }
    }

    fn finish(&self, partition: PartitionId, done: Done) {
        match done {
            // Its drop is the message.
            Done::Tell(_) => {}
            Done::Detach(facts, key) => self.hub.detach(partition, &facts, key),
        }
    }

    /// Whether sessions of the partition may act now: the owner knows them, and has been heard of lately.
    fn is_valid(&self, partition: PartitionId) -> bool {
        let local = &self.hub.local;
        local.is_valid(partition, local.now_ms())
    }

    /// The link over which sessions of the partition may act now.
    fn open_link(&self, partition: PartitionId) -> Option<u64> {
        let local = &self.hub.local;
        local.valid_link(partition, local.now_ms())
    }

    /// Takes out first what sessions have here that have lost: they were told to leave before the link was opened that
    /// has just been seen, and nothing of theirs may go over it.
    fn forget_first(&self) {
        for message in self.mailbox.take() {
            match message {
                Message::Forget { key, partition } => self.forget(key, partition),
                message => self.mailbox.put(message),
            }
        }
    }

    fn committed(&self, partition: PartitionId) {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        if self.is_valid(partition) {
            self.acknowledge(partition);
        } else {
            // Somebody else may act for these sessions by now. It is kept what it is, and told when they may act again.
            self.hub.metrics.held.increment(1);
            self.lane(partition, Lane::hold);
            self.hub.look_after(partition);
        }
    }

    fn acknowledge(&self, partition: PartitionId) {
        let mut done = Vec::new();
        let sent = self.lane(partition, |lane| lane.decided(&mut done));
        let told = settle(sent, Outcome::Committed);
        self.hub.metrics.acknowledged.increment(told);
        for done in done {
            self.finish(partition, done);
        }
        self.look_for_waiting(partition);
        self.wake_waiting(partition);
    }

    fn wake_waiting(&self, partition: PartitionId) {
        let own = || self.lanes.borrow()[usize::from(partition.0)].bytes();
        self.room.wake(partition, self.bytes.get(), own);
    }

    /// The entry under way is to be proposed again, when there is somebody to take it.
    fn failed(&self, partition: PartitionId) {
        self.hub.metrics.retried.increment(1);
        self.under_way.set(self.under_way.get().saturating_sub(1));
        let left = self.lane(partition, Lane::failed);
        settle(left, Outcome::Failed);
        self.wake_waiting(partition);
        self.hub.look_after(partition);
        let (hub, mailbox) = (Arc::clone(&self.hub), self.mailbox.clone());
        let failed = self.hub.parts.partitions.owner(partition);
        holdfast_tasks::spawn(
            "propose-again",
            Box::pin(async move {
                // A new owner is told at once what is not decided; the same one is given time.
                hub.parts.partitions.owner_after(partition, failed, RETRY_PAUSE).await;
                mailbox.put(Message::Retry { partition });
            }),
        );
    }

    /// Proposes the entry that has failed as it was: if it has been committed after all, apply drops the repeat. Sessions
    /// that may not act now wait until they may.
    fn propose_again(&self, partition: PartitionId) {
        let Some(link) = self.open_link(partition) else {
            return self.hub.look_after(partition);
        };
        self.forget_first();
        let Some(entry) = self.lane(partition, Lane::again) else {
            return;
        };
        self.under_way.set(self.under_way.get() + 1);
        self.append(partition, link, entry);
    }

    /// Hands an entry over. A partition that is stuck, and lets who appends wait, must not hold up what this core has to do
    /// for the others: acknowledgements, closings, their own entries.
    fn append(&self, partition: PartitionId, link: u64, entry: bytes::Bytes) {
        let (hub, mailbox) = (Arc::clone(&self.hub), self.mailbox.clone());
        hand_over(async move {
            let committed = Box::new(move |result: Result<(), holdfast_partition::AppendError>| {
                if let Err(error) = &result {
                    tracing::debug!(partition = partition.0, %error, "an entry was not committed, it will be proposed again");
                }
                let committed = result.is_ok();
                mailbox.put(Message::Decided { partition, committed });
            });
            hub.parts.partitions.append(partition, link, entry, committed).await;
        });
    }

    /// Sessions of the partition may act again: what was kept back goes its way.
    fn opened(&self, partition: PartitionId) {
        if !self.is_valid(partition) {
            return;
        }
        match self.lane(partition, |lane| lane.way()) {
            Some(Way::Held) => self.acknowledge(partition),
            Some(Way::Failed) => self.propose_again(partition),
            Some(Way::Flying) | None => {}
        }
        self.look_for_waiting(partition);
    }

    /// What has gathered meanwhile is the next entry.
    fn look_for_waiting(&self, partition: PartitionId) {
        if self.lanes.borrow()[usize::from(partition.0)].has_waiting() {
            self.dirty.set(true);
        }
    }

    /// Takes out what a session has here that has not been proposed, or whose proposal has failed.
    fn forget(&self, key: u64, partition: PartitionId) {
        let target = self.targets.borrow_mut().remove(&key);
        if let Some(target) = target {
            close(&target, CloseReason::TakenOver);
        }
        let now = self.clock().now();
        let gone = self.lane(partition, |lane| lane.leave(key, self.stream, now));
        self.hub.metrics.dropped.increment(gone.len() as u64);
        settle(gone, Outcome::Failed);
        self.wake_waiting(partition);
    }

    /// Handles what has arrived in the mailbox so far; before a session begins, so that what is older than it is done
    /// with. What is about the session itself comes later: its connection is busy with beginning.
    pub(crate) fn catch_up(&self, beginning: u64) {
        for message in self.mailbox.take() {
            match message {
                Message::Close { key, .. } | Message::Forget { key, .. } if key == beginning => {
                    self.mailbox.put(message);
                }
                message => self.handle(message),
            }
        }
    }

    fn propose_all(self: &Rc<Self>) {
        if !self.may_propose() {
            return;
        }
        self.dirty.set(false);
        self.round_began.set(Instant::now());
        let now = self.clock().now();
        let full = !self.hub.is_writable();
        for partition in self.hub.parts.partitions.count().iter() {
            if !self.lanes.borrow()[usize::from(partition.0)].has_waiting() {
                continue;
            }
            // Acknowledgements are withheld until there is room on disk again (foundations 12), or until another node owns
            // the partition, whose disk may have room: then the link to it opens, which asks for a round.
            if full && self.is_owned_here(partition) {
                self.look_again_for_room();
                continue;
            }
            // What may not be proposed now is told to when it may.
            let Some(link) = self.open_link(partition) else {
                continue;
            };
            self.forget_first();
            let entry = self.lane(partition, |lane| lane.propose(self.stream, now));
            if let Some(entry) = entry {
                self.under_way.set(self.under_way.get() + 1);
                self.append(partition, link, entry);
            }
        }
    }

    fn is_owned_here(&self, partition: PartitionId) -> bool {
        let parts = &self.hub.parts;
        parts
            .partitions
            .owner(partition)
            .is_some_and(|owner| owner.node == parts.node)
    }

    /// Asks for a round after a while; one such task is enough.
    fn look_again_for_room(self: &Rc<Self>) {
        if self.kept_back.replace(true) {
            return;
        }
        let core = Rc::clone(self);
        holdfast_tasks::spawn_local(
            "disk-full-pause",
            Box::pin(async move {
                tokio::time::sleep(DISK_FULL_PAUSE).await;
                core.kept_back.set(false);
                core.dirty.set(true);
                core.mailbox.wake();
            }),
        );
    }
}

impl Core {
    /// Ends a session: what it has sent is still decided, and then its row is removed.
    pub fn disconnect(&self, session: &Session) {
        self.targets.borrow_mut().remove(&session.key);
        self.room.leave(session.partition, session.key);
        // A session that follows waits for what this one has sent, as long as it is in the table.
        self.when_drained(session.partition, Done::Detach(Arc::clone(&session.facts), session.key));
    }

    /// Closes all sessions of this core, for example when the node drains.
    pub fn close_all(&self, reason: CloseReason) {
        let mut targets: Vec<(u64, Target)> = self.targets.borrow_mut().drain().collect();
        targets.sort_unstable_by_key(|(key, _)| *key);
        for (_, target) in targets {
            close(&target, reason);
        }
    }

    /// How many sessions this core has.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.targets.borrow().len()
    }
}
