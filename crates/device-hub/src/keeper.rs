//! Keeps the links between this node's sessions and the owners of their partitions.
//!
//! One task per node: it follows owners and begins a link with each new one, handing in all sessions of the partition; it
//! renews links, one call per owner whatever the number of partitions and sessions; as an owner it confirms by a quorum
//! that it still is one, and forgets gateways that are silent. Without its confirmations nothing is acknowledged here for
//! longer than [`LINK_LEASE`]: a process that was stopped and wakes looks first.
//! Not here: single sessions (`attach`, `takeover`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_cluster::route::Owner;
use holdfast_model::PartitionId;
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use holdfast_tasks::{Phase, Stop};
use tokio::time::Instant;

use crate::DeviceHub;
use crate::drain::close_when_cut_off;
use crate::local::{FOREVER, Live};
use crate::mailbox::Message;
use crate::owner::{Displaced, Item};
use crate::session::CloseReason;
use crate::sessions::{KEEP_ALIVE, LINK_LEASE};
use crate::wire::{self, MAX_ITEMS};

/// How long an owner may take to answer about links; less than what they are granted for.
const CALL_PATIENCE: Duration = Duration::from_secs(1);

/// How many links begin at once.
pub(crate) const MAX_SYNCS: usize = 8;

/// A quorum that has confirmed a leadership this lately need not be asked again.
const CONFIRMED_LATELY: Duration = Duration::from_millis(400);

