//! The sessions of this node, and its link with the owner of each partition.
//!
//! A *link* lets sessions of a partition act here: the owner of this term knows all of them, and has answered within
//! [`LINK_LEASE`](crate::session_types::LINK_LEASE). Without it nothing is proposed, acknowledged or accepted; connections
//! stay.
//! Invariants: an identity has one live session on this node; an owner's answer counts only if the link over which the
//! call was sent still exists; an attach is registered before it is sent, so that the close of a newer session finds it.
//! Lock order: a partition here, then the same partition at the owner ([`crate::owner`]).
//! Not here: calls to other nodes ([`super::attach`], [`super::link_renewal`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_cluster::route::Owner;
use holdfast_model::{IdentityId, LinkId, PartitionCount, PartitionId, SessionKey, UnixMillis};
use holdfast_spans::TraceContext;
use holdfast_tasks::sync::{Mutex, MutexGuard};
use holdfast_tasks::watch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::subscription_requests::SubscriptionRequests;
use crate::downlink::credit::{Credit, SharedCredit};
use crate::downlink::report::{ReportedCredit, ReportedSettlement};
use crate::session_types::{OwnerError, SessionInfo, SessionNumber};

/// Ended sessions of one partition that have not been reported to the owner. Beyond it the link is started again, which
/// reports all sessions.
const MAX_DETACHES: usize = 50_000;

/// A deadline that never comes: no other node can own the partition.
pub(crate) const FOREVER: u64 = u64::MAX;

/// A session of this node.
#[derive(Debug, Clone)]
pub(crate) struct LocalSession {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) key: SessionKey,
    pub(crate) core: u16,
    pub(crate) number: SessionNumber,
    /// Older sessions of the identity that it superseded on its core; their records may still precede its own.
    pub(crate) predecessors: Option<Box<[SessionKey]>>,
    /// Set when its front end has granted credit for deliveries.
    pub(crate) credit: Option<Arc<SharedCredit>>,
}

impl LocalSession {
    pub(crate) fn new(info: &Arc<SessionInfo>, key: SessionKey, core: u16, number: SessionNumber) -> Self {
        Self {
            info: Arc::clone(info),
            key,
            core,
            number,
            predecessors: None,
            credit: None,
        }
    }

    /// Its credit for deliveries, as it is reported to owners.
    pub(crate) fn read_credit(&self) -> Credit {
        self.credit.as_ref().map_or(Credit::default(), |credit| credit.read())
    }

    /// Its predecessors' keys and its own: the records of all of them are discarded together.
    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.predecessors.iter().flatten().copied().chain([self.key])
    }
}

/// A link with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) owner: Owner,
    /// The owner knows all sessions.
    pub(crate) is_open: bool,
}

/// A session to attach at an owner on another node.
pub(crate) struct PendingAttach {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) key: SessionKey,
    /// The span that waits for it.
    pub(crate) trace: Option<TraceContext>,
    pub(crate) reply: oneshot::Sender<AttachReply>,
}

/// When a session has sent something.
pub(crate) struct Activity {
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) at: UnixMillis,
}

/// An owner's answer about a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachReply {
    /// It may begin.
    Ready(SessionNumber),
    /// It may begin once the older one is gone.
    Waiting(SessionNumber),
    /// The identity has changed since the gateway authenticated it.
    Revoked,
    /// Not attached, or the outcome is unknown: ask again over the next link.
    Retry(OwnerError),
}

/// Messages for an owner on another node.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) attaches: VecDeque<PendingAttach>,
    pub(crate) detaches: VecDeque<(Arc<SessionInfo>, SessionKey)>,
    /// Sessions whose credit has grown.
    pub(crate) credits: BTreeMap<SessionKey, ReportedCredit>,
    pub(crate) settlements: VecDeque<ReportedSettlement>,
    /// When sessions have sent something, at most one each.
    pub(crate) activities: BTreeMap<SessionKey, Activity>,
    /// When identities without a session have sent requests.
    pub(crate) requests: BTreeMap<SessionKey, Activity>,
    /// A task is sending them.
    pub(crate) is_flushing: bool,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.attaches.is_empty()
            && self.detaches.is_empty()
            && self.credits.is_empty()
            && self.settlements.is_empty()
            && self.activities.is_empty()
            && self.requests.is_empty()
    }

    /// The sessions to attach with the next call, at most `most`. Cancelled ones are skipped: their end may have been
    /// reported with an earlier call, and the owner would keep a session that does not exist in place of the device's own.
    pub(crate) fn take_attaches(&mut self, most: usize) -> Vec<PendingAttach> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(one) = self.attaches.pop_front()
        {
            if !one.reply.is_closed() {
                taken.push(one);
            }
        }
        taken
    }
}

