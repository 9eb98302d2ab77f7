//! One term of owning one partition.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_model::IdentityId;
use tokio::time::Instant;

use super::ended::Ended;
use super::marks::Marks;
use super::{Entered, Item, Rows, Standing, Synced};
use crate::sessions::{Address, Caller, Facts, LINK_LEASE, NotHere, SessionNumber};

/// Sessions that may wait behind each other for one identity; more are told to come again.
const MAX_DISPLACED: usize = 8;

/// The starts of a node are in the upper bits of a counter: a leader that restarts may find itself in the same term.
const COUNTER_BITS: u32 = 40;

/// So many keep-alives in a row may name another number of sessions than is known here, while neither changes.
const MAX_MISMATCHES: u8 = 8;

/// A session that a newer one has pushed out.
#[derive(Debug, Clone)]
pub(crate) struct Displaced {
    pub(crate) facts: Arc<Facts>,
    pub(crate) address: Address,
}

/// An identity's session.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) facts: Arc<Facts>,
    pub(crate) address: Address,
    pub(crate) number: SessionNumber,
    /// The link over which it was handed in last.
    link: u64,
    /// Those that must be gone before it may begin; `None` once they are.
    after: Option<Box<[Displaced]>>,
}

/// A gateway as this reign knows it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    life: u64,
    id: u64,
    /// All its sessions are known.
    open: bool,
    /// The gateway has to begin another one.
    broken: bool,
    /// When it was heard of last.
    pub(crate) heard: Instant,
    /// Its rows.
    sessions: u64,
    /// What it said last, what was known here then, and how often that did not fit.
    compared: (u64, u64, u8),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    /// Tells reigns of one term apart.
    pub(super) serial: u64,
    began: Instant,
    /// No gateway can have sessions that are not known here, and still act for them.
    pub(crate) settled: bool,
    /// When a quorum last confirmed it; `None` = nobody else can own the partition.
    pub(crate) confirmed: Option<Instant>,
    pub(crate) rows: Rows,
    /// Sessions that are being closed for one that has been given up since: the next one waits for them too.
    leaving: HashMap<IdentityId, (Address, Box<[Displaced]>)>,
    pub(crate) links: HashMap<u64, Link>,
    /// Some member has no open link: it may come back with sessions that are not known here.
    away: bool,
    /// What has ended meanwhile.
    ended: Ended,
    marks: Marks,
    /// This node.
    node: u64,
    counter: u64,
    /// Rows of devices, modules not counted.
    pub(crate) devices: u64,
}

impl Reign {
    pub(crate) fn new(term: u64, node: u64, life: u64, serial: u64) -> Self {
        let now = Instant::now();
        Self {
            term,
            serial,
            began: now,
            settled: false,
            // Nothing is granted before it is confirmed.
            confirmed: Some(now.checked_sub(LINK_LEASE).unwrap_or(now)),
            rows: HashMap::new(),
            leaving: HashMap::new(),
            links: HashMap::new(),
            away: true,
            ended: Ended::default(),
            marks: Marks::default(),
            node,
            counter: life << COUNTER_BITS,
            devices: 0,
        }
    }

    pub(super) fn check(&mut self, caller: Caller) -> Result<&mut Link, NotHere> {
        let link = self.links.get_mut(&caller.gateway).ok_or(NotHere::LinkLost)?;
        if caller.life < link.life {
            return Err(NotHere::StaleLife);
        }
        if caller.life != link.life || caller.link != link.id {
            return Err(NotHere::LinkLost);
        }
        link.heard = Instant::now();
        Ok(link)
    }

    pub(super) fn check_open(&mut self, caller: Caller) -> Result<(), NotHere> {
        match self.check(caller)?.open {
            true => Ok(()),
            false => Err(NotHere::LinkLost),
        }
    }

    pub(super) fn begin_link(&mut self, caller: Caller) -> Result<(), NotHere> {
        if !self.marks.are_known() {
            // What it hands in could not be judged.
            return Err(NotHere::NotOwner);
        }
        if let Some(link) = self.links.get(&caller.gateway) {
            if caller.life < link.life {
                return Err(NotHere::StaleLife);
            }
            if caller.life == link.life && caller.link < link.id {
                return Err(NotHere::LinkLost);
            }
            if caller.life > link.life {
                self.drop_rows(|row| row.address.gateway == caller.gateway && row.address.life < caller.life);
            }
        }
        let sessions = self.rows_of(caller.gateway);
        let link = Link {
            life: caller.life,
            id: caller.link,
            open: false,
            broken: false,
            heard: Instant::now(),
            sessions,
            compared: (0, 0, 0),
        };
        self.links.insert(caller.gateway, link);
        // Until all that it has is known.
        self.away = true;
        Ok(())
    }

