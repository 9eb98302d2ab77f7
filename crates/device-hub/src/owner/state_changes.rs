//! What one round of an owner has decided: values of device state and events, until an entry carries them.
//!
//! Why an overlay: requests of one round are decided one after the other, and each must see what the earlier ones have
//! decided, though nothing of it is applied yet.
//! Invariants: a request sees only the keys that it has named; its changes and events are in one entry, in the order of the
//! requests.
//! Pure. Not here: reading and proposing ([`super::state_writer`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_model::{GenerationId, IdentityId, MessageSource, ModuleId, UnixMillis};
use holdfast_partition::record::{DeviceStateChange, DeviceStateKey, DeviceStateKind, Effect};

use super::hub_event::HubEvent;

/// About the bytes of a key and of the fields around a value.
const OVERHEAD_BYTES: usize = 200;

/// The name of a value of device state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StateKey {
    kind: DeviceStateKind,
    identity: IdentityId,
    generation: Arc<str>,
    item: Vec<u8>,
}

impl StateKey {
    /// The only value of its kind.
    pub(crate) fn new(kind: DeviceStateKind, identity: &IdentityId, generation: &GenerationId) -> Self {
        Self::with_item(kind, identity, generation, Vec::new())
    }

    /// One of several values of its kind.
    pub(crate) fn with_item(
        kind: DeviceStateKind,
        identity: &IdentityId,
        generation: &GenerationId,
        item: Vec<u8>,
    ) -> Self {
        Self {
            kind,
            identity: identity.clone(),
            generation: Arc::clone(&generation.0),
            item,
        }
    }

    /// As the partition names it.
    pub(crate) fn as_key(&self) -> DeviceStateKey<'_> {
        DeviceStateKey {
            kind: self.kind,
            device: self.identity.device.as_str(),
            module: self.identity.module.as_ref().map(ModuleId::as_str),
            generation: &self.generation,
            item: &self.item,
        }
    }
}

/// Values as of the last entry, and what the round has decided so far.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// As read, and as changed.
    values: BTreeMap<StateKey, Option<Bytes>>,
    changed: BTreeMap<StateKey, Option<Bytes>>,
    events: Vec<HubEvent>,
    bytes: usize,
    wanted: WantedEvents,
}

/// The sources of events that readers are to see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WantedEvents {
    pub(crate) twin_changes: bool,
    pub(crate) lifecycle: bool,
    pub(crate) connections: bool,
}

impl WantedEvents {
    fn contains(self, source: MessageSource) -> bool {
        match source {
            MessageSource::TwinChange => self.twin_changes,
            MessageSource::DeviceLifecycle => self.lifecycle,
            MessageSource::ConnectionState => self.connections,
            MessageSource::Telemetry => false,
        }
    }
}

impl Round {
    pub(super) fn new(wanted: WantedEvents) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// A value that has been read; ignored when the round knows the key already.
    pub(super) fn read(&mut self, key: StateKey, value: Option<Bytes>) {
        self.values.entry(key).or_insert(value);
    }

    /// The view of the next request.
    pub(super) fn changes<'a>(&'a mut self, keys: &'a [StateKey], now: UnixMillis) -> StateChanges<'a> {
        StateChanges { round: self, keys, now }
    }

    /// About the bytes of the entry.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.events.is_empty()
    }

    pub(super) fn effects(&self) -> Vec<Effect<'_>> {
        let changed = self.changed.iter();
        let effects = changed.map(|(key, value)| {
            Effect::DeviceState(DeviceStateChange {
                key: key.as_key(),
                value: value.as_deref(),
            })
        });
        effects.collect()
    }

    pub(super) fn events(&self) -> &[HubEvent] {
        &self.events
    }

    /// What the entry changes.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&StateKey, Option<&Bytes>)> {
        self.changed.iter().map(|(key, value)| (key, value.as_ref()))
    }
}

/// One request's view of its values; see the module.
#[derive(Debug)]
pub(crate) struct StateChanges<'a> {
    round: &'a mut Round,
    keys: &'a [StateKey],
    now: UnixMillis,
}

impl StateChanges<'_> {
    /// The time of the round.
    pub(crate) fn now(&self) -> UnixMillis {
        self.now
    }

    /// The value of one of the request's keys; `None` when there is none.
    pub(crate) fn get(&self, key: &StateKey) -> Option<&Bytes> {
        debug_assert!(
            self.keys.contains(key),
            "a request reads only the keys that it has named"
        );
        self.round.values.get(key)?.as_ref()
    }

    /// Sets or removes a value.
    pub(crate) fn set(&mut self, key: &StateKey, value: Option<Vec<u8>>) {
        let value = value.map(Bytes::from);
        self.round.bytes += value.as_ref().map_or(0, Bytes::len) + OVERHEAD_BYTES;
        self.round.values.insert(key.clone(), value.clone());
        self.round.changed.insert(key.clone(), value);
    }

    /// Whether readers are to see events of this source: the body of others need not be made.
    pub(crate) fn wants(&self, source: MessageSource) -> bool {
        self.round.wanted.contains(source)
    }

    /// Appends an event, if readers are to see its source.
    pub(crate) fn event(&mut self, event: HubEvent) {
        if !self.wants(event.source) {
            return;
        }
        self.round.bytes += event.body.len() + 2 * OVERHEAD_BYTES;
        self.round.events.push(event);
    }
}
