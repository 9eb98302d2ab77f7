//! What an owner remembers of the queues of one partition: depth and due time of each, messages that devices have, feedback
//! that waits. All of it can be read again from the log.
//!
//! Why: expiry needs one due time per device and no timer per message; a session that begins costs a look into memory; back
//! ends ask for feedback of all devices at once.
//! Invariants: only queues with messages and devices with feedback have an entry, so that memory follows what waits; of two
//! summaries of a queue the later decision counts. Locks and leases are of this owner alone: the next one starts without.
//! Not here: who delivers ([`super::deliver`]), who expires ([`super::maintain`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_model::{GenerationId, IdentityId, PartitionCount, PartitionId, Term, UnixMillis};
use holdfast_tasks::sync::Mutex;
use holdfast_tasks::watch;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::outbox::Outbox;
use crate::outbox::leases::Leases;
use crate::uploads::due::UploadsDue;

/// The indexes of all partitions.
pub(crate) struct CloudQueues {
    partitions: Vec<Mutex<QueueIndex>>,
    /// Counts decisions, so that the later one of two is known.
    pub(crate) decisions: AtomicU64,
    /// The earliest due time may have changed.
    pub(crate) due_changed: Notify,
    /// Changes when there are new records for back ends, or some that one had can be given again.
    pub(crate) record_changes: watch::Sender<u64>,
}

impl CloudQueues {
    pub(crate) fn new(partitions: PartitionCount) -> Self {
        Self {
            partitions: partitions.iter().map(|_| Mutex::default()).collect(),
            decisions: AtomicU64::new(0),
            due_changed: Notify::new(),
            record_changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn partition(&self, partition: PartitionId) -> &Mutex<QueueIndex> {
        &self.partitions[usize::from(partition.0)]
    }
}

/// A queue after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Later decisions have greater numbers; 0: as read from the log.
    pub(crate) decision: u64,
    pub(crate) depth: usize,
    pub(crate) oldest: Option<UnixMillis>,
    pub(crate) next_expiry: Option<UnixMillis>,
    /// Whether there is feedback about the device.
    pub(crate) has_feedback: bool,
}

/// The task that delivers one queue, and the messages that the device has.
#[derive(Debug, Default)]
pub(crate) struct Delivering {
    /// There may be more to deliver, or less.
    pub(crate) changed: Notify,
    changes: AtomicU64,
    /// With the bytes of each.
    locked: Mutex<BTreeMap<u64, usize>>,
}

impl Delivering {
    /// How often it was woken.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn lock(&self, sequence: u64, bytes: usize) {
        self.locked.lock().insert(sequence, bytes);
    }

    pub(crate) fn unlock(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut locked = self.locked.lock();
        for sequence in sequences {
            locked.remove(&sequence);
        }
    }

    pub(crate) fn locked(&self) -> BTreeMap<u64, usize> {
        self.locked.lock().clone()
    }
}

#[derive(Debug)]
struct KnownQueue {
    generation: GenerationId,
    summary: Summary,
}

/// The token of a lock: random, so that only a receiver of the message knows it.
pub(crate) type LockToken = [u8; 16];

/// A message that a device without a session has, until then.
#[derive(Debug, Clone, Copy)]
struct RequestLock {
    token: LockToken,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct QueueIndex {
    /// The term whose queues are read, or being read.
    term: Option<Term>,
    queues: BTreeMap<IdentityId, KnownQueue>,
    due: BTreeSet<(UnixMillis, IdentityId)>,
    delivering: BTreeMap<IdentityId, Arc<Delivering>>,
    /// Records that wait for back ends, by [`Outbox::index`].
    outboxes: [Leases; Outbox::ALL.len()],
    /// Messages of requests, by device and sequence.
    locks: BTreeMap<IdentityId, BTreeMap<u64, RequestLock>>,
    /// When uploads expire.
    pub(crate) uploads_due: UploadsDue,
}

impl QueueIndex {
    /// The node owns the partition in `term`, or not at all; `true`: as before. Otherwise everything is forgotten but the tasks
    /// that deliver, which end by themselves.
    pub(crate) fn begin(&mut self, term: Option<Term>) -> bool {
        let is_same = self.term == term;
        if !is_same {
            let delivering = std::mem::take(&mut self.delivering);
            *self = Self {
                term,
                delivering,
                ..Self::default()
            };
        }
        is_same
    }

