//! A core's batches over all partitions: collects messages, proposes them round by round, acknowledges them.
//!
//! Why: a *round* is everything that was readable when the scheduler went once through its ready list. The first message
//! of a round wakes the core's own task, which the scheduler puts behind all connections that are ready already; so when
//! the task runs, the batches hold the whole round.
//! Invariants: nothing is proposed or acknowledged without a valid link to the partition's owner; a partition that is
//! stuck delays neither the entries nor the acknowledgements of the others.
//! Not here: the batches of one partition ([`super::pipeline`]), back-pressure ([`super::backpressure`]).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_model::{LinkId, PartitionId, SessionKey, TelemetryMessage, UnixMillis};
use holdfast_partition::AppendError;
use holdfast_partition::record::{Origin, StreamId};
use holdfast_tasks::sync::SharedCell;
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use super::backpressure::IngestBackpressure;
use super::command_queue::Command;
use super::pipeline::{AfterReject, BatchPipeline, InFlight, OnDrained, report};
use super::poll_or_spawn::poll_or_spawn;
use crate::api::core::{Core, Outcome, Receipt};
use crate::api::hub::DeviceHub;
use crate::api::session::{CloseReason, Session};

/// How long a core waits for another owner, or for the same one to recover, before it proposes a failed entry again.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// How long a round waits for the entries of the one before. They are synced together, so they are decided together
/// unless a partition is stuck; the others then continue without it.
const ROUND_TIMEOUT: Duration = Duration::from_millis(20);

/// How often a core checks whether a full disk has space again.
const DISK_FULL_INTERVAL: Duration = Duration::from_millis(250);

/// The batches of one core.
pub(crate) struct Batcher {
    stream: StreamId,
    pipelines: SharedCell<Vec<BatchPipeline>>,
    /// Bytes in all pipelines.
    bytes: Cell<usize>,
    /// Some pipeline has messages to propose.
    has_work: Cell<bool>,
    /// Entries that have been proposed and not decided.
    in_flight: Cell<usize>,
    /// When the last round was proposed.
    round_started: Cell<Instant>,
    /// A batch is kept back because the disk is full, and a check is scheduled.
    disk_check_scheduled: Cell<bool>,
    backpressure: IngestBackpressure,
}

impl Batcher {
    pub(crate) fn new(hub: &DeviceHub, core: u16) -> Self {
        let partitions = hub.parts.partitions.count();
        let config = &hub.parts.config;
        Self {
            stream: StreamId {
                gateway_node: hub.parts.node,
                incarnation: hub.parts.incarnation,
                core: u32::from(core),
            },
            pipelines: SharedCell::new(partitions.iter().map(|_| BatchPipeline::default()).collect()),
            bytes: Cell::new(0),
            has_work: Cell::new(false),
            in_flight: Cell::new(0),
            round_started: Cell::new(Instant::now()),
            disk_check_scheduled: Cell::new(false),
            backpressure: IngestBackpressure::new(
                config.max_unacknowledged.as_usize(),
                config.max_batch.as_usize(),
                partitions,
            ),
        }
    }

    /// Works on a partition's pipeline and updates the byte count.
    fn with_pipeline<T>(&self, partition: PartitionId, work: impl FnOnce(&mut BatchPipeline) -> T) -> T {
        let mut pipelines = self.pipelines.borrow_mut();
        let pipeline = &mut pipelines[usize::from(partition.0)];
        let before = pipeline.bytes();
        let result = work(pipeline);
        self.bytes.set(self.bytes.get() + pipeline.bytes() - before);
        result
    }

    fn bytes_of(&self, partition: PartitionId) -> usize {
        self.pipelines.borrow()[usize::from(partition.0)].bytes()
    }

    fn has_waiting(&self, partition: PartitionId) -> bool {
        self.pipelines.borrow()[usize::from(partition.0)].has_waiting()
    }

    /// Whether there is something to propose, and the round before has been decided or has taken too long.
    fn may_propose(&self) -> bool {
        self.has_work.get() && (self.in_flight.get() == 0 || self.round_started.get().elapsed() >= ROUND_TIMEOUT)
    }

