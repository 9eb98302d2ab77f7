//! The partitions that this node owns, one ownership term each.
//!
//! A newer session of an identity wins. The older one is closed wherever it lives, and the newer one begins when
//! everything that the older one sent has been decided, or when its gateway can no longer act for it: then that gateway's
//! link is broken, and its batches are refused until it has reported its sessions again.
//! Invariants: one row per identity; session numbers grow within a term and from one term to the next; an answer is given
//! for the term that the caller named, or not at all. Lock order: see [`crate::gateway::session_table`]; nothing here
//! locks that side.
//! Not here: calls ([`crate::rpc`], [`super::close_superseded`]), credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::route::{Owner, Partitions};
use holdfast_model::{
    GenerationId, IdentityId, Incarnation, LinkId, NodeId, PartitionId, SessionKey, Term, UnixMillis,
};
use holdfast_tasks::sync::{Mutex, MutexGuard};
use holdfast_tasks::watch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection_changes::{ConnectionChange, RequestTime};
use super::ownership_term::OwnershipTerm;
pub(crate) use super::ownership_term::{SessionRow, SupersededSession};
use super::subscriptions::SubscriptionRequest;
use crate::device_state::StoredConnection;
use crate::downlink::credit::Credit;
use crate::downlink::delivery::{Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryOutcome, Settlement};
use crate::downlink::term::{DeliveryAnswer, SessionDeliveries};
use crate::session_types::{CallerLink, OwnerError, Reach, SessionAddress, SessionInfo, SessionNumber, SyncPhase};
use holdfast_model::Clock;

/// A new session at its owner.
#[derive(Debug)]
pub(crate) enum AttachOutcome {
    /// It may begin.
    Ready(SessionNumber),
    /// It may begin once the superseded sessions are gone and the term is complete; the caller closes them.
    Supersedes(SessionNumber, Vec<SupersededSession>),
    /// As above, and an earlier caller closes them already.
    Waiting(SessionNumber),
}

/// Whether a session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachReadiness {
    Ready,
    Waiting,
    Gone,
}

/// A session that a gateway reports.
#[derive(Debug, Clone)]
pub(crate) struct ReportedSession {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) key: SessionKey,
    /// The number that an owner has assigned to it.
    pub(crate) number: SessionNumber,
    /// Its credit for deliveries.
    pub(crate) credit: Credit,
}

/// The result of a gateway's report.
#[derive(Debug, Default)]
pub(crate) struct SyncResult {
    /// Reported sessions that a newer one has superseded.
    pub(crate) lost: Vec<SessionKey>,
    /// Older sessions of other gateways that a reported one supersedes.
    pub(crate) superseded: Vec<SupersededSession>,
    /// The log records gateways as absent that are back.
    pub(crate) has_returned: bool,
    /// Identities whose sessions take cloud-to-device messages.
    pub(crate) take_messages: Vec<IdentityId>,
    /// Sessions that take changes of desired properties.
    pub(crate) take_changes: Vec<Arc<SessionInfo>>,
}

impl SyncResult {
    /// A reported session is the one of its identity.
    pub(super) fn resumed(&mut self, session: &ReportedSession) {
        if session.credit.takes(DeliveryKind::CloudToDevice) {
            self.take_messages.push(session.info.identity.clone());
        }
        if session.credit.takes(DeliveryKind::TwinChange) {
            self.take_changes.push(Arc::clone(&session.info));
        }
    }
}

struct Shard {
    ownership: Mutex<OwnershipTerm>,
    /// Changes when a waiting session may have become ready, or has gone.
    readiness_changes: watch::Sender<u64>,
}

/// The partitions that this node owns.
pub(crate) struct OwnershipTable {
    node: NodeId,
    incarnation: Incarnation,
    partitions: Partitions,
    clock: Clock,
    shards: Vec<Shard>,
    next_serial: AtomicU64,
}

/// Partitions whose log needs an update: with the term, and the gateways to be recorded as absent.
pub(crate) type DueAbsences = Vec<(PartitionId, Term, Vec<NodeId>)>;

