//! How a gateway attaches a session at the owner of its partition, here or on another node.
//!
//! At once when this node is the owner and nothing has to end first; else by asking, and asking again over the next link
//! when the owner has changed. Questions to another node that come together go as one call; one call per partition is
//! under way, and none of them waits for anything at the other end: what takes longer is waited for session by session.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{IdentityId, PartitionId};
use holdfast_proto::cluster::v1::session_answer::Answer;
use holdfast_proto::cluster::v1::session_attached::Outcome;
use holdfast_proto::cluster::v1::session_request::Request;
use holdfast_proto::cluster::v1::{self as proto};
use tokio::sync::oneshot;

use crate::DeviceHub;
use crate::local::{Attach, Attached, Link, Live, State};
use crate::mailbox::Message;
use crate::owner::{Displaced, Entered, Standing};
use crate::session::CloseReason;
use crate::sessions::{Address, Caller, Facts, NotHere, SessionNumber};
use crate::wire;

/// How many sessions of one partition wait to be asked for.
const MAX_ATTACHES: usize = 100_000;

/// How long an owner may take to answer about new sessions.
const CALL_PATIENCE: Duration = Duration::from_secs(2);

/// How long one question waits for the end of an older session.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4);

/// Sessions that may follow each other on one core before one of them waits for the others to be decided.
const MAX_BEFORE: usize = 8;

/// Between two questions over the same link.
const AGAIN_PAUSE: Duration = Duration::from_millis(20);

/// Why a session could not be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAttached {
    /// A newer one has taken over before this one began.
    TakenOver,
    /// The identity has changed meanwhile.
    Revoked,
    /// Too many are waiting.
    Busy,
    /// No owner in time.
    TooLate,
}

/// What can be said at once.
pub(crate) enum Now {
    /// It may begin; the sessions named, on the same core, are over.
    Ready(SessionNumber, Vec<u64>),
    /// [`DeviceHub::attach`] has to be asked.
    Later,
}

impl DeviceHub {
    pub(crate) fn caller(&self, link: u64) -> Caller {
        Caller {
            gateway: self.parts.node,
            life: self.parts.incarnation,
            link,
        }
    }

    pub(crate) fn address(&self, key: u64) -> Address {
        Address {
            gateway: self.parts.node,
            life: self.parts.incarnation,
            key,
        }
    }

    /// Whether something may be asked over a link, and over which.
    fn usable(&self, partition: PartitionId, state: &State) -> Option<Link> {
        let link = state.open_link()?;
        self.local.is_valid(partition, self.local.now_ms()).then_some(link)
    }

    /// Attaches without waiting for anybody, where that is possible.
    pub(crate) fn attach_now(self: &Arc<Self>, partition: PartitionId, facts: &Arc<Facts>, key: u64, core: u16) -> Now {
        let mut state = self.local.state(partition);
        let Some(link) = self
            .usable(partition, &state)
            .filter(|link| link.owner.node == self.parts.node)
        else {
            return Now::Later;
        };
        let entered = self
            .owners
            .attach(partition, link.owner.term, self.caller(link.id), facts, key);
        let mut before = None;
        let (number, older): (SessionNumber, Vec<u64>) = match entered {
            Ok(Entered::Ready(number)) => (number, Vec::new()),
            Ok(Entered::TakesOver(number, displaced)) => {
                let older = state.live.get(&facts.identity);
                let on_this_core = older.is_some_and(|older| {
                    let is_it = |displaced: &Displaced| displaced.address == self.address(older.key);
                    older.core == core && displaced.iter().all(is_it) && older.keys().count() <= MAX_BEFORE
                });
                before = older.map(|older| older.keys().collect::<Box<[u64]>>());
                let address = self.address(key);
                // Only who begins at once ends the older one by that. Who waits may yet be given up, and then the older
                // one must have been closed, or still be known.
                let begins = on_this_core && self.owners.is_settled(partition, link.owner.term);
                if !begins || displaced.is_empty() {
                    state.pending.insert(key, false);
                    drop(state);
                    self.take_over(partition, link.owner.term, &facts.identity, address, displaced);
                    return Now::Later;
                }
                self.owners
                    .displaced_are_gone(partition, link.owner.term, &facts.identity, address);
                let standing = self
                    .owners
                    .standing(partition, link.owner.term, &facts.identity, address);
                if standing != Standing::Ready {
                    state.pending.insert(key, false);
                    return Now::Later;
                }
                self.metrics.taken_over.increment(displaced.len() as u64);
                displaced
                    .iter()
                    .for_each(|_| self.metrics.closed(CloseReason::TakenOver));
                (
                    number,
                    displaced.iter().map(|displaced| displaced.address.key).collect(),
                )
            }
            Ok(Entered::Settling(_)) | Err(_) => return Now::Later,
        };
        let replaced = state.insert(Live {
            before,
            ..live(facts, key, core, number)
        });
        drop(state);
        if let Some(replaced) = replaced.filter(|replaced| !older.contains(&replaced.key)) {
            self.forget_older(partition, &replaced);
        }
        if !self.may_go_on(facts) {
            // Changed since it was looked at; the next look says how.
            self.detach(partition, facts, key);
            return Now::Later;
        }
        Now::Ready(number, older)
    }

