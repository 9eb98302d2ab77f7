//! The owner's side: which identity is connected, through which gateway, in the partitions that this node owns.
//!
//! A *reign* is one term of owning a partition. Its table is in memory and starts empty: gateways hand in their sessions
//! over links. A newer session wins; the older one is closed wherever it lives, and the newer one begins when what the
//! older one sent has been decided, or when its gateway can no longer act for it: then that gateway's link is broken, and
//! its batches are refused until it has handed in its sessions again.
//! Invariants: one row per identity; numbers grow within a reign and from one to the next; an answer is given for the
//! term that was asked for, or none. Lock order: see [`crate::local`]; nothing here locks that side.
//! Not here: calls (`service`, `takeover`), credentials.

mod ended;
mod marks;
mod reign;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_cluster::route::{Owner, Partitions};
use holdfast_model::{IdentityId, PartitionId};
use holdfast_partition::record::StreamId;
use holdfast_tasks::watch;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::sessions::{Address, Caller, Facts, NotHere, SessionNumber};

pub(crate) use reign::{Displaced, Reign, Row};

/// A new session at its owner.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It may begin.
    Ready(SessionNumber),
    /// It may begin once `displaced` are gone and the reign has settled; somebody has to see to it.
    TakesOver(SessionNumber, Vec<Displaced>),
    /// As above, and somebody sees to it already.
    Settling(SessionNumber),
}

/// Whether a session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Ready,
    Settling,
    Gone,
}

/// A session that a gateway hands in.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) facts: Arc<Facts>,
    pub(crate) key: u64,
    /// What an owner has given it.
    pub(crate) number: SessionNumber,
}

/// What comes of handing in sessions.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    /// Those that have lost against a newer one.
    pub(crate) lost: Vec<u64>,
    /// Older ones of other gateways that have lost.
    pub(crate) displaced: Vec<Displaced>,
    /// Marks of gateways can be taken out of the log.
    pub(crate) is_back: bool,
}

struct Shard {
    reign: Mutex<Reign>,
    /// Counts what those wait for who want to begin: rows that are ready or gone, settled reigns.
    moved: watch::Sender<u64>,
}

/// The partitions that this node owns.
pub(crate) struct Owners {
    node: u64,
    life: u64,
    partitions: Partitions,
    shards: Vec<Shard>,
    reigns: AtomicU64,
}

/// What there is to do after a look at the time.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Identities that are no longer connected.
    pub(crate) gone: Vec<IdentityId>,
    /// Partitions whose logs lack marks: with the term, and the gateways to be marked as away.
    pub(crate) marks: Vec<(PartitionId, u64, Vec<u64>)>,
}

impl Owners {
    pub(crate) fn new(partitions: &Partitions, life: u64) -> Self {
        let shard = |_| Shard {
            reign: Mutex::new(Reign::new(0, partitions.node(), life, 0)),
            moved: watch::Sender::new(0),
        };
        Self {
            node: partitions.node(),
            life,
            shards: partitions.count().iter().map(shard).collect(),
            partitions: partitions.clone(),
            reigns: AtomicU64::new(1),
        }
    }

    fn new_reign(&self, term: u64) -> Reign {
        let serial = self.reigns.fetch_add(1, Ordering::Relaxed);
        Reign::new(term, self.node, self.life, serial)
    }

    fn shard(&self, partition: PartitionId) -> &Shard {
        &self.shards[usize::from(partition.0)]
    }

    /// The term in which this node owns the partition, as far as it knows.
    pub(crate) fn term(&self, partition: PartitionId) -> Option<u64> {
        let owner = self.partitions.owner(partition)?;
        (owner.node == self.node).then_some(owner.term)
    }

