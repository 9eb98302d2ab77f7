//! The gateway's side: which sessions live on this node, and the link with the owner of each partition.
//!
//! A *link* is what lets sessions of a partition act here: the owner of this term has been told of all of them, and has
//! answered within [`LINK_LEASE`](crate::sessions::LINK_LEASE). Without it nothing is proposed, acknowledged or accepted;
//! connections stay.
//! Invariants: an identity has one live session on this node; what an owner answers counts only if the link that carried
//! the question is still there; a question to the owner is registered before it is sent, so that a newer session's
//! "close" finds it. Lock order: a partition here, then the same partition at the owner ([`crate::owner`]).
//! Not here: calls to other nodes (`attach`, `keeper`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_cluster::route::Owner;
use holdfast_model::{IdentityId, PartitionCount, PartitionId};
use holdfast_tasks::watch;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::sessions::{Facts, NotHere, SessionNumber};

/// Ended sessions that an owner has not been told of, of one partition; beyond it the link starts anew, which says all.
const MAX_DETACHES: usize = 50_000;

/// A deadline that does not come: nobody else can own the partition.
pub(crate) const FOREVER: u64 = u64::MAX;

/// A session that lives here.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) facts: Arc<Facts>,
    pub(crate) key: u64,
    pub(crate) core: u16,
    pub(crate) number: SessionNumber,
    /// Older sessions of the identity that it has taken over on its core, whose records may still be before its own.
    pub(crate) before: Option<Box<[u64]>>,
}

impl Live {
    /// Its key and those of the sessions before it: all whose records go when it does.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        self.before.iter().flatten().copied().chain([self.key])
    }
}

/// A link with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) owner: Owner,
    /// The owner knows all sessions.
    pub(crate) open: bool,
}

/// A session that is to be attached.
pub(crate) struct Attach {
    pub(crate) facts: Arc<Facts>,
    pub(crate) key: u64,
    pub(crate) answer: oneshot::Sender<Attached>,
}

/// What an owner says of a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attached {
    /// It may begin.
    Ready(SessionNumber),
    /// It may once the older one is gone.
    Settling(SessionNumber),
    /// The identity is not what it was when the gateway looked.
    Revoked,
    /// Not done, or nobody knows: ask again over the next link.
    Again(NotHere),
}

/// What is to be told to an owner on another node.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) attaches: VecDeque<Attach>,
    pub(crate) detaches: VecDeque<(Arc<Facts>, u64)>,
    /// Somebody is telling.
    pub(crate) flushing: bool,
}

impl Outbox {
    /// Whom to ask for with the next call, `most` at once. Who has given up meanwhile is left out: its end may have been
    /// told with an earlier call, and the owner would keep a session that is not, in the place of the device's own.
    pub(crate) fn take_attaches(&mut self, most: usize) -> Vec<Attach> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(one) = self.attaches.pop_front()
        {
            if !one.answer.is_closed() {
                taken.push(one);
            }
        }
        taken
    }
}

/// The part of a partition that changes.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) link: Option<Link>,
    pub(crate) live: HashMap<IdentityId, Live>,
    /// How many of them are modules'.
    modules: usize,
    /// Those of them that a newer session elsewhere has closed, and that have not been decided to the end: the next owner
    /// must know of them.
    pub(crate) closing: HashSet<u64>,
    /// Sessions that the owner is being asked for; `true` when it has been closed meanwhile.
    pub(crate) pending: HashMap<u64, bool>,
    pub(crate) outbox: Outbox,
}

impl State {
    /// The link over which something may be asked.
    pub(crate) fn open_link(&self) -> Option<Link> {
        self.link.filter(|link| link.open)
    }

    /// A session begins; gives an older one that was not known to be over.
    pub(crate) fn insert(&mut self, live: Live) -> Option<Live> {
        let is_module = live.facts.identity.module.is_some();
        let Some(older) = self.live.insert(live.facts.identity.clone(), live) else {
            self.modules += usize::from(is_module);
            return None;
        };
        self.closing.remove(&older.key);
        Some(older)
    }

    /// A session is over. `None` when it is not there any more.
    pub(crate) fn remove(&mut self, identity: &IdentityId, key: u64) -> Option<Live> {
        if self.live.get(identity)?.key != key {
            return None;
        }
        self.closing.remove(&key);
        let removed = self.live.remove(identity);
        self.modules -= usize::from(identity.module.is_some());
        if self.live.is_empty() {
            self.live.shrink_to_fit();
        }
        removed
    }

    /// How many sessions the owner should know of.
    pub(crate) fn known(&self) -> u64 {
        let asked = self.pending.values().filter(|closed| !**closed).count();
        (self.live.len() - self.closing.len() + asked) as u64
    }