    /// Attaches at the owner, as soon as there is one. The caller bounds the time, and calls [`Self::abandon`] when it
    /// gives up.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        partition: PartitionId,
        facts: &Arc<Facts>,
        key: u64,
        core: u16,
    ) -> Result<SessionNumber, NotAttached> {
        let mut openings = self.local.openings(partition);
        loop {
            let link = {
                let mut state = self.local.state(partition);
                let link = self.usable(partition, &state);
                if link.is_some() && *state.pending.entry(key).or_insert(false) {
                    return Err(NotAttached::TakenOver);
                }
                link
            };
            let Some(link) = link else {
                self.look_after(partition);
                // The hub outlives who asks it.
                let _ = openings.changed().await;
                continue;
            };
            let number = match self.ask_owner(partition, link, facts, key).await {
                Attached::Ready(number) => number,
                Attached::Settling(number) => match self.settle(partition, link, facts, key).await {
                    Ok(Standing::Ready) => number,
                    Ok(Standing::Gone) if self.is_current(partition, link) => return Err(NotAttached::TakenOver),
                    Ok(_) | Err(NotHere::NotOwner | NotHere::LinkLost) => {
                        tokio::time::sleep(AGAIN_PAUSE).await;
                        continue;
                    }
                    Err(NotHere::Busy | NotHere::StaleLife) => return Err(NotAttached::Busy),
                },
                Attached::Revoked => return Err(NotAttached::Revoked),
                Attached::Again(NotHere::Busy | NotHere::StaleLife) => return Err(NotAttached::Busy),
                Attached::Again(_) => {
                    self.look_after(partition);
                    tokio::time::sleep(AGAIN_PAUSE).await;
                    continue;
                }
            };
            let mut state = self.local.state(partition);
            if state.pending.get(&key) != Some(&false) {
                return Err(NotAttached::TakenOver);
            }
            if self.usable(partition, &state).is_none_or(|now| now.id != link.id) {
                // The next owner does not know of it.
                continue;
            }
            state.pending.remove(&key);
            let older = state.insert(live(facts, key, core, number));
            drop(state);
            if let Some(older) = older {
                self.forget_older(partition, &older);
            }
            if !self.may_go_on(facts) {
                return Err(NotAttached::Revoked);
            }
            return Ok(number);
        }
    }

    /// The owner closes older sessions before a newer one begins; this one was not known to it.
    fn forget_older(&self, partition: PartitionId, older: &Live) {
        let mailbox = self.mailbox(older.core);
        for key in older.keys() {
            mailbox.put(Message::Forget { key, partition });
        }
        self.metrics.closed(CloseReason::TakenOver);
    }

    fn is_current(&self, partition: PartitionId, link: Link) -> bool {
        self.local.link(partition).is_some_and(|now| now.id == link.id)
    }

    /// A session that was to be attached has been given up: the owner is to forget it, if it ever knew.
    pub(crate) fn abandon(self: &Arc<Self>, partition: PartitionId, facts: &Arc<Facts>, key: u64) {
        let was_asked = self.local.state(partition).pending.remove(&key).is_some();
        if was_asked {
            self.tell_ended(partition, facts, key);
        } else {
            self.detach(partition, facts, key);
        }
    }

    /// A session has ended.
    pub(crate) fn detach(self: &Arc<Self>, partition: PartitionId, facts: &Arc<Facts>, key: u64) {
        {
            let mut state = self.local.state(partition);
            if state.remove(&facts.identity, key).is_none() {
                return;
            }
        }
        self.tell_ended(partition, facts, key);
    }

    fn tell_ended(self: &Arc<Self>, partition: PartitionId, facts: &Arc<Facts>, key: u64) {
        let mut state = self.local.state(partition);
        let here = state.open_link().filter(|link| link.owner.node == self.parts.node);
        let Some(link) = here else {
            state.detach(facts, key);
            drop(state);
            return self.flush(partition);
        };
        self.forget(partition, link, facts, key);
    }

    /// The owner here forgets a session.
    fn forget(&self, partition: PartitionId, link: Link, facts: &Facts, key: u64) {
        let caller = self.caller(link.id);
        if self
            .owners
            .detach(partition, link.owner.term, caller, &facts.identity, key)
        {
            self.recent.disconnected(&facts.identity, self.parts.clock.now());
        }
    }

    async fn ask_owner(self: &Arc<Self>, partition: PartitionId, link: Link, facts: &Arc<Facts>, key: u64) -> Attached {
        if link.owner.node == self.parts.node {
            let caller = self.caller(link.id);
            return match self.owners.attach(partition, link.owner.term, caller, facts, key) {
                Ok(Entered::Ready(number)) => Attached::Ready(number),
                Ok(Entered::Settling(number)) => Attached::Settling(number),
                Ok(Entered::TakesOver(number, displaced)) => {
                    let address = self.address(key);
                    self.take_over(partition, link.owner.term, &facts.identity, address, displaced);
                    Attached::Settling(number)
                }
                Err(cause) => Attached::Again(cause),
            };
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.local.state(partition);
            if state.open_link().is_none_or(|now| now.id != link.id) {
                return Attached::Again(NotHere::LinkLost);
            }
            if state.outbox.attaches.len() >= MAX_ATTACHES {
                return Attached::Again(NotHere::Busy);
            }
            let facts = Arc::clone(facts);
            state.outbox.attaches.push_back(Attach { facts, key, answer });
        }
        self.flush(partition);
        answered.await.unwrap_or(Attached::Again(NotHere::LinkLost))
    }

    /// Waits until the older session is gone, for a while.
    async fn settle(&self, partition: PartitionId, link: Link, facts: &Facts, key: u64) -> Result<Standing, NotHere> {
        let term = link.owner.term;
        if link.owner.node == self.parts.node {
            return Ok(self
                .stands(partition, term, &facts.identity, self.address(key), SETTLE_PATIENCE)
                .await);
        }
        let request = Request::Settle(proto::SessionSettle {
            term,
            session: Some(wire::ended(&facts.identity, key)),
            wait_ms: u32::try_from(SETTLE_PATIENCE.as_millis()).unwrap_or(u32::MAX),
        });
        match self
            .ask(link.owner.node, partition.0, request, SETTLE_PATIENCE + CALL_PATIENCE)
            .await
        {
            Ok(Answer::Settle(answer)) => Ok(match answer.outcome() {
                proto::session_settle_answer::Outcome::Ready => Standing::Ready,
                proto::session_settle_answer::Outcome::Gone => Standing::Gone,
                _ => Standing::Settling,
            }),
            Ok(Answer::NotHere(not_here)) => Err(wire::cause(&not_here)),
            Ok(_) | Err(_) => Err(NotHere::NotOwner),
        }
    }

    /// How a session stands at this owner, as soon as it is decided, and after `patience` at the latest.
    pub(crate) async fn stands(
        &self,
        partition: PartitionId,
        term: u64,
        identity: &IdentityId,
        address: Address,
        patience: Duration,
    ) -> Standing {
        let mut moves = self.owners.moves(partition);
        let decided = async {
            loop {
                let standing = self.owners.standing(partition, term, identity, address);
                if standing != Standing::Settling || moves.changed().await.is_err() {
                    return standing;
                }
            }
        };
        tokio::time::timeout(patience, decided)
            .await
            .unwrap_or(Standing::Settling)
    }

    /// Tells the owner what has gathered, unless that is being done.
    pub(crate) fn flush(self: &Arc<Self>, partition: PartitionId) {
        {
            let mut state = self.local.state(partition);
            let outbox = &state.outbox;
            let has_some = !outbox.attaches.is_empty() || !outbox.detaches.is_empty();
            if outbox.flushing || !has_some || state.open_link().is_none() {
                return;
            }
            state.outbox.flushing = true;
        }
        let hub = Arc::clone(self);
        holdfast_tasks::spawn(
            "session-changes",
            async move { while hub.flush_once(partition).await {} },
        );
    }

    /// One call; `false` when there is nothing more to tell, or nobody.
    async fn flush_once(self: &Arc<Self>, partition: PartitionId) -> bool {
        let (link, attaches, detaches) = {
            let mut state = self.local.state(partition);
            let link = state.open_link();
            let outbox = &mut state.outbox;
            let attaches = outbox.take_attaches(wire::MAX_ITEMS);
            let count = outbox.detaches.len().min(wire::MAX_ITEMS);
            let detaches: Vec<(Arc<Facts>, u64)> = match link {
                Some(_) => outbox.detaches.drain(..count).collect(),
                None => Vec::new(),
            };
            let (Some(link), false) = (link, attaches.is_empty() && detaches.is_empty()) else {
                state.outbox.flushing = false;
                drop(state);
                // Who asks is told by the drop.
                drop(attaches);
                return false;
            };
            (link, attaches, detaches)
        };
        if link.owner.node == self.parts.node {
            for (facts, key) in detaches {
                self.forget(partition, link, &facts, key);
            }
            return true;
        }
        let request = Request::Changes(proto::SessionChanges {
            term: link.owner.term,
            link: link.id,
            registry_index: self.parts.registry.group().applied_index(),
            attach: attaches
                .iter()
                .map(|one| wire::item(&one.facts, one.key, None))
                .collect(),
            detach: detaches
                .iter()
                .map(|(facts, key)| wire::ended(&facts.identity, *key))
                .collect(),
        });
        let failed = match self.ask(link.owner.node, partition.0, request, CALL_PATIENCE).await {
            Ok(Answer::Changes(answer)) if answer.attached.len() == attaches.len() => {
                for (one, attached) in attaches.into_iter().zip(&answer.attached) {
                    // Who no longer asks has said so.
                    let _ = one.answer.send(outcome(attached));
                }
                return true;
            }
            Ok(Answer::NotHere(not_here)) => {
                let cause = wire::cause(&not_here);
                if cause != NotHere::Busy {
                    self.local.close(partition, link.id);
                }
                cause
            }
            Ok(_) => NotHere::LinkLost,
            Err(error) => {
                tracing::debug!(partition = partition.0, owner = link.owner.node, %error, "the owner could not be told");
                NotHere::LinkLost
            }
        };
        {
            let mut state = self.local.state(partition);
            if state.link.is_some_and(|now| now.id == link.id) {
                for ended in detaches.into_iter().rev() {
                    state.outbox.detaches.push_front(ended);
                }
            }
            // Tried again at the next keep-alive.
            state.outbox.flushing = false;
        }
        for one in attaches {
            let _ = one.answer.send(Attached::Again(failed));
        }
        self.look_after(partition);
        false
    }
}

fn live(facts: &Arc<Facts>, key: u64, core: u16, number: SessionNumber) -> Live {
    Live {
        facts: Arc::clone(facts),
        key,
        core,
        number,
        before: None,
    }
}

fn outcome(attached: &proto::SessionAttached) -> Attached {
    let number = SessionNumber {
        term: attached.number_term,
        node: attached.number_node,
        counter: attached.number_counter,
    };
    match attached.outcome() {
        Outcome::Ready => Attached::Ready(number),
        Outcome::Settling => Attached::Settling(number),
        Outcome::Revoked => Attached::Revoked,
        Outcome::Busy => Attached::Again(NotHere::Busy),
        Outcome::Unspecified => Attached::Again(NotHere::LinkLost),
    }
}