/// Between two looks at links that were asked for.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Before a link that could not begin is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Keeps the links of this node until its last core has ended; to be spawned once per node. Without it no device can
/// connect.
pub async fn keep_sessions(hub: Arc<DeviceHub>, stop: Stop) {
    holdfast_tasks::spawn("session-grace", close_when_cut_off(Arc::clone(&hub), stop.clone()));
    let mut owners = hub.parts.partitions.owner_changes();
    let mut ticks = tokio::time::interval(KEEP_ALIVE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for partition in hub.parts.partitions.count().iter() {
        hub.begin_link(partition);
    }
    loop {
        tokio::select! {
            biased;
            change = owners.next() => match change {
                Some((partition, _)) => hub.begin_link(partition),
                None => return,
            },
            () = hub.asked.notified() => {
                for partition in hub.take_asked() {
                    hub.begin_link(partition);
                }
                // Who asks in vain asks again and again.
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            _ = ticks.tick() => {
                if stop.is_in(Phase::Closing) && hub.running_cores.load(Ordering::Acquire) == 0 {
                    return;
                }
                hub.tick();
            }
        }
    }
}

impl DeviceHub {
    /// Asks for a look at the partition's link.
    pub(crate) fn look_after(&self, partition: PartitionId) {
        if !self.to_look[usize::from(partition.0)].swap(true, Ordering::AcqRel) {
            self.asked.notify_one();
        }
    }

    fn take_asked(&self) -> Vec<PartitionId> {
        let asked = self.parts.partitions.count().iter();
        asked
            .filter(|partition| self.to_look[usize::from(partition.0)].swap(false, Ordering::AcqRel))
            .collect()
    }

    /// Everything that is done now and then.
    fn tick(self: &Arc<Self>) {
        let mut by_owner: BTreeMap<u64, Vec<(PartitionId, u64, proto::SessionLink)>> = BTreeMap::new();
        for partition in self.parts.partitions.count().iter() {
            let (link, sessions) = {
                let state = self.local.state(partition);
                (state.open_link(), state.known())
            };
            match link {
                Some(link)
                    if self
                        .parts
                        .partitions
                        .owner(partition)
                        .is_none_or(|owner| owner == link.owner) =>
                {
                    let said = proto::SessionLink {
                        partition: partition.0.into(),
                        term: link.owner.term,
                        link: link.id,
                        sessions,
                    };
                    let of_owner = by_owner.entry(link.owner.node).or_default();
                    of_owner.push((partition, link.id, said));
                    self.flush(partition);
                }
                _ => self.begin_link(partition),
            }
        }
        for (node, links) in by_owner {
            let hub = Arc::clone(self);
            if node == self.parts.node {
                holdfast_tasks::spawn("session-confirm", async move { hub.renew_own(links).await });
            } else {
                holdfast_tasks::spawn("session-keep-alive", async move { hub.renew(node, links).await });
            }
        }
        let now = self.parts.clock.now();
        let swept = self.owners.sweep(self.parts.config.session_grace, || self.members());
        for identity in swept.gone {
            self.recent.disconnected(&identity, now);
        }
        for (partition, term, away) in swept.marks {
            self.write_marks(partition, term, away);
        }
        self.metrics.count(self.local.count(), self.owners.count().1);
    }

    /// Confirms that this node still owns partitions, and lets its own sessions act for as long.
    async fn renew_own(self: Arc<Self>, links: Vec<(PartitionId, u64, proto::SessionLink)>) {
        let renewed = links.into_iter().map(|(partition, link, said)| {
            let hub = Arc::clone(&self);
            async move {
                if hub.confirm_own(partition, said.term).await {
                    let caller = hub.caller(link);
                    match hub.owners.renew(partition, said.term, caller, said.sessions) {
                        Ok(_) => hub.renewed(partition, link, hub.own_deadline(partition, said.term)),
                        Err(_) => hub.link_lost(partition, link),
                    }
                }
            }
        });
        futures_util::future::join_all(renewed).await;
    }

    /// Whether a quorum confirms that this node owns the partition in `term`.
    pub(crate) async fn confirm_own(&self, partition: PartitionId, term: u64) -> bool {
        let Some(replica) = self.parts.partitions.local(partition) else {
            return false;
        };
        let group = replica.group();
        // Before the look: whoever stands still in between counts from too early, never from too late.
        let asked = Instant::now();
        let status = group.status();
        let leads = group
            .leader()
            .is_some_and(|leader| leader.node == self.parts.node && leader.term == term);
        if !leads {
            return false;
        }
        let members = &status.members;
        let at = if members.voters.len() == 1 && members.voters.contains(&self.parts.node) {
            None
        } else if let Some(ago) = status.quorum_acked_ago.filter(|ago| *ago <= CONFIRMED_LATELY) {
            Some(asked.checked_sub(ago).unwrap_or(asked))
        } else {
            match tokio::time::timeout(CALL_PATIENCE, group.read_index()).await {
                // A later leadership of this node is another reign.
                Ok(Ok(_))
                    if group
                        .leader()
                        .is_some_and(|now| now.node == self.parts.node && now.term == term) =>
                {
                    Some(asked)
                }
                _ => return false,
            }
        };
        self.owners.confirmed(partition, term, at);
        true
    }

    /// Until when this node's own sessions of a partition that it owns may act.
    fn own_deadline(&self, partition: PartitionId, term: u64) -> u64 {
        match self.owners.confirmed_at(partition, term) {
            Ok(None) => FOREVER,
            Ok(Some(at)) => self.local.ms(at + LINK_LEASE),
            Err(_) => 0,
        }
    }

    /// Renews the links with an owner on another node.
    async fn renew(self: Arc<Self>, node: u64, links: Vec<(PartitionId, u64, proto::SessionLink)>) {
        let request = Request::KeepAlive(proto::SessionKeepAlive {
            links: links.iter().map(|(_, _, said)| *said).collect(),
        });
        let asked = Instant::now();
        match self.ask(node, 0, request, CALL_PATIENCE).await {
            Ok(Answer::KeepAlive(answer)) if answer.granted_ms.len() == links.len() => {
                for ((partition, link, _), granted) in links.into_iter().zip(answer.granted_ms) {
                    if granted == 0 {
                        self.link_lost(partition, link);
                    } else {
                        let granted = Duration::from_millis(granted.into()).min(LINK_LEASE);
                        self.renewed(partition, link, self.local.ms(asked + granted));
                    }
                }
            }
            Ok(_) => tracing::warn!(node, "an owner has answered something else than was asked"),
            Err(error) => tracing::debug!(node, %error, "links could not be renewed"),
        }
    }

    fn renewed(self: &Arc<Self>, partition: PartitionId, link: u64, until: u64) {
        if self.local.renew(partition, link, until) {
            self.tell_opened(partition);
        }
    }

    pub(crate) fn link_lost(self: &Arc<Self>, partition: PartitionId, link: u64) {
        self.local.close(partition, link);
        self.begin_link(partition);
    }

    /// Lets all cores go on with what they have kept back.
    fn tell_opened(&self, partition: PartitionId) {
        for core in 0..self.parts.cores {
            self.mailbox(core).put(Message::Opened { partition });
        }
    }

    /// Begins a link with the partition's owner, unless there is one, or one begins.
    fn begin_link(self: &Arc<Self>, partition: PartitionId) {
        let Some(owner) = self.parts.partitions.owner(partition) else {
            return;
        };
        if self.local.link(partition).is_some_and(|link| link.owner == owner) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.syncs).try_acquire_owned() else {
            // Looked at again when one has ended.
            return;
        };
        let (link, live) = self.local.begin(partition, owner);
        let hub = Arc::clone(self);
        holdfast_tasks::spawn("session-link", async move {
            let is_open = match owner.node == hub.parts.node {
                true => hub.sync_here(partition, owner, link, live).await,
                false => hub.sync_there(partition, owner, link, live).await,
            };
            drop(permit);
            if is_open {
                tracing::debug!(
                    partition = partition.0,
                    owner = owner.node,
                    term = owner.term,
                    "a link is open"
                );
                hub.tell_opened(partition);
                hub.flush(partition);
            } else {
                hub.metrics.links_failed.increment(1);
                hub.local.close(partition, link);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            // Others may have waited for their turn.
            for partition in hub.parts.partitions.count().iter() {
                hub.look_after(partition);
            }
        });
    }

    /// Hands in all sessions at the owner here.
    async fn sync_here(self: &Arc<Self>, partition: PartitionId, owner: Owner, link: u64, live: Vec<Live>) -> bool {
        if !self.confirm_own(partition, owner.term).await || !self.learn_away(partition, owner.term).await {
            return false;
        }
        let caller = self.caller(link);
        let items = live.iter().map(|live| Item {
            facts: Arc::clone(&live.facts),
            key: live.key,
            number: live.number,
        });
        let members = || self.members();
        let synced = self
            .owners
            .sync(partition, owner.term, caller, (true, true), items.collect(), members);
        let Ok(synced) = synced else { return false };
        self.close_losers(partition, owner.term, synced.displaced);
        if synced.is_back {
            self.write_marks(partition, owner.term, Vec::new());
        }
        for live in live.iter().filter(|live| synced.lost.contains(&live.key)) {
            self.lose(partition, live, false);
        }
        self.local
            .open(partition, link, self.own_deadline(partition, owner.term))
    }

    /// Hands in all sessions at an owner on another node, in bounded calls.
    async fn sync_there(self: &Arc<Self>, partition: PartitionId, owner: Owner, link: u64, live: Vec<Live>) -> bool {
        let by_key: std::collections::HashMap<u64, &Live> = live.iter().map(|live| (live.key, live)).collect();
        let registry_index = self.parts.registry.group().applied_index();
        let calls = live.len().div_ceil(MAX_ITEMS).max(1);
        let mut until = 0;
        for call in 0..calls {
            let part = live.iter().skip(call * MAX_ITEMS).take(MAX_ITEMS);
            let items = part.map(|live| wire::item(&live.facts, live.key, Some(live.number)));
            let request = Request::Sync(proto::SessionSync {
                term: owner.term,
                link,
                first: call == 0,
                last: call + 1 == calls,
                registry_index,
                items: items.collect(),
            });
            let asked = Instant::now();
            match self.ask(owner.node, partition.0, request, CALL_PATIENCE).await {
                Ok(Answer::Sync(answer)) => {
                    for lost in &answer.lost {
                        if let Some(live) = by_key.get(&lost.key) {
                            self.lose(partition, live, lost.revoked);
                        }
                    }
                    let granted = Duration::from_millis(answer.granted_ms.into()).min(LINK_LEASE);
                    until = self.local.ms(asked + granted);
                }
                Ok(Answer::NotHere(not_here)) => {
                    // The next owner will be known soon, or this one will know that it is.
                    tracing::debug!(partition = partition.0, owner = owner.node, cause = ?wire::cause(&not_here), "no link");
                    return false;
                }
                Ok(_) => return false,
                Err(error) => {
                    tracing::debug!(partition = partition.0, owner = owner.node, %error, "no link with the owner");
                    return false;
                }
            }
        }
        self.local.open(partition, link, until)
    }

    /// A session of this node is over, as its owner says: a newer one has begun, or its identity has changed.
    fn lose(&self, partition: PartitionId, live: &Live, revoked: bool) {
        if self
            .local
            .state(partition)
            .remove(&live.facts.identity, live.key)
            .is_none()
        {
            return;
        }
        let reason = match revoked {
            true => CloseReason::Revoked,
            false => CloseReason::TakenOver,
        };
        self.metrics.closed(reason);
        let mailbox = self.mailbox(live.core);
        mailbox.put(Message::close(live, partition, reason, None));
        for key in live.keys() {
            mailbox.put(Message::Forget { key, partition });
        }
    }

    /// Closes sessions that have lost against others which gateways have handed in.
    pub(crate) fn close_losers(self: &Arc<Self>, partition: PartitionId, term: u64, losers: Vec<Displaced>) {
        if losers.is_empty() {
            return;
        }
        let hub = Arc::clone(self);
        holdfast_tasks::spawn("session-losers", async move {
            // Who wins has been decided already.
            let _ = hub.close_displaced(partition, term, losers).await;
        });
    }
}