impl OwnershipTable {
    pub(crate) fn new(partitions: &Partitions, incarnation: Incarnation, clock: &Clock) -> Self {
        let shard = |partition| {
            let open_links = Arc::clone(partitions.open_links(partition));
            let ownership = OwnershipTerm::new(Term(0), partitions.node(), incarnation, 0, open_links, clock.clone());
            Shard {
                ownership: Mutex::new(ownership),
                readiness_changes: watch::Sender::new(0),
            }
        };
        Self {
            node: partitions.node(),
            incarnation,
            shards: partitions.count().iter().map(shard).collect(),
            partitions: partitions.clone(),
            clock: clock.clone(),
            next_serial: AtomicU64::new(1),
        }
    }

    fn new_term(&self, partition: PartitionId, term: Term) -> OwnershipTerm {
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let open_links = Arc::clone(self.partitions.open_links(partition));
        OwnershipTerm::new(
            term,
            self.node,
            self.incarnation,
            serial,
            open_links,
            self.clock.clone(),
        )
    }

    fn shard(&self, partition: PartitionId) -> &Shard {
        &self.shards[usize::from(partition.0)]
    }

    /// The term in which this node owns the partition, as far as it knows.
    pub(crate) fn term(&self, partition: PartitionId) -> Option<Term> {
        let owner = self.partitions.owner(partition)?;
        (owner.node == self.node).then_some(owner.term)
    }

