//! One term of owning one partition: its sessions and the links of the gateways, in memory.
//!
//! The table starts empty, and gateways report their sessions over links. A term is *complete* when no gateway can have
//! sessions that are not known here and still act for them; before that no new session begins.
//! Not here: locks and terms ([`super::ownership`]), calls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{GenerationId, IdentityId, Incarnation, LinkId, NodeId, SessionKey, Term, UnixMillis};
use holdfast_partition::OpenLinks;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::absent_gateways::AbsentGateways;
use super::connection_changes::ConnectionChanges;
use super::ended_sessions::EndedSessions;
use super::ownership::{AttachOutcome, AttachReadiness, ReportedSession, SyncResult};
use super::subscriptions::SubscriptionRequest;
use crate::device_state::{ConnectionOrigin, StoredConnection};
use crate::downlink::credit::Credit;
use crate::downlink::delivery::{Delivery, DeliveryError, DeliveryId, DeliveryKind, DeliveryOutcome, Settlement};
use crate::downlink::term::{DeliveryAnswer, SessionDeliveries, TermDownlink};
use crate::session_types::{CallerLink, LINK_LEASE, OwnerError, Reach, SessionAddress, SessionInfo, SessionNumber};
use holdfast_model::Clock;

/// Sessions of one identity that may wait for each other; further ones are asked to retry later.
const MAX_SUPERSEDED: usize = 8;

/// The node's incarnation is in the upper bits of a session counter: a leader that restarts may find itself in the same
/// term.
const COUNTER_BITS: u32 = 40;

/// Renewals in a row that may state another number of sessions than is known here, while neither number changes.
const MAX_MISMATCHES: u8 = 8;

/// A session that is reported to a new owner and is younger than this, in milliseconds, may have begun unwritten at the
/// earlier one.
const MAX_UNWRITTEN_MS: u64 = 10_000;

/// A session that a newer one has superseded.
#[derive(Debug, Clone)]
pub(crate) struct SupersededSession {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) address: SessionAddress,
}

/// An identity's session.
#[derive(Debug, Clone)]
pub(crate) struct SessionRow {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) address: SessionAddress,
    pub(crate) number: SessionNumber,
    /// When it began or sent last, as far as is known.
    pub(crate) last_activity: UnixMillis,
    /// The link over which it was reported last.
    link: LinkId,
    /// Sessions that must be gone before it may begin; `None` once they are.
    waits_for: Option<Box<[SupersededSession]>>,
}

type SessionRows = HashMap<IdentityId, SessionRow>;

/// A gateway's link, as this term knows it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    incarnation: Incarnation,
    id: LinkId,
    /// All sessions of the gateway are known.
    is_open: bool,
    /// The gateway must start another link.
    is_broken: bool,
    /// When the gateway last called.
    last_heard: Instant,
    /// Its rows.
    sessions: u64,
    last_count: CountComparison,
}

/// The last comparison of a gateway's session count with the rows known here.
#[derive(Debug, Clone, Copy, Default)]
struct CountComparison {
    reported: u64,
    known: u64,
    /// How often in a row these two numbers were compared and differed.
    mismatches: u8,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct OwnershipTerm {
    pub(crate) term: Term,
    /// Tells ownerships of the same term apart.
    pub(super) serial: u64,
    began: Instant,
    /// No gateway can have sessions that are not known here and still act for them.
    pub(crate) is_complete: bool,
    /// When a quorum last confirmed the ownership; `None` = no other node can own the partition.
    pub(crate) confirmed: Option<Instant>,
    pub(crate) rows: SessionRows,
    /// Sessions that are being closed for one that has ended before it began: the next one waits for them too.
    still_closing: HashMap<IdentityId, (SessionAddress, Box<[SupersededSession]>)>,
    links: HashMap<NodeId, Link>,
    /// The open ones of them, for the appends. A batch that was sent over an earlier link may hold messages of sessions
    /// that have been superseded since.
    pub(super) open_links: Arc<OpenLinks>,
    /// Some member has no open link: it may come back with sessions that are not known here.
    has_unlinked_member: bool,
    ended: EndedSessions,
    absent: AbsentGateways,
    downlink: TermDownlink,
    pub(super) connections: ConnectionChanges,
    clock: Clock,
    /// How many changes of an identity's stored subscriptions are in flight.
    storing: BTreeMap<IdentityId, u32>,
    /// This node.
    node: NodeId,
    counter: u64,
    /// Rows of devices, modules not counted.
    pub(crate) devices: u64,
}

impl OwnershipTerm {
    pub(crate) fn new(
        term: Term,
        node: NodeId,
        incarnation: Incarnation,
        serial: u64,
        open_links: Arc<OpenLinks>,
        clock: Clock,
    ) -> Self {
        let now = Instant::now();
        open_links.begin_term(term);
        Self {
            term,
            serial,
            began: now,
            is_complete: false,
            // Nothing is granted before a confirmation.
            confirmed: Some(now.checked_sub(LINK_LEASE).unwrap_or(now)),
            rows: HashMap::new(),
            still_closing: HashMap::new(),
            links: HashMap::new(),
            open_links,
            has_unlinked_member: true,
            ended: EndedSessions::default(),
            absent: AbsentGateways::default(),
            downlink: TermDownlink::default(),
            connections: ConnectionChanges::default(),
            clock,
            storing: BTreeMap::new(),
            node,
            counter: incarnation.0 << COUNTER_BITS,
            devices: 0,
        }
    }

