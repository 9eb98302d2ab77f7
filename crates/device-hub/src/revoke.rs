//! Closing the sessions of identities and policies that are no longer what they were (Spec auth-and-limits §6.1 step 9).

use std::sync::Arc;

use holdfast_model::{IdentityId, PartitionId};
use holdfast_registry::RegistryEvent;
use holdfast_tasks::{Phase, Stop};

use crate::DeviceHub;
use crate::authenticate::still_valid;
use crate::session::CloseReason;
use crate::sessions::Entry;

/// Follows the registry until the node closes; to be spawned once per node.
pub async fn watch_registry(hub: Arc<DeviceHub>, stop: Stop) {
    let mut changes = hub.parts.registry.changes();
    loop {
        let event = tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            event = changes.next() => event,
        };
        match event {
            Some(RegistryEvent::Identity { change, .. }) => {
                let partition = hub.partition_of(&change.id);
                for (identity, entry) in hub.sessions.of_device(partition, &change.id) {
                    check(&hub, partition, &identity, &entry);
                }
            }
            // Policies may have changed, or changes were missed: look at everyone.
            Some(RegistryEvent::Settings | RegistryEvent::LookAgain) => {
                for partition in hub.parts.partitions.count().iter() {
                    for (identity, entry) in hub.sessions.of_partition(partition) {
                        check(&hub, partition, &identity, &entry);
                    }
                    tokio::task::yield_now().await;
                }
            }
            // Sessions know nothing of members and placements.
            Some(RegistryEvent::Cluster) => {}
            None => return,
        }
    }
}

/// Closes the session unless its identity and key are as they were.
fn check(hub: &DeviceHub, partition: PartitionId, identity: &IdentityId, entry: &Entry) {
    if !may_go_on(hub, identity, entry) {
        hub.close_session(entry, partition, CloseReason::Revoked, None);
    }
}

fn may_go_on(hub: &DeviceHub, identity: &IdentityId, entry: &Entry) -> bool {
    let registered = match hub.parts.registry.identity(identity) {
        Ok(Some(registered)) => registered,
        Ok(None) => return false,
        // Not readable now is not revoked; the next event or the expiry of the token decides.
        Err(error) => {
            tracing::warn!(%identity, %error, "could not look whether a session may go on");
            return true;
        }
    };
    if registered.generation != entry.generation || !registered.is_enabled() {
        return false;
    }
    match &entry.policy {
        Some(name) => hub
            .parts
            .registry
            .policy(name)
            .is_some_and(|policy| policy.keys.holds(entry.key)),
        None => still_valid(&registered, entry.key),
    }
}