    /// Notes that the owner is to forget a session.
    pub(crate) fn detach(&mut self, facts: &Arc<Facts>, key: u64) {
        if self.link.is_none() {
            // The next link begins with all that is left.
            return;
        }
        if self.outbox.detaches.len() >= MAX_DETACHES {
            self.outbox.detaches.clear();
            self.link = None;
            return;
        }
        self.outbox.detaches.push_back((facts.clone(), key));
    }
}

/// The sessions in the order in which they began: a hash map has another order in every process, and then the same
/// faults would not lead to the same course.
fn in_order(sessions: impl Iterator<Item = Live>) -> Vec<Live> {
    let mut sessions: Vec<Live> = sessions.collect();
    sessions.sort_unstable_by_key(|live| live.key);
    sessions
}

struct Shard {
    /// Until when sessions may act, in milliseconds of [`Local::now_ms`]; 0 = they may not.
    valid_until: AtomicU64,
    state: Mutex<State>,
    /// Counts the openings of links; waited for by who wants to connect.
    opened: watch::Sender<u64>,
}

/// The sessions of this node, one lock per partition.
pub(crate) struct Local {
    base: Instant,
    shards: Vec<Shard>,
    next_key: AtomicU64,
    next_link: AtomicU64,
    /// No session begins here.
    turns_away: AtomicBool,
}

impl Local {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        let shard = |_| Shard {
            valid_until: AtomicU64::new(0),
            state: Mutex::default(),
            opened: watch::Sender::new(0),
        };
        Self {
            base: Instant::now(),
            shards: partitions.iter().map(shard).collect(),
            next_key: AtomicU64::new(1),
            next_link: AtomicU64::new(1),
            turns_away: AtomicBool::new(false),
        }
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Says whether sessions may begin here from now on.
    pub(crate) fn turn_away(&self, all: bool) {
        self.turns_away.store(all, Ordering::Release);
    }

    /// Whether no session may begin here.
    pub(crate) fn turns_away(&self) -> bool {
        self.turns_away.load(Ordering::Acquire)
    }

    fn shard(&self, partition: PartitionId) -> &Shard {
        &self.shards[usize::from(partition.0)]
    }

