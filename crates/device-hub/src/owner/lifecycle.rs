//! Life-cycle events: the creation and the deletion of identities, in the stream of their partition (Spec
//! query-and-routing §14).
//!
//! Why a marker: the registry and a partition cannot change in one step. The owner follows its registry replica, and the
//! entry that carries the event of a creation also stores that it does. The reconciler finds what an owner has missed.
//! Invariants: at most one event per creation, and one per deletion of an identity whose creation was one, though owners
//! change and nodes are killed; the deletion of a generation follows its creation.
//! Missing: the creation of a module whose owner is lost in that moment, since a pass visits devices alone; the creation of
//! identities that are older than the first pass over the partition, and their deletion if no owner follows the registry
//! in that moment.
//! Not here: the events' properties ([`super::hub_event`]), state of dead generations in general ([`super::reconcile`]).

use std::sync::Arc;

use holdfast_model::{DeviceId, GenerationId, IdentityId, MessageSource, PartitionId};
use holdfast_partition::Partition;
use holdfast_partition::record::DeviceStateKind;
use holdfast_partition::state::Liveness;
use holdfast_proto::device::v1::StoredLifecycle;
use holdfast_registry::{ChangeKind, RegistryEvent, TwinSeed};
use holdfast_tasks::{Phase, Stop};
use prost::Message as _;

use super::hub_event::HubEvent;
use super::state_changes::{StateChanges, StateKey};
use super::state_writer::{ChangeError, PendingChange};
use crate::DeviceHub;
use crate::rpc::codec;
use crate::twins::decide;

/// The version of the values.
const VERSION: u32 = 1;

/// Identities of one page of a pass.
const PAGE: usize = 500;

/// The change of an identity that is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LifecycleChange {
    Created,
    Deleted,
}

/// Follows the registry until the node closes, if life-cycle events are wanted.
pub(crate) async fn follow_identities(hub: Arc<DeviceHub>, stop: Stop) {
    if !hub.parts.config.lifecycle_events {
        return;
    }
    let mut changes = hub.parts.registry.changes();
    loop {
        let event = tokio::select! {
            biased;
            () = stop.reached(Phase::Closing) => return,
            event = changes.next() => event,
        };
        let change = match event {
            Some(RegistryEvent::Identity { change, .. }) => change,
            Some(RegistryEvent::Resync) => {
                hub.request_reconcile();
                continue;
            }
            Some(_) => continue,
            None => return,
        };
        let kind = match change.kind {
            ChangeKind::Created => LifecycleChange::Created,
            ChangeKind::Deleted => LifecycleChange::Deleted,
            ChangeKind::Updated | ChangeKind::CredentialsChanged => continue,
        };
        let partition = hub.partition_of(&change.id);
        if hub.ownership.term(partition).is_none() {
            continue;
        }
        match hub.record_lifecycle(partition, &change.id, &change.generation, kind) {
            Ok(pending) => {
                let hub = Arc::clone(&hub);
                holdfast_tasks::spawn("lifecycle-event", async move {
                    if !matches!(pending.await, Ok(Ok(()))) {
                        hub.request_reconcile();
                    }
                });
            }
            Err(_) => hub.request_reconcile(),
        }
    }
}

impl DeviceHub {
    /// Has the owner write the event, unless it is in the stream.
    fn record_lifecycle(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        change: LifecycleChange,
    ) -> Result<PendingChange<()>, ChangeError> {
        let marker = StateKey::new(DeviceStateKind::LIFECYCLE, identity, generation);
        let baseline = baseline_key().ok_or(ChangeError::NotOwner)?;
        let twin = StateKey::new(DeviceStateKind::TWIN, identity, generation);
        let keys = vec![marker.clone(), baseline.clone(), twin.clone()];
        let due = DueEvent {
            marker,
            baseline,
            twin,
            // Of a deleted identity it is gone; what was stored since is in the twin.
            seed: self.parts.registry.twin_seed(identity).ok().flatten(),
            identity: identity.clone(),
            generation: generation.clone(),
            change,
        };
        self.submit_change(partition, keys, move |changes| due.decide(changes))
    }

    /// Writes the events that earlier owners have missed. `false`: the pass did not come to its end.
    pub(super) async fn reconcile_lifecycle(
        self: &Arc<Self>,
        partition: PartitionId,
        replica: &Partition,
        newest: u64,
    ) -> bool {
        if !self.parts.config.lifecycle_events {
            return true;
        }
        let Some(baseline) = self.lifecycle_baseline(partition, newest).await else {
            return false;
        };
        self.reconcile_deletions(partition, replica, newest).await
            && self.reconcile_creations(partition, baseline).await
    }

    /// The newest generation at the first pass over the partition: creations up to it have no marker.
    async fn lifecycle_baseline(self: &Arc<Self>, partition: PartitionId, newest: u64) -> Option<u64> {
        let key = baseline_key()?;
        let keys = vec![key.clone()];
        let baseline = self.change_state(partition, keys, move |changes| {
            stored_baseline(changes, &key).unwrap_or_else(|| {
                changes.set(&key, Some(encode(newest)));
                newest
            })
        });
        baseline.await.ok()
    }

