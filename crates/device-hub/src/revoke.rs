//! Closing the sessions of identities and policies that are no longer what they were (Spec auth-and-limits §6.1 step 9).
//!
//! Every gateway closes its own, by its own replica. A gateway whose replica is behind may not know: what is still there
//! a second later is closed by the owner of the partition, and a gateway that does not do it loses its link (foundations
//! 17: owners refuse traffic of revoked identities).
//! Looking at everyone may read every identity from the disk: others get their turn in between, since links are kept on
//! the same thread, and there is one such look for the sessions of other gateways at a time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use holdfast_model::{IdentityId, PartitionId};
use holdfast_registry::{ChangeKind, RegistryEvent};
use holdfast_tasks::{Phase, Stop};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::DeviceHub;
use crate::authenticate::still_valid;
use crate::local::Live;
use crate::mailbox::Message;
use crate::owner::{Displaced, Row};
use crate::session::CloseReason;
use crate::sessions::Facts;
use crate::takeover::Closed;

/// How long a gateway may take to close what its own replica tells it.
const GATEWAYS_FIRST: Duration = Duration::from_secs(1);

/// Changes whose sessions elsewhere are looked at later; beyond it everything is looked at.
const MAX_LATER: usize = 10_000;

/// Sessions that are looked at before others get their turn.
const LOOKS_PER_TURN: usize = 64;

/// Sessions elsewhere that one occasion closes at once.
const MAX_CLOSING: usize = 256;

/// What the owner looks at later: an identity, or everything.
struct Later {
    at: Instant,
    identity: Option<IdentityId>,
}

/// Follows the registry until the node closes; to be spawned once per node.
pub async fn watch_registry(hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.parts.registry.changes();
    let mut later: VecDeque<Later> = VecDeque::new();
    let looking = Arc::new(Semaphore::new(1));
    loop {
        let due = later.front().map(|first| first.at);
        let is_due = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            event = changes.next() => event,
            () = is_due => {
                match later.pop_front().map(|first| first.identity) {
                    Some(Some(identity)) => look_elsewhere(&hub, Some(identity), None),
                    Some(None) => match Arc::clone(&looking).try_acquire_owned() {
                        Ok(turn) => look_elsewhere(&hub, None, Some(turn)),
                        // The one under way may have passed by what has changed since.
                        Err(_) => later.push_back(Later {
                            at: Instant::now() + GATEWAYS_FIRST,
                            identity: None,
                        }),
                    },
                    None => {}
                }
                continue;
            }
        };
        let identity = match event {
            // Nobody is connected as what did not exist.
            Some(RegistryEvent::Identity { change, .. }) if change.kind == ChangeKind::Created => continue,
            Some(RegistryEvent::Identity { change, .. }) => {
                let partition = hub.partition_of(&change.id);
                for live in hub.local.of_device(partition, &change.id) {
                    check(&hub, partition, &live);
                }
                if hub.owners.elsewhere(partition, Some(&change.id)).is_empty() {
                    continue;
                }
                Some(change.id)
            }
            // Policies may have changed, or changes were missed: look at everyone.
            Some(RegistryEvent::Settings | RegistryEvent::LookAgain) => {
                for partition in hub.parts.partitions.count().iter() {
                    for (number, live) in (1..).zip(hub.local.of_partition(partition)) {
                        check(&hub, partition, &live);
                        give_way(number).await;
                    }
                }
                None
            }
            Some(_) => continue,
            None => return,
        };
        let at = Instant::now() + GATEWAYS_FIRST;
        if later.len() >= MAX_LATER {
            later.clear();
            later.push_back(Later { at, identity: None });
        } else if identity.is_some() || later.back().is_none_or(|last| last.identity.is_some()) {
            later.push_back(Later { at, identity });
        }
    }
}

/// Closes the session unless its identity and key are as they were.
fn check(hub: &DeviceHub, partition: PartitionId, live: &Live) {
    if !hub.may_go_on(&live.facts) {
        let reason = CloseReason::Revoked;
        hub.tell_core(live.core, Message::close(live, partition, reason, None), reason);
    }
}

async fn give_way(looked_at: usize) {
    if looked_at.is_multiple_of(LOOKS_PER_TURN) {
        tokio::task::yield_now().await;
    }
}

/// Closes sessions of partitions owned here that other gateways should have closed: of an identity, or all. `turn` is given
/// back when everyone has been looked at and closed.
fn look_elsewhere(hub: &Arc<DeviceHub>, identity: Option<IdentityId>, turn: Option<OwnedSemaphorePermit>) {
    let hub = Arc::clone(hub);
    holdfast_tasks::spawn("session-revoke", async move {
        let _turn = turn;
        let partitions: Vec<PartitionId> = match &identity {
            Some(identity) => vec![hub.partition_of(identity)],
            None => hub.parts.partitions.count().iter().collect(),
        };
        for partition in partitions {
            let mut revoked = Vec::new();
            for (number, (term, row)) in (1..).zip(hub.owners.elsewhere(partition, identity.as_ref())) {
                if !hub.may_go_on(&row.facts) {
                    revoked.push((term, row));
                }
                give_way(number).await;
            }
            close_all_there(&hub, partition, revoked).await;
        }
    });
}

/// Asks gateways to close sessions; one that does not answer loses its link, and is not asked for the others: it comes back
/// by handing in all, and learns then.
async fn close_all_there(hub: &Arc<DeviceHub>, partition: PartitionId, revoked: Vec<(u64, Row)>) {
    let silent = Mutex::new(BTreeSet::new());
    let closings = revoked.into_iter().map(|(term, row)| {
        let silent = &silent;
        async move {
            let gateway = row.address.gateway;
            if silent.lock().contains(&gateway) {
                return;
            }
            let session = Displaced {
                facts: row.facts,
                address: row.address,
            };
            if hub.close_there(partition, &session, CloseReason::Revoked).await == Closed::Silent {
                silent.lock().insert(gateway);
                hub.owners.break_link(partition, term, gateway);
            }
        }
    });
    let closings = stream::iter(closings).buffer_unordered(MAX_CLOSING);
    closings.for_each(|()| std::future::ready(())).await;
}

impl DeviceHub {
    /// Whether a session may go on, as this node's replica has it.
    pub(crate) fn may_go_on(&self, facts: &Facts) -> bool {
        let registry = &self.parts.registry;
        let registered = match registry.identity(&facts.identity) {
            Ok(Some(registered)) => registered,
            Ok(None) => return false,
            // Not readable now is not revoked; the next event or the expiry of the token decides.
            Err(error) => {
                tracing::warn!(identity = %facts.identity, %error, "could not look whether a session may go on");
                return true;
            }
        };
        if registered.generation != facts.generation || !registered.is_enabled() {
            return false;
        }
        match &facts.policy {
            Some(name) => registry.policy(name).is_some_and(|policy| policy.keys.holds(facts.key)),
            None => still_valid(&registered, facts.key),
        }
    }
}
