//! Starts and renews the links between this node's sessions and the owners of their partitions.
//!
//! One task per node. It follows ownership changes and starts a link with each new owner, which begins with a report of
//! all sessions of the partition; it renews links with one call per owner, whatever the number of partitions and sessions;
//! as an owner it has a quorum confirm that it still is one, and forgets silent gateways.
//! Invariant: without a confirmation nothing is acknowledged here for longer than [`LINK_LEASE`], so a process that was
//! stopped and continues asks first.
//! Not here: single sessions ([`super::attach`], [`crate::owner::close_superseded`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_cluster::route::Owner;
use holdfast_model::{LinkId, NodeId, PartitionId, SessionKey, Term};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use super::drain::close_when_cut_off;
use super::session_table::{FOREVER, LocalSession};
use crate::DeviceHub;
use crate::api::session::CloseReason;
use crate::c2d::maintain::maintain_cloud_queues;
use crate::ingest::command_queue::Command;
use crate::owner::lifecycle::follow_identities;
use crate::owner::ownership::ReportedSession;
use crate::owner::reconcile::reconcile_device_states;
use crate::rpc::codec::{self, MAX_ITEMS};
use crate::session_types::{LINK_LEASE, RENEWAL_PERIOD, SyncPhase};

/// How long an owner may take to answer a renewal or a report; less than the lease.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How many links are started at once.
pub(crate) const MAX_SYNCS: usize = 8;

/// A confirmation by a quorum is used for this long before the quorum is asked again.
const CONFIRMATION_MAX_AGE: Duration = Duration::from_millis(400);

/// Shortest interval between two passes over requested renewals.
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);

/// Delay before a link that could not be started is started again.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// A link to renew.
struct DueLink {
    partition: PartitionId,
    id: LinkId,
    term: Term,
    /// How many sessions the owner should know.
    sessions: u64,
}