    /// The ownership of `term`, which begins now if it has not.
    fn ownership(&self, partition: PartitionId, term: Term) -> Result<MutexGuard<'_, OwnershipTerm>, OwnerError> {
        let owner = self.partitions.owner(partition);
        if owner != Some(Owner { term, node: self.node }) {
            return Err(OwnerError::NotOwner);
        }
        let mut ownership = self.shard(partition).ownership.lock();
        if ownership.term != term {
            *ownership = self.new_term(partition, term);
        }
        Ok(ownership)
    }

    fn notify_readiness(&self, partition: PartitionId) {
        self.shard(partition).readiness_changes.send_modify(|count| *count += 1);
    }

    /// Changes when a session may have become ready.
    pub(crate) fn readiness_changes(&self, partition: PartitionId) -> watch::Receiver<u64> {
        self.shard(partition).readiness_changes.subscribe()
    }

    /// A new session over an open link. A repeated call for the same session changes nothing.
    pub(crate) fn attach(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        info: &Arc<SessionInfo>,
        key: SessionKey,
    ) -> Result<AttachOutcome, OwnerError> {
        let mut ownership = self.ownership(partition, term)?;
        ownership.check_open_link(caller)?;
        ownership.attach(caller, info, key)
    }

    /// A gateway reports sessions; the first call starts its link, the last one completes it.
    pub(crate) fn sync(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        phase: SyncPhase,
        sessions: Vec<ReportedSession>,
        members: impl FnOnce() -> Vec<NodeId>,
    ) -> Result<SyncResult, OwnerError> {
        let mut ownership = self.ownership(partition, term)?;
        if phase.is_first() {
            ownership.start_sync(caller)?;
        } else {
            ownership.check_link(caller)?;
        }
        let mut result = SyncResult::default();
        for session in sessions {
            ownership.sync_session(caller, session, &mut result);
        }
        if phase.is_last() {
            ownership.finish_sync(caller);
            ownership.update_completeness(members);
            result.has_returned = !ownership.absent().returned().is_empty();
        }
        drop(ownership);
        self.notify_readiness(partition);
        Ok(result)
    }

    /// The gateway's session has ended.
    pub(crate) fn detach(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        identity: &IdentityId,
        key: SessionKey,
    ) {
        let removed = self.ownership(partition, term).is_ok_and(|mut ownership| {
            ownership.check_link(caller).is_ok() && ownership.remove(identity, caller.address(key))
        });
        if removed {
            self.notify_readiness(partition);
        }
    }

    /// The gateway's session has sent something at `at`.
    pub(crate) fn record_activity(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        identity: &IdentityId,
        key: SessionKey,
        at: UnixMillis,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term)
            && ownership.check_open_link(caller).is_ok()
        {
            ownership.record_activity(identity, caller.address(key), at);
        }
    }

    /// An identity without a session there has sent a request to the gateway at `at`.
    pub(crate) fn record_request(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        identity: &IdentityId,
        generation: &GenerationId,
        at: UnixMillis,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term)
            && ownership.check_open_link(caller).is_ok()
        {
            ownership.record_request(identity, generation, at);
        }
    }

    /// The term in which this node owns the partition, if all sessions that may act are known.
    pub(crate) fn complete_term(&self, partition: PartitionId) -> Option<Term> {
        let term = self.term(partition)?;
        self.ownership(partition, term).ok()?.is_complete.then_some(term)
    }

    /// A connection is stored as live: if there is no session of it, it has ended.
    pub(crate) fn record_lost_end(
        &self,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        generation: &GenerationId,
        stored: StoredConnection,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.record_lost_end(identity, generation, stored);
        }
    }

    /// The partitions whose changes of connections are to be written, with their terms.
    pub(crate) fn unwritten_connections(&self) -> Vec<(PartitionId, Term)> {
        let partitions = self.partitions.count().iter();
        let unwritten = partitions.filter_map(|partition| {
            let term = self.term(partition)?;
            let ownership = self.ownership(partition, term).ok()?;
            ownership.connections.is_due().then_some((partition, term))
        });
        unwritten.collect()
    }

    /// See [`ConnectionChanges::start_write`](super::connection_changes::ConnectionChanges::start_write).
    pub(crate) fn start_connection_write(
        &self,
        partition: PartitionId,
        term: Term,
        most: usize,
    ) -> Option<Vec<ConnectionChange>> {
        let mut ownership = self.ownership(partition, term).ok()?;
        ownership.connections.start_write(most)
    }

    /// See [`ConnectionChanges::take_requests`](super::connection_changes::ConnectionChanges::take_requests).
    pub(crate) fn take_requests(&self, partition: PartitionId, term: Term, most: usize) -> Vec<RequestTime> {
        let ownership = self.ownership(partition, term);
        ownership.map_or_else(
            |_| Vec::new(),
            |mut ownership| ownership.connections.take_requests(most),
        )
    }

    pub(crate) fn end_connection_write(&self, partition: PartitionId, term: Term, written: &[ConnectionChange]) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.connections.end_write(written);
        }
    }

    /// The newest connection of an identity, if the log may not have it.
    pub(crate) fn unwritten_connection(
        &self,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
    ) -> Option<StoredConnection> {
        let term = self.term(partition)?;
        let ownership = self.ownership(partition, term).ok()?;
        ownership.connections.get(identity, generation)
    }

    /// Renews a link of a gateway with `sessions` sessions; returns how long they may act from now on.
    pub(crate) fn renew(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        sessions: u64,
    ) -> Result<Duration, OwnerError> {
        let mut ownership = self.ownership(partition, term)?;
        ownership.check_open_link(caller)?;
        ownership.compare_count(caller, sessions)?;
        Ok(ownership.grant())
    }

    /// The grant at the end of a sync.
    pub(crate) fn grant(&self, partition: PartitionId, term: Term) -> Duration {
        self.ownership(partition, term)
            .map_or(Duration::ZERO, |ownership| ownership.grant())
    }

    /// A quorum has confirmed at `at` that this node owns the partition in `term`; `None` = no other node can.
    pub(crate) fn record_confirmation(&self, partition: PartitionId, term: Term, at: Option<Instant>) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.record_confirmation(at);
        }
    }

    /// When a quorum last confirmed that this node owns the partition in `term`; `None` = no other node can.
    pub(crate) fn confirmed_at(&self, partition: PartitionId, term: Term) -> Result<Option<Instant>, OwnerError> {
        self.ownership(partition, term).map(|ownership| ownership.confirmed)
    }

    /// Whether only older sessions can keep a new one of the identity from beginning.
    pub(crate) fn may_begin(&self, partition: PartitionId, term: Term, identity: &IdentityId) -> bool {
        self.ownership(partition, term)
            .is_ok_and(|ownership| ownership.may_begin(identity))
    }

    /// The sessions that make these requests over an open link, `None` for those that are not the current ones of their
    /// identities. The changes among the requests are in flight until [`Self::subscriptions_decided`].
    pub(crate) fn admit_subscriptions(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        requests: &[SubscriptionRequest],
    ) -> Result<Vec<Option<Arc<SessionInfo>>>, OwnerError> {
        let mut ownership = self.ownership(partition, term)?;
        ownership.check_open_link(caller)?;
        if !ownership.is_complete {
            return Err(OwnerError::Busy);
        }
        Ok(requests
            .iter()
            .map(|request| ownership.admit_subscriptions(caller, request))
            .collect())
    }

    /// The changes that these sessions have requested are committed, or refused.
    pub(crate) fn subscriptions_decided<'a>(
        &self,
        partition: PartitionId,
        term: Term,
        sessions: impl Iterator<Item = &'a SessionInfo>,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            sessions.for_each(|info| ownership.subscriptions_decided(&info.identity));
        }
        self.notify_readiness(partition);
    }

    /// Whether an attached session may begin.
    pub(crate) fn readiness(
        &self,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        address: SessionAddress,
    ) -> AttachReadiness {
        match self.ownership(partition, term) {
            Ok(ownership) => ownership.readiness(identity, address),
            Err(_) => AttachReadiness::Gone,
        }
    }

    /// The sessions that this one superseded are gone: it may begin, now or when the term is complete.
    pub(crate) fn superseded_are_gone(
        &self,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        address: SessionAddress,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.unblock(identity, address);
        }
        self.notify_readiness(partition);
    }

    /// Refuses everything over the link of a gateway that could not close a session, until it has reported its sessions
    /// again. Returns the time until which the gateway may still act over the old link.
    pub(crate) fn break_link(&self, partition: PartitionId, term: Term, gateway: NodeId) -> Option<Instant> {
        self.ownership(partition, term).ok()?.break_link(gateway)
    }

    /// Returns when the last grant over the gateway's link has ended without a call from it. A gateway that has no link in
    /// this term cannot act either.
    pub(crate) async fn silence_of(&self, partition: PartitionId, term: Term, gateway: NodeId) {
        while let Ok(Some(until)) = self
            .ownership(partition, term)
            .map(|ownership| ownership.last_grant_end(gateway))
        {
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Queues a delivery for the identity's session. Returns its gateway.
    pub(crate) fn queue_delivery(
        &self,
        partition: PartitionId,
        term: Term,
        identity: &IdentityId,
        id: DeliveryId,
        delivery: Delivery,
        reply: oneshot::Sender<DeliveryOutcome>,
    ) -> Result<NodeId, DeliveryError> {
        let mut ownership = self.ownership(partition, term).map_err(|_| DeliveryError::NoOwner)?;
        ownership.queue_delivery(identity, id, delivery, reply)
    }

    /// Whether the session of an identity has granted credit, as far as this node owns its partition.
    pub(crate) fn takes_deliveries(&self, partition: PartitionId, identity: &IdentityId) -> bool {
        let term = self
            .term(partition)
            .and_then(|term| self.ownership(partition, term).ok());
        term.is_some_and(|ownership| ownership.takes_deliveries(identity))
    }

    /// Whether a delivery of this kind can reach the identity's session, as far as this node owns its partition.
    pub(crate) fn reach(&self, partition: PartitionId, identity: &IdentityId, kind: DeliveryKind) -> Reach {
        let term = self
            .term(partition)
            .and_then(|term| self.ownership(partition, term).ok());
        term.map_or(Reach::Absent, |ownership| ownership.reach(identity, kind))
    }

    /// The generation of the identity's session, if it takes deliveries of this kind and this node owns the partition.
    pub(crate) fn taker(
        &self,
        partition: PartitionId,
        identity: &IdentityId,
        kind: DeliveryKind,
    ) -> Option<GenerationId> {
        let term = self.term(partition)?;
        let ownership = self.ownership(partition, term).ok()?;
        let row = ownership.rows.get(identity)?;
        ownership.takes(identity, kind).then(|| row.info.generation.clone())
    }

    /// A gateway reports the credit of a session. Returns whether the session takes other kinds of deliveries from now on.
    pub(crate) fn grant_credit(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        identity: &IdentityId,
        key: SessionKey,
        credit: Credit,
    ) -> bool {
        self.ownership(partition, term).is_ok_and(|mut ownership| {
            ownership.check_open_link(caller).is_ok() && ownership.grant_credit(identity, caller.address(key), credit)
        })
    }

    /// A gateway reports that a delivery has been settled. A delivery that is not known any more is no error.
    ///
    /// # Errors
    /// [`OwnerError`]: the report does not count, and belongs on the gateway's next link.
    #[expect(
        clippy::too_many_arguments,
        reason = "a delivery and the link over which it is settled"
    )]
    pub(crate) fn settle_delivery(
        &self,
        partition: PartitionId,
        term: Term,
        caller: CallerLink,
        identity: &IdentityId,
        key: SessionKey,
        id: DeliveryId,
        settlement: Settlement,
    ) -> Result<(), OwnerError> {
        self.ownership(partition, term)?
            .settle_delivery(caller, identity, key, id, settlement)
    }

    /// Whether the caller must start a task that sends deliveries to the gateway.
    pub(crate) fn start_sending(&self, partition: PartitionId, term: Term, gateway: NodeId) -> bool {
        self.ownership(partition, term)
            .is_ok_and(|mut ownership| ownership.start_sending(gateway))
    }

    /// The deliveries for the next call to the gateway, and the link over which they go; `None` = nothing to send now, the
    /// task ends.
    pub(crate) fn take_deliveries(
        &self,
        partition: PartitionId,
        term: Term,
        gateway: NodeId,
        most: usize,
        max_bytes: usize,
    ) -> Option<(LinkId, Vec<SessionDeliveries>)> {
        let mut ownership = self.ownership(partition, term).ok()?;
        ownership.take_deliveries(gateway, most, max_bytes)
    }

    /// The gateway has answered a call; see [`TermDownlink::answered`](crate::downlink::term::TermDownlink::answered).
    pub(crate) fn deliveries_answered(
        &self,
        partition: PartitionId,
        term: Term,
        call: &[SessionDeliveries],
        answers: Option<&[Vec<DeliveryAnswer>]>,
    ) -> bool {
        self.ownership(partition, term)
            .is_ok_and(|mut ownership| ownership.deliveries_answered(call, answers))
    }

    /// The identity's session.
    pub(crate) fn row(&self, partition: PartitionId, identity: &IdentityId) -> Option<SessionRow> {
        let term = self.term(partition)?;
        self.ownership(partition, term).ok()?.rows.get(identity).cloned()
    }

    /// Sessions on other gateways of a device and its modules; `None` = of all devices.
    pub(crate) fn remote_sessions(
        &self,
        partition: PartitionId,
        identity: Option<&IdentityId>,
    ) -> Vec<(Term, SessionRow)> {
        let Some(term) = self.term(partition) else {
            return Vec::new();
        };
        let Ok(ownership) = self.ownership(partition, term) else {
            return Vec::new();
        };
        let matches = |row: &&SessionRow| {
            row.address.gateway != self.node
                && identity.is_none_or(|identity| match identity.module {
                    Some(_) => row.info.identity == *identity,
                    None => row.info.identity.device == identity.device,
                })
        };
        match identity {
            // Without modules there is at most one, found by key: registry changes may come by the thousand.
            Some(identity) if identity.module.is_some() || !ownership.has_modules() => {
                let row = ownership.rows.get(identity).filter(matches);
                row.map(|row| (term, row.clone())).into_iter().collect()
            }
            _ => {
                let rows = ownership.rows.values().filter(matches);
                let mut rows: Vec<(Term, SessionRow)> = rows.map(|row| (term, row.clone())).collect();
                rows.sort_unstable_by_key(|(_, row)| (row.address.gateway, row.address.key));
                rows
            }
        }
    }

    /// The serial number of the ownership of `term` if its recorded absences have not been loaded yet.
    pub(crate) fn needs_absences(&self, partition: PartitionId, term: Term) -> Result<Option<u64>, OwnerError> {
        let ownership = self.ownership(partition, term)?;
        Ok((!ownership.absent().is_loaded()).then_some(ownership.serial))
    }

    /// The log records these gateways as absent; read after the ownership `serial` began.
    pub(crate) fn load_absences(&self, partition: PartitionId, term: Term, serial: u64, absent: &[NodeId]) {
        if let Ok(mut ownership) = self.ownership(partition, term)
            && ownership.serial == serial
        {
            ownership.absent_mut().load(absent);
        }
    }

    /// Whether the log records the gateway as absent.
    pub(crate) fn is_recorded_absent(&self, partition: PartitionId, term: Term, gateway: NodeId) -> bool {
        self.ownership(partition, term)
            .is_ok_and(|ownership| ownership.absent().is_recorded(gateway))
    }

    /// The log now records the gateway as absent.
    pub(crate) fn record_absent(
        &self,
        partition: PartitionId,
        term: Term,
        gateway: NodeId,
        members: impl FnOnce() -> Vec<NodeId>,
    ) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.record_absent(gateway);
            ownership.update_completeness(members);
        }
        self.notify_readiness(partition);
    }

    /// The gateways whose absence can be removed from the log.
    pub(crate) fn returned_gateways(&self, partition: PartitionId, term: Term) -> Vec<NodeId> {
        self.ownership(partition, term)
            .map_or(Vec::new(), |ownership| ownership.absent().returned())
    }

    /// The log no longer records the gateway as absent.
    pub(crate) fn clear_absent(&self, partition: PartitionId, term: Term, gateway: NodeId) {
        if let Ok(mut ownership) = self.ownership(partition, term) {
            ownership.absent_mut().clear(gateway);
        }
    }

    /// Completes terms, forgets gateways that have been silent for `grace`, and drops the tables of terms that are over.
    pub(crate) fn expire_and_retire(&self, grace: Duration, members: impl Fn() -> Vec<NodeId>) -> DueAbsences {
        let mut absences = DueAbsences::new();
        for partition in self.partitions.count().iter() {
            let term = self.term(partition);
            let mut ownership = self.shard(partition).ownership.lock();
            let Some(term) = term else {
                *ownership = self.new_term(partition, Term(0));
                continue;
            };
            if ownership.term != term {
                *ownership = self.new_term(partition, term);
            }
            let was_complete = ownership.is_complete;
            ownership.update_completeness(&members);
            let mut disconnected = Vec::new();
            ownership.expire_silent(grace, &mut disconnected);
            let absent = ownership.unrecorded_absences(grace, &members);
            if !absent.is_empty() || !ownership.absent().returned().is_empty() {
                absences.push((partition, term, absent));
            }
            let has_changed = ownership.is_complete != was_complete || !disconnected.is_empty();
            drop(ownership);
            if has_changed {
                self.notify_readiness(partition);
            }
        }
        absences
    }

    /// Devices and sessions connected, over the partitions that this node owns.
    pub(crate) fn count(&self) -> (u64, u64) {
        let mut counted = (0, 0);
        for partition in self.partitions.count().iter() {
            let Some(term) = self.term(partition) else { continue };
            if let Ok(ownership) = self.ownership(partition, term) {
                counted.0 += ownership.devices;
                counted.1 += ownership.rows.len() as u64;
            }
        }
        counted
    }
}