    fn entry_proposed(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    fn entry_decided(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    fn wake_waiting(&self, partition: PartitionId) {
        self.backpressure
            .wake(partition, self.bytes.get(), || self.bytes_of(partition));
    }

    /// The session has ended: its connection does not wait for capacity any more.
    pub(crate) fn stop_waiting(&self, partition: PartitionId, key: SessionKey) {
        self.backpressure.remove(partition, key);
    }
}

impl Core {
    /// Whether messages of `session` may be sent. When not, the caller stops reading its peer; `cx` is woken when there
    /// is capacity again.
    pub fn has_capacity(&self, session: &Session, cx: &mut Context<'_>) -> bool {
        self.has_capacity_for(session.partition, session.key, cx)
    }

    /// The same for a sender of `partition`, which is `key` among those that wait.
    pub(crate) fn has_capacity_for(&self, partition: PartitionId, key: SessionKey, cx: &mut Context<'_>) -> bool {
        let batcher = &self.batcher;
        let own = || batcher.bytes_of(partition);
        if batcher.backpressure.has_capacity(batcher.bytes.get(), own) {
            return true;
        }
        self.hub.metrics.paused.increment(1);
        batcher.backpressure.wait(partition, key, cx.waker().clone());
        false
    }

    /// Sends a message of `session`. The outcome comes to `receipt`, never from within this call.
    ///
    /// The caller checks size limits, and asks [`Self::has_capacity`] before it reads more from its peer.
    pub fn send(&self, session: &Session, message: &TelemetryMessage<'_>, receipt: Option<Receipt>, now: UnixMillis) {
        let origin = Origin {
            identity: &session.info.identity,
            generation: &session.info.generation,
            auth: session.auth,
            model_id: session.model_id.as_deref(),
        };
        self.push(session.partition, session.key, &origin, message, receipt, now);
        if session.activity_due.get() <= now {
            session.activity_due.set(self.hub.next_activity(now));
            self.hub
                .report_activity(session.partition, &session.info, session.key, now);
        }
    }

    /// Adds a message of the sender `key` to the open batch of its partition.
    pub(crate) fn push(
        &self,
        partition: PartitionId,
        key: SessionKey,
        origin: &Origin<'_>,
        message: &TelemetryMessage<'_>,
        receipt: Option<Receipt>,
        now: UnixMillis,
    ) {
        let max_batch_bytes = self.hub.parts.config.max_batch.as_usize();
        self.batcher.with_pipeline(partition, |pipeline| {
            holdfast_tasks::panic_point("core", message.payload);
            let stream = self.batcher.stream;
            let tracer = self.hub.tracer();
            pipeline.push(key, origin, message, now, receipt, stream, max_batch_bytes, tracer);
        });
        if let Some(quota) = &self.hub.throttles.quota {
            quota.charge(Some(self.index()), message.size());
        }
        if !self.batcher.has_work.replace(true) {
            self.commands.wake();
        }
    }

    /// Runs the core until the node closes. Messages that were sent by then are still proposed and decided.
    pub async fn run(self: Rc<Self>, stop: Stop) {
        let _running = self.hub.register_core();
        let mut commands = Vec::new();
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
                () = self.next_work(&mut commands) => {}
                () = closing => stopping = true,
            }
            for command in commands.drain(..) {
                self.handle(command);
            }
            self.propose_all();
            if stopping && self.batcher.bytes.get() == 0 {
                return;
            }
        }
    }