/// Maintains the links of this node until its last core has ended; to be spawned once per node. Without it no device can
/// connect.
pub async fn maintain_links(hub: Arc<DeviceHub>, stop: Stop) {
    holdfast_tasks::spawn_critical("session-grace", close_when_cut_off(Arc::clone(&hub), stop.clone()));
    holdfast_tasks::spawn_critical(
        "device-state-reconciler",
        reconcile_device_states(Arc::clone(&hub), stop.clone()),
    );
    holdfast_tasks::spawn_critical("lifecycle-events", follow_identities(Arc::clone(&hub), stop.clone()));
    holdfast_tasks::spawn_critical(
        "cloud-queue-maintenance",
        maintain_cloud_queues(Arc::clone(&hub), stop.clone()),
    );
    let mut owners = hub.parts.partitions.owner_changes();
    let mut ticks = tokio::time::interval(RENEWAL_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for partition in hub.parts.partitions.count().iter() {
        hub.ensure_link(partition);
    }
    loop {
        tokio::select! {
            biased;
            change = owners.next() => match change {
                Some((partition, owner)) => {
                    hub.ensure_link(partition);
                    if owner.is_some_and(|owner| owner.node == hub.parts.node) {
                        hub.check_when_earlier_grants_end();
                    }
                }
                None => return,
            },
            () = hub.renewal_wanted.notified() => {
                for partition in hub.take_renewal_requests() {
                    hub.ensure_link(partition);
                }
                // A caller without a link asks again and again.
                tokio::time::sleep(REQUEST_INTERVAL).await;
            }
            _ = ticks.tick() => {
                if stop.is_in(Phase::Closing) && hub.running_cores.load(Ordering::Acquire) == 0 {
                    return;
                }
                hub.renew_due();
                hub.audit().write_suppressed(hub.parts.clock.now());
            }
        }
    }
}

impl DeviceHub {
    /// Requests a check of the partition's link.
    pub(crate) fn request_renewal(&self, partition: PartitionId) {
        if !self.renewal_requested[usize::from(partition.0)].swap(true, Ordering::AcqRel) {
            self.renewal_wanted.notify_one();
        }
    }

    fn take_renewal_requests(&self) -> Vec<PartitionId> {
        let partitions = self.parts.partitions.count().iter();
        partitions
            .filter(|partition| self.renewal_requested[usize::from(partition.0)].swap(false, Ordering::AcqRel))
            .collect()
    }

    /// Everything that is done once per renewal period.
    fn renew_due(self: &Arc<Self>) {
        let mut by_owner: BTreeMap<NodeId, Vec<DueLink>> = BTreeMap::new();
        for partition in self.parts.partitions.count().iter() {
            let (link, sessions) = {
                let state = self.sessions.partition(partition);
                (state.open_link(), state.known_to_owner())
            };
            let owner = self.parts.partitions.owner(partition);
            match link {
                Some(link) if owner.is_none_or(|owner| owner == link.owner) => {
                    by_owner.entry(link.owner.node).or_default().push(DueLink {
                        partition,
                        id: link.id,
                        term: link.owner.term,
                        sessions,
                    });
                    self.flush(partition);
                }
                _ => self.ensure_link(partition),
            }
        }
        for (node, links) in by_owner {
            let hub = Arc::clone(self);
            if node == self.parts.node {
                holdfast_tasks::spawn_critical("session-confirm", async move { hub.renew_own(links).await });
            } else {
                holdfast_tasks::spawn_critical("session-renew", async move { hub.renew_remote(node, links).await });
            }
        }
        self.check_ownership();
        self.spawn_connection_writes();
        self.metrics.count(self.sessions.count(), self.ownership.count().1);
    }

    /// Completes ownership terms, and expires gateways that are silent.
    fn check_ownership(self: &Arc<Self>) {
        let grace = self.parts.config.session_grace;
        for (partition, term, absent) in self.ownership.expire_and_retire(grace, || self.members()) {
            self.update_absences(partition, term, absent);
        }
    }

    /// A term has begun here. Checks it as soon as gateways that have not called can no longer act over links with earlier
    /// owners: sessions wait for that moment.
    fn check_when_earlier_grants_end(self: &Arc<Self>) {
        // The term begins with the first use of its table at the latest.
        self.check_ownership();
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("session-term", async move {
            tokio::time::sleep(LINK_LEASE).await;
            hub.check_ownership();
        });
    }

    /// Confirms that this node still owns partitions, and renews its own links accordingly.
    async fn renew_own(self: Arc<Self>, links: Vec<DueLink>) {
        let renewals = links.into_iter().map(|due| {
            let hub = Arc::clone(&self);
            async move {
                if hub.confirm_own(due.partition, due.term).await {
                    let caller = hub.caller_link(due.id);
                    match hub.ownership.renew(due.partition, due.term, caller, due.sessions) {
                        Ok(_) => hub.link_renewed(due.partition, due.id, hub.own_deadline(due.partition, due.term)),
                        Err(_) => hub.link_lost(due.partition, due.id),
                    }
                }
            }
        });
        futures_util::future::join_all(renewals).await;
    }

    /// Whether a quorum confirms that this node owns the partition in `term`.
    pub(crate) async fn confirm_own(&self, partition: PartitionId, term: Term) -> bool {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        let group = replica.group();
        // Read before the status: a node that is stopped in between counts from too early, never from too late.
        let asked = Instant::now();
        let status = group.status();
        let leads = || {
            let leader = group.leader();
            leader.is_some_and(|leader| leader.node == self.parts.node && leader.term == term)
        };
        if !leads() {
            return false;
        }
        let members = &status.members;
        let at = if members.voters.len() == 1 && members.voters.contains(&self.parts.node) {
            None
        } else if let Some(ago) = status.quorum_acked_ago.filter(|ago| *ago <= CONFIRMATION_MAX_AGE) {
            Some(asked.checked_sub(ago).unwrap_or(asked))
        } else {
            match tokio::time::timeout(CALL_TIMEOUT, group.read_index()).await {
                // A later leadership of this node is another ownership term.
                Ok(Ok(_)) if leads() => Some(asked),
                _ => return false,
            }
        };
        self.ownership.record_confirmation(partition, term, at);
        true
    }

    /// Until when this node's own sessions of a partition that it owns may act.
    fn own_deadline(&self, partition: PartitionId, term: Term) -> u64 {
        match self.ownership.confirmed_at(partition, term) {
            Ok(None) => FOREVER,
            Ok(Some(at)) => self.sessions.ms(at + LINK_LEASE),
            Err(_) => 0,
        }
    }

    /// Renews the links with an owner on another node.
    async fn renew_remote(self: Arc<Self>, node: NodeId, links: Vec<DueLink>) {
        let request = Request::KeepAlive(proto::SessionKeepAlive {
            links: links.iter().map(DueLink::encode).collect(),
        });
        let asked = Instant::now();
        match self.call_node(node, 0, request, CALL_TIMEOUT).await {
            Ok(Answer::KeepAlive(answer)) if answer.granted_ms.len() == links.len() => {
                for (due, granted) in links.into_iter().zip(answer.granted_ms) {
                    if granted == 0 {
                        self.link_lost(due.partition, due.id);
                    } else {
                        let granted = Duration::from_millis(granted.into()).min(LINK_LEASE);
                        self.link_renewed(due.partition, due.id, self.sessions.ms(asked + granted));
                    }
                }
            }
            Ok(_) => tracing::warn!(
                %node,
                "an owner sent an answer of another kind; its links are not renewed"
            ),
            Err(error) => tracing::debug!(%node, %error, "links were not renewed; retrying with the next period"),
        }
    }

    fn link_renewed(self: &Arc<Self>, partition: PartitionId, link: LinkId, until: u64) {
        if self.sessions.renew_link(partition, link, until) {
            self.notify_link_opened(partition);
        }
    }

    /// The owner does not know the link any more: another one is started.
    pub(crate) fn link_lost(self: &Arc<Self>, partition: PartitionId, link: LinkId) {
        self.sessions.close_link(partition, link);
        self.ensure_link(partition);
    }

    /// Lets all cores continue with what they have kept back.
    fn notify_link_opened(&self, partition: PartitionId) {
        for core in 0..self.parts.cores {
            self.commands(core).push(Command::LinkOpened { partition });
        }
    }

    /// Starts a link with the partition's owner, unless there is one or one is being started.
    fn ensure_link(self: &Arc<Self>, partition: PartitionId) {
        let Some(owner) = self.parts.partitions.owner(partition) else {
            return;
        };
        if self.sessions.link(partition).is_some_and(|link| link.owner == owner) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.syncs).try_acquire_owned() else {
            // Checked again when another start has ended.
            return;
        };
        let (link, live) = self.sessions.start_link(partition, owner);
        let hub = Arc::clone(self);
        holdfast_tasks::spawn_critical("session-link", async move {
            let is_open = match owner.node == hub.parts.node {
                true => hub.sync_locally(partition, owner, link, live).await,
                false => hub.sync_remotely(partition, owner, link, live).await,
            };
            drop(permit);
            if is_open {
                tracing::debug!(
                    partition = partition.0,
                    owner = %owner.node,
                    term = %owner.term,
                    "a link is open"
                );
                hub.notify_link_opened(partition);
                hub.flush(partition);
                if owner.node == hub.parts.node {
                    hub.send_deliveries(partition, owner.term, owner.node);
                }
            } else {
                hub.metrics.links_failed.increment(1);
                hub.sessions.close_link(partition, link);
                tokio::time::sleep(RETRY_BACKOFF).await;
            }
            // Other partitions may have found no permit.
            for partition in hub.parts.partitions.count().iter() {
                hub.request_renewal(partition);
            }
        });
    }

    /// Reports all sessions to the owner on this node.
    async fn sync_locally(
        self: &Arc<Self>,
        partition: PartitionId,
        owner: Owner,
        link: LinkId,
        live: Vec<LocalSession>,
    ) -> bool {
        if !self.confirm_own(partition, owner.term).await || !self.load_absences(partition, owner.term).await {
            return false;
        }
        let caller = self.caller_link(link);
        let reported = live.iter().map(|session| ReportedSession {
            info: Arc::clone(&session.info),
            key: session.key,
            number: session.number,
            credit: session.read_credit(),
        });
        let members = || self.members();
        let result = self.ownership.sync(
            partition,
            owner.term,
            caller,
            SyncPhase::Only,
            reported.collect(),
            members,
        );
        let Ok(result) = result else { return false };
        self.spawn_close_superseded(partition, owner.term, result.superseded);
        for identity in &result.take_messages {
            self.deliver_queue(partition, identity);
        }
        self.resume_notifications(partition, &result.take_changes);
        if result.has_returned {
            self.update_absences(partition, owner.term, Vec::new());
        }
        let lost: HashSet<SessionKey> = result.lost.into_iter().collect();
        for session in live.iter().filter(|session| lost.contains(&session.key)) {
            self.drop_lost_session(partition, session, CloseReason::TakenOver);
        }
        self.sessions
            .open_link(partition, link, self.own_deadline(partition, owner.term))
    }

    /// Reports all sessions to the owner on another node, in bounded calls.
    async fn sync_remotely(
        self: &Arc<Self>,
        partition: PartitionId,
        owner: Owner,
        link: LinkId,
        live: Vec<LocalSession>,
    ) -> bool {
        let by_key: HashMap<SessionKey, &LocalSession> = live.iter().map(|session| (session.key, session)).collect();
        let registry_index = self.parts.registry.group().applied_index();
        let calls = live.len().div_ceil(MAX_ITEMS).max(1);
        let mut until = 0;
        for call in 0..calls {
            let part = live.iter().skip(call * MAX_ITEMS).take(MAX_ITEMS);
            let items = part.map(|session| {
                codec::encode_item(&session.info, session.key, Some(session.number), session.read_credit())
            });
            let request = Request::Sync(proto::SessionSync {
                term: owner.term.get(),
                link: link.0,
                first: call == 0,
                last: call + 1 == calls,
                registry_index,
                items: items.collect(),
            });
            let asked = Instant::now();
            match self.call_owner(partition, owner, request, CALL_TIMEOUT).await {
                Ok(Answer::Sync(answer)) => {
                    for lost in &answer.lost {
                        if let Some(session) = by_key.get(&SessionKey(lost.key)) {
                            let reason = codec::decode_close_reason(lost.revoked, lost.certificate_revoked);
                            self.drop_lost_session(partition, session, reason);
                        }
                    }
                    let granted = Duration::from_millis(answer.granted_ms.into()).min(LINK_LEASE);
                    until = self.sessions.ms(asked + granted);
                }
                Ok(Answer::Error(error)) => {
                    let error = codec::decode_error(&error);
                    tracing::debug!(partition = partition.0, owner = %owner.node, %error, "no link with the owner; retrying");
                    return false;
                }
                Ok(_) => return false,
                Err(error) => {
                    tracing::debug!(partition = partition.0, owner = %owner.node, %error, "no link with the owner; retrying");
                    return false;
                }
            }
        }
        self.sessions.open_link(partition, link, until)
    }

    /// The owner has reported that a session of this node has ended: a newer one has begun, or its identity has changed.
    fn drop_lost_session(&self, partition: PartitionId, session: &LocalSession, reason: CloseReason) {
        let removed = self
            .sessions
            .partition(partition)
            .remove(&session.info.identity, session.key);
        if removed.is_none() {
            return;
        }
        self.metrics.closed(reason);
        let commands = self.commands(session.core);
        commands.push(Command::close(session, partition, reason, None));
        for key in session.keys() {
            commands.push(Command::Discard { key, partition });
        }
    }
}

impl DueLink {
    fn encode(&self) -> proto::SessionLink {
        proto::SessionLink {
            partition: self.partition.0.into(),
            term: self.term.get(),
            link: self.id.0,
            sessions: self.sessions,
        }
    }
}
