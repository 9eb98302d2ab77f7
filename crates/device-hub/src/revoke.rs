//! Closing the sessions of identities and policies that are no longer what they were (Spec auth-and-limits §6.1 step 9).
//!
//! Every gateway closes its own, by its own replica. A gateway whose replica is behind may not know: what is still there
//! a second later is closed by the owner of the partition, and a gateway that does not do it loses its link (foundations
//! 17: owners refuse traffic of revoked identities).

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{IdentityId, PartitionId};
use holdfast_registry::{ChangeKind, RegistryEvent};
use holdfast_tasks::{Phase, Stop};
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

/// What the owner looks at later: an identity, or everything.
struct Later {
    at: Instant,
    identity: Option<IdentityId>,
}

/// Follows the registry until the node closes; to be spawned once per node.
pub async fn watch_registry(hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.parts.registry.changes();
    let mut later: std::collections::VecDeque<Later> = std::collections::VecDeque::new();
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
                if let Some(first) = later.pop_front() {
                    look_elsewhere(&hub, first.identity.as_ref());
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
                    for live in hub.local.of_partition(partition) {
                        check(&hub, partition, &live);
                    }
                    tokio::task::yield_now().await;
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

/// Closes sessions of partitions owned here that other gateways should have closed.
fn look_elsewhere(hub: &Arc<DeviceHub>, identity: Option<&IdentityId>) {
    let partitions: Vec<PartitionId> = match identity {
        Some(identity) => vec![hub.partition_of(identity)],
        None => hub.parts.partitions.count().iter().collect(),
    };
    for partition in partitions {
        for (term, row) in hub.owners.elsewhere(partition, identity) {
            if !hub.may_go_on(&row.facts) {
                close_there(hub, partition, term, row);
            }
        }
    }
}

fn close_there(hub: &Arc<DeviceHub>, partition: PartitionId, term: u64, row: Row) {
    let hub = Arc::clone(hub);
    holdfast_tasks::spawn("session-revoke", async move {
        let session = Displaced {
            facts: row.facts,
            address: row.address,
        };
        if hub.close_there(partition, &session, CloseReason::Revoked).await == Closed::Silent {
            hub.owners.break_link(partition, term, session.address.gateway);
        }
    });
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