    /// A queue as read from the log, or after a decision. Returns whether the earliest due time may have changed.
    pub(crate) fn note(&mut self, identity: &IdentityId, generation: &GenerationId, summary: Summary) -> bool {
        if let Some(known) = self.queues.get(identity) {
            let is_older = known.generation == *generation && known.summary.decision > summary.decision;
            if is_older || is_earlier(generation, &known.generation) {
                return false;
            }
            if let Some(due) = known.summary.next_expiry {
                self.due.remove(&(due, identity.clone()));
            }
        }
        if summary.has_feedback {
            self.leases(Outbox::Feedback)
                .note(identity, generation, summary.decision);
        }
        if let Some(due) = summary.next_expiry {
            self.due.insert((due, identity.clone()));
        }
        if summary.depth == 0 {
            self.queues.remove(identity);
        } else {
            let known = KnownQueue {
                generation: generation.clone(),
                summary,
            };
            self.queues.insert(identity.clone(), known);
        }
        true
    }

    /// The records of an outbox.
    pub(crate) fn leases(&mut self, outbox: Outbox) -> &mut Leases {
        &mut self.outboxes[outbox.index()]
    }

    /// Messages that wait for a device of this generation.
    pub(crate) fn depth(&self, identity: &IdentityId, generation: &GenerationId) -> usize {
        let known = self.queues.get(identity);
        let known = known.filter(|known| known.generation == *generation);
        known.map_or(0, |known| known.summary.depth)
    }

    /// Everything that is remembered, with its generation.
    pub(crate) fn generations(&self) -> Vec<(IdentityId, GenerationId)> {
        let queues = self
            .queues
            .iter()
            .map(|(identity, known)| (identity, &known.generation));
        let queues = queues.map(|(identity, generation)| (identity.clone(), generation.clone()));
        let records = self.outboxes.iter().flat_map(Leases::devices);
        queues.chain(records).chain(self.uploads_due.generations()).collect()
    }

    /// The generation is dead: its values are removed.
    pub(crate) fn forget(&mut self, identity: &IdentityId, generation: &GenerationId) {
        if self
            .queues
            .get(identity)
            .is_some_and(|known| known.generation == *generation)
            && let Some(known) = self.queues.remove(identity)
            && let Some(due) = known.summary.next_expiry
        {
            self.due.remove(&(due, identity.clone()));
        }
        for outbox in &mut self.outboxes {
            outbox.forget(identity, generation);
        }
        self.uploads_due.forget(identity, generation);
    }

    /// All queues with messages.
    pub(crate) fn identities(&self) -> Vec<IdentityId> {
        self.queues.keys().cloned().collect()
    }

    /// Messages that wait, and when the oldest of them came.
    pub(crate) fn total(&self) -> (usize, Option<UnixMillis>) {
        let depth = self.queues.values().map(|known| known.summary.depth).sum();
        let oldest = self.queues.values().filter_map(|known| known.summary.oldest).min();
        (depth, oldest)
    }

    /// When the next message expires.
    pub(crate) fn next_due(&self) -> Option<UnixMillis> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes the queues in which a message expires by `now`.
    pub(crate) fn take_due(&mut self, now: UnixMillis, most: usize) -> Vec<(IdentityId, GenerationId)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((due, _)) = self.due.first()
            && *due <= now
            && let Some((_, identity)) = self.due.pop_first()
        {
            if let Some(known) = self.queues.get_mut(&identity) {
                known.summary.next_expiry = None;
                taken.push((identity, known.generation.clone()));
            }
        }
        taken
    }