    /// Returns when there is a command or a round to propose.
    async fn next_work(&self, commands: &mut Vec<Command>) {
        let batcher = &self.batcher;
        let waits = batcher.has_work.get() && !batcher.may_propose();
        let is_due = || batcher.has_work.get() && (!waits || batcher.may_propose());
        let arrived = std::future::poll_fn(|cx| {
            let taken = self.commands.poll_take(cx, commands);
            if taken.is_ready() || is_due() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        if !waits {
            return arrived.await;
        }
        let round_timeout = tokio::time::sleep_until(batcher.round_started.get() + ROUND_TIMEOUT);
        tokio::select! {
            biased;
            () = arrived => {}
            () = round_timeout => {}
        }
    }

    /// Runs `action` once everything that is in the pipeline now has been decided.
    pub(crate) fn when_drained(&self, partition: PartitionId, action: OnDrained) {
        let due = self
            .batcher
            .with_pipeline(partition, |pipeline| pipeline.when_drained(action));
        if let Some(action) = due {
            self.run_drained(partition, action);
        }
    }

    fn run_drained(&self, partition: PartitionId, action: OnDrained) {
        match action {
            // Its drop is the message.
            OnDrained::Notify(_) => {}
            OnDrained::Detach(info, key) => self.hub.detach(partition, &info, key),
        }
    }

    /// Whether sessions of the partition may act now: the owner knows them and has answered within the lease.
    fn is_valid(&self, partition: PartitionId) -> bool {
        let sessions = &self.hub.sessions;
        sessions.is_valid(partition, sessions.now_ms())
    }

    /// The link over which sessions of the partition may act now.
    fn valid_link(&self, partition: PartitionId) -> Option<LinkId> {
        let sessions = &self.hub.sessions;
        sessions.valid_link(partition, sessions.now_ms())
    }

    /// Removes the records of superseded sessions first. Their `Discard` commands were queued before the link was opened
    /// that the caller has just seen, and nothing of them may be sent over it.
    fn apply_discards(&self) {
        for command in self.commands.take() {
            match command {
                Command::Discard { key, partition } => self.discard(key, partition),
                command => self.commands.push(command),
            }
        }
    }

    pub(crate) fn committed(&self, partition: PartitionId) {
        self.batcher.entry_decided();
        if self.is_valid(partition) {
            self.acknowledge(partition);
        } else {
            // The link may have expired. Keep the entry as committed and acknowledge it once the link is valid again.
            self.hub.metrics.held.increment(1);
            self.batcher.with_pipeline(partition, BatchPipeline::await_lease);
            self.hub.request_renewal(partition);
        }
    }

    fn acknowledge(&self, partition: PartitionId) {
        let mut due = Vec::new();
        let (receipts, mut span) = self.batcher.with_pipeline(partition, |pipeline| {
            let span = pipeline.take_span();
            (pipeline.complete(&mut due), span)
        });
        span.event("committed");
        let reported = report(receipts, Outcome::Committed);
        drop(span);
        self.hub.metrics.acknowledged.increment(reported);
        for action in due {
            self.run_drained(partition, action);
        }
        self.check_waiting(partition);
        self.batcher.wake_waiting(partition);
    }

    /// The entry in flight has failed: it is proposed again when there is an owner to take it.
    pub(crate) fn failed(&self, partition: PartitionId, error: AppendError) {
        tracing::debug!(partition = partition.0, %error, "an entry was not committed; proposing it again");
        self.hub.metrics.retried.increment(1);
        self.batcher.entry_decided();
        let departed = self.batcher.with_pipeline(partition, |pipeline| {
            pipeline.note("not committed; proposed again");
            pipeline.fail()
        });
        report(departed, Outcome::Failed);
        self.batcher.wake_waiting(partition);
        self.hub.request_renewal(partition);
        self.schedule_retry(partition);
    }

    /// The entry in flight can never be committed: its sessions are closed, so that their devices learn that the messages
    /// are not stored, and everything else of these sessions is removed, so that no later message is stored before an
    /// earlier one that the device sends again.
    pub(crate) fn rejected(&self, partition: PartitionId, error: AppendError) {
        self.batcher.entry_decided();
        let now = self.clock().now();
        let mut due = Vec::new();
        let mut span = self.batcher.with_pipeline(partition, BatchPipeline::take_span);
        span.fail("rejected", || error.to_string());
        let Some(rejected) = self.batcher.with_pipeline(partition, |pipeline| {
            pipeline.reject(error, self.batcher.stream, now, &mut due)
        }) else {
            return;
        };
        self.hub.metrics.rejected.increment(1);
        let stream = self.batcher.stream;
        tracing::error!(
            partition = partition.0, gateway = %stream.gateway_node, incarnation = %stream.incarnation, core = stream.core,
            batch = rejected.batch_number, sessions = rejected.sessions.len(), messages = rejected.receipts.len(), %error,
            "a batch can never be committed; closing its sessions"
        );
        report(rejected.receipts, Outcome::Failed);
        for key in rejected.sessions {
            self.hub.metrics.closed(CloseReason::Unavailable);
            self.close_target(key, CloseReason::Unavailable);
        }
        for action in due {
            self.run_drained(partition, action);
        }
        match rejected.next {
            AfterReject::ProposeEmpty => self.schedule_retry(partition),
            AfterReject::Continue => self.check_waiting(partition),
        }
        self.batcher.wake_waiting(partition);
    }

    /// Proposes the entry in flight again, over the next owner at once, over the same one after a while.
    fn schedule_retry(&self, partition: PartitionId) {
        let (hub, commands) = (Arc::clone(&self.hub), self.commands.clone());
        let failed = self.hub.parts.partitions.owner(partition);
        holdfast_tasks::spawn_critical(
            "propose-again",
            Box::pin(async move {
                // A new owner gets the entry at once; the same owner gets time to recover.
                hub.parts.partitions.owner_after(partition, failed, RETRY_BACKOFF).await;
                commands.push(Command::Retry { partition });
            }),
        );
    }

    /// Proposes the failed entry under its own number: if it has been committed after all, apply drops the repeat.
    /// Without a valid link it waits for the next one.
    pub(crate) fn propose_again(&self, partition: PartitionId) {
        let Some(link) = self.valid_link(partition) else {
            return self.hub.request_renewal(partition);
        };
        self.apply_discards();
        let Some(entry) = self.batcher.with_pipeline(partition, BatchPipeline::retry) else {
            return;
        };
        self.append(partition, link, entry);
    }

    /// Appends an entry. An append that waits for a stuck partition must not delay the others: their acknowledgements,
    /// closings and entries.
    fn append(&self, partition: PartitionId, link: LinkId, entry: bytes::Bytes) {
        self.batcher.entry_proposed();
        let trace = match self.hub.tracer().is_on() {
            true => self.batcher.with_pipeline(partition, |pipeline| pipeline.trace()),
            false => None,
        };
        let (hub, commands) = (Arc::clone(&self.hub), self.commands.clone());
        poll_or_spawn(async move {
            let on_appended = Box::new(move |outcome: Result<(), AppendError>| {
                commands.push(Command::Decided { partition, outcome });
            });
            let partitions = &hub.parts.partitions;
            partitions.append(partition, link, entry, trace, on_appended).await;
        });
    }

    /// Sessions of the partition may act again: entries that were kept back continue.
    pub(crate) fn link_opened(&self, partition: PartitionId) {
        if !self.is_valid(partition) {
            return;
        }
        match self.batcher.with_pipeline(partition, |pipeline| pipeline.in_flight()) {
            Some(InFlight::AwaitingLease) => self.acknowledge(partition),
            Some(InFlight::Failed) => self.propose_again(partition),
            Some(InFlight::Proposed) | None => {}
        }
        self.check_waiting(partition);
    }

    /// Messages that have gathered meanwhile are the next entry.
    fn check_waiting(&self, partition: PartitionId) {
        if self.batcher.has_waiting(partition) {
            self.batcher.has_work.set(true);
        }
    }

    /// Removes a session's records that have not been proposed, or whose proposal has failed.
    pub(crate) fn discard(&self, key: SessionKey, partition: PartitionId) {
        self.close_target(key, CloseReason::TakenOver);
        let now = self.clock().now();
        let removed = self.batcher.with_pipeline(partition, |pipeline| {
            pipeline.remove_session(key, self.batcher.stream, now)
        });
        self.hub.metrics.dropped.increment(removed.len() as u64);
        report(removed, Outcome::Failed);
        self.batcher.wake_waiting(partition);
    }

    fn propose_all(self: &Rc<Self>) {
        if !self.batcher.may_propose() {
            return;
        }
        self.batcher.has_work.set(false);
        self.batcher.round_started.set(Instant::now());
        let now = self.clock().now();
        let disk_is_full = !self.hub.is_writable();
        for partition in self.hub.parts.partitions.count().iter() {
            if !self.batcher.has_waiting(partition) {
                continue;
            }
            // Acknowledgements are withheld until the disk has space again, or until another node owns the partition,
            // whose disk may have space: the link to it then starts a round.
            if disk_is_full && self.is_owned_here(partition) {
                self.schedule_disk_check();
                continue;
            }
            // No valid link: the batcher is woken when one opens.
            let Some(link) = self.valid_link(partition) else {
                continue;
            };
            self.apply_discards();
            let stream = self.batcher.stream;
            let entry = self
                .batcher
                .with_pipeline(partition, |pipeline| pipeline.propose(stream, now));
            if let Some(entry) = entry {
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

    /// Starts a round after a while; one such task is enough.
    fn schedule_disk_check(self: &Rc<Self>) {
        if self.batcher.disk_check_scheduled.replace(true) {
            return;
        }
        let core = Rc::clone(self);
        holdfast_tasks::spawn_critical_local(
            "disk-full-check",
            Box::pin(async move {
                tokio::time::sleep(DISK_FULL_INTERVAL).await;
                core.batcher.disk_check_scheduled.set(false);
                core.batcher.has_work.set(true);
                core.commands.wake();
            }),
        );
    }
}