    /// The caller's link, if the call names the current one.
    pub(super) fn check_link(&mut self, caller: CallerLink) -> Result<&mut Link, OwnerError> {
        let link = self.links.get_mut(&caller.gateway).ok_or(OwnerError::LinkLost)?;
        if caller.incarnation < link.incarnation {
            return Err(OwnerError::StaleIncarnation);
        }
        if caller.incarnation != link.incarnation || caller.link != link.id {
            return Err(OwnerError::LinkLost);
        }
        link.last_heard = Instant::now();
        Ok(link)
    }

    pub(super) fn check_open_link(&mut self, caller: CallerLink) -> Result<(), OwnerError> {
        match self.check_link(caller)?.is_open {
            true => Ok(()),
            false => Err(OwnerError::LinkLost),
        }
    }

    /// The gateway starts a link: its sessions follow.
    pub(super) fn start_sync(&mut self, caller: CallerLink) -> Result<(), OwnerError> {
        if !self.absent.is_loaded() {
            // Without the recorded absences the owner cannot know which of its sessions have ended.
            return Err(OwnerError::NotOwner);
        }
        if let Some(link) = self.links.get(&caller.gateway) {
            if caller.incarnation < link.incarnation {
                return Err(OwnerError::StaleIncarnation);
            }
            if caller.incarnation == link.incarnation && caller.link < link.id {
                return Err(OwnerError::LinkLost);
            }
            if caller.incarnation > link.incarnation {
                self.drop_rows(|row| {
                    row.address.gateway == caller.gateway && row.address.incarnation < caller.incarnation
                });
            }
        }
        let link = Link {
            incarnation: caller.incarnation,
            id: caller.link,
            is_open: false,
            is_broken: false,
            last_heard: Instant::now(),
            sessions: self.count_rows(caller.gateway),
            last_count: CountComparison::default(),
        };
        self.open_links.close(caller.gateway);
        self.links.insert(caller.gateway, link);
        // Until all its sessions are known.
        self.has_unlinked_member = true;
        Ok(())
    }

    /// The gateway has reported all its sessions: rows that it did not report are dropped.
    pub(super) fn finish_sync(&mut self, caller: CallerLink) {
        self.drop_rows(|row| row.address.gateway == caller.gateway && row.link != caller.link);
        let sessions = self.count_rows(caller.gateway);
        if let Some(link) = self.links.get_mut(&caller.gateway) {
            link.is_open = true;
            self.open_links
                .open(caller.gateway, Incarnation(link.incarnation.0), LinkId(link.id.0));
            link.sessions = sessions;
        }
        self.absent.has_returned(caller.gateway);
    }

    /// Breaks a gateway's link and returns the time at which the last grant over it ends. A link that is still syncing
    /// breaks too: with the first of several calls its gateway may have reported a session that a newer one has superseded
    /// since.
    pub(super) fn break_link(&mut self, gateway: NodeId) -> Option<Instant> {
        let link = self.links.get_mut(&gateway)?;
        if !link.is_broken {
            link.is_broken = true;
            link.is_open = false;
            self.open_links.close(gateway);
            self.has_unlinked_member = true;
            // The gateway's id is not valid any more. Changed only once: the gateway's next id must not be less.
            link.id = LinkId(link.id.0.saturating_add(1));
        }
        Some(link.last_heard + LINK_LEASE)
    }