/// The sessions of one partition.
#[derive(Default)]
pub(crate) struct PartitionSessions {
    pub(crate) link: Option<Link>,
    pub(crate) live: HashMap<IdentityId, LocalSession>,
    /// How many of them are modules'.
    modules: usize,
    /// Live sessions that a newer one elsewhere has closed and whose messages are not all decided: the next owner must
    /// know of them.
    pub(crate) closing: HashSet<SessionKey>,
    /// Sessions whose attach has been sent to the owner; `true` when one has been closed meanwhile.
    pub(crate) pending: HashMap<SessionKey, bool>,
    pub(crate) outbox: Outbox,
    pub(crate) subscriptions: SubscriptionRequests,
}

impl PartitionSessions {
    /// The link, if calls may be sent over it.
    pub(crate) fn open_link(&self) -> Option<Link> {
        self.link.filter(|link| link.is_open)
    }

    /// A session begins; returns an older one that was not known to have ended.
    pub(crate) fn insert(&mut self, session: LocalSession) -> Option<LocalSession> {
        let is_module = session.info.identity.module.is_some();
        let Some(older) = self.live.insert(session.info.identity.clone(), session) else {
            self.modules += usize::from(is_module);
            return None;
        };
        self.closing.remove(&older.key);
        self.outbox.activities.remove(&older.key);
        Some(older)
    }

    /// A session has ended. `None` when it is not in the table any more.
    pub(crate) fn remove(&mut self, identity: &IdentityId, key: SessionKey) -> Option<LocalSession> {
        if self.live.get(identity)?.key != key {
            return None;
        }
        self.closing.remove(&key);
        self.outbox.activities.remove(&key);
        let removed = self.live.remove(identity);
        self.modules -= usize::from(identity.module.is_some());
        if self.live.is_empty() {
            self.live.shrink_to_fit();
        }
        removed
    }

    /// How many sessions the owner should know.
    pub(crate) fn known_to_owner(&self) -> u64 {
        let pending = self.pending.values().filter(|closed| !**closed).count();
        (self.live.len() - self.closing.len() + pending) as u64
    }

    /// Queues a session's end for the owner.
    pub(crate) fn detach(&mut self, info: &Arc<SessionInfo>, key: SessionKey) {
        if self.link.is_none() {
            // The next link starts with a report of all remaining sessions.
            return;
        }
        if self.outbox.detaches.len() >= MAX_DETACHES {
            self.outbox.detaches.clear();
            self.link = None;
            return;
        }
        self.outbox.detaches.push_back((info.clone(), key));
    }
}

/// The sessions in the order in which they began. The order of a hash map differs from process to process, and a simulated
/// run must replay.
fn in_order(sessions: impl Iterator<Item = LocalSession>) -> Vec<LocalSession> {
    let mut sessions: Vec<LocalSession> = sessions.collect();
    sessions.sort_unstable_by_key(|session| session.key);
    sessions
}

struct Shard {
    /// Until when sessions may act, in milliseconds of [`SessionTable::now_ms`]; 0 = they may not.
    valid_until: AtomicU64,
    sessions: Mutex<PartitionSessions>,
    /// Counts the openings of links; watched by connects that wait for one.
    openings: watch::Sender<u64>,
}

/// The sessions of this node, one lock per partition.
pub(crate) struct SessionTable {
    base: Instant,
    shards: Vec<Shard>,
    next_key: AtomicU64,
    next_link: AtomicU64,
    refuses_sessions: AtomicBool,
}