    pub(super) fn complete_link(&mut self, caller: Caller) {
        self.drop_rows(|row| row.address.gateway == caller.gateway && row.link != caller.link);
        let sessions = self.rows_of(caller.gateway);
        if let Some(link) = self.links.get_mut(&caller.gateway) {
            link.open = true;
            link.sessions = sessions;
        }
        self.marks.is_back(caller.gateway);
    }

    /// Gives the time at which the last grant over the link has ended. A link that is still beginning breaks too: its
    /// gateway may have handed in, with the first of several calls, a session that a newer one has taken over since.
    pub(super) fn break_link(&mut self, gateway: u64) -> Option<Instant> {
        let link = self.links.get_mut(&gateway)?;
        if !link.broken {
            link.broken = true;
            link.open = false;
            self.away = true;
            // Whatever number the gateway knows, it is not this one. Only once: its next one must not be less.
            link.id = link.id.saturating_add(1);
        }
        Some(link.heard + LINK_LEASE)
    }

    fn is_linked(&self, node: u64) -> bool {
        self.links.get(&node).is_some_and(|link| link.open)
    }

    /// The reign has settled when all members are linked, or when whoever is not can no longer act and is marked.
    pub(super) fn settle(&mut self, members: impl FnOnce() -> Vec<u64>) {
        if self.settled && !self.away {
            return;
        }
        let members = members();
        self.away = !members.iter().all(|node| self.is_linked(*node));
        if !self.away {
            self.ended.forget();
        }
        let may_go_on = |node: &u64| self.is_linked(*node) || self.marks.is_marked(*node);
        self.settled |= !self.away || (self.is_due() && members.iter().all(may_go_on));
    }

    /// Who has not begun a link can no longer act over an earlier one.
    fn is_due(&self) -> bool {
        self.began.elapsed() >= LINK_LEASE
    }