    /// They could not be expired: they are due again at `at`.
    pub(crate) fn put_due(&mut self, identity: &IdentityId, at: UnixMillis) {
        if let Some(known) = self.queues.get_mut(identity)
            && known.summary.next_expiry.is_none()
        {
            known.summary.next_expiry = Some(at);
            self.due.insert((at, identity.clone()));
        }
    }

    /// Wakes the task that delivers the identity's queue. Without one and with something to deliver to a session that `takes` it,
    /// gives a new one, which the caller starts.
    pub(crate) fn wake(&mut self, identity: &IdentityId, takes: bool) -> Option<Arc<Delivering>> {
        if let Some(known) = self.delivering.get(identity) {
            known.changes.fetch_add(1, Ordering::AcqRel);
            known.changed.notify_one();
            return None;
        }
        if !takes || !self.queues.contains_key(identity) {
            return None;
        }
        let new = Arc::<Delivering>::default();
        self.delivering.insert(identity.clone(), Arc::clone(&new));
        Some(new)
    }

    /// The task ends, unless it was woken since it had seen `changes`.
    pub(crate) fn finish(&mut self, identity: &IdentityId, changes: u64) -> bool {
        let is_done = self
            .delivering
            .get(identity)
            .is_none_or(|known| known.changes() == changes);
        if is_done {
            self.delivering.remove(identity);
        }
        is_done
    }

    /// The messages that the device has, by its session or by requests.
    pub(crate) fn locked(&self, identity: &IdentityId) -> BTreeSet<u64> {
        let mut locked = self
            .delivering
            .get(identity)
            .map_or_else(BTreeSet::new, |delivering| delivering.locked().into_keys().collect());
        if let Some(locks) = self.locks.get(identity) {
            let now = Instant::now();
            locked.extend(
                locks
                    .iter()
                    .filter(|(_, lock)| lock.until > now)
                    .map(|(sequence, _)| *sequence),
            );
        }
        locked
    }

    /// Whether a request has the message.
    pub(crate) fn is_with_request(&self, identity: &IdentityId, sequence: u64) -> bool {
        let lock = self.locks.get(identity).and_then(|locks| locks.get(&sequence));
        lock.is_some_and(|lock| lock.until > Instant::now())
    }

    /// Gives a message that has no receiver to a request.
    pub(crate) fn lock(&mut self, identity: &IdentityId, sequence: u64, token: LockToken, until: Instant) {
        let locks = self.locks.entry(identity.clone()).or_default();
        locks.insert(sequence, RequestLock { token, until });
    }

    /// The message that a request has by this token, unless it has had it for too long.
    pub(crate) fn by_token(&self, identity: &IdentityId, token: &[u8]) -> Option<u64> {
        let now = Instant::now();
        let mut locks = self.locks.get(identity)?.iter();
        let found = locks.find(|(_, lock)| lock.until > now && lock.token == token);
        found.map(|(sequence, _)| *sequence)
    }

    /// Whether a lock has this token, also if its time is over.
    pub(crate) fn holds(&self, identity: &IdentityId, token: &[u8]) -> bool {
        let locks = self.locks.get(identity);
        locks.is_some_and(|locks| locks.values().any(|lock| lock.token == token))
    }

    /// The request does not have the message any more.
    pub(crate) fn unlock(&mut self, identity: &IdentityId, token: &[u8]) {
        if let Some(locks) = self.locks.get_mut(identity) {
            locks.retain(|_, lock| lock.token != token);
            if locks.is_empty() {
                self.locks.remove(identity);
            }
        }
    }
}