    /// The time at which the last grant over the gateway's link ends, if no other one follows.
    pub(super) fn last_grant_end(&self, gateway: NodeId) -> Option<Instant> {
        self.links.get(&gateway).map(|link| link.last_heard + LINK_LEASE)
    }

    fn is_linked(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|link| link.is_open)
    }

    /// The term is complete when all members are linked, or when every unlinked one can no longer act and its absence is
    /// recorded.
    pub(super) fn update_completeness(&mut self, members: impl FnOnce() -> Vec<NodeId>) {
        if self.is_complete && !self.has_unlinked_member {
            return;
        }
        let members = members();
        self.has_unlinked_member = !members.iter().all(|node| self.is_linked(*node));
        if !self.has_unlinked_member {
            self.ended.clear();
        }
        let is_accounted_for = |node: &NodeId| self.is_linked(*node) || self.absent.is_recorded(*node);
        self.is_complete |=
            !self.has_unlinked_member || (self.earlier_grants_have_ended() && members.iter().all(is_accounted_for));
    }

    /// Whether a gateway that has started no link can no longer act over one with an earlier owner.
    fn earlier_grants_have_ended(&self) -> bool {
        self.began.elapsed() >= LINK_LEASE
    }

    /// The gateways whose absence must be recorded before the term can continue: before it is complete without them, and
    /// before it forgets their sessions.
    pub(super) fn unrecorded_absences(
        &mut self,
        grace: Duration,
        members: impl FnOnce() -> Vec<NodeId>,
    ) -> Vec<NodeId> {
        let mut absent = self.silent_gateways(grace);
        for gateway in &absent {
            self.break_link(*gateway);
        }
        if !self.is_complete && self.earlier_grants_have_ended() {
            absent.extend(members().into_iter().filter(|node| !self.is_linked(*node)));
        }
        absent.retain(|node| !self.absent.is_recorded(*node));
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    pub(super) fn absent(&self) -> &AbsentGateways {
        &self.absent
    }

    pub(super) fn absent_mut(&mut self) -> &mut AbsentGateways {
        &mut self.absent
    }

    /// The log now records the gateway as absent. It may be back already.
    pub(super) fn record_absent(&mut self, gateway: NodeId) {
        self.absent.record(gateway);
        if self.is_linked(gateway) {
            self.absent.has_returned(gateway);
        }
    }

    pub(super) fn attach(
        &mut self,
        caller: CallerLink,
        info: &Arc<SessionInfo>,
        key: SessionKey,
    ) -> Result<AttachOutcome, OwnerError> {
        let address = caller.address(key);
        let still_closing = self.still_closing.get(&info.identity);
        let mut superseded: Vec<SupersededSession> = still_closing
            .into_iter()
            .flat_map(|(_, sessions)| sessions.iter().cloned())
            .collect();
        if let Some(row) = self.rows.get(&info.identity) {
            if row.address == address {
                let number = row.number;
                return Ok(match self.readiness(&info.identity, address) {
                    AttachReadiness::Ready => AttachOutcome::Ready(number),
                    _ => AttachOutcome::Waiting(number),
                });
            }
            superseded.extend(row.waits_for.iter().flatten().cloned());
            superseded.push(SupersededSession {
                info: row.info.clone(),
                address: row.address,
            });
            if superseded.len() > MAX_SUPERSEDED {
                return Err(OwnerError::Busy);
            }
        }
        self.still_closing.remove(&info.identity);
        self.downlink.supersede(&info.identity, address);
        self.counter += 1;
        let number = SessionNumber {
            term: self.term,
            node: self.node,
            counter: self.counter,
        };
        let is_first = superseded.is_empty();
        self.record_begin(info, address.gateway);
        self.insert(SessionRow {
            info: info.clone(),
            address,
            number,
            last_activity: info.since,
            link: caller.link,
            waits_for: (!is_first).then(|| superseded.clone().into()),
        });
        Ok(if is_first && self.may_begin(&info.identity) {
            AttachOutcome::Ready(number)
        } else {
            AttachOutcome::Supersedes(number, superseded)
        })
    }

    /// A gateway reports one of its sessions.
    pub(super) fn sync_session(&mut self, caller: CallerLink, session: ReportedSession, result: &mut SyncResult) {
        let address = caller.address(session.key);
        if self.absent.was_absent_before(caller.gateway) {
            result.lost.push(session.key);
            return;
        }
        if let Some(row) = self.rows.get_mut(&session.info.identity) {
            if row.address == address {
                row.link = caller.link;
                self.downlink.resume(&session.info.identity, address, session.credit);
                result.resumed(&session);
                return;
            }
            if row.number > session.number {
                result.lost.push(session.key);
                return;
            }
            result.superseded.push(SupersededSession {
                info: row.info.clone(),
                address: row.address,
            });
        } else if self.ended.has_newer(&session.info.identity, session.number) {
            result.lost.push(session.key);
            return;
        }
        self.downlink.supersede(&session.info.identity, address);
        self.downlink.resume(&session.info.identity, address, session.credit);
        result.resumed(&session);
        let since = session.info.since;
        if self.clock.now().0.saturating_sub(since.0) < MAX_UNWRITTEN_MS {
            self.record_begin(&session.info, address.gateway);
        }
        self.insert(SessionRow {
            last_activity: session.info.since,
            info: session.info,
            address,
            number: session.number,
            link: caller.link,
            waits_for: None,
        });
    }

    pub(super) fn queue_delivery(
        &mut self,
        identity: &IdentityId,
        id: DeliveryId,
        delivery: Delivery,
        reply: oneshot::Sender<DeliveryOutcome>,
    ) -> Result<NodeId, DeliveryError> {
        let row = self.rows.get(identity).ok_or(match self.is_complete {
            true => DeliveryError::NotConnected,
            // Its gateway may not have reported it yet.
            false => DeliveryError::NoOwner,
        })?;
        let address = row.address;
        self.downlink.push(identity, address, id, delivery, reply)?;
        Ok(address.gateway)
    }

    pub(super) fn takes_deliveries(&self, identity: &IdentityId) -> bool {
        self.downlink.takes_deliveries(identity)
    }

    pub(super) fn reach(&self, identity: &IdentityId, kind: DeliveryKind) -> Reach {
        match self.rows.contains_key(identity) {
            true if self.downlink.takes(identity, kind) => Reach::Open,
            true => Reach::Closed,
            false if self.is_complete => Reach::Absent,
            false => Reach::Unknown,
        }
    }

    pub(super) fn takes(&self, identity: &IdentityId, kind: DeliveryKind) -> bool {
        self.downlink.takes(identity, kind)
    }

    pub(super) fn grant_credit(&mut self, identity: &IdentityId, address: SessionAddress, credit: Credit) -> bool {
        self.rows.get(identity).is_some_and(|row| row.address == address)
            && self.downlink.grant(identity, address, credit)
    }

    pub(super) fn settle_delivery(
        &mut self,
        caller: CallerLink,
        identity: &IdentityId,
        key: SessionKey,
        id: DeliveryId,
        settlement: Settlement,
    ) -> Result<(), OwnerError> {
        self.check_open_link(caller)?;
        self.downlink.settle(identity, caller.address(key), id, settlement);
        Ok(())
    }

    pub(super) fn start_sending(&mut self, gateway: NodeId) -> bool {
        self.is_linked(gateway) && self.downlink.start_sending(gateway)
    }

    pub(super) fn take_deliveries(
        &mut self,
        gateway: NodeId,
        most: usize,
        max_bytes: usize,
    ) -> Option<(LinkId, Vec<SessionDeliveries>)> {
        let Some(link) = self.links.get(&gateway).filter(|link| link.is_open).map(|link| link.id) else {
            self.downlink.stop_sending(gateway);
            return None;
        };
        let taken = self.downlink.take(gateway, most, max_bytes);
        (!taken.is_empty()).then_some((link, taken))
    }

    pub(super) fn deliveries_answered(
        &mut self,
        call: &[SessionDeliveries],
        answers: Option<&[Vec<DeliveryAnswer>]>,
    ) -> bool {
        self.downlink.answered(call, answers)
    }

    fn insert(&mut self, row: SessionRow) {
        if let Some(link) = self.links.get_mut(&row.address.gateway) {
            link.sessions += 1;
        }
        let is_device = row.info.identity.module.is_none();
        match self.rows.insert(row.info.identity.clone(), row) {
            Some(old) => self.uncount(old.address.gateway),
            None => self.devices += u64::from(is_device),
        }
    }

    fn uncount(&mut self, gateway: NodeId) {
        if let Some(link) = self.links.get_mut(&gateway) {
            link.sessions = link.sessions.saturating_sub(1);
        }
    }

    pub(super) fn remove(&mut self, identity: &IdentityId, address: SessionAddress) -> bool {
        if self.rows.get(identity).is_none_or(|row| row.address != address) {
            return false;
        }
        if let Some(mut row) = self.rows.remove(identity) {
            self.downlink.end(identity);
            row.last_activity = self.clock.now();
            self.record_end(&row);
            self.leave_tombstone(row);
        }
        if self.rows.is_empty() {
            self.rows.shrink_to_fit();
        }
        self.devices -= u64::from(identity.module.is_none());
        self.uncount(address.gateway);
        true
    }

    fn record_begin(&mut self, info: &SessionInfo, gateway: NodeId) {
        let connection = StoredConnection {
            is_connected: true,
            changed: info.since,
            last_activity: info.since,
            origin: origin(info, gateway),
            issuers: info.issuers(),
        };
        self.connections.record(&info.identity, &info.generation, connection);
    }

    fn record_end(&mut self, row: &SessionRow) {
        let connection = StoredConnection {
            is_connected: false,
            changed: self.clock.now(),
            last_activity: row.last_activity,
            origin: origin(&row.info, row.address.gateway),
            issuers: row.info.issuers(),
        };
        self.connections
            .record(&row.info.identity, &row.info.generation, connection);
    }

    pub(super) fn record_lost_end(
        &mut self,
        identity: &IdentityId,
        generation: &GenerationId,
        stored: StoredConnection,
    ) {
        let row = self.rows.get(identity);
        let is_live = row.is_some_and(|row| row.info.generation == *generation);
        if !is_live && !self.connections.has_unwritten(identity) {
            let connection = StoredConnection {
                is_connected: false,
                changed: self.clock.now(),
                ..stored
            };
            self.connections.record(identity, generation, connection);
        }
    }

    /// The session has sent something at `at`.
    pub(super) fn record_activity(&mut self, identity: &IdentityId, address: SessionAddress, at: UnixMillis) {
        if let Some(row) = self.rows.get_mut(identity)
            && row.address == address
            && row.last_activity < at
        {
            row.last_activity = at;
            let connection = StoredConnection {
                is_connected: true,
                changed: row.info.since,
                last_activity: at,
                origin: origin(&row.info, row.address.gateway),
                issuers: row.info.issuers(),
            };
            self.connections
                .record(&row.info.identity, &row.info.generation, connection);
        }
    }

    /// The identity has sent a request without a session at `at`.
    pub(super) fn record_request(&mut self, identity: &IdentityId, generation: &GenerationId, at: UnixMillis) {
        let live = self.rows.get(identity).filter(|row| row.info.generation == *generation);
        match live.map(|row| row.address) {
            Some(address) => self.record_activity(identity, address, at),
            None => self.connections.record_request(identity, generation, at),
        }
    }

    /// Records a tombstone for a removed row while some gateway may not know of it, and the sessions that it was waiting
    /// for.
    fn leave_tombstone(&mut self, row: SessionRow) {
        if self.has_unlinked_member {
            self.ended.record(&row.info.identity, row.number);
        }
        if let Some(waits_for) = row.waits_for {
            self.still_closing
                .insert(row.info.identity.clone(), (row.address, waits_for));
        }
    }

    /// Removes rows of gateways whose counts are recomputed afterwards, or that are forgotten.
    fn drop_rows(&mut self, is_over: impl Fn(&SessionRow) -> bool) -> Vec<IdentityId> {
        let mut over: Vec<SessionRow> = self
            .rows
            .extract_if(|_, row| is_over(row))
            .map(|(_, row)| row)
            .collect();
        // The callers of their deliveries are woken in this order, and a simulated run must replay.
        over.sort_unstable_by_key(|row| (row.address.gateway, row.address.key));
        let over: Vec<IdentityId> = over
            .into_iter()
            .map(|row| {
                let identity = row.info.identity.clone();
                self.downlink.end(&identity);
                self.record_end(&row);
                self.leave_tombstone(row);
                identity
            })
            .collect();
        self.devices -= over.iter().filter(|identity| identity.module.is_none()).count() as u64;
        over
    }

    /// Whether there are sessions of modules.
    pub(super) fn has_modules(&self) -> bool {
        self.rows.len() as u64 > self.devices
    }

    fn count_rows(&self, gateway: NodeId) -> u64 {
        self.rows.values().filter(|row| row.address.gateway == gateway).count() as u64
    }

    pub(super) fn readiness(&self, identity: &IdentityId, address: SessionAddress) -> AttachReadiness {
        match self.rows.get(identity) {
            Some(row) if row.address == address => {
                if row.waits_for.is_none() && self.may_begin(identity) {
                    AttachReadiness::Ready
                } else {
                    AttachReadiness::Waiting
                }
            }
            _ => AttachReadiness::Gone,
        }
    }

    /// Whether only older sessions can keep a new one of the identity from beginning.
    pub(super) fn may_begin(&self, identity: &IdentityId) -> bool {
        self.is_complete && !self.storing.contains_key(identity)
    }

    /// The session that makes the request, if it is the current one of its identity; a change is in flight from now on.
    pub(super) fn admit_subscriptions(
        &mut self,
        caller: CallerLink,
        request: &SubscriptionRequest,
    ) -> Option<Arc<SessionInfo>> {
        let row = self.rows.get(&request.identity)?;
        if row.address != caller.address(request.key) || row.waits_for.is_some() {
            return None;
        }
        if request.action.is_change() {
            *self.storing.entry(request.identity.clone()).or_default() += 1;
        }
        Some(Arc::clone(&row.info))
    }

    pub(super) fn subscriptions_decided(&mut self, identity: &IdentityId) {
        if let Some(count) = self.storing.get_mut(identity) {
            *count -= 1;
            if *count == 0 {
                self.storing.remove(identity);
            }
        }
    }

    /// The sessions that the one at `address` waits for are gone.
    pub(super) fn unblock(&mut self, identity: &IdentityId, address: SessionAddress) {
        if self
            .still_closing
            .get(identity)
            .is_some_and(|(successor, _)| *successor == address)
        {
            self.still_closing.remove(identity);
        }
        if let Some(row) = self.rows.get_mut(identity)
            && row.address == address
        {
            row.waits_for = None;
        }
    }

    /// Compares a gateway's session count with the rows known here. A lasting difference means that a message about a
    /// session was lost: the link is broken, and the gateway reports all its sessions.
    pub(super) fn compare_count(&mut self, caller: CallerLink, reported: u64) -> Result<(), OwnerError> {
        let Some(link) = self.links.get_mut(&caller.gateway) else {
            return Err(OwnerError::LinkLost);
        };
        let last = link.last_count;
        let is_same = (last.reported, last.known) == (reported, link.sessions);
        let mismatches = match (reported == link.sessions, is_same) {
            (true, _) => 0,
            (false, true) => last.mismatches.saturating_add(1),
            (false, false) => 1,
        };
        link.last_count = CountComparison {
            reported,
            known: link.sessions,
            mismatches,
        };
        if mismatches >= MAX_MISMATCHES {
            self.break_link(caller.gateway);
            return Err(OwnerError::LinkLost);
        }
        Ok(())
    }

    pub(super) fn record_confirmation(&mut self, at: Option<Instant>) {
        self.confirmed = match (self.confirmed, at) {
            (Some(before), Some(at)) => Some(before.max(at)),
            (_, at) => at,
        };
    }

    /// How long gateways may act from now on: no longer than this node is known to be the owner.
    pub(super) fn grant(&self) -> Duration {
        self.confirmed
            .map_or(LINK_LEASE, |at| LINK_LEASE.saturating_sub(at.elapsed()))
    }

    /// Gateways that have not called for `grace`.
    fn silent_gateways(&self, grace: Duration) -> Vec<NodeId> {
        // A gateway that may still act over its link is not forgotten: two sessions of one identity would act.
        let grace = grace.max(LINK_LEASE);
        let is_silent = |(node, link): &(&NodeId, &Link)| **node != self.node && link.last_heard.elapsed() > grace;
        self.links.iter().filter(is_silent).map(|(node, _)| *node).collect()
    }

    /// Forgets gateways that are silent and recorded as absent. Appends the identities that are no longer connected.
    pub(super) fn expire_silent(&mut self, grace: Duration, disconnected: &mut Vec<IdentityId>) {
        for gateway in self.silent_gateways(grace) {
            if !self.absent.is_recorded(gateway) {
                continue;
            }
            self.links.remove(&gateway);
            self.open_links.close(gateway);
            disconnected.extend(self.drop_rows(|row| row.address.gateway == gateway));
        }
    }
}

/// Where the connection of a session came from; `None` when its gateway's version does not report it.
fn origin(info: &SessionInfo, gateway: NodeId) -> Option<ConnectionOrigin> {
    info.address.map(|address| ConnectionOrigin {
        gateway,
        protocol: info.protocol,
        address,
    })
}