    /// The gateways that have to be marked as away before the reign can go on: before it settles without them, and before
    /// it forgets what they had.
    pub(super) fn lacks_marks(&mut self, grace: Duration, members: impl FnOnce() -> Vec<u64>) -> Vec<u64> {
        let mut absent = self.silent(grace);
        for gateway in &absent {
            self.break_link(*gateway);
        }
        if !self.settled && self.is_due() {
            absent.extend(members().into_iter().filter(|node| !self.is_linked(*node)));
        }
        absent.retain(|node| !self.marks.is_marked(*node));
        absent.sort_unstable();
        absent.dedup();
        absent
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(super) fn marks_mut(&mut self) -> &mut Marks {
        &mut self.marks
    }

    /// The log says that the gateway is away. It may be back already.
    pub(super) fn is_marked_now(&mut self, gateway: u64) {
        self.marks.mark(gateway);
        if self.is_linked(gateway) {
            self.marks.is_back(gateway);
        }
    }

    pub(super) fn attach(&mut self, caller: Caller, facts: &Arc<Facts>, key: u64) -> Result<Entered, NotHere> {
        let address = Address {
            gateway: caller.gateway,
            life: caller.life,
            key,
        };
        let leaving = self.leaving.get(&facts.identity);
        let mut displaced: Vec<Displaced> = leaving.into_iter().flat_map(|(_, left)| left.iter().cloned()).collect();
        if let Some(row) = self.rows.get(&facts.identity) {
            if row.address == address {
                let number = row.number;
                return Ok(match self.standing(&facts.identity, address) {
                    Standing::Ready => Entered::Ready(number),
                    _ => Entered::Settling(number),
                });
            }
            displaced.extend(row.after.iter().flatten().cloned());
            displaced.push(Displaced {
                facts: row.facts.clone(),
                address: row.address,
            });
            if displaced.len() > MAX_DISPLACED {
                return Err(NotHere::Busy);
            }
        }
        self.leaving.remove(&facts.identity);
        self.counter += 1;
        let number = SessionNumber {
            term: self.term,
            node: self.node,
            counter: self.counter,
        };
        let is_free = displaced.is_empty();
        self.insert(Row {
            facts: facts.clone(),
            address,
            number,
            link: caller.link,
            after: (!is_free).then(|| displaced.clone().into()),
        });
        Ok(if is_free && self.settled {
            Entered::Ready(number)
        } else {
            Entered::TakesOver(number, displaced)
        })
    }

    pub(super) fn hand_in(&mut self, caller: Caller, item: Item, synced: &mut Synced) {
        let address = Address {
            gateway: caller.gateway,
            life: caller.life,
            key: item.key,
        };
        if self.marks.is_inherited(caller.gateway) {
            synced.lost.push(item.key);
            return;
        }
        if let Some(row) = self.rows.get_mut(&item.facts.identity) {
            if row.address == address {
                row.link = caller.link;
                return;
            }
            if row.number > item.number {
                synced.lost.push(item.key);
                return;
            }
            synced.displaced.push(Displaced {
                facts: row.facts.clone(),
                address: row.address,
            });
        } else if self.ended.is_over(&item.facts.identity, item.number) {
            synced.lost.push(item.key);
            return;
        }
        self.insert(Row {
            facts: item.facts,
            address,
            number: item.number,
            link: caller.link,
            after: None,
        });
    }

    fn insert(&mut self, row: Row) {
        if let Some(link) = self.links.get_mut(&row.address.gateway) {
            link.sessions += 1;
        }
        let is_device = row.facts.identity.module.is_none();
        match self.rows.insert(row.facts.identity.clone(), row) {
            Some(old) => self.uncount(old.address.gateway),
            None => self.devices += u64::from(is_device),
        }
    }

    fn uncount(&mut self, gateway: u64) {
        if let Some(link) = self.links.get_mut(&gateway) {
            link.sessions = link.sessions.saturating_sub(1);
        }
    }

    pub(super) fn remove(&mut self, identity: &IdentityId, address: Address) -> bool {
        if self.rows.get(identity).is_none_or(|row| row.address != address) {
            return false;
        }
        if let Some(row) = self.rows.remove(identity) {
            self.leave(row);
        }
        if self.rows.is_empty() {
            self.rows.shrink_to_fit();
        }
        self.devices -= u64::from(identity.module.is_none());
        self.uncount(address.gateway);
        true
    }

    /// Keeps what a row that is gone was waiting for, and that it is gone for those who do not know it.
    fn leave(&mut self, row: Row) {
        if self.away {
            self.ended.note(&row.facts.identity, row.number);
        }
        if let Some(after) = row.after {
            self.leaving.insert(row.facts.identity.clone(), (row.address, after));
        }
    }

    /// Removes rows of gateways whose counts are set anew afterwards, or that are forgotten.
    fn drop_rows(&mut self, is_over: impl Fn(&Row) -> bool) -> Vec<IdentityId> {
        let over: Vec<Row> = self
            .rows
            .extract_if(|_, row| is_over(row))
            .map(|(_, row)| row)
            .collect();
        let over: Vec<IdentityId> = over
            .into_iter()
            .map(|row| {
                let identity = row.facts.identity.clone();
                self.leave(row);
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

    fn rows_of(&self, gateway: u64) -> u64 {
        self.rows.values().filter(|row| row.address.gateway == gateway).count() as u64
    }

    pub(super) fn standing(&self, identity: &IdentityId, address: Address) -> Standing {
        match self.rows.get(identity) {
            Some(row) if row.address == address => {
                if row.after.is_none() && self.settled {
                    Standing::Ready
                } else {
                    Standing::Settling
                }
            }
            _ => Standing::Gone,
        }
    }

    pub(super) fn clear_way(&mut self, identity: &IdentityId, address: Address) {
        if self
            .leaving
            .get(identity)
            .is_some_and(|(for_whom, _)| *for_whom == address)
        {
            self.leaving.remove(identity);
        }
        if let Some(row) = self.rows.get_mut(identity)
            && row.address == address
        {
            row.after = None;
        }
    }

    /// A gateway that counts other sessions than are known here has lost a message about one.
    pub(super) fn compare(&mut self, caller: Caller, sessions: u64) -> Result<(), NotHere> {
        let Some(link) = self.links.get_mut(&caller.gateway) else {
            return Err(NotHere::LinkLost);
        };
        let (said, known, times) = link.compared;
        let is_same = (said, known) == (sessions, link.sessions);
        let times = match (sessions == link.sessions, is_same) {
            (true, _) => 0,
            (false, true) => times.saturating_add(1),
            (false, false) => 1,
        };
        link.compared = (sessions, link.sessions, times);
        if times >= MAX_MISMATCHES {
            self.break_link(caller.gateway);
            return Err(NotHere::LinkLost);
        }
        Ok(())
    }

    pub(super) fn confirmed(&mut self, at: Option<Instant>) {
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

    pub(super) fn admits(&self, gateway: u64, life: u64, id: u64) -> bool {
        self.links
            .get(&gateway)
            .is_some_and(|link| link.open && link.life == life && link.id == id)
    }

    /// Gateways that have not been heard of for `grace`.
    fn silent(&self, grace: Duration) -> Vec<u64> {
        // Who may still act over its link is not forgotten: a newer session would begin beside the one that is.
        let grace = grace.max(LINK_LEASE);
        let is_silent = |(node, link): &(&u64, &Link)| **node != self.node && link.heard.elapsed() > grace;
        self.links.iter().filter(is_silent).map(|(node, _)| *node).collect()
    }

    /// Forgets gateways that are silent and marked.
    pub(super) fn forget_silent(&mut self, grace: Duration, gone: &mut Vec<IdentityId>) {
        for gateway in self.silent(grace) {
            if !self.marks.is_marked(gateway) {
                continue;
            }
            self.links.remove(&gateway);
            gone.extend(self.drop_rows(|row| row.address.gateway == gateway));
        }
    }
}