    async fn reconcile_deletions(self: &Arc<Self>, partition: PartitionId, replica: &Partition, newest: u64) -> bool {
        let mut page = None;
        loop {
            let Ok(next) = replica.device_states(DeviceStateKind::LIFECYCLE, page.as_ref()).await else {
                return false;
            };
            for entry in &next.entries {
                let Some(key) = entry.key().filter(|key| key.generation != BASELINE_GENERATION) else {
                    continue;
                };
                let Ok(identity) = codec::decode_identity(key.device, key.module.unwrap_or_default()) else {
                    continue;
                };
                if self.liveness(&key, newest) == Liveness::Live {
                    continue;
                }
                let generation = GenerationId(Arc::from(key.generation));
                if !self
                    .write_lifecycle(partition, &identity, &generation, LifecycleChange::Deleted)
                    .await
                {
                    return false;
                }
            }
            if next.is_last() {
                return true;
            }
            page = Some(next);
        }
    }

    async fn reconcile_creations(self: &Arc<Self>, partition: PartitionId, baseline: u64) -> bool {
        let mut after = None;
        loop {
            let Ok(page) = self.parts.registry.device_page(after.as_ref(), PAGE).await else {
                return false;
            };
            for identity in &page.devices {
                let is_new = identity
                    .generation
                    .0
                    .parse::<u64>()
                    .is_ok_and(|number| number > baseline);
                if is_new
                    && self.partition_of(&identity.id) == partition
                    && !self
                        .write_lifecycle(partition, &identity.id, &identity.generation, LifecycleChange::Created)
                        .await
                {
                    return false;
                }
            }
            match page.devices.last() {
                Some(last) if page.has_more => after = Some(last.id.device.clone()),
                _ => return true,
            }
        }
    }

    async fn write_lifecycle(
        self: &Arc<Self>,
        partition: PartitionId,
        identity: &IdentityId,
        generation: &GenerationId,
        change: LifecycleChange,
    ) -> bool {
        match self.record_lifecycle(partition, identity, generation, change) {
            Ok(pending) => matches!(pending.await, Ok(Ok(()))),
            Err(_) => false,
        }
    }
}

/// No identity has the generation 0, so that this value is none of an identity's.
const BASELINE_DEVICE: &str = "$hub";
const BASELINE_GENERATION: &str = "0";

fn baseline_key() -> Option<StateKey> {
    let identity = IdentityId::device(DeviceId::parse(BASELINE_DEVICE).ok()?);
    let generation = GenerationId(Arc::from(BASELINE_GENERATION));
    Some(StateKey::new(DeviceStateKind::LIFECYCLE, &identity, &generation))
}

fn stored_baseline(changes: &StateChanges<'_>, key: &StateKey) -> Option<u64> {
    let stored = StoredLifecycle::decode(&**changes.get(key)?).ok()?;
    Some(stored.baseline)
}

fn encode(baseline: u64) -> Vec<u8> {
    let stored = StoredLifecycle {
        version: VERSION,
        baseline,
    };
    stored.encode_to_vec()
}

/// An event that may be due.
struct DueEvent {
    marker: StateKey,
    baseline: StateKey,
    twin: StateKey,
    seed: Option<TwinSeed>,
    identity: IdentityId,
    generation: GenerationId,
    change: LifecycleChange,
}

impl DueEvent {
    fn decide(self, changes: &mut StateChanges<'_>) {
        let is_marked = changes.get(&self.marker).is_some();
        let generation = self.generation.0.parse().unwrap_or(u64::MAX);
        let is_older = || stored_baseline(changes, &self.baseline).is_some_and(|baseline| generation <= baseline);
        let operation = match self.change {
            LifecycleChange::Created if is_marked => return,
            LifecycleChange::Created => {
                changes.set(&self.marker, Some(encode(0)));
                "createDeviceIdentity"
            }
            LifecycleChange::Deleted if is_marked => {
                changes.set(&self.marker, None);
                "deleteDeviceIdentity"
            }
            LifecycleChange::Deleted if is_older() => "deleteDeviceIdentity",
            LifecycleChange::Deleted => return,
        };
        let stored = changes.get(&self.twin).map(|value| &**value);
        let twin = decide::current(stored, &self.identity, &self.generation, self.seed.as_ref());
        let body = twin.map_or_else(
            |error| {
                tracing::error!(identity = %self.identity, %error, "a twin cannot be read; the life-cycle event has none");
                b"{}".to_vec()
            },
            |twin| decide::whole(&twin, &self.identity).to_string().into_bytes(),
        );
        let time = changes.now();
        changes.event(HubEvent {
            source: MessageSource::DeviceLifecycle,
            identity: self.identity,
            operation,
            time,
            body,
        });
    }
}