impl SessionTable {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        let shard = |_| Shard {
            valid_until: AtomicU64::new(0),
            sessions: Mutex::default(),
            openings: watch::Sender::new(0),
        };
        Self {
            base: Instant::now(),
            shards: partitions.iter().map(shard).collect(),
            next_key: AtomicU64::new(1),
            next_link: AtomicU64::new(1),
            refuses_sessions: AtomicBool::new(false),
        }
    }

    pub(crate) fn next_key(&self) -> SessionKey {
        SessionKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Sets whether new sessions are refused from now on.
    pub(crate) fn refuse_sessions(&self, refuse: bool) {
        self.refuses_sessions.store(refuse, Ordering::Release);
    }

    /// Whether new sessions are refused.
    pub(crate) fn refuses_sessions(&self) -> bool {
        self.refuses_sessions.load(Ordering::Acquire)
    }

    fn shard(&self, partition: PartitionId) -> &Shard {
        &self.shards[usize::from(partition.0)]
    }

    pub(crate) fn partition(&self, partition: PartitionId) -> MutexGuard<'_, PartitionSessions> {
        self.shard(partition).sessions.lock()
    }

    /// Milliseconds by this node's monotonic clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.ms(Instant::now())
    }

    pub(crate) fn ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        // Never 0, which means "no deadline".
        u64::try_from(since.as_millis()).unwrap_or(FOREVER - 1) + 1
    }

    /// Whether sessions of the partition may act at `now_ms`.
    pub(crate) fn is_valid(&self, partition: PartitionId, now_ms: u64) -> bool {
        now_ms < self.shard(partition).valid_until.load(Ordering::Acquire)
    }

    /// The link over which sessions of the partition may act at `now_ms`.
    pub(crate) fn valid_link(&self, partition: PartitionId, now_ms: u64) -> Option<LinkId> {
        if !self.is_valid(partition, now_ms) {
            return None;
        }
        self.partition(partition).open_link().map(|link| link.id)
    }

    /// Starts a link with `owner`: nothing may act before [`Self::open_link`]. Returns its id and the sessions to report to
    /// the owner.
    pub(crate) fn start_link(&self, partition: PartitionId, owner: Owner) -> (LinkId, Vec<LocalSession>) {
        let shard = self.shard(partition);
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let mut sessions = shard.sessions.lock();
        shard.valid_until.store(0, Ordering::Release);
        sessions.link = Some(Link {
            id,
            owner,
            is_open: false,
        });
        // Both are part of the report of all sessions.
        sessions.outbox.detaches.clear();
        sessions.outbox.credits.clear();
        let live = in_order(sessions.live.values().cloned());
        (id, live)
    }

    /// The owner knows all sessions: they may act until `until`. `false` when another link has been started.
    pub(crate) fn open_link(&self, partition: PartitionId, id: LinkId, until: u64) -> bool {
        let shard = self.shard(partition);
        let mut sessions = shard.sessions.lock();
        match &mut sessions.link {
            Some(link) if link.id == id => link.is_open = true,
            _ => return false,
        }
        shard.valid_until.store(until, Ordering::Release);
        drop(sessions);
        shard.openings.send_modify(|count| *count += 1);
        true
    }

    /// The owner has answered a renewal. Returns whether sessions may act again after the lease had expired.
    pub(crate) fn renew_link(&self, partition: PartitionId, id: LinkId, until: u64) -> bool {
        let shard = self.shard(partition);
        let sessions = shard.sessions.lock();
        if sessions.open_link().is_none_or(|link| link.id != id) {
            return false;
        }
        // The answer to an older renewal may arrive later, and a sole voter may get company.
        let before = shard.valid_until.load(Ordering::Acquire);
        let until = if before == FOREVER { until } else { before.max(until) };
        shard.valid_until.store(until, Ordering::Release);
        // Read after the store: a core that found the old deadline expired, and now waits for an opening, read it before.
        let now = self.now_ms();
        let is_valid_again = before <= now && now < until;
        drop(sessions);
        if is_valid_again {
            shard.openings.send_modify(|count| *count += 1);
        }
        is_valid_again
    }

    /// The link is closed, if it is still the current one; the next one starts with a report of all sessions.
    pub(crate) fn close_link(&self, partition: PartitionId, id: LinkId) {
        let shard = self.shard(partition);
        let mut sessions = shard.sessions.lock();
        if sessions.link.is_some_and(|link| link.id == id) {
            sessions.link = None;
            shard.valid_until.store(0, Ordering::Release);
        }
    }

    pub(crate) fn link(&self, partition: PartitionId) -> Option<Link> {
        self.partition(partition).link
    }

    /// Changes whenever sessions of the partition may act again.
    pub(crate) fn openings(&self, partition: PartitionId) -> watch::Receiver<u64> {
        self.shard(partition).openings.subscribe()
    }

    /// The sessions of a device and its modules; for a module only its own.
    pub(crate) fn of_device(&self, partition: PartitionId, identity: &IdentityId) -> Vec<LocalSession> {
        let sessions = self.partition(partition);
        match &identity.module {
            // The device's own session is found by key, those of its modules only by a scan.
            None if sessions.modules > 0 => {
                let live = sessions.live.values();
                let of_device = live.filter(|session| session.info.identity.device == identity.device);
                in_order(of_device.cloned())
            }
            _ => sessions.live.get(identity).cloned().into_iter().collect(),
        }
    }

    /// A copy of one partition's sessions, to be scanned without holding its lock.
    pub(crate) fn of_partition(&self, partition: PartitionId) -> Vec<LocalSession> {
        in_order(self.partition(partition).live.values().cloned())
    }

    /// How many sessions live here.
    pub(crate) fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.sessions.lock().live.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_auth::KeyFingerprint;
    use holdfast_model::{DeviceId, GenerationId, ModuleId, UnixMillis};

    use holdfast_model::{NodeId, Term};

    use super::*;
    use crate::Protocol;

    fn info(identity: IdentityId) -> Arc<SessionInfo> {
        Arc::new(SessionInfo {
            identity,
            generation: GenerationId(Arc::from("1")),
            key: KeyFingerprint([0; 8]),
            certificate: None,
            policy: None,
            protocol: Protocol::Mqtt,
            address: None,
            since: UnixMillis(1),
            expires: None,
        })
    }

    fn device(id: &str) -> IdentityId {
        IdentityId::device(DeviceId::parse(id).unwrap())
    }

    fn attach(key: u64) -> (PendingAttach, oneshot::Receiver<AttachReply>) {
        let (reply, answered) = oneshot::channel();
        let info = info(device("d"));
        (
            PendingAttach {
                info,
                key: SessionKey(key),
                trace: None,
                reply,
            },
            answered,
        )
    }

    #[test]
    fn a_devices_sessions_are_its_own_and_those_of_its_modules() {
        let table = SessionTable::new(PartitionCount::DEFAULT);
        let partition = PartitionId(0);
        let module = |id: &str| IdentityId {
            module: Some(ModuleId::parse(id).unwrap()),
            ..device("d")
        };
        let begin = |identity: &IdentityId, key| {
            let number = SessionNumber {
                term: Term(1),
                node: NodeId(1),
                counter: key,
            };
            let session = LocalSession::new(&info(identity.clone()), SessionKey(key), 0, number);
            table.partition(partition).insert(session)
        };
        let keys = |identity: &IdentityId| {
            let mut keys: Vec<u64> = table
                .of_device(partition, identity)
                .iter()
                .map(|live| live.key.0)
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
            table.partition(partition).remove(&identity, SessionKey(key));
        }
        assert_eq!((keys(&device("d")), table.partition(partition).modules), (vec![1], 0));
    }

    #[test]
    fn a_cancelled_attach_is_not_sent_to_the_owner() {
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
        let keys = |taken: Vec<PendingAttach>| taken.iter().map(|one| one.key.0).collect::<Vec<_>>();
        assert_eq!(
            keys(outbox.take_attaches(2)),
            [2, 4],
            "a full call, of those that still wait"
        );
        assert_eq!(keys(outbox.take_attaches(2)), [5]);
        assert!(outbox.attaches.is_empty());
    }
}
