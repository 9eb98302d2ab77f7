//! The leases of the readers of a partition, kept by its owner for all nodes.
//!
//! The epoch rule is `holdfast_partition::epoch`; the registry knows the node of each lease and which nodes to notify.
//! Invariants: a registry belongs to one term and starts empty: the readers' nodes register their leases again when the
//! owner changes. A lease of another node lasts while that node renews it. In memory only, bounded by [`MAX_LEASES`].

use std::collections::HashMap;

use holdfast_model::{NodeId, Term};
use holdfast_partition::epoch::{Granted, Receiver, ReceiverId, Refusal, Since, Table};
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use crate::route::protocol::reader_lease::LeaseRequest;

/// Limit of the leases of one partition, in all groups.
pub(super) const MAX_LEASES: usize = 4096;

/// A preempted lease, whose node must be notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Preemption {
    pub(super) node: NodeId,
    pub(super) key: u64,
    pub(super) by: Receiver,
}

/// The term of the request is over: the caller looks up the owner again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::route) struct TermOver;

/// See the module.
pub(in crate::route) struct ReaderRegistry {
    here: NodeId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    term: Term,
    table: Table,
    leases: HashMap<ReceiverId, Lease>,
    by_key: HashMap<(NodeId, u64), ReceiverId>,
}

struct Lease {
    node: NodeId,
    key: u64,
    since: Since,
    renewed: Instant,
}

impl ReaderRegistry {
    /// The registry of the node `here`.
    pub(in crate::route) fn of(here: NodeId) -> Self {
        Self {
            here,
            state: Mutex::default(),
        }
    }

    /// Registers a lease, or refuses it. Adds the leases that it preempts to `preemptions`. Idempotent.
    pub(super) fn register(
        &self,
        term: Term,
        node: NodeId,
        request: &LeaseRequest,
        preemptions: &mut Vec<Preemption>,
    ) -> Result<Result<Since, Refusal>, TermOver> {
        let mut state = self.state.lock();
        state.begin(term, self.here)?;
        let now = Instant::now();
        if let Some(id) = state.by_key.get(&(node, request.key)).copied()
            && let Some(lease) = state.leases.get_mut(&id)
        {
            lease.renewed = now;
            return Ok(Ok(lease.since));
        }
        if state.leases.len() >= MAX_LEASES {
            return Ok(Err(Refusal::TooMany));
        }
        let receiver = request.receiver.clone();
        let granted = match request.since {
            None => state.table.register(&request.group, receiver),
            Some(since) => state.table.returning(&request.group, receiver, since),
        };
        let Granted { id, since, stolen } = match granted {
            Ok(granted) => granted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for (old, stolen) in stolen {
            if let Some(lease) = state.leases.remove(&old) {
                state.by_key.remove(&(lease.node, lease.key));
                preemptions.push(Preemption {
                    node: lease.node,
                    key: lease.key,
                    by: stolen.by,
                });
            }
        }
        state.by_key.insert((node, request.key), id);
        let lease = Lease {
            node,
            key: request.key,
            since,
            renewed: now,
        };
        state.leases.insert(id, lease);
        Ok(Ok(since))
    }

    /// Renews leases; returns the keys that are not registered.
    pub(super) fn renew(&self, term: Term, node: NodeId, keys: &[u64]) -> Result<Vec<u64>, TermOver> {
        let mut state = self.state.lock();
        state.begin(term, self.here)?;
        let now = Instant::now();
        let mut unknown = Vec::new();
        for key in keys {
            let id = state.by_key.get(&(node, *key)).copied();
            match id.and_then(|id| state.leases.get_mut(&id)) {
                Some(lease) => lease.renewed = now,
                None => unknown.push(*key),
            }
        }
        Ok(unknown)
    }

    /// Removes a lease that its reader has released.
    pub(in crate::route) fn release(&self, node: NodeId, key: u64) {
        let mut state = self.state.lock();
        if let Some(id) = state.by_key.remove(&(node, key)) {
            state.leases.remove(&id);
            state.table.unregister(id);
        }
    }

    /// Removes leases of other nodes that have not been renewed since `before`; returns their number.
    pub(super) fn expire(&self, before: Instant) -> usize {
        let mut state = self.state.lock();
        let is_expired = |lease: &Lease| lease.node != self.here && lease.renewed < before;
        let ids: Vec<_> = state
            .leases
            .iter()
            .filter(|(_, lease)| is_expired(lease))
            .map(|(id, _)| *id)
            .collect();
        for id in &ids {
            if let Some(lease) = state.leases.remove(id) {
                state.by_key.remove(&(lease.node, lease.key));
            }
            state.table.unregister(*id);
        }
        ids.len()
    }

    /// Removes all leases, since this node is not the owner any more. The counter of leases continues if it becomes the owner
    /// again in the same term, so that later leases stay later than the removed ones.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.table.clear();
        state.leases.clear();
        state.by_key.clear();
    }
}

impl State {
    fn new(term: Term, here: NodeId) -> Self {
        Self {
            term,
            table: Table::of(term, here),
            ..Self::default()
        }
    }