    pub(crate) fn state(&self, partition: PartitionId) -> MutexGuard<'_, State> {
        self.shard(partition).state.lock()
    }

    /// Milliseconds by this node's monotonic clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    pub(crate) fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        // Never 0, which means "not".
        u64::try_from(since.as_millis()).unwrap_or(FOREVER - 1) + 1
    }

    /// Whether sessions of the partition may act at `now_ms`.
    pub(crate) fn is_valid(&self, partition: PartitionId, now_ms: u64) -> bool {
        now_ms < self.shard(partition).valid_until.load(Ordering::Acquire)
    }

    /// The link over which sessions of the partition may act now.
    pub(crate) fn valid_link(&self, partition: PartitionId, now_ms: u64) -> Option<u64> {
        if !self.is_valid(partition, now_ms) {
            return None;
        }
        self.state(partition).open_link().map(|link| link.id)
    }

    /// Begins a link with `owner`: nothing may act until it is [open](Self::open). Gives its number and the sessions that
    /// the owner is to be told of.
    pub(crate) fn begin(&self, partition: PartitionId, owner: Owner) -> (u64, Vec<Live>) {
        let shard = self.shard(partition);
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let mut state = shard.state.lock();
        shard.valid_until.store(0, Ordering::Release);
        state.link = Some(Link { id, owner, open: false });
        state.outbox.detaches.clear();
        let live = in_order(state.live.values().cloned());
        (id, live)
    }

    /// The owner knows all sessions: they may act until `until`. `false` when another link has begun.
    pub(crate) fn open(&self, partition: PartitionId, id: u64, until: u64) -> bool {
        let shard = self.shard(partition);
        let mut state = shard.state.lock();
        match &mut state.link {
            Some(link) if link.id == id => link.open = true,
            _ => return false,
        }
        shard.valid_until.store(until, Ordering::Release);
        drop(state);
        shard.opened.send_modify(|count| *count += 1);
        true
    }

    /// The owner has answered. Says whether sessions may act again that could not before.
    pub(crate) fn renew(&self, partition: PartitionId, id: u64, until: u64) -> bool {
        let shard = self.shard(partition);
        let state = shard.state.lock();
        if state.open_link().is_none_or(|link| link.id != id) {
            return false;
        }
        // A deadline that came with an older question may arrive later, and being the only voter may end.
        let before = shard.valid_until.load(Ordering::Acquire);
        let until = if before == FOREVER { until } else { before.max(until) };
        shard.valid_until.store(until, Ordering::Release);
        // Looked at last: whoever has found the old deadline over, and now waits to be told, found that before this.
        let now = self.now_ms();
        let again = before <= now && now < until;
        drop(state);
        if again {
            shard.opened.send_modify(|count| *count += 1);
        }
        again
    }

    /// The link is over, if it is still the one; the next one begins with all sessions.
    pub(crate) fn close(&self, partition: PartitionId, id: u64) {
        let shard = self.shard(partition);
        let mut state = shard.state.lock();
        if state.link.is_some_and(|link| link.id == id) {
            state.link = None;
            shard.valid_until.store(0, Ordering::Release);
        }
    }

    pub(crate) fn link(&self, partition: PartitionId) -> Option<Link> {
        self.shard(partition).state.lock().link
    }

    /// Told whenever sessions of the partition may act again.
    pub(crate) fn openings(&self, partition: PartitionId) -> watch::Receiver<u64> {
        self.shard(partition).opened.subscribe()
    }

    /// The sessions of a device and its modules; of a module only its own.
    pub(crate) fn of_device(&self, partition: PartitionId, identity: &IdentityId) -> Vec<Live> {
        let state = self.state(partition);
        match &identity.module {
            // The device's own row is found by key; its modules only by looking.
            None if state.modules > 0 => {
                let live = state.live.values();
                let of_device = live.filter(|live| live.facts.identity.device == identity.device);
                in_order(of_device.cloned())
            }
            _ => state.live.get(identity).cloned().into_iter().collect(),
        }
    }

    /// A copy of one partition's rows, to be looked through without holding its lock.
    pub(crate) fn of_partition(&self, partition: PartitionId) -> Vec<Live> {
        in_order(self.state(partition).live.values().cloned())
    }

    /// How many sessions live here.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.state.lock().live.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_auth::KeyFingerprint;
    use holdfast_model::{DeviceId, GenerationId, ModuleId, UnixMillis};

    use super::*;
    use crate::Protocol;

    fn facts(identity: IdentityId) -> Arc<Facts> {
        Arc::new(Facts {
            identity,
            generation: GenerationId(Arc::from("1")),
            key: KeyFingerprint([0; 8]),
            policy: None,
            protocol: Protocol::Mqtt,
            since: UnixMillis(1),
            expires: None,
        })
    }

    fn device(id: &str) -> IdentityId {
        IdentityId::device(DeviceId::parse(id).unwrap())
    }

    fn attach(key: u64) -> (Attach, oneshot::Receiver<Attached>) {
        let (answer, answered) = oneshot::channel();
        let facts = facts(device("d"));
        (Attach { facts, key, answer }, answered)
    }

    #[test]
    fn the_sessions_of_a_device_are_its_own_and_those_of_its_modules() {
        let local = Local::new(PartitionCount::DEFAULT);
        let partition = PartitionId(0);
        let module = |id: &str| IdentityId {
            module: Some(ModuleId::parse(id).unwrap()),
            ..device("d")
        };
        let begin = |identity: &IdentityId, key| {
            local.state(partition).insert(Live {
                facts: facts(identity.clone()),
                key,
                core: 0,
                number: SessionNumber {
                    term: 1,
                    node: 1,
                    counter: key,
                },
                before: None,
            })
        };
        let keys = |identity: &IdentityId| {
            let mut keys: Vec<u64> = local
                .of_device(partition, identity)
                .iter()
                .map(|live| live.key)
                .collect();
            keys.sort_unstable();
            keys
        };
        for (identity, key) in [(device("d"), 1), (device("e"), 2)] {
            begin(&identity, key);
        }
        assert_eq!(keys(&device("d")), [1], "without modules");
        for (identity, key) in [(module("m"), 3), (module("n"), 4), (module("m"), 5)] {
            begin(&identity, key);
        }
        assert_eq!(keys(&device("d")), [1, 4, 5]);
        assert_eq!(keys(&module("m")), [5]);
        for (identity, key) in [(module("m"), 3), (module("m"), 5), (module("n"), 4)] {
            local.state(partition).remove(&identity, key);
        }
        assert_eq!((keys(&device("d")), local.state(partition).modules), (vec![1], 0));
    }

    #[test]
    fn who_has_given_up_while_it_waited_is_not_asked_for() {
        let mut outbox = Outbox::default();
        let mut waiting = Vec::new();
        for key in 0..6 {
            let (attach, answered) = attach(key);
            outbox.attaches.push_back(attach);
            waiting.push(answered);
        }
        for gone in [3, 1, 0] {
            drop(waiting.remove(gone));
        }
        let keys = |taken: Vec<Attach>| taken.iter().map(|one| one.key).collect::<Vec<_>>();
        assert_eq!(keys(outbox.take_attaches(2)), [2, 4], "a full call, of those who wait");
        assert_eq!(keys(outbox.take_attaches(2)), [5]);
        assert!(outbox.attaches.is_empty());
    }
}