/// Generations are numbers that grow over the whole hub.
pub(crate) fn is_earlier(one: &GenerationId, other: &GenerationId) -> bool {
    match (one.0.parse::<u64>(), other.0.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;
    use holdfast_model::limits::FEEDBACK_LOCK;

    use super::*;

    fn identity(name: &str) -> IdentityId {
        IdentityId::device(DeviceId::parse(name).unwrap())
    }

    fn generation(text: &str) -> GenerationId {
        GenerationId(text.into())
    }

    fn summary(decision: u64, depth: usize, due: Option<u64>) -> Summary {
        Summary {
            decision,
            depth,
            oldest: (depth > 0).then_some(UnixMillis(decision)),
            next_expiry: due.map(UnixMillis),
            has_feedback: false,
        }
    }

    #[test]
    fn a_queue_is_due_once_and_as_its_latest_decision_says() {
        let mut index = QueueIndex::default();
        let (a, b, g) = (identity("a"), identity("b"), generation("5"));
        assert!(index.note(&a, &g, summary(2, 3, Some(100))));
        assert!(!index.note(&a, &g, summary(1, 9, Some(1))), "an earlier decision");
        assert!(
            !index.note(&a, &generation("4"), summary(9, 9, Some(1))),
            "an earlier generation"
        );
        index.note(&b, &g, summary(3, 1, Some(50)));
        assert_eq!(
            (index.next_due(), index.total()),
            (Some(UnixMillis(50)), (4, Some(UnixMillis(2))))
        );
        assert_eq!(index.take_due(UnixMillis(49), 9), []);
        assert_eq!(
            index.take_due(UnixMillis(100), 9),
            [(b.clone(), g.clone()), (a.clone(), g.clone())]
        );
        assert_eq!(index.next_due(), None);
        index.put_due(&b, UnixMillis(200));
        assert_eq!(index.next_due(), Some(UnixMillis(200)));
        index.note(&a, &g, summary(4, 0, None));
        index.note(&b, &g, summary(5, 0, None));
        assert_eq!(
            (index.next_due(), index.depth(&a, &g), index.identities()),
            (None, 0, vec![])
        );
        let again = generation("6");
        index.note(&a, &again, summary(0, 1, Some(9)));
        assert_eq!((index.depth(&a, &again), index.depth(&a, &g)), (1, 0), "created again");
        index.forget(&a, &g);
        assert_eq!(index.generations(), [(a.clone(), again.clone())]);
        index.forget(&a, &again);
        assert_eq!((index.generations(), index.next_due()), (vec![], None));
    }

    #[test]
    fn one_task_delivers_a_queue() {
        let mut index = QueueIndex::default();
        let a = identity("a");
        assert!(index.wake(&a, true).is_none(), "there is nothing to deliver");
        index.note(&a, &generation("1"), summary(1, 1, None));
        assert!(index.wake(&a, false).is_none(), "nobody takes it");
        let task = index.wake(&a, true).unwrap();
        task.lock(3, 10);
        task.lock(4, 10);
        task.unlock([3]);
        assert_eq!(index.locked(&a), BTreeSet::from([4]));
        let seen = task.changes();
        assert!(!index.begin(Some(Term(2))) && index.begin(Some(Term(2))));
        assert!(index.wake(&a, true).is_none(), "it still runs");
        assert!(!index.finish(&a, seen), "it was woken since");
        assert!(index.finish(&a, task.changes()));
        assert!(index.locked(&a).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_a_message_until_its_time_is_over() {
        let (mut index, a) = (QueueIndex::default(), identity("a"));
        let until = Instant::now() + FEEDBACK_LOCK;
        index.lock(&a, 3, [7; 16], until);
        assert!(index.is_with_request(&a, 3) && !index.is_with_request(&a, 4));
        assert_eq!(index.locked(&a), BTreeSet::from([3]));
        assert_eq!(
            (index.by_token(&a, &[7; 16]), index.by_token(&a, &[8; 16])),
            (Some(3), None)
        );
        tokio::time::advance(FEEDBACK_LOCK).await;
        assert_eq!(
            (index.by_token(&a, &[7; 16]), index.locked(&a)),
            (None, BTreeSet::new())
        );
        index.unlock(&a, &[7; 16]);
        assert!(index.locks.is_empty());
    }
}