    /// Starts a new term, or fails if the term is over.
    fn begin(&mut self, term: Term, here: NodeId) -> Result<(), TermOver> {
        if term > self.term {
            *self = Self::new(term, here);
        }
        (term == self.term).then_some(()).ok_or(TermOver)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(key: u64, epoch: impl Into<Option<i64>>, since: Option<Since>) -> LeaseRequest {
        LeaseRequest {
            key,
            group: "g".to_owned(),
            receiver: Receiver {
                name: format!("r{key}"),
                epoch: epoch.into(),
            },
            since,
        }
    }

    fn register(
        registry: &ReaderRegistry,
        term: Term,
        node: NodeId,
        request: &LeaseRequest,
    ) -> (Result<Since, Refusal>, Vec<(NodeId, u64)>) {
        let mut preemptions = Vec::new();
        let registered = registry.register(term, node, request, &mut preemptions).unwrap();
        (
            registered,
            preemptions.iter().map(|lease| (lease.node, lease.key)).collect(),
        )
    }

    #[tokio::test]
    async fn the_later_of_two_equal_epochs_holds_the_lease_in_whatever_order_they_return() {
        let old = ReaderRegistry::of(NodeId(1));
        let first = register(&old, Term(3), NodeId(1), &request(1, 0, None)).0.unwrap();
        let (second, preempted) = register(&old, Term(3), NodeId(2), &request(7, 0, None));
        let second = second.unwrap();
        assert_eq!(preempted, [(NodeId(1), 1)]);
        for later_first in [true, false] {
            let new = ReaderRegistry::of(NodeId(1));
            let (early, late) = (request(1, 0, Some(first)), request(7, 0, Some(second)));
            if later_first {
                assert_eq!(register(&new, Term(4), NodeId(2), &late), (Ok(second), Vec::new()));
                assert!(register(&new, Term(4), NodeId(1), &early).0.is_err());
            } else {
                assert_eq!(register(&new, Term(4), NodeId(1), &early), (Ok(first), Vec::new()));
                assert_eq!(
                    register(&new, Term(4), NodeId(2), &late),
                    (Ok(second), vec![(NodeId(1), 1)])
                );
            }
        }
    }

    #[tokio::test]
    async fn a_reader_that_came_after_the_owner_change_is_newer_than_a_returning_one() {
        let new = ReaderRegistry::of(NodeId(1));
        let fresh = register(&new, Term(4), NodeId(3), &request(9, 0, None)).0.unwrap();
        let since = Since {
            term: Term(3),
            node: NodeId(9),
            count: 999,
        };
        assert!(fresh > since);
        assert!(
            register(&new, Term(4), NodeId(1), &request(1, 0, Some(since)))
                .0
                .is_err()
        );
        assert_eq!(
            register(&new, Term(4), NodeId(1), &request(2, 5, Some(since))),
            (Ok(since), vec![(NodeId(3), 9)]),
            "a higher epoch still takes precedence"
        );
    }

    #[tokio::test]
    async fn an_owner_that_returns_in_its_term_continues_to_count() {
        let registry = ReaderRegistry::of(NodeId(1));
        let before = register(&registry, Term(3), NodeId(2), &request(1, 0, None)).0.unwrap();
        registry.clear();
        let after = register(&registry, Term(3), NodeId(2), &request(2, 0, None)).0.unwrap();
        assert!(after > before);
        assert!(
            register(&registry, Term(3), NodeId(2), &request(1, 0, Some(before)))
                .0
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leases_of_a_silent_node_expire_and_those_of_this_node_do_not() {
        let registry = ReaderRegistry::of(NodeId(1));
        for (node, key) in [(1, 1), (2, 1), (3, 1)] {
            register(&registry, Term(1), NodeId(node), &request(key, None, None))
                .0
                .unwrap();
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(registry.renew(Term(1), NodeId(3), &[1, 2]), Ok(vec![2]));
        assert_eq!(registry.expire(Instant::now() - Duration::from_secs(1)), 1);
        assert_eq!(
            registry.renew(Term(1), NodeId(2), &[1]),
            Ok(vec![1]),
            "it must register again"
        );
        assert_eq!(registry.renew(Term(1), NodeId(1), &[1]), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn registering_is_idempotent_and_a_past_term_decides_nothing() {
        let registry = ReaderRegistry::of(NodeId(1));
        let first = register(&registry, Term(2), NodeId(1), &request(1, 3, None));
        assert_eq!(register(&registry, Term(2), NodeId(1), &request(1, 3, None)), first);
        assert!(
            registry
                .register(Term(1), NodeId(1), &request(2, 9, None), &mut Vec::new())
                .is_err()
        );
        assert_eq!(
            registry.renew(Term(5), NodeId(1), &[1]),
            Ok(vec![1]),
            "a new term starts empty"
        );
        registry.release(NodeId(1), 1);
        assert_eq!(register(&registry, Term(5), NodeId(1), &request(4, None, None)).1, []);
    }
}