    /// The reign of `term`, which begins now if it has not.
    fn reign(&self, partition: PartitionId, term: u64) -> Result<MutexGuard<'_, Reign>, NotHere> {
        let owner = self.partitions.owner(partition);
        if owner != Some(Owner { term, node: self.node }) {
            return Err(NotHere::NotOwner);
        }
        let mut reign = self.shard(partition).reign.lock();
        if reign.term != term {
            *reign = self.new_reign(term);
        }
        Ok(reign)
    }

    fn moved(&self, partition: PartitionId) {
        self.shard(partition).moved.send_modify(|count| *count += 1);
    }

    /// Told when a session may have become ready.
    pub(crate) fn moves(&self, partition: PartitionId) -> watch::Receiver<u64> {
        self.shard(partition).moved.subscribe()
    }

    /// A new session over an open link. Asking again for the same one changes nothing.
    pub(crate) fn attach(
        &self,
        partition: PartitionId,
        term: u64,
        caller: Caller,
        facts: &Arc<Facts>,
        key: u64,
    ) -> Result<Entered, NotHere> {
        let mut reign = self.reign(partition, term)?;
        reign.check_open(caller)?;
        reign.attach(caller, facts, key)
    }

    /// Sessions of a gateway; the first call of a link opens it, the last one completes it.
    pub(crate) fn sync(
        &self,
        partition: PartitionId,
        term: u64,
        caller: Caller,
        ends: (bool, bool),
        items: Vec<Item>,
        members: impl FnOnce() -> Vec<u64>,
    ) -> Result<Synced, NotHere> {
        let (first, last) = ends;
        let mut reign = self.reign(partition, term)?;
        if first {
            reign.begin_link(caller)?;
        } else {
            reign.check(caller)?;
        }
        let mut synced = Synced::default();
        for item in items {
            reign.hand_in(caller, item, &mut synced);
        }
        if last {
            reign.complete_link(caller);
            reign.settle(members);
            synced.is_back = !reign.marks().back().is_empty();
        }
        drop(reign);
        self.moved(partition);
        Ok(synced)
    }

    /// The gateway's session has ended. Says whether it was the identity's.
    pub(crate) fn detach(
        &self,
        partition: PartitionId,
        term: u64,
        caller: Caller,
        identity: &IdentityId,
        key: u64,
    ) -> bool {
        let Ok(mut reign) = self.reign(partition, term) else {
            return false;
        };
        if reign.check(caller).is_err() {
            return false;
        }
        let address = Address {
            gateway: caller.gateway,
            life: caller.life,
            key,
        };
        let gone = reign.remove(identity, address);
        drop(reign);
        if gone {
            self.moved(partition);
        }
        gone
    }

    /// Renews a link of a gateway with `sessions` sessions; for how long they may act from now on.
    pub(crate) fn renew(
        &self,
        partition: PartitionId,
        term: u64,
        caller: Caller,
        sessions: u64,
    ) -> Result<Duration, NotHere> {
        let mut reign = self.reign(partition, term)?;
        reign.check_open(caller)?;
        reign.compare(caller, sessions)?;
        Ok(reign.grant())
    }

    /// What may be granted at the end of a sync.
    pub(crate) fn grant(&self, partition: PartitionId, term: u64) -> Duration {
        self.reign(partition, term)
            .map_or(Duration::ZERO, |reign| reign.grant())
    }

    /// A quorum has confirmed at `at` that this node owns the partition in `term`; `None` = nobody else can.
    pub(crate) fn confirmed(&self, partition: PartitionId, term: u64, at: Option<Instant>) {
        if let Ok(mut reign) = self.reign(partition, term) {
            reign.confirmed(at);
        }
    }

    /// When a quorum last confirmed that this node owns the partition in `term`; `None` = nobody else can.
    pub(crate) fn confirmed_at(&self, partition: PartitionId, term: u64) -> Result<Option<Instant>, NotHere> {
        self.reign(partition, term).map(|reign| reign.confirmed)
    }

    /// Whether nothing but older sessions can keep a new one from beginning.
    pub(crate) fn is_settled(&self, partition: PartitionId, term: u64) -> bool {
        self.reign(partition, term).is_ok_and(|reign| reign.settled)
    }

    /// How a session stands that was attached.
    pub(crate) fn standing(
        &self,
        partition: PartitionId,
        term: u64,
        identity: &IdentityId,
        address: Address,
    ) -> Standing {
        match self.reign(partition, term) {
            Ok(reign) => reign.standing(identity, address),
            Err(_) => Standing::Gone,
        }
    }

    /// Who was displaced by the session is gone: it may begin, now or when the reign has settled.
    pub(crate) fn displaced_are_gone(
        &self,
        partition: PartitionId,
        term: u64,
        identity: &IdentityId,
        address: Address,
    ) {
        if let Ok(mut reign) = self.reign(partition, term) {
            reign.clear_way(identity, address);
        }
        self.moved(partition);
    }

    /// Refuses what comes over the link of a gateway that could not close a session, until it has handed in its sessions
    /// again. Gives the time until which it may still act over the link as it was.
    pub(crate) fn break_link(&self, partition: PartitionId, term: u64, gateway: u64) -> Option<Instant> {
        self.reign(partition, term).ok()?.break_link(gateway)
    }

    /// Whether a batch of a gateway's stream may be appended: only over the link that is open now (foundations 1). One that
    /// was sent over an earlier link may hold messages of sessions that have been taken over since.
    pub(crate) fn admits(&self, partition: PartitionId, stream: &StreamId, link: u64) -> bool {
        let Some(term) = self.term(partition) else {
            // The append itself says who is the owner.
            return true;
        };
        self.reign(partition, term)
            .is_ok_and(|reign| reign.admits(stream.gateway_node, stream.incarnation, link))
    }

    /// The identity's session.
    pub(crate) fn row(&self, partition: PartitionId, identity: &IdentityId) -> Option<Row> {
        let term = self.term(partition)?;
        self.reign(partition, term).ok()?.rows.get(identity).cloned()
    }

    /// Sessions of other gateways of a device and its modules; `None` = of all.
    pub(crate) fn elsewhere(&self, partition: PartitionId, identity: Option<&IdentityId>) -> Vec<(u64, Row)> {
        let Some(term) = self.term(partition) else {
            return Vec::new();
        };
        let Ok(reign) = self.reign(partition, term) else {
            return Vec::new();
        };
        let is_meant = |row: &&Row| {
            row.address.gateway != self.node
                && identity.is_none_or(|identity| match identity.module {
                    Some(_) => row.facts.identity == *identity,
                    None => row.facts.identity.device == identity.device,
                })
        };
        match identity {
            // Without modules there is at most one, which need not be looked for: changes may come by the thousand.
            Some(identity) if identity.module.is_some() || !reign.has_modules() => {
                let row = reign.rows.get(identity).filter(is_meant);
                row.map(|row| (term, row.clone())).into_iter().collect()
            }
            _ => {
                let rows = reign.rows.values().filter(is_meant);
                let mut rows: Vec<(u64, Row)> = rows.map(|row| (term, row.clone())).collect();
                rows.sort_unstable_by_key(|(_, row)| (row.address.gateway, row.address.key));
                rows
            }
        }
    }

    /// Whether it has to be read first which gateways are away in the reign of `term`: the reign's serial number then.
    pub(crate) fn has_to_learn(&self, partition: PartitionId, term: u64) -> Result<Option<u64>, NotHere> {
        let reign = self.reign(partition, term)?;
        Ok((!reign.marks().are_known()).then_some(reign.serial))
    }

    /// The log says who is away; read after the reign `serial` began.
    pub(crate) fn learn_away(&self, partition: PartitionId, term: u64, serial: u64, away: &[u64]) {
        if let Ok(mut reign) = self.reign(partition, term)
            && reign.serial == serial
        {
            reign.marks_mut().learn(away);
        }
    }

    /// Whether the log says that the gateway is away.
    pub(crate) fn is_marked(&self, partition: PartitionId, term: u64, gateway: u64) -> bool {
        self.reign(partition, term)
            .is_ok_and(|reign| reign.marks().is_marked(gateway))
    }

    /// The log says that the gateway is away.
    pub(crate) fn marked(&self, partition: PartitionId, term: u64, gateway: u64, members: impl FnOnce() -> Vec<u64>) {
        if let Ok(mut reign) = self.reign(partition, term) {
            reign.is_marked_now(gateway);
            reign.settle(members);
        }
        self.moved(partition);
    }

    /// The gateways whose marks can be taken out of the log.
    pub(crate) fn back(&self, partition: PartitionId, term: u64) -> Vec<u64> {
        self.reign(partition, term)
            .map_or(Vec::new(), |reign| reign.marks().back())
    }

    /// The log says that the gateway is not away.
    pub(crate) fn cleared(&self, partition: PartitionId, term: u64, gateway: u64) {
        if let Ok(mut reign) = self.reign(partition, term) {
            reign.marks_mut().clear(gateway);
        }
    }

    /// Looks after time: a reign settles, gateways that are silent for `grace` are forgotten, reigns that are over are
    /// dropped.
    pub(crate) fn sweep(&self, grace: Duration, members: impl Fn() -> Vec<u64>) -> Swept {
        let mut swept = Swept::default();
        for partition in self.partitions.count().iter() {
            let term = self.term(partition);
            let mut reign = self.shard(partition).reign.lock();
            let Some(term) = term else {
                *reign = self.new_reign(0);
                continue;
            };
            if reign.term != term {
                *reign = self.new_reign(term);
            }
            let was_settled = reign.settled;
            reign.settle(&members);
            let before = swept.gone.len();
            reign.forget_silent(grace, &mut swept.gone);
            let absent = reign.lacks_marks(grace, &members);
            if !absent.is_empty() || !reign.marks().back().is_empty() {
                swept.marks.push((partition, term, absent));
            }
            let has_moved = reign.settled != was_settled || swept.gone.len() != before;
            drop(reign);
            if has_moved {
                self.moved(partition);
            }
        }
        swept
    }

    /// Devices and sessions connected, over the partitions that this node owns.
    pub(crate) fn count(&self) -> (u64, u64) {
        let mut counted = (0, 0);
        for partition in self.partitions.count().iter() {
            let Some(term) = self.term(partition) else { continue };
            if let Ok(reign) = self.reign(partition, term) {
                counted.0 += reign.devices;
                counted.1 += reign.rows.len() as u64;
            }
        }
        counted
    }
}

/// Rows by identity.
type Rows = HashMap<IdentityId, Row>;
